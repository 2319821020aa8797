// See place.h.
#include "place.h"

#include "run.h"

#include <thread>

namespace flash_attn::tool {
namespace {

constexpr int kRunsInARow = 20;  // on a GPU, between two waits

}  // namespace

Place::Place(const std::string& device) : base_(tool::new_desc()) {
  RunOptions options;
  options.device = device;
  apply_options(options, &base_);
  if (base_.device_type == FA_DEVICE_CUDA) gpu_ = std::make_unique<Gpu>(base_.device_index);
}

std::string Place::name() const { return device_field(device_text(base_.device_type, base_.device_index), "model"); }

fa_attention_desc Place::new_desc() const {
  fa_attention_desc desc = tool::new_desc();
  desc.device_type = base_.device_type;
  desc.device_index = base_.device_index;
  return desc;
}

void Place::prepare_together(const std::vector<fa_attention_desc>& descs) const {
  if (!is_gpu()) return;
  std::vector<std::thread> threads;
  for (const fa_attention_desc& desc : descs)
    threads.emplace_back([&desc, context = gpu_->context()] {
      fa_plan* plan = nullptr;
      if (fa_plan_create(&desc, &plan) == FA_STATUS_OK) (void)fa_prepare(plan, context);
      fa_plan_destroy(plan);
    });
  for (std::thread& thread : threads) thread.join();
}

void Place::fetch(Array* array, const void* pointer) const {
  if (is_gpu()) gpu_->copy_out(array->data(), pointer, array->bytes());
}

Timing Place::time_runs(const Attention& attention, const fa_attention_args& args, double seconds, int most) const {
  if (!is_gpu()) return time_call([&] { attention.run(args); }, seconds, most);
  const auto runs = [&] {
    for (int n = 0; n < kRunsInARow; ++n) attention.run(args);
    gpu_->wait();
  };
  Timing timing = time_call(runs, seconds, most);
  timing.median /= kRunsInARow;
  timing.best /= kRunsInARow;
  return timing;
}

}  // namespace flash_attn::tool
