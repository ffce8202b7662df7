// Files of the project as the words of a port.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "mmc/types.hpp"

namespace mmc {

inline std::vector<unsigned char> read_bytes(const std::string& name) {
    std::FILE* file = std::fopen(name.c_str(), "rb");
    if (file == nullptr) {
        std::fprintf(stderr, "%s: cannot be opened\n", name.c_str());
        std::exit(2);
    }
    std::vector<unsigned char> bytes;
    unsigned char buffer[1 << 16];
    for (size_t n; (n = std::fread(buffer, 1, sizeof buffer, file)) > 0;) {
        bytes.insert(bytes.end(), buffer, buffer + n);
    }
    std::fclose(file);
    return bytes;
}

template <int BITS>
std::vector<Word<BITS>> as_words(const std::vector<unsigned char>& bytes) {
    std::vector<Word<BITS>> words(bytes.size() / (BITS / 8));
#if MMC_NATIVE
    if (!words.empty()) std::memcpy(words.data(), bytes.data(), words.size() * (BITS / 8));
#else
    for (size_t n = 0; n < words.size(); ++n) {
        for (int k = 0; k < BITS / 8; ++k) {
            words[n].range(8 * k + 7, 8 * k) = bytes[n * (BITS / 8) + k];
        }
    }
#endif
    return words;
}

inline std::vector<int> as_ints(const std::vector<unsigned char>& bytes) {
    std::vector<int> ints(bytes.size() / 4);
    for (size_t n = 0; n < ints.size(); ++n) {
        unsigned value = 0;
        for (int k = 3; k >= 0; --k) value = value << 8 | bytes[4 * n + k];
        ints[n] = int(value);
    }
    return ints;
}

}  // namespace mmc
