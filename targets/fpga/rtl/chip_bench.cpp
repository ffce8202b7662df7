// Drives chip: tokens from stdin, the next ones to stdout.
//
// stdin, little-endian: int64 count, then int64 tokens; the first begins a sequence.
// stdout, for each token: int64 {cycles from start to the end of busy, likeliest token}.
#include <cstdint>
#include <cstdio>
#include <vector>

#include "Vchip.h"

namespace {

Vchip top;

void tick() {
    top.clk = 1;
    top.eval();
    top.clk = 0;
    top.eval();
}

}  // namespace

int main() {
    int64_t count = 0;
    if (std::fread(&count, sizeof count, 1, stdin) != 1) return 2;
    std::vector<int64_t> tokens(count);
    if (std::fread(tokens.data(), 8, count, stdin) != size_t(count)) return 2;

    top.rst = 1;
    for (int i = 0; i < 64; ++i) tick();
    top.rst = 0;
    for (int i = 0; i < 64; ++i) tick();
    for (int64_t t = 0; t < count; ++t) {
        int64_t cycles = 0;
        top.token = tokens[t];
        top.fresh = t == 0;
        top.start = 1;
        do {
            tick();
            top.start = 0;
            ++cycles;
        } while (cycles < 4 || top.busy);
        const int64_t said[2] = {cycles, int64_t(top.likeliest)};
        std::fwrite(said, sizeof said, 1, stdout);
    }
}
