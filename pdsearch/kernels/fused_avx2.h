// The same with AVX2: 16 elements at a time, as two vectors of 8 floats.

#pragma once

#include <immintrin.h>

#include "fused.h"

#define AVX2 __attribute__((target("avx2,fma,f16c")))
#define AVX2_INLINE AVX2 __attribute__((always_inline))

namespace {
namespace avx2 {

constexpr int64_t kStep = 16;

AVX2 INLINE __m256 all(float value) { return _mm256_set1_ps(value); }
AVX2 INLINE __m256i all(int value) { return _mm256_set1_epi32(value); }
AVX2 INLINE __m256 as_float(__m256i bits) { return _mm256_castsi256_ps(bits); }
AVX2 INLINE __m256i as_bits(__m256 value) { return _mm256_castps_si256(value); }
AVX2 INLINE __m256 is_above_zero(__m256 x) { return _mm256_cmp_ps(x, _mm256_setzero_ps(), _CMP_GT_OQ); }
AVX2 INLINE __m256 is_nan(__m256 x) { return _mm256_cmp_ps(x, x, _CMP_UNORD_Q); }

// 16 elements. Which of them are in which vector depends on the type: `place`.
struct Two {
  __m256 first, second;
};

template <typename T>
constexpr int place(int vector, int lane) {  // bfloat16: the even ones and the odd ones
  return std::is_same_v<T, c10::BFloat16> ? 2 * lane + vector : 8 * vector + lane;
}

AVX2 INLINE Two split(__m256i bits, c10::BFloat16) {
  return {as_float(_mm256_slli_epi32(bits, 16)), as_float(_mm256_and_si256(bits, all(static_cast<int>(0xffff0000u))))};
}
AVX2 INLINE Two split(__m256i bits, c10::Half) {
  return {_mm256_cvtph_ps(_mm256_castsi256_si128(bits)), _mm256_cvtph_ps(_mm256_extracti128_si256(bits, 1))};
}

// To nearest, ties to even. A NaN here has no payload below the upper half, because it came from 16 bits
// or from the processor; so adding to its bits leaves it a NaN.
AVX2 INLINE __m256i rounded_up_to_even(__m256 value) {
  const __m256i bits = as_bits(value), odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), all(1));
  return _mm256_add_epi32(bits, _mm256_add_epi32(odd, all(0x7fff)));
}
AVX2 INLINE __m256i join(const Two& value, c10::BFloat16) {
  const __m256i even = _mm256_srli_epi32(rounded_up_to_even(value.first), 16);
  return _mm256_blend_epi16(even, rounded_up_to_even(value.second), 0xaa);
}
AVX2 INLINE __m256i join(const Two& value, c10::Half) {
  constexpr int nearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  return _mm256_set_m128i(_mm256_cvtps_ph(value.second, nearest), _mm256_cvtps_ph(value.first, nearest));
}

template <typename T>
AVX2 INLINE __m256i read_bits(const T* from) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
}
template <typename T>
AVX2 INLINE Two read(const T* from) {
  if constexpr (std::is_same_v<T, float>) return {_mm256_loadu_ps(from), _mm256_loadu_ps(from + 8)};
  else return split(read_bits(from), T());
}
template <typename T>
AVX2 INLINE void write(T* to, const Two& value) {
  if constexpr (std::is_same_v<T, float>) {
    _mm256_storeu_ps(to, value.first);
    _mm256_storeu_ps(to + 8, value.second);
  } else {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), join(value, T()));
  }
}

// step(g_out, kept, out) for 16 elements at a time.
template <typename T, typename Kept, typename F>
AVX2 INLINE void steps(const T* g_out, const Kept* kept, T* out, int64_t n, const F& step) {
  int64_t i = 0;
  for (; i + kStep <= n; i += kStep) step(g_out + i, kept + i, out + i);
  if (i == n) return;
  Last<kStep, T, Kept> last(g_out + i, kept + i, n - i);
  step(last.given, last.kept, last.made);
  last.write(out + i);
}

// The rule in vectors. `Plain`: a weight of 1 and no direction, hence one multiplication.
template <bool Plain>
struct Product {
  __m256 weight, rest, up;

  AVX2 INLINE explicit Product(const Rule& rule)
      : weight(all(rule.weight)), rest(all(rule.rest)), up(as_float(all(rule.up ? -1 : 0))) {}

  // `above`: where x > 0; `below`: where x <= 0; NaN is in neither.
  AVX2 INLINE __m256 of(__m256 g_out, __m256 g, __m256 above, __m256 below) const {
    if constexpr (Plain) return _mm256_mul_ps(g_out, g);
    g = _mm256_fmadd_ps(g, weight, _mm256_and_ps(above, rest));
    const __m256 lowering = _mm256_cmp_ps(g_out, _mm256_setzero_ps(), _CMP_GE_OQ);
    return _mm256_andnot_ps(_mm256_and_ps(_mm256_and_ps(below, up), lowering), _mm256_mul_ps(g_out, g));
  }
  AVX2 INLINE __m256 operator()(__m256 g_out, __m256 g, __m256 x) const {
    if constexpr (Plain) return _mm256_mul_ps(g_out, g);
    return of(g_out, g, is_above_zero(x), _mm256_cmp_ps(x, _mm256_setzero_ps(), _CMP_LE_OQ));
  }
  AVX2 INLINE Two operator()(const Two& g_out, const Two& g, const Two& x) const {
    return {(*this)(g_out.first, g.first, x.first), (*this)(g_out.second, g.second, x.second)};
  }
};

// ------------------------------------------------------------------------------------- float32

typedef uint16_t __attribute__((may_alias)) Half16;  // half of a float32 number
typedef uint32_t __attribute__((may_alias)) Bits32;

// Two ends of two chords: both are next to each other in the table.
AVX2 INLINE __m128 two_chords(const float* one, const float* other) {
  const __m128d low = _mm_load_sd(reinterpret_cast<const double*>(one));
  return _mm_castpd_ps(_mm_loadh_pd(low, reinterpret_cast<const double*>(other)));
}

// `Chords` in fused.h. Loads bound it, two a cycle: each index is read from the tensor itself.
template <int Free>
AVX2 INLINE __m256 on_chords(const float* table, __m256 at_zero, const float* from) {
  const __m256 x = _mm256_loadu_ps(from);
  // Not by memcpy, which the compiler makes a copy: a load from it waits for its store.
  const auto chord = [&](int i) AVX2_INLINE {
    if constexpr (Free == 16) return table + reinterpret_cast<const Half16*>(from)[2 * i + 1];
    else return table + (reinterpret_cast<const Bits32*>(from)[i] >> Free);
  };
  const __m256 p = _mm256_set_m128(two_chords(chord(4), chord(5)), two_chords(chord(0), chord(1)));
  const __m256 q = _mm256_set_m128(two_chords(chord(6), chord(7)), two_chords(chord(2), chord(3)));
  const __m256 near = _mm256_shuffle_ps(p, q, 0x88), far = _mm256_shuffle_ps(p, q, 0xdd);
  // The lowest bits of x as a fraction: `unit` has a unit in the last place of 2^-Free.
  constexpr float unit = 1 << (23 - Free);
  const __m256 lower = _mm256_and_ps(x, as_float(all((1 << Free) - 1)));
  const __m256 part = _mm256_sub_ps(_mm256_or_ps(lower, all(unit)), all(unit));
  const __m256 g = _mm256_fmadd_ps(part, _mm256_sub_ps(far, near), near);
  const __m256 special = _mm256_cmp_ps(x, _mm256_setzero_ps(), _CMP_EQ_UQ);  // zero or NaN
  return _mm256_blendv_ps(g, _mm256_add_ps(x, at_zero), special);
}

template <int Free, bool Plain>
AVX2 void scale_chords(const float* g_out, const float* x, float* out, int64_t n, const float* table, const Rule& rule) {
  const Product<Plain> product(rule);
  const __m256 zero = all(table[at_zero(Free)]);
  steps(g_out, x, out, n, [&](const float* given, const float* at, float* to) AVX2_INLINE {
    write(to, product(read(given), {on_chords<Free>(table, zero, at), on_chords<Free>(table, zero, at + 8)}, read(at)));
  });
}

// The stretch of a number among S: the ends form a search tree, a register or two for each level.
template <int S>
struct Search {
  static constexpr int levels = S == 32 ? 5 : S == 16 ? 4 : S == 8 ? 3 : 2;
  __m256 tree[levels][2];

  AVX2 INLINE explicit Search(const float* ends) {
    for (int k = 0; k < levels; ++k) {
      alignas(32) float level[16];
      const int step = S >> (k + 1);
      for (int j = 0; j < 16; ++j) level[j] = ends[(2 * (j & ((1 << k) - 1)) + 1) * step - 1];
      for (int part = 0; part < 2; ++part) tree[k][part] = _mm256_load_ps(level + 8 * part);
    }
  }

  AVX2 INLINE __m256i operator()(__m256 z) const {
    __m256i index = _mm256_srli_epi32(as_bits(_mm256_cmp_ps(z, tree[0][0], _CMP_GT_OQ)), 31);
    for (int k = 1; k < levels; ++k) {
      __m256 end = k <= 2 ? _mm256_permutevar_ps(tree[k][0], index) : _mm256_permutevar8x32_ps(tree[k][0], index);
      if (k == 4) {
        const __m256 others = _mm256_permutevar8x32_ps(tree[k][1], index);
        end = _mm256_blendv_ps(end, others, as_float(_mm256_slli_epi32(index, 28)));
      }
      index = _mm256_sub_epi32(_mm256_add_epi32(index, index), as_bits(_mm256_cmp_ps(z, end, _CMP_GT_OQ)));
    }
    return index;
  }
};

AVX2 INLINE __m256 finite(__m256 x) {  // min and max return their second operand for NaN
  return _mm256_max_ps(all(-kTop), _mm256_min_ps(all(kTop), x));
}

template <int S, int D>
struct Tree {  // up to 8 stretches: each number of a stretch comes from one register
  Search<S> search;
  __m256 centre, c[D + 1];

  AVX2 INLINE static __m256 numbers(const float* values) {
    return S == 8 ? _mm256_loadu_ps(values) : _mm256_broadcast_ps(reinterpret_cast<const __m128*>(values));
  }
  AVX2 INLINE static __m256 pick(__m256 values, __m256i index) {
    return S == 8 ? _mm256_permutevar8x32_ps(values, index) : _mm256_permutevar_ps(values, index);
  }

  AVX2 INLINE explicit Tree(const float* table) : search(table + 16), centre(numbers(table + 16 + S)) {
    for (int k = 0; k <= D; ++k) c[k] = numbers(table + 16 + (2 + k) * S);
  }

  AVX2 INLINE __m256 operator()(__m256 x) const {
    const __m256 z = finite(x);
    const __m256i index = search(z);
    const __m256 u = _mm256_sub_ps(z, pick(centre, index));
    __m256 p = pick(c[D], index);
    for (int k = D - 1; k >= 0; --k) p = _mm256_fmadd_ps(p, u, pick(c[k], index));
    return p;
  }
};

template <typename Shape, bool Plain>
AVX2 void scale_shape(const float* g_out, const float* x, float* out, int64_t n, const float* table, const Rule& rule) {
  const Shape shape(table);
  const Product<Plain> product(rule);
  steps(g_out, x, out, n, [&](const float* given, const float* from, float* to) AVX2_INLINE {
    const Two at = read(from);
    write(to, product(read(given), {shape(at.first), shape(at.second)}, at));
  });
}

// Calls f with the type of the table's shape, if it is one of those in registers.
template <typename F>
bool with_tree(const float* table, const F& f) {
  const Header h(table);
  const int degree = static_cast<int>(h.degree), size = static_cast<int>(h.size);
  if (h.kind != 2 || size > 8) return false;
#define TYPE(...) std::type_identity<__VA_ARGS__>()
  if (size == 4) degree == 1 ? f(TYPE(Tree<4, 1>)) : degree == 3 ? f(TYPE(Tree<4, 3>)) : f(TYPE(Tree<4, 5>));
  else degree == 1 ? f(TYPE(Tree<8, 1>)) : degree == 3 ? f(TYPE(Tree<8, 3>)) : f(TYPE(Tree<8, 5>));
#undef TYPE
  return true;
}

// Other shapes: a row of 8 floats for each stretch, of which 8 are transposed at a time. The stretches of a
// block are found first: while loads wait for an index, the processor's window is full.
struct Rows {
  Header header;
  alignas(32) float row[32][8];  // coefficients, constant first; the sixth is followed by the centre of a Tree

  explicit Rows(const float* table) : header(table) {
    const bool tree = header.kind == 2;
    const int size = tree ? static_cast<int>(header.size) : 32;
    const float* c = table + 16 + (tree ? 2 * size : 0);
    for (int i = 0; i < 32; ++i) {
      for (int k = 0; k < 6; ++k) row[i][k] = i < size && k <= header.degree ? c[k * size + i] : 0;
      row[i][6] = tree && i < size ? table[16 + size + i] : 0;
      row[i][7] = 0;
    }
  }
};

// Columns of 8 rows; an index counts floats.
AVX2 INLINE void four_columns(const float* rows, const int32_t* index, __m256* c) {
  const auto two = [&](int i) AVX2_INLINE {
    return _mm256_set_m128(_mm_loadu_ps(rows + index[i + 4]), _mm_loadu_ps(rows + index[i]));
  };
  const __m256 a = two(0), b = two(1), d = two(2), e = two(3);
  const __m256d low[] = {_mm256_castps_pd(_mm256_unpacklo_ps(a, b)), _mm256_castps_pd(_mm256_unpacklo_ps(d, e))};
  const __m256d high[] = {_mm256_castps_pd(_mm256_unpackhi_ps(a, b)), _mm256_castps_pd(_mm256_unpackhi_ps(d, e))};
  c[0] = _mm256_castpd_ps(_mm256_unpacklo_pd(low[0], low[1]));
  c[1] = _mm256_castpd_ps(_mm256_unpackhi_pd(low[0], low[1]));
  c[2] = _mm256_castpd_ps(_mm256_unpacklo_pd(high[0], high[1]));
  c[3] = _mm256_castpd_ps(_mm256_unpackhi_pd(high[0], high[1]));
}

template <int D>
AVX2 INLINE void by_rows(const Rows& rows, const int32_t* index, const float* v, float* g) {
  for (int64_t i = 0; i < kBlock; i += 8) {
    __m256 c[8];
    four_columns(rows.row[0], index + i, c);
    if constexpr (D > 3) four_columns(rows.row[0] + 4, index + i, c + 4);
    __m256 u = _mm256_load_ps(v + i), p = c[D];
    if constexpr (D > 3) u = _mm256_sub_ps(u, c[6]);
    for (int k = D - 1; k >= 0; --k) p = _mm256_fmadd_ps(p, u, c[k]);
    _mm256_store_ps(g + i, p);
  }
}

template <int S>
AVX2 INLINE void search_all(const float* ends, const float* x, int32_t* index, float* v) {
  const Search<S> search(ends);
  for (int64_t i = 0; i < kBlock; i += 8) {
    const __m256 z = finite(_mm256_load_ps(x + i));
    _mm256_store_ps(v + i, z);
    _mm256_store_si256(reinterpret_cast<__m256i*>(index + i), search(z));
  }
}

// g at a whole block.
AVX2 inline void evaluate(const Rows& rows, const float* table, const float* x, float* g) {
  const Header h = rows.header;
  alignas(32) int32_t index[kBlock];
  alignas(32) float v[kBlock];
  if (h.kind != 2) locate(h, x, index, v, kBlock);
  else if (h.size == 4) search_all<4>(table + 16, x, index, v);
  else if (h.size == 8) search_all<8>(table + 16, x, index, v);
  else if (h.size == 16) search_all<16>(table + 16, x, index, v);
  else search_all<32>(table + 16, x, index, v);
  for (int64_t i = 0; i < kBlock; ++i) index[i] *= 8;
  if (h.degree > 3 || h.kind == 2) by_rows<5>(rows, index, v, g);
  else by_rows<3>(rows, index, v, g);
  complete(h, x, g, kBlock);
}

// f(i, m, x, g) for blocks of m elements from i on, both as floats.
template <typename T, typename F>
AVX2 INLINE void blocks(const T* x, int64_t n, const float* table, const F& f) {
  const Rows rows(table);
  alignas(32) float wide[kBlock] = {}, g[kBlock];
  for (int64_t i = 0; i < n; i += kBlock) {
    const int64_t m = std::min(kBlock, n - i);
    for (int64_t j = 0; j < m; ++j) wide[j] = static_cast<float>(x[i + j]);
    evaluate(rows, table, wide, g);
    f(i, m, wide, g);
  }
}

template <bool Plain>
AVX2 void scale_rows(const float* g_out, const float* x, float* out, int64_t n, const float* table, const Rule& rule) {
  const Product<Plain> product(rule);
  blocks(x, n, table, [&](int64_t i, int64_t m, const float* at, const float* g) AVX2_INLINE {
    int64_t j = 0;
    for (; j + 8 <= m; j += 8) {
      const __m256 given = _mm256_loadu_ps(g_out + i + j);
      _mm256_storeu_ps(out + i + j, product(given, _mm256_load_ps(g + j), _mm256_load_ps(at + j)));
    }
    for (; j < m; ++j) out[i + j] = Plain ? g_out[i + j] * g[j] : rule(g_out[i + j], g[j], at[j]);
  });
}

template <typename T>
AVX2 void encode(const T* x, uint8_t* out, int64_t n, const float* table) {
  blocks(x, n, table, [&](int64_t i, int64_t m, const float* at, const float* g) AVX2_INLINE {
    codes_of(Header(table), at, g, out + i, m);
  });
}

// -------------------------------------------------------------------------- 16 bits, two numbers, codes

AVX2 INLINE __m128i look_up(const uint16_t* table, const uint16_t* x) {
  __m128i found = _mm_cvtsi32_si128(table[x[0]]);
  found = _mm_insert_epi16(found, table[x[1]], 1);
  found = _mm_insert_epi16(found, table[x[2]], 2);
  found = _mm_insert_epi16(found, table[x[3]], 3);
  found = _mm_insert_epi16(found, table[x[4]], 4);
  found = _mm_insert_epi16(found, table[x[5]], 5);
  found = _mm_insert_epi16(found, table[x[6]], 6);
  return _mm_insert_epi16(found, table[x[7]], 7);
}

template <typename T, bool Plain>
AVX2 void scale_every(const T* g_out, const uint16_t* x, T* out, int64_t n, const uint16_t* table, const Rule& rule) {
  const Product<Plain> product(rule);
  steps(g_out, x, out, n, [&](const T* given, const uint16_t* at, T* to) AVX2_INLINE {
    const Two g = split(_mm256_set_m128i(look_up(table, at + 8), look_up(table, at)), T());
    write(to, product(read(given), g, Plain ? g : split(read_bits(at), T())));
  });
}

// One number above zero, another elsewhere; NaN stays NaN.
AVX2 INLINE __m256 side_of(__m256 x, __m256 below, __m256 above) {
  return _mm256_blendv_ps(_mm256_blendv_ps(below, above, is_above_zero(x)), x, is_nan(x));
}

template <typename T, bool Plain>
AVX2 void scale_sides(const T* g_out, const T* x, T* out, int64_t n, float below_, float above_, const Rule& rule) {
  const __m256 below = all(below_), above = all(above_);
  const Product<Plain> product(rule);
  steps(g_out, x, out, n, [&](const T* given, const T* from, T* to) AVX2_INLINE {
    const Two at = read(from);
    write(to, product(read(given), {side_of(at.first, below, above), side_of(at.second, below, above)}, at));
  });
}

// All bits set where a code's highest bit is: x > 0, for codes that tell the sign.
template <typename T>
AVX2 INLINE Two upper_half(const uint8_t* code) {
  const __m128i codes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(code));
  __m256i wide[2];
  if constexpr (std::is_same_v<T, c10::BFloat16>) {
    wide[0] = _mm256_cvtepi16_epi32(_mm_slli_epi16(codes, 8));
    wide[1] = _mm256_cvtepi16_epi32(codes);
  } else {
    wide[0] = _mm256_cvtepi8_epi32(codes);
    wide[1] = _mm256_cvtepi8_epi32(_mm_srli_si128(codes, 8));
  }
  return {as_float(_mm256_srai_epi32(wide[0], 31)), as_float(_mm256_srai_epi32(wide[1], 31))};
}

template <typename T, bool Plain>
AVX2 void scale_code(const T* g_out, const uint8_t* code, T* out, int64_t n, const float* values, const Rule& rule) {
  const Product<Plain> product(rule);
  steps(g_out, code, out, n, [&](const T* given, const uint8_t* at, T* to) AVX2_INLINE {
    uint64_t words[2];
    std::memcpy(words, at, sizeof words);
    const auto value = [&](int vector, int lane) AVX2_INLINE {
      const int i = place<T>(vector, lane);
      return values[static_cast<uint8_t>(words[i / 8] >> (8 * (i % 8)))];
    };
    const auto eight = [&](int v) AVX2_INLINE {
      return _mm256_setr_ps(value(v, 0), value(v, 1), value(v, 2), value(v, 3), value(v, 4), value(v, 5), value(v, 6),
                            value(v, 7));
    };
    const Two g{eight(0), eight(1)}, upstream = read(given);
    if constexpr (Plain) return write(to, product(upstream, g, g));
    const Two above = upper_half<T>(at);
    const __m256 below[] = {_mm256_andnot_ps(above.first, _mm256_cmp_ps(g.first, g.first, _CMP_ORD_Q)),
                            _mm256_andnot_ps(above.second, _mm256_cmp_ps(g.second, g.second, _CMP_ORD_Q))};
    write(to, {product.of(upstream.first, g.first, above.first, below[0]),
               product.of(upstream.second, g.second, above.second, below[1])});
  });
}

}  // namespace avx2
}  // namespace
