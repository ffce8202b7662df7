// A sketch of the host's side with XRT: load the images, start the kernel.  Not built or run where
// it was written.  Tokens go in and out through AXI-Stream ports, here of a DMA of the platform.
#include <cstdio>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "xrt/xrt_bo.h"
#include "xrt/xrt_device.h"
#include "xrt/xrt_kernel.h"

#include "mmc_config.hpp"

static xrt::bo buffer(xrt::device& device, xrt::kernel& kernel, int argument, const std::string& name) {
    std::ifstream file(name, std::ios::binary);
    std::vector<char> bytes((std::istreambuf_iterator<char>(file)), {});
    xrt::bo memory(device, bytes.size(), kernel.group_id(argument));
    memory.write(bytes.data());
    memory.sync(XCL_BO_SYNC_BO_TO_DEVICE);
    return memory;
}

int main(int count, char** arguments) {
    if (count < 4) {
        std::fprintf(stderr, "usage: host mmc_top.xclbin PROMPT_TOKENS NEW_TOKENS\n");
        return 2;
    }
    xrt::device device(0);
    xrt::kernel kernel(device, device.load_xclbin(arguments[1]), "mmc_top");
    xrt::run run(kernel);
    std::vector<xrt::bo> memory;
    for (int port = 0; port < Config::ports; ++port) {
        char name[32];
        std::snprintf(name, sizeof name, "weights/bank_%03d.bin", port);
        memory.push_back(buffer(device, kernel, port, name));
        run.set_arg(port, memory.back());
    }
    memory.push_back(buffer(device, kernel, Config::ports, "weights/constants.bin"));
    run.set_arg(Config::ports, memory.back());
    memory.push_back(buffer(device, kernel, Config::ports + 1, "weights/embedding.bin"));
    run.set_arg(Config::ports + 1, memory.back());
    int next = Config::ports + 2;
    if (Config::context > 0) {  // the cache of keys and values, which the kernel fills
        memory.emplace_back(device, Config::cache_words * (Config::cache_bits / 8), kernel.group_id(next));
        run.set_arg(next++, memory.back());
    }
    next += 2;  // the streams
    run.set_arg(next++, std::stoi(arguments[2]));
    run.set_arg(next++, std::stoi(arguments[3]));
    run.set_arg(next, false);
    run.start();
    run.wait();
}
