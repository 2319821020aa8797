// See settings_mutex.h. Neither the mutex nor the registration is made at first use: a fork may come in the middle of that.
#include "core/settings_mutex.h"

#include <pthread.h>

namespace flash_attn {
namespace {

constinit std::mutex mutex;

__attribute__((constructor)) void hold_over_forks() {
  pthread_atfork([] { mutex.lock(); }, [] { mutex.unlock(); }, [] { mutex.unlock(); });
}

}  // namespace

std::mutex& settings_mutex() { return mutex; }

}  // namespace flash_attn
