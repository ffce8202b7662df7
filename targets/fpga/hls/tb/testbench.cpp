// Runs the kernel on what the interpreter ran, and compares.
//
//   testbench FOLDER          every token of the golden text, through the kernel's interface
//   testbench FOLDER layer    the first layer on the first token: the residual stream, bit for bit
//
// golden.bin holds ints of 32 bits: tokens of the prompt, tokens that follow, these tokens, and the
// residual stream behind the first layer of the first token.
#include "../csim/files.hpp"
#include "mmc_top.hpp"

using Words = std::vector<Config::Word>;

struct Project {
    std::vector<Words> banks;
    Words constants, embedding;
    std::vector<int> golden;
};

static Words words_of(const std::string& name) {
    return mmc::as_words<Config::word_bits>(mmc::read_bytes(name));
}

static Project load(const std::string& folder) {
    Project project;
    for (int port = 0; port < Config::ports; ++port) {
        char name[32];
        std::snprintf(name, sizeof name, "/weights/bank_%03d.bin", port);
        project.banks.push_back(words_of(folder + name));
    }
    project.constants = words_of(folder + "/weights/constants.bin");
    project.embedding = words_of(folder + "/weights/embedding.bin");
    project.golden = mmc::as_ints(mmc::read_bytes(folder + "/tb/golden.bin"));
    return project;
}

// An empty cache, and nothing in it that the kernel may read.
static std::vector<mmc::Word<Config::cache_bits>> empty_cache() {
    return std::vector<mmc::Word<Config::cache_bits>>(Config::cache_words);
}

static int compare_tokens(const Project& project) {
    const int prompt = project.golden[0], generate = project.golden[1];
    const int* expected = project.golden.data() + 2;
    const Config::Word* bank[Config::ports];
    for (int port = 0; port < Config::ports; ++port) bank[port] = project.banks[port].data();
    mmc::Stream<mmc::Int<32>> in, out;
    for (int n = 0; n < prompt; ++n) in.write(mmc::Int<32>(expected[n]));
    auto cache = empty_cache();
    mmc_top(MMC_PORTS(bank), project.constants.data(), project.embedding.data(), MMC_CACHE(cache) in,
            out, prompt, generate, false);
    int wrong = 0;
    for (int n = 0; n < generate; ++n) wrong += int(out.read()) != expected[prompt + n];
    std::printf("%d tokens decoded after a prompt of %d: %d differ from the interpreter\n", generate,
                prompt, wrong);
    return wrong;
}

static int compare_layer(const Project& project) {
    static mmc::Memory<Config> memory;
    static mmc::Stream<Config::Word> words[Config::ports];
    mmc::clear_state<Config>(memory);
    memory.append = true;
    auto cache = empty_cache();
    long beats = 0;
    for (int n = 0; n < Config::phases_of_layer; ++n) {
        const mmc::Phase& phase = Config::table[n];
        if (phase.kind != mmc::GATE && phase.kind != mmc::ATTEND) {
            beats += long((phase.columns + Config::columns - 1) / Config::columns) *
                     ((phase.rows + Config::rows - 1) / Config::rows);
        }
    }
    for (int port = 0; port < Config::ports; ++port) {
        mmc::read_weights<Config::word_bits>(project.banks[port].data(), beats, 1, words[port]);
    }
    mmc::run_token<Config>(memory, words, project.constants.data(), project.embedding.data(),
                           cache.data(), project.golden[2], Config::phases_of_layer);
    const int* expected = project.golden.data() + 2 + project.golden[0] + project.golden[1];
    int wrong = 0;
    for (int i = 0; i < Config::hidden; ++i) wrong += int(memory.stream[i]) != expected[i];
    std::printf("%d numbers of the residual stream behind the first layer: %d differ from the interpreter\n",
                Config::hidden, wrong);
    return wrong;
}

int main(int count, char** arguments) {
    const Project project = load(count > 1 ? arguments[1] : ".");
    const bool layer = count > 2 && std::string(arguments[2]) == "layer";
    return (layer ? compare_layer(project) : compare_tokens(project)) != 0;
}
