// The gated linear unit: product = silu(gate) * up, where one matrix made both halves.
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

}  // namespace mmc
