// The tiles of a block in a phase: chunk by chunk as they come, times its rows of activations.
//
// What the lanes of a warp have of a tile is added up while the warp multiplies the next one, whose first
// words are asked for before.
#ifndef MMC_TILES_CUH
#define MMC_TILES_CUH

namespace mmc {

// A chunk that lies at `start`, or is waited for where that is negative.
__device__ __forceinline__ const unsigned* chunk_at(int start, int chunk) {
  return reinterpret_cast<const unsigned*>(ring() + (start < 0 ? mmc_begin_chunk(chunk) : start));
}

// Where a lane leaves what its warp has found: an address in shared memory that the compiler neither
// computes again nor branches around.
template <int kWords>
class Found {
 public:
  __device__ __forceinline__ Found(int* sums, int lane)
      : to_(settled_address(sums + WarpSums<kWords>::row(lane))),
        has_(WarpSums<kWords>::has(lane)) {}

  __device__ __forceinline__ void store(int number, const WarpSums<kWords>& sums, int lane) const {
    store_shared(to_ + number * 64, sums.total(lane), has_);
  }

 private:
  unsigned long long to_;
  int has_;
};

// Where row `number` begins.
template <int... kStarts>
__device__ __forceinline__ int start_of(int number) {
  int start = 0, each = 0;
  ((start = number == each++ ? kStarts : start), ...);
  return start;
}

template <int kFirst, int... kStarts>
constexpr bool kOneRow = ((kStarts == kFirst) && ...);

// All warps share one tile after the other, each a chunk, of those that exist.
template <int kWords, int kVectors, int kTiles, int kFirst, int... kStarts>
struct Shared {
  using Part = RowPart<kWords, kVectors, kWarps>;
  static constexpr int kParts = sizeof...(kStarts) + 1, kCount = Part::Own::kCount;

  int* chunk;
  int lane = threadIdx.x % 32, part = threadIdx.x / 32, left;  // tiles that are still to come
  const unsigned* weights;
  typename Part::Words words;

  __device__ __forceinline__ void ask(int seen) {
    weights = chunk_at(seen, *chunk);
    Part::template ask<0, kCount>(words, weights, part, lane);
  }

  // The sums of a tile that has been asked for; asks for the next one.
  __device__ __forceinline__ WarpSums<kWords> multiply(const Part& row) {
    WarpSums<kWords> sums = row.begin();
    row.template add<0, kCount>(sums, words, weights, part, lane);
    mmc_end_chunk((*chunk)++);
    if (--left > 0) ask(-1);
    return sums;
  }

  __device__ __forceinline__ void multiply_all(int seen, int existing, const signed char* rows,
                                               int* to) {
    Found<kWords> found(to, lane);
    left = kParts * existing;
    ask(seen);
    mmc_sync_warps();
    Part row(rows + kFirst, part, lane);
    if constexpr (kParts * kTiles == 1) {
      found.store(part, multiply(row), lane);
      return;
    }
    WarpSums<kWords> before = {};
    int place = part;  // of the tile before, and at first of any
    for (int number = 0; number < kParts; ++number) {
      if (!kOneRow<kFirst, kStarts...> && number > 0)
        row = Part(rows + start_of<kFirst, kStarts...>(number), part, lane);
      for (int tile = 0; tile < existing; ++tile) {
        found.store(place, before, lane);
        before = multiply(row);
        place = (number * kTiles + tile) * kWarps + part;
      }
    }
    found.store(place, before, lane);
  }
};

// Some warps share a tile, and others have others at the same time: a chunk is for one or more such
// rounds.
template <int kWords, int kVectors, int kSplit, int kChunkTiles, int kTiles, int kFirst,
          int... kStarts>
struct Rounds {
  using Part = RowPart<kWords, kVectors, kSplit>;
  static constexpr int kAtOnce = kWarps / kSplit, kTurns = kChunkTiles / kAtOnce,
                       kAll = kTiles * (sizeof...(kStarts) + 1), kCount = Part::Own::kCount,
                       kRounds = (kAll + kAtOnce - 1) / kAtOnce;

  int lane = threadIdx.x % 32, part = threadIdx.x / 32 % kSplit, own = threadIdx.x / 32 / kSplit;

  __device__ __forceinline__ static bool exists(int tile) {
    return kAll % kAtOnce == 0 || tile < kAll;
  }

  __device__ __forceinline__ void multiply(int* chunk, int seen, const signed char* rows,
                                           int* to) const {
    const unsigned *weights = chunk_at(seen, *chunk), *from = weights + own * (kVectors * 16);
    typename Part::Words words;
    int tile = own, place = own * kSplit + part;
    Found<kWords> found(to, lane);
    if (exists(tile)) Part::template ask<0, kCount>(words, from, part, lane);
    mmc_sync_warps();
    Part row(rows + start_of<kFirst, kStarts...>(tile / kTiles), part, lane);
    WarpSums<kWords> before = {};
#pragma unroll 1
    for (int round = 1; round < kRounds; ++round) {
      found.store(place, before, lane);
      WarpSums<kWords> sums = row.begin();
      row.template add<0, kCount>(sums, words, from, part, lane);
      before = sums, place = tile * kSplit + part, tile += kAtOnce;
      if (round % kTurns == 0) {
        mmc_end_chunk((*chunk)++);
        weights = chunk_at(-1, *chunk);
      }
      from = weights + (round % kTurns * kAtOnce + own) * (kVectors * 16);
      if (!exists(tile)) break;
      Part::template ask<0, kCount>(words, from, part, lane);
      if (!kOneRow<kFirst, kStarts...>)
        row = Part(rows + start_of<kFirst, kStarts...>(tile / kTiles), part, lane);
    }
    if (kRounds > 1) found.store(place, before, lane);
    if (exists(tile)) {
      before = row.begin();
      row.template add<0, kCount>(before, words, from, part, lane);
      found.store(tile * kSplit + part, before, lane);
    }
    mmc_end_chunk((*chunk)++);
  }
};

}  // namespace mmc

// Waits for weights, the first of which were `seen` where they lie, and then for the rows; multiplies
// the tiles of a block, kTiles with each of the rows that begin at kStarts, and leaves kSplit times 16
// sums of each.
template <int kWords, int kVectors, int kSplit, int kChunkTiles, int kTiles, int... kStarts>
__device__ __forceinline__ void mmc_multiply(int* chunk, const signed char* rows, int* sums,
                                             int seen, int existing) {
  if constexpr (kChunkTiles == 1)
    mmc::Shared<kWords, kVectors, kTiles, kStarts...>{chunk}.multiply_all(seen, existing, rows,
                                                                          sums);
  else
    mmc::Rounds<kWords, kVectors, kSplit, kChunkTiles, kTiles, kStarts...>{}.multiply(chunk, seen,
                                                                                      rows, sums);
}

#endif
