// What the phases of a launch need is asked for ahead (persistent.cuh).
#ifndef MMC_SUPPLY_CUH
#define MMC_SUPPLY_CUH

namespace mmc {

// A warp of its own asks for what a phase needs, phases ahead: for its words, which say what is to be
// done (mmc.targets.cuda.phases), and for gains and weights, which lie in a ring chunk by chunk.
constexpr int kTold = 8, kChunks = 32, kWords = 48;
namespace word {
enum Word {
  kKind, kParts, kTileBytes, kPerBlock, kTiles, kChunkTiles, kVectors, kVectorBytes,
  kWeights, kGains = kWeights + 4
};
}  // namespace word

struct alignas(128) Supply {
  Barrier told[kTold];     // the words of a phase are there
  Barrier heard[kTold];    // no thread needs them any more
  Barrier full[kChunks];   // a chunk is there
  Barrier empty[kChunks];  // no thread needs it any more
  int start[kChunks];      // where it lies in the ring
  long long words[kTold][kWords];
};

extern __shared__ __align__(128) unsigned char supply_memory[];

__device__ __forceinline__ Supply& supply() { return *reinterpret_cast<Supply*>(supply_memory); }

__device__ __forceinline__ unsigned char* ring() { return supply_memory + sizeof(Supply); }

// Chunks lie one behind the other, from the start again where the ring ends, and go in that order.
class Ring {
 public:
  // under_way: chunks that are asked for at a time.  More would come no sooner, and what other code asks
  // for, above all the row that blocks wait for, would come later.
  __device__ Ring(int bytes, int under_way) : bytes_(bytes), under_way_(under_way) {}

  // Waits until there is room for a chunk.
  __device__ void begin(int bytes) {
    int before = next_ - under_way_;
    if (before >= 0) wait_for(supply().full[before % kChunks], before / kChunks & 1);
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

  int bytes_, under_way_, head_ = 0, to_ = 0, asked_ = 0;
  int next_ = 0, oldest_ = 0;  // chunks
};

__device__ __forceinline__ void fetch(const void* line) {
  asm volatile("prefetch.global.L2::evict_last [%0];" ::"l"(line) : "memory");
}

// Where many weights pass through the cache, they drive out the floats of the exchange until the next
// launch.  Each block fetches some of those of a phase: they lie in the order of the phases.
__device__ __forceinline__ void fetch_exchange(const float* exchange, int floats, int phase,
                                               int phases) {
  int lines = floats / 32, end = lines * (phase + 1) / phases;
  for (int line = lines * phase / phases + blockIdx.x; line < end; line += gridDim.x)
    fetch(exchange + line * 32);
}

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

// The tiles of a block that exist, part by part, each a chunk.
__device__ __forceinline__ void supply_tiles(Ring& ring, const long long* words, int first,
                                             int existing) {
  int tile_bytes = words[word::kTileBytes];
  for (int part = 0; part < words[word::kParts]; ++part) {
    const char* from = reinterpret_cast<const char*>(words[word::kWeights + part]);
    for (int tile = first; tile < first + existing; ++tile) {
      ring.begin(tile_bytes);
      ring.ask(from + static_cast<long long>(tile) * tile_bytes, tile_bytes);
      ring.end();
    }
  }
}

// Several tiles in a chunk.  They lie part by part, as many as a block has at most; `existing` are there.
__device__ __forceinline__ void supply_weights(Ring& ring, const long long* words, int first,
                                               int existing) {
  int per_block = words[word::kPerBlock], tile_bytes = words[word::kTileBytes];
  int chunk_tiles = words[word::kChunkTiles], tiles = per_block * words[word::kParts];
  for (int begin = 0; begin < tiles; begin += chunk_tiles) {
    int end = min(begin + chunk_tiles, tiles);
    ring.begin((end - begin) * tile_bytes);
    for (int at = begin, next; at < end; at = next) {
      int part = at / per_block, tile = at % per_block;
      next = min(end, (part + 1) * per_block);
      int count = max(0, min(next - at, existing - tile));
      const char* from = reinterpret_cast<const char*>(words[word::kWeights + part]);
      ring.ask(from + static_cast<long long>(first + tile) * tile_bytes, count * tile_bytes);
      ring.skip((next - at - count) * tile_bytes);
    }
    ring.end();
  }
}

}  // namespace mmc

// The place of the block in a phase.  Some have a tile more than others, each time others.
template <unsigned kBlocks>
__device__ __forceinline__ int mmc_block(long long phase) {
  unsigned block;
  asm volatile("mov.u32 %0, %ctaid.x;" : "=r"(block));  // no code before the call can use it
  return (block + static_cast<unsigned>(phase)) % kBlocks;
}

template <unsigned kBlocks>
__device__ __forceinline__ int mmc_first_tile(int block, int tiles) {
  return (static_cast<unsigned>(block * tiles) + kBlocks - 1) / kBlocks;
}

// One thread asks for what each phase needs as soon as there is room for it.
template <unsigned kBlocks>
__device__ __forceinline__ void mmc_supply(const long long* table, long long phases, int ring_bytes,
                                           int under_way, const float* exchange, int floats) {
  if (threadIdx.x % 32 != 0) return;
  mmc::Ring ring(ring_bytes, under_way);
  for (int phase = 0; phase < phases; ++phase) {
    if (phase == 0) mmc::supply_words(table, 0);
    if (phase + 1 < phases) mmc::supply_words(table, phase + 1);
    int slot = phase % mmc::kTold;
    mmc::wait_for(mmc::supply().told[slot], phase / mmc::kTold & 1);
    const long long* words = mmc::supply().words[slot];
    if (under_way > 1) mmc::fetch_exchange(exchange, floats, phase + 1, phases);
    int block = mmc_block<kBlocks>(phase), tiles = words[mmc::word::kTiles];
    int first = mmc_first_tile<kBlocks>(block, tiles);
    int existing = mmc_first_tile<kBlocks>(block + 1, tiles) - first;
    if (existing > 0) {
      mmc::supply_gains(ring, words);
      if (words[mmc::word::kChunkTiles] == 1)
        mmc::supply_tiles(ring, words, first, existing);
      else
        mmc::supply_weights(ring, words, first, existing);
    }
  }
}

#endif
