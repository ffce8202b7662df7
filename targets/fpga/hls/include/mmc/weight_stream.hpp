// What comes from memory: weights in one linear read a token, vectors as they are needed.
#pragma once

#include "types.hpp"

namespace mmc {

// `times` times the `count` words of one port, in order: the next token's weights come while the
// last vectors of this one are worked on.
template <int BITS>
void read_weights(const Word<BITS>* port, long count, int times, Stream<Word<BITS>>& words) {
#if MMC_NATIVE
    (void)times;
    words.lend(port, count);
#else
    for (int time = 0; time < times; ++time) {
        for (long i = 0; i < count; ++i) {
#pragma HLS PIPELINE II = 1
            words.write(port[i]);
        }
    }
#endif
}

// `length` numbers of 16 bits from a word on; returns the word behind them.
template <int BITS, class Out>
long read_vector(const Word<BITS>* memory, long at, int length, Out vector[]) {
    constexpr int each = BITS / 16;
    for (int i = 0; i < length; i += each, ++at) {
#pragma HLS PIPELINE II = 1
        const Word<BITS> word = memory[at];
        for (int k = 0; k < each; ++k) {
#pragma HLS UNROLL
            if (i + k < length) vector[i + k] = Out(sixteen<BITS>(word, k));
        }
    }
    return at;
}

}  // namespace mmc
