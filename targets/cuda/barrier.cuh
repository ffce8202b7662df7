// Barriers in shared memory (mbarrier), each given by its address there.  A phase of one ends after as
// many arrivals as it was made for, when all bytes that it was told to expect are there as well.
#ifndef MMC_BARRIER_CUH
#define MMC_BARRIER_CUH

namespace mmc {

// The memory of one, which counts as its address.
struct Barrier {
  unsigned long long state;
  __device__ __forceinline__ operator unsigned() const { return shared_address(&state); }
};

__device__ __forceinline__ void make_barrier(unsigned barrier, int arrivals) {
  asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}

__device__ __forceinline__ void arrive(unsigned barrier) {
  asm volatile("{ .reg .b64 state; mbarrier.arrive.shared.b64 state, [%0]; }" ::"r"(barrier)
               : "memory");
}

// Arrives when all copies that this thread has begun (`copy16`) are there.
__device__ __forceinline__ void arrive_after_copies(unsigned barrier) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(barrier) : "memory");
}

// Whether a phase has ended: the first one with parity 0, the next one with 1, and so on.
__device__ __forceinline__ bool is_complete(unsigned barrier, int parity) {
  int ended;
  asm volatile("{ .reg .pred p; "
#if __CUDA_ARCH__ >= 900
               "mbarrier.try_wait.parity.shared.b64 p, [%1], %2; "
#else
               "mbarrier.test_wait.parity.shared.b64 p, [%1], %2; "
#endif
               "selp.b32 %0, 1, 0, p; }"
               : "=r"(ended) : "r"(barrier), "r"(parity) : "memory");
  return ended;
}

// The same, without waiting a little.
__device__ __forceinline__ bool has_ended(unsigned barrier, int parity) {
  int ended;
  asm volatile("{ .reg .pred p; mbarrier.test_wait.parity.shared.b64 p, [%1], %2; "
               "selp.b32 %0, 1, 0, p; }"
               : "=r"(ended) : "r"(barrier), "r"(parity) : "memory");
  return ended;
}

__device__ __forceinline__ void wait_for(unsigned barrier, int parity) {
  while (!is_complete(barrier, parity)) {
  }
}

// From here on Hopper: copies in bulk, whose bytes a barrier counts.
__device__ __forceinline__ void arrive_expecting(unsigned barrier, int bytes) {
#if __CUDA_ARCH__ >= 900
  asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
               : "memory");
#else
  __trap();
#endif
}

// Copies bytes that are used once: the cache keeps others before them.
__device__ __forceinline__ void copy_bulk(unsigned to, const void* from, int bytes,
                                          unsigned barrier) {
#if __CUDA_ARCH__ >= 900
  unsigned long long policy;
  asm("createpolicy.fractional.L2::evict_first.b64 %0;" : "=l"(policy));
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
      "[%0], [%1], %2, [%3], %4;" ::"r"(to), "l"(from), "r"(bytes), "r"(barrier), "l"(policy)
      : "memory");
#else
  __trap();
#endif
}

// Lets copies in bulk see the barriers that this thread has made.
__device__ __forceinline__ void show_barriers() {
#if __CUDA_ARCH__ >= 900
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#endif
}

}  // namespace mmc

#endif
