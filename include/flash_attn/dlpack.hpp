// dlpack.hpp: DLPack tensors to ours and back, header-only. The functions are templates over the DLTensor type, so that any version
// of dlpack.h that the caller has will do, and none is needed here. Nothing is copied and no ownership moves.
#ifndef FLASH_ATTN_DLPACK_HPP
#define FLASH_ATTN_DLPACK_HPP

#include "flash_attn/flash_attn.hpp"

#include <string>

namespace flash_attn {
inline namespace v0 {
namespace dlpack {

// Numbers that DLPack's specification fixes.
enum DeviceType { kCpu = 1, kCuda = 2, kCudaHost = 3, kCudaManaged = 13 };
enum TypeCode { kInt = 0, kUInt = 1, kFloat = 2, kBfloat = 4, kBool = 6, kFloat8E4m3Fn = 10, kFloat8E5m2 = 12 };

struct TypeMatch {
  int code;
  int bits;
  fa_dtype dtype;
};

// The first match of a dtype is the one it is written as.
inline constexpr TypeMatch kTypes[] = {
    {kFloat, 32, FA_DTYPE_F32},          {kFloat, 16, FA_DTYPE_F16},        {kBfloat, 16, FA_DTYPE_BF16},
    {kFloat8E4m3Fn, 8, FA_DTYPE_F8E4M3}, {kFloat8E5m2, 8, FA_DTYPE_F8E5M2}, {kInt, 32, FA_DTYPE_I32},
    {kUInt, 64, FA_DTYPE_U64},           {kBool, 8, FA_DTYPE_BOOL},         {kUInt, 8, FA_DTYPE_BOOL},
};

template <typename DLTensor>
fa_dtype dtype_of(const DLTensor& source) {
  const int code = static_cast<int>(source.dtype.code), bits = static_cast<int>(source.dtype.bits);
  const int lanes = static_cast<int>(source.dtype.lanes);
  for (const TypeMatch& type : kTypes) {
    if (type.code == code && type.bits == bits && lanes == 1) return type.dtype;
  }
  throw Error(FA_STATUS_INVALID_ARGUMENT, "a DLPack tensor has type code " + std::to_string(code) + ", " + std::to_string(bits) +
                                              " bits, " + std::to_string(lanes) + " lanes, which no fa_dtype stands for");
}

}  // namespace dlpack

// View of a DLPack tensor in CPU or CUDA memory.
template <typename DLTensor>
Tensor from_dlpack(const DLTensor& source) {
  Tensor result;
  const int device = static_cast<int>(source.device.device_type);
  if (device == dlpack::kCuda || device == dlpack::kCudaManaged) {
    result.device_type = FA_DEVICE_CUDA;
    result.device_index = static_cast<int32_t>(source.device.device_id);
  } else if (device != dlpack::kCpu && device != dlpack::kCudaHost) {
    throw Error(FA_STATUS_INVALID_ARGUMENT,
                "a DLPack tensor lies on device type " + std::to_string(device) + " but must be on a CPU or a CUDA device");
  }
  if (source.ndim < 1) {
    throw Error(FA_STATUS_INVALID_ARGUMENT,
                "a DLPack tensor has " + std::to_string(source.ndim) + " dimensions but must have 1 to 4");
  }
  result.desc = tensor(dlpack::dtype_of(source), source.shape, source.strides, static_cast<size_t>(source.ndim));
  if (source.data != nullptr) result.data = static_cast<char*>(source.data) + source.byte_offset;
  return result;
}

// A DLTensor that views one of ours, with the arrays of its shape and strides inside: valid as long as this object.
template <typename DLTensor>
class DlpackView {
 public:
  explicit DlpackView(const Tensor& source) {
    for (int axis = 0; axis < source.desc.rank; ++axis) {
      shape_[axis] = source.desc.shape[axis];
      strides_[axis] = source.desc.stride[axis];
    }
    const bool is_cuda = source.device_type == FA_DEVICE_CUDA;
    view_.data = source.data;
    view_.device.device_type = static_cast<decltype(view_.device.device_type)>(is_cuda ? dlpack::kCuda : dlpack::kCpu);
    view_.device.device_id = is_cuda && source.device_index > 0 ? source.device_index : 0;
    view_.ndim = source.desc.rank;
    view_.shape = shape_;
    view_.strides = strides_;
    view_.byte_offset = 0;
    for (const dlpack::TypeMatch& type : dlpack::kTypes) {
      if (type.dtype != source.desc.dtype) continue;
      view_.dtype.code = static_cast<decltype(view_.dtype.code)>(type.code);
      view_.dtype.bits = static_cast<decltype(view_.dtype.bits)>(type.bits);
      view_.dtype.lanes = 1;
      return;
    }
    throw Error(FA_STATUS_INVALID_ARGUMENT,
                "a tensor of dtype " + std::to_string(source.desc.dtype) + " has no counterpart in DLPack; is it absent?");
  }
  DlpackView(const DlpackView&) = delete;
  DlpackView& operator=(const DlpackView&) = delete;

  DLTensor* get() noexcept { return &view_; }

 private:
  int64_t shape_[FA_MAX_RANK] = {};
  int64_t strides_[FA_MAX_RANK] = {};
  DLTensor view_ = {};
};

}  // namespace v0
}  // namespace flash_attn

#endif  // FLASH_ATTN_DLPACK_HPP
