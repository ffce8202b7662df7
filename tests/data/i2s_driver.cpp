// Calls the quantize_i2_s of tests/data/make_i2s.py: floats of rows x columns in, bytes out.
#include <cassert>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>
#define GGML_TYPE_I2_S 36
static size_t ggml_row_size(int, int64_t n) { return n; }  // ggml.c: blocks of 1, a byte each
#include "quantize.inc"
int main(int, char** sizes) {
    int64_t rows = atoll(sizes[1]), columns = atoll(sizes[2]);
    std::vector<float> w(rows * columns);
    if (fread(w.data(), 4, w.size(), stdin) != w.size()) return 1;
    std::vector<uint8_t> out(w.size() / 4 + 32, 0);
    size_t size = quantize_i2_s(w.data(), out.data(), rows, columns, nullptr);
    return fwrite(out.data(), 1, size, stdout) != out.size();
}
