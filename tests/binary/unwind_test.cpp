// Exceptions must still find their handlers when the unwinder uses src/runtime/dl_find_object.cpp instead of glibc's function:
// inside one object, and through frames of another (qsort's, in libc).
#include <cstdio>
#include <cstdlib>
#include <new>
#include <stdexcept>
#include <string>

namespace {

int throw_from(int depth) {
  const std::string on_the_way = std::to_string(depth);
  if (depth == 0) throw std::runtime_error("bottom");
  return throw_from(depth - 1) + static_cast<int>(on_the_way.size());
}

int compare_and_throw(const void*, const void*) { throw std::bad_alloc(); }

bool catches_own() {
  try {
    throw_from(5);
  } catch (const std::runtime_error& error) {
    return std::string(error.what()) == "bottom";
  }
  return false;
}

bool catches_through_libc() {
  int numbers[] = {3, 1, 2};
  try {
    std::qsort(numbers, 3, sizeof numbers[0], compare_and_throw);
  } catch (const std::bad_alloc&) {
    return true;
  }
  return false;
}

}  // namespace

int main() {
  const bool own = catches_own(), through_libc = catches_through_libc();
  std::printf("own frames %s, libc's frames %s\n", own ? "ok" : "lost", through_libc ? "ok" : "lost");
  return own && through_libc ? 0 : 1;
}
