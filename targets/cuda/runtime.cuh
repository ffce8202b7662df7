// What runs beside a model's own kernels: the choice of the next token, weights made ready, and a
// read of all memory.
// Appended to every source, behind device.cuh.

// Larger numbers have larger keys, NaN the largest; of equal numbers the first one has.
__device__ __forceinline__ unsigned long long mmc_rank(float value, unsigned position) {
  unsigned bits = __float_as_uint(value + 0.0f);  // -0 is 0
  unsigned key = value != value ? ~0u : bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  return static_cast<unsigned long long>(key) << 32 | ~position;
}

// The position of the largest logit of row blockIdx.x, as numpy.argmax finds it.  It becomes the
// input of the next step, and is handed to the host: `chosen` counts the tokens of a row, of which
// `tokens` [steps, rows] keeps the last ones.
extern "C" __global__ void __launch_bounds__(1024)
    mmc_choose(const float* logits, long long* ids, long long* tokens, long long* chosen,
               int vocabulary, int steps) {
  __shared__ unsigned long long of_warp[32];
  const float* row = logits + static_cast<long long>(blockIdx.x) * vocabulary;
  unsigned long long best = 0;
#pragma unroll 8
  for (int i = threadIdx.x; i < vocabulary; i += blockDim.x)
    best = mmc::Largest::combine(best, mmc_rank(row[i], i));
  best = mmc::warp_combine<mmc::Largest>(best);
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = best;
  __syncthreads();
  if (threadIdx.x >= 32) return;
  best = mmc::warp_combine<mmc::Largest>(of_warp[threadIdx.x]);
  if (threadIdx.x != 0) return;
  long long token = ~static_cast<unsigned>(best);
  long long count = chosen[blockIdx.x]++;
  ids[blockIdx.x] = token;
  tokens[count % steps * gridDim.x + blockIdx.x] = token;
}

// 81 d_0 + 27 d_1 + 9 d_2 + 3 d_3 + d_4 of a byte that is stored (mmc.ir.packing, "1.6bit"): w is
// 27 d_0 + 9 d_1 + 3 d_2 + d_3.
__device__ __forceinline__ unsigned mmc_number(unsigned byte) {
  bool other = byte > 192;  // w is 64 or more
  unsigned w = other ? 64 + (byte - 193) % 18 : byte % 64;
  unsigned d4 = other ? (byte - 193) / 18 : byte / 64;
  return 3 * w + d4;
}

// The word that digits.cuh reads in place of 4 bytes that are stored.  Each byte in turn is the least
// that makes the fraction with those below it number / 243 or more.
__device__ __forceinline__ unsigned mmc_recoded(unsigned word) {
  long long made = 0;
  for (int k = 0; k < 4; ++k) {
    long long place = 1ll << 8 * k, number = mmc_number(word >> (k + 1) % 4 * 8 & 255);
    long long missing = 256 * place * number - 243 * made;
    if (missing > 0) made += (missing + 243 * place - 1) / (243 * place) * place;
  }
  return static_cast<unsigned>(made);
}

// Recodes `count` words where they lie.
extern "C" __global__ void __launch_bounds__(256) mmc_recode(unsigned* words, long long count) {
  long long i = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < count) words[i] = mmc_recoded(words[i]);
}

// Reads `count` times 16 bytes; `sums` keeps the compiler from leaving that out.
extern "C" __global__ void __launch_bounds__(1024)
    mmc_read(const uint4* data, long long count, unsigned* sums) {
  long long first = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
  long long stride = static_cast<long long>(gridDim.x) * blockDim.x;
  unsigned sum = 0;
#pragma unroll 8
  for (long long i = first; i < count; i += stride) {
    uint4 read = data[i];
    sum ^= read.x ^ read.y ^ read.z ^ read.w;
  }
  sums[first] = sum;
}
