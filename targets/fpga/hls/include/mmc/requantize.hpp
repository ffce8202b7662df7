// From sums back to numbers, and the residual stream that they are added to.
#pragma once

#include "arithmetic.hpp"

namespace mmc {

// stream += sums * scale, within 27 bits.
template <int LANES>
void add_residual(const Sum sums[], int rows, const Scalar& scale, Wide stream[]) {
    for (int i = 0; i < rows; i += LANES) {
#pragma HLS PIPELINE II = 1
        for (int lane = 0; lane < LANES; ++lane) {
#pragma HLS UNROLL
            const Wide y = rescale<27>(sums[i + lane], scale);
            stream[i + lane] = saturate<27, 28>(Int<28>(Int<28>(stream[i + lane]) + y));
        }
    }
}

// y = sums * scale in 18 bits.
template <int LANES>
void store(const Sum sums[], int rows, const Scalar& scale, Narrow y[]) {
    for (int i = 0; i < rows; i += LANES) {
#pragma HLS PIPELINE II = 1
        for (int lane = 0; lane < LANES; ++lane) {
#pragma HLS UNROLL
            y[i + lane] = rescale<18>(sums[i + lane], scale);
        }
    }
}

}  // namespace mmc
