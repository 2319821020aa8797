// The C++ headers: DLPack tensors to ours and back, with the structs as DLPack's specification lays them out and, where it is
// installed, with the real dlpack.h; and calls made of tensors and options.
#include "flash_attn/dlpack.hpp"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#if __has_include(<dlpack/dlpack.h>)
#include <dlpack/dlpack.h>
#endif

namespace {

namespace local {

enum DeviceType { kDevice = 1 };

struct Device {
  DeviceType device_type;
  int32_t device_id;
};

struct DataType {
  uint8_t code;
  uint8_t bits;
  uint16_t lanes;
};

struct DLTensor {
  void* data;
  Device device;
  int32_t ndim;
  DataType dtype;
  int64_t* shape;
  int64_t* strides;
  uint64_t byte_offset;
};

}  // namespace local

template <typename T>
class Dlpack : public testing::Test {
 protected:
  Dlpack() {
    tensor_.data = data_;
    set_device(1, 0);
    tensor_.ndim = 3;
    set_type(2, 32, 1);
    tensor_.shape = shape_;
    tensor_.strides = strides_;
    tensor_.byte_offset = 8;
  }

  void set_device(int type, int index) {
    tensor_.device.device_type = static_cast<decltype(tensor_.device.device_type)>(type);
    tensor_.device.device_id = index;
  }

  void set_type(int code, int bits, int lanes) {
    tensor_.dtype.code = static_cast<uint8_t>(code);
    tensor_.dtype.bits = static_cast<uint8_t>(bits);
    tensor_.dtype.lanes = static_cast<uint16_t>(lanes);
  }

  std::string refusal() const {
    try {
      flash_attn::from_dlpack(tensor_);
    } catch (const flash_attn::Error& error) {
      EXPECT_EQ(error.status(), FA_STATUS_INVALID_ARGUMENT);
      return error.what();
    }
    return "accepted";
  }

  float data_[64] = {};
  int64_t shape_[5] = {2, 3, 4, 1, 1};
  int64_t strides_[5] = {20, 5, 1, 1, 1};
  T tensor_ = {};
};

#ifdef DLPACK_VERSION
using Layouts = testing::Types<local::DLTensor, ::DLTensor>;
#else
using Layouts = testing::Types<local::DLTensor>;
#endif
TYPED_TEST_SUITE(Dlpack, Layouts);

TYPED_TEST(Dlpack, BecomesATensor) {
  const flash_attn::Tensor tensor = flash_attn::from_dlpack(this->tensor_);
  EXPECT_EQ(tensor.data, this->data_ + 2);
  EXPECT_EQ(tensor.device_type, FA_DEVICE_CPU);
  EXPECT_EQ(tensor.device_index, -1);
  EXPECT_EQ(tensor.desc.dtype, FA_DTYPE_F32);
  EXPECT_EQ(tensor.desc.rank, 3);
  EXPECT_EQ(tensor.desc.shape[1], 3);
  EXPECT_EQ(tensor.desc.stride[0], 20);
  EXPECT_EQ(tensor.desc.stride[1], 5);
}

TYPED_TEST(Dlpack, WithoutStridesIsCompact) {
  this->tensor_.strides = nullptr;
  const flash_attn::Tensor tensor = flash_attn::from_dlpack(this->tensor_);
  EXPECT_EQ(tensor.desc.stride[0], 12);
  EXPECT_EQ(tensor.desc.stride[1], 4);
  EXPECT_EQ(tensor.desc.stride[2], 1);
}

TYPED_TEST(Dlpack, TypesBothWays) {
  const int types[][3] = {{2, 32, FA_DTYPE_F32},    {2, 16, FA_DTYPE_F16}, {4, 16, FA_DTYPE_BF16}, {10, 8, FA_DTYPE_F8E4M3},
                          {12, 8, FA_DTYPE_F8E5M2}, {0, 32, FA_DTYPE_I32}, {1, 64, FA_DTYPE_U64},  {6, 8, FA_DTYPE_BOOL}};
  for (const auto& type : types) {
    this->set_type(type[0], type[1], 1);
    const flash_attn::Tensor tensor = flash_attn::from_dlpack(this->tensor_);
    EXPECT_EQ(tensor.desc.dtype, type[2]);
    flash_attn::DlpackView<TypeParam> view(tensor);
    EXPECT_EQ(view.get()->dtype.code, type[0]);
    EXPECT_EQ(view.get()->dtype.bits, type[1]);
    EXPECT_EQ(view.get()->dtype.lanes, 1);
  }
  this->set_type(1, 8, 1);
  EXPECT_EQ(flash_attn::from_dlpack(this->tensor_).desc.dtype, FA_DTYPE_BOOL);
}

TYPED_TEST(Dlpack, DevicesBothWays) {
  const int cuda[] = {2, 13};
  for (const int type : cuda) {
    this->set_device(type, 3);
    const flash_attn::Tensor tensor = flash_attn::from_dlpack(this->tensor_);
    EXPECT_EQ(tensor.device_type, FA_DEVICE_CUDA);
    EXPECT_EQ(tensor.device_index, 3);
    flash_attn::DlpackView<TypeParam> view(tensor);
    EXPECT_EQ(static_cast<int>(view.get()->device.device_type), 2);
    EXPECT_EQ(view.get()->device.device_id, 3);
  }
  this->set_device(3, 1);
  EXPECT_EQ(flash_attn::from_dlpack(this->tensor_).device_type, FA_DEVICE_CPU);
}

TYPED_TEST(Dlpack, ViewHasShapeAndStrides) {
  const flash_attn::Tensor tensor = flash_attn::from_dlpack(this->tensor_);
  flash_attn::DlpackView<TypeParam> view(tensor);
  EXPECT_EQ(view.get()->data, this->data_ + 2);
  EXPECT_EQ(view.get()->byte_offset, 0u);
  EXPECT_EQ(view.get()->ndim, 3);
  for (int axis = 0; axis < 3; ++axis) {
    EXPECT_EQ(view.get()->shape[axis], this->shape_[axis]);
    EXPECT_EQ(view.get()->strides[axis], this->strides_[axis]);
  }
  EXPECT_THROW(flash_attn::DlpackView<TypeParam>(flash_attn::Tensor()), flash_attn::Error);
}

TYPED_TEST(Dlpack, WhatHasNoCounterpartIsRefused) {
  this->set_type(2, 64, 1);
  EXPECT_EQ(this->refusal(), "a DLPack tensor has type code 2, 64 bits, 1 lanes, which no fa_dtype stands for");
  this->set_type(2, 32, 4);
  EXPECT_EQ(this->refusal(), "a DLPack tensor has type code 2, 32 bits, 4 lanes, which no fa_dtype stands for");
  this->set_type(2, 32, 1);
  this->set_device(10, 0);
  EXPECT_EQ(this->refusal(), "a DLPack tensor lies on device type 10 but must be on a CPU or a CUDA device");
  this->set_device(1, 0);
  this->tensor_.ndim = 5;
  EXPECT_EQ(this->refusal(), "a tensor has 5 dimensions but must have 1 to 4");
  this->tensor_.ndim = 0;
  EXPECT_EQ(this->refusal(), "a DLPack tensor has 0 dimensions but must have 1 to 4");
  this->tensor_.ndim = 3;
  EXPECT_EQ(this->refusal(), "accepted");
}

TEST(Call, FillsDescriptionAndPointers) {
  std::vector<float> q(64), k(64), v(64), o(64), sink(2);
  const std::vector<int32_t> offsets = {0, 3, 4}, used = {2, 1}, pages = {0, 1, 2, 3};
  flash_attn::Options options;
  options.causal = true;
  options.window_left = 5;
  options.batch = 2;
  options.cu_seqlens_q = offsets.data();
  options.seqused_k = used.data();
  options.block_table = flash_attn::Tensor(pages.data(), {2, 2});
  options.sink = flash_attn::Tensor(sink.data(), {2});
  const flash_attn::Call call(flash_attn::Tensor(q.data(), {4, 2, 8}), flash_attn::Tensor(k.data(), {4, 2, 1, 8}),
                              flash_attn::Tensor(v.data(), {4, 2, 1, 8}), flash_attn::Tensor(o.data(), {4, 2, 8}), options);
  EXPECT_EQ(fa_validate(&call.desc), FA_STATUS_OK) << fa_last_error();
  EXPECT_EQ(call.desc.mask_kind, FA_MASK_CAUSAL);
  EXPECT_EQ(call.desc.kv_layout, FA_KV_PAGED);
  EXPECT_EQ(call.desc.inputs, static_cast<uint32_t>(FA_INPUT_CU_SEQLENS_Q | FA_INPUT_SEQUSED_K));
  EXPECT_EQ(call.desc.window_left, 5);
  EXPECT_EQ(call.desc.lse.dtype, FA_DTYPE_NONE);
  EXPECT_EQ(call.args.block_table, pages.data());
  EXPECT_EQ(call.args.sink, sink.data());
  EXPECT_EQ(call.args.o, o.data());
  EXPECT_EQ(call.args.lse, nullptr);
}

TEST(Call, BackwardFillsBothHalvesToo) {
  std::vector<float> data(64), lse(8), sink(2), dsink(2);
  const flash_attn::Tensor tensor(data.data(), {1, 4, 2, 8});
  flash_attn::Options options;
  options.lse = flash_attn::Tensor(lse.data(), {1, 2, 4});
  options.sink = flash_attn::Tensor(sink.data(), {2});
  flash_attn::Gradients gradients;
  gradients.dout = gradients.dq = gradients.dk = gradients.dv = tensor;
  gradients.dlse = options.lse;
  gradients.dsink = flash_attn::Tensor(dsink.data(), {2});
  const flash_attn::Call call(tensor, tensor, tensor, tensor, gradients, options);
  EXPECT_EQ(fa_validate(&call.desc), FA_STATUS_OK) << fa_last_error();
  EXPECT_EQ(call.desc.direction, FA_BACKWARD);
  EXPECT_EQ(call.args.dout, data.data());
  EXPECT_EQ(call.args.dlse, lse.data());
  EXPECT_EQ(call.args.dsink, dsink.data());
  EXPECT_EQ(call.args.dbias, nullptr);
  EXPECT_EQ(call.desc.dslopes.dtype, FA_DTYPE_NONE);
}

// One key takes all the weight: dv is the sum of dout's rows, and nothing else has a gradient.
TEST(Call, BackwardRuns) {
  const std::vector<float> q = {1, 2, 3, 4}, k = {5, 6}, v = {7, 8}, dout = {1, 10, 2, 20};
  std::vector<float> o(4), lse(2), dq(4, 9.0f), dk(2, 9.0f), dv(2, 9.0f);
  const flash_attn::Tensor tensors[] = {
      {q.data(), {1, 2, 1, 2}}, {k.data(), {1, 1, 1, 2}}, {v.data(), {1, 1, 1, 2}}, {o.data(), {1, 2, 1, 2}}};
  flash_attn::Options options;
  options.lse = flash_attn::Tensor(lse.data(), {1, 1, 2});
  flash_attn::attention(tensors[0], tensors[1], tensors[2], tensors[3], options);
  flash_attn::Gradients gradients;
  gradients.dout = flash_attn::Tensor(dout.data(), {1, 2, 1, 2});
  gradients.dq = flash_attn::Tensor(dq.data(), {1, 2, 1, 2});
  gradients.dk = flash_attn::Tensor(dk.data(), {1, 1, 1, 2});
  gradients.dv = flash_attn::Tensor(dv.data(), {1, 1, 1, 2});
  flash_attn::attention_backward(tensors[0], tensors[1], tensors[2], tensors[3], gradients, options);
  EXPECT_EQ(dv, (std::vector<float>{3, 30}));
  for (const float x : dq) EXPECT_NEAR(x, 0.0f, 1e-5f);
  for (const float x : dk) EXPECT_NEAR(x, 0.0f, 1e-5f);
}

TEST(Call, ContradictionsThrow) {
  std::vector<float> data(64);
  const flash_attn::Tensor tensor(data.data(), {1, 2, 2, 4});
  flash_attn::Tensor elsewhere = tensor;
  elsewhere.device_type = FA_DEVICE_CUDA;
  EXPECT_THROW(flash_attn::Call(tensor, elsewhere, tensor, tensor), flash_attn::Error);
  const int32_t kinds[1] = {0};
  flash_attn::Options options;
  options.causal = true;
  options.mask_kinds = kinds;
  EXPECT_THROW(flash_attn::Call(tensor, tensor, tensor, tensor, options), flash_attn::Error);
  EXPECT_THROW(flash_attn::tensor(FA_DTYPE_F32, {1, 2}, {1}), flash_attn::Error);
}

}  // namespace
