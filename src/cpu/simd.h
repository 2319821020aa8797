// The vector vocabulary CPU kernels are written in: one vector type of FA_VECTOR_BYTES, built on the compilers' vector extensions,
// with intrinsics where those fall short. An isa/ file defines FA_VECTOR_BYTES and includes this inside its own namespace, so every
// function here has internal linkage and belongs to that instruction set alone. Knows nothing of attention.

#define FA_INLINE static inline __attribute__((always_inline))
#define FA_UNROLL _Pragma("GCC unroll 32")

constexpr int kWidth = FA_VECTOR_BYTES / 4;

typedef float Vec __attribute__((vector_size(FA_VECTOR_BYTES)));
typedef int32_t IntVec __attribute__((vector_size(FA_VECTOR_BYTES)));
typedef uint32_t UintVec __attribute__((vector_size(FA_VECTOR_BYTES)));
typedef uint16_t HalfBits __attribute__((vector_size(FA_VECTOR_BYTES / 2)));
// Pairs of 16-bit elements are read as 32 bits: an address is a multiple of 2, no more.
typedef float UnalignedVec __attribute__((vector_size(FA_VECTOR_BYTES), aligned(2), may_alias));
typedef uint32_t UnalignedUint __attribute__((vector_size(FA_VECTOR_BYTES), aligned(2), may_alias));
typedef uint16_t UnalignedHalf __attribute__((vector_size(FA_VECTOR_BYTES / 2), aligned(2), may_alias));
typedef float AliasedVec __attribute__((vector_size(FA_VECTOR_BYTES), may_alias));

// ---- Load, store, broadcast ----

FA_INLINE Vec load(const float* p) { return *reinterpret_cast<const AliasedVec*>(p); }
FA_INLINE Vec load_unaligned(const float* p) { return *reinterpret_cast<const UnalignedVec*>(p); }
FA_INLINE void store(float* p, Vec v) { *reinterpret_cast<AliasedVec*>(p) = v; }
FA_INLINE void store_unaligned(float* p, Vec v) { *reinterpret_cast<UnalignedVec*>(p) = v; }
FA_INLINE IntVec load_int(const int32_t* p) { return reinterpret_cast<IntVec>(*reinterpret_cast<const UnalignedUint*>(p)); }

template <class V, class T>
FA_INLINE V splat(T x) {
  if constexpr (kWidth == 4)
    return V{x, x, x, x};
  else if constexpr (kWidth == 8)
    return V{x, x, x, x, x, x, x, x};
  else
    return V{x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x};
}
FA_INLINE Vec set1(float x) { return splat<Vec>(x); }
FA_INLINE IntVec set1_int(int32_t x) { return splat<IntVec>(x); }
FA_INLINE Vec zero() { return Vec{}; }

// 0, 1, 2, ... in the lanes.
template <class V>
FA_INLINE V counting() {
  if constexpr (kWidth == 4)
    return V{0, 1, 2, 3};
  else if constexpr (kWidth == 8)
    return V{0, 1, 2, 3, 4, 5, 6, 7};
  else
    return V{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
}
FA_INLINE IntVec iota() { return counting<IntVec>(); }

// ---- Arithmetic ----

FA_INLINE IntVec bits(Vec v) { return reinterpret_cast<IntVec>(v); }
FA_INLINE Vec from_bits(IntVec v) { return reinterpret_cast<Vec>(v); }
FA_INLINE Vec select(IntVec condition, Vec yes, Vec no) { return from_bits((condition & bits(yes)) | (~condition & bits(no))); }
FA_INLINE Vec to_float(IntVec v) { return __builtin_convertvector(v, Vec); }
FA_INLINE Vec absolute(Vec v) { return from_bits(bits(v) & set1_int(0x7fffffff)); }

// The larger of both. If x is NaN the result is NaN: write maximum(limit, x), so that a NaN score stays visible.
FA_INLINE Vec maximum(Vec limit, Vec x) {
#if defined(__AVX512F__)
  return reinterpret_cast<Vec>(_mm512_max_ps(reinterpret_cast<__m512>(limit), reinterpret_cast<__m512>(x)));
#elif defined(__AVX__)
  return reinterpret_cast<Vec>(_mm256_max_ps(reinterpret_cast<__m256>(limit), reinterpret_cast<__m256>(x)));
#elif defined(__SSE2__)
  return reinterpret_cast<Vec>(_mm_max_ps(reinterpret_cast<__m128>(limit), reinterpret_cast<__m128>(x)));
#elif defined(__aarch64__)
  return reinterpret_cast<Vec>(vmaxq_f32(reinterpret_cast<float32x4_t>(limit), reinterpret_cast<float32x4_t>(x)));
#else
  return select(limit > x, limit, x);
#endif
}
FA_INLINE Vec minimum(Vec a, Vec b) { return select(a < b, a, b); }

// Fold the lanes pairwise; the order is fixed, so the result is too.
FA_INLINE float reduce_add(Vec v) {
  alignas(64) float lanes[kWidth];
  store(lanes, v);
  for (int half = kWidth / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  return lanes[0];
}
FA_INLINE float reduce_max(Vec v) {
  alignas(64) float lanes[kWidth];
  store(lanes, v);
  float result = lanes[0];
  for (int i = 1; i < kWidth; ++i) result = lanes[i] > result ? lanes[i] : result;
  return result;
}

// 2^(y * c) for y * c in [-127, 127]: round to the nearest integer n with the magic-number add (the exponent bias is folded into
// it), a minimax polynomial for 2^(y * c - n) on [-1/2, 1/2], and a multiply by 2^n built from the integer's bits. y = 0 gives 1 to
// the last bits. At y * c = -127 the factor is exactly zero; NaN goes through the multiply. Relative error 2e-7 (kDegree 5), 4e-6
// (kDegree 4).
template <int kDegree>
FA_INLINE Vec exp2_scaled(Vec y, Vec c) {
  const Vec magic = set1(12582912.0f + 127.0f);
  const Vec rounded = y * c + magic;
  const Vec f = y * c + (magic - rounded);
  const Vec power = from_bits(bits(rounded) << 23);
  Vec p;
  if constexpr (kDegree == 5) {
    p = set1(1.33976848e-3f) * f + set1(9.67770903e-3f);
    p = p * f + set1(5.55031467e-2f);
    p = p * f + set1(2.40220979e-1f);
    p = p * f + set1(6.93147203e-1f);
    p = p * f + set1(1.0f);
  } else {
    p = set1(9.6703092e-3f) * f + set1(5.5838065e-2f);
    p = p * f + set1(0.24022349f);
    p = p * f + set1(0.69313675f);
    p = p * f + set1(0.99999994f);
  }
  return p * power;
}

// 2^x for x <= 127; exactly 0 at -127 and below, so hidden scores of -inf weigh nothing.
template <int kDegree>
FA_INLINE Vec exp2_of(Vec x) {
  return exp2_scaled<kDegree>(maximum(set1(-127.0f), x), set1(1.0f));
}

// tanh: an odd polynomial near 0, 1 - 2/(e^2x + 1) elsewhere (the split at 0.625 is that of the Cephes library's tanhf).
FA_INLINE Vec tanh_of(Vec x) {
  const Vec a = absolute(x);
  const Vec z = x * x;
  Vec p = set1(-5.70498872745e-3f) * z + set1(2.06390887954e-2f);
  p = p * z + set1(-5.37397155531e-2f);
  p = p * z + set1(1.33314422036e-1f);
  p = p * z + set1(-3.33332819422e-1f);
  const Vec near = p * z * x + x;
  const Vec e = exp2_of<5>(minimum(a, set1(20.0f)) * set1(2.8853900817779268f));
  const Vec far = set1(1.0f) - set1(2.0f) / (e + set1(1.0f));
  const Vec signed_far = from_bits(bits(far) | (bits(x) & set1_int(INT32_MIN)));
  // a > 0.625 is false for NaN, which the polynomial passes on.
  return select(a > set1(0.625f), signed_far, near);
}

// ---- 16-bit formats ----

FA_INLINE Vec widen_bf16(const uint16_t* p) {
  const HalfBits h = *reinterpret_cast<const UnalignedHalf*>(p);
  return from_bits(reinterpret_cast<IntVec>(__builtin_convertvector(h, UintVec) << 16));
}

// Round to nearest even; NaN stays NaN.
FA_INLINE void store_bf16(uint16_t* p, Vec v) {
  const UintVec u = reinterpret_cast<UintVec>(v);
  const UintVec rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  const UintVec quiet = (u >> 16) | 0x40u;
  const UintVec is_nan = reinterpret_cast<UintVec>(v != v);
  *reinterpret_cast<UnalignedHalf*>(p) = __builtin_convertvector((is_nan & quiet) | (~is_nan & rounded), HalfBits);
}

#if defined(__AVX512F__)
FA_INLINE Vec widen_f16(const uint16_t* p) {
  return reinterpret_cast<Vec>(_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))));
}
FA_INLINE void store_f16(uint16_t* p, Vec v) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(reinterpret_cast<__m512>(v), _MM_FROUND_TO_NEAREST_INT));
}
#elif defined(__F16C__)
FA_INLINE Vec widen_f16(const uint16_t* p) {
  return reinterpret_cast<Vec>(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}
FA_INLINE void store_f16(uint16_t* p, Vec v) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(reinterpret_cast<__m256>(v), _MM_FROUND_TO_NEAREST_INT));
}
#elif defined(__aarch64__)
FA_INLINE Vec widen_f16(const uint16_t* p) { return reinterpret_cast<Vec>(vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)))); }
FA_INLINE void store_f16(uint16_t* p, Vec v) { vst1_u16(p, vreinterpret_u16_f16(vcvt_f16_f32(reinterpret_cast<float32x4_t>(v)))); }
#else
// Bit arithmetic: rebias the exponent; a subnormal half is a small integer times 2^-24.
FA_INLINE Vec widen_f16(const uint16_t* p) {
  const UintVec h = __builtin_convertvector(*reinterpret_cast<const UnalignedHalf*>(p), UintVec);
  const UintVec sign = (h & 0x8000u) << 16;
  const UintVec magnitude = h & 0x7fffu;
  const Vec subnormal = to_float(reinterpret_cast<IntVec>(magnitude)) * set1(5.9604644775390625e-8f);
  const UintVec normal = (magnitude << 13) + (112u << 23);
  const UintVec special = (magnitude << 13) | 0x7f800000u;
  UintVec result = normal;
  const UintVec is_small = reinterpret_cast<UintVec>(magnitude < 0x0400u);
  const UintVec is_special = reinterpret_cast<UintVec>(magnitude >= 0x7c00u);
  result = (is_small & reinterpret_cast<UintVec>(subnormal)) | (~is_small & result);
  result = (is_special & special) | (~is_special & result);
  return reinterpret_cast<Vec>(result | sign);
}
FA_INLINE void store_f16(uint16_t* p, Vec v) {
  const UintVec u = reinterpret_cast<UintVec>(v);
  const UintVec sign = (u >> 16) & 0x8000u;
  const UintVec magnitude = u & 0x7fffffffu;
  const UintVec rounded = (magnitude + 0x0fffu + ((magnitude >> 13) & 1u) - (112u << 23)) >> 13;
  // Below 2^-14 the result is subnormal: adding 0.5 lets the FPU round the integer part of magnitude * 2^24 into the low bits.
  const UintVec small = reinterpret_cast<UintVec>(reinterpret_cast<Vec>(magnitude) + set1(0.5f)) - 0x3f000000u;
  const UintVec is_small = reinterpret_cast<UintVec>(magnitude < 0x38800000u);
  const UintVec is_large = reinterpret_cast<UintVec>(magnitude >= 0x477ff000u);
  const UintVec is_nan = reinterpret_cast<UintVec>(magnitude > 0x7f800000u);
  UintVec h = (is_small & small) | (~is_small & rounded);
  h = (is_large & 0x7c00u) | (~is_large & h);
  h = (is_nan & 0x7e00u) | (~is_nan & h);
  *reinterpret_cast<UnalignedHalf*>(p) = __builtin_convertvector(h | sign, HalfBits);
}
#endif

// ---- Transpose ----

// Swap the off-diagonal blocks of size `kBlock` of two rows: after the blocks 1, 2, 4, ... a square of vectors is transposed.
template <int kBlock, int... kLane>
FA_INLINE void swap_blocks(Vec& a, Vec& b, std::integer_sequence<int, kLane...>) {
  const Vec low = __builtin_shufflevector(a, b, ((kLane & kBlock) ? kWidth + kLane - kBlock : kLane)...);
  const Vec high = __builtin_shufflevector(a, b, ((kLane & kBlock) ? kWidth + kLane : kLane + kBlock)...);
  a = low;
  b = high;
}

template <int kBlock>
FA_INLINE void transpose_step(Vec (&rows)[kWidth]) {
  FA_UNROLL for (int i = 0; i < kWidth; ++i) {
    if ((i & kBlock) == 0) swap_blocks<kBlock>(rows[i], rows[i + kBlock], std::make_integer_sequence<int, kWidth>{});
  }
}

// rows[i][j] becomes rows[j][i].
FA_INLINE void transpose(Vec (&rows)[kWidth]) {
  transpose_step<1>(rows);
  transpose_step<2>(rows);
  if constexpr (kWidth >= 8) transpose_step<4>(rows);
  if constexpr (kWidth >= 16) transpose_step<8>(rows);
}

FA_INLINE void prefetch_l2(const void* p) { __builtin_prefetch(p, 0, 2); }
