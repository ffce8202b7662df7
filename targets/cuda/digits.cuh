// The digits of packed ternary weights, which are the weights plus 1, and sums over them.
//
// A word of weights holds 4 neighbouring columns of a row, and in each byte the digits of kWords such
// words of activations (mmc.ir.packing): 4 in the layout of 2 bits, 5 in that of 1.6 bits.
//
//     4   d_0 + 4 d_1 + 16 d_2 + 64 d_3
//     5   the word as `mmc_recode` makes it: byte k with all below it is a fraction f_k in [0, 1), and
//         the first five digits of f_k in base 3 are d_0 to d_4 of column (k + 1) % 4.  So a word
//         times 3 hands the next digit out of each byte, into the byte above: where b_k(i) is byte
//         k of 3^i w mod 2^32, 3 b_k(i) - b_k(i + 1) = 256 d_i(k) - d_i(k - 1), with d_i(-1) = 0.
#ifndef MMC_DIGITS_CUH
#define MMC_DIGITS_CUH

namespace mmc {

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

  // Half of the lanes get the sum of a row of the tile each, and which one it is.
  __device__ __forceinline__ static bool has(int lane) { return lane < 16; }
  __device__ __forceinline__ static int row(int lane) { return lane % 4 * 4 + summed(lane); }

  __device__ __forceinline__ int total(int lane) const {
    int totals[4];
#pragma unroll
    for (int i = 0; i < 4; ++i)
      totals[i] = rows[i][0] + (rows[i][1] >> 2) + (rows[i][2] >> 4) + (rows[i][3] >> 6) -
                  activations;
    return sum_of_four(totals, lane);
  }
};

// On tensor cores: a lane has rows 2 (lane / 4) and the next one, vectors lane % 4 and 4 further.
// They multiply the bytes b_k(i) of words times 3^i, which one instruction makes for four columns.
// With x_i(k) the activation of digit d_i(k), and 0 for k > 3, columns 2 c and 2 c + 1 of q are
// x_i(k + c) and x_(i - 1)(k + c); 3 times the sum of the first less that of the second is
//
//     s_c = sum over i and k of (256 d_i(k) - d_i(k - 1)) x_i(k + c)
//
// and 2^24 s_0 + 2^16 s_1 + 2^8 s_2 + s_3 is 2^32 times the sum of d_i(k) x_i(k).
template <>
struct WarpSums<5> {
  // That of i is added to i % 3, so that it need not wait for the one before: 8 bytes of 20 columns,
  // of which a warp may have 160,000.
  int products[3][4];
  int activations;  // of words lane, lane + 32 and so on

  template <int kVectors, typename Read>
  __device__ __forceinline__ static void load(unsigned* to, const unsigned* tile, int first,
                                              int lane) {
    int vector = first + lane % 4;
    Read::two(to, tile + existing<kVectors>(vector) * 16 + lane / 4 * 2);
    Read::two(to + 2, tile + existing<kVectors>(vector + 4) * 16 + lane / 4 * 2);
  }

  __device__ __forceinline__ void add(const unsigned* words, const int* q, int lane) {
    int behind = lane / 4 % 2;
    unsigned order = 0x44440321u >> lane / 8 * 4;  // bytes 1, 2, 3, 0 from byte c on, then zeros
    const int* own = q + lane % 4 * 5 - behind;
    unsigned a[4] = {words[0], words[1], words[2], words[3]};
#pragma unroll
    for (int i = 0; i < 6; ++i) {
      bool exists = behind ? i > 0 : i < 5;
      unsigned low = exists ? __byte_perm(own[i], 0, order) : 0;
      unsigned high = exists ? __byte_perm(own[20 + i], 0, order) : 0;
      mma_unsigned(products[i % 3], a[0], a[1], a[2], a[3], low, high);
#pragma unroll
      for (int row = 0; row < 4; ++row) a[row] *= 3;
    }
    activations = __dp4a(0x01010101, q[lane], activations);
    if (lane < 8) activations = __dp4a(0x01010101, q[32 + lane], activations);
  }

  __device__ __forceinline__ long long product(int i) const {
    return static_cast<long long>(products[0][i]) + products[1][i] + products[2][i];
  }

  __device__ __forceinline__ static bool has(int lane) { return lane % 4 < 2; }
  __device__ __forceinline__ static int row(int lane) { return lane / 4 * 2 + lane % 2; }

  __device__ __forceinline__ int total(int lane) const {
    int shift = 24 - lane % 4 * 8;
    long long first = 3 * product(0) - product(1) << shift;
    long long second = 3 * product(2) - product(3) << shift;
    bool odd = lane & 1;
    long long sum = odd ? second : first;
    sum += __shfl_xor_sync(kAllLanes, odd ? first : second, 1);
    sum += __shfl_xor_sync(kAllLanes, sum, 2);
    return static_cast<int>(sum >> 32) - __reduce_add_sync(kAllLanes, activations);
  }
};

// Writes the sums of the tile's 16 rows.
template <int kWords>
__device__ __forceinline__ void store_sums(int* to, const WarpSums<kWords>& sums, int lane) {
  int total = sums.total(lane);
  if (WarpSums<kWords>::has(lane)) to[WarpSums<kWords>::row(lane)] = total;
}

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
constexpr int kDigitBits = 6;

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

// Multiplies a word by 3, and returns the digits that its bytes hand on: byte k + 1 has that of byte
// k, byte 0 that of byte 3.  `bits` are the last two of each byte of the word, of which
// d(k - 1) = b_k(i + 1) - 3 b_k(i) = b_k(i + 1) + b_k(i) modulo 4.
__device__ __forceinline__ unsigned next_digit(unsigned& word, unsigned& bits) {
  unsigned long long product = word * 3ull;
  unsigned before = bits;
  word = static_cast<unsigned>(product), bits = word & 0x03030303u;
  unsigned digits = before + bits + static_cast<unsigned>(product >> 32);
  return digits * 64 + 0xc0c0c0c0u & 0xc0c0c0c0u;
}

template <>
__device__ __forceinline__ void signed_digits<5>(unsigned word, unsigned (&digits)[5]) {
  unsigned bits = word & 0x03030303u;
#pragma unroll
  for (int i = 0; i < 5; ++i) digits[i] = next_digit(word, bits);
}

template <>
__device__ __forceinline__ unsigned signed_digit<5>(unsigned word, int i) {
  word *= __byte_perm(0x1b090301, 0x51, 0x5550 | i);  // 3^i
  unsigned bits = word & 0x03030303u;
  return next_digit(word, bits);
}

}  // namespace mmc

// `WarpSums` for TIR, which has the sums as integers.
template <int kWords, int kVectors>
__device__ __forceinline__ void mmc_load_once(unsigned* to, const unsigned* tile, int first,
                                              int lane) {
  mmc::WarpSums<kWords>::template load<kVectors, mmc::ReadOnce>(to, tile, first, lane);
}

template <int kWords>
__device__ __forceinline__ void mmc_add(int* sums, const unsigned* words, const void* q,
                                        int lane) {
  reinterpret_cast<mmc::WarpSums<kWords>*>(sums)->add(words, static_cast<const int*>(q), lane);
}

template <int kWords>
__device__ __forceinline__ void mmc_store(int* to, const int* sums, int lane) {
  mmc::store_sums(to, *reinterpret_cast<const mmc::WarpSums<kWords>*>(sums), lane);
}

#endif
