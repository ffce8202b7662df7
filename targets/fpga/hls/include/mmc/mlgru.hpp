// One step of the MLGRU (arXiv:2406.02528, section 3.3.1): forget gate, state, output gate.
#pragma once

#include "norm_quantize.hpp"

namespace mmc {

// forget = bound + (1 - bound) * sigmoid(f): below 65536.
template <int LANES>
void forget_gate(const Sum sums[], int rows, const Scalar& scale, int fraction, bool has_bound,
                 const Uint<16> bound[], Gate forget[]) {
    for (int i = 0; i < rows; i += LANES) {
#pragma HLS PIPELINE II = 1
        for (int lane = 0; lane < LANES; ++lane) {
#pragma HLS UNROLL
            const Gate s = sigmoid(rescale<18>(sums[i + lane], scale), fraction);
            const Uint<16> low = has_bound ? bound[i + lane] : Uint<16>(0);
            const Gate rest = Gate((1u << ONE_BITS) - low);
            forget[i + lane] = Gate(low + (Uint<34>(Uint<34>(rest) * Uint<34>(s)) >> ONE_BITS));
        }
    }
}

// state = forget * state + (1 - forget) * silu(i); mixed = silu(state).
template <int LANES>
void update_state(const Sum sums[], int rows, const Scalar& scale, int fraction,
                  const Gate forget[], Wide state[], Narrow mixed[]) {
    for (int i = 0; i < rows; i += LANES) {
#pragma HLS PIPELINE II = 1
        for (int lane = 0; lane < LANES; ++lane) {
#pragma HLS UNROLL
            const Narrow c = silu(rescale<18>(sums[i + lane], scale), fraction);
            const Int<18> keep = Int<18>(forget[i + lane]);
            const Int<18> let_in = Int<18>((1 << ONE_BITS) - keep);
            const Int<46> mean =
                Int<46>(multiply<27, 18>(state[i + lane], keep)) +
                Int<46>(multiply<27, 18>(Wide(Wide(c) << STATE_SHIFT), let_in));
            const Wide h = Wide(round_shift<46>(mean, ONE_BITS));
            state[i + lane] = h;
            mixed[i + lane] = silu(Narrow(round_shift<28>(Int<28>(h), STATE_SHIFT)), fraction);
        }
    }
}

// product = norm(g) * mixed; n and norm are what `normalize` made of g, constant its constant.
template <int LANES>
void output_gate(const Narrow n[], int length, bool has_gain, const Gain gain[],
                 const Scalar& norm, const Scalar& constant, const Narrow mixed[], Wide product[]) {
    const Reduction by = reduction<LANES>(n, length, has_gain, gain);
    const Scalar scale =
        multiply({norm.mantissa, Exponent(norm.exponent - by.shift)}, constant);
    for (int i = 0; i < length; i += LANES) {
#pragma HLS PIPELINE II = 1
        for (int lane = 0; lane < LANES; ++lane) {
#pragma HLS UNROLL
            const Sum w =
                Sum(shift_right<34>(gained(n[i + lane], has_gain, gain[i + lane]), by.shift));
            product[i + lane] = Wide(round_shift<36>(
                multiply<18, 18>(rescale<18>(w, scale), mixed[i + lane]), STATE_SHIFT));
        }
    }
}

}  // namespace mmc
