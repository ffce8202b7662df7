// Drives token_engine: a memory with latency and bandwidth, tokens from stdin, results to stdout.
//
// stdin, little-endian: int64 {tokens, latency in cycles, bytes a 1024 cycles of both ports together,
// bytes of a word of weights, words of weights, bytes of a word of constants, words of the embedding,
// words of the other constants, row groups of logits, bytes of a row group, 1 where each token
// begins a sequence}, then int32 tokens, the weights, the embedding, the other constants.
// stdout, for each token: int64 {cycles, cycles in which the engine waited for weights, cycles in
// which the memory had nothing to send, likeliest token, factor, right shift}, then its sums.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <vector>

#include "Vtoken_engine.h"

namespace {

Vtoken_engine top;

std::vector<uint8_t> read_bytes(size_t count) {
    std::vector<uint8_t> bytes(count);
    if (count != 0 && std::fread(bytes.data(), 1, count, stdin) != count) std::exit(2);
    return bytes;
}

// A port of the memory: words leave in order, `latency` cycles after they were asked for at the
// earliest, as far as the bandwidth goes.
struct Port {
    struct Burst {
        int64_t ready;
        uint32_t address, words;
    };
    std::vector<uint8_t> bytes;
    int64_t word_bytes = 0;
    std::deque<Burst> bursts;

    bool has_word(int64_t now) const { return !bursts.empty() && bursts.front().ready <= now; }

    const uint8_t* take() {
        Burst& burst = bursts.front();
        const size_t at = size_t(burst.address) * word_bytes;
        if (at + word_bytes > bytes.size()) std::exit(3);
        ++burst.address;
        if (--burst.words == 0) bursts.pop_front();
        return &bytes[at];
    }
};

struct Memory {
    Port weights, constants;
    int64_t latency = 0, rate = 0, credit = 0, idle = 0;

    // What the memory sends in this cycle.
    void respond(int64_t now) {
        credit += rate;
        top.w_response = top.c_response = 0;
        bool sent = false;
        if (constants.has_word(now) && credit >= constants.word_bytes * 1024) {
            std::memcpy(&top.c_response_data, constants.take(), constants.word_bytes);
            top.c_response = 1;
            credit -= constants.word_bytes * 1024;
            sent = true;
        }
        if (weights.has_word(now) && credit >= weights.word_bytes * 1024) {
            std::memcpy(&top.w_response_data, weights.take(), weights.word_bytes);
            top.w_response = 1;
            credit -= weights.word_bytes * 1024;
            sent = true;
        }
        // A memory that has nothing to send, or is not asked, loses what it could have sent.
        if (!weights.has_word(now) && !constants.has_word(now)) {
            idle += !sent;
            const int64_t most = rate > weights.word_bytes * 1024 ? rate : weights.word_bytes * 1024;
            if (credit > most) credit = most;
        }
    }

    // What the engine asks for in this cycle.
    void accept(int64_t now) {
        if (top.w_request)
            weights.bursts.push_back({now + latency, top.w_request_address, top.w_request_words});
        if (top.c_request)
            constants.bursts.push_back({now + latency, top.c_request_address, top.c_request_words});
    }
};

void tick() {
    top.clk = 1;
    top.eval();
    top.clk = 0;
    top.eval();
}

void write(int64_t value) { std::fwrite(&value, sizeof value, 1, stdout); }

}  // namespace

int main() {
    int64_t head[11];
    std::memcpy(head, read_bytes(sizeof head).data(), sizeof head);
    const auto [count, latency, rate, w_bytes, w_words, c_bytes, e_words, c_words, groups, y_bytes,
                fresh] = head;
    std::vector<int32_t> tokens(count);
    std::memcpy(tokens.data(), read_bytes(count * 4).data(), count * 4);
    Memory memory;
    memory.latency = latency;
    memory.rate = rate;
    memory.weights.word_bytes = w_bytes;
    memory.weights.bytes = read_bytes(size_t(w_bytes) * w_words);
    memory.constants.word_bytes = c_bytes;
    memory.constants.bytes = read_bytes(size_t(c_bytes) * (e_words + c_words));

    top.w_request_ready = top.c_request_ready = 1;
    top.weights_base = 0;
    top.weights_words = w_words;
    top.embedding_base = 0;
    top.constants_base = e_words;
    top.constants_words = c_words;
    top.rst = 1;
    for (int i = 0; i < 64; ++i) tick();
    top.rst = 0;
    tick();

    int64_t now = 0;
    for (int64_t t = 0; t < count; ++t) {
        const int64_t began = now;
        int64_t waits = 0;
        memory.idle = 0;
        top.token = tokens[t];
        top.fresh = t == 0 || fresh != 0;
        top.start = 1;
        do {
            memory.respond(now);
            memory.accept(now);
            waits += top.w_wanted && !top.w_there;
            tick();
            top.start = 0;
            ++now;
        } while (top.busy);
        write(now - began);
        write(waits);
        write(memory.idle);
        write(top.likeliest);
        write(top.factor);
        write(top.right);
        for (int64_t group = 0; group < groups; ++group) {
            top.y_address = group;
            tick();
            tick();
            std::fwrite(&top.y_data, 1, y_bytes, stdout);
        }
    }
}
