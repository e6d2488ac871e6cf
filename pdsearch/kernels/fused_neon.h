// The same with NEON, which every 64-bit Arm processor has: 8 elements at a time, as two vectors of 4 floats.

#pragma once

#include <arm_neon.h>

#include "fused.h"

namespace {
namespace neon {

constexpr int64_t kStep = 8;

INLINE float32x4_t as_float(uint32x4_t bits) { return vreinterpretq_f32_u32(bits); }
INLINE uint32x4_t as_bits(float32x4_t value) { return vreinterpretq_u32_f32(value); }
INLINE uint32x4_t is_number(float32x4_t x) { return vceqq_f32(x, x); }

struct Two {
  float32x4_t first, second;
};

INLINE Two split(uint16x8_t bits, c10::BFloat16) {
  const uint16x8_t zero = vdupq_n_u16(0);
  return {vreinterpretq_f32_u16(vzip1q_u16(zero, bits)), vreinterpretq_f32_u16(vzip2q_u16(zero, bits))};
}
INLINE Two split(uint16x8_t bits, c10::Half) {
  const float16x8_t halves = vreinterpretq_f16_u16(bits);
  return {vcvt_f32_f16(vget_low_f16(halves)), vcvt_high_f32_f16(halves)};
}

// To nearest, ties to even. A NaN here has no payload below the upper half, because it came from 16 bits
// or from the processor; so adding to its bits leaves it a NaN.
INLINE uint16x8_t rounded_up_to_even(float32x4_t value) {
  const uint32x4_t bits = as_bits(value), odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
  return vreinterpretq_u16_u32(vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7fff))));
}
INLINE uint16x8_t join(const Two& value, c10::BFloat16) {
  return vuzp2q_u16(rounded_up_to_even(value.first), rounded_up_to_even(value.second));
}
INLINE uint16x8_t join(const Two& value, c10::Half) {
  return vreinterpretq_u16_f16(vcvt_high_f16_f32(vcvt_f16_f32(value.first), value.second));
}

template <typename T>
INLINE uint16x8_t read_bits(const T* from) {
  return vld1q_u16(reinterpret_cast<const uint16_t*>(from));
}
template <typename T>
INLINE Two read(const T* from) {
  if constexpr (std::is_same_v<T, float>) return {vld1q_f32(from), vld1q_f32(from + 4)};
  else return split(read_bits(from), T());
}
template <typename T>
INLINE void write(T* to, const Two& value) {
  if constexpr (std::is_same_v<T, float>) {
    vst1q_f32(to, value.first);
    vst1q_f32(to + 4, value.second);
  } else {
    vst1q_u16(reinterpret_cast<uint16_t*>(to), join(value, T()));
  }
}

// step(g_out, kept, out) for 8 elements at a time.
template <typename T, typename Kept, typename F>
INLINE void steps(const T* g_out, const Kept* kept, T* out, int64_t n, const F& step) {
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
  float32x4_t weight, rest;
  uint32x4_t up;

  INLINE explicit Product(const Rule& rule)
      : weight(vdupq_n_f32(rule.weight)), rest(vdupq_n_f32(rule.rest)), up(vdupq_n_u32(rule.up ? ~0u : 0)) {}

  // `above`: where x > 0; `below`: where x <= 0; NaN is in neither.
  INLINE float32x4_t of(float32x4_t g_out, float32x4_t g, uint32x4_t above, uint32x4_t below) const {
    if constexpr (Plain) return vmulq_f32(g_out, g);
    g = vfmaq_f32(as_float(vandq_u32(above, as_bits(rest))), g, weight);
    const uint32x4_t dropped = vandq_u32(vandq_u32(below, up), vcgezq_f32(g_out));
    return as_float(vbicq_u32(as_bits(vmulq_f32(g_out, g)), dropped));
  }
  INLINE float32x4_t operator()(float32x4_t g_out, float32x4_t g, float32x4_t x) const {
    return of(g_out, g, vcgtzq_f32(x), vclezq_f32(x));
  }
  INLINE Two operator()(const Two& g_out, const Two& g, const Two& x) const {
    return {(*this)(g_out.first, g.first, x.first), (*this)(g_out.second, g.second, x.second)};
  }
};

// ------------------------------------------------------------------------------------- float32

typedef uint16_t __attribute__((may_alias)) Half16;  // half of a float32 number
typedef uint32_t __attribute__((may_alias)) Bits32;

// `Chords` in fused.h. Each index is read from the tensor itself, as with AVX2.
template <int Free>
INLINE float32x4_t on_chords(const float* table, float32x4_t at_zero, const float* from) {
  const float32x4_t x = vld1q_f32(from);
  const auto chord = [&](int i) {
    if constexpr (Free == 16) return vld1_f32(table + reinterpret_cast<const Half16*>(from)[2 * i + 1]);
    else return vld1_f32(table + (reinterpret_cast<const Bits32*>(from)[i] >> Free));
  };
  const float32x4_t p = vcombine_f32(chord(0), chord(1)), q = vcombine_f32(chord(2), chord(3));
  const float32x4_t near = vuzp1q_f32(p, q), far = vuzp2q_f32(p, q);
  const uint32x4_t lower = vandq_u32(as_bits(x), vdupq_n_u32((1u << Free) - 1));
  const float32x4_t g = vfmaq_f32(near, vcvtq_n_f32_u32(lower, Free), vsubq_f32(far, near));
  const uint32x4_t ordinary = vcagtq_f32(x, vdupq_n_f32(0));  // neither zero nor NaN
  return vbslq_f32(ordinary, g, vaddq_f32(x, at_zero));
}

template <int Free, bool Plain>
void scale_chords(const float* g_out, const float* x, float* out, int64_t n, const float* table, const Rule& rule) {
  const Product<Plain> product(rule);
  const float32x4_t zero = vdupq_n_f32(table[at_zero(Free)]);
  steps(g_out, x, out, n, [&](const float* given, const float* at, float* to) {
    write(to, product(read(given), {on_chords<Free>(table, zero, at), on_chords<Free>(table, zero, at + 4)}, read(at)));
  });
}

// -------------------------------------------------------------------------- 16 bits, two numbers, codes

template <typename T, bool Plain>
void scale_every(const T* g_out, const uint16_t* x, T* out, int64_t n, const uint16_t* table, const Rule& rule) {
  const Product<Plain> product(rule);
  steps(g_out, x, out, n, [&](const T* given, const uint16_t* at, T* to) {
    const uint16x8_t found = {table[at[0]], table[at[1]], table[at[2]], table[at[3]],
                              table[at[4]], table[at[5]], table[at[6]], table[at[7]]};
    const Two g = split(found, T());
    write(to, product(read(given), g, Plain ? g : split(read_bits(at), T())));
  });
}

// One number above zero, another elsewhere; NaN stays NaN.
INLINE float32x4_t side_of(float32x4_t x, float32x4_t below, float32x4_t above) {
  return vbslq_f32(is_number(x), vbslq_f32(vcgtzq_f32(x), above, below), x);
}

template <typename T, bool Plain>
void scale_sides(const T* g_out, const T* x, T* out, int64_t n, float below_, float above_, const Rule& rule) {
  const float32x4_t below = vdupq_n_f32(below_), above = vdupq_n_f32(above_);
  const Product<Plain> product(rule);
  steps(g_out, x, out, n, [&](const T* given, const T* from, T* to) {
    const Two at = read(from);
    write(to, product(read(given), {side_of(at.first, below, above), side_of(at.second, below, above)}, at));
  });
}

template <typename T, bool Plain>
void scale_code(const T* g_out, const uint8_t* code, T* out, int64_t n, const float* values, const Rule& rule) {
  const Product<Plain> product(rule);
  steps(g_out, code, out, n, [&](const T* given, const uint8_t* at, T* to) {
    const auto value = [&](int i) { return values[at[i]]; };
    const Two g{{value(0), value(1), value(2), value(3)}, {value(4), value(5), value(6), value(7)}};
    const Two upstream = read(given);
    if constexpr (Plain) return write(to, product(upstream, g, g));
    // All bits set where a code's highest bit is: x > 0, for codes that tell the sign.
    const int16x8_t signs = vmovl_s8(vreinterpret_s8_u8(vld1_u8(at)));
    const auto part = [&](float32x4_t g_out, float32x4_t g, int16x4_t sign) {
      const uint32x4_t above = vreinterpretq_u32_s32(vshrq_n_s32(vmovl_s16(sign), 31));
      return product.of(g_out, g, above, vbicq_u32(is_number(g), above));
    };
    write(to, {part(upstream.first, g.first, vget_low_s16(signs)), part(upstream.second, g.second, vget_high_s16(signs))});
  });
}

}  // namespace neon
}  // namespace
