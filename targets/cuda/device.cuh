// What TIR has no word for: integer dot products, and results that the threads of a warp agree on.
#ifndef MMC_DEVICE_CUH
#define MMC_DEVICE_CUH

namespace mmc {

constexpr unsigned kAllLanes = 0xffffffffu;

__device__ __forceinline__ unsigned shared_address(const void* pointer) {
  return static_cast<unsigned>(__cvta_generic_to_shared(pointer));
}

struct Sum {
  template <typename T>
  __device__ static T combine(T x, T y) { return x + y; }
};

struct Largest {
  template <typename T>
  __device__ static T combine(T x, T y) { return x > y ? x : y; }
  __device__ static float combine(float x, float y) { return fmaxf(x, y); }
};

// Floats as integers in the same order: these have an instruction for the largest of a warp.
__device__ __forceinline__ unsigned key_of(float value) {
  int bits = __float_as_int(value);
  return bits ^ (bits >> 31 | 0x80000000);
}

__device__ __forceinline__ float of_key(unsigned key) {
  return __uint_as_float(key ^ (static_cast<int>(~key) >> 31 | 0x80000000));
}

// Combines `value` of the threads of a warp; all get the result.
template <typename Operation, typename T>
__device__ T warp_combine(T value) {
  for (int distance = 16; distance > 0; distance /= 2)
    value = Operation::combine(value, __shfl_xor_sync(kAllLanes, value, distance));
  return value;
}

template <>
__device__ inline float warp_combine<Largest, float>(float value) {
  return of_key(__reduce_max_sync(kAllLanes, key_of(value)));
}

// Combines every kStride-th of kCount values in shared memory, halves against halves.
template <typename Operation, int kCount, int kStride = 1, typename T>
__device__ __forceinline__ T combine_all(const T* shared) {
  if constexpr (kCount == kStride) {
    return *shared;
  } else {
    return Operation::combine(combine_all<Operation, kCount, 2 * kStride>(shared),
                              combine_all<Operation, kCount, 2 * kStride>(shared + kStride));
  }
}

// The position of the largest value of the threads of a warp, the first of equal ones.
template <typename T>
__device__ long long warp_first_largest(T value, long long position) {
  T largest = warp_combine<Largest>(value);
  return -warp_combine<Largest>(value == largest ? -position : -(1ll << 62));
}

}  // namespace mmc

// The 16 products of bytes are added to `sum`: unsigned times signed.
__device__ __forceinline__ int mmc_dot4(unsigned weights, int activations, int sum) {
  int result;
  asm("dp4a.u32.s32 %0, %1, %2, %3;" : "=r"(result) : "r"(weights), "r"(activations), "r"(sum));
  return result;
}

// The nearest integer, halves away from zero, of what an int32 holds.
__device__ __forceinline__ int mmc_round_half_away(float x) {
  unsigned almost_half = (__float_as_uint(x) & 0x80000000u) | 0x3effffffu;  // with the sign of x
  return __float2int_rz(x + __uint_as_float(almost_half));
}

__device__ __forceinline__ void mmc_load16(void* to, const void* from) {
  *static_cast<uint4*>(to) = *static_cast<const uint4*>(from);
}

// Reads what is used once, around the caches' favour.
__device__ __forceinline__ void mmc_stream16(void* to, const void* from) {
  *static_cast<uint4*>(to) = __ldcs(static_cast<const uint4*>(from));
}

// Adds four numbers over the 8 lanes that have the same lane % 4.  A lane gets one of the sums, that
// of number mmc_summed(); each exchange hands on half of what a lane still has.
__device__ __forceinline__ int mmc_sum_of_four(int x0, int x1, int x2, int x3) {
  bool upper = threadIdx.x & 4, odd = threadIdx.x & 8;
  int low = (upper ? x2 : x0) + __shfl_xor_sync(mmc::kAllLanes, upper ? x0 : x2, 4);
  int high = (upper ? x3 : x1) + __shfl_xor_sync(mmc::kAllLanes, upper ? x1 : x3, 4);
  int sum = (odd ? high : low) + __shfl_xor_sync(mmc::kAllLanes, odd ? low : high, 8);
  return sum + __shfl_xor_sync(mmc::kAllLanes, sum, 16);
}

__device__ __forceinline__ int mmc_summed() {
  return (threadIdx.x & 4) / 2 + (threadIdx.x & 8) / 8;
}

#endif
