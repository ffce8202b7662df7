// Attention over a cache in external memory: a token's query against all keys, then its mean of all
// values.  The cache is read in order, once for the keys and once for the values of each group; its
// rows are whole words, position after position.
#pragma once

#include "arithmetic.hpp"
#include "power_table.hpp"

namespace mmc {

constexpr int TURN_SHIFT = 14;  // 1.0 as a cosine has it is 2^14
constexpr int SHARE_BITS = 24;  // the share of the largest score is 2^24
constexpr int MEAN_SHIFT = 11;  // bits that a mean has below those of the values
constexpr int CACHE_SHIFT = 2;  // bits of keys and values that the cache does not keep

// Turn the pairs (x[j], x[j + width / 2]) of each head; turn holds cosines, then sines.
template <int WIDTH>
void rotate(Narrow x[], int heads, const Gain turn[WIDTH]) {
    for (int head = 0; head < heads; ++head) {
        for (int j = 0; j < WIDTH / 2; ++j) {
#pragma HLS PIPELINE II = 1
            const int at = head * WIDTH + j;
            const Narrow first = x[at], second = x[at + WIDTH / 2];
            const Gain cos = turn[j], sin = turn[j + WIDTH / 2];
            x[at] = saturate<18, 36>(Int<36>(round_shift<36>(
                Int<36>(multiply<18, 16>(first, cos) - multiply<18, 16>(second, sin)), TURN_SHIFT)));
            x[at + WIDTH / 2] = saturate<18, 36>(Int<36>(round_shift<36>(
                Int<36>(multiply<18, 16>(second, cos) + multiply<18, 16>(first, sin)), TURN_SHIFT)));
        }
    }
}

// One position of a cache [groups][context][width], in 16 bits.
template <int BITS, int WIDTH>
void append(const Narrow x[], int groups, int context, int position, Word<BITS>* cache) {
    constexpr int each = BITS / 16, words = WIDTH / each;
    for (int group = 0; group < groups; ++group) {
        for (int n = 0; n < words; ++n) {
#pragma HLS PIPELINE II = 1
            Word<BITS> word;
            for (int k = 0; k < each; ++k) {
#pragma HLS UNROLL
                const Narrow number = x[group * WIDTH + n * each + k];
                put_sixteen<BITS>(word, k, saturate<16, 19>(Int<19>(
                    round_shift<19>(Int<19>(number), CACHE_SHIFT))));
            }
            cache[(long(group) * context + position) * words + n] = word;
        }
    }
}

// 2^24 * 2^-(x * 2^-fraction), x >= 0; 8 <= fraction <= 16.
inline Uint<25> power_of_half(Uint<28> x, int fraction) {
#pragma HLS INLINE
    const Uint<36> steps = Uint<36>(Uint<36>(x) << (16 - fraction));
    const int entry = int(steps >> 8 & 255), rest = int(steps & 255);
    const Uint<20> high = POWER[entry], fall = Uint<20>(high - POWER[entry + 1]);
    const Uint<20> power = Uint<20>(high - ((Uint<28>(fall) * Uint<28>(rest) + 128) >> 8));
    const Uint<20> whole = Uint<20>(steps >> 16);
    return Uint<25>(Uint<25>(Uint<25>(power) << (SHARE_BITS - 18)) >> (whole > 31 ? 31 : int(whole)));
}

// What brings a mean of values to 27 bits: a shift of its sum, and a reciprocal.
struct Share {
    int drop;
    Uint<16> reciprocal;

    explicit Share(Uint<48> total)
        : drop(bit_length<48>(total) - 16), reciprocal(divide(0x7fffffffu, Uint<16>(total >> drop))) {}

    Wide of(Int<62> sum) const {
#pragma HLS INLINE
        const Int<26> reduced = Int<26>(shift_right<62>(sum, drop + 8));
        return saturate<27, 49>(Int<49>(round_shift<49>(
            multiply<26, 17>(reduced, Int<17>(Int<32>(reciprocal))), 31 - 8 - MEAN_SHIFT)));
    }
};

// Scores of the heads of one group over `known` positions; `keys` is the group's part of the cache.
// A score is the sum of query * key, times the constant, in steps of 2^-fraction.
template <class C>
void score_keys(const Narrow query[], const Word<C::cache_bits>* keys, int known,
                const Scalar& constant, Wide scores[C::heads_of_group][C::context],
                Wide top[C::heads_of_group]) {
    constexpr int each = C::cache_bits / 16, words = C::width / each, heads = C::heads_of_group;
    Int<44> dot[heads] = {};
#pragma HLS ARRAY_PARTITION variable = dot complete
    for (int position = 0; position < known; ++position) {
        for (int n = 0; n < words; ++n) {
#pragma HLS PIPELINE II = 1
            const Word<C::cache_bits> word = keys[long(position) * words + n];
            for (int head = 0; head < heads; ++head) {
#pragma HLS UNROLL
                Int<44> part = n == 0 ? Int<44>(0) : dot[head];
                for (int k = 0; k < each; ++k) {
#pragma HLS UNROLL
                    part = Int<44>(part + multiply<18, 16>(query[head * C::width + n * each + k],
                                                           sixteen<C::cache_bits>(word, k)));
                }
                dot[head] = part;
                if (n + 1 < words) continue;
                const Wide score = saturate<27, 62>(Int<62>(round_shift<62>(
                    Int<62>(multiply<44, 17>(part, Int<17>(Int<32>(constant.mantissa)))),
                    int(constant.exponent))));
                scores[head][position] = score;
                if (position == 0 || score > top[head]) top[head] = score;
            }
        }
    }
}

// The means of the values by the shares 2^(score - top), for the heads of one group.
template <class C>
void mean_values(const Word<C::cache_bits>* values, int known, int fraction,
                 const Wide scores[C::heads_of_group][C::context],
                 const Wide top[C::heads_of_group], Wide mean[]) {
    constexpr int each = C::cache_bits / 16, words = C::width / each, heads = C::heads_of_group;
    Int<62> sums[heads][C::width];
    Uint<48> total[heads] = {};
    Uint<25> share[heads] = {};
#pragma HLS ARRAY_PARTITION variable = sums complete dim = 1
#pragma HLS ARRAY_PARTITION variable = sums cyclic factor = each dim = 2
#pragma HLS ARRAY_PARTITION variable = total complete
#pragma HLS ARRAY_PARTITION variable = share complete
    for (int position = 0; position < known; ++position) {
        for (int n = 0; n < words; ++n) {
#pragma HLS PIPELINE II = 1
            const Word<C::cache_bits> word = values[long(position) * words + n];
            for (int head = 0; head < heads; ++head) {
#pragma HLS UNROLL
                if (n == 0) {
                    share[head] = power_of_half(
                        Uint<28>(Int<28>(top[head]) - Int<28>(scores[head][position])), fraction);
                    total[head] = Uint<48>((position == 0 ? Uint<48>(0) : total[head]) + share[head]);
                }
                for (int k = 0; k < each; ++k) {
#pragma HLS UNROLL
                    Int<62>& sum = sums[head][n * each + k];
                    sum = Int<62>((position == 0 ? Int<62>(0) : sum) +
                                  multiply<26, 16>(Int<26>(Int<32>(share[head])),
                                                   sixteen<C::cache_bits>(word, k)));
                }
            }
        }
    }
    for (int head = 0; head < heads; ++head) {
        const Share by(total[head]);
        for (int k = 0; k < C::width; ++k) {
#pragma HLS PIPELINE II = 1
            mean[head * C::width + k] = by.of(sums[head][k]);
        }
    }
}

// mean = attention of all heads over the first `known` positions of a layer's cache.
template <class C>
void attend(const Narrow query[], const Word<C::cache_bits>* keys,
            const Word<C::cache_bits>* values, int known, const Scalar& constant, int fraction,
            Wide scores[C::heads_of_group][C::context], Wide mean[]) {
    constexpr long group_words = long(C::context) * C::width * 16 / C::cache_bits;
    for (int group = 0; group < C::groups; ++group) {
        const int first = group * C::heads_of_group * C::width;
        Wide top[C::heads_of_group];
#pragma HLS ARRAY_PARTITION variable = top complete
        score_keys<C>(query + first, keys + group * group_words, known, constant, scores, top);
        mean_values<C>(values + group * group_words, known, fraction, scores, top, mean + first);
    }
}

}  // namespace mmc
