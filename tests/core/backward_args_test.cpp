// Pointers of a backward run against the description: the forward's results as inputs, and gradients that share memory with
// nothing.
#include "tests/core/expect_args.h"
#include "tests/core/valid_desc.h"

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>

namespace flash_attn::test {
namespace {

using Args = fa_attention_args;

struct Tensor {
  const char* name;
  size_t offset;  // in fa_attention_args
  bool is_output;
};

#define FA_TENSOR(field) #field, offsetof(Args, field)
constexpr Tensor kTensors[] = {
    {FA_TENSOR(q), false},    {FA_TENSOR(k), false},    {FA_TENSOR(v), false},    {FA_TENSOR(o), false},
    {FA_TENSOR(lse), false},  {FA_TENSOR(bias), false}, {FA_TENSOR(sink), false}, {FA_TENSOR(alibi), false},
    {FA_TENSOR(dout), false}, {FA_TENSOR(dlse), false}, {FA_TENSOR(dq), true},    {FA_TENSOR(dk), true},
    {FA_TENSOR(dv), true},    {FA_TENSOR(dbias), true}, {FA_TENSOR(dsink), true}, {FA_TENSOR(dslopes), true}};
#undef FA_TENSOR

// Addresses a megabyte apart that are never read.
uintptr_t place(size_t index) { return uintptr_t{0x100000000} + index * 0x100000; }

void set(Args* args, const Tensor& tensor, uintptr_t address) {
  std::memcpy(reinterpret_cast<char*>(args) + tensor.offset, &address, sizeof address);
}

// A backward with every gradient.
fa_attention_desc full_desc() {
  fa_attention_desc desc = backward_desc();
  desc.dlse = desc.lse;
  desc.bias = desc.dbias = compact(FA_DTYPE_F32, {1, 4, 3, 5});
  desc.sink = desc.dsink = compact(FA_DTYPE_F32, {4});
  desc.alibi = desc.dslopes = compact(FA_DTYPE_F32, {2, 4});
  return desc;
}

Args full_args() {
  Args args;
  fa_attention_args_init(&args);
  for (size_t n = 0; n < std::size(kTensors); ++n) set(&args, kTensors[n], place(n));
  return args;
}

TEST(BackwardArgs, EveryTensorIsNeededAndAligned) {
  expect_accepted(full_desc(), full_args());
  for (size_t n = 0; n < std::size(kTensors); ++n) {
    const std::string name = kTensors[n].name;
    Args args = full_args();
    set(&args, kTensors[n], 0);
    expect_refused(full_desc(), args, name + " is NULL but the description needs it");
    set(&args, kTensors[n], place(n) + 2);
    expect_refused(full_desc(), args, name + " is 0x");
    expect_refused(full_desc(), args, "must be a multiple of 4 bytes, as described");
  }
}

TEST(BackwardArgs, WhatIsNotDescribedMustBeNull) {
  for (const char* name : {"dlse", "dbias", "dsink", "dslopes"}) {
    fa_attention_desc desc = full_desc();
    if (std::string(name) == "dlse") desc.dlse.dtype = FA_DTYPE_NONE;
    if (std::string(name) == "dbias") desc.dbias.dtype = FA_DTYPE_NONE;
    if (std::string(name) == "dsink") desc.dsink.dtype = FA_DTYPE_NONE;
    if (std::string(name) == "dslopes") desc.dslopes.dtype = FA_DTYPE_NONE;
    expect_refused(desc, full_args(), "must be NULL: the description does not have it");
  }
}

// Each gradient against each input and each other gradient.
TEST(BackwardArgs, GradientsOverlapNothing) {
  for (const Tensor& output : kTensors) {
    if (!output.is_output) continue;
    for (size_t n = 0; n < std::size(kTensors); ++n) {
      const Tensor& other = kTensors[n];
      if (other.offset == output.offset) continue;
      Args args = full_args();
      set(&args, output, place(n));
      const Status status = check_described(full_desc(), args);
      EXPECT_EQ(status.code(), FA_STATUS_INVALID_ARGUMENT);
      const std::string text = " " + status.message();
      EXPECT_NE(text.find(other.is_output ? "overlap but must be apart" : " overlaps "), std::string::npos) << text;
      for (const char* name : {output.name, other.name}) {
        EXPECT_NE(text.find(" " + std::string(name) + " (0x"), std::string::npos) << name << " is not in:" << text;
      }
    }
  }
  Args args = full_args();
  args.dout = args.o;  // inputs may share memory
  expect_accepted(full_desc(), args);
}

TEST(BackwardArgs, GradientsReachAsFarAsTheirOwnTypes) {
  fa_attention_desc desc = full_desc();
  desc.q.dtype = desc.k.dtype = desc.v.dtype = FA_DTYPE_BF16;  // dq stays f32
  Args args = full_args();
  const uintptr_t end_of_dq = reinterpret_cast<uintptr_t>(args.dq) + 2 * 3 * 4 * 8 * 4;
  args.dk = reinterpret_cast<void*>(end_of_dq);
  expect_accepted(desc, args);
  args.dk = reinterpret_cast<void*>(end_of_dq - 4);
  expect_refused(desc, args, "and dk (0x100a002fc) overlap but must be apart");
}

TEST(BackwardArgs, PromisedAlignment) {
  fa_attention_desc desc = full_desc();
  for (fa_tensor_desc* tensor : {&desc.dout, &desc.dq, &desc.dk, &desc.dv}) {
    desc.dout.alignment = desc.dq.alignment = desc.dk.alignment = desc.dv.alignment = 4;
    tensor->alignment = 32;
    Args args = full_args();
    expect_accepted(desc, args);
    for (const void** pointer :
         {&args.dout, const_cast<const void**>(&args.dq), const_cast<const void**>(&args.dk), const_cast<const void**>(&args.dv)}) {
      *pointer = static_cast<const char*>(*pointer) + 16;
    }
    expect_refused(desc, args, "must be a multiple of 32 bytes, as described");
  }
}

// Gradients in the slots of one [b, s, 3, h, d] buffer, as of a fused projection.
TEST(BackwardArgs, GradientsMayLieInSlotsOfAFusedBuffer) {
  fa_attention_desc desc = backward_desc();
  fa_tensor_desc slot = compact(FA_DTYPE_F32, {2, 5, 2, 8});
  desc.q = desc.k = desc.v = desc.o = desc.dout = slot;
  desc.lse = compact(FA_DTYPE_F32, {2, 2, 5});
  slot.stride[0] = 5 * 3 * 16;
  slot.stride[1] = 3 * 16;
  desc.dq = desc.dk = desc.dv = slot;
  Args args;
  fa_attention_args_init(&args);
  for (size_t n = 0; n < std::size(kTensors); ++n) {
    const std::string name = kTensors[n].name;
    for (const char* needed : {"q", "k", "v", "o", "lse", "dout"})
      if (name == needed) set(&args, kTensors[n], place(n));
  }
  args.dq = reinterpret_cast<void*>(place(20));
  args.dk = reinterpret_cast<void*>(place(20) + 16 * 4);
  args.dv = reinterpret_cast<void*>(place(20) + 32 * 4);
  expect_accepted(desc, args);
  args.dv = reinterpret_cast<void*>(place(20) + 33 * 4);
  expect_refused(desc, args, "dq (0x101400000) and dv (0x101400084) overlap but must be apart");
}

TEST(BackwardArgs, EmptyGradientsMayBeNullAndSumsOverNothingMayNot) {
  fa_attention_desc desc = full_desc();
  desc.q.shape[1] = desc.o.shape[1] = desc.dout.shape[1] = desc.dq.shape[1] = 0;
  desc.lse.shape[2] = desc.dlse.shape[2] = 0;
  desc.bias = desc.dbias = compact(FA_DTYPE_F32, {1, 4, 1, 5});
  Args args = full_args();
  args.dq = nullptr;
  expect_accepted(desc, args);
  args.dbias = nullptr;
  expect_refused(desc, args, "dbias is NULL but the description needs it");
}

}  // namespace
}  // namespace flash_attn::test
