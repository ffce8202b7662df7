// CUDA's blocks on a CPU.  A block is a thread of the system, and its threads are contexts that take
// turns.  Shared memory is that of the block's thread; what is copied in bulk comes late, and its
// place is spoilt until then.
#include <sched.h>
#include <ucontext.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#define __device__
#define __global__
#define __forceinline__
#define __launch_bounds__(...)
#define __shared__ static thread_local
#define __align__(bytes) __attribute__((aligned(bytes)))
#define alignas(bytes) __attribute__((aligned(bytes)))
#define __restrict__
#define __builtin_assume(condition)
#define CUDART_INF_F INFINITY

// CUDA's.
#define int64_t long long
#define uint64_t unsigned long long
using uint = unsigned int;
struct Dim { int x; };
struct int2 { int x, y; };
struct uint2 { unsigned x, y; };
struct int4 { int x, y, z, w; };
struct uint4 { unsigned x, y, z, w; };
struct float4 { float x, y, z, w; };
static float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
static thread_local Dim threadIdx, blockIdx;
static Dim blockDim, gridDim;

namespace threads {

constexpr std::size_t kStack = 64 << 10, kSupply = 256 << 10;
constexpr int kNamed = 2;  // barriers of the block that have numbers, before those of warps

struct Barrier {
  int waiting = 0, turn = 0;
};

// In shared memory: what is still missing until its phase ends, and how many phases have ended.
struct Counted {
  int arrivals, missing, ended = 0;
  long bytes = 0;
};

struct Copy {
  unsigned to;
  const void* from;
  int bytes;
  unsigned barrier;
};

struct Block {
  ucontext_t scheduler;
  std::vector<ucontext_t> contexts;
  std::vector<int> done;
  std::vector<long> passed;  // barriers of the block, by each thread
  std::vector<unsigned long long> slots;
  std::vector<Barrier> barriers;
  std::map<unsigned, Counted> counted;
  std::vector<Copy> copies;
  std::minstd_rand random;
  std::function<void()> body;
};

constexpr std::chrono::seconds kLimit{60};
static long runs = 0;
static std::chrono::steady_clock::time_point until;  // then threads that still wait are left alone
static thread_local Block own;
static thread_local unsigned char shared[kSupply] __attribute__((aligned(1024)));

// To ask for what belongs to the system's thread takes time: the following ask once.
static void others() {
  Block& block = own;
  int& now = threadIdx.x;
  int number = now;
  swapcontext(&block.contexts[number], &block.scheduler);
  now = number;
}

static void meet(int which, int count) {
  Block& block = own;
  Barrier& barrier = block.barriers[which];
  int& now = threadIdx.x;
  int turn = barrier.turn, number = now;
  block.passed[number] += which < kNamed;
  if (++barrier.waiting == count) {
    barrier = {0, turn + 1};
    return;
  }
  while (barrier.turn == turn) {
    swapcontext(&block.contexts[number], &block.scheduler);
    now = number;
  }
}

static void count(unsigned barrier, int arrivals, long bytes) {
  Counted& at = own.counted.at(barrier);
  at.missing -= arrivals;
  at.bytes += bytes;
  if (at.missing == 0 && at.bytes == 0) at.missing = at.arrivals, ++at.ended;
}

// One of the copies that are under way, whichever, is there.
static void copy_one(Block& block) {
  if (block.random() % 8) return;
  std::size_t which = block.random() % block.copies.size();
  Copy copy = block.copies[which];
  block.copies.erase(block.copies.begin() + which);
  std::memcpy(shared + copy.to, copy.from, copy.bytes);
  count(copy.barrier, 0, -copy.bytes);
}

static void enter() {
  int number = threadIdx.x;
  own.body();
  own.done[number] = 1;
  swapcontext(&own.contexts[number], &own.scheduler);
}

static void run_block(int number, int count, const std::function<void()>& kernel) {
  Block& block = own;
  block = {};
  block.body = kernel;
  block.random.seed(number + 1);
  block.contexts.resize(count);
  block.slots.assign(count, 0);
  block.done.assign(count, 0);
  block.passed.assign(count, __atomic_add_fetch(&runs, 1, __ATOMIC_RELAXED) << 20);
  block.barriers.assign(kNamed + (count + 31) / 32, {});
  std::unique_ptr<char[]> stacks(new char[count * kStack]);
  blockIdx.x = number;
  for (int i = 0; i < count; ++i) {
    getcontext(&block.contexts[i]);
    block.contexts[i].uc_stack.ss_sp = stacks.get() + i * kStack;
    block.contexts[i].uc_stack.ss_size = kStack;
    block.contexts[i].uc_link = nullptr;
    makecontext(&block.contexts[i], enter, 0);
  }
  int& now = threadIdx.x;
  while (std::count(block.done.begin(), block.done.end(), 0) &&
         std::chrono::steady_clock::now() < until) {
    for (int i = 0; i < count; ++i)
      if (!block.done[i]) {
        now = i;
        swapcontext(&block.scheduler, &block.contexts[i]);
        if (!block.copies.empty()) copy_one(block);
      }
    sched_yield();  // what they wait for another block may make
  }
}

// together: all blocks at once, or else one behind the other.
static void run(int blocks, int count, bool together, const std::function<void()>& kernel) {
  blockDim.x = count, gridDim.x = blocks;
  until = std::chrono::steady_clock::now() + kLimit;
  std::vector<std::thread> running;
  for (int block = 0; block < blocks; ++block)
    if (together)
      running.emplace_back(run_block, block, count, kernel);
    else
      run_block(block, count, kernel);
  for (auto& each : running) each.join();
}

// What lane `from(lane)` of the warp gives.
template <typename T, typename From>
static T exchange(T value, From from) {
  static_assert(sizeof(T) <= 8);
  int number = threadIdx.x, warp = kNamed + number / 32, first = number / 32 * 32;
  auto& slots = own.slots;
  std::memcpy(&slots[number], &value, sizeof(T));
  meet(warp, 32);
  T found;
  std::memcpy(&found, &slots[first + from(number % 32)], sizeof(T));
  meet(warp, 32);
  return found;
}

// Combines the values of a warp.
template <typename T, typename Combine>
static T reduced(T value, Combine combine) {
  for (int distance = 16; distance > 0; distance /= 2)
    value = combine(value, exchange(value, [=](int lane) { return lane ^ distance; }));
  return value;
}

}  // namespace threads

static void __syncthreads() { threads::meet(0, blockDim.x); }
static void tvm_builtin_cuda_cta_sync() { __syncthreads(); }
template <typename T>
static T __shfl_xor_sync(uint, T value, int mask) {
  return threads::exchange(value, [=](int lane) { return lane ^ mask; });
}
static int __shfl_sync(uint, int value, int, int) { return value; }  // of the number of a warp
static unsigned __reduce_max_sync(uint, unsigned value) {
  return threads::reduced(value, [](unsigned x, unsigned y) { return std::max(x, y); });
}
static int __reduce_add_sync(uint, int value) {
  return threads::reduced(value, [](int x, int y) { return x + y; });
}
static bool __all_sync(uint, int value) {
  return threads::reduced(!!value, [](int x, int y) { return x & y; });
}
static bool __any_sync(uint, int value) {
  return threads::reduced(!!value, [](int x, int y) { return x | y; });
}

static float __fmaf_rn(float x, float y, float z) { return std::fma(x, y, z); }
static float __fmul_rn(float x, float y) { return x * y; }
static float __fadd_rn(float x, float y) { return x + y; }
static long long max(long long x, long long y) { return std::max(x, y); }
static long long min(long long x, long long y) { return std::min(x, y); }
static int max(int x, int y) { return std::max(x, y); }
static int min(int x, int y) { return std::min(x, y); }
static float max(float x, float y) { return std::fmax(x, y); }

template <typename To, typename From>
static To bits(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof(To));
  return to;
}
static float __int_as_float(int x) { return bits<float>(x); }
static float __uint_as_float(unsigned x) { return bits<float>(x); }
static int __float_as_int(float x) { return bits<int>(x); }
static unsigned __float_as_uint(float x) { return bits<unsigned>(x); }

static unsigned long long atomicAdd(unsigned long long* to, unsigned long long value) {
  return __atomic_fetch_add(to, value, __ATOMIC_SEQ_CST);
}
static std::size_t __cvta_generic_to_shared(const void* pointer) {
  return static_cast<const unsigned char*>(pointer) - threads::shared;
}
static unsigned __byte_perm(unsigned x, unsigned y, unsigned order) {
  unsigned long long all = static_cast<unsigned long long>(y) << 32 | x;
  unsigned made = 0;
  for (int i = 0; i < 4; ++i) made |= (all >> (order >> 4 * i & 7) * 8 & 0xff) << 8 * i;
  return made;
}

// The sum of the products of four bytes each, the first ones with or without a sign.
template <typename First>
static int dot(unsigned x, int y, int sum) {
  for (int i = 0; i < 4; ++i)
    sum += static_cast<int>(static_cast<First>(x >> 8 * i)) * static_cast<std::int8_t>(y >> 8 * i);
  return sum;
}
static int __dp4a(int x, int y, int sum) { return dot<std::int8_t>(x, y, sum); }
