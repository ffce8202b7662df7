// Products of int8 rows and ternary matrices on tensor cores: acc[row, n] = sum of q[row] w[n].
//
// The columns are taken in steps of 128.  What a step needs of q and of the packed weights is
// copied to shared memory some steps ahead, into a ring of stages:
//
//     tokens x 128 bytes of q, the 16-byte pieces of a row in an order of their own (swizzle)
//     tiles x 512 bytes of weights, as mmc.ir.packing draws them: 8 vectors of 16 words
//
// A tensor core multiplies 16 rows of weights at a time.  Its rows i and i + 8 are rows 2 i and
// 2 i + 1 of the tile, which lie side by side.  Its columns are in any order that q has as well.
#ifndef MMC_STAGE_CUH
#define MMC_STAGE_CUH

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define MMC_WGMMA 1
#else
#define MMC_WGMMA 0
#endif

namespace mmc {

constexpr int kStepVectors = 8;
constexpr int kRowBytes = 128;   // of a row of q in a stage
constexpr int kTileBytes = 512;  // of a tile of weights in a stage

extern __shared__ __align__(1024) unsigned char shared_memory[];

// Copies 16 bytes to shared memory in the background, or zeros where there are none.
__device__ __forceinline__ void copy16(unsigned to, const void* from, bool exists) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
               :: "r"(to), "l"(from), "r"(exists ? 16 : 0) : "memory");
}

__device__ __forceinline__ void end_of_copies() { asm volatile("cp.async.commit_group;"); }

// Waits until all copies but those of the last kPending groups are there.
template <int kPending>
__device__ __forceinline__ void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" :: "n"(kPending) : "memory");
}

// The digit {0, 1, 2} in the top bits of each byte of `digits * power` as 64 times {-1, 0, 1}.
// What is added carries out of a byte, but no further: the digits below are at most 42 together.
__device__ __forceinline__ unsigned signed_digits(unsigned digits, unsigned power) {
  return (digits * power + 0xc0c0c0c0u) & 0xc0c0c0c0u;
}

constexpr int kDigitBits = 6;  // sums are 64 times too large

__device__ __forceinline__ uint2 read8(unsigned address) {
  uint2 read;
  asm volatile("ld.shared.v2.u32 {%0, %1}, [%2];" : "=r"(read.x), "=r"(read.y) : "r"(address));
  return read;
}

__device__ __forceinline__ uint4 read16(unsigned address) {
  uint4 read;
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(read.x), "=r"(read.y), "=r"(read.z), "=r"(read.w) : "r"(address));
  return read;
}

// The part of the matrices that some threads copy: rows of q and tiles of weights that exist.
template <int kVectors, int kQBytes>
struct Part {
  const unsigned char* q;
  const unsigned char* w;
  int rows, tiles;

  __device__ __forceinline__ Part(const int* q, const unsigned* w, long long first_row,
                                  long long rows, int first_tile, int tiles)
      : q(reinterpret_cast<const unsigned char*>(q) + first_row * kQBytes),
        w(reinterpret_cast<const unsigned char*>(w) + first_tile * (kVectors * 64ll)),
        rows(static_cast<int>(rows - first_row < 1 << 30 ? rows - first_row : 1 << 30)),
        tiles(tiles - first_tile) {}

  // Some threads copy a step to a stage.  kOrders: how many orders the pieces of rows have.
  template <int kTokens, int kTiles, int kThreads, int kOrders>
  __device__ __forceinline__ void copy(unsigned stage, int step, int thread) const {
    constexpr int kRows = kThreads / 8;
    int piece = thread % 8, vector = step * kStepVectors + piece;
    const unsigned char* from = q + (thread / 8) * kQBytes + vector * 16;
#pragma unroll
    for (int pass = 0; pass < kTokens; pass += kRows) {
      int row = pass + thread / 8, place = piece ^ (kOrders == 8 ? row % 8 : row % 2 * 4);
      copy16(stage + row * kRowBytes + place * 16, from + pass * kQBytes,
             row < rows && vector < kVectors);
    }
    stage += kTokens * kRowBytes + thread * 16;
    vector = step * kStepVectors + thread % 32 / 4;
    from = w + (thread / 32) * (kVectors * 64) + vector * 64 + thread % 4 * 16;
#pragma unroll
    for (int tile = 0; tile < kTiles; tile += kThreads / 32)
      copy16(stage + tile * kTileBytes, from + tile * (kVectors * 64),
             tile + thread / 32 < tiles && vector < kVectors);
  }
};

}  // namespace mmc

#endif
