// Products for many rows: some warps copy what others multiply, with wgmma where there is one.
#ifndef MMC_PRODUCT_MANY_CUH
#define MMC_PRODUCT_MANY_CUH

namespace mmc {

#if MMC_WGMMA

__device__ __forceinline__ void wgmma_begin() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

__device__ __forceinline__ void wgmma_end() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

template <int kPending>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" :: "n"(kPending) : "memory");
}

#define MMC_SUMS4(i) "+r"(sums[i]), "+r"(sums[i + 1]), "+r"(sums[i + 2]), "+r"(sums[i + 3])
#define MMC_SUMS16(i) MMC_SUMS4(i), MMC_SUMS4(i + 4), MMC_SUMS4(i + 8), MMC_SUMS4(i + 12)

// sums += 64 x 32 times 32 x tokens, signed bytes; b describes rows of 128 bytes in shared memory.
__device__ __forceinline__ void wgmma(int (&sums)[64], const unsigned* a, unsigned long long b) {
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n128k32.s32.s8.s8 "
      "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"
      "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,"
      "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,"
      "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63}, "
      "{%64,%65,%66,%67}, %68, 1;"
      : MMC_SUMS16(0), MMC_SUMS16(16), MMC_SUMS16(32), MMC_SUMS16(48)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

__device__ __forceinline__ void wgmma(int (&sums)[16], const unsigned* a, unsigned long long b) {
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n32k32.s32.s8.s8 "
      "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15}, {%16,%17,%18,%19}, %20, 1;"
      : MMC_SUMS16(0)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

// Where a piece of a row lies for wgmma.  With 4 words a row has its 128 bytes together, and the
// pieces are in the order piece ^ row % 8.  With 5 words there are 5 matrices, one for each product,
// of 32 bytes a row.  Groups of 8 rows follow each other.
template <int kWords, int kTokens>
struct PlaceForWarpgroup {
  __device__ __forceinline__ static int of(int row, int piece) {
    if (kWords == 4) return row * 128 + (piece ^ row % 8) * 16;
    return piece / 2 * (kTokens * 32) + row * 32 + (piece % 2 ^ row / 4 % 2) * 16;
  }

  // What product `number` of a step takes, as an operand.
  __device__ __forceinline__ static unsigned long long described(unsigned tokens, int number) {
    unsigned long long address = tokens + number * (kWords == 4 ? 32 : kTokens * 32);
    unsigned long long group = kWords == 4 ? 1024 : 256, order = kWords == 4 ? 1 : 3;
    return (address >> 4 & 0x3fff) | 1ull << 16 | group >> 4 << 32 | order << 62;
  }
};

// A warpgroup multiplies 64 rows of weights with kCount times 32 columns of a step from product
// `first` on, in the background.  Of its warp's tile a lane has rows 2 (lane / 4) and the next one,
// and of the 8 words of activations of a product words lane % 4 and 4 further.
template <int kWords, int kTokens, int kCount>
__device__ __forceinline__ void begin_products(int (&sums)[kTokens / 2], unsigned tokens,
                                               unsigned weights, int first, int lane) {
  unsigned a[kCount][4];
#pragma unroll
  for (int i = 0; i < kCount; ++i)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      int start = (first + i) * 8 + half * 4, word = start % kWords + lane % 4;
      int next = word >= kWords;  // the word is one of the next vector
      uint2 read = read8(weights + (start / kWords + next) * 64 + lane / 4 * 8);
      a[i][half * 2] = signed_digit<kWords>(read.x, word - next * kWords);
      a[i][half * 2 + 1] = signed_digit<kWords>(read.y, word - next * kWords);
    }
  wgmma_begin();
#pragma unroll
  for (int i = 0; i < kCount; ++i)
    wgmma(sums, a[i], PlaceForWarpgroup<kWords, kTokens>::described(tokens, first + i));
  wgmma_end();
}

#endif

// For many rows: a block has kTokens rows of q and kGroups x 4 tiles of weights, one for each warp.
// kCopyWarps more warps copy.  With kRegisters a thread that multiplies has so many registers, and
// one that copies few.  Bound: the tensor cores.
template <int kN, int kVectors, int kQBytes, int kWords, int kGroups, int kTokens, int kStages,
          int kCopyWarps, int kRegisters>
struct Many {
  static constexpr int kSteps = (kVectors + kStepVectors - 1) / kStepVectors;
  static constexpr int kTiles = kGroups * 4;
  static constexpr int kStage = kTokens * kRowBytes<kWords> + kTiles * kTileBytes;
  static constexpr int kAllTiles = (kN + 15) / 16, kBlocks = (kAllTiles + kTiles - 1) / kTiles;
  static constexpr int kBand = 16;
#if MMC_WGMMA
  using Place = PlaceForWarpgroup<kWords, kTokens>;
#else
  using Place = PlaceForWarp<kWords>;
#endif

  int lane, warp;
  unsigned ring, full, empty;  // a barrier of each kind for each stage

  __device__ __forceinline__ void multiply(const unsigned* w, const int* q, int* acc,
                                           long long rows, int block) {
    lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    ring = shared_address(shared_memory);
    full = ring + kStages * kStage, empty = full + kStages * 8;
    // Neighbouring blocks have the same tiles and other rows of q, kBand times kTokens of them.
    long long bands = (rows + kTokens - 1) / kTokens, band = block / (kBand * kBlocks) * kBand;
    int width = static_cast<int>(bands - band < kBand ? bands - band : kBand);
    int within = block % (kBand * kBlocks), first_tile = within / width * kTiles;
    long long first_row = (band + within % width) * kTokens;
    if (threadIdx.x < kStages) {
      make_barrier(full + threadIdx.x * 8, kCopyWarps * 32);
      make_barrier(empty + threadIdx.x * 8, kTiles * 32);
    }
    __syncthreads();
    if (warp >= kTiles) {
#if MMC_WGMMA
      if constexpr (kRegisters > 0) asm volatile("setmaxnreg.dec.sync.aligned.u32 32;");
#endif
      copy(Part<kVectors, kQBytes, kWords>(q, w, first_row, rows, first_tile, kAllTiles));
    } else {
#if MMC_WGMMA
      if constexpr (kRegisters > 0)
        asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" :: "n"(kRegisters));
#endif
      int sums[kTokens / 2] = {};
      add_steps(sums);
      store(sums, acc + first_row * kN, rows - first_row, (first_tile + warp) * 16);
    }
  }

  __device__ __forceinline__ void copy(const Part<kVectors, kQBytes, kWords>& part) const {
    for (int step = 0; step < kSteps; ++step) {
      int slot = step % kStages;
      if (step >= kStages) wait_for(empty + slot * 8, step / kStages - 1 & 1);
      part.template copy<kTokens, kTiles, kCopyWarps * 32, Place>(ring + slot * kStage, step,
                                                                  threadIdx.x - kTiles * 32);
      arrive_after_copies(full + slot * 8);
    }
    asm volatile("cp.async.wait_all;" ::: "memory");
  }

  __device__ __forceinline__ void add_steps(int (&sums)[kTokens / 2]) const {
    for (int step = 0; step < kSteps; ++step) {
      int slot = step % kStages;
      wait_for(full + slot * 8, step / kStages & 1);
      unsigned tokens = ring + slot * kStage;
      unsigned weights = tokens + kTokens * kRowBytes<kWords> + warp * kTileBytes;
#if MMC_WGMMA
      asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
      // The digits of some products are made while the tensor cores have those before.  Two groups a
      // step, or else the compiler lets one wait for the other.
      begin_products<kWords, kTokens, 2>(sums, tokens, weights, 0, lane);
      wgmma_wait<1>();
      if (step > 0) arrive(empty + (step - 1) % kStages * 8);
      begin_products<kWords, kTokens, kWords - 2>(sums, tokens, weights, 2, lane);
      wgmma_wait<1>();
#else
      multiply_step<kWords, 1, kTokens>(reinterpret_cast<int(&)[1][kTokens / 8][4]>(sums), tokens, weights,
                                lane);
      arrive(empty + slot * 8);
#endif
    }
#if MMC_WGMMA
    wgmma_wait<0>();
#endif
  }

  // Sum 4 i + j of a lane: row 8 i + 2 (lane % 4) + j % 2 of q, row 2 (lane / 4) + j / 2 of a tile.
  __device__ __forceinline__ void store(const int (&sums)[kTokens / 2], int* acc, long long rows,
                                        int column) const {
    column += lane / 4 * 2;
#pragma unroll
    for (int i = 0; i < kTokens / 4; ++i) {
      int row = i / 2 * 8 + lane % 4 * 2 + i % 2;
      int2 two{sums[i / 2 * 4 + i % 2] >> kDigitBits, sums[i / 2 * 4 + i % 2 + 2] >> kDigitBits};
      int* to = acc + static_cast<long long>(row) * kN + column;
      if (row >= rows) continue;
      if (kN % 2 == 0 && column < kN) *reinterpret_cast<int2*>(to) = two;
      if (kN % 2 && column < kN) to[0] = two.x;
      if (kN % 2 && column + 1 < kN) to[1] = two.y;
    }
  }
};

template <int kN, int kVectors, int kQBytes, int kWords, int kGroups, int kTokens, int kStages,
          int kCopyWarps, int kRegisters>
__device__ __forceinline__ void multiply_by_block(const unsigned* w, const int* q, int* acc,
                                                  long long rows, int block) {
  Many<kN, kVectors, kQBytes, kWords, kGroups, kTokens, kStages, kCopyWarps, kRegisters>()
      .multiply(w, q, acc, rows, block);
}

}  // namespace mmc

#endif
