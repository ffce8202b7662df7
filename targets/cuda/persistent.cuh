// A step of a model as one launch: all its blocks stay on the device, and take phase after phase.
#ifndef MMC_PERSISTENT_CUH
#define MMC_PERSISTENT_CUH

namespace mmc {

// What a block is told of a phase lies in `words` (mmc.targets.cuda.phases): the first of them say
// which weights it needs.  A warp of its own asks for them, and for the words, phases ahead.
constexpr int kSlots = 8, kWords = 48, kWarps = 8;
namespace word {
enum Word {
  kKind, kRing, kAfter, kParts, kTileBytes, kPerBlock, kTiles, kVectors, kVectorBytes,
  kWeights, kGains = kWeights + 4
};
}  // namespace word

struct Supply {
  unsigned long long full[kSlots];   // weights and words of a phase are there
  unsigned long long empty[kSlots];  // no warp needs them any more
  long long words[kSlots][kWords];
};

extern __shared__ __align__(128) unsigned char supply_memory[];

__device__ __forceinline__ Supply& supply() { return *reinterpret_cast<Supply*>(supply_memory); }

__device__ __forceinline__ unsigned char* ring() { return supply_memory + sizeof(Supply); }

#if __CUDA_ARCH__ >= 900
__device__ __forceinline__ bool is_complete(unsigned long long* barrier, int parity) {
  int done;
  asm volatile(
      "{\n.reg .pred done;\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%1], %2;\n"
      "selp.s32 %0, 1, 0, done;\n}" : "=r"(done) : "r"(shared_address(barrier)), "r"(parity)
      : "memory");
  return done;
}

__device__ __forceinline__ void arrive(unsigned long long* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier))
               : "memory");
}

__device__ __forceinline__ void arrive_expecting(unsigned long long* barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(
                   shared_address(barrier)), "r"(bytes) : "memory");
}

// Copies bytes that are used once: the cache keeps others before them.
__device__ __forceinline__ void copy_ahead(void* to, const void* from, int bytes,
                                           unsigned long long* barrier) {
  unsigned long long policy;
  asm("createpolicy.fractional.L2::evict_first.b64 %0;" : "=l"(policy));
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
      "[%0], [%1], %2, [%3], %4;" ::"r"(shared_address(to)), "l"(from), "r"(bytes),
      "r"(shared_address(barrier)), "l"(policy) : "memory");
}

__device__ __forceinline__ void prepare(unsigned long long* barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)),
               "r"(arrivals) : "memory");
}

__device__ __forceinline__ void prepared() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
#else
__device__ __forceinline__ bool is_complete(unsigned long long*, int) { __trap(); return true; }
__device__ __forceinline__ void arrive(unsigned long long*) { __trap(); }
__device__ __forceinline__ void arrive_expecting(unsigned long long*, int) { __trap(); }
__device__ __forceinline__ void copy_ahead(void*, const void*, int, unsigned long long*) {
  __trap();
}
__device__ __forceinline__ void prepare(unsigned long long*, int) { __trap(); }
__device__ __forceinline__ void prepared() { __trap(); }
#endif

// Floats that one block makes and all read: `kMissing` until they are there.
constexpr unsigned kMissing = 0xffffffffu;

__device__ __forceinline__ float relaxed_load(const float* from) {
  float value;
  asm volatile("ld.relaxed.gpu.global.f32 %0, [%1];" : "=f"(value) : "l"(from) : "memory");
  return value;
}

}  // namespace mmc

// Every block begins and ends with these.
__device__ __forceinline__ void mmc_begin_phases() {
  if (threadIdx.x == 0) {
    for (int i = 0; i < mmc::kSlots; ++i) {
      mmc::prepare(&mmc::supply().full[i], 1);
      mmc::prepare(&mmc::supply().empty[i], mmc::kWarps);
    }
    mmc::prepared();
  }
  __syncthreads();
}

// Which of two areas of floats this launch uses: `finished` counts the blocks that are through.
__device__ __forceinline__ int mmc_area(const unsigned long long* finished) {
  unsigned long long count = *static_cast<const volatile unsigned long long*>(finished);
  return static_cast<int>(count / gridDim.x & 1);
}

__device__ __forceinline__ void mmc_end_phases(unsigned long long* finished) {
  if (threadIdx.x == 0) atomicAdd(finished, 1ull);
}

// One thread asks for the weights of each phase as soon as there is room for them.
__device__ __forceinline__ void mmc_supply(const long long* table, long long phases) {
  if (threadIdx.x % 32 != 0) return;
  mmc::Supply& supply = mmc::supply();
  int over = 0;  // phases that are over
  for (int phase = 0; phase < phases; ++phase) {
    const long long* words = table + phase * mmc::kWords;
    for (; over <= words[mmc::word::kAfter]; ++over)
      while (!mmc::is_complete(&supply.empty[over % mmc::kSlots], over / mmc::kSlots & 1)) {
      }
    int tile_bytes = words[mmc::word::kTileBytes], per_block = words[mmc::word::kPerBlock];
    int first = blockIdx.x * per_block, tiles = words[mmc::word::kTiles], parts = words[mmc::word::kParts];
    int bytes = max(0, min(per_block, tiles - first)) * tile_bytes;
    int slot = phase % mmc::kSlots;
    unsigned long long* full = &supply.full[slot];
    unsigned char* to = mmc::ring() + words[mmc::word::kRing];
    int vectors = words[mmc::word::kVectors], vector_bytes = words[mmc::word::kVectorBytes];
    mmc::arrive_expecting(full, sizeof(supply.words[slot]) + parts * bytes + vectors * vector_bytes);
    mmc::copy_ahead(supply.words[slot], words, sizeof(supply.words[slot]), full);
    for (int part = 0; part < parts && bytes > 0; ++part) {
      const char* from = reinterpret_cast<const char*>(words[mmc::word::kWeights + part]);
      mmc::copy_ahead(to + part * per_block * tile_bytes,
                      from + static_cast<long long>(first) * tile_bytes, bytes, full);
    }
    to += parts * per_block * tile_bytes;
    for (int i = 0; i < vectors; ++i)
      mmc::copy_ahead(to + i * vector_bytes, reinterpret_cast<const void*>(words[mmc::word::kGains + i]),
                      vector_bytes, full);
  }
}

// The numbers of the thread and the block, which no code before the call can use.
__device__ __forceinline__ int mmc_thread() {
  int number;
  asm volatile("mov.u32 %0, %tid.x;" : "=r"(number));
  __builtin_assume(number >= 0 && number < mmc::kWarps * 32);
  return number;
}

__device__ __forceinline__ int mmc_block() {
  int number;
  asm volatile("mov.u32 %0, %ctaid.x;" : "=r"(number));
  __builtin_assume(number >= 0);
  return number;
}

// Waits for what a phase was supplied with, and returns its words.
__device__ __forceinline__ long long* mmc_begin_phase(long long phase) {
  int slot = static_cast<int>(phase) % mmc::kSlots;
  int parity = static_cast<int>(phase) / mmc::kSlots & 1;
  while (!__all_sync(mmc::kAllLanes, mmc::is_complete(&mmc::supply().full[slot], parity))) {
  }
  return mmc::supply().words[slot];
}

__device__ __forceinline__ void mmc_end_phase(long long phase) {
  __syncwarp();
  if (threadIdx.x % 32 == 0) mmc::arrive(&mmc::supply().empty[phase % mmc::kSlots]);
}

__device__ __forceinline__ unsigned* mmc_weights(long long offset) {
  return reinterpret_cast<unsigned*>(mmc::ring() + offset);
}

__device__ __forceinline__ float* mmc_gain(long long offset) {
  return reinterpret_cast<float*>(mmc::ring() + offset);
}

// A barrier of the warps that compute.
__device__ __forceinline__ void mmc_sync_warps() {
  asm volatile("bar.sync 1, %0;" ::"n"(mmc::kWarps * 32) : "memory");
}

// Reads the columns of a thread, whether they are there or not.
template <int kSteps>
__device__ __forceinline__ void mmc_look_row(float* to, const float* from, int columns) {
  constexpr int kStride = mmc::kWarps * 32;
#pragma unroll
  for (int i = 0; i < kSteps; ++i)
    if (i * kStride + static_cast<int>(threadIdx.x) < columns)
      to[i] = mmc::relaxed_load(from + i * kStride + threadIdx.x);
}

// Reads them again until all of a warp are there: its threads stay together.
template <int kSteps>
__device__ __forceinline__ void mmc_settle_row(float* to, const float* from, int columns) {
  constexpr int kStride = mmc::kWarps * 32;
  for (;;) {
    bool missing = false;
#pragma unroll
    for (int i = 0; i < kSteps; ++i)
      if (i * kStride + static_cast<int>(threadIdx.x) < columns)
        missing |= __float_as_uint(to[i]) == mmc::kMissing;
    if (!__any_sync(mmc::kAllLanes, missing)) return;
#pragma unroll
    for (int i = 0; i < kSteps; ++i)
      if (i * kStride + static_cast<int>(threadIdx.x) < columns &&
          __float_as_uint(to[i]) == mmc::kMissing)
        to[i] = mmc::relaxed_load(from + i * kStride + threadIdx.x);
  }
}

__device__ __forceinline__ float mmc_look(const float* from) { return mmc::relaxed_load(from); }

__device__ __forceinline__ float mmc_settle(float seen, const float* from) {
  while (__float_as_uint(seen) == mmc::kMissing) seen = mmc::relaxed_load(from);
  return seen;
}

// Hands a float to all blocks, and makes its place in the area of the next launch empty.
__device__ __forceinline__ void mmc_publish(float* to, float* next, float value) {
  unsigned bits = __float_as_uint(value);
  if (bits == mmc::kMissing) bits = 0x7fffffffu;  // one NaN for another
  asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(to), "r"(bits) : "memory");
  *reinterpret_cast<unsigned*>(next) = mmc::kMissing;
}
#endif
