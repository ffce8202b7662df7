// A step of a model as one launch: all its blocks stay on the device, and take phase after phase.
#ifndef MMC_PERSISTENT_CUH
#define MMC_PERSISTENT_CUH

namespace mmc {

// A warp of its own asks for what a phase needs, phases ahead: for its words, which say what is to be
// done (mmc.targets.cuda.phases), and for gains and weights, which lie in a ring chunk by chunk.
constexpr int kTold = 8, kChunks = 16, kWords = 48, kWarps = 8;
namespace word {
enum Word {
  kKind, kParts, kTileBytes, kPerBlock, kTiles, kChunkTiles, kVectors, kVectorBytes,
  kWeights, kGains = kWeights + 4
};
}  // namespace word

struct alignas(128) Supply {
  Barrier told[kTold];     // the words of a phase are there
  Barrier heard[kTold];    // no warp needs them any more
  Barrier full[kChunks];   // a chunk is there
  Barrier empty[kChunks];  // no warp needs it any more
  int start[kChunks];      // where it lies in the ring
  long long words[kTold][kWords];
};

extern __shared__ __align__(128) unsigned char supply_memory[];

__device__ __forceinline__ Supply& supply() { return *reinterpret_cast<Supply*>(supply_memory); }

__device__ __forceinline__ unsigned char* ring() { return supply_memory + sizeof(Supply); }

// A warp waits for a barrier.
__device__ __forceinline__ void await(unsigned barrier, int parity) {
  while (!__all_sync(kAllLanes, is_complete(barrier, parity))) {
  }
}

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
    for (int i = 0; i < mmc::kTold; ++i) {
      mmc::make_barrier(mmc::supply().told[i], 1);
      mmc::make_barrier(mmc::supply().heard[i], mmc::kWarps * 32);
    }
    for (int i = 0; i < mmc::kChunks; ++i) {
      mmc::make_barrier(mmc::supply().full[i], 1);
      mmc::make_barrier(mmc::supply().empty[i], mmc::kWarps * 32);
    }
    mmc::show_barriers();
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

namespace mmc {

// Chunks lie one behind the other, from the start again where the ring ends, and go in that order.
class Ring {
 public:
  __device__ explicit Ring(int bytes) : bytes_(bytes) {}

  // Waits until there is room for a chunk.
  __device__ void begin(int bytes) {
    int start = head_ + bytes <= bytes_ ? head_ : 0;
    while (!has_room(start, bytes)) {
      wait_for(supply().empty[oldest_ % kChunks], oldest_ / kChunks & 1);
      ++oldest_;
    }
    supply().start[next_ % kChunks] = start;
    to_ = start;
    head_ = start + bytes;
    asked_ = 0;
  }

  // Asks for the next bytes of the chunk.
  __device__ void ask(const void* from, int bytes) {
    if (bytes > 0)
      copy_bulk(shared_address(ring() + to_), from, bytes, supply().full[next_ % kChunks]);
    to_ += bytes;
    asked_ += bytes;
  }

  // Leaves bytes out.
  __device__ void skip(int bytes) { to_ += bytes; }

  __device__ void end() { arrive_expecting(supply().full[next_++ % kChunks], asked_); }

 private:
  __device__ bool has_room(int start, int bytes) const {
    if (oldest_ == next_) return true;
    if (next_ - oldest_ == kChunks) return false;
    int tail = supply().start[oldest_ % kChunks];
    if (start == head_ && start + bytes <= tail) return true;
    return tail < head_ && (start == head_ || bytes <= tail);
  }

  int bytes_, head_ = 0, to_ = 0, asked_ = 0;
  int next_ = 0, oldest_ = 0;  // chunks
};

__device__ __forceinline__ void supply_words(const long long* table, int phase) {
  int slot = phase % kTold;
  if (phase >= kTold) wait_for(supply().heard[slot], (phase / kTold - 1) & 1);
  int bytes = sizeof(supply().words[slot]);
  copy_bulk(shared_address(supply().words[slot]), table + phase * kWords, bytes,
            supply().told[slot]);
  arrive_expecting(supply().told[slot], bytes);
}

__device__ __forceinline__ void supply_gains(Ring& ring, const long long* words) {
  int vectors = words[word::kVectors], bytes = words[word::kVectorBytes];
  if (vectors == 0) return;
  ring.begin(vectors * bytes);
  for (int i = 0; i < vectors; ++i)
    ring.ask(reinterpret_cast<const void*>(words[word::kGains + i]), bytes);
  ring.end();
}

// The tiles of a block lie part by part; of the last block some may not exist.
__device__ __forceinline__ void supply_weights(Ring& ring, const long long* words, int existing) {
  int per_block = words[word::kPerBlock], tile_bytes = words[word::kTileBytes];
  int chunk_tiles = words[word::kChunkTiles], tiles = per_block * words[word::kParts];
  for (int begin = 0; begin < tiles; begin += chunk_tiles) {
    int end = min(begin + chunk_tiles, tiles);
    ring.begin((end - begin) * tile_bytes);
    for (int at = begin, next; at < end; at = next) {
      int part = at / per_block, tile = at % per_block;
      next = min(end, (part + 1) * per_block);
      int count = max(0, min(next - at, existing - tile));
      long long first = static_cast<long long>(blockIdx.x) * per_block + tile;
      const char* from = reinterpret_cast<const char*>(words[word::kWeights + part]);
      ring.ask(from + first * tile_bytes, count * tile_bytes);
      ring.skip((next - at - count) * tile_bytes);
    }
    ring.end();
  }
}

}  // namespace mmc

// One thread asks for what each phase needs as soon as there is room for it.
__device__ __forceinline__ void mmc_supply(const long long* table, long long phases, int ring_bytes) {
  if (threadIdx.x % 32 != 0) return;
  mmc::Ring ring(ring_bytes);
  for (int phase = 0; phase < phases; ++phase) {
    if (phase == 0) mmc::supply_words(table, 0);
    if (phase + 1 < phases) mmc::supply_words(table, phase + 1);
    int slot = phase % mmc::kTold;
    mmc::wait_for(mmc::supply().told[slot], phase / mmc::kTold & 1);
    const long long* words = mmc::supply().words[slot];
    int existing = words[mmc::word::kTiles] - blockIdx.x * words[mmc::word::kPerBlock];
    if (existing > 0) {
      mmc::supply_gains(ring, words);
      mmc::supply_weights(ring, words, existing);
    }
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

// Waits for the words of a phase.
__device__ __forceinline__ long long* mmc_begin_phase(long long phase) {
  int slot = static_cast<int>(phase) % mmc::kTold;
  mmc::await(mmc::supply().told[slot], static_cast<int>(phase) / mmc::kTold & 1);
  return mmc::supply().words[slot];
}

__device__ __forceinline__ void mmc_end_phase(long long phase) {
  mmc::arrive(mmc::supply().heard[phase % mmc::kTold]);
}

// Waits for a chunk, and returns where in the ring it lies.
__device__ __forceinline__ int mmc_begin_chunk(int chunk) {
  int slot = chunk % mmc::kChunks;
  mmc::await(mmc::supply().full[slot], chunk / mmc::kChunks & 1);
  return mmc::supply().start[slot];
}

__device__ __forceinline__ void mmc_end_chunk(int chunk) {
  mmc::arrive(mmc::supply().empty[chunk % mmc::kChunks]);
}

__device__ __forceinline__ unsigned* mmc_weights(int offset) {
  return reinterpret_cast<unsigned*>(mmc::ring() + offset);
}

__device__ __forceinline__ float* mmc_gain(int offset) {
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
