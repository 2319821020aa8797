// Pointers of a run against the description: given exactly when described, aligned, and outputs that share memory with nothing.
#include "tests/core/expect_args.h"
#include "tests/core/valid_desc.h"

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <ostream>
#include <string>
#include <vector>

namespace flash_attn::test {
namespace {

using Args = fa_attention_args;

// Addresses a megabyte apart that are never read.
template <typename T>
T* place(int index) {
  return reinterpret_cast<T*>(uintptr_t{0x100000000} + static_cast<uintptr_t>(index) * 0x100000);
}

Args dense_args() {
  Args args;
  fa_attention_args_init(&args);
  args.q = place<float>(0);
  args.k = place<float>(1);
  args.v = place<float>(2);
  args.o = place<float>(3);
  args.lse = place<float>(4);
  return args;
}

// A description with one thing more, and the pointer that this asks for.
struct Case {
  const char* name;
  void (*describe)(fa_attention_desc* desc);
  void (*give)(Args* args);
};

void PrintTo(const Case& test, std::ostream* stream) { *stream << test.name; }

const Case kCases[] = {
    {"seqused_q", [](fa_attention_desc* d) { d->inputs = FA_INPUT_SEQUSED_Q; }, [](Args* a) { a->seqused_q = place<int32_t>(9); }},
    {"seqused_k", [](fa_attention_desc* d) { d->inputs = FA_INPUT_SEQUSED_K; }, [](Args* a) { a->seqused_k = place<int32_t>(9); }},
    {"leftpad_k", [](fa_attention_desc* d) { d->inputs = FA_INPUT_LEFTPAD_K; }, [](Args* a) { a->leftpad_k = place<int32_t>(9); }},
    {"cache_batch_idx", [](fa_attention_desc* d) { d->inputs = FA_INPUT_CACHE_BATCH_IDX; },
     [](Args* a) { a->cache_batch_idx = place<int32_t>(9); }},
    {"mask_kinds", [](fa_attention_desc* d) { d->mask_kind = FA_MASK_PER_REQUEST; },
     [](Args* a) { a->mask_kinds = place<int32_t>(9); }},
    {"diagonal_offsets", [](fa_attention_desc* d) { d->diagonal = FA_DIAGONAL_OFFSET_PER_REQUEST; },
     [](Args* a) { a->diagonal_offsets = place<int32_t>(9); }},
    {"alibi",
     [](fa_attention_desc* d) {
       d->alibi = compact(FA_DTYPE_F32, {2, 4});
     },
     [](Args* a) { a->alibi = place<float>(9); }},
    {"bias",
     [](fa_attention_desc* d) {
       d->bias = compact(FA_DTYPE_F32, {1, 1, 3, 5});
     },
     [](Args* a) { a->bias = place<float>(9); }},
    {"mask",
     [](fa_attention_desc* d) {
       d->mask = compact(FA_DTYPE_BOOL, {1, 1, 3, 5});
     },
     [](Args* a) { a->mask = place<uint8_t>(9); }},
    {"dropout_seed_ptr", [](fa_attention_desc* d) { d->dropout_p = 0.5f, d->inputs = FA_INPUT_DROPOUT_POINTERS; },
     [](Args* a) { a->dropout_seed_ptr = place<uint64_t>(9), a->dropout_offset_ptr = place<uint64_t>(8); }},
    {"sink", [](fa_attention_desc* d) { d->sink = compact(FA_DTYPE_F32, {4}); }, [](Args* a) { a->sink = place<float>(9); }},
};

class DescribedPointer : public testing::TestWithParam<Case> {};

TEST_P(DescribedPointer, IsGivenExactlyWhenDescribed) {
  const Case& test = GetParam();
  fa_attention_desc desc = dense_desc();
  Args args = dense_args();
  test.describe(&desc);
  expect_refused(desc, args, std::string(test.name) + " is NULL but the description needs it");
  test.give(&args);
  expect_accepted(desc, args);
  expect_refused(dense_desc(), args, std::string(test.name) + " is 0x100900000 but must be NULL: the description does not have it");
}

TEST_P(DescribedPointer, OutputsMustNotOverlapIt) {
  const Case& test = GetParam();
  fa_attention_desc desc = dense_desc();
  Args args = dense_args();
  test.describe(&desc);
  test.give(&args);
  args.o = place<float>(9);
  expect_refused(desc, args, std::string("o (0x100900000) overlaps ") + test.name);
  args.o = place<float>(3);
  args.lse = place<float>(9);
  expect_refused(desc, args, std::string("lse (0x100900000) overlaps ") + test.name);
}

TEST_P(DescribedPointer, TheWorkspaceMustNotOverlapIt) {
  const Case& test = GetParam();
  fa_attention_desc desc = dense_desc();
  Args args = dense_args();
  test.describe(&desc);
  test.give(&args);
  expect_refused(desc, args, std::string("workspace.scratch (0x100900000) overlaps ") + test.name + " (0x100900000)",
                 {place<char>(9), 1, place<char>(10), 64});
  expect_refused(desc, args, std::string("workspace.state (0x1008ffff0) overlaps ") + test.name + " (0x100900000)",
                 {place<char>(10), 64, place<char>(9) - 16, 17});
  expect_accepted(desc, args, {place<char>(9) - 80, 64, place<char>(9) - 16, 16});
}

std::string name_of(const testing::TestParamInfo<Case>& test) { return test.param.name; }

INSTANTIATE_TEST_SUITE_P(All, DescribedPointer, testing::ValuesIn(kCases), name_of);

TEST(CheckArgs, RequiredPointers) {
  expect_accepted(dense_desc(), dense_args());
  Args args = dense_args();
  args.q = nullptr;
  expect_refused(dense_desc(), args, "q is NULL but the description needs it");
  args = dense_args();
  args.lse = nullptr;
  expect_refused(dense_desc(), args, "lse is NULL but the description needs it");
  args = dense_args();
  args.dq = place<float>(9);
  expect_refused(dense_desc(), args, "dq is 0x100900000 but must be NULL");
  args = dense_args();
  args.reserved = 1;
  expect_refused(dense_desc(), args, "args.reserved is 1 but must be 0");
}

TEST(CheckArgs, NothingUndescribedMayBeGiven) {
  int pointers = 0;
  for (size_t offset = offsetof(Args, q); offset < sizeof(Args); offset += sizeof(void*)) {
    if (offset == offsetof(Args, dropout_seed) || offset == offsetof(Args, dropout_offset)) continue;  // numbers
    Args args = dense_args();
    void* address = nullptr;
    std::memcpy(&address, reinterpret_cast<char*>(&args) + offset, sizeof address);
    ++pointers;
    if (address != nullptr) continue;
    address = place<char>(20);
    std::memcpy(reinterpret_cast<char*>(&args) + offset, &address, sizeof address);
    expect_refused(dense_desc(), args, " is 0x101400000 but must be NULL: the description does not have it");
  }
  EXPECT_EQ(pointers, 43);
}

TEST(CheckArgs, PackedAndPagedPointers) {
  Args args = dense_args();
  expect_refused(packed_desc(), args, "cu_seqlens_q is NULL but the description needs it");
  args.cu_seqlens_q = place<int32_t>(5);
  expect_refused(packed_desc(), args, "cu_seqlens_k is NULL but the description needs it");
  args.cu_seqlens_k = place<int32_t>(6);
  expect_accepted(packed_desc(), args);
  args = dense_args();
  expect_refused(paged_desc(), args, "block_table is NULL but the description needs it");
  args.block_table = place<int32_t>(5);
  expect_accepted(paged_desc(), args);
  args.lse = place<float>(5);
  expect_refused(paged_desc(), args, "lse (0x100500000) overlaps block_table");
}

TEST(CheckArgs, TreePointers) {
  fa_attention_desc desc = dense_desc();
  desc.mask_kind = FA_MASK_TREE;
  desc.tree_mask = compact(FA_DTYPE_U64, {2, 3, 1});
  Args args = dense_args();
  args.tree_mask = place<uint64_t>(5);
  expect_refused(desc, args, "tree_sizes is NULL but the description needs it");
  args.tree_sizes = place<int32_t>(6);
  expect_accepted(desc, args);
  args.tree_mask = reinterpret_cast<uint64_t*>(uintptr_t{0x100500004});
  expect_refused(desc, args, "tree_mask is 0x100500004 but must be a multiple of 8 bytes");
}

TEST(CheckArgs, DropoutPointers) {
  fa_attention_desc desc = dense_desc();
  desc.dropout_p = 0.5f;
  desc.inputs = FA_INPUT_DROPOUT_POINTERS;
  Args args = dense_args();
  args.dropout_seed_ptr = place<uint64_t>(5);
  expect_refused(desc, args, "dropout_offset_ptr is NULL but the description needs it");
  args.dropout_offset_ptr = place<uint64_t>(6);
  expect_accepted(desc, args);
}

TEST(CheckArgs, Alignment) {
  fa_attention_desc desc = dense_desc();
  Args args = dense_args();
  args.o = reinterpret_cast<void*>(uintptr_t{0x100300002});
  expect_refused(desc, args, "o is 0x100300002 but must be a multiple of 4 bytes, as described");
  args.o = reinterpret_cast<void*>(uintptr_t{0x100300010});
  desc.o.alignment = 16;
  expect_accepted(desc, args);
  desc.o.alignment = 32;
  expect_refused(desc, args, "o is 0x100300010 but must be a multiple of 32 bytes, as described");
}

TEST(CheckArgs, EmptyTensorsMayBeNull) {
  fa_attention_desc desc = dense_desc();
  desc.k.shape[1] = desc.v.shape[1] = 0;
  Args args = dense_args();
  args.k = args.v = nullptr;
  expect_accepted(desc, args);
  desc = dense_desc();
  desc.q.shape[1] = desc.o.shape[1] = desc.lse.shape[2] = 0;
  args = dense_args();
  args.q = nullptr;
  args.o = nullptr;
  args.lse = nullptr;
  expect_accepted(desc, args);
}

TEST(CheckArgs, OutputsOverlapNothing) {
  Args args = dense_args();
  args.o = const_cast<void*>(args.q);
  expect_refused(dense_desc(), args, "o (0x100000000) overlaps q (0x100000000) but an output must share no memory with an input");
  args = dense_args();
  args.o = reinterpret_cast<void*>(uintptr_t{0x100100000 + 2 * 5 * 2 * 8 * 4 - 4});  // k's last element
  expect_refused(dense_desc(), args, "overlaps k");
  args.o = reinterpret_cast<void*>(uintptr_t{0x100100000 + 2 * 5 * 2 * 8 * 4});  // right behind k
  expect_accepted(dense_desc(), args);
  args = dense_args();
  args.lse = static_cast<float*>(args.o);
  expect_refused(dense_desc(), args, "o (0x100300000) and lse (0x100300000) overlap but must be apart");
  args = dense_args();
  args.v = args.k;  // inputs may share memory
  expect_accepted(dense_desc(), args);
}

TEST(CheckArgs, TheWorkspaceOverlapsNothing) {
  const Args args = dense_args();
  const BorrowedMemory apart = {place<char>(5), 100, place<char>(6), 100};
  expect_accepted(dense_desc(), args, apart);
  BorrowedMemory memory = apart;
  memory.scratch = args.k;
  expect_refused(dense_desc(), args,
                 "workspace.scratch (0x100100000) overlaps k (0x100100000) but the workspace must share no memory with an input",
                 memory);
  memory.scratch = args.o;
  expect_refused(dense_desc(), args, "workspace.scratch (0x100300000) and o (0x100300000) overlap but must be apart", memory);
  memory = apart;
  memory.state = args.lse;
  expect_refused(dense_desc(), args, "workspace.state (0x100400000) and lse (0x100400000) overlap but must be apart", memory);
  memory = apart;
  memory.scratch = place<char>(0) - 100;  // ends where q begins
  expect_accepted(dense_desc(), args, memory);
  memory.scratch_bytes = 101;
  expect_refused(dense_desc(), args, "overlaps q (0x100000000)", memory);
  memory.scratch = args.q;
  memory.scratch_bytes = 0;  // not used
  expect_accepted(dense_desc(), args, memory);
  // Between the rows of a strided tensor there is room.
  fa_attention_desc strided = dense_desc();
  strided.q.stride[0] = 1024;
  memory = {place<char>(0) + 3 * 4 * 8 * 4, 1024 * 4 - 3 * 4 * 8 * 4, nullptr, 0};
  expect_accepted(strided, args, memory);
  ++memory.scratch_bytes;
  expect_refused(strided, args, "overlaps q (0x100000000)", memory);
}

TEST(CheckArgs, OutputMayLieInASlotOfAPackedBuffer) {
  // [b, s, 4, h, d]: q, k, v and o of one buffer.
  fa_attention_desc desc = dense_desc();
  desc.lse.dtype = FA_DTYPE_NONE;
  fa_tensor_desc slot = compact(FA_DTYPE_F32, {2, 5, 2, 8});
  slot.stride[0] = 5 * 4 * 16;
  slot.stride[1] = 4 * 16;
  desc.q = desc.k = desc.v = desc.o = slot;
  const uintptr_t base = 0x100000000;
  Args args = dense_args();
  args.lse = nullptr;
  args.q = reinterpret_cast<void*>(base);
  args.k = reinterpret_cast<void*>(base + 16 * 4);
  args.v = reinterpret_cast<void*>(base + 32 * 4);
  args.o = reinterpret_cast<void*>(base + 48 * 4);
  expect_accepted(desc, args);
  args.o = reinterpret_cast<void*>(base + 47 * 4);
  expect_refused(desc, args, "overlaps v");
  args.o = reinterpret_cast<void*>(base + 49 * 4);
  expect_refused(desc, args, "overlaps q");
}

TEST(CheckArgs, RequestPointers) {
  fa_attention_desc desc = dense_desc();
  desc.kv_layout = FA_KV_POINTERS;
  std::vector<const void*> k_ptrs = {place<float>(5), place<float>(6)};
  std::vector<const void*> v_ptrs = {place<float>(7), place<float>(8)};
  Args args = dense_args();
  expect_refused(desc, args, "k is 0x100100000 but must be NULL: the description does not have it");
  args.k = args.v = nullptr;
  expect_refused(desc, args, "k_ptrs is NULL but the description needs it");
  args.k_ptrs = k_ptrs.data();
  args.v_ptrs = v_ptrs.data();
  expect_accepted(desc, args);
  v_ptrs[1] = nullptr;
  expect_refused(desc, args, "v_ptrs[1] is NULL but request 1 has keys");
  v_ptrs[1] = place<char>(8) + 1;
  expect_refused(desc, args, "v_ptrs[1] is 0x100800001 but must be a multiple of 4 bytes");
  v_ptrs[1] = args.o;
  expect_refused(desc, args, "o (0x100300000) overlaps v_ptrs (0x100300000)");
  v_ptrs[1] = nullptr;
  const int32_t seqused[2] = {5, 0};
  desc.inputs = FA_INPUT_SEQUSED_K;
  args.seqused_k = seqused;
  expect_accepted(desc, args);
}

// A request's memory ends with the rows it uses, whatever the longest request has.
TEST(CheckArgs, RequestPointersReachAsFarAsTheRowsUsed) {
  fa_attention_desc desc = dense_desc();
  desc.kv_layout = FA_KV_POINTERS;
  desc.inputs = FA_INPUT_SEQUSED_K;
  Args args = dense_args();
  args.k = args.v = nullptr;
  const int64_t row_bytes = desc.k.stride[1] * 4;
  ASSERT_GE(desc.k.shape[1], 4);
  const std::vector<const void*> k_ptrs = {place<char>(3) - 3 * row_bytes, place<float>(6)};  // o lies at place(3)
  const std::vector<const void*> v_ptrs = {place<float>(7), place<float>(8)};
  args.k_ptrs = k_ptrs.data();
  args.v_ptrs = v_ptrs.data();
  std::vector<int32_t> seqused = {3, 2};
  args.seqused_k = seqused.data();
  expect_accepted(desc, args);
  seqused[0] = 4;
  expect_refused(desc, args, "o (0x100300000) overlaps k_ptrs");
  const int32_t leftpad[2] = {4, 0};  // no key is left, so nothing is read
  desc.inputs |= FA_INPUT_LEFTPAD_K;
  args.leftpad_k = leftpad;
  expect_accepted(desc, args);
}

}  // namespace
}  // namespace flash_attn::test
