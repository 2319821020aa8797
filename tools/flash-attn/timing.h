// Wall-clock timing of a repeated call: the median, so that one disturbance does not count.
#pragma once

#include <algorithm>
#include <chrono>
#include <vector>

namespace flash_attn::tool {

inline double seconds_now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

struct Timing {
  double median = 0;
  double best = 0;
  int rounds = 0;
};

// Calls once to warm up, then for at least `seconds` and 3 rounds, at most `most` rounds. Short calls are timed in groups of some
// 20 microseconds or more, so that reading the clock costs nothing noticeable.
template <typename Call>
Timing time_call(const Call& call, double seconds, int most = 100000) {
  double begin = seconds_now();
  call();
  begin = seconds_now();
  call();
  const double once = std::max(seconds_now() - begin, 1e-9);
  const int group = once < 20e-6 ? static_cast<int>(20e-6 / once) + 1 : 1;
  std::vector<double> samples;
  const double end = seconds_now() + seconds;
  while (static_cast<int>(samples.size()) < most && (samples.size() < 3 || seconds_now() < end)) {
    begin = seconds_now();
    for (int i = 0; i < group; ++i) call();
    samples.push_back((seconds_now() - begin) / group);
  }
  std::sort(samples.begin(), samples.end());
  return Timing{samples[samples.size() / 2], samples.front(), static_cast<int>(samples.size())};
}

}  // namespace flash_attn::tool
