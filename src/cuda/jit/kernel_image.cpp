// See kernel_image.h. Layout: head, name, cubin; numbers are little-endian, as on every platform served.
#include "cuda/jit/kernel_image.h"

#include <cstring>

namespace flash_attn::cuda {
namespace {

constexpr char kMagic[8] = {'F', 'A', 'K', 'E', 'R', 'N', '0', '1'};

struct Head {
  char magic[8];
  uint64_t name_bytes, cubin_bytes;
  int32_t compiler, registers, static_shared_bytes, stack_bytes, spill_bytes, zero;
  Digest key;
  Digest checksum;  // of the whole with this field zero
};
static_assert(sizeof(Head) == 112);

Digest checksum_of(Head head, std::string_view rest) {
  head.checksum = {};
  Sha256 hash;
  hash.add({reinterpret_cast<const char*>(&head), sizeof head});
  hash.add(rest);
  return hash.finish();
}

}  // namespace

std::string encode_image(const KernelImage& image) {
  Head head = {};
  std::memcpy(head.magic, kMagic, sizeof kMagic);
  head.name_bytes = image.name.size();
  head.cubin_bytes = image.cubin.size();
  head.compiler = image.compiler;
  head.registers = image.registers;
  head.static_shared_bytes = image.static_shared_bytes;
  head.stack_bytes = image.stack_bytes;
  head.spill_bytes = image.spill_bytes;
  head.key = image.key;
  const std::string rest = image.name + image.cubin;
  head.checksum = checksum_of(head, rest);
  return std::string(reinterpret_cast<const char*>(&head), sizeof head) + rest;
}

bool decode_image(std::string_view bytes, const Digest& key, KernelImage* image) {
  Head head;
  if (bytes.size() < sizeof head) return false;
  std::memcpy(&head, bytes.data(), sizeof head);
  bytes.remove_prefix(sizeof head);
  if (std::memcmp(head.magic, kMagic, sizeof kMagic) != 0 || head.key != key) return false;
  if (head.name_bytes > bytes.size() || head.cubin_bytes != bytes.size() - head.name_bytes || head.cubin_bytes == 0) return false;
  if (checksum_of(head, bytes) != head.checksum) return false;
  image->key = head.key;
  image->compiler = head.compiler;
  image->registers = head.registers;
  image->static_shared_bytes = head.static_shared_bytes;
  image->stack_bytes = head.stack_bytes;
  image->spill_bytes = head.spill_bytes;
  image->name = bytes.substr(0, head.name_bytes);
  image->cubin = bytes.substr(head.name_bytes);
  return true;
}

}  // namespace flash_attn::cuda
