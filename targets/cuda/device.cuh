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

// The nearest integer, halves away from zero, of what an int32 holds.
__device__ __forceinline__ int mmc_round_half_away(float x) {
  unsigned almost_half = (__float_as_uint(x) & 0x80000000u) | 0x3effffffu;  // with the sign of x
  return __float2int_rz(x + __uint_as_float(almost_half));
}

#endif
