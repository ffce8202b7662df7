// The C simulation as a library: what `mmc run`, `mmc eval` and Python call.
#include "mmc_top.hpp"

using Word = Config::Word;

static mmc::Memory<Config> memory;
static mmc::Stream<Word> words[Config::ports];

extern "C" int mmc_vocabulary() { return Config::vocabulary; }

// Runs `count` tokens of one sequence.  state: [states][inner], read and written.  cache: keys and
// values of each layer, [groups][context][width], of which `position` are known; written where
// `append`.  sums: [count or 1][vocabulary] of every token, or of the last alone; scale: mantissa and exponent
// of each.
extern "C" void mmc_run(const Word* const* banks, const Word* constants, const Word* embedding,
                        const int64_t* ids, int count, bool every, int32_t* state,
                        mmc::Word<Config::cache_bits>* cache, int position, bool append,
                        int32_t* sums, int32_t* scale) {
    for (int port = 0; port < Config::ports; ++port) words[port] = {};
    for (int port = 0; port < Config::ports; ++port) {
        mmc::read_weights<Config::word_bits>(banks[port], Config::beats, count, words[port]);
    }
    memory.position = position;
    memory.append = append;
    for (int slot = 0; slot < Config::states; ++slot) {
        for (int i = 0; i < Config::inner; ++i) {
            memory.state[slot][i] = state[slot * Config::inner + i];
        }
    }
    for (int n = 0; n < count; ++n) {
        mmc::run_token<Config>(memory, words, constants, embedding, cache, int(ids[n]));
        if (!every && n + 1 < count) continue;
        for (int row = 0; row < Config::vocabulary; ++row) {
            *sums++ = Config::digits ? memory.logits[row] : memory.sums[row];
        }
        *scale++ = memory.scale.mantissa;
        *scale++ = memory.scale.exponent;
    }
    for (int slot = 0; slot < Config::states; ++slot) {
        for (int i = 0; i < Config::inner; ++i) {
            state[slot * Config::inner + i] = memory.state[slot][i];
        }
    }
}
