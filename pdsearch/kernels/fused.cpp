// The fused backward kernels: grad_input = grad_output * g(input), with g as data.
//
// No formula is in here. A shape arrives as a table that pdsearch/kernels makes from its symbolic
// definition, so this file is compiled once, whatever is searched:
//
//   float32             polynomials of degree 1 to 5 on up to 32 stretches of the line, in one of three
//                       layouts (`Header` in fused.h); with AVX-512 all of it stays in registers. Without,
//                       straight lines between 65 536 or 262 144 values (`Chords` in fused.h), where
//                       these are close enough.
//   bfloat16, float16   the value of g at each of the 65 536 inputs; for bfloat16 with AVX-512 also
//                       polynomials as for float32, checked to round to those values except in a band
//                       of sizes of x, in which the values are looked up.
//   two numbers         where g is one number above zero and another elsewhere.
//   uint8               one code per element, made in the forward pass, and 256 values.
//
// Two things are arguments of each call, so that a shape that fades needs no new table: the weight w of
// g against the step, w*g + (1 - w)*1[x > 0], and whether gradients that would push a unit down pass
// where x <= 0 (`Rule` in fused.h).
//
// TensorIterator handles strides, broadcasting, threads and the output's memory format, as in torch's
// own threshold_backward. The processor's abilities are detected at run time.

#include <ATen/TensorIterator.h>
#include <torch/library.h>

#include <utility>

#include "fused.h"
#if defined(__x86_64__)
#include <cpuid.h>

#include "fused_avx2.h"
#include "fused_avx512.h"
#elif defined(__aarch64__)
#include "fused_neon.h"
#endif

namespace {

// What the processor can do; each includes those before it. ON_X86 and ON_VECTORS: what it does from a level on.
enum class Level { portable, vectors, avx512, vbmi };
#if defined(__x86_64__)
namespace vectors = avx2;
constexpr const char* kNames[] = {"portable", "avx2", "avx512", "avx512"};
#define ON_X86(least, ...) \
  if (level() >= Level::least) return __VA_ARGS__
#define ON_VECTORS(...) ON_X86(vectors, __VA_ARGS__)
#elif defined(__aarch64__)
namespace vectors = neon;
constexpr const char* kNames[] = {"portable", "neon"};
#define ON_X86(least, ...)
#define ON_VECTORS(...) \
  if (level() >= Level::vectors) return __VA_ARGS__
#else
constexpr const char* kNames[] = {"portable"};
#define ON_X86(least, ...)
#define ON_VECTORS(...)
#endif

Level detected() {
#if defined(__x86_64__)
#define CAN(what) __builtin_cpu_supports(what)
  unsigned int a, b, features = 0, d;  // not every compiler's CAN knows F16C
  const bool half = __get_cpuid(1, &a, &b, &features, &d) && (features & bit_F16C) != 0;
  if (!(CAN("avx2") && CAN("fma") && half)) return Level::portable;
  if (!(CAN("avx512f") && CAN("avx512bw") && CAN("avx512vl") && CAN("avx512dq"))) return Level::vectors;
  return CAN("avx512vbmi") ? Level::vbmi : Level::avx512;
#undef CAN
#elif defined(__aarch64__)
  return Level::vectors;
#else
  return Level::portable;
#endif
}

Level most = Level::vbmi;  // set by pdsearch::limit, to test and measure every level

Level level() {
  static const Level found = detected();
  return std::min(found, most);
}

// ------------------------------------------------------------------------ by what the processor can do

void scale_float(const float* g_out, const float* x, float* out, int64_t n, const float* table, const Rule& rule) {
  ON_X86(avx512, with_shape(table, [&](auto type) {
       with_rule(rule, [&](auto plain) {
         scale_avx512<typename decltype(type)::type, plain()>(g_out, x, out, n, table, rule);
       });
     }));
  ON_X86(vectors, with_rule(rule, [&](auto plain) {
       const bool done = avx2::with_tree(table, [&](auto type) {
         avx2::scale_shape<typename decltype(type)::type, plain()>(g_out, x, out, n, table, rule);
       });
       if (!done) avx2::scale_rows<plain()>(g_out, x, out, n, table, rule);
     }));
  float g[kBlock];
  for (int64_t at = 0; at < n; at += kBlock) {
    const int64_t m = std::min(kBlock, n - at);
    evaluate_block(table, x + at, g, m);
    each(g_out + at, out + at, m, rule, [&](int64_t i) { return g[i]; }, [&](int64_t i) { return x[at + i]; });
  }
}

template <int Free>
void scale_chords(const float* g_out, const float* x, float* out, int64_t n, const float* table, const Rule& rule) {
  ON_VECTORS(with_rule(rule, [&](auto plain) {
    vectors::scale_chords<Free, plain()>(g_out, x, out, n, table, rule);
  }));
  const auto at = [&](int64_t i) { return x[i]; };
  each(g_out, out, n, rule, [&](int64_t i) { return on_chords<Free>(table, x[i]); }, at);
}

template <typename T>
void scale_every(const T* g_out, const uint16_t* x, T* out, int64_t n, const T* every, const Rule& rule) {
  [[maybe_unused]] const uint16_t* bits = reinterpret_cast<const uint16_t*>(every);
  ON_VECTORS(with_rule(rule, [&](auto plain) {
    vectors::scale_every<T, plain()>(g_out, x, out, n, bits, rule);
  }));
  each(g_out, out, n, rule, [&](int64_t i) { return static_cast<float>(every[x[i]]); },
       [&](int64_t i) { return static_cast<float>(from_bits<T>(x[i])); });
}

void scale_rounded(const c10::BFloat16* g_out, const uint16_t* x, c10::BFloat16* out, int64_t n, const float* table,
                   const c10::BFloat16* every, const Rule& rule) {
  ON_X86(avx512, with_shape(table, [&](auto type) {
       with_rule(rule, [&](auto plain) {
         rounded_avx512<typename decltype(type)::type, plain()>(g_out, x, out, n, table, every, rule);
       });
     }));
  scale_every(g_out, x, out, n, every, rule);
}

template <typename T>
void scale_sides(const T* g_out, const T* x, T* out, int64_t n, float below, float above, const Rule& rule) {
  ON_X86(avx512, with_rule(rule, [&](auto plain) { sides_avx512<T, plain()>(g_out, x, out, n, below, above, rule); }));
  ON_VECTORS(with_rule(rule, [&](auto plain) {
    vectors::scale_sides<T, plain()>(g_out, x, out, n, below, above, rule);
  }));
  const auto at = [&](int64_t i) { return static_cast<float>(x[i]); };
  each(g_out, out, n, rule, [&](int64_t i) { return std::isnan(at(i)) ? at(i) : at(i) > 0 ? above : below; }, at);
}

template <typename T>
void scale_code(const T* g_out, const uint8_t* code, T* out, int64_t n, const float* values, const Rule& rule) {
  ON_X86(vbmi, with_rule(rule, [&](auto plain) { coded_vbmi<T, plain()>(g_out, code, out, n, values, rule); }));
  ON_VECTORS(with_rule(rule, [&](auto plain) {
    vectors::scale_code<T, plain()>(g_out, code, out, n, values, rule);
  }));
  const auto g = [&](int64_t i) { return values[code[i]]; };
  each(g_out, out, n, rule, g, [&](int64_t i) { return std::isnan(g(i)) ? g(i) : code[i] < 128 ? -1.0f : 1.0f; });
}

template <typename T>
void encode_all(const T* x, uint8_t* out, int64_t n, const float* table) {
  ON_X86(avx512, with_shape(table, [&](auto type) { encode_avx512<typename decltype(type)::type, T>(x, out, n, table); }));
  ON_X86(vectors, avx2::encode(x, out, n, table));
  float wide[kBlock], g[kBlock];
  for (int64_t at = 0; at < n; at += kBlock) {
    const int64_t m = std::min(kBlock, n - at);
    for (int64_t i = 0; i < m; ++i) wide[i] = static_cast<float>(x[at + i]);
    evaluate_block(table, wide, g, m);
    codes_of(Header(table), wide, g, out + at, m);
  }
}

// ------------------------------------------------------------------------------- the tensors

template <typename T>
const T* contiguous(const char* from, int64_t stride, int64_t n, T* buffer) {
  if (stride == static_cast<int64_t>(sizeof(T))) return reinterpret_cast<const T*>(from);
  for (int64_t i = 0; i < n; ++i) std::memcpy(buffer + i, from + i * stride, sizeof(T));
  return buffer;
}

// A new tensor of Out: kernel(first, second, out, n) over any strides, in torch's own threads. Second may
// be another type of the same size.
template <typename Out, typename First, typename Second, typename F>
at::Tensor over(const at::Tensor& first_, const at::Tensor& second_, const F& kernel) {
  auto iterator = at::TensorIteratorConfig()
                      .check_all_same_dtype(false)
                      .declare_static_dtype(c10::CppTypeToScalarType<Out>::value)
                      .add_owned_output(at::Tensor())
                      .add_const_input(first_)
                      .add_const_input(second_)
                      .build();
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
  return iterator.output();
}

template <typename F>
at::Tensor by_dtype(at::ScalarType dtype, const F& run) {
  switch (dtype) {
    case at::kFloat: return run(float());
    case at::kBFloat16: return run(at::BFloat16());
    case at::kHalf: return run(at::Half());
    default: TORCH_CHECK(false, "pdsearch: no kernel for ", dtype);
  }
}

const float* check_table(const at::Tensor& table) {
  TORCH_CHECK(table.scalar_type() == at::kFloat && table.is_contiguous() && table.numel() > 16, "pdsearch: not a table");
  const float* values = table.const_data_ptr<float>();
  const Header h(values);
  const int64_t needed = h.kind == 2 ? 16 + (h.degree + 3) * h.size : 16 + (h.degree + 1) * 32;
  TORCH_CHECK(table.numel() == needed, "pdsearch: a table of a wrong size");
  return values;
}

template <typename T>
const T* check_every(const at::Tensor& every) {
  TORCH_CHECK(every.scalar_type() == c10::CppTypeToScalarType<T>::value && every.is_contiguous() &&
                  every.numel() == 65536, "pdsearch: not a table of every value");
  return every.const_data_ptr<T>();
}

at::Tensor scale(const at::Tensor& grad_output, const at::Tensor& input, const at::Tensor& table, double weight, bool up) {
  const Rule rule(weight, up);
  const auto dtype = input.scalar_type();
  TORCH_CHECK(grad_output.scalar_type() == dtype && table.scalar_type() == dtype,
              "pdsearch::scale: grad_output, input and table need one dtype");
  return by_dtype(dtype, [&](auto kind) {
    using T = decltype(kind);
    if constexpr (std::is_same_v<T, float>) {
      const float* values = check_table(table);
      return over<T, T, T>(grad_output, input, [&](const T* g, const T* x, T* out, int64_t n) {
        scale_float(g, x, out, n, values, rule);
      });
    } else {
      const T* every = check_every<T>(table);
      return over<T, T, uint16_t>(grad_output, input, [&](const T* g, const uint16_t* x, T* out, int64_t n) {
        scale_every(g, x, out, n, every, rule);
      });
    }
  });
}

at::Tensor scale_chords_op(const at::Tensor& grad_output, const at::Tensor& input, const at::Tensor& chords,
                           double weight, bool up) {
  const Rule rule(weight, up);
  for (const at::Tensor& tensor : {grad_output, input, chords}) {
    TORCH_CHECK(tensor.scalar_type() == at::kFloat, "pdsearch::scale_chords: not float32");
  }
  const float* table = chords.const_data_ptr<float>();
  at::Tensor result;
  const bool known = chords.is_contiguous() && with_chords(chords.numel(), [&](auto free) {
    result = over<float, float, float>(grad_output, input, [&](const float* g, const float* x, float* out, int64_t n) {
      scale_chords<free()>(g, x, out, n, table, rule);
    });
  });
  TORCH_CHECK(known, "pdsearch: not a table of chords");
  return result;
}

at::Tensor scale_rounded_op(const at::Tensor& grad_output, const at::Tensor& input, const at::Tensor& table,
                            const at::Tensor& every, double weight, bool up) {
  using T = at::BFloat16;
  const Rule rule(weight, up);
  TORCH_CHECK(grad_output.scalar_type() == at::kBFloat16 && input.scalar_type() == at::kBFloat16,
              "pdsearch::scale_rounded: not bfloat16");
  const float* values = check_table(table);
  const T* all = check_every<T>(every);
  return over<T, T, uint16_t>(grad_output, input, [&](const T* g, const uint16_t* x, T* out, int64_t n) {
    scale_rounded(g, x, out, n, values, all, rule);
  });
}

at::Tensor scale_sides_op(const at::Tensor& grad_output, const at::Tensor& input, double below, double above, bool up) {
  const Rule rule(1, up);
  TORCH_CHECK(grad_output.scalar_type() == input.scalar_type(), "pdsearch::scale_sides: dtypes differ");
  return by_dtype(input.scalar_type(), [&](auto kind) {
    using T = decltype(kind);
    // g in this dtype, before the multiplication.
    const float low = static_cast<float>(static_cast<T>(below)), high = static_cast<float>(static_cast<T>(above));
    return over<T, T, T>(grad_output, input, [&](const T* g, const T* x, T* out, int64_t n) {
      scale_sides(g, x, out, n, low, high, rule);
    });
  });
}

at::Tensor scale_coded(const at::Tensor& grad_output, const at::Tensor& code, const at::Tensor& values, double weight,
                       bool up) {
  const Rule rule(weight, up);
  TORCH_CHECK(code.scalar_type() == at::kByte && values.scalar_type() == at::kFloat && values.numel() == 256 &&
                  values.is_contiguous(), "pdsearch::scale_coded: dtype or size");
  const float* table = values.const_data_ptr<float>();
  return by_dtype(grad_output.scalar_type(), [&](auto kind) {
    using T = decltype(kind);
    return over<T, T, uint8_t>(grad_output, code, [&](const T* g, const uint8_t* c, T* out, int64_t n) {
      scale_code(g, c, out, n, table, rule);
    });
  });
}

at::Tensor encode(const at::Tensor& input, const at::Tensor& table) {
  const float* values = check_table(table);
  return by_dtype(input.scalar_type(), [&](auto kind) {
    using T = decltype(kind);
    return over<uint8_t, T, T>(input, input, [&](const T* x, const T*, uint8_t* out, int64_t n) {
      encode_all(x, out, n, values);
    });
  });
}

// Whether looking bfloat16 values up replaces the polynomials of AVX-512: on an AMD EPYC it took 0.6 to 1.0
// times as long (512 Ki and 4 Mi elements). On Intel's Xeons, where polynomials took 0.94 to 0.99 times as long
// as ReLU, this loop has not been measured.
bool looks_up() {
#ifdef __x86_64__
  static const bool amd = __builtin_cpu_is("amd") != 0;
  return level() < Level::avx512 || amd;
#else
  return true;
#endif
}

std::string level_name() { return kNames[static_cast<int>(level())]; }

// Use at most a level from now on. Returns the level in use, which may be lower: the processor's own. The
// names are known on every processor.
std::string limit(const std::string& name) {
  const std::pair<const char*, Level> limits[] = {
      {"portable", Level::portable}, {"neon", Level::vectors}, {"avx2", Level::vectors}, {"avx512", Level::vbmi}};
  for (const auto& [known, level] : limits) {
    if (name != known) continue;
    most = level;
    return level_name();
  }
  TORCH_CHECK(false, "pdsearch::limit: the level must be portable, neon, avx2 or avx512, got ", name);
}

}  // namespace

// A process may load this source twice: pdsearch's own library and an exported folder's, which has another
// name. The macros of torch paste their argument as it is, so that a macro for the name needs one more step.
#ifndef PDSEARCH_OPERATORS
#define PDSEARCH_OPERATORS pdsearch
#endif
#define OPERATORS(name, library) TORCH_LIBRARY(name, library)
#define OPERATORS_IMPL(name, key, library) TORCH_LIBRARY_IMPL(name, key, library)

OPERATORS(PDSEARCH_OPERATORS, library) {
#define RULE "float weight=1.0, bool up=False) -> Tensor"
  library.def("scale(Tensor grad_output, Tensor input, Tensor table, " RULE);
  library.def("scale_chords(Tensor grad_output, Tensor input, Tensor chords, " RULE);
  library.def("scale_rounded(Tensor grad_output, Tensor input, Tensor table, Tensor every, " RULE);
  library.def("scale_sides(Tensor grad_output, Tensor input, float below, float above, bool up=False) -> Tensor");
  library.def("scale_coded(Tensor grad_output, Tensor code, Tensor values, " RULE);
#undef RULE
  library.def("encode(Tensor input, Tensor table) -> Tensor");
  library.def("limit(str level) -> str", &limit);
  library.def("level() -> str", &level_name);
  library.def("looks_up() -> bool", &looks_up);
}

OPERATORS_IMPL(PDSEARCH_OPERATORS, CPU, library) {
  library.impl("scale", &scale);
  library.impl("scale_chords", &scale_chords_op);
  library.impl("scale_rounded", &scale_rounded_op);
  library.impl("scale_sides", &scale_sides_op);
  library.impl("scale_coded", &scale_coded);
  library.impl("encode", &encode);
}
