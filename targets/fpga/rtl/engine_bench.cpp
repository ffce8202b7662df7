// Drives ternary_engine alone: reads a run from stdin, writes its sums and cycles to stdout.
//
// stdin, little-endian: int32 {words of x, bytes of a word, slices, row groups, bytes of weights of a
// beat, bytes of a row group's sums, cycles between two beats}, then x, then the beats.
// stdout: int64 cycles from start to idle, then the sums of each row group.
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <vector>

#include "Vternary_engine.h"

namespace {

Vternary_engine top;

void tick() {
    top.clk = 1;
    top.eval();
    top.clk = 0;
    top.eval();
}

std::vector<uint8_t> read_bytes(size_t count) {
    std::vector<uint8_t> bytes(count);
    if (std::fread(bytes.data(), 1, count, stdin) != count) std::exit(2);
    return bytes;
}

}  // namespace

int main() {
    int32_t head[7];
    std::memcpy(head, read_bytes(sizeof head).data(), sizeof head);
    const auto [x_words, x_bytes, slices, groups, w_bytes, y_bytes, gap] = head;
    const auto x = read_bytes(size_t(x_words) * x_bytes);
    const auto beats = read_bytes(size_t(slices) * groups * w_bytes);

    top.rst = 1;
    for (int i = 0; i < 4; ++i) tick();
    top.rst = 0;
    for (int i = 0; i < x_words; ++i) {
        top.x_write = 1;
        top.x_address = i;
        std::memcpy(&top.x_data, &x[size_t(i) * x_bytes], x_bytes);
        tick();
    }
    top.x_write = 0;
    top.slices = slices;
    top.row_groups = groups;
    top.start = 1;
    tick();
    top.start = 0;

    int64_t cycles = 0;
    size_t beat = 0;
    for (int wait = 0; !top.idle; ++cycles, wait -= wait > 0) {
        top.w_valid = wait == 0 && beat < size_t(slices) * groups;
        if (top.w_valid) std::memcpy(&top.w_data, &beats[beat * w_bytes], w_bytes);
        if (top.w_valid && top.w_ready) ++beat, wait = gap + 1;
        tick();
    }
    std::fwrite(&cycles, sizeof cycles, 1, stdout);
    for (int group = 0; group < groups; ++group) {
        top.y_address = group;
        tick();
        tick();
        std::fwrite(&top.y_data, 1, y_bytes, stdout);
    }
}
