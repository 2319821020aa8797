// Checks of a single tensor description. The arithmetic is guarded, since every number comes from the caller.
#include "core/tensor_check.h"

#include "core/overlap.h"

#include <algorithm>
#include <string>

namespace flash_attn {
namespace {

int byte_shift(DType dtype) { return __builtin_ctzll(static_cast<unsigned long long>(dtype_bytes(dtype))); }

Status check_size(const char* name, const fa_tensor_desc& tensor, int first_dim) {
  const int64_t most = kMaxSpanBytes >> byte_shift(static_cast<DType>(tensor.dtype));
  int64_t last = 0;  // index of the last element
  for (int m = first_dim; m < tensor.rank; ++m) {
    if (tensor.shape[m] == 0) return Status();
    int64_t reach = 0;
    if (__builtin_mul_overflow(tensor.shape[m] - 1, tensor.stride[m], &reach) || __builtin_add_overflow(last, reach, &last) ||
        last >= most) {
      return invalid("%s reaches 2^60 bytes or more at shape[%d] %lld with stride[%d] %lld", name, m,
                     static_cast<long long>(tensor.shape[m]), m, static_cast<long long>(tensor.stride[m]));
    }
  }
  return Status();
}

std::string shape_names(std::initializer_list<Dim> dims) {
  std::string text = "[";
  for (const Dim& dim : dims) {
    if (text.size() > 1) text += ", ";
    text += dim.name;
    if (dim.can_broadcast) text += "|1";
  }
  return text + "]";
}

}  // namespace

Axes axes_of(const fa_tensor_desc& tensor) {
  if (tensor.rank == 3) return Axes{0, tensor.stride[0], tensor.stride[1]};
  return Axes{tensor.stride[0], tensor.stride[1], tensor.stride[2]};
}

int64_t alignment_of(const fa_tensor_desc& tensor, fa_device_type device_type) {
  const int64_t unpromised = device_type == FA_DEVICE_CUDA ? 16 : dtype_bytes(static_cast<DType>(tensor.dtype));
  return tensor.alignment > 0 ? tensor.alignment : unpromised;
}

Status check_form(const char* name, const fa_tensor_desc& tensor, int first_dim) {
  if (tensor.dtype < FA_DTYPE_NONE || tensor.dtype > FA_DTYPE_BOOL) {
    return invalid("%s.dtype is %d but must be one of FA_DTYPE_NONE (0) to FA_DTYPE_BOOL (8)", name, tensor.dtype);
  }
  if (tensor.rank < 1 || tensor.rank > FA_MAX_RANK) {
    return invalid("%s.rank is %d but must be 1 to %d", name, tensor.rank, FA_MAX_RANK);
  }
  for (int m = 0; m < tensor.rank; ++m) {
    if (tensor.shape[m] < 0 || tensor.shape[m] > kMaxExtent) {
      return invalid("%s.shape[%d] is %lld but must be 0 to 2^40", name, m, static_cast<long long>(tensor.shape[m]));
    }
    if (m >= first_dim && (tensor.stride[m] < 0 || tensor.stride[m] > kMaxStride)) {
      return invalid("%s.stride[%d] is %lld but must be 0 to 2^57", name, m, static_cast<long long>(tensor.stride[m]));
    }
  }
  const int last = tensor.rank - 1;
  if (tensor.stride[last] != 1 && tensor.shape[last] > 1) {
    return invalid("%s.stride[%d] is %lld but must be 1: the last dimension is contiguous", name, last,
                   static_cast<long long>(tensor.stride[last]));
  }
  const int64_t alignment = tensor.alignment;
  const int64_t element_bytes = dtype_bytes(static_cast<DType>(tensor.dtype));
  if (alignment != 0 && (alignment < element_bytes || alignment > (int64_t{1} << 30) || (alignment & (alignment - 1)) != 0)) {
    return invalid("%s.alignment is %lld but must be 0 or a power of two from the element size, %lld, to 2^30", name,
                   static_cast<long long>(alignment), static_cast<long long>(element_bytes));
  }
  return check_size(name, tensor, first_dim);
}

Status check_dtype(const char* name, const fa_tensor_desc& tensor, std::initializer_list<DType> dtypes, const char* accepted) {
  const DType dtype = static_cast<DType>(tensor.dtype);
  if (std::find(dtypes.begin(), dtypes.end(), dtype) != dtypes.end()) return Status();
  return invalid("%s has dtype %s but must be %s", name, dtype_name(dtype), accepted);
}

Status check_shape(const char* name, const fa_tensor_desc& tensor, std::initializer_list<Dim> dims) {
  if (tensor.rank != static_cast<int>(dims.size())) {
    return invalid("%s.rank is %d but must be %zu: %s", name, tensor.rank, dims.size(), shape_names(dims).c_str());
  }
  const Dim* dim = dims.begin();
  for (int m = 0; m < tensor.rank; ++m, ++dim) {
    if (tensor.shape[m] == dim->extent || (dim->can_broadcast && tensor.shape[m] == 1)) continue;
    return invalid("%s.shape[%d] is %lld but must be %lld%s: %s", name, m, static_cast<long long>(tensor.shape[m]),
                   static_cast<long long>(dim->extent), dim->can_broadcast ? " or 1" : "", shape_names(dims).c_str());
  }
  return Status();
}

Status check_no_self_overlap(const char* name, const fa_tensor_desc& tensor) {
  const int64_t element_bytes = dtype_bytes(static_cast<DType>(tensor.dtype));
  const int last = tensor.rank - 1;
  // Strides of a tensor without elements mean nothing.
  if (std::find(tensor.shape, tensor.shape + tensor.rank, 0) != tensor.shape + tensor.rank) return Status();
  Region region;
  region.block_bytes = tensor.shape[last] * element_bytes;
  for (int m = 0; m < last; ++m) {
    region.extent[m] = tensor.shape[m];
    region.stride_bytes[m] = tensor.stride[m] * element_bytes;
    if (tensor.shape[m] > 1 && tensor.stride[m] == 0) {
      return invalid("%s.stride[%d] is 0 but an output cannot be broadcast", name, m);
    }
  }
  if (!overlaps_itself(region)) return Status();
  std::string strides;
  for (int m = 0; m < tensor.rank; ++m) strides += (m > 0 ? ", " : "") + std::to_string(tensor.stride[m]);
  return invalid("%s has strides [%s], by which elements of this output share memory; each must have its own", name,
                 strides.c_str());
}

Status check_extent(const char* name, const fa_tensor_desc& tensor, int dim, int64_t least, int64_t most, const char* meaning) {
  if (tensor.shape[dim] >= least && tensor.shape[dim] <= most) return Status();
  return invalid("%s.shape[%d] is %lld but must be %lld to %lld: %s", name, dim, static_cast<long long>(tensor.shape[dim]),
                 static_cast<long long>(least), static_cast<long long>(most), meaning);
}

}  // namespace flash_attn
