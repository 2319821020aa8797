// Tests of what is kept in files: digests, images, archives, the cache folder, and what becomes of damaged ones.
#include "cuda/jit/archive.h"
#include "cuda/jit/disk_cache.h"
#include "cuda/jit/files.h"
#include "cuda/jit/pack.h"
#include "tests/cuda/jit/toy.h"

#include <gtest/gtest.h>

#include <fcntl.h>
#include <sys/stat.h>

namespace flash_attn::cuda {
namespace {

Digest key_of(int number) { return sha256("key " + std::to_string(number)); }

KernelImage make(int number, size_t bytes = 100) {
  KernelImage image;
  image.key = key_of(number);
  image.compiler = 13000;
  image.registers = 168 + number;
  image.static_shared_bytes = 16;
  image.stack_bytes = 1;
  image.spill_bytes = 2;
  image.name = "toy " + std::to_string(number);
  for (size_t i = 0; i < bytes; ++i) image.cubin += static_cast<char>(i * 7 + static_cast<size_t>(number));
  return image;
}

void expect_same(const KernelImage& a, const KernelImage& b) {
  EXPECT_EQ(encode_image(a), encode_image(b));
  EXPECT_EQ(a.name, b.name);
  EXPECT_EQ(a.cubin, b.cubin);
  EXPECT_EQ(a.registers, b.registers);
}

TEST(Digests, AreThoseOfTheStandard) {
  EXPECT_EQ(hex_text(sha256("")), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(hex_text(sha256("abc")), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(hex_text(sha256("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq")),
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  EXPECT_EQ(hex_text(sha256(std::string(1000000, 'a'))), "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST(Digests, FieldsDoNotRunTogether) {
  Sha256 a, b;
  a.add_field("ab");
  a.add_field("c");
  b.add_field("a");
  b.add_field("bc");
  EXPECT_NE(a.finish(), b.finish());
}

TEST(Image, ComesBackAsItWas) {
  const KernelImage image = make(1);
  KernelImage read;
  ASSERT_TRUE(decode_image(encode_image(image), image.key, &read));
  expect_same(image, read);
}

TEST(Image, EveryChangedByteAndEveryCutIsFound) {
  const KernelImage image = make(1);
  const std::string bytes = encode_image(image);
  KernelImage read;
  for (size_t i = 0; i < bytes.size(); ++i) {
    std::string changed = bytes;
    changed[i] ^= 0x10;
    EXPECT_FALSE(decode_image(changed, image.key, &read)) << i;
    EXPECT_FALSE(decode_image(bytes.substr(0, i), image.key, &read)) << i;
  }
  EXPECT_FALSE(decode_image(bytes + "x", image.key, &read));
  EXPECT_FALSE(decode_image(bytes, key_of(2), &read));
}

TEST(Pack, BytesComeBackAndShrink) {
  std::string code;
  for (int n = 0; n < 5000; ++n) code += "instruction " + std::to_string(n * n % 61) + ";";
  std::string all, unpacked;
  for (int n = 0; n < 256; ++n) all += static_cast<char>(n);
  for (const std::string& bytes :
       {std::string(), std::string("a"), std::string("abcdef"), std::string(70000, 'x'), all + all, code}) {
    ASSERT_TRUE(unpack_bytes(pack_bytes(bytes), bytes.size(), &unpacked)) << bytes.size();
    EXPECT_EQ(unpacked, bytes);
  }
  EXPECT_LT(pack_bytes(code).size(), code.size() / 4);
}

TEST(Pack, NothingThatWasChangedIsReadPastItsEnd) {
  std::string bytes, unpacked;
  for (int n = 0; n < 300; ++n) bytes += "row " + std::to_string(n % 17);
  const std::string packed = pack_bytes(bytes);
  EXPECT_FALSE(unpack_bytes(packed, bytes.size() - 1, &unpacked));
  EXPECT_FALSE(unpack_bytes(packed, bytes.size() + 1, &unpacked));
  for (size_t i = 0; i < packed.size(); ++i) {
    EXPECT_FALSE(unpack_bytes(packed.substr(0, i), bytes.size(), &unpacked)) << i;
    for (int bit = 1; bit < 256; bit *= 2) {
      std::string changed = packed;
      changed[i] = static_cast<char>(changed[i] ^ bit);
      const bool is_whole = unpack_bytes(changed, bytes.size(), &unpacked);
      EXPECT_TRUE(is_whole ? unpacked.size() == bytes.size() : unpacked.size() <= bytes.size()) << i;
    }
  }
}

TEST(Archives, HoldWhatWasWritten) {
  const TemporaryFolder folder;
  const std::string path = folder.path() + "/new/folder/test.kernels";
  std::vector<KernelImage> images;
  for (int i = 0; i < 50; ++i) images.push_back(make(i, static_cast<size_t>(10 + i)));
  ASSERT_TRUE(write_archive(path, images).ok());
  std::unique_ptr<Archive> archive;
  const Status status = Archive::open(path, &archive);
  ASSERT_TRUE(status.ok()) << status.message();
  EXPECT_EQ(archive->size(), 50u);
  for (int i = 0; i < 50; ++i) {
    KernelImage read;
    ASSERT_EQ(archive->find(key_of(i), &read), ArchiveResult::found) << i;
    expect_same(images[static_cast<size_t>(i)], read);
  }
  KernelImage read;
  EXPECT_EQ(archive->find(key_of(50), &read), ArchiveResult::absent);
}

TEST(Archives, EmptyAndMissingOnes) {
  const TemporaryFolder folder;
  std::unique_ptr<Archive> archive;
  ASSERT_TRUE(write_archive(folder.path() + "/empty", {}).ok());
  ASSERT_TRUE(Archive::open(folder.path() + "/empty", &archive).ok());
  KernelImage read;
  EXPECT_EQ(archive->find(key_of(0), &read), ArchiveResult::absent);
  const Status status = Archive::open(folder.path() + "/missing", &archive);
  EXPECT_EQ(status.code(), FA_STATUS_COMPILE_ERROR);
  EXPECT_NE(status.message().find("/missing"), std::string::npos);
}

TEST(Archives, NeverGiveDamagedCode) {
  const TemporaryFolder folder;
  const std::string path = folder.path() + "/a";
  ASSERT_TRUE(write_archive(path, {make(0), make(1)}).ok());
  std::string bytes;
  ASSERT_EQ(read_file(path, &bytes), "");
  for (size_t i = 0; i < bytes.size(); ++i) {
    std::string changed = bytes;
    changed[i] ^= 0x01;
    ASSERT_EQ(write_file(path, changed), "");
    std::unique_ptr<Archive> archive;
    if (!Archive::open(path, &archive).ok()) continue;
    int found = 0;
    for (int number = 0; number < 2; ++number) {
      KernelImage read;
      if (archive->find(key_of(number), &read) != ArchiveResult::found) continue;
      ++found;
      expect_same(make(number), read);
    }
    EXPECT_EQ(found, 1) << "byte " << i;
    ASSERT_EQ(write_file(path, bytes.substr(0, i)), "");
    std::unique_ptr<Archive> cut;
    EXPECT_FALSE(Archive::open(path, &cut).ok()) << "cut at " << i;
  }
}

std::string open_message(const std::string& path) {
  std::unique_ptr<Archive> archive;
  const Status status = Archive::open(path, &archive);
  return status.ok() ? "" : status.message();
}

bool says(const std::string& message, const std::string& part) { return message.find(part) != std::string::npos; }

TEST(Archives, ForeignOldAndDamagedOnesAreNamedAsSuch) {
  const TemporaryFolder folder;
  const std::string path = folder.path() + "/a";
  EXPECT_TRUE(says(open_message(path), "cannot be read: No such file")) << open_message(path);
  EXPECT_TRUE(says(open_message(folder.path()), "is no kernel archive")) << open_message(folder.path());
  ASSERT_EQ(write_file(path, std::string(5000, 'x')), "");
  EXPECT_TRUE(says(open_message(path), "is no kernel archive")) << open_message(path);
  ASSERT_TRUE(write_archive(path, {make(0), make(1)}).ok());
  EXPECT_EQ(open_message(path), "");
  std::string bytes;
  ASSERT_EQ(read_file(path, &bytes), "");
  std::string old = bytes;
  old[7] = '1';
  ASSERT_EQ(write_file(path, old), "");
  EXPECT_TRUE(says(open_message(path), "has format 01 but this library reads 02: write it again")) << open_message(path);
  std::string changed = bytes;
  changed[bytes.size() > 150 ? 150 : 0] ^= 1;  // in the list of contents
  ASSERT_EQ(write_file(path, changed), "");
  EXPECT_TRUE(says(open_message(path), "is damaged: its list of contents")) << open_message(path);
  ASSERT_EQ(write_file(path, bytes.substr(0, bytes.size() - 1)), "");
  EXPECT_TRUE(says(open_message(path), "is damaged: it ends before")) << open_message(path);
}

TEST(Archives, SayWhoMadeThem) {
  const TemporaryFolder folder;
  ASSERT_TRUE(write_archive(folder.path() + "/a", {make(0)}).ok());
  std::unique_ptr<Archive> archive;
  ASSERT_TRUE(Archive::open(folder.path() + "/a", &archive).ok());
  EXPECT_TRUE(archive->has_these_sources());
  EXPECT_EQ(archive->maker().rfind("flash-attn-lib ", 0), 0u) << archive->maker();
}

TEST(Disk, KeepsAndFinds) {
  const TemporaryFolder folder;
  const DiskCache cache(folder.path() + "/a/b", 1 << 20);
  KernelImage read;
  EXPECT_FALSE(cache.find(key_of(1), &read));
  ASSERT_EQ(cache.keep(make(1)), "");
  ASSERT_TRUE(cache.find(key_of(1), &read));
  expect_same(make(1), read);
  struct stat facts;
  ASSERT_EQ(stat((folder.path() + "/a/b").c_str(), &facts), 0);
  EXPECT_EQ(facts.st_mode & 0777, 0700u);
}

TEST(Disk, ADamagedFileIsDeletedAndMadeAgain) {
  const TemporaryFolder folder;
  const DiskCache cache(folder.path(), 1 << 20);
  ASSERT_EQ(cache.keep(make(1)), "");
  std::string bytes;
  ASSERT_EQ(read_file(cache.path_of(key_of(1)), &bytes), "");
  bytes[bytes.size() / 2] ^= 1;
  ASSERT_EQ(write_file(cache.path_of(key_of(1)), bytes), "");
  KernelImage read;
  EXPECT_FALSE(cache.find(key_of(1), &read));
  EXPECT_TRUE(folder.files().empty());
  ASSERT_EQ(cache.keep(make(1)), "");
  EXPECT_TRUE(cache.find(key_of(1), &read));
}

void set_age(const std::string& path, int seconds) {
  const timespec time = {std::time(nullptr) - seconds, 0};
  const timespec times[2] = {time, time};
  ASSERT_EQ(utimensat(AT_FDCWD, path.c_str(), times, 0), 0);
}

TEST(Disk, TheLongestUnusedGoFirst) {
  const TemporaryFolder folder;
  const DiskCache cache(folder.path(), 6000);
  for (int i = 0; i < 5; ++i) {
    ASSERT_EQ(cache.keep(make(i, 1000)), "");
    set_age(cache.path_of(key_of(i)), 1000 - i);
  }
  KernelImage read;
  ASSERT_TRUE(cache.find(key_of(0), &read));  // used: now the youngest
  ASSERT_EQ(cache.keep(make(5, 1000)), "");
  EXPECT_TRUE(cache.find(key_of(0), &read));
  EXPECT_TRUE(cache.find(key_of(5), &read));
  EXPECT_FALSE(cache.find(key_of(1), &read));
  uint64_t total = 0;
  for (const std::string& path : folder.files()) {
    struct stat facts;
    ASSERT_EQ(stat(path.c_str(), &facts), 0);
    total += static_cast<uint64_t>(facts.st_size);
  }
  EXPECT_LE(total, 6000u);
  EXPECT_GE(total, 3000u);
}

TEST(Disk, AbandonedTemporaryFilesGoAndOthersStay) {
  const TemporaryFolder folder;
  const std::string old = folder.path() + "/x.kernel.1.1.tmp", young = folder.path() + "/y.kernel.1.1.tmp",
                    foreign = folder.path() + "/notes";
  for (const std::string& path : {old, young, foreign}) ASSERT_EQ(write_file(path, "x"), "");
  set_age(old, 4000);
  set_age(foreign, 4000);
  ASSERT_EQ(DiskCache(folder.path(), 1).keep(make(1)), "");
  EXPECT_FALSE(is_file(old));
  EXPECT_TRUE(is_file(young));
  EXPECT_TRUE(is_file(foreign));
}

TEST(Disk, AnUnusableFolderOnlyRemembersNothing) {
  const DiskCache cache("/proc/flash_attn_test", 1 << 20);
  EXPECT_NE(cache.keep(make(1)), "");
  KernelImage read;
  EXPECT_FALSE(cache.find(key_of(1), &read));
  EXPECT_EQ(DiskCache("", 1 << 20).keep(make(1)), "");
  EXPECT_FALSE(DiskCache("", 1 << 20).find(key_of(1), &read));
}

}  // namespace
}  // namespace flash_attn::cuda
