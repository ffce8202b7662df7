// One token: the phases of a table, one after the other, on one engine.
#pragma once

#include "attention.hpp"
#include "glu.hpp"
#include "head.hpp"
#include "mlgru.hpp"
#include "norm_quantize.hpp"
#include "requantize.hpp"
#include "ternary_matvec.hpp"
#include "weight_stream.hpp"

namespace mmc {

enum Kind {
    FORGET, STATE, STORE, GATE, QUERY, KEY, VALUE, ATTEND, RESIDUAL, GLU, SILU, SQUARE, TIMES, HEAD,
    DIGIT, DIGITS
};
enum Source { STREAM, PRODUCT, GATE_VECTOR };

// A row of the table; targets/fpga/plan.py says what the fields are.
struct Phase {
    int kind, source, slot, rows, columns;
    bool normalize, has_inner_gain, has_gain, has_bound;
    int eps_mantissa, eps_exponent, mantissa, exponent, fraction;
};

constexpr int larger(int a, int b) { return a > b ? a : b; }
constexpr int whole(int length, int part) { return (length + part - 1) / part * part; }

// All that is on the chip beside the engine's tables.
template <class C>
struct Memory {
    static constexpr int inside = larger(C::inner, larger(C::heads * C::width, C::wide));
    static constexpr int longest = larger(C::hidden, inside);
    static constexpr int state_size = larger(C::inner, 1);
    static constexpr int most_rows = larger(C::vocabulary, larger(2 * C::wide, longest));

    Wide stream[C::hidden];
    Wide product[inside];
    Narrow gate[state_size], mixed[state_size];
    Gate forget[state_size];
    Wide state[larger(C::states, 1)][state_size];
    Narrow normalized[longest];
    Int<8> codes[whole(longest, C::columns)];
    Sum sums[whole(most_rows, C::rows)];
    Gain inner_gain[longest], gain[longest];
    Uint<16> bound[state_size];
    Scalar norm, scale;
    long constants_at;
    int tokens[C::top];
    Logit best[C::top];
    Logit logits[C::digits ? C::vocabulary : 1];

    // Attention; the cache itself is in external memory.
    int position;
    bool append;  // false where a simulation looks at padding
    Narrow query[larger(C::heads * C::width, 1)], entry[larger(C::heads * C::width, 1)];
    Gain turn[larger(C::width, 1)];
    Wide scores[larger(C::heads_of_group, 1)][larger(C::context, 1)];
};

template <class C>
void clear_state(Memory<C>& memory) {
    memory.position = 0;
    for (int slot = 0; slot < C::states; ++slot) {
        for (int i = 0; i < C::inner; ++i) {
#pragma HLS PIPELINE II = 1
            memory.state[slot][i] = 0;
        }
    }
}

// stream = the embedding of a token; turn = the cosines and sines of its position.
template <class C>
void embed(Memory<C>& memory, const Word<C::word_bits>* embedding, int token) {
    constexpr long row = whole(C::hidden * 16, C::word_bits) / C::word_bits;
    read_vector<C::word_bits>(embedding, token * row, C::hidden, memory.stream);
    if constexpr (C::context > 0) {
        constexpr long turn = whole(C::width * 16, C::word_bits) / C::word_bits;
        const int known = memory.position < C::context ? memory.position : C::context - 1;
        read_vector<C::word_bits>(embedding, C::vocabulary * row + known * turn, C::width, memory.turn);
    }
    for (int i = 0; i < C::hidden; ++i) {
#pragma HLS PIPELINE II = 1
        const Wide x = memory.stream[i];
        memory.stream[i] = C::embedding_shift > 0 ? Wide(round_shift<28>(Int<28>(x), C::embedding_shift > 0 ? C::embedding_shift : 1))
                                                  : Wide(x << -C::embedding_shift);
    }
}

template <class C, class In>
void normalize_source(Memory<C>& memory, const Phase& phase, const In source[]) {
    memory.norm = normalize<C::lanes>(source, phase.columns, phase.has_inner_gain,
                                      memory.inner_gain, phase.eps_mantissa, phase.eps_exponent,
                                      memory.normalized);
}

// The vectors of a phase, its norm, its codes, its product.
template <class C>
void prepare(Memory<C>& memory, const Phase& phase, const Word<C::word_bits>* constants,
             Stream<Word<C::word_bits>> words[C::ports]) {
    long at = memory.constants_at;
    if (phase.normalize && phase.has_inner_gain) {
        at = read_vector<C::word_bits>(constants, at, phase.columns, memory.inner_gain);
    }
    if (phase.has_gain) {
        at = read_vector<C::word_bits>(constants, at, phase.columns, memory.gain);
    }
    if (phase.has_bound) {
        at = read_vector<C::word_bits>(constants, at, phase.rows, memory.bound);
    }
    memory.constants_at = at;
    if (phase.normalize) {
        if (phase.source == STREAM) normalize_source(memory, phase, memory.stream);
        if (phase.source == PRODUCT) normalize_source(memory, phase, memory.product);
        if (phase.source == GATE_VECTOR) normalize_source(memory, phase, memory.gate);
    }
    if (phase.kind == GATE || phase.kind == ATTEND) return;
    const Scalar by = quantize<C::lanes>(memory.normalized, phase.columns, phase.has_gain,
                                         memory.gain, memory.norm, memory.codes);
    for (int i = phase.columns; i < whole(phase.columns, C::columns); ++i) memory.codes[i] = 0;
    memory.scale = multiply(by, {Uint<16>(phase.mantissa), Exponent(phase.exponent)});
    ternary_matvec<C>(words, memory.codes, phase.rows, phase.columns, memory.sums);
}

// Phases of attention; a layer's cache holds its keys, then its values.
template <class C>
void finish_attention(Memory<C>& memory, const Phase& phase, Word<C::cache_bits>* cache) {
    if constexpr (C::context > 0) {
        constexpr long size = long(C::groups) * C::context * C::width * 16 / C::cache_bits;
        Word<C::cache_bits>* const keys = cache + 2 * phase.slot * size;
        Word<C::cache_bits>* const values = keys + size;
        if (phase.kind == QUERY) {
            store<C::lanes>(memory.sums, phase.rows, memory.scale, memory.query);
            rotate<C::width>(memory.query, C::heads, memory.turn);
        } else if (phase.kind == ATTEND) {
            const int known = memory.position < C::context ? memory.position + 1 : C::context;
            attend<C>(memory.query, keys, values, known,
                      {Uint<16>(phase.mantissa), Exponent(phase.exponent)}, phase.fraction,
                      memory.scores, memory.product);
        } else {
            store<C::lanes>(memory.sums, phase.rows, memory.scale, memory.entry);
            if (phase.kind == KEY) rotate<C::width>(memory.entry, C::groups, memory.turn);
            if (memory.append && memory.position < C::context) {
                append<C::cache_bits, C::width>(memory.entry, C::groups, C::context, memory.position,
                                                phase.kind == KEY ? keys : values);
            }
        }
    }
}

// What a phase does with its sums.
template <class C>
void finish(Memory<C>& memory, const Phase& phase, Word<C::cache_bits>* cache) {
    const Scalar constant = {Uint<16>(phase.mantissa), Exponent(phase.exponent)};
    switch (phase.kind) {
        case FORGET:
            forget_gate<C::lanes>(memory.sums, phase.rows, memory.scale, phase.fraction,
                                  phase.has_bound, memory.bound, memory.forget);
            break;
        case STATE:
            update_state<C::lanes>(memory.sums, phase.rows, memory.scale, phase.fraction,
                                   memory.forget, memory.state[phase.slot], memory.mixed);
            break;
        case STORE:
            store<C::lanes>(memory.sums, phase.rows, memory.scale, memory.gate);
            break;
        case GATE:
            output_gate<C::lanes>(memory.normalized, phase.columns, phase.has_gain, memory.gain,
                                  memory.norm, constant, memory.mixed, memory.product);
            break;
        case RESIDUAL:
            add_residual<C::lanes>(memory.sums, phase.rows, memory.scale, memory.stream);
            break;
        case GLU:
            gated_product<C::lanes>(memory.sums, phase.rows, memory.scale, phase.fraction,
                                    memory.product);
            break;
        case SILU:
            activate_silu<C::lanes>(memory.sums, phase.rows, memory.scale, phase.fraction,
                                    memory.product);
            break;
        case SQUARE:
            activate_square<C::lanes>(memory.sums, phase.rows, memory.scale, phase.fraction,
                                      memory.product);
            break;
        case TIMES:
            multiply_up<C::lanes>(memory.sums, phase.rows, memory.scale, phase.fraction,
                                  memory.product);
            break;
        case QUERY:
        case KEY:
        case VALUE:
        case ATTEND:
            finish_attention<C>(memory, phase, cache);
            break;
        case DIGIT:
        case DIGITS:
            add_digit<C::lanes>(memory.sums, phase.rows, phase.kind == DIGIT && phase.slot == 0,
                                memory.logits);
            if (phase.kind == DIGITS) {
                top_tokens<C::top>(memory.logits, phase.rows, memory.tokens, memory.best);
            }
            break;
        default:
            top_tokens<C::top>(memory.sums, phase.rows, memory.tokens, memory.best);
    }
}

// The likeliest next token; `phases` less than C::phases stops early, for tests.
template <class C>
int run_token(Memory<C>& memory, Stream<Word<C::word_bits>> words[C::ports],
              const Word<C::word_bits>* constants, const Word<C::word_bits>* embedding,
              Word<C::cache_bits>* cache, int token, int phases = C::phases) {
    memory.constants_at = 0;
    embed<C>(memory, embedding, token);
    for (int n = 0; n < phases; ++n) {
        prepare<C>(memory, C::table[n], constants, words);
        finish<C>(memory, C::table[n], cache);
    }
    ++memory.position;
    return memory.tokens[0];
}

// `prompt` tokens come in; `generate` go out, each of them fed back.
template <class C>
void run_tokens(Memory<C>& memory, Stream<Word<C::word_bits>> words[C::ports],
                const Word<C::word_bits>* constants, const Word<C::word_bits>* embedding,
                Word<C::cache_bits>* cache, Stream<Int<32>>& tokens_in, Stream<Int<32>>& tokens_out, int prompt, int generate,
                bool keep_state) {
    if (!keep_state) clear_state<C>(memory);
    memory.append = true;
    int token = 0;
    for (int n = 0; n < prompt + generate - 1; ++n) {
        if (n < prompt) token = int(tokens_in.read());
        token = run_token<C>(memory, words, constants, embedding, cache, token);
        if (n >= prompt - 1) tokens_out.write(Int<32>(token));
    }
}

}  // namespace mmc
