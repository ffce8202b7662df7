// The head: the likeliest token, or the K likeliest; a scale above zero changes no order.
#pragma once

#include "arithmetic.hpp"

namespace mmc {

// The K largest sums, the largest first; of equal ones the first counts.
template <int K>
void top_tokens(const Sum sums[], int rows, int tokens[K], Sum best[K]) {
#pragma HLS ARRAY_PARTITION variable = tokens complete
#pragma HLS ARRAY_PARTITION variable = best complete
    for (int k = 0; k < K; ++k) {
#pragma HLS UNROLL
        tokens[k] = -1;
        best[k] = Sum(-(1 << 23));
    }
    for (int row = 0; row < rows; ++row) {
#pragma HLS PIPELINE II = 1
        int token = row;
        Sum sum = sums[row];
        bool placed = false;  // what is pushed out goes before its equals
        for (int k = 0; k < K; ++k) {
#pragma HLS UNROLL
            if (placed || sum > best[k]) {
                placed = true;
                const int other_token = tokens[k];
                const Sum other = best[k];
                tokens[k] = token, best[k] = sum;
                token = other_token, sum = other;
            }
        }
    }
}

}  // namespace mmc
