// The C simulation as a library: what `mmc run`, `mmc eval` and Python call.
#include "mmc_top.hpp"

using Word = Config::Word;

static mmc::Memory<Config> memory;
static mmc::Stream<Word> words[Config::ports];

extern "C" int mmc_vocabulary() { return Config::vocabulary; }

// Runs `count` tokens of one sequence.  state: [layers][inner], read and written.
// sums: [count or 1][vocabulary] of every token, or of the last alone; scale: mantissa and exponent
// of each.
extern "C" void mmc_run(const Word* const* banks, const Word* constants, const Word* embedding,
                        const int64_t* ids, int count, bool every, int32_t* state, int32_t* sums,
                        int32_t* scale) {
    for (int port = 0; port < Config::ports; ++port) words[port] = {};
    for (int port = 0; port < Config::ports; ++port) {
        mmc::read_weights<Config::word_bits>(banks[port], Config::beats, count, words[port]);
    }
    for (int layer = 0; layer < Config::layers; ++layer) {
        for (int i = 0; i < Config::inner; ++i) {
            memory.state[layer][i] = state[layer * Config::inner + i];
        }
    }
    for (int n = 0; n < count; ++n) {
        mmc::run_token<Config>(memory, words, constants, embedding, int(ids[n]));
        if (!every && n + 1 < count) continue;
        for (int row = 0; row < Config::vocabulary; ++row) *sums++ = memory.sums[row];
        *scale++ = memory.scale.mantissa;
        *scale++ = memory.scale.exponent;
    }
    for (int layer = 0; layer < Config::layers; ++layer) {
        for (int i = 0; i < Config::inner; ++i) {
            state[layer * Config::inner + i] = memory.state[layer][i];
        }
    }
}
