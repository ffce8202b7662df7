"""NVIDIA GPUs: TIR kernels through TVM, compiled by NVRTC, run through the CUDA driver."""
