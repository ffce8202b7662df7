// What tests/targets/test_fpga_hls.py calls: the library's parts alone, native or on ap types.
#include "mmc/sequencer.hpp"

template <class CodecType, int ROWS, int COLUMNS>
struct Small {
    using Codec = CodecType;
    static constexpr int rows = ROWS, columns = COLUMNS, word_bits = 128;
    static constexpr int ports = (ROWS * (COLUMNS / Codec::trits) * Codec::bits + 127) / 128;
};

// A table of a codec, filled in the engine's order.
template <class CodecType>
static void fill(typename CodecType::Table& table, const mmc::Int<8>* x) {
    for (int entry = 0; entry < CodecType::entries; ++entry) {
        CodecType::fill(table, entry, entry % 3, entry / 3 % 3, entry / 9, x);
    }
}

// Codes of three weights, with every input of 255^3: how many sums are wrong.
extern "C" long wrong_sums_of_three() {
    long wrong = 0;
    mmc::Int<8> x[5] = {};
    for (int a = -127; a < 128; ++a) {
        for (int b = -127; b < 128; ++b) {
            for (int c = -127; c < 128; ++c) {
                x[0] = a, x[1] = b, x[2] = c;
                mmc::Codec5b3t::Table table;
                fill<mmc::Codec5b3t>(table, x);
                for (int code = 0; code < 27; ++code) {
                    const int sum = (code % 3 - 1) * a + (code / 3 % 3 - 1) * b + (code / 9 - 1) * c;
                    wrong += int(mmc::Codec5b3t::sum(table, code)) != sum;
                }
            }
        }
    }
    return wrong;
}

// The sum of a code of five weights with inputs x.
extern "C" int sum_of_five(int code, const int8_t* given) {
    mmc::Int<8> x[5];
    for (int k = 0; k < 5; ++k) x[k] = given[k];
    mmc::Codec8b5t::Table table;
    fill<mmc::Codec8b5t>(table, x);
    return int(mmc::Codec8b5t::sum(table, code));
}

template <class C>
static void matvec(const uint8_t* beats, int count, const int8_t* q, int rows, int columns,
                   int32_t* sums) {
    static mmc::Int<8> codes[1 << 17];
    static mmc::Sum found[1 << 12];
    mmc::Stream<mmc::Word<C::word_bits>> words[C::ports];
    for (int beat = 0; beat < count; ++beat) {
        for (int port = 0; port < C::ports; ++port, beats += 16) {
            mmc::Word<128> word;
            for (int k = 0; k < 16; ++k) {
#if MMC_NATIVE
                word.byte[k] = beats[k];
#else
                word.range(8 * k + 7, 8 * k) = beats[k];
#endif
            }
            words[port].write(word);
        }
    }
    for (int k = 0; k < mmc::whole(columns, C::columns); ++k) codes[k] = k < columns ? q[k] : 0;
    mmc::ternary_matvec<C>(words, codes, rows, columns, found);
    for (int row = 0; row < rows; ++row) sums[row] = int(found[row]);
}

extern "C" void matvec_5b3t(const uint8_t* beats, int count, const int8_t* q, int rows, int columns,
                            int32_t* sums) {
    matvec<Small<mmc::Codec5b3t, 4, 24>>(beats, count, q, rows, columns, sums);
}
extern "C" void matvec_8b5t(const uint8_t* beats, int count, const int8_t* q, int rows, int columns,
                            int32_t* sums) {
    matvec<Small<mmc::Codec8b5t, 4, 20>>(beats, count, q, rows, columns, sums);
}
extern "C" void matvec_2b1t(const uint8_t* beats, int count, const int8_t* q, int rows, int columns,
                            int32_t* sums) {
    matvec<Small<mmc::Codec2b1t, 4, 16>>(beats, count, q, rows, columns, sums);
}

// The four passes of a norm with codes: out holds r, its exponent, m, its exponent.
extern "C" void norm_and_codes(const int32_t* x, const int16_t* inner, const int16_t* outer,
                               int length, int eps_mantissa, int eps_exponent, int8_t* q,
                               int32_t* out) {
    static mmc::Wide wide[1024];
    static mmc::Gain first[1024], second[1024];
    static mmc::Narrow n[1024];
    static mmc::Int<8> codes[1024];
    for (int i = 0; i < length; ++i) {
        wide[i] = x[i], second[i] = outer[i];
        if (inner != nullptr) first[i] = inner[i];
    }
    const mmc::Scalar norm = mmc::normalize<8>(wide, length, inner != nullptr, first, eps_mantissa,
                                               eps_exponent, n);
    const mmc::Scalar scale = mmc::quantize<8>(n, length, true, second, norm, codes);
    for (int i = 0; i < length; ++i) q[i] = int(codes[i]);
    out[0] = int(norm.mantissa), out[1] = int(norm.exponent);
    out[2] = int(scale.mantissa), out[3] = int(scale.exponent);
}

extern "C" int sigmoid(int x, int fraction) { return int(mmc::sigmoid(mmc::Narrow(x), fraction)); }

extern "C" int rescale(int value, int mantissa, int exponent, int wide) {
    const mmc::Scalar scale = {mmc::Uint<16>(mantissa), mmc::Exponent(exponent)};
    return wide ? int(mmc::rescale<27>(mmc::Sum(value), scale))
                : int(mmc::rescale<18>(mmc::Sum(value), scale));
}

// One step of the state: gate and state as they are, c as a sum that is not rescaled.
extern "C" int state_step(int sum, int forget, int state, int fraction) {
    mmc::Sum sums[1] = {mmc::Sum(sum)};
    mmc::Gate gate[1] = {mmc::Gate(forget)};
    mmc::Wide h[1] = {mmc::Wide(state)};
    mmc::Narrow mixed[1];
    mmc::update_state<1>(sums, 1, {mmc::Uint<16>(1u << 15), mmc::Exponent(15)}, fraction, gate, h, mixed);
    return int(h[0]);
}

extern "C" void add_residual(const int32_t* sums, int32_t* stream, int length) {
    for (int i = 0; i < length; ++i) {
        mmc::Sum sum[1] = {mmc::Sum(sums[i])};
        mmc::Wide x[1] = {mmc::Wide(stream[i])};
        mmc::add_residual<1>(sum, 1, {mmc::Uint<16>(1u << 15), mmc::Exponent(12)}, x);
        stream[i] = int(x[0]);
    }
}

extern "C" void top_three(const int32_t* sums, int length, int32_t* tokens) {
    static mmc::Sum given[4096];
    for (int i = 0; i < length; ++i) given[i] = sums[i];
    int found[3];
    mmc::Logit best[3];
    mmc::top_tokens<3>(given, length, found, best);
    for (int k = 0; k < 3; ++k) tokens[k] = found[k];
}
