// What TIR has no word for, above all results that the threads of a warp agree on.
#ifndef MMC_DEVICE_CUH
#define MMC_DEVICE_CUH

namespace mmc {

constexpr unsigned kAllLanes = 0xffffffffu;

__device__ __forceinline__ unsigned shared_address(const void* pointer) {
  return static_cast<unsigned>(__cvta_generic_to_shared(pointer));
}

// The same, settled where the program says so.
__device__ __forceinline__ unsigned long long settled_address(const void* pointer) {
  unsigned long long address;
  asm volatile("cvta.to.shared.u64 %0, %1;" : "=l"(address) : "l"(pointer));
  return address;
}

// Stores a number at an address in shared memory, or not.
__device__ __forceinline__ void store_shared(unsigned long long to, int value, int wanted) {
  asm volatile("{ .reg .pred p; setp.ne.s32 p, %2, 0; @p st.shared.s32 [%0], %1; }"
               :: "l"(to), "r"(value), "r"(wanted) : "memory");
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

// ((x0 + x1) + (x2 + x3)) of four threads side by side; all get the result.
__device__ __forceinline__ float of_four(float x) {
  x += __shfl_xor_sync(kAllLanes, x, 1);
  return x + __shfl_xor_sync(kAllLanes, x, 2);
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

// The nearest integer in [-128, 127], halves away from zero; 0 for what is not a number.
__device__ __forceinline__ int mmc_round_to_int8(float x) {
  unsigned almost_half;  // with the sign of x
  asm("lop3.b32 %0, %1, %2, %3, 0xea;"
      : "=r"(almost_half) : "r"(__float_as_uint(x)), "r"(0x80000000u), "r"(0x3effffffu));
  int whole;
  asm("cvt.rzi.s8.f32 %0, %1;" : "=r"(whole) : "f"(x + __uint_as_float(almost_half)));
  return whole;
}

// Quotients and roots, the same bits as / and sqrtf give.  The compiler's own look first whether a
// number is near an end of the range, and go another way: such a branch takes as long as the rest.

// 1 / x for 2^-126 < |x| < 2^126.
__device__ __forceinline__ float mmc_reciprocal(float x) {
  float near;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(near) : "f"(x));
  return __fmaf_rn(near, -__fmaf_rn(near, x, -1.0f), near);
}

// x / y for x from 2^-20 to 2^20 and y from 2^-90 on; not a number where y is infinite.
__device__ __forceinline__ float mmc_quotient(float x, float y) {
  constexpr float kSmaller = 1.0f / (1ull << 32);  // so that 1 / y is no smaller than floats are
  float dividend = __fmul_rn(x, kSmaller), divisor = __fmul_rn(y, kSmaller);
  float inverse = mmc_reciprocal(divisor), near = __fmul_rn(dividend, inverse);
  return __fmaf_rn(inverse, __fmaf_rn(-divisor, near, dividend), near);
}

// x / y where `inverse` is 1 / y, rounded.
__device__ __forceinline__ float mmc_over(float x, float y, float inverse) {
  float near = __fmul_rn(x, inverse);
  float exact = __fmaf_rn(__fmaf_rn(-near, y, x), inverse, near);
  return near == __int_as_float(0x7f800000) ? near : exact;
}

// 1 / sqrtf(x) for x from 2^-100 on.
__device__ __forceinline__ float mmc_inverse_root(float x) {
  float inverse;
  asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(x));
  float root = __fmul_rn(x, inverse);
  root = __fmaf_rn(__fmaf_rn(-root, root, x), __fmul_rn(inverse, 0.5f), root);
  return x == __int_as_float(0x7f800000) ? 0.0f : mmc_reciprocal(root);
}

#endif
