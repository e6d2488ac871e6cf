// The same with AVX-512: shapes whose coefficients stay in registers, and the loops over tensors.

#pragma once

#include <immintrin.h>

#include "fused.h"

#define AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,f16c")))
#define VBMI __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,f16c")))

namespace {

struct Pair {  // 32 floats in two registers
  __m512 low, high;
};

AVX512 INLINE Pair load_pair(const float* values) { return {_mm512_loadu_ps(values), _mm512_loadu_ps(values + 16)}; }
AVX512 INLINE __m512 pick(const Pair& pair, __m512i index) {
  return _mm512_permutex2var_ps(pair.low, index, pair.high);
}

template <int D, bool TwoSided>
struct Cells {
  Pair c[D + 1];
  __m512 scale, furthest, centre, offset, slope;
  __m512i low_bits;
  __m128i shift;
  __mmask16 inverted;

  AVX512 INLINE explicit Cells(const float* table) {
    const Header h(table);
    for (int k = 0; k <= D; ++k) c[k] = load_pair(table + 16 + 32 * k);
    scale = _mm512_set1_ps(h.scale);
    furthest = _mm512_set1_ps(h.furthest);
    centre = _mm512_set1_ps(h.centre);
    offset = _mm512_set1_ps(h.offset);
    slope = _mm512_set1_ps(h.slope);
    const int free = 23 - static_cast<int>(h.mantissa);
    low_bits = _mm512_set1_epi32((1 << free) - 1);
    shift = _mm_cvtsi32_si128(free);
    inverted = h.inverted != 0 ? 0xffff : 0;
  }

  AVX512 INLINE __m512 operator()(__m512 x) const {
    const __m512 zero = _mm512_setzero_ps();
    const __mmask16 above = _mm512_cmp_ps_mask(x, zero, _CMP_GT_OQ);
    // min returns its second operand for NaN.
    const __m512 w = _mm512_min_ps(furthest, _mm512_fmadd_ps(_mm512_abs_ps(x), scale, _mm512_set1_ps(1.0f)));
    const __m512i bits = _mm512_castps_si512(w);
    __m512i index = _mm512_srl_epi32(bits, shift);  // pick looks at its low five bits
    if constexpr (TwoSided) {
      index = _mm512_and_si512(index, _mm512_set1_epi32(15));
      index = _mm512_mask_or_epi32(index, above, index, _mm512_set1_epi32(16));
    }
    const __m512i one = _mm512_castps_si512(_mm512_set1_ps(1.0f));
    const __m512i mantissa = _mm512_ternarylogic_epi32(bits, low_bits, one, 0xea);  // (a & b) | c
    const __m512 v = _mm512_sub_ps(_mm512_castsi512_ps(mantissa), centre);
    __m512 p = _mm512_fmadd_ps(w, zero, pick(c[D], index));  // NaN stays NaN
    for (int k = D - 1; k >= 0; --k) p = _mm512_fmadd_ps(p, v, pick(c[k], index));
    if constexpr (!TwoSided) p = _mm512_mask_fmadd_ps(p, above ^ inverted, slope, offset);
    return p;
  }
};

template <int S, int D>
struct Tree {
  static constexpr int levels = S == 32 ? 5 : S == 16 ? 4 : S == 8 ? 3 : 2;
  __m512 tree[levels];
  Pair centre, c[D + 1];

  AVX512 INLINE static Pair load(const float* values) {
    float all[32];
    for (int i = 0; i < 32; ++i) all[i] = values[i % S];
    return load_pair(all);
  }

  AVX512 INLINE static __m512 pick_one(const Pair& pair, __m512i index) {
    if constexpr (S == 32) return pick(pair, index);
    return _mm512_permutexvar_ps(index, pair.low);
  }

  AVX512 INLINE explicit Tree(const float* table) {
    const float* ends = table + 16;
    for (int k = 0; k < levels; ++k) {
      alignas(64) float level[16];
      const int step = S >> (k + 1);
      for (int j = 0; j < 16; ++j) level[j] = ends[(2 * (j & ((1 << k) - 1)) + 1) * step - 1];
      tree[k] = _mm512_load_ps(level);
    }
    centre = load(ends + S);
    for (int k = 0; k <= D; ++k) c[k] = load(ends + (2 + k) * S);
  }

  AVX512 INLINE __m512 operator()(__m512 x) const {
    const __m512i one = _mm512_set1_epi32(1);
    const __m512 z = _mm512_max_ps(_mm512_set1_ps(-kTop), _mm512_min_ps(_mm512_set1_ps(kTop), x));
    __m512i index = _mm512_maskz_mov_epi32(_mm512_cmp_ps_mask(z, tree[0], _CMP_GT_OQ), one);
    for (int k = 1; k < levels; ++k) {
      const __mmask16 above = _mm512_cmp_ps_mask(z, _mm512_permutexvar_ps(index, tree[k]), _CMP_GT_OQ);
      index = _mm512_add_epi32(index, index);
      index = _mm512_mask_add_epi32(index, above, index, one);
    }
    const __m512 u = _mm512_sub_ps(z, pick_one(centre, index));
    __m512 p = pick_one(c[D], index);
    for (int k = D - 1; k >= 0; --k) p = _mm512_fmadd_ps(p, u, pick_one(c[k], index));
    return p;
  }
};

// The rule in vectors. `Plain`: a weight of 1 and no direction, hence one multiplication.
template <bool Plain>
struct Product {
  __m512 weight, rest;
  __mmask16 up;

  AVX512 INLINE explicit Product(const Rule& rule)
      : weight(_mm512_set1_ps(rule.weight)), rest(_mm512_set1_ps(rule.rest)), up(rule.up ? 0xffff : 0) {}

  // `above`: where x > 0; `below`: where x <= 0; NaN is in neither.
  AVX512 INLINE __m512 of(__m512 g_out, __m512 g, __mmask16 above, __mmask16 below) const {
    if constexpr (Plain) return _mm512_mul_ps(g_out, g);
    g = _mm512_fmadd_ps(g, weight, _mm512_maskz_mov_ps(above, rest));
    const __mmask16 dropped = _mm512_mask_cmp_ps_mask(below & up, g_out, _mm512_setzero_ps(), _CMP_GE_OQ);
    return _mm512_mask_mov_ps(_mm512_mul_ps(g_out, g), dropped, _mm512_setzero_ps());
  }
  AVX512 INLINE __m512 operator()(__m512 g_out, __m512 g, __m512 x) const {
    if constexpr (Plain) return _mm512_mul_ps(g_out, g);
    const __m512 zero = _mm512_setzero_ps();
    return of(g_out, g, _mm512_cmp_ps_mask(x, zero, _CMP_GT_OQ), _mm512_cmp_ps_mask(x, zero, _CMP_LE_OQ));
  }
};

AVX512 INLINE __mmask16 first_of(int64_t left) {
  return left >= 16 ? 0xffff : static_cast<__mmask16>((1u << left) - 1);
}

AVX512 INLINE __m512 widen(__m256i bits, c10::BFloat16) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}
AVX512 INLINE __m512 widen(__m256i bits, c10::Half) { return _mm512_cvtph_ps(bits); }

AVX512 INLINE __m256i narrow(__m512 value, c10::BFloat16) {
  // To nearest, ties to even; NaN stays NaN (its upper half alone could read as infinity).
  const __m512i bits = _mm512_castps_si512(value);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  rounded = _mm512_mask_mov_epi32(
      rounded, _mm512_cmp_ps_mask(value, value, _CMP_UNORD_Q), _mm512_set1_epi32(0x7fc00000));
  return _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16));
}
AVX512 INLINE __m256i narrow(__m512 value, c10::Half) {
  return _mm512_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

template <typename T>
AVX512 INLINE __m512 load_as_float(const T* from, __mmask16 some) {
  if constexpr (std::is_same_v<T, float>) return _mm512_maskz_loadu_ps(some, from);
  else return widen(_mm256_maskz_loadu_epi16(some, from), T());
}

template <typename T>
AVX512 INLINE void store_float(T* to, __mmask16 some, __m512 value) {
  if constexpr (std::is_same_v<T, float>) _mm512_mask_storeu_ps(to, some, value);
  else _mm256_mask_storeu_epi16(to, some, narrow(value, T()));
}

template <typename Shape, bool Plain>
AVX512 void scale_avx512(const float* g_out, const float* x, float* out, int64_t n, const float* table, const Rule& rule) {
  const Shape shape(table);
  const Product<Plain> product(rule);
  int64_t i = 0;
  for (; i + 32 <= n; i += 32) {
    const __m512 first = _mm512_loadu_ps(x + i), second = _mm512_loadu_ps(x + i + 16);
    const __m512 g = shape(first), h = shape(second);
    _mm512_storeu_ps(out + i, product(_mm512_loadu_ps(g_out + i), g, first));
    _mm512_storeu_ps(out + i + 16, product(_mm512_loadu_ps(g_out + i + 16), h, second));
  }
  for (; i < n; i += 16) {
    const __mmask16 some = first_of(n - i);
    const __m512 at = _mm512_maskz_loadu_ps(some, x + i);
    _mm512_mask_storeu_ps(out + i, some, product(_mm512_maskz_loadu_ps(some, g_out + i), shape(at), at));
  }
}

template <typename Shape, typename T>
AVX512 void encode_avx512(const T* x, uint8_t* out, int64_t n, const float* table) {
  const Shape shape(table);
  const Header h(table);
  const __m512 levels = _mm512_set1_ps(h.levels), first = _mm512_set1_ps(h.first);
  const int top = static_cast<int>(h.top);
  const __m512i above = _mm512_set1_epi32(static_cast<int>(h.above));
  for (int64_t i = 0; i < n; i += 16) {
    const __mmask16 some = first_of(n - i);
    const __m512 at = load_as_float(x + i, some);
    const __m512 g = shape(at);
    __m512i code = _mm512_cvt_roundps_epi32(_mm512_fmadd_ps(g, levels, first), _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
    code = _mm512_min_epi32(_mm512_max_epi32(code, _mm512_setzero_si512()), _mm512_set1_epi32(top));
    const auto mark = [&](__mmask16 where, int value) __attribute__((always_inline, target("avx512f"))) {
      code = _mm512_mask_mov_epi32(code, where, _mm512_set1_epi32(value));
    };
    mark(_mm512_cmp_ps_mask(g, _mm512_setzero_ps(), _CMP_EQ_OQ), top + 1);
    mark(_mm512_cmp_ps_mask(g, _mm512_set1_ps(1.0f), _CMP_EQ_OQ), top + 2);
    mark(_mm512_cmp_ps_mask(g, g, _CMP_UNORD_Q), top + 3);
    const __mmask16 over = _mm512_cmp_ps_mask(at, _mm512_setzero_ps(), _CMP_GT_OQ);
    code = _mm512_mask_add_epi32(code, over, code, above);
    _mm_mask_storeu_epi8(out + i, some, _mm512_cvtepi32_epi8(code));
  }
}

// Calls f with the type of the table's shape.
template <typename F>
void with_shape(const float* table, const F& f) {
  const Header h(table);
  const int degree = static_cast<int>(h.degree), size = static_cast<int>(h.size);
#define TYPE(...) std::type_identity<__VA_ARGS__>()
  if (h.kind == 0) return degree == 2 ? f(TYPE(Cells<2, false>)) : degree == 3 ? f(TYPE(Cells<3, false>)) : f(TYPE(Cells<5, false>));
  if (h.kind == 1) return degree == 3 ? f(TYPE(Cells<3, true>)) : f(TYPE(Cells<5, true>));
  if (size == 4) return degree == 1 ? f(TYPE(Tree<4, 1>)) : degree == 3 ? f(TYPE(Tree<4, 3>)) : f(TYPE(Tree<4, 5>));
  if (size == 8) return degree == 1 ? f(TYPE(Tree<8, 1>)) : degree == 3 ? f(TYPE(Tree<8, 3>)) : f(TYPE(Tree<8, 5>));
  return size == 16 ? f(TYPE(Tree<16, 5>)) : f(TYPE(Tree<32, 5>));
#undef TYPE
}

// 64 codes at a time: each byte of the float16 values is a table of 256 bytes in four registers.
template <typename T, bool Plain>
VBMI void coded_vbmi(const T* g_out, const uint8_t* code, T* out, int64_t n, const float* values, const Rule& rule) {
  const Product<Plain> product(rule);
  alignas(64) uint8_t planes[2][256];
  for (int i = 0; i < 256; ++i) {
    const uint16_t half = c10::Half(values[i]).x;
    planes[0][i] = half & 0xff;
    planes[1][i] = half >> 8;
  }
  __m512i plane[2][4];
  for (int p = 0; p < 2; ++p) {
    for (int k = 0; k < 4; ++k) plane[p][k] = _mm512_load_si512(planes[p] + 64 * k);
  }
  // With this order, unpacking within 128-bit lanes gives elements 0 to 31 and 32 to 63.
  const __m512i order = _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7);
  for (int64_t i = 0; i < n; i += 64) {
    const int64_t left = n - i;
    const __mmask64 some = left >= 64 ? ~0ull : (1ull << left) - 1;
    const __m512i codes = _mm512_permutexvar_epi64(order, _mm512_maskz_loadu_epi8(some, code + i));
    const __mmask64 upper = _mm512_movepi8_mask(codes);
    __m512i found[2];
    for (int p = 0; p < 2; ++p) {
      found[p] = _mm512_mask_blend_epi8(
          upper, _mm512_permutex2var_epi8(plane[p][0], codes, plane[p][1]),
          _mm512_permutex2var_epi8(plane[p][2], codes, plane[p][3]));
    }
    const __m512i halves[2] = {_mm512_unpacklo_epi8(found[0], found[1]), _mm512_unpackhi_epi8(found[0], found[1])};
    for (int part = 0; part < 4 && 16 * part < left; ++part) {
      const __m256i sixteen = part % 2 == 0 ? _mm512_castsi512_si256(halves[part / 2])
                                            : _mm512_extracti64x4_epi64(halves[part / 2], 1);
      const int64_t at = i + 16 * part;
      const __mmask16 here = first_of(n - at);
      const __m128i sixteen_codes = _mm_maskz_loadu_epi8(here, code + at);
      const __mmask16 above = _mm_movepi8_mask(sixteen_codes);  // of codes that tell the sign; others do not need it
      const __m512 g = _mm512_cvtph_ps(sixteen);
      const __mmask16 below = _mm512_mask_cmp_ps_mask(static_cast<__mmask16>(~above), g, g, _CMP_ORD_Q);
      store_float(out + at, here, product.of(load_as_float(g_out + at, here), g, above, below));
    }
  }
}

// 32 numbers of 16 bits as two vectors of floats, in an order that depends on the type.
AVX512 INLINE Pair split(__m512i bits, c10::BFloat16) {  // the even ones and the odd ones
  return {_mm512_castsi512_ps(_mm512_slli_epi32(bits, 16)),
          _mm512_castsi512_ps(_mm512_and_si512(bits, _mm512_set1_epi32(static_cast<int>(0xffff0000u))))};
}
AVX512 INLINE Pair split(__m512i bits, c10::Half) {
  return {_mm512_cvtph_ps(_mm512_castsi512_si256(bits)), _mm512_cvtph_ps(_mm512_extracti64x4_epi64(bits, 1))};
}

// To nearest, ties to even. A NaN here has no payload below the upper half, because it came from 16 bits
// or from the processor; so adding to its bits leaves it a NaN.
AVX512 INLINE __m512i rounded_up_to_even(__m512 value) {
  const __m512i bits = _mm512_castps_si512(value);
  const __mmask16 odd = _mm512_test_epi32_mask(bits, _mm512_set1_epi32(0x10000));
  const __m512i half = _mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff));
  return _mm512_mask_add_epi32(half, odd, half, _mm512_set1_epi32(1));
}
AVX512 INLINE __m512i join(const Pair& value, c10::BFloat16) {
  const __m512i even = _mm512_srli_epi32(rounded_up_to_even(value.low), 16);
  return _mm512_mask_blend_epi16(0xaaaaaaaau, even, rounded_up_to_even(value.high));
}
AVX512 INLINE __m512i join(const Pair& value, c10::Half) {
  return _mm512_inserti64x4(_mm512_castsi256_si512(narrow(value.low, c10::Half())), narrow(value.high, c10::Half()), 1);
}

AVX512 INLINE __mmask32 first_of_32(int64_t left) {
  return left >= 32 ? 0xffffffffu : static_cast<__mmask32>((1u << left) - 1);
}

// `every` holds the value at each input, for the inputs in the band.
template <typename Shape, bool Plain>
AVX512 void rounded_avx512(const c10::BFloat16* g_out, const uint16_t* x, c10::BFloat16* out, int64_t n,
                           const float* table, const c10::BFloat16* every, const Rule& rule) {
  using T = c10::BFloat16;
  const Shape shape(table);
  const Product<Plain> times(rule);
  const Header h(table);
  const auto from = T(h.near).x, to = T(h.far).x;
  const __m512i after = _mm512_set1_epi16(static_cast<int16_t>(from + 1)), size = _mm512_set1_epi16(0x7fff);
  const __m512i width = _mm512_set1_epi16(static_cast<int16_t>(to - from));
  // Both wrap: if `from` is above `to`, the band is what is above `from` or up to `to`.
  const auto in_band = [&](__m512i bits) __attribute__((always_inline)) AVX512 {
    return _mm512_cmplt_epu16_mask(_mm512_sub_epi16(_mm512_and_si512(bits, size), after), width);
  };
  const auto product = [&](__m512i bits, __m512i upstream) __attribute__((always_inline)) AVX512 {
    const Pair at = split(bits, T()), given = split(upstream, T());
    return join({times(given.low, shape(at.low), at.low), times(given.high, shape(at.high), at.high)}, T());
  };
  const auto look_up = [&](__mmask32 band, int64_t i) __attribute__((always_inline)) AVX512 {
    for (; band != 0; band &= band - 1) {
      const int64_t j = i + __builtin_ctz(band);
      out[j] = rule.of(g_out[j], every[x[j]], from_bits<T>(x[j]));
    }
  };
  int64_t i = 0;
  for (; i + 32 <= n; i += 32) {
    const __m512i bits = _mm512_loadu_si512(x + i);
    _mm512_storeu_si512(out + i, product(bits, _mm512_loadu_si512(g_out + i)));
    look_up(in_band(bits), i);
  }
  if (i < n) {
    const __mmask32 some = first_of_32(n - i);
    const __m512i bits = _mm512_maskz_loadu_epi16(some, x + i);
    _mm512_mask_storeu_epi16(out + i, some, product(bits, _mm512_maskz_loadu_epi16(some, g_out + i)));
    look_up(in_band(bits) & some, i);  // lanes beyond the end are zero, and zero may be in the band
  }
}

template <typename T>
AVX512 INLINE Pair load_32(const T* from, __mmask32 some) {
  if constexpr (std::is_same_v<T, float>) {
    return {_mm512_maskz_loadu_ps(static_cast<__mmask16>(some), from),
            _mm512_maskz_loadu_ps(static_cast<__mmask16>(some >> 16), from + 16)};
  } else {
    return split(_mm512_maskz_loadu_epi16(some, from), T());
  }
}

template <typename T>
AVX512 INLINE void store_32(T* to, __mmask32 some, const Pair& value) {
  if constexpr (std::is_same_v<T, float>) {
    _mm512_mask_storeu_ps(to, static_cast<__mmask16>(some), value.low);
    _mm512_mask_storeu_ps(to + 16, static_cast<__mmask16>(some >> 16), value.high);
  } else {
    _mm512_mask_storeu_epi16(to, some, join(value, T()));
  }
}

// One number above zero, another elsewhere; NaN stays NaN.
AVX512 INLINE __m512 side_of(__m512 x, __m512 below, __m512 above) {
  const __m512 zero = _mm512_setzero_ps();
  const __m512 g = _mm512_mask_mov_ps(below, _mm512_cmp_ps_mask(x, zero, _CMP_GT_OQ), above);
  return _mm512_mask_mov_ps(g, _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), x);
}

template <typename T, bool Plain>
AVX512 void sides_avx512(const T* g_out, const T* x, T* out, int64_t n, float below_, float above_, const Rule& rule) {
  const __m512 below = _mm512_set1_ps(below_), above = _mm512_set1_ps(above_);
  const Product<Plain> product(rule);
  for (int64_t i = 0; i < n; i += 32) {
    const __mmask32 some = first_of_32(n - i);
    const Pair at = load_32(x + i, some), given = load_32(g_out + i, some);
    store_32(out + i, some, {product(given.low, side_of(at.low, below, above), at.low),
                             product(given.high, side_of(at.high, below, above), at.high)});
  }
}

}  // namespace
