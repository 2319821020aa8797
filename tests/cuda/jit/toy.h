// A configuration and a kernel for the tests of run-time compilation, and a folder that goes when the test does.
#pragma once

#include "cuda/jit/source.h"

#include <dirent.h>
#include <unistd.h>

#include <cstdlib>
#include <string>
#include <vector>

namespace flash_attn::cuda {

// As the device sees it, this is the struct MaskRule of math/mask.h.
struct ToyConfig {
  long long s_k = 5;
  long long delta = 0;
  bool causal = false;
  template <class Visitor>
  void fields(Visitor&& visit) const {
    visit("s_k", s_k);
    visit("delta", delta);
    visit("causal", causal);
  }
};

inline constexpr KernelForm kToyForm = {"toy",
                                        "math/mask.h",
                                        "MaskRule",
                                        "__launch_bounds__(64)",
                                        "long long* out",
                                        "out[threadIdx.x] = key_interval(Config::value, threadIdx.x).hi + kConfig.s_k;"};

inline KernelRequest toy_request(long long s_k) { return kernel_request(kToyForm, ToyConfig{s_k, 0, true}, 90); }

class TemporaryFolder {
 public:
  TemporaryFolder() {
    char name[] = "/tmp/flash_attn_test_XXXXXX";
    if (const char* made = mkdtemp(name)) path_ = made;
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  ~TemporaryFolder() { remove_all(path_); }
  const std::string& path() const { return path_; }

  std::vector<std::string> files() const {
    std::vector<std::string> names;
    DIR* dir = opendir(path_.c_str());
    while (const dirent* entry = dir ? readdir(dir) : nullptr)
      if (entry->d_name[0] != '.') names.push_back(path_ + "/" + entry->d_name);
    if (dir) closedir(dir);
    return names;
  }

 private:
  static void remove_all(const std::string& path) {
    if (path.empty() || unlink(path.c_str()) == 0) return;
    if (DIR* dir = opendir(path.c_str())) {
      while (const dirent* entry = readdir(dir)) {
        const std::string name = entry->d_name;
        if (name != "." && name != "..") remove_all(path + "/" + name);
      }
      closedir(dir);
    }
    rmdir(path.c_str());
  }
  std::string path_;
};

}  // namespace flash_attn::cuda
