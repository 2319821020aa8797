// See pack.h. A packed text is a sequence of steps: number of new bytes, those bytes, then length and distance of a copy; the last
// step has no copy. Numbers are written seven bits a byte, low ones first.
#include "cuda/jit/pack.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

namespace flash_attn::cuda {
namespace {

constexpr size_t kLeastCopy = 6;  // shorter ones cost as much as they save
constexpr int kTableBits = 16;
constexpr int kMostTries = 32;
constexpr uint32_t kNowhere = UINT32_MAX;

void put_number(size_t number, std::string* to) {
  for (; number >= 128; number >>= 7) to->push_back(static_cast<char>(number | 128));
  to->push_back(static_cast<char>(number));
}

bool get_number(std::string_view* from, size_t* number) {
  *number = 0;
  for (int shift = 0; shift < 63 && !from->empty(); shift += 7) {
    const auto byte = static_cast<unsigned char>(from->front());
    from->remove_prefix(1);
    *number |= size_t{byte & 127u} << shift;
    if (byte < 128) return true;
  }
  return false;
}

// Earlier places whose first bytes are those of a place: the newest of each hash, and from each place the one before.
class Places {
 public:
  explicit Places(std::string_view bytes)
      : bytes_(bytes), newest_(size_t{1} << kTableBits, kNowhere), before_(bytes.size(), kNowhere) {}

  void add(size_t at) {
    if (at + kLeastCopy > bytes_.size()) return;
    uint32_t& newest = newest_[hash(at)];
    before_[at] = newest;
    newest = static_cast<uint32_t>(at);
  }

  // Length of the longest repetition found of what stands at `at`, and where it was.
  size_t longest(size_t at, size_t* where) const {
    size_t best = 0;
    if (at + kLeastCopy > bytes_.size()) return best;
    uint32_t place = newest_[hash(at)];
    for (int tries = 0; tries < kMostTries && place != kNowhere; ++tries, place = before_[place]) {
      const size_t limit = bytes_.size() - at;
      size_t length = 0;
      while (length < limit && bytes_[place + length] == bytes_[at + length]) ++length;
      if (length > best) best = length, *where = place;
    }
    return best;
  }

 private:
  size_t hash(size_t at) const {
    uint32_t head = 0;
    uint16_t tail = 0;
    std::memcpy(&head, &bytes_[at], 4);
    std::memcpy(&tail, &bytes_[at + 4], 2);
    return ((head * 2654435761u) ^ (tail * 40503u)) >> (32 - kTableBits);
  }

  std::string_view bytes_;
  std::vector<uint32_t> newest_, before_;
};

}  // namespace

std::string pack_bytes(std::string_view bytes) {
  std::string packed;
  Places places(bytes);
  size_t begin = 0;  // of the new bytes
  for (size_t at = 0; at < bytes.size();) {
    size_t where = 0;
    const size_t length = places.longest(at, &where);
    if (length < kLeastCopy) {
      places.add(at++);
      continue;
    }
    put_number(at - begin, &packed);
    packed.append(bytes.substr(begin, at - begin));
    put_number(length, &packed);
    put_number(at - where, &packed);
    for (size_t n = 0; n < length; ++n) places.add(at + n);
    at += length;
    begin = at;
  }
  put_number(bytes.size() - begin, &packed);
  packed.append(bytes.substr(begin));
  return packed;
}

bool unpack_bytes(std::string_view packed, size_t size, std::string* bytes) {
  bytes->clear();
  for (;;) {
    size_t count = 0, length = 0, distance = 0;
    if (!get_number(&packed, &count) || count > packed.size() || count > size - bytes->size()) return false;
    bytes->append(packed.substr(0, count));
    packed.remove_prefix(count);
    if (packed.empty()) return bytes->size() == size;
    if (!get_number(&packed, &length) || !get_number(&packed, &distance)) return false;
    if (distance == 0 || distance > bytes->size() || length > size - bytes->size()) return false;
    for (size_t n = 0; n < length; ++n) bytes->push_back((*bytes)[bytes->size() - distance]);
  }
}

}  // namespace flash_attn::cuda
