"""MMC compiles ternary-weight recurrent language models for CPU, GPU and FPGA."""
