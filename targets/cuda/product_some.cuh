// Products for some rows, with mma: what stage.cuh copies is multiplied by single warps.
#ifndef MMC_PRODUCT_SOME_CUH
#define MMC_PRODUCT_SOME_CUH

namespace mmc {

// sums += 16 x 32 times 32 x 8, signed bytes.
__device__ __forceinline__ void mma(int* sums, unsigned a0, unsigned a1, unsigned a2, unsigned a3,
                                    unsigned b0, unsigned b1) {
  asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
               "{%8,%9}, {%0,%1,%2,%3};"
               : "+r"(sums[0]), "+r"(sums[1]), "+r"(sums[2]), "+r"(sums[3])
               : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// Where a piece of a row lies for `multiply_step`, which reads 4 words at once or one.
template <int kWords>
struct PlaceForWarp {
  __device__ __forceinline__ static int of(int row, int piece) {
    return row * kRowBytes<kWords> + (kWords == 4 ? piece ^ row % 2 * 4 : piece) * 16;
  }
};

// The words of activations of a vector.
template <int kWords>
__device__ __forceinline__ void read_words(unsigned tokens, int row, int vector,
                                           unsigned (&words)[kWords]) {
  if constexpr (kWords == 4) {
    uint4 read = read16(tokens + PlaceForWarp<4>::of(row, vector));
    words[0] = read.x, words[1] = read.y, words[2] = read.z, words[3] = read.w;
  } else {
#pragma unroll
    for (int i = 0; i < kWords; ++i)
      words[i] = read4(tokens + row * kRowBytes<kWords> + (vector * kWords + i) * 4);
  }
}

// A warp multiplies kTiles tiles with kTokens rows of q for a step.  Of a tile a lane has the rows
// 2 (lane / 4) and the next one, vectors lane % 4 and 4 further: word i of these goes to product i.
template <int kWords, int kTiles, int kTokens>
__device__ __forceinline__ void multiply_step(int (&sums)[kTiles][kTokens / 8][4], unsigned tokens,
                                              unsigned weights, int lane) {
  unsigned a[kTiles][4][kWords];
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
    unsigned from = weights + tile * kTileBytes + lane % 4 * 64 + lane / 4 * 8;
    uint2 low = read8(from), high = read8(from + 256);
    signed_digits<kWords>(low.x, a[tile][0]), signed_digits<kWords>(low.y, a[tile][1]);
    signed_digits<kWords>(high.x, a[tile][2]), signed_digits<kWords>(high.y, a[tile][3]);
  }
#pragma unroll
  for (int group = 0; group < kTokens / 8; ++group) {
    unsigned low[kWords], high[kWords];
    read_words<kWords>(tokens, group * 8 + lane / 4, lane % 4, low);
    read_words<kWords>(tokens, group * 8 + lane / 4, lane % 4 + 4, high);
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile)
#pragma unroll
      for (int i = 0; i < kWords; ++i) {
        unsigned(&rows)[4][kWords] = a[tile];
        mma(sums[tile][group], rows[0][i], rows[1][i], rows[2][i], rows[3][i], low[i], high[i]);
      }
  }
}

// For few rows: a block has kTiles tiles and kTokens rows of q, and its warps share the columns.
// Each has a ring of its own.  Bound: reading the weights.
template <int kN, int kVectors, int kQBytes, int kWords, int kTiles, int kTokens, int kWarps,
          int kStages>
__device__ __forceinline__ void multiply_by_warps(const unsigned* w, const int* q, int* acc,
                                                  long long rows, int block) {
  constexpr int kSteps = (kVectors + kStepVectors - 1) / kStepVectors;
  constexpr int kStage = kTokens * kRowBytes<kWords> + kTiles * kTileBytes;
  constexpr int kAllTiles = (kN + 15) / 16, kBlocks = (kAllTiles + kTiles - 1) / kTiles;
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  long long first_row = static_cast<long long>(block / kBlocks) * kTokens;
  int first_tile = block % kBlocks * kTiles;
  Part<kVectors, kQBytes, kWords> part(q, w, first_row, rows, first_tile, kAllTiles);
  unsigned ring = shared_address(shared_memory) + warp * kStages * kStage;
  int sums[kTiles][kTokens / 8][4] = {};
#pragma unroll
  for (int ahead = 0; ahead < kStages - 1; ++ahead) {
    int step = warp + ahead * kWarps;
    if (step < kSteps)
      part.template copy<kTokens, kTiles, 32, PlaceForWarp<kWords>>(ring + ahead * kStage, step, lane);
    end_of_copies();
  }
  int stage = 0;
  for (int step = warp; step < kSteps; step += kWarps) {
    wait_for_copies<kStages - 2>();
    __syncwarp();
    int next = step + (kStages - 1) * kWarps, free = stage == 0 ? kStages - 1 : stage - 1;
    if (next < kSteps)
      part.template copy<kTokens, kTiles, 32, PlaceForWarp<kWords>>(ring + free * kStage, next, lane);
    end_of_copies();
    unsigned from = ring + stage * kStage;
    multiply_step<kWords, kTiles, kTokens>(sums, from, from + kTokens * kRowBytes<kWords>, lane);
    stage = stage + 1 == kStages ? 0 : stage + 1;
  }
  wait_for_copies<0>();
  __syncthreads();
  constexpr int kColumns = kTiles * 16;
  int* parts = reinterpret_cast<int*>(shared_memory);
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile)
#pragma unroll
    for (int group = 0; group < kTokens / 8; ++group)
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        int row = (warp * kTokens + group * 8 + lane % 4 * 2 + i) * kColumns;
        int2 two{sums[tile][group][i], sums[tile][group][i + 2]};
        *reinterpret_cast<int2*>(parts + row + tile * 16 + lane / 4 * 2) = two;
      }
  __syncthreads();
  for (int at = threadIdx.x; at < kTokens * kColumns; at += kWarps * 32) {
    int total = 0;
#pragma unroll
    for (int other = 0; other < kWarps; ++other)
      total += parts[other * kTokens * kColumns + at] >> kDigitBits;
    long long row = first_row + at / kColumns, column = first_tile * 16 + at % kColumns;
    if (row < rows && column < kN) acc[row * kN + column] = total;
  }
}

}  // namespace mmc

#endif
