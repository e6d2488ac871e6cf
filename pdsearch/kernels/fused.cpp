// The fused backward kernels: grad_input = grad_output * g(input), with g as data.
//
// No formula is in here. A shape arrives as a table that pdsearch/kernels made from its symbolic
// definition, so that this file is compiled once, whatever is searched:
//
//   float32             polynomials of degree 1 to 5 on up to 32 stretches of the line, in one of three
//                       layouts (Side, Sides, Tree below); with AVX-512 all of it stays in registers.
//   bfloat16, float16   the value of g at each of the 65 536 inputs; for bfloat16 with AVX-512 also
//                       polynomials as for float32, which were found to round to those values but
//                       for a band of sizes of x, in which the values are looked up.
//   two numbers         where g is one number above zero and another elsewhere.
//   uint8               a code an element, made in the forward pass, and 256 values.
//
// Two things are numbers given at each call, so that a shape that fades needs no new table: the weight w
// of g against the step, w*g + (1 - w)*1[x > 0], and whether gradients that would push a unit down
// pass where x <= 0 (struct Rule).
//
// Strides, broadcasting, threads and the output's memory format are TensorIterator's, as in torch's
// own threshold_backward. What the processor has is found out at run time.

#include <ATen/TensorIterator.h>
#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#if defined(__x86_64__)
#include <immintrin.h>
#define PDSEARCH_X86 1
#define AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,f16c")))
#define VBMI __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,f16c")))
#endif
#define INLINE inline __attribute__((always_inline))

namespace {

bool portable = false;  // set by pdsearch::set_portable, to measure the build without AVX-512

bool has_avx512() {
#ifdef PDSEARCH_X86
  static const bool found = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  return found && !portable;
#else
  return false;
#endif
}

bool has_vbmi() {
#ifdef PDSEARCH_X86
  static const bool found = __builtin_cpu_supports("avx512vbmi");
  return found && has_avx512();
#else
  return false;
#endif
}

constexpr int64_t kBlock = 512;  // elements gathered at a time when a stride is not the element size
constexpr float kTop = std::numeric_limits<float>::max();

// ---------------------------------------------------------------------- a table's beginning
// 16 floats, then the coefficients. pdsearch/kernels/layout.py writes it.
struct Header {
  float kind;      // 0 Side, 1 Sides, 2 Tree
  float size;      // Tree: stretches
  float degree;
  float mantissa;  // Side, Sides: bits m of the mantissa of w that take part in the index
  float scale;     // w = |x| * scale + 1
  float furthest;  // w is cut there
  float centre;    // of a stretch's mantissa
  float inverted;  // Side: the other side is x <= 0 rather than x > 0
  float offset, slope;  // Side: on the other side g = offset + slope * polynomial
  float levels, first;  // codes: floor(g * levels) + first
  float near, far;      // bfloat16: inputs of a size above the first and up to the second, cyclically,
                        // are looked up
  float top;       // codes: the highest of a value; those of 0, 1 and NaN follow it
  float above;     // codes: added where x > 0, so that the code tells the sign of x; or 0
};
static_assert(sizeof(Header) == 64);

// What multiplies grad_output: weight * g, and rest = 1 - weight more where x > 0. With `up`, gradients
// of 0 and above are dropped where x <= 0: a descent step along them would lower the unit's input.
struct Rule {
  float weight, rest;
  bool up;

  Rule(double weight_, bool up_) : weight(static_cast<float>(weight_)), rest(static_cast<float>(1 - weight_)), up(up_) {}
  bool plain() const { return weight == 1 && !up; }
  // The product in float; NaN in x, g or grad_output stays NaN.
  float operator()(float g_out, float g, float x) const {
    if (up && x <= 0 && g_out >= 0) return 0;
    return g_out * (weight == 1 ? g : weight * g + (x > 0 ? rest : 0));
  }
};

// Side: a polynomial of v on each of 32 stretches of |x|, which are even near 0 and even in log |x| far
// out: w = |x| * scale + 1 is cut by its exponent and m bits of its mantissa; v is the rest of the
// mantissa. One side of zero is given by it, the other by `offset + slope * it`: a constant, or one minus it.
// Sides: 16 stretches of |x| for each sign.
// Tree: any ends, compared exactly; a polynomial of x - centre on each stretch.

uint32_t bits_of(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return bits;
}

float float_of(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}

// g at up to kBlock numbers, without AVX-512. In passes over the block, so that the compiler can make
// vectors of what it finds: the place of each x in its stretch and the stretch's number; then Horner's
// rule, whose coefficients are loaded one by one.
template <int D>
INLINE void horner(const float* c, int stride, const int32_t* index, const float* v, float* g, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    float p = c[D * stride + index[i]];
    for (int k = D - 1; k >= 0; --k) p = p * v[i] + c[k * stride + index[i]];
    g[i] = p;
  }
}

INLINE void by_degree(int degree, const float* c, int stride, const int32_t* index, const float* v, float* g, int64_t n) {
  if (degree == 1) horner<1>(c, stride, index, v, g, n);
  else if (degree == 2) horner<2>(c, stride, index, v, g, n);
  else if (degree == 3) horner<3>(c, stride, index, v, g, n);
  else horner<5>(c, stride, index, v, g, n);
}

INLINE void evaluate_block(const float* table, const float* x, float* g, int64_t n) {
  Header h;
  std::memcpy(&h, table, sizeof h);
  const float* c = table + 16;
  const int degree = static_cast<int>(h.degree);
  alignas(64) int32_t index[kBlock];
  alignas(64) float v[kBlock];
  if (h.kind == 2) {
    const int size = static_cast<int>(h.size);
    for (int64_t i = 0; i < n; ++i) index[i] = 0;
    for (int s = 0; s + 1 < size && c[s] <= kTop; ++s) {
      const float end = c[s];
      for (int64_t i = 0; i < n; ++i) index[i] += x[i] > end;
    }
    for (int64_t i = 0; i < n; ++i) {
      const float z = x[i] > kTop ? kTop : (x[i] < -kTop ? -kTop : x[i]);
      v[i] = z - c[size + index[i]];
    }
    by_degree(degree, c + 2 * size, size, index, v, g, n);
  } else {
    const int free = 23 - static_cast<int>(h.mantissa);
    const uint32_t low = (1u << free) - 1;
    const bool two_sided = h.kind == 1;
    const uint32_t mask = two_sided ? 15 : 31;
    for (int64_t i = 0; i < n; ++i) {
      float w = std::fabs(x[i]) * h.scale + 1.0f;
      w = w > h.furthest ? h.furthest : w;
      const uint32_t bits = bits_of(w);
      index[i] = static_cast<int32_t>(((bits >> free) & mask) | (two_sided && x[i] > 0 ? 16 : 0));
      v[i] = float_of((bits & low) | 0x3f800000u) - h.centre;
    }
    by_degree(degree, c, 32, index, v, g, n);
    if (!two_sided) {
      const bool inverted = h.inverted != 0;
      for (int64_t i = 0; i < n; ++i) g[i] = (x[i] > 0) != inverted ? g[i] * h.slope + h.offset : g[i];
    }
  }
  for (int64_t i = 0; i < n; ++i) g[i] = x[i] == x[i] ? g[i] : x[i];
}

#ifdef PDSEARCH_X86
__attribute__((target("avx2,fma"))) void evaluate_avx2(const float* table, const float* x, float* g, int64_t n) {
  evaluate_block(table, x, g, n);
}

bool has_avx2() {
  static const bool found = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  return found;
}
#endif

void evaluate(const float* table, const float* x, float* g, int64_t n) {
#ifdef PDSEARCH_X86
  if (has_avx2()) return evaluate_avx2(table, x, g, n);
#endif
  evaluate_block(table, x, g, n);
}

template <typename T>
T looked_up(T g_out, T value, T x, const Rule& rule) {
  return static_cast<T>(rule(static_cast<float>(g_out), static_cast<float>(value), static_cast<float>(x)));
}

template <typename T>
T from_bits(uint16_t bits) {
  return T(bits, T::from_bits());
}

#ifdef PDSEARCH_X86
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
    Header h;
    std::memcpy(&h, table, sizeof h);
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

// Rule in vectors. `Plain`: a weight of 1 and no direction, one multiplication.
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
  Header h;
  std::memcpy(&h, table, sizeof h);
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

// Calls f with the shape's type.
template <typename F>
void with_shape(const float* table, const F& f) {
  Header h;
  std::memcpy(&h, table, sizeof h);
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
  // So that unpacking, which works within 128-bit lanes, gives elements 0 to 31 and 32 to 63.
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
      const __mmask16 above = _mm_movepi8_mask(sixteen_codes);  // codes that tell the sign; else it is not asked
      const __m512 g = _mm512_cvtph_ps(sixteen);
      const __mmask16 below = _mm512_mask_cmp_ps_mask(static_cast<__mmask16>(~above), g, g, _CMP_ORD_Q);
      store_float(out + at, here, product.of(load_as_float(g_out + at, here), g, above, below));
    }
  }
}

// 32 numbers of 16 bits as two vectors of floats, in an order of each type's own.
AVX512 INLINE Pair split(__m512i bits, c10::BFloat16) {  // the even ones and the odd ones
  return {_mm512_castsi512_ps(_mm512_slli_epi32(bits, 16)),
          _mm512_castsi512_ps(_mm512_and_si512(bits, _mm512_set1_epi32(static_cast<int>(0xffff0000u))))};
}
AVX512 INLINE Pair split(__m512i bits, c10::Half) {
  return {_mm512_cvtph_ps(_mm512_castsi512_si256(bits)), _mm512_cvtph_ps(_mm512_extracti64x4_epi64(bits, 1))};
}

// To nearest, ties to even. A NaN here has no payload below the upper half: it came from 16 bits, or
// is the processor's own; so adding to its bits leaves it one.
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

// `every` holds the value at each input, for those in the band.
template <typename Shape, bool Plain>
AVX512 void rounded_avx512(const c10::BFloat16* g_out, const uint16_t* x, c10::BFloat16* out, int64_t n,
                           const float* table, const c10::BFloat16* every, const Rule& rule) {
  using T = c10::BFloat16;
  const Shape shape(table);
  const Product<Plain> times(rule);
  Header h;
  std::memcpy(&h, table, sizeof h);
  const auto from = T(h.near).x, to = T(h.far).x;
  const __m512i after = _mm512_set1_epi16(static_cast<int16_t>(from + 1)), size = _mm512_set1_epi16(0x7fff);
  const __m512i width = _mm512_set1_epi16(static_cast<int16_t>(to - from));
  // Both wrap: where `from` is above `to`, those are in the band that are above it or up to `to`.
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
      out[j] = looked_up(g_out[j], every[x[j]], from_bits<T>(x[j]), rule);
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

// The table's loads are scalar: gathers are several times slower on some processors (Zen 5), and no
// faster on the others.
template <typename T, bool Plain>
AVX512 void every_avx512(const T* g_out, const uint16_t* x, T* out, int64_t n, const uint16_t* table, const Rule& rule) {
  const Product<Plain> product(rule);
  alignas(64) uint16_t g[kBlock];
  for (int64_t at = 0; at < n; at += kBlock) {
    const int64_t m = std::min(kBlock, n - at);
    for (int64_t i = 0; i < m; ++i) g[i] = table[x[at + i]];
    for (int64_t i = 0; i < m; i += 16) {
      const __mmask16 some = first_of(m - i);
      const __m512 wide = widen(_mm256_load_si256(reinterpret_cast<const __m256i*>(g + i)), T());
      const __m512 from = Plain ? wide : load_as_float(reinterpret_cast<const T*>(x) + at + i, some);
      store_float(out + at + i, some, product(load_as_float(g_out + at + i, some), wide, from));
    }
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
  if constexpr (std::is_same_v<T, float>) {
    for (int64_t i = 0; i < n; i += 16) {
      const __mmask16 some = first_of(n - i);
      const __m512 at = _mm512_maskz_loadu_ps(some, x + i);
      const __m512 made = product(_mm512_maskz_loadu_ps(some, g_out + i), side_of(at, below, above), at);
      _mm512_mask_storeu_ps(out + i, some, made);
    }
  } else {
    for (int64_t i = 0; i < n; i += 32) {
      const __mmask32 some = first_of_32(n - i);
      const Pair at = split(_mm512_maskz_loadu_epi16(some, x + i), T());
      const Pair given = split(_mm512_maskz_loadu_epi16(some, g_out + i), T());
      const Pair made{product(given.low, side_of(at.low, below, above), at.low),
                      product(given.high, side_of(at.high, below, above), at.high)};
      _mm512_mask_storeu_epi16(out + i, some, join(made, T()));
    }
  }
}
#endif

// ------------------------------------------------------------------------ with or without AVX-512

// Calls f with whether the rule is plain, as a type.
template <typename F>
void with_rule(const Rule& rule, const F& f) {
  return rule.plain() ? f(std::true_type()) : f(std::false_type());
}

void scale_float(const float* g_out, const float* x, float* out, int64_t n, const float* table, const Rule& rule) {
#ifdef PDSEARCH_X86
  if (has_avx512()) {
    return with_shape(table, [&](auto type) {
      with_rule(rule, [&](auto plain) {
        scale_avx512<typename decltype(type)::type, plain()>(g_out, x, out, n, table, rule);
      });
    });
  }
#endif
  float g[kBlock];
  for (int64_t at = 0; at < n; at += kBlock) {
    const int64_t m = std::min(kBlock, n - at);
    evaluate(table, x + at, g, m);
    with_rule(rule, [&](auto plain) {
      for (int64_t i = 0; i < m; ++i) {
        out[at + i] = plain() ? g_out[at + i] * g[i] : rule(g_out[at + i], g[i], x[at + i]);
      }
    });
  }
}

void scale_rounded(const c10::BFloat16* g_out, const uint16_t* x, c10::BFloat16* out, int64_t n, const float* table,
                   const c10::BFloat16* every, const Rule& rule) {
#ifdef PDSEARCH_X86
  if (has_avx512()) {
    return with_shape(table, [&](auto type) {
      with_rule(rule, [&](auto plain) {
        rounded_avx512<typename decltype(type)::type, plain()>(g_out, x, out, n, table, every, rule);
      });
    });
  }
#endif
  for (int64_t i = 0; i < n; ++i) out[i] = looked_up(g_out[i], every[x[i]], from_bits<c10::BFloat16>(x[i]), rule);
}

template <typename T>
void scale_sides(const T* g_out, const T* x, T* out, int64_t n, float below, float above, const Rule& rule) {
#ifdef PDSEARCH_X86
  if (has_avx512()) {
    return with_rule(rule, [&](auto plain) { sides_avx512<T, plain()>(g_out, x, out, n, below, above, rule); });
  }
#endif
  for (int64_t i = 0; i < n; ++i) {
    const float at = static_cast<float>(x[i]);
    const float g = std::isnan(at) ? at : at > 0 ? above : below;
    out[i] = static_cast<T>(rule(static_cast<float>(g_out[i]), g, at));
  }
}

template <typename T>
void scale_every(const T* g_out, const uint16_t* x, T* out, int64_t n, const T* table, const Rule& rule) {
#ifdef PDSEARCH_X86
  if (has_avx512()) {
    return with_rule(rule, [&](auto plain) {
      every_avx512<T, plain()>(g_out, x, out, n, reinterpret_cast<const uint16_t*>(table), rule);
    });
  }
#endif
  for (int64_t i = 0; i < n; ++i) out[i] = looked_up(g_out[i], table[x[i]], from_bits<T>(x[i]), rule);
}

template <typename T>
void scale_code(const T* g_out, const uint8_t* code, T* out, int64_t n, const float* values, const Rule& rule) {
#ifdef PDSEARCH_X86
  if (has_vbmi()) {
    return with_rule(rule, [&](auto plain) { coded_vbmi<T, plain()>(g_out, code, out, n, values, rule); });
  }
#endif
  for (int64_t i = 0; i < n; ++i) {
    const float g = values[code[i]];
    const float sign = std::isnan(g) ? g : code[i] < 128 ? -1.0f : 1.0f;
    out[i] = static_cast<T>(rule(static_cast<float>(g_out[i]), g, sign));
  }
}

template <typename T>
void encode_all(const T* x, uint8_t* out, int64_t n, const float* table) {
#ifdef PDSEARCH_X86
  if (has_avx512()) {
    return with_shape(table, [&](auto type) { encode_avx512<typename decltype(type)::type, T>(x, out, n, table); });
  }
#endif
  Header h;
  std::memcpy(&h, table, sizeof h);
  float wide[kBlock], g[kBlock];
  for (int64_t at = 0; at < n; at += kBlock) {
    const int64_t m = std::min(kBlock, n - at);
    for (int64_t i = 0; i < m; ++i) wide[i] = static_cast<float>(x[at + i]);
    evaluate(table, wide, g, m);
    for (int64_t i = 0; i < m; ++i) {
      const float level = std::clamp(std::floor(g[i] * h.levels + h.first), 0.0f, h.top);
      const float code = g[i] == 0 ? h.top + 1 : g[i] == 1 ? h.top + 2 : std::isnan(g[i]) ? h.top + 3 : level;
      out[at + i] = static_cast<uint8_t>(code + (wide[i] > 0 ? h.above : 0));
    }
  }
}

// ------------------------------------------------------------------------------- the tensors

template <typename T>
const T* contiguous(const char* from, int64_t stride, int64_t n, T* buffer) {
  if (stride == static_cast<int64_t>(sizeof(T))) return reinterpret_cast<const T*>(from);
  for (int64_t i = 0; i < n; ++i) std::memcpy(buffer + i, from + i * stride, sizeof(T));
  return buffer;
}

// out = kernel(first, second) over any strides, in torch's own threads.
template <typename Out, typename First, typename Second, typename F>
void over(at::TensorIteratorBase& iterator, const F& kernel) {
  iterator.for_each([&](char** data, const int64_t* strides, int64_t n) {
    const bool plain = strides[0] == sizeof(Out) && strides[1] == sizeof(First) && strides[2] == sizeof(Second);
    if (plain) {
      return kernel(reinterpret_cast<const First*>(data[1]), reinterpret_cast<const Second*>(data[2]),
                    reinterpret_cast<Out*>(data[0]), n);
    }
    First first[kBlock];
    Second second[kBlock];
    Out out[kBlock];
    for (int64_t at = 0; at < n; at += kBlock) {
      const int64_t m = std::min(kBlock, n - at);
      kernel(contiguous<First>(data[1] + at * strides[1], strides[1], m, first),
             contiguous<Second>(data[2] + at * strides[2], strides[2], m, second), out, m);
      for (int64_t i = 0; i < m; ++i) std::memcpy(data[0] + (at + i) * strides[0], out + i, sizeof(Out));
    }
  });
}

at::TensorIterator pair(at::ScalarType dtype, const at::Tensor& first, const at::Tensor& second) {
  return at::TensorIteratorConfig()
      .check_all_same_dtype(false)
      .declare_static_dtype(dtype)
      .add_owned_output(at::Tensor())
      .add_const_input(first)
      .add_const_input(second)
      .build();
}

const float* check_table(const at::Tensor& table) {
  TORCH_CHECK(table.scalar_type() == at::kFloat && table.is_contiguous() && table.numel() > 16, "pdsearch: not a table");
  const float* values = table.const_data_ptr<float>();
  Header h;
  std::memcpy(&h, values, sizeof h);
  const int64_t needed = h.kind == 2 ? 16 + (h.degree + 3) * h.size : 16 + (h.degree + 1) * 32;
  TORCH_CHECK(table.numel() == needed, "pdsearch: a table of a wrong size");
  return values;
}

at::Tensor scale(const at::Tensor& grad_output, const at::Tensor& input, const at::Tensor& table, double weight, bool up) {
  const Rule rule(weight, up);
  const auto dtype = input.scalar_type();
  TORCH_CHECK(grad_output.scalar_type() == dtype && table.scalar_type() == dtype && table.is_contiguous(),
              "pdsearch::scale: grad_output, input and table need one dtype");
  auto iterator = pair(dtype, grad_output, input);
  if (dtype == at::kFloat) {
    const float* values = check_table(table);
    over<float, float, float>(iterator, [&](const float* g, const float* x, float* out, int64_t n) {
      scale_float(g, x, out, n, values, rule);
    });
    return iterator.output();
  }
  TORCH_CHECK(table.numel() == 65536, "pdsearch::scale: a table of a wrong size");
  if (dtype == at::kBFloat16) {
    const auto* values = table.const_data_ptr<at::BFloat16>();
    over<at::BFloat16, at::BFloat16, uint16_t>(
        iterator, [&](const at::BFloat16* g, const uint16_t* x, at::BFloat16* out, int64_t n) {
          scale_every(g, x, out, n, values, rule);
        });
  } else {
    TORCH_CHECK(dtype == at::kHalf, "pdsearch::scale: no kernel for ", dtype);
    const auto* values = table.const_data_ptr<at::Half>();
    over<at::Half, at::Half, uint16_t>(
        iterator,
        [&](const at::Half* g, const uint16_t* x, at::Half* out, int64_t n) { scale_every(g, x, out, n, values, rule); });
  }
  return iterator.output();
}

template <typename F>
void by_dtype(at::ScalarType dtype, const F& run) {
  switch (dtype) {
    case at::kFloat: return run(float());
    case at::kBFloat16: return run(at::BFloat16());
    case at::kHalf: return run(at::Half());
    default: TORCH_CHECK(false, "pdsearch: no kernel for ", dtype);
  }
}

at::Tensor scale_rounded_(const at::Tensor& grad_output, const at::Tensor& input, const at::Tensor& table,
                          const at::Tensor& every, double weight, bool up) {
  const Rule rule(weight, up);
  constexpr auto dtype = at::kBFloat16;
  TORCH_CHECK(grad_output.scalar_type() == dtype && input.scalar_type() == dtype && every.scalar_type() == dtype &&
                  every.is_contiguous() && every.numel() == 65536, "pdsearch::scale_rounded: dtype or size");
  const float* values = check_table(table);
  const auto* all = every.const_data_ptr<at::BFloat16>();
  auto iterator = pair(dtype, grad_output, input);
  over<at::BFloat16, at::BFloat16, uint16_t>(
      iterator, [&](const at::BFloat16* g, const uint16_t* x, at::BFloat16* out, int64_t n) {
        scale_rounded(g, x, out, n, values, all, rule);
      });
  return iterator.output();
}

at::Tensor scale_sides_(const at::Tensor& grad_output, const at::Tensor& input, double below, double above, bool up) {
  const Rule rule(1, up);
  TORCH_CHECK(grad_output.scalar_type() == input.scalar_type(), "pdsearch::scale_sides: dtypes differ");
  auto iterator = pair(input.scalar_type(), grad_output, input);
  by_dtype(input.scalar_type(), [&](auto kind) {
    using T = decltype(kind);
    // What g is in this dtype, before it is multiplied with.
    const float low = static_cast<float>(static_cast<T>(below)), high = static_cast<float>(static_cast<T>(above));
    over<T, T, T>(iterator, [&](const T* g, const T* x, T* out, int64_t n) { scale_sides<T>(g, x, out, n, low, high, rule); });
  });
  return iterator.output();
}

at::Tensor scale_coded(const at::Tensor& grad_output, const at::Tensor& code, const at::Tensor& values, double weight,
                       bool up) {
  const Rule rule(weight, up);
  TORCH_CHECK(code.scalar_type() == at::kByte && values.scalar_type() == at::kFloat && values.numel() == 256 &&
                  values.is_contiguous(), "pdsearch::scale_coded: dtype or size");
  const float* table = values.const_data_ptr<float>();
  auto iterator = pair(grad_output.scalar_type(), grad_output, code);
  by_dtype(grad_output.scalar_type(), [&](auto kind) {
    using T = decltype(kind);
    over<T, T, uint8_t>(iterator, [&](const T* g, const uint8_t* c, T* out, int64_t n) { scale_code(g, c, out, n, table, rule); });
  });
  return iterator.output();
}

at::Tensor encode(const at::Tensor& input, const at::Tensor& table) {
  const float* values = check_table(table);
  auto iterator = pair(at::kByte, input, input);
  by_dtype(input.scalar_type(), [&](auto kind) {
    using T = decltype(kind);
    over<uint8_t, T, T>(iterator, [&](const T* x, const T*, uint8_t* out, int64_t n) { encode_all(x, out, n, values); });
  });
  return iterator.output();
}

bool set_portable(bool value) {
  portable = value;
  return has_avx512();
}

bool avx512() { return has_avx512(); }

}  // namespace

TORCH_LIBRARY(pdsearch, library) {
#define RULE "float weight=1.0, bool up=False) -> Tensor"
  library.def("scale(Tensor grad_output, Tensor input, Tensor table, " RULE);
  library.def("scale_rounded(Tensor grad_output, Tensor input, Tensor table, Tensor every, " RULE);
  library.def("scale_sides(Tensor grad_output, Tensor input, float below, float above, bool up=False) -> Tensor");
  library.def("scale_coded(Tensor grad_output, Tensor code, Tensor values, " RULE);
#undef RULE
  library.def("encode(Tensor input, Tensor table) -> Tensor");
  library.def("set_portable(bool value) -> bool", &set_portable);
  library.def("avx512() -> bool", &avx512);
}

TORCH_LIBRARY_IMPL(pdsearch, CPU, library) {
  library.impl("scale", &scale);
  library.impl("scale_rounded", &scale_rounded_);
  library.impl("scale_sides", &scale_sides_);
  library.impl("scale_coded", &scale_coded);
  library.impl("encode", &encode);
}
