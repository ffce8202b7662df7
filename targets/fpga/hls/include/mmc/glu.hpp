// The gated linear unit, product = silu(gate) * up or relu(gate)^2 * up: where one matrix made both
// halves, and where each has its own.
#pragma once

#include "arithmetic.hpp"

namespace mmc {

template <int LANES>
void gated_product(const Sum sums[], int rows, const Scalar& scale, int fraction, Wide product[]) {
    const int half = rows / 2;
    for (int i = 0; i < half; i += LANES) {
#pragma HLS PIPELINE II = 1
        for (int lane = 0; lane < LANES; ++lane) {
#pragma HLS UNROLL
            const Narrow gate = silu(rescale<18>(sums[i + lane], scale), fraction);
            const Narrow up = rescale<18>(sums[half + i + lane], scale);
            product[i + lane] = Wide(round_shift<36>(multiply<18, 18>(gate, up), STATE_SHIFT));
        }
    }
}

// product = silu(gate).
template <int LANES>
void activate_silu(const Sum sums[], int rows, const Scalar& scale, int fraction, Wide product[]) {
    for (int i = 0; i < rows; i += LANES) {
#pragma HLS PIPELINE II = 1
        for (int lane = 0; lane < LANES; ++lane) {
#pragma HLS UNROLL
            product[i + lane] = Wide(silu(rescale<18>(sums[i + lane], scale), fraction));
        }
    }
}

// product = relu(gate)^2, without its last bits.
template <int LANES>
void activate_square(const Sum sums[], int rows, const Scalar& scale, int shift, Wide product[]) {
    for (int i = 0; i < rows; i += LANES) {
#pragma HLS PIPELINE II = 1
        for (int lane = 0; lane < LANES; ++lane) {
#pragma HLS UNROLL
            const Narrow gate = rescale<18>(sums[i + lane], scale);
            const Narrow above = gate > 0 ? gate : Narrow(0);
            product[i + lane] = Wide(round_shift<36>(multiply<18, 18>(above, above), shift));
        }
    }
}

// product = product * up.
template <int LANES>
void multiply_up(const Sum sums[], int rows, const Scalar& scale, int shift, Wide product[]) {
    for (int i = 0; i < rows; i += LANES) {
#pragma HLS PIPELINE II = 1
        for (int lane = 0; lane < LANES; ++lane) {
#pragma HLS UNROLL
            const Narrow up = rescale<18>(sums[i + lane], scale);
            product[i + lane] =
                Wide(round_shift<46>(Int<46>(multiply<27, 18>(product[i + lane], up)), shift));
        }
    }
}

}  // namespace mmc
