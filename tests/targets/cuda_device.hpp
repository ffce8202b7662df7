// On a CPU, what the headers of mmc.targets.cuda say in PTX.  It stands behind them.
namespace mmc {

void let_next_begin() {}
void wait_for_launches() {}

int dot4(unsigned weights, int activations, int sum) {
  return dot<std::uint8_t>(weights, activations, sum);
}

unsigned long long settled_address(const void* pointer) {
  return reinterpret_cast<unsigned long long>(pointer);
}

void store_shared(unsigned long long to, int value, int wanted) {
  if (wanted) *reinterpret_cast<int*>(to) = value;
}

void make_barrier(unsigned barrier, int arrivals) {
  threads::own.counted[barrier] = {arrivals, arrivals};
}

void arrive(unsigned barrier) { threads::count(barrier, 1, 0); }

void arrive_expecting(unsigned barrier, int bytes) { threads::count(barrier, 1, bytes); }

bool is_complete(unsigned barrier, int parity) {
  if ((threads::own.counted.at(barrier).ended & 1) != parity) return true;
  threads::others();
  return false;
}

bool has_ended(unsigned barrier, int parity) {
  return (threads::own.counted.at(barrier).ended & 1) != parity;
}

void copy_bulk(unsigned to, const void* from, int bytes, unsigned barrier) {
  auto aligned = [](std::uintptr_t x) { return x % 16 == 0; };
  if (!aligned(to) || !aligned(bytes) || !aligned(reinterpret_cast<std::uintptr_t>(from)) ||
      bytes <= 0 || to + bytes > threads::kSupply)
    std::abort();
  std::memset(threads::shared + to, 0x5e, bytes);
  threads::own.copies.push_back({to, from, bytes, barrier});
}

void show_barriers() {}

float relaxed_load(const float* from) {
  threads::others();
  return bits<float>(__atomic_load_n(reinterpret_cast<const unsigned*>(from), __ATOMIC_SEQ_CST));
}

void fetch(const void*) {}

void relaxed_store(float* to, float value) {
  __atomic_store_n(reinterpret_cast<unsigned*>(to), bits<unsigned>(value), __ATOMIC_SEQ_CST);
}

}  // namespace mmc

float mmc_sigmoid(float x) { return 1 / (1 + std::exp(-x)); }

int mmc_round_to_int8(float x) {
  return std::isnan(x) ? 0 : static_cast<int>(std::fmin(std::fmax(std::round(x), -128), 127));
}

float mmc_reciprocal(float x) { return 1 / x; }
float mmc_inverse_root(float x) { return 1 / std::sqrt(x); }

int mmc_thread() { return threadIdx.x; }
void mmc_sync_warps() { threads::meet(1, mmc::kWarps * 32); }

template <unsigned kBlocks>
int mmc_block(long long phase) {
  return (blockIdx.x + static_cast<unsigned>(phase)) % kBlocks;
}

