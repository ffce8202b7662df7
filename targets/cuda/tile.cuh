// A row of activations times tiles of weights in shared memory: kSplit warps share a tile, and of the
// steps of 8 vectors that its columns have each takes every kSplit-th.
#ifndef MMC_TILE_CUH
#define MMC_TILE_CUH

namespace mmc {

constexpr int kWarps = 8;

// The steps of a warp, which is number `part` of those that share a tile.
template <int kVectors, int kSplit>
struct Steps {
  static constexpr int kCount = (kVectors + 8 * kSplit - 1) / (8 * kSplit);

  // The first of the vectors of a step.
  __device__ __forceinline__ static int first(int step, int part) {
    return (step * kSplit + part) * 8;
  }

  // The vector, or the last one where there is none such: what meets it is zero.
  __device__ __forceinline__ static int existing(int step, int vector) {
    return (step + 1) * kSplit * 8 > kVectors ? min(vector, kVectors - 1) : vector;
  }
};

// A warp's steps of a row.
template <int kWords, int kVectors, int kSplit>
struct RowPart;

// A lane's activations of each step, those of vector lane / 4, stay in registers where they are not too
// many.
template <int kVectors, int kSplit>
struct RowPart<4, kVectors, kSplit> {
  using Own = Steps<kVectors, kSplit>;
  static constexpr int kHeld = Own::kCount <= 16 ? Own::kCount : 0;

  // Of the first steps from one on, read before they are needed.
  struct Words {
    static constexpr int kCount = 4;
    uint4 held[kCount];
  };

  const signed char* row;
  int4 held[kHeld + 1];  // and what is there if none is held
  int sum;  // of the lane's activations

  __device__ __forceinline__ int4 read(int step, int part, int lane) const {
    return reinterpret_cast<const int4*>(row)[Own::first(step, part) + lane / 4];
  }

  __device__ __forceinline__ RowPart(const signed char* row, int part, int lane) : row(row) {
    int4 sums = {};  // side by side, so that none waits for another
#pragma unroll
    for (int step = 0; step < Own::kCount; ++step) {
      int4 q = held[min(step, kHeld)] = read(step, part, lane);
      sums.x = __dp4a(0x01010101, q.x, sums.x);
      sums.y = __dp4a(0x01010101, q.y, sums.y);
      sums.z = __dp4a(0x01010101, q.z, sums.z);
      sums.w = __dp4a(0x01010101, q.w, sums.w);
    }
    sum = sums.x + sums.y + (sums.z + sums.w);
  }

  __device__ __forceinline__ static uint4 words_of(const unsigned* tile, int step, int part,
                                                   int lane) {
    int vector = Own::existing(step, Own::first(step, part) + lane / 4);
    return *reinterpret_cast<const uint4*>(tile + vector * 16 + lane % 4 * 4);
  }

  template <int kFirst, int kEnd>
  __device__ __forceinline__ static void ask(Words& to, const unsigned* tile, int part, int lane) {
#pragma unroll
    for (int step = kFirst; step < min(kEnd, kFirst + Words::kCount); ++step)
      to.held[step - kFirst] = words_of(tile, step, part, lane);
  }

  // Sums of the tile's 16 rows over no steps.
  __device__ __forceinline__ WarpSums<4> begin() const {
    WarpSums<4> sums = {};
    sums.activations = sum;
    return sums;
  }

  // Adds some steps, whose first words have been asked for.
  template <int kFirst, int kEnd>
  __device__ __forceinline__ void add(WarpSums<4>& sums, const Words& asked, const unsigned* tile,
                                      int part, int lane) const {
#pragma unroll
    for (int step = kFirst; step < kEnd; ++step) {
      uint4 words = step < kFirst + Words::kCount
                        ? asked.held[min(step - kFirst, Words::kCount - 1)]
                        : words_of(tile, step, part, lane);
      int4 q = kHeld == 0 ? read(step, part, lane) : held[min(step, kHeld)];
      unsigned w[4] = {words.x, words.y, words.z, words.w};
      int x[4] = {q.x, q.y, q.z, q.w};
#pragma unroll
      for (int j = 0; j < 4; ++j)
#pragma unroll
        for (int i = 0; i < 4; ++i)
          sums.rows[i][j] = dot4(w[i] & 0x03030303u << 2 * j, x[j], sums.rows[i][j]);
    }
  }
};

template <int kVectors, int kSplit>
struct RowPart<5, kVectors, kSplit> {
  using Own = Steps<kVectors, kSplit>;
  const int* row;

  __device__ __forceinline__ RowPart(const signed char* row, int, int)
      : row(reinterpret_cast<const int*>(row)) {}

  struct Words {
    unsigned held[4];  // of one step
  };

  template <int kFirst, int kEnd>
  __device__ __forceinline__ static void ask(Words& to, const unsigned* tile, int part, int lane) {
    WarpSums<5>::load<kVectors, ReadShared>(to.held, tile, Own::first(kFirst, part), lane);
  }

  __device__ __forceinline__ WarpSums<5> begin() const { return {}; }

  template <int kFirst, int kEnd>
  __device__ __forceinline__ void add(WarpSums<5>& sums, const Words& asked, const unsigned* tile,
                                      int part, int lane) const {
    sums.add(asked.held, row + Own::first(kFirst, part) * 5, lane);
#pragma unroll
    for (int step = kFirst + 1; step < kEnd; ++step) {
      unsigned packed[4];
      int first = Own::first(step, part);
      WarpSums<5>::load<kVectors, ReadShared>(packed, tile, first, lane);
      sums.add(packed, row + first * 5, lane);
    }
  }
};

}  // namespace mmc

#endif
