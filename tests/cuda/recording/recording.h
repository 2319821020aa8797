// What the recording driver wrote down. The program must have loaded it as libcuda.so.1.
#pragma once

#include <dlfcn.h>

#include <map>
#include <string>

namespace flash_attn::test {

class Recording {
 public:
  Recording() {
    void* const driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (driver == nullptr) return;
    clear_ = reinterpret_cast<void (*)()>(dlsym(driver, "recording_clear"));
    count_ = reinterpret_cast<long (*)(int, const char**)>(dlsym(driver, "recording_count"));
  }

  // Is the driver the recording one?
  bool works() const { return clear_ != nullptr && count_ != nullptr; }

  void clear() const { clear_(); }

  // Calls since clear(), by name.
  std::map<std::string, long> calls() const {
    std::map<std::string, long> calls;
    const char* name = nullptr;
    for (int n = 0; count_(n, &name) >= 0; ++n)
      if (const long count = count_(n, &name); count > 0) calls[name] = count;
    return calls;
  }

 private:
  void (*clear_)() = nullptr;
  long (*count_)(int, const char**) = nullptr;
};

}  // namespace flash_attn::test
