// Norms and int8 codes: two passes over a vector bring it to 17 bits and sum its squares, two
// more multiply it by gains and round it to codes.
#pragma once

#include "arithmetic.hpp"

namespace mmc {

// x * gain, or x.
template <class In>
Int<43> with_gain(In x, bool has_gain, Gain gain) {
#pragma HLS INLINE
    return has_gain ? Int<43>(multiply<27, 16>(Wide(x), gain)) : Int<43>(x);
}

// n = x * gain in 17 bits and a sign; returns 1 / sqrt(sum(n^2) + eps).
template <int LANES, class In>
Scalar normalize(const In x[], int length, bool has_gain, const Gain gain[], int eps_mantissa,
                 int eps_exponent, Narrow n[]) {
    Uint<43> top = 0;
    for (int i = 0; i < length; i += LANES) {
#pragma HLS PIPELINE II = 1
        for (int lane = 0; lane < LANES; ++lane) {
#pragma HLS UNROLL
            const Uint<43> size = magnitude<43>(with_gain(x[i + lane], has_gain, gain[i + lane]));
            if (size > top) top = size;
        }
    }
    const int shift = top == 0 ? 0 : bit_length<43>(top) - 17;
    Uint<62> total = 0;
    for (int i = 0; i < length; i += LANES) {
#pragma HLS PIPELINE II = 1
        Uint<62> part = 0;
        for (int lane = 0; lane < LANES; ++lane) {
#pragma HLS UNROLL
            const Narrow reduced = Narrow(
                shift_right<43>(with_gain(x[i + lane], has_gain, gain[i + lane]), shift));
            n[i + lane] = reduced;
            part = Uint<62>(part + Uint<36>(multiply<18, 18>(reduced, reduced)));
        }
        total = Uint<62>(total + part);
    }
    const int k = eps_exponent - 2 * shift;
    const Uint<62> eps = Uint<62>(eps_mantissa);
    total = Uint<62>(total + (k >= 0 ? Uint<62>(eps << (k < 44 ? k : 44))
                                     : Uint<62>(eps >> (k > -16 ? -k : 16))));
    return root_and_reciprocal(total == 0 ? Uint<62>(1) : total);
}

inline Int<34> gained(Narrow n, bool has_gain, Gain gain) {
#pragma HLS INLINE
    return has_gain ? Int<34>(multiply<18, 16>(n, gain)) : Int<34>(Int<34>(n) << 15);
}

// What brings n * gain to 16 bits: the shift, and the largest number then.
struct Reduction {
    int shift;
    Uint<16> top;
};

template <int LANES>
Reduction reduction(const Narrow n[], int length, bool has_gain, const Gain gain[]) {
    Uint<34> top = 0;
    for (int i = 0; i < length; i += LANES) {
#pragma HLS PIPELINE II = 1
        for (int lane = 0; lane < LANES; ++lane) {
#pragma HLS UNROLL
            const Uint<34> size = magnitude<34>(gained(n[i + lane], has_gain, gain[i + lane]));
            if (size > top) top = size;
        }
    }
    if (top == 0) return {0, Uint<16>(1u << 15)};
    const int shift = bit_length<34>(top) - 16;
    return {shift, Uint<16>(shift >= 0 ? Uint<34>(top >> shift) : Uint<34>(top << -shift))};
}

// codes = n * gain, the largest as 127; returns the largest times the norm's scalar.
template <int LANES>
Scalar quantize(const Narrow n[], int length, bool has_gain, const Gain gain[], const Scalar& norm,
                Int<8> codes[]) {
    const Reduction by = reduction<LANES>(n, length, has_gain, gain);
    const Uint<16> inverse = divide(127u << 24, by.top);
    for (int i = 0; i < length; i += LANES) {
#pragma HLS PIPELINE II = 1
        for (int lane = 0; lane < LANES; ++lane) {
#pragma HLS UNROLL
            const Int<18> w = Int<18>(
                shift_right<34>(gained(n[i + lane], has_gain, gain[i + lane]), by.shift));
            codes[i + lane] =
                Int<8>(round_shift<36>(multiply<18, 18>(w, Int<18>(Int<32>(inverse))), 24));
        }
    }
    return multiply({by.top, Exponent(-by.shift)}, norm);
}

}  // namespace mmc
