// Products for one row or two: a block has a tile of weights, and its warps share the columns.
#ifndef MMC_PRODUCT_FEW_CUH
#define MMC_PRODUCT_FEW_CUH

namespace mmc {

// Reads what another launch has written, where the program says so.
__device__ __forceinline__ uint4 read_made(const void* from) {
  uint4 read;
  asm volatile("ld.global.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(read.x), "=r"(read.y), "=r"(read.z), "=r"(read.w) : "l"(from) : "memory");
  return read;
}

// A chunk of the columns at a time: kSteps times 8 vectors for each warp.  Its weights are asked for
// before q is looked at.  Bound: reading the weights.
template <int kN, int kVectors, int kQBytes, int kWords, int kWarps, int kRows>
__device__ __forceinline__ void multiply_few(const unsigned* w, const int* q, int* acc,
                                             long long rows, int block) {
  constexpr int kAllSteps = (kVectors + 8 * kWarps - 1) / (8 * kWarps);
  constexpr int kSteps = kAllSteps < 16 ? kAllSteps : 16, kThreads = kWarps * 32;
  constexpr int kStepBytes = 8 * kWords * 4, kChunkBytes = kSteps * kWarps * kStepBytes;
  constexpr int kTiles = (kN + 15) / 16;
  __shared__ __align__(16) unsigned char chunk[kRows][kChunkBytes];
  __shared__ __align__(8) int parts[kRows][kWarps][16];
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  long long first_row = static_cast<long long>(block / kTiles) * kRows, tile = block % kTiles;
  WarpSums<kWords> sums[kRows] = {};
  for (int begin = 0; begin < kAllSteps; begin += kSteps) {
    unsigned packed[kSteps][4];
#pragma unroll
    for (int step = 0; step < kSteps; ++step)
      WarpSums<kWords>::template load<kVectors, ReadOnce>(
          packed[step], w + tile * (kVectors * 16), ((begin + step) * kWarps + warp) * 8, lane);
    if (begin == 0) {
      let_next_begin();
      wait_for_launches();
    }
    __syncthreads();
#pragma unroll
    for (int row = 0; row < kRows; ++row)
#pragma unroll
      for (int at = threadIdx.x * 16; at < kChunkBytes; at += kThreads * 16) {
        int place = begin * kWarps * kStepBytes + at;
        bool exists = place < kVectors * kWords * 4 && first_row + row < rows;
        const unsigned char* from =
            reinterpret_cast<const unsigned char*>(q) + (first_row + row) * kQBytes + place;
        *reinterpret_cast<uint4*>(chunk[row] + at) = exists ? read_made(from) : uint4{};
      }
    __syncthreads();
#pragma unroll
    for (int step = 0; step < kSteps; ++step)
#pragma unroll
      for (int row = 0; row < kRows; ++row) {
        const unsigned char* from = chunk[row] + (step * kWarps + warp) * kStepBytes;
        sums[row].add(packed[step], reinterpret_cast<const int*>(from), lane);
      }
  }
#pragma unroll
  for (int row = 0; row < kRows; ++row) store_sums(parts[row][warp], sums[row], lane);
  __syncthreads();
  int row = threadIdx.x / 16, column = tile * 16 + threadIdx.x % 16;
  if (row >= kRows || first_row + row >= rows || column >= kN) return;
  int total = 0;
#pragma unroll
  for (int other = 0; other < kWarps; ++other) total += parts[row][other][threadIdx.x % 16];
  acc[(first_row + row) * kN + column] = total;
}

}  // namespace mmc

#endif
