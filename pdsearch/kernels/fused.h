// What every processor runs: the tables' format, the rule of the backward pass, and g by tables.

#pragma once

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>
#include <c10/util/bit_cast.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#define INLINE inline __attribute__((always_inline))

namespace {

constexpr int64_t kBlock = 512;  // elements gathered at a time when a stride is not the element size
constexpr float kTop = std::numeric_limits<float>::max();

// A table is 16 floats, then the coefficients; pdsearch/kernels/layout.py writes it.
//
// Side: a polynomial of v on each of 32 stretches of |x|, which are even near 0 and even in log |x| far
// out: w = |x| * scale + 1 is cut by its exponent and m bits of its mantissa; v is the rest of the
// mantissa. On the other side of zero g is `offset + slope * polynomial`.
// Sides: 16 stretches of |x| for each sign.
// Tree: any ends, compared exactly; a polynomial of x - centre on each stretch.
struct Header {
  float kind;      // 0 Side, 1 Sides, 2 Tree
  float size;      // Tree: stretches
  float degree;
  float mantissa;  // Side, Sides: bits m of the mantissa of w in the index
  float scale;     // w = |x| * scale + 1
  float furthest;  // largest w
  float centre;    // of a stretch's mantissa
  float inverted;  // Side: the other side is x <= 0 rather than x > 0
  float offset, slope;  // Side: on the other side g = offset + slope * polynomial
  float levels, first;  // codes: floor(g * levels) + first
  float near, far;      // bfloat16: inputs with a size above the first and up to the second, cyclically,
                        // are looked up
  float top;       // codes: the highest code of a value; those of 0, 1 and NaN follow it
  float above;     // codes: added where x > 0, so that the code tells the sign of x; or 0

  explicit Header(const float* table) { std::memcpy(this, table, sizeof *this); }
};
static_assert(sizeof(Header) == 64);

// What multiplies grad_output: weight * g, plus rest = 1 - weight where x > 0. With `up`, gradients of 0
// and above are dropped where x <= 0: a descent step along them would lower the unit's input.
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
  template <typename T>
  T of(T g_out, T g, T x) const {
    return static_cast<T>((*this)(static_cast<float>(g_out), static_cast<float>(g), static_cast<float>(x)));
  }
};

// Calls f with whether the rule is plain, as a type.
template <typename F>
void with_rule(const Rule& rule, const F& f) {
  return rule.plain() ? f(std::true_type()) : f(std::false_type());
}

// g at up to kBlock numbers, in passes over the block that the compiler can turn into vectors: the stretch
// of each x and the place in it; then Horner's rule, whose coefficients are loaded one by one.
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

// The stretch of each x in the layouts Side and Sides, and the place in it. The header is a copy: through a
// reference, every store of a float could change it, and the loop would not become vectors.
INLINE void locate(const Header h, const float* x, int32_t* index, float* v, int64_t n) {
  const int free = 23 - static_cast<int>(h.mantissa);
  const uint32_t low = (1u << free) - 1;
  const bool two_sided = h.kind == 1;
  const uint32_t mask = two_sided ? 15 : 31;
  for (int64_t i = 0; i < n; ++i) {
    float w = std::fabs(x[i]) * h.scale + 1.0f;
    w = w > h.furthest ? h.furthest : w;
    const uint32_t bits = c10::bit_cast<uint32_t>(w);
    index[i] = static_cast<int32_t>(((bits >> free) & mask) | (two_sided && x[i] > 0 ? 16 : 0));
    v[i] = c10::bit_cast<float>((bits & low) | 0x3f800000u) - h.centre;
  }
}

// From the polynomials to g: the other side of a Side; NaN.
INLINE void complete(const Header h, const float* x, float* g, int64_t n) {
  if (h.kind == 0) {
    const bool inverted = h.inverted != 0;
    for (int64_t i = 0; i < n; ++i) g[i] = (x[i] > 0) != inverted ? g[i] * h.slope + h.offset : g[i];
  }
  for (int64_t i = 0; i < n; ++i) g[i] = x[i] == x[i] ? g[i] : x[i];
}

INLINE void evaluate_block(const float* table, const float* x, float* g, int64_t n) {
  const Header h(table);
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
    locate(h, x, index, v, n);
    by_degree(degree, c, 32, index, v, g, n);
  }
  complete(h, x, g, n);
}

// Chords: g on straight lines between its values at the float32 numbers whose lowest Free bits are zero. The
// table is these values, by the number's other bits; those of 0 and -0 hold the limits at zero from each
// side. Then come one number that fills a load, and g at zero. pdsearch/kernels/chords.py makes it.
constexpr int64_t at_zero(int free) { return (int64_t{1} << (32 - free)) + 1; }

template <int Free>
INLINE float on_chords(const float* table, float x) {
  const uint32_t bits = c10::bit_cast<uint32_t>(x), lower = (1u << Free) - 1;
  const float near = table[bits >> Free], far = table[(bits >> Free) + 1];
  const float g = near + static_cast<float>(bits & lower) / (1u << Free) * (far - near);
  return x != 0 && x == x ? g : x + table[at_zero(Free)];
}

// Calls f with the table's Free, as a type; false for a table of another size.
template <typename F>
bool with_chords(int64_t size, const F& f) {
  if (size == at_zero(16) + 1) return f(std::integral_constant<int, 16>()), true;
  if (size == at_zero(14) + 1) return f(std::integral_constant<int, 14>()), true;
  return false;
}

// The codes of g at x (pdsearch/kernels/table.py).
INLINE void codes_of(const Header h, const float* x, const float* g, uint8_t* out, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    float code = std::floor(g[i] * h.levels + h.first);
    code = code < 0 ? 0 : code > h.top ? h.top : code;
    code = g[i] == 0 ? h.top + 1 : code;
    code = g[i] == 1 ? h.top + 2 : code;
    code = g[i] == g[i] ? code : h.top + 3;
    out[i] = static_cast<uint8_t>(static_cast<int32_t>(code + (x[i] > 0 ? h.above : 0)));
  }
}

// out[i] = the rule's product, without vectors; x(i) may be any number with the sign of x.
template <typename T, typename G, typename X>
void each(const T* g_out, T* out, int64_t n, const Rule& rule, const G& g, const X& x) {
  with_rule(rule, [&](auto plain) {
    for (int64_t i = 0; i < n; ++i) {
      const float given = static_cast<float>(g_out[i]);
      out[i] = static_cast<T>(plain() ? given * g(i) : rule(given, g(i), x(i)));
    }
  });
}

// The last count < Step elements, copied to where Step may be read and written. The loop over the others
// stands with each instruction set: what a shared one calls could not be inlined into it.
template <int64_t Step, typename T, typename Kept>
struct Last {
  T given[Step], made[Step];
  Kept kept[Step];
  int64_t count;

  INLINE Last(const T* g_out, const Kept* kept_, int64_t count_) : count(count_) {
    std::memset(static_cast<void*>(given), 0, sizeof given);
    std::memset(static_cast<void*>(kept), 0, sizeof kept);
    std::memcpy(static_cast<void*>(given), g_out, count * sizeof(T));
    std::memcpy(static_cast<void*>(kept), kept_, count * sizeof(Kept));
  }
  INLINE void write(T* out) const { std::memcpy(static_cast<void*>(out), made, count * sizeof(T)); }
};

template <typename T>
T from_bits(uint16_t bits) {
  return T(bits, T::from_bits());
}

}  // namespace
