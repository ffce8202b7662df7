// Products of int8 rows and ternary matrices on tensor cores: acc[row, n] = sum of q[row] w[n].
//
// A step has the columns of 8 vectors of weights: 32 kWords (digits.cuh).  What it needs of q and of
// the packed weights is copied to shared memory some steps ahead, into a ring of stages:
//
//     tokens x kRowBytes of q, in 16-byte pieces whose places the products choose (Place)
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
constexpr int kTileBytes = 512;  // of a tile of weights in a stage

// Of a row of q in a stage; with 16 bytes more than 160, words of 8 rows lie in different banks.
template <int kWords>
constexpr int kRowBytes = kWords == 4 ? 128 : 176;

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

__device__ __forceinline__ uint2 read8(unsigned address) {
  uint2 read;
  asm volatile("ld.shared.v2.u32 {%0, %1}, [%2];" : "=r"(read.x), "=r"(read.y) : "r"(address));
  return read;
}

__device__ __forceinline__ unsigned read4(unsigned address) {
  unsigned read;
  asm volatile("ld.shared.u32 %0, [%1];" : "=r"(read) : "r"(address));
  return read;
}

__device__ __forceinline__ uint4 read16(unsigned address) {
  uint4 read;
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(read.x), "=r"(read.y), "=r"(read.z), "=r"(read.w) : "r"(address));
  return read;
}

// The part of the matrices that some threads copy: rows of q and tiles of weights that exist.
template <int kVectors, int kQBytes, int kWords>
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

  // Some threads copy a step to a stage.
  template <int kTokens, int kTiles, int kThreads, typename Place>
  __device__ __forceinline__ void copy(unsigned stage, int step, int thread) const {
    copy_pieces<kTokens, kThreads, Place, 0, 8>(stage, step, thread);
    if constexpr (kWords == 5) copy_pieces<kTokens, kThreads, Place, 8, 2>(stage, step, thread);
    stage += kTokens * kRowBytes<kWords> + thread * 16;
    int vector = step * kStepVectors + thread % 32 / 4;
    const unsigned char* from =
        w + (thread / 32) * (kVectors * 64) + vector * 64 + thread % 4 * 16;
#pragma unroll
    for (int tile = 0; tile < kTiles; tile += kThreads / 32)
      copy16(stage + tile * kTileBytes, from + tile * (kVectors * 64),
             tile + thread / 32 < tiles && vector < kVectors);
  }

  // Copies kCount 16-byte pieces from kFirst on of each row.
  template <int kTokens, int kThreads, typename Place, int kFirst, int kCount>
  __device__ __forceinline__ void copy_pieces(unsigned stage, int step, int thread) const {
    constexpr int kRows = kThreads / kCount, kStepBytes = kStepVectors * kWords * 4;
    int piece = kFirst + thread % kCount, at = step * kStepBytes + piece * 16;
    const unsigned char* from = q + (thread / kCount) * kQBytes + at;
#pragma unroll
    for (int pass = 0; pass < kTokens; pass += kRows) {
      int row = pass + thread / kCount;
      if (kTokens % kRows == 0 || row < kTokens)
        copy16(stage + Place::of(row, piece), from + pass * kQBytes,
               row < rows && at < kVectors * kWords * 4);
    }
  }
};

}  // namespace mmc

#endif
