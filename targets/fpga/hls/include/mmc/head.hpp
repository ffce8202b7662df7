// The head: the likeliest token, or the K likeliest; a scale above zero changes no order.
#pragma once

#include "arithmetic.hpp"

namespace mmc {

using Logit = Int<32>;

// logits = 3 * logits + sums: the next lower ternary digit of a dense head.
template <int LANES>
void add_digit(const Sum sums[], int rows, bool first, Logit logits[]) {
    for (int i = 0; i < rows; i += LANES) {
#pragma HLS PIPELINE II = 1
        for (int lane = 0; lane < LANES; ++lane) {
#pragma HLS UNROLL
            if (i + lane < rows) {
                const Logit high = first ? Logit(0) : logits[i + lane];
                logits[i + lane] = Logit(high + high + high + sums[i + lane]);
            }
        }
    }
}

// The K largest sums, the largest first; of equal ones the first counts.
template <int K, class In>
void top_tokens(const In sums[], int rows, int tokens[K], Logit best[K]) {
#pragma HLS ARRAY_PARTITION variable = tokens complete
#pragma HLS ARRAY_PARTITION variable = best complete
    for (int k = 0; k < K; ++k) {
#pragma HLS UNROLL
        tokens[k] = -1;
        best[k] = Logit(-2147483647);
    }
    for (int row = 0; row < rows; ++row) {
#pragma HLS PIPELINE II = 1
        int token = row;
        Logit sum = Logit(sums[row]);
        bool placed = false;  // what is pushed out goes before its equals
        for (int k = 0; k < K; ++k) {
#pragma HLS UNROLL
            if (placed || sum > best[k]) {
                placed = true;
                const int other_token = tokens[k];
                const Logit other = best[k];
                tokens[k] = token, best[k] = sum;
                token = other_token, sum = other;
            }
        }
    }
}

}  // namespace mmc
