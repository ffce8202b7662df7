// The arithmetic of mmc.ir.fixed_point: shifts, scalars m * 2^-e, root, reciprocal, sigmoid.
#pragma once

#include "types.hpp"
#include "sigmoid_table.hpp"

namespace mmc {

constexpr int ONE_BITS = 16;     // 1.0 as a gate has it is 2^16
constexpr int STATE_SHIFT = 9;   // bits that a state has below those of what goes into it
constexpr int LARGEST_SHIFT = 47;

using Wide = Int<27>;
using Narrow = Int<18>;
using Sum = Int<24>;
using Gain = Int<16>;
using Gate = Uint<17>;
using Exponent = Int<12>;

// mantissa * 2^-exponent, 2^15 <= mantissa < 2^16.
struct Scalar {
    Uint<16> mantissa;
    Exponent exponent;
};

template <int W>
int bit_length(Uint<W> v) {
#pragma HLS INLINE
    int length = 0;
    for (int k = 0; k < W; ++k) {
#pragma HLS UNROLL
        if ((v >> k & 1) != 0) length = k + 1;
    }
    return length;
}

// floor(v * 2^-k); to the left where k is negative.
template <int W>
Int<W> shift_right(Int<W> v, int k) {
#pragma HLS INLINE
    return k >= 0 ? Int<W>(v >> k) : Int<W>(v << -k);
}

// v * 2^-k, halves up; k > 0.
template <int W>
Int<W> round_shift(Int<W> v, int k) {
#pragma HLS INLINE
    return Int<W>(v + (Int<W>(1) << (k - 1))) >> k;
}

// The nearest number of BITS bits, the lowest one left out.
template <int BITS, int W>
Int<BITS> saturate(Int<W> v) {
#pragma HLS INLINE
    const Int<W> largest = (Int<W>(1) << (BITS - 1)) - 1;
    return v > largest ? Int<BITS>(largest) : v < -largest ? Int<BITS>(-largest) : Int<BITS>(v);
}

template <int W>
Uint<W> magnitude(Int<W> v) {
#pragma HLS INLINE
    return v < 0 ? Uint<W>(-v) : Uint<W>(v);
}

inline Scalar multiply(const Scalar& a, const Scalar& b) {
#pragma HLS INLINE
    const Uint<32> product = Uint<32>(Uint<32>(a.mantissa) * Uint<32>(b.mantissa));
    const int drop = product >> 31 != 0 ? 16 : 15;
    return {Uint<16>(product >> drop), Exponent(a.exponent + b.exponent - drop)};
}

// floor(numerator / denominator) in 16 steps; the denominator is at least 2^15, the numerator
// below it times 2^16.
inline Uint<16> divide(Uint<31> numerator, Uint<16> denominator) {
    Uint<17> rest = Uint<17>(numerator >> 16);
    Uint<16> quotient = 0;
    for (int k = 15; k >= 0; --k) {
#pragma HLS PIPELINE II = 1
        rest = Uint<17>(rest << 1 | (numerator >> k & 1));
        if (rest >= denominator) {
            rest = Uint<17>(rest - denominator);
            quotient = Uint<16>(quotient | 1u << k);
        }
    }
    return quotient;
}

// floor(sqrt(v)) in 16 steps.
inline Uint<16> square_root(Uint<32> v) {
    Uint<18> rest = 0;
    Uint<16> root = 0;
    for (int k = 15; k >= 0; --k) {
#pragma HLS PIPELINE II = 1
        rest = Uint<18>(rest << 2 | (v >> 2 * k & 3));
        const Uint<18> trial = Uint<18>(Uint<18>(root) << 2 | 1);
        root = Uint<16>(root << 1);
        if (rest >= trial) {
            rest = Uint<18>(rest - trial);
            root = Uint<16>(root | 1);
        }
    }
    return root;
}

// 1 / sqrt(total); total > 0.
inline Scalar root_and_reciprocal(Uint<62> total) {
    const int half = (bit_length<62>(total) + 1) / 2 - 16;
    const Uint<32> v = Uint<32>(half >= 0 ? Uint<62>(total >> 2 * half) : Uint<62>(total << -2 * half));
    return {divide(0x7fffffffu, square_root(v)), Exponent(31 + half)};
}

// 65536 * sigmoid(x * 2^-fraction), 0 to 65535; 4 <= fraction <= 13.
inline Gate sigmoid(Narrow x, int fraction) {
#pragma HLS INLINE
    Int<28> p = Int<28>((Int<28>(x) << (13 - fraction)) + (1 << 17));
    if (p < 0) p = 0;
    if (p > (1 << 18) - 1) p = (1 << 18) - 1;
    const int entry = int(p >> 8), rest = int(p & 255);
    const Uint<26> line = SIGMOID[entry];
    return Gate((line & 0xffff) + ((Uint<20>(line >> 16) * Uint<20>(rest) + 128) >> 8));
}

// x * sigmoid(x), of the same fraction.
inline Narrow silu(Narrow x, int fraction) {
#pragma HLS INLINE
    return Narrow(round_shift<36>(multiply<18, 18>(x, Int<18>(sigmoid(x, fraction))), ONE_BITS));
}

// value * scale, rounded half up, within BITS bits; value has 24 bits.
template <int BITS>
Int<BITS> rescale(Sum value, const Scalar& scale) {
#pragma HLS INLINE
    const int e = scale.exponent > LARGEST_SHIFT ? LARGEST_SHIFT : int(scale.exponent);
    return saturate<BITS, 49>(
        Int<49>(round_shift<49>(multiply<24, 17>(value, Int<17>(Int<32>(scale.mantissa))), e)));
}

}  // namespace mmc
