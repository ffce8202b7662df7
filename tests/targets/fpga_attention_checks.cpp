// Attention of the HLS library for tests/targets/test_fpga_attention.py: on native and on ap types.
#include <vector>

#include "mmc/attention.hpp"
#include "mmc/glu.hpp"
#include "mmc/head.hpp"

// Heads, groups, numbers of a head, bits of a word of the cache; 40 positions.
template <int HEADS, int GROUPS, int WIDTH, int BITS>
struct Sizes {
    static constexpr int heads = HEADS, groups = GROUPS, heads_of_group = HEADS / GROUPS;
    static constexpr int width = WIDTH, context = 40, cache_bits = BITS;
};

template <int BITS>
static std::vector<mmc::Word<BITS>> words_of(const int16_t* numbers, int count) {
    std::vector<mmc::Word<BITS>> words(count * 16 / BITS);
    for (int i = 0; i < count; ++i) {
        mmc::put_sixteen<BITS>(words[i * 16 / BITS], i % (BITS / 16), mmc::Int<16>(numbers[i]));
    }
    return words;
}

// A new position goes into keys and values, which [groups][context][width] hold; then y is what the
// token at that position attends to.
template <class C>
static void step(const int32_t* q, const int32_t* k, const int32_t* v, const int16_t* turn,
                 int16_t* keys, int16_t* values, int position, int mantissa, int exponent,
                 int fraction, int32_t* y) {
    constexpr int size = C::groups * C::context * C::width;
    static mmc::Narrow query[C::heads * C::width], key[C::heads * C::width], value[C::heads * C::width];
    static mmc::Wide scores[C::heads_of_group][C::context], mean[C::heads * C::width];
    mmc::Gain turns[C::width];
    for (int i = 0; i < C::heads * C::width; ++i) query[i] = q[i];
    for (int i = 0; i < C::groups * C::width; ++i) key[i] = k[i], value[i] = v[i];
    for (int i = 0; i < C::width; ++i) turns[i] = turn[i];
    auto key_words = words_of<C::cache_bits>(keys, size), value_words = words_of<C::cache_bits>(values, size);
    mmc::rotate<C::width>(query, C::heads, turns);
    mmc::rotate<C::width>(key, C::groups, turns);
    mmc::append<C::cache_bits, C::width>(key, C::groups, C::context, position, key_words.data());
    mmc::append<C::cache_bits, C::width>(value, C::groups, C::context, position, value_words.data());
    mmc::attend<C>(query, key_words.data(), value_words.data(), position + 1,
                   {mmc::Uint<16>(mantissa), mmc::Exponent(exponent)}, fraction, scores, mean);
    for (int i = 0; i < C::heads * C::width; ++i) y[i] = int(mean[i]);
    for (int i = 0; i < size; ++i) {
        constexpr int each = C::cache_bits / 16;
        keys[i] = int16_t(mmc::sixteen<C::cache_bits>(key_words[i / each], i % each));
        values[i] = int16_t(mmc::sixteen<C::cache_bits>(value_words[i / each], i % each));
    }
}

#define STEP(name, ...)                                                                            \
    extern "C" void name(const int32_t* q, const int32_t* k, const int32_t* v, const int16_t* turn, \
                         int16_t* keys, int16_t* values, int position, int mantissa, int exponent,  \
                         int fraction, int32_t* y) {                                                \
        step<Sizes<__VA_ARGS__>>(q, k, v, turn, keys, values, position, mantissa, exponent,         \
                                 fraction, y);                                                      \
    }

STEP(step_6_2_8, 6, 2, 8, 128)
STEP(step_2_2_16, 2, 2, 16, 64)
STEP(step_1_1_2, 1, 1, 2, 32)

extern "C" int power_of_half(int x, int fraction) {
    return int(mmc::power_of_half(mmc::Uint<28>(x), fraction));
}

// The product of a GLU whose gate and up are sums as they are, by relu(gate)^2 or silu(gate).
extern "C" int gated(int gate, int up, int square, int fraction) {
    const mmc::Scalar one = {mmc::Uint<16>(1u << 15), mmc::Exponent(15)};
    mmc::Sum sums[1] = {mmc::Sum(gate)};
    mmc::Wide product[1];
    if (square) mmc::activate_square<1>(sums, 1, one, 8, product);
    if (!square) mmc::activate_silu<1>(sums, 1, one, fraction, product);
    sums[0] = mmc::Sum(up);
    mmc::multiply_up<1>(sums, 1, one, square ? 17 : 9, product);
    return int(product[0]);
}

// Digits of sums, the highest first, [digits][rows]; returns the likeliest row.
extern "C" int head_of_digits(const int32_t* sums, int digits, int rows, int32_t* logits) {
    std::vector<mmc::Sum> given(rows + 4);
    std::vector<mmc::Logit> found(rows + 4);
    for (int digit = 0; digit < digits; ++digit) {
        for (int row = 0; row < rows; ++row) given[row] = sums[digit * rows + row];
        mmc::add_digit<4>(given.data(), rows, digit == 0, found.data());
    }
    int tokens[1];
    mmc::Logit best[1];
    mmc::top_tokens<1>(found.data(), rows, tokens, best);
    for (int row = 0; row < rows; ++row) logits[row] = int(found[row]);
    return tokens[0];
}
