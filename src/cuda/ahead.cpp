// See ahead.h.
#include "cuda/ahead.h"

#include "core/trace.h"
#include "cuda/backend.h"
#include "cuda/jit/kernel_store.h"
#include "cuda/known_devices.h"

#include <pthread.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <mutex>
#include <set>

namespace flash_attn::cuda {
namespace {

constexpr int kMostThreads = 256;

Status split_architectures(const std::string& list, std::vector<std::string>* archs) {
  for (size_t at = 0; at <= list.size();) {
    const size_t end = std::min(list.find(',', at), list.size());
    const std::string arch = list.substr(at, end - at);
    if (known_devices(arch).empty())
      return invalid("architectures is \"%s\" with \"%s\", but known are: %s", list.c_str(), arch.c_str(),
                     known_architectures().c_str());
    archs->push_back(arch);
    at = end + 1;
  }
  return {};
}

// Every kernel that a plan of one of the problems would compile, once.
Status collect(const std::vector<Problem>& problems, const std::vector<std::string>& archs, std::vector<KernelRequest>* list,
               int64_t* unserved) {
  std::set<std::string> seen;
  for (const std::string& arch : archs) {
    for (const Problem& problem : problems) {
      bool is_served = false;
      for (const DeviceInfo& device : known_devices(arch)) {
        std::vector<KernelRequest> requests;
        const Status status = list_kernels(problem, device, &requests);
        if (status.code() == FA_STATUS_UNSUPPORTED) {
          log_text(FA_LOG_DEBUG, "not served on %s: %s: %s", arch.c_str(), describe(problem).c_str(), status.message().c_str());
          continue;
        }
        FA_TRY(status);
        is_served = true;
        for (KernelRequest& request : requests)
          if (seen.insert(request.arch + " " + request.name).second) list->push_back(std::move(request));
      }
      *unserved += is_served ? 0 : 1;
    }
  }
  return {};
}

StoreSettings settings_without_archive() {
  StoreSettings settings = settings_from_environment();
  settings.archive.clear();
  settings.archive_is_chosen = false;
  settings.uses_named_archive = false;
  settings.dump_folder.clear();  // else the code would carry line numbers
  return settings;
}

// Works off a list of requests on several threads.
class Workshop {
 public:
  explicit Workshop(const std::vector<KernelRequest>& requests)
      : requests_(requests), store_(settings_without_archive()), images_(requests.size()) {}

  // On the calling thread and as many others as can be had.
  void run(int threads) {
    std::vector<pthread_t> helpers;
    helpers.reserve(static_cast<size_t>(threads));
    for (int n = 1; n < threads; ++n) {
      pthread_t thread;
      if (pthread_create(&thread, nullptr, work_on, this) != 0) break;
      helpers.push_back(thread);
    }
    work();
    for (const pthread_t thread : helpers) pthread_join(thread, nullptr);
  }

  const Status& status() const { return first_failure_; }
  // Also without a status, where none could be made.
  bool has_failed() const { return has_failed_; }
  bool is_out_of_memory() const { return is_out_of_memory_; }
  const std::vector<KernelImage>& images() const { return images_; }

 private:
  static void* work_on(void* self) {
    static_cast<Workshop*>(self)->work();
    return nullptr;
  }

  void work() {
    for (size_t at; !has_failed_ && (at = next_++) < requests_.size();) {
      try {
        note(make(at));
      } catch (const std::bad_alloc&) {  // no exception may leave a thread
        has_failed_ = is_out_of_memory_ = true;
      } catch (...) {
        has_failed_ = true;
      }
    }
  }

  Status make(size_t at) {
    const KernelRequest& request = requests_[at];
    KernelImage& image = images_[at];
    ImageSource source = ImageSource::compiler;
    FA_TRY(store_.find(request, &image, &source));
    image.key = request_key(request, false);
    log_text(FA_LOG_INFO, "%s %s: %d registers, %d bytes spilled, %zu bytes%s", request.arch.c_str(), request.name.c_str(),
             image.registers, image.spill_bytes, image.cubin.size(), source == ImageSource::disk ? ", from the cache" : "");
    return {};
  }

  void note(const Status& status) {
    if (status.ok()) return;
    has_failed_ = true;
    const std::lock_guard<std::mutex> lock(mutex_);
    if (first_failure_.ok()) first_failure_ = status;
  }

  const std::vector<KernelRequest>& requests_;
  KernelStore store_;
  std::vector<KernelImage> images_;
  std::atomic<size_t> next_{0};
  std::atomic<bool> has_failed_{false}, is_out_of_memory_{false};
  std::mutex mutex_;
  Status first_failure_;
};

int thread_count(int wanted, size_t work) {
  const long processors = sysconf(_SC_NPROCESSORS_ONLN);
  const long threads = wanted > 0 ? wanted : std::max(processors, 1l);
  return static_cast<int>(std::min({threads, static_cast<long>(kMostThreads), static_cast<long>(std::max<size_t>(work, 1))}));
}

}  // namespace

Status write_kernel_archive(const std::vector<Problem>& problems, const ArchiveOrder& order, ArchiveReport* report) {
  std::vector<std::string> archs;
  FA_TRY(split_architectures(order.architectures, &archs));
  std::vector<KernelRequest> requests;
  FA_TRY(collect(problems, archs, &requests, &report->unserved));
  if (requests.empty())
    return unsupported("no kernel for %s serves any of the %zu descriptions", order.architectures.c_str(), problems.size());
  Workshop workshop(requests);
  workshop.run(thread_count(order.num_threads, requests.size()));
  FA_TRY(workshop.status());
  if (workshop.is_out_of_memory()) return {FA_STATUS_OUT_OF_MEMORY, "the host allocator failed while compiling kernels"};
  if (workshop.has_failed()) return {FA_STATUS_INTERNAL, "an unexpected exception while compiling kernels"};
  report->kernels = static_cast<int64_t>(requests.size());
  return write_archive(order.path, workshop.images());
}

}  // namespace flash_attn::cuda
