// A step of a model as one launch: all its blocks stay on the device, and take phase after phase.
#ifndef MMC_PERSISTENT_CUH
#define MMC_PERSISTENT_CUH

namespace mmc {

// A warp waits for a barrier.
__device__ __forceinline__ void await(unsigned barrier, int parity) {
  while (!__all_sync(kAllLanes, is_complete(barrier, parity))) {
  }
}

// Floats that one block makes and all read: `kMissing` until they are there.
constexpr unsigned kMissing = 0xffffffffu;

__device__ __forceinline__ float relaxed_load(const float* from) {
  float value;
  asm volatile("ld.relaxed.gpu.global.f32 %0, [%1];" : "=f"(value) : "l"(from) : "memory");
  return value;
}

__device__ __forceinline__ void relaxed_store(float* to, float value) {
  asm volatile("st.relaxed.gpu.global.f32 [%0], %1;" ::"l"(to), "f"(value) : "memory");
}

}  // namespace mmc

// Every block begins and ends with these.
__device__ __forceinline__ void mmc_begin_phases() {
  if (threadIdx.x == 0) {
    for (int i = 0; i < mmc::kTold; ++i) {
      mmc::make_barrier(mmc::supply().told[i], 1);
      mmc::make_barrier(mmc::supply().heard[i], mmc::kWarps * 32);
    }
    for (int i = 0; i < mmc::kChunks; ++i) {
      mmc::make_barrier(mmc::supply().full[i], 1);
      mmc::make_barrier(mmc::supply().empty[i], mmc::kWarps * 32);
    }
    mmc::show_barriers();
  }
  __syncthreads();
}

// Which of two areas of floats this launch uses: `finished` counts the blocks that are through.
__device__ __forceinline__ int mmc_area(const unsigned long long* finished) {
  unsigned long long count = *static_cast<const volatile unsigned long long*>(finished);
  return static_cast<int>(count / gridDim.x & 1);
}

__device__ __forceinline__ void mmc_end_phases(unsigned long long* finished) {
  if (threadIdx.x == 0) atomicAdd(finished, 1ull);
}

// The number of the thread, which no code before the call can use.
__device__ __forceinline__ int mmc_thread() {
  int number;
  asm volatile("mov.u32 %0, %tid.x;" : "=r"(number));
  __builtin_assume(number >= 0 && number < mmc::kWarps * 32);
  return number;
}

// Waits for the words of a phase.
__device__ __forceinline__ long long* mmc_begin_phase(long long phase) {
  unsigned number = static_cast<unsigned>(phase), slot = number % mmc::kTold;
  mmc::await(mmc::supply().told[slot], number / mmc::kTold & 1);
  return mmc::supply().words[slot];
}

__device__ __forceinline__ void mmc_end_phase(long long phase) {
  mmc::arrive(mmc::supply().heard[static_cast<unsigned>(phase) % mmc::kTold]);
}

// Waits for a chunk, and returns where in the ring it lies.
__device__ __forceinline__ int mmc_begin_chunk(unsigned chunk) {
  unsigned slot = chunk % mmc::kChunks;
  mmc::await(mmc::supply().full[slot], chunk / mmc::kChunks & 1);
  return mmc::supply().start[slot];
}

// Where a chunk lies if it is there already, or else -1.
__device__ __forceinline__ int mmc_try_chunk(unsigned chunk) {
  unsigned slot = chunk % mmc::kChunks;
  bool there = mmc::has_ended(mmc::supply().full[slot], chunk / mmc::kChunks & 1);
  return __all_sync(mmc::kAllLanes, there) ? mmc::supply().start[slot] : -1;
}

__device__ __forceinline__ void mmc_end_chunk(unsigned chunk) {
  mmc::arrive(mmc::supply().empty[chunk % mmc::kChunks]);
}

__device__ __forceinline__ float* mmc_gain(int offset) {
  return reinterpret_cast<float*>(mmc::ring() + offset);
}

// A barrier of the warps that compute.
__device__ __forceinline__ void mmc_sync_warps() {
  asm volatile("bar.sync 1, %0;" ::"n"(mmc::kWarps * 32) : "memory");
}

// Reads the columns of a thread, whether they are there or not.
template <int kSteps>
__device__ __forceinline__ void mmc_look_row(float* to, const float* from, int columns) {
  constexpr int kStride = mmc::kWarps * 32;
#pragma unroll
  for (int i = 0; i < kSteps; ++i)
    if (i * kStride + static_cast<int>(threadIdx.x) < columns)
      to[i] = mmc::relaxed_load(from + i * kStride + threadIdx.x);
}

// Reads them again until all of a warp are there: its threads stay together.
template <int kSteps>
__device__ __forceinline__ void mmc_settle_row(float* to, const float* from, int columns) {
  constexpr int kStride = mmc::kWarps * 32;
  for (;;) {
    bool missing = false;
#pragma unroll
    for (int i = 0; i < kSteps; ++i)
      if (i * kStride + static_cast<int>(threadIdx.x) < columns)
        missing |= __float_as_uint(to[i]) == mmc::kMissing;
    if (!__any_sync(mmc::kAllLanes, missing)) return;
#pragma unroll
    for (int i = 0; i < kSteps; ++i)
      if (i * kStride + static_cast<int>(threadIdx.x) < columns &&
          __float_as_uint(to[i]) == mmc::kMissing)
        to[i] = mmc::relaxed_load(from + i * kStride + threadIdx.x);
  }
}

__device__ __forceinline__ float mmc_look(const float* from) { return mmc::relaxed_load(from); }

__device__ __forceinline__ float mmc_settle(float seen, const float* from) {
  while (__float_as_uint(seen) == mmc::kMissing) seen = mmc::relaxed_load(from);
  return seen;
}

// Hands a float to all blocks, and makes its place in the area of the next launch empty.
__device__ __forceinline__ void mmc_publish(float* to, float* next, float value) {
  bool looks_missing = __float_as_uint(value) == mmc::kMissing;
  mmc::relaxed_store(to, looks_missing ? __uint_as_float(0x7fffffffu) : value);  // a NaN either way
  mmc::relaxed_store(next, __uint_as_float(mmc::kMissing));
}
#endif
