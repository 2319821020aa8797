// See host_driver.h. Types are declared as the driver's binary interface has them, so that building needs no CUDA header.
#include "bench/host_driver.h"

#include "tools/flash-attn/errors.h"

#include <dlfcn.h>

#include <cstdint>
#include <string>
#include <type_traits>

namespace flash_attn::bench {
namespace {

using tool::Failure;

struct LaunchConfig {
  unsigned grid[3], block[3];
  unsigned shared_bytes;
  void* stream;
  void* attributes;
  unsigned attribute_count;
};

struct KernelNode {
  void* function;
  unsigned grid[3], block[3];
  unsigned shared_bytes;
  void** parameters;
  void** extra;
  void* kernel;  // if function is null
  void* context;
};
static_assert(sizeof(KernelNode) == 72 && offsetof(KernelNode, parameters) == 40);

constexpr int kKernelNode = 0;               // CU_GRAPH_NODE_TYPE_KERNEL
constexpr int kMostDynamicSharedBytes = 8;   // CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
constexpr int kThreadLocalCapture = 1;       // CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
constexpr unsigned kNonBlockingStream = 1;   // CU_STREAM_NON_BLOCKING
constexpr size_t kParameterAlignment = 128;  // more than any kernel's argument asks for

std::string empty_kernel_text(size_t parameter_bytes) {
  const std::string parameter =
      parameter_bytes > 0 ? ".param .align 128 .b8 arguments[" + std::to_string(parameter_bytes) + "]" : std::string();
  return ".version 7.0\n.target sm_80\n.address_size 64\n.visible .entry empty(" + parameter + ")\n{\n  ret;\n}\n";
}

}  // namespace

struct HostDriver::Table {
  int (*cuGetErrorString)(int, const char**) = nullptr;
  int (*cuStreamCreate)(void**, unsigned) = nullptr;
  int (*cuStreamDestroy)(void*) = nullptr;
  int (*cuStreamSynchronize)(void*) = nullptr;
  int (*cuStreamBeginCapture)(void*, int) = nullptr;
  int (*cuStreamEndCapture)(void*, void**) = nullptr;
  int (*cuGraphGetNodes)(void*, void**, size_t*) = nullptr;
  int (*cuGraphNodeGetType)(void*, int*) = nullptr;
  int (*cuGraphKernelNodeGetParams)(void*, KernelNode*) = nullptr;
  int (*cuGraphDestroy)(void*) = nullptr;
  int (*cuFuncGetParamInfo)(void*, size_t, size_t*, size_t*) = nullptr;
  int (*cuKernelGetParamInfo)(void*, size_t, size_t*, size_t*) = nullptr;
  int (*cuModuleLoadData)(void**, const void*) = nullptr;
  int (*cuModuleUnload)(void*) = nullptr;
  int (*cuModuleGetFunction)(void**, void*, const char*) = nullptr;
  int (*cuFuncSetAttribute)(void*, int, int) = nullptr;
  int (*cuLaunchKernelEx)(const LaunchConfig*, void*, void**, void**) = nullptr;
  void* stream = nullptr;

  Table() {
    void* const library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) throw Failure("libcuda.so.1 could not be opened: timing launches needs the NVIDIA driver");
    using Find = int (*)(const char*, void**, int, uint64_t, int*);
    const auto find = reinterpret_cast<Find>(dlsym(library, "cuGetProcAddress_v2"));
    const auto get = [find](const char* name, auto* function, int version = 12000) {
      void* address = nullptr;
      int found = 0;
      if (find == nullptr || find(name, &address, version, 0, &found) != 0 || address == nullptr)
        throw Failure(std::string("the NVIDIA driver lacks ") + name + ": it must be of version 550 or newer");
      *function = reinterpret_cast<std::remove_pointer_t<decltype(function)>>(address);
    };
    get("cuGetErrorString", &cuGetErrorString);
    get("cuStreamCreate", &cuStreamCreate);
    get("cuStreamDestroy", &cuStreamDestroy);
    get("cuStreamSynchronize", &cuStreamSynchronize);
    get("cuStreamBeginCapture", &cuStreamBeginCapture);
    get("cuStreamEndCapture", &cuStreamEndCapture);
    get("cuGraphGetNodes", &cuGraphGetNodes);
    get("cuGraphNodeGetType", &cuGraphNodeGetType);
    get("cuGraphKernelNodeGetParams", &cuGraphKernelNodeGetParams);
    get("cuGraphDestroy", &cuGraphDestroy);
    get("cuFuncGetParamInfo", &cuFuncGetParamInfo, 12040);
    get("cuKernelGetParamInfo", &cuKernelGetParamInfo, 12040);
    get("cuModuleLoadData", &cuModuleLoadData);
    get("cuModuleUnload", &cuModuleUnload);
    get("cuModuleGetFunction", &cuModuleGetFunction);
    get("cuFuncSetAttribute", &cuFuncSetAttribute);
    get("cuLaunchKernelEx", &cuLaunchKernelEx);
    require(cuStreamCreate(&stream, kNonBlockingStream), "making a stream");
  }

  void require(int result, const char* action) const {
    if (result == 0) return;
    const char* text = nullptr;
    if (cuGetErrorString(result, &text) != 0 || text == nullptr) text = "no description";
    throw Failure(std::string(action) + " failed: " + text + " (" + std::to_string(result) + ")");
  }

  // A handle of either kind, whichever the driver takes it for.
  size_t parameter_bytes(void* function, void* kernel) const {
    size_t bytes = 0;
    const auto add = [&bytes](auto info, void* handle) {
      size_t offset = 0, size = 0;
      for (size_t n = 0; handle != nullptr && info(handle, n, &offset, &size) == 0; ++n) bytes = offset + size;
    };
    add(cuFuncGetParamInfo, function);
    if (bytes == 0) add(cuKernelGetParamInfo, kernel != nullptr ? kernel : function);
    if (bytes == 0) throw Failure("the driver does not tell the parameters of a launched kernel");
    return bytes;
  }

  Launch launch_of(void* node) const {
    KernelNode found = {};
    require(cuGraphKernelNodeGetParams(node, &found), "reading a captured launch");
    Launch launch;
    for (int n = 0; n < 3; ++n) launch.grid[n] = found.grid[n], launch.block[n] = found.block[n];
    launch.shared_bytes = found.shared_bytes;
    launch.parameter_bytes = parameter_bytes(found.function, found.kernel);
    return launch;
  }
};

HostDriver::HostDriver() : table_(std::make_unique<Table>()) {}
HostDriver::~HostDriver() { table_->cuStreamDestroy(table_->stream); }
void* HostDriver::stream() const { return table_->stream; }
void HostDriver::synchronize() const { table_->require(table_->cuStreamSynchronize(table_->stream), "running"); }

std::vector<Launch> HostDriver::launches_of(const std::function<void()>& work) const {
  void* graph = nullptr;
  table_->require(table_->cuStreamBeginCapture(table_->stream, kThreadLocalCapture), "beginning a capture");
  work();
  table_->require(table_->cuStreamEndCapture(table_->stream, &graph), "ending a capture");
  size_t count = 0;
  table_->require(table_->cuGraphGetNodes(graph, nullptr, &count), "reading a captured graph");
  std::vector<void*> nodes(count);
  table_->require(table_->cuGraphGetNodes(graph, nodes.data(), &count), "reading a captured graph");
  std::vector<Launch> launches;
  for (void* node : nodes) {
    int type = -1;
    table_->require(table_->cuGraphNodeGetType(node, &type), "reading a captured node");
    if (type != kKernelNode) throw Failure("a run queued something else than kernels: a node of type " + std::to_string(type));
    launches.push_back(table_->launch_of(node));
  }
  table_->cuGraphDestroy(graph);
  return launches;
}

std::unique_ptr<EmptyKernels> HostDriver::empty_kernels(const std::vector<Launch>& launches) const {
  return std::make_unique<EmptyKernels>(*table_, launches);
}

struct EmptyKernels::Kernel {
  void* module = nullptr;
  void* function = nullptr;
  LaunchConfig config = {};
  std::vector<unsigned char> memory;
  void* arguments = nullptr;  // in memory, aligned
};

EmptyKernels::EmptyKernels(const HostDriver::Table& table, const std::vector<Launch>& launches) : table_(table) {
  for (const Launch& launch : launches) {
    Kernel kernel;
    const std::string text = empty_kernel_text(launch.parameter_bytes);
    table.require(table.cuModuleLoadData(&kernel.module, text.c_str()), "loading a kernel that does nothing");
    table.require(table.cuModuleGetFunction(&kernel.function, kernel.module, "empty"), "finding a kernel that does nothing");
    table.require(table.cuFuncSetAttribute(kernel.function, kMostDynamicSharedBytes, static_cast<int>(launch.shared_bytes)),
                  "granting a kernel's shared memory");
    for (int n = 0; n < 3; ++n) kernel.config.grid[n] = launch.grid[n], kernel.config.block[n] = launch.block[n];
    kernel.config.shared_bytes = launch.shared_bytes;
    kernel.config.stream = table.stream;
    kernel.memory.resize(launch.parameter_bytes + kParameterAlignment);
    const auto address = reinterpret_cast<uintptr_t>(kernel.memory.data());
    kernel.arguments = kernel.memory.data() + (kParameterAlignment - address % kParameterAlignment) % kParameterAlignment;
    kernels_.push_back(std::move(kernel));
  }
}

EmptyKernels::~EmptyKernels() {
  for (const Kernel& kernel : kernels_) table_.cuModuleUnload(kernel.module);
}

void EmptyKernels::launch() const {
  for (const Kernel& kernel : kernels_) {
    void* arguments[] = {kernel.arguments};
    table_.require(table_.cuLaunchKernelEx(&kernel.config, kernel.function, arguments, nullptr),
                   "launching a kernel that does nothing");
  }
}

}  // namespace flash_attn::bench
