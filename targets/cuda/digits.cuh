// The digits of packed ternary weights, which are the weights plus 1, and sums over them.
//
// A word of weights holds 4 neighbouring columns of a row, and in each byte the digits of kWords such
// words of activations (mmc.ir.packing): 4 in the layout of 2 bits, 5 in that of 1.6 bits.
//
//     4   d_0 + 4 d_1 + 16 d_2 + 64 d_3
//     5   b = ceil(256 v / 243), where v = 81 d_0 + 27 d_1 + 9 d_2 + 3 d_3 + d_4; `mmc_recode` makes it
//         of the byte that is stored.  floor(3^(i + 1) b / 256) is the number whose digits are d_0
//         to d_i, p_i: the upper byte of a product in 16 bits.  d_i = p_i - 3 p_(i - 1).
#ifndef MMC_DIGITS_CUH
#define MMC_DIGITS_CUH

namespace mmc {

// The bytes of a word in 16 bits each, to be multiplied.
struct Halves {
  unsigned even, odd;

  __device__ __forceinline__ explicit Halves(unsigned word)
      : even(word & 0x00ff00ffu), odd(__byte_perm(word, 0, 0x4341)) {}

  // p_0 of each byte at the first call, p_1 at the second one, and so on.
  __device__ __forceinline__ unsigned next_prefixes() {
    even *= 3, odd *= 3;
    return __byte_perm(even, odd, 0x7351);
  }
};

// The 4 products of bytes are added to `sum`: unsigned times signed.
__device__ __forceinline__ int dot4(unsigned weights, int activations, int sum) {
  int result;
  asm("dp4a.u32.s32 %0, %1, %2, %3;" : "=r"(result) : "r"(weights), "r"(activations), "r"(sum));
  return result;
}

// sums += 16 x 32 times 32 x 8, unsigned bytes times signed ones.
__device__ __forceinline__ void mma_unsigned(int* sums, unsigned a0, unsigned a1, unsigned a2,
                                             unsigned a3, unsigned b0, unsigned b1) {
  asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
               "{%8,%9}, {%0,%1,%2,%3};"
               : "+r"(sums[0]), "+r"(sums[1]), "+r"(sums[2]), "+r"(sums[3])
               : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// Adds four numbers over the 8 lanes that have the same lane % 4.  A lane gets one of the sums, that
// of number summed(lane); each exchange hands on half of what a lane still has.
__device__ __forceinline__ int sum_of_four(const int (&x)[4], int lane) {
  bool upper = lane & 4, odd = lane & 8;
  int low = (upper ? x[2] : x[0]) + __shfl_xor_sync(kAllLanes, upper ? x[0] : x[2], 4);
  int high = (upper ? x[3] : x[1]) + __shfl_xor_sync(kAllLanes, upper ? x[1] : x[3], 4);
  int sum = (odd ? high : low) + __shfl_xor_sync(kAllLanes, odd ? low : high, 8);
  return sum + __shfl_xor_sync(kAllLanes, sum, 16);
}

__device__ __forceinline__ int summed(int lane) { return (lane & 4) / 2 + (lane & 8) / 8; }

template <int kVectors>
__device__ __forceinline__ int existing(int vector) {
  return kVectors == 0 ? vector : min(vector, kVectors - 1);
}

// What a thread adds up where a warp multiplies a tile of weights with one row of q, 8 vectors at a
// time.
template <int kWords>
struct WarpSums;

// With dp4a: a lane has rows 4 (lane % 4) to 4 (lane % 4) + 3 of the tile and vector lane / 4.
template <>
struct WarpSums<4> {
  int rows[4][4];  // [i][j] of digits j as they stand in a byte, which makes it 4^j times too large
  int activations;

  // Reads a lane's words of the 8 vectors from `first` on; past the last of kVectors, that one.  With
  // 0 for kVectors none is past it.
  template <int kVectors, typename Read>
  __device__ __forceinline__ static void load(unsigned* to, const unsigned* tile, int first,
                                              int lane) {
    Read::four(to, tile + existing<kVectors>(first + lane / 4) * 16 + lane % 4 * 4);
  }

  // Multiplies them with the activations of the 8 vectors.
  __device__ __forceinline__ void add(const unsigned* words, const int* q, int lane) {
    int4 read = *reinterpret_cast<const int4*>(q + lane / 4 * 4);
    int own[4] = {read.x, read.y, read.z, read.w};
#pragma unroll
    for (int j = 0; j < 4; ++j) {
#pragma unroll
      for (int i = 0; i < 4; ++i)
        rows[i][j] = dot4(words[i] & 0x03030303u << 2 * j, own[j], rows[i][j]);
      activations = __dp4a(0x01010101, own[j], activations);
    }
  }

  // Writes the sums of the tile's 16 rows.
  __device__ __forceinline__ void store(int* to, int lane, int = 0) const {
    int totals[4];
#pragma unroll
    for (int i = 0; i < 4; ++i)
      totals[i] = rows[i][0] + (rows[i][1] >> 2) + (rows[i][2] >> 4) + (rows[i][3] >> 6) -
                  activations;
    int sum = sum_of_four(totals, lane);
    if (lane < 16) to[lane % 4 * 4 + summed(lane)] = sum;
  }
};

// On tensor cores: a lane has rows 2 (lane / 4) and the next one, vectors lane % 4 and 4 further.
// Even columns of q are the activations of a digit, odd ones those of the next digit: as p_i holds
// all digits up to d_i, the sum over d_i is that of p_i minus 3 times that of p_(i - 1).
template <>
struct WarpSums<5> {
  int products[4];
  int activations[4];

  template <int kVectors, typename Read>
  __device__ __forceinline__ static void load(unsigned* to, const unsigned* tile, int first,
                                              int lane) {
    int vector = first + lane % 4;
    Read::two(to, tile + existing<kVectors>(vector) * 16 + lane / 4 * 2);
    Read::two(to + 2, tile + existing<kVectors>(vector + 4) * 16 + lane / 4 * 2);
  }

  __device__ __forceinline__ void add(const unsigned* words, const int* q, int lane) {
    int shift = lane / 4 % 2;
    q += lane % 4 * 5 + shift;
    Halves rows[4] = {Halves(words[0]), Halves(words[1]), Halves(words[2]), Halves(words[3])};
#pragma unroll
    for (int i = 0; i < 5; ++i) {
      int low = i < 4 || shift == 0 ? q[i] : 0, high = i < 4 || shift == 0 ? q[20 + i] : 0;
      unsigned a[4];
#pragma unroll
      for (int row = 0; row < 4; ++row) a[row] = rows[row].next_prefixes();
      mma_unsigned(products, a[0], a[1], a[2], a[3], low, high);
      mma_unsigned(activations, 0x01010101, 0x01010101, 0x01010101, 0x01010101, low, high);
    }
  }

  // row: of q, where lanes 8 row to 8 row + 7 (modulo 32) gave it to `add`.
  __device__ __forceinline__ void store(int* to, int lane, int row = 0) const {
    if (lane % 4 != row) return;
    int first = products[0] - 3 * products[1] - activations[0];
    int second = products[2] - 3 * products[3] - activations[2];
    *reinterpret_cast<int2*>(to + lane / 4 * 2) = int2{first, second};
  }
};

struct ReadShared {
  __device__ __forceinline__ static void four(unsigned* to, const unsigned* from) {
    *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(from);
  }
  __device__ __forceinline__ static void two(unsigned* to, const unsigned* from) {
    *reinterpret_cast<uint2*>(to) = *reinterpret_cast<const uint2*>(from);
  }
};

// Reads memory that is used once, around the caches' favour, and where the program says so.
struct ReadOnce {
  __device__ __forceinline__ static void four(unsigned* to, const unsigned* from) {
    asm volatile("ld.global.cs.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3]) : "l"(from));
  }
  __device__ __forceinline__ static void two(unsigned* to, const unsigned* from) {
    asm volatile("ld.global.cs.v2.u32 {%0, %1}, [%2];" : "=r"(to[0]), "=r"(to[1]) : "l"(from));
  }
};

// Signed digits for tensor cores come 2^kDigitBits times too large.
template <int kWords>
constexpr int kDigitBits = kWords == 4 ? 6 : 0;

// The weights of word i of activations, for each i.
template <int kWords>
__device__ __forceinline__ void signed_digits(unsigned word, unsigned (&digits)[kWords]);

// The weights of one word of activations.
template <int kWords>
__device__ __forceinline__ unsigned signed_digit(unsigned word, int i);

// The digit in the top bits of each byte of word * power as 64 times {-1, 0, 1}.  What is added
// carries out of a byte, but no further: the digits below are at most 42 together.
template <>
__device__ __forceinline__ unsigned signed_digit<4>(unsigned word, int i) {
  return word * (64u >> 2 * i) + 0xc0c0c0c0u & 0xc0c0c0c0u;
}

template <>
__device__ __forceinline__ void signed_digits<4>(unsigned word, unsigned (&digits)[4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) digits[i] = signed_digit<4>(word, i);
}

// Digits {0, 1, 2} in bytes as {-1, 0, 1}.
__device__ __forceinline__ unsigned less_one(unsigned digits) {
  return digits + 0x7f7f7f7fu ^ 0x80808080u;
}

template <>
__device__ __forceinline__ void signed_digits<5>(unsigned word, unsigned (&digits)[5]) {
  Halves halves(word);
  unsigned before = 0;
#pragma unroll
  for (int i = 0; i < 5; ++i) {
    unsigned prefixes = halves.next_prefixes();
    digits[i] = less_one(prefixes - 3 * before);  // of all four bytes at once: none is below 0
    before = prefixes;
  }
}

// The lower byte of 3^i b is what p_(i - 1) leaves.
template <>
__device__ __forceinline__ unsigned signed_digit<5>(unsigned word, int i) {
  unsigned power = __byte_perm(0x1b090301, 0x51, 0x5550 | i);
  Halves halves(word);
  halves.even = halves.even * power & 0x00ff00ffu, halves.odd = halves.odd * power & 0x00ff00ffu;
  return less_one(halves.next_prefixes());
}

}  // namespace mmc

// `WarpSums` for TIR, which has the sums as integers.
template <int kWords, int kVectors>
__device__ __forceinline__ void mmc_load_once(unsigned* to, const unsigned* tile, int first,
                                              int lane) {
  mmc::WarpSums<kWords>::template load<kVectors, mmc::ReadOnce>(to, tile, first, lane);
}

template <int kWords, int kVectors>
__device__ __forceinline__ void mmc_load_shared(unsigned* to, const unsigned* tile, int first,
                                                int lane) {
  mmc::WarpSums<kWords>::template load<kVectors, mmc::ReadShared>(to, tile, first, lane);
}

template <int kWords>
__device__ __forceinline__ void mmc_add(int* sums, const unsigned* words, const void* q,
                                        int lane) {
  reinterpret_cast<mmc::WarpSums<kWords>*>(sums)->add(words, static_cast<const int*>(q), lane);
}

template <int kWords>
__device__ __forceinline__ void mmc_store(int* to, const int* sums, int lane) {
  reinterpret_cast<const mmc::WarpSums<kWords>*>(sums)->store(to, lane);
}

#endif
