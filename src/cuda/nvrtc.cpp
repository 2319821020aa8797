// See nvrtc.h. A compiler stays open as long as the process.
#include "cuda/nvrtc.h"

#include "cuda/driver.h"
#include "cuda/jit/files.h"

#include <dlfcn.h>

#include <cstdlib>
#include <cstring>
#include <vector>

namespace flash_attn::cuda {
namespace {

constexpr int kMajors[] = {13, 12};
constexpr const char* kWaysOut =
    "install NVRTC (the CUDA toolkit, or the package nvidia-cuda-nvrtc) and let FLASH_ATTN_NVRTC name libnvrtc.so.12 or .13 or its "
    "folder, or let FLASH_ATTN_ARCHIVE name an archive of compiled kernels";

std::string soname(int major) { return "libnvrtc.so." + std::to_string(major); }

// The compiler opens its second half by name; loaded beforehand from the same folder, that half is found wherever it lies.
void open_builtins(const Nvrtc& nvrtc) {
  const size_t slash = nvrtc.path.rfind('/');
  if (slash == std::string::npos) return;
  const std::string name = format_text("libnvrtc-builtins.so.%d.%d", nvrtc.version / 1000, nvrtc.version % 1000 / 10);
  dlopen((nvrtc.path.substr(0, slash + 1) + name).c_str(), RTLD_NOW | RTLD_GLOBAL);  // if it is not there, the compiler says so
}

// On failure `reason` gains a line.
bool open_library(const std::string& path, Nvrtc* nvrtc, std::string* reason) {
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    const char* error = dlerror();
    *reason += std::string(reason->empty() ? "" : "; ") + (error ? error : path.c_str());
    return false;
  }
  bool complete = true;
#define FA_NVRTC_FIND(name, parameters)                                         \
  nvrtc->name = reinterpret_cast<decltype(nvrtc->name)>(dlsym(library, #name)); \
  complete = complete && nvrtc->name;
  FA_NVRTC_FUNCTIONS(FA_NVRTC_FIND)
#undef FA_NVRTC_FIND
  nvrtc->nvrtcGetErrorString = reinterpret_cast<decltype(nvrtc->nvrtcGetErrorString)>(dlsym(library, "nvrtcGetErrorString"));
  int major = 0, minor = 0;
  if (!complete || !nvrtc->nvrtcGetErrorString || nvrtc->nvrtcVersion(&major, &minor) != kNvrtcSuccess) {
    *reason += std::string(reason->empty() ? "" : "; ") + path + " is no NVRTC of CUDA 12 or newer";
    dlclose(library);
    return false;
  }
  nvrtc->version = major * 1000 + minor * 10;
  Dl_info where;
  const bool is_known = dladdr(reinterpret_cast<void*>(nvrtc->nvrtcVersion), &where) != 0 && where.dli_fname;
  nvrtc->path = is_known ? where.dli_fname : path.c_str();
  open_builtins(*nvrtc);
  return true;
}

std::vector<std::string> usual_paths(int major) {
  const std::string name = soname(major);
  const std::string toolkit = "/usr/local/cuda-" + std::to_string(major);
  return {name, "/usr/local/cuda/lib64/" + name, toolkit + "/lib64/" + name, "/opt/cuda/lib64/" + name};
}

}  // namespace

Status open_nvrtc(const char* choice, int driver_version, Nvrtc* nvrtc) {
  std::string reason;
  if (choice && *choice) {
    if (std::strcmp(choice, "none") == 0)
      return {FA_STATUS_COMPILE_ERROR, format_text("FLASH_ATTN_NVRTC is \"none\", so nothing can be compiled; %s", kWaysOut)};
    if (!is_folder(choice)) {
      if (open_library(choice, nvrtc, &reason)) return {};
    } else {
      for (const int major : kMajors)
        if (open_library(std::string(choice) + "/" + soname(major), nvrtc, &reason)) return {};
    }
    return {FA_STATUS_COMPILE_ERROR,
            format_text("FLASH_ATTN_NVRTC is \"%s\" but must be a libnvrtc.so.12 or .13 or a folder with one (%s)", choice,
                        reason.c_str())};
  }
  for (const int major : kMajors) {
    if (driver_version != 0 && major > driver_version / 1000) continue;
    for (const std::string& path : usual_paths(major))
      if (open_library(path, nvrtc, &reason)) return {};
  }
  return {FA_STATUS_COMPILE_ERROR, format_text("no NVRTC was found to compile a kernel with (%s); %s", reason.c_str(), kWaysOut)};
}

Status get_nvrtc(const Nvrtc** nvrtc) {
  struct Opened {
    Nvrtc nvrtc;
    Status status;
  };
  static const Opened* const opened = [] {
    auto* result = new Opened;
    result->status = open_nvrtc(std::getenv("FLASH_ATTN_NVRTC"), driver_version(), &result->nvrtc);
    return result;
  }();
  *nvrtc = opened->status.ok() ? &opened->nvrtc : nullptr;
  return opened->status;
}

}  // namespace flash_attn::cuda
