// Codes of ternary weights as addresses of tables of sums; targets/fpga/codec.py defines them.
#pragma once

#include "types.hpp"

namespace mmc {

// (digit - 1) * x.
inline Int<10> take(int digit, Int<8> x) {
#pragma HLS INLINE
    return digit == 2 ? Int<10>(x) : digit == 0 ? Int<10>(-Int<10>(x)) : Int<10>(0);
}

// 27 sums of three inputs, under d0 + 3 d1 + 9 d2.
struct Codec5b3t {
    static constexpr int bits = 5, trits = 3, entries = 27;
    struct Table {
        Int<10> three[32];
    };
    static void fill(Table& table, int entry, int d0, int d1, int d2, const Int<8> x[3]) {
#pragma HLS INLINE
        table.three[entry] = Int<10>(take(d0, x[0]) + take(d1, x[1]) + take(d2, x[2]));
    }
    static Int<10> sum(const Table& table, unsigned code) {
#pragma HLS INLINE
        return table.three[code];
    }
};

// As above, and 9 sums of two more.
struct Codec8b5t {
    static constexpr int bits = 8, trits = 5, entries = 27;
    struct Table {
        Int<10> three[32];
        Int<10> two[16];
    };
    static void fill(Table& table, int entry, int d0, int d1, int d2, const Int<8> x[5]) {
#pragma HLS INLINE
        table.three[entry] = Int<10>(take(d0, x[0]) + take(d1, x[1]) + take(d2, x[2]));
        if (entry < 9) table.two[entry] = Int<10>(take(d0, x[3]) + take(d1, x[4]));
    }
    static Int<11> sum(const Table& table, unsigned code) {
#pragma HLS INLINE
        const bool escape = code >> 5 == 7;
        const unsigned upper = escape ? code & 7 : code >> 5, b = escape ? 8 : code & 7;
        return Int<11>(table.three[upper << 2 | (code >> 3 & 3)] + table.two[b]);
    }
};

// No table: a weight adds, subtracts or skips.
struct Codec2b1t {
    static constexpr int bits = 2, trits = 1, entries = 1;
    struct Table {
        Int<8> one;
    };
    static void fill(Table& table, int, int, int, int, const Int<8> x[1]) {
#pragma HLS INLINE
        table.one = x[0];
    }
    static Int<10> sum(const Table& table, unsigned code) {
#pragma HLS INLINE
        return take(int(code), table.one);
    }
};

}  // namespace mmc
