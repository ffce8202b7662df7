// What TIR has no word for, above all results that the threads of a warp agree on.
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

// Lets the launch behind this one begin, and waits for the end of those before it; what comes
// between may overlap with theirs.  Nothing may be left out: a launch that ends without having waited
// would let the one behind it go on too early.
__device__ __forceinline__ void let_next_begin() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

__device__ __forceinline__ void wait_for_launches() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

}  // namespace mmc

// 1 / (1 + e^-x), within 4 units in the last place; what is not a number stays so.
//
// e^-x is 2^n e^r with |r| < 0.35: n by the addition that rounds to integers, ln 2 in two pieces, e^r
// by the polynomial of Cephes' expf.  From 89 on it is infinite, and below -87 of no weight.
__device__ __forceinline__ float mmc_sigmoid(float x) {
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23
  float bounded;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(bounded) : "f"(-x), "f"(-87.0f));
  asm("min.NaN.f32 %0, %1, %2;" : "=f"(bounded) : "f"(bounded), "f"(89.0f));
  float shifted = __fmaf_rn(bounded, 1.44269504f, kRound), n = __fadd_rn(shifted, -kRound);
  float r = __fmaf_rn(n, 2.12194440e-4f, __fmaf_rn(n, -0.693359375f, bounded));
  float tail = 1.9875691500e-4f;
  tail = __fmaf_rn(tail, r, 1.3981999507e-3f);
  tail = __fmaf_rn(tail, r, 8.3334519073e-3f);
  tail = __fmaf_rn(tail, r, 4.1665795894e-2f);
  tail = __fmaf_rn(tail, r, 1.6666665459e-1f);
  tail = __fmaf_rn(tail, r, 0.5f);
  float mantissa = __fadd_rn(__fmaf_rn(tail, __fmul_rn(r, r), r), 1.0f);
  float power = __int_as_float((__float_as_int(shifted) << 23) + 0x3f800000);
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(__fmaf_rn(mantissa, power, 1.0f)));
  return y;
}

__device__ __forceinline__ float mmc_silu(float x) { return __fmul_rn(x, mmc_sigmoid(x)); }

// The nearest integer, halves away from zero, of what an int32 holds.
__device__ __forceinline__ int mmc_round_half_away(float x) {
  unsigned almost_half = (__float_as_uint(x) & 0x80000000u) | 0x3effffffu;  // with the sign of x
  return __float2int_rz(x + __uint_as_float(almost_half));
}

#endif
