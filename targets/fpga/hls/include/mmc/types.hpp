// Numbers of a stated width, words of memory, and streams.
//
// For synthesis, and where MMC_AP_TYPES is defined, they are the ap types of Vitis HLS, whose
// numbers wrap at their width.  Otherwise they are the next larger native types: the same
// results, since nothing leaves its width, and a simulation that is fast.
#pragma once

#include <cstdint>

#if defined(__SYNTHESIS__) || defined(MMC_AP_TYPES)
#define MMC_NATIVE 0
#ifndef AP_INT_MAX_W
#define AP_INT_MAX_W 8192
#endif
#include <ap_int.h>
#include <hls_stream.h>
#else
#define MMC_NATIVE 1
#include <cstring>
#include <deque>
#include <type_traits>
#endif

namespace mmc {

#if MMC_NATIVE

template <int W>
using Int = std::conditional_t<(W <= 8), int8_t,
            std::conditional_t<(W <= 16), int16_t,
            std::conditional_t<(W <= 32), int32_t, int64_t>>>;

template <int W>
using Uint = std::conditional_t<(W <= 8), uint8_t,
             std::conditional_t<(W <= 16), uint16_t,
             std::conditional_t<(W <= 32), uint32_t, uint64_t>>>;

template <int BITS>
struct Word {
    uint8_t byte[BITS / 8];
};

// Words one behind the other; the bytes behind them let `field` read two at a time.
template <int BITS, int COUNT>
struct Beat {
    uint8_t byte[BITS / 8 * COUNT + 1] = {};

    void put(int index, const Word<BITS>& word) {
        std::memcpy(byte + index * (BITS / 8), word.byte, BITS / 8);
    }
};

// A queue; or, lent an array, that array over and over.
template <class T>
class Stream {
  public:
    void lend(const T* array, long length) { array_ = array, length_ = length; }
    void write(const T& value) { queue_.push_back(value); }
    bool empty() const { return array_ == nullptr && queue_.empty(); }
    T read() {
        if (array_ != nullptr) {
            const T& value = array_[next_];
            next_ = next_ + 1 == length_ ? 0 : next_ + 1;
            return value;
        }
        T value = queue_.front();
        queue_.pop_front();
        return value;
    }

  private:
    const T* array_ = nullptr;
    long length_ = 0, next_ = 0;
    std::deque<T> queue_;
};

// Bits index * WIDTH .. of a word or beat, the lowest first; WIDTH <= 8.
template <int WIDTH, class Bits>
unsigned field(const Bits& bits, int index) {
    const int first = index * WIDTH;
    unsigned two;
    if (WIDTH == 8) return bits.byte[index];
    two = bits.byte[first / 8] | unsigned(bits.byte[first / 8 + 1]) << 8;
    return two >> first % 8 & ((1u << WIDTH) - 1);
}

template <int BITS>
int16_t sixteen(const Word<BITS>& word, int index) {
    return int16_t(word.byte[2 * index] | word.byte[2 * index + 1] << 8);
}

template <int BITS>
void put_sixteen(Word<BITS>& word, int index, int16_t number) {
    word.byte[2 * index] = uint8_t(number);
    word.byte[2 * index + 1] = uint8_t(uint16_t(number) >> 8);
}

// The product of numbers of A and B bits, in A + B.
template <int A, int B>
inline int64_t multiply(int64_t a, int64_t b) {
    return a * b;
}

#else

template <int W> using Int = ap_int<W>;
template <int W> using Uint = ap_uint<W>;
template <int BITS> using Word = ap_uint<BITS>;
template <class T> using Stream = hls::stream<T>;

template <int BITS, int COUNT>
struct Beat {
    ap_uint<BITS * COUNT> bits;

    void put(int index, const Word<BITS>& word) {
#pragma HLS INLINE
        bits.range(index * BITS + BITS - 1, index * BITS) = word;
    }
};

template <int WIDTH, int BITS, int COUNT>
ap_uint<WIDTH> field(const Beat<BITS, COUNT>& beat, int index) {
#pragma HLS INLINE
    return beat.bits.range(index * WIDTH + WIDTH - 1, index * WIDTH);
}
template <int WIDTH, class Bits>
ap_uint<WIDTH> field(const Bits& beat, int index) {
#pragma HLS INLINE
    return beat.bits.range(index * WIDTH + WIDTH - 1, index * WIDTH);
}

template <int BITS>
ap_int<16> sixteen(const ap_uint<BITS>& word, int index) {
#pragma HLS INLINE
    ap_uint<16> raw = word.range(index * 16 + 15, index * 16);
    return ap_int<16>(raw);
}

template <int BITS>
void put_sixteen(ap_uint<BITS>& word, int index, ap_int<16> number) {
#pragma HLS INLINE
    word.range(index * 16 + 15, index * 16) = number;
}

template <int A, int B>
ap_int<A + B> multiply(ap_int<A> a, ap_int<B> b) {
#pragma HLS INLINE
    return a * b;
}

#endif

}  // namespace mmc
