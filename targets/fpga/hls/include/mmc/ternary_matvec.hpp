// The engine: sums[j] = sum over k of W[j, k] * codes[k], rows * columns weights a cycle, without
// a multiplication.  targets/fpga/engine.py draws how the weights lie in memory.
#pragma once

#include "arithmetic.hpp"
#include "codec.hpp"

namespace mmc {

// codes: up to whole slices, filled up with zeros.  sums: up to whole blocks of rows.
template <class C>
void ternary_matvec(Stream<Word<C::word_bits>> words[C::ports], const Int<8> codes[], int rows,
                    int columns, Sum sums[]) {
    using Codec = typename C::Codec;
    constexpr int groups = C::columns / Codec::trits;
    constexpr int copies = MMC_NATIVE ? 1 : C::rows;  // a table has as many ports as rows read it
    typename Codec::Table tables[copies][groups];
#pragma HLS ARRAY_PARTITION variable = tables complete dim = 1
#pragma HLS ARRAY_PARTITION variable = tables complete dim = 2
    const int slices = (columns + C::columns - 1) / C::columns;
    const int blocks = (rows + C::rows - 1) / C::rows;
    for (int slice = 0; slice < slices; ++slice) {
        int d0 = 0, d1 = 0, d2 = 0;
        for (int entry = 0; entry < Codec::entries; ++entry) {
#pragma HLS PIPELINE II = 1
            for (int copy = 0; copy < copies; ++copy) {
#pragma HLS UNROLL
                for (int group = 0; group < groups; ++group) {
#pragma HLS UNROLL
                    Codec::fill(tables[copy][group], entry, d0, d1, d2,
                                codes + slice * C::columns + group * Codec::trits);
                }
            }
            d0 = d0 == 2 ? 0 : d0 + 1;
            d1 = d0 != 0 ? d1 : d1 == 2 ? 0 : d1 + 1;
            d2 = d0 != 0 || d1 != 0 ? d2 : d2 + 1;
        }
        for (int block = 0; block < blocks; ++block) {
#pragma HLS PIPELINE II = 1
#pragma HLS DEPENDENCE variable = sums inter false
            Beat<C::word_bits, C::ports> beat;
            for (int port = 0; port < C::ports; ++port) {
#pragma HLS UNROLL
                beat.put(port, words[port].read());
            }
            for (int row = 0; row < C::rows; ++row) {
#pragma HLS UNROLL
                Sum part = 0;
                for (int group = 0; group < groups; ++group) {
#pragma HLS UNROLL
                    part = Sum(part + Codec::sum(tables[row % copies][group],
                                                 unsigned(field<Codec::bits>(beat, row * groups + group))));
                }
                Sum& sum = sums[block * C::rows + row];
                sum = slice == 0 ? part : Sum(sum + part);
            }
        }
    }
}

}  // namespace mmc
