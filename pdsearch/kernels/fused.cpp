// The fused backward kernels: grad_input = grad_output * g(input), with g as data.
//
// No formula is in here. A shape arrives as a table that pdsearch/kernels/table.py made from its
// symbolic definition, so that this file is compiled once, whatever is searched:
//
//   float32             up to 32 segments with a polynomial of degree 5 each. The ends of segments are
//                       compared exactly; with AVX-512 both they and the coefficients stay in registers.
//   bfloat16, float16   the value of g at each of the 65 536 inputs.
//   uint8               a code an element, made in the forward pass, and 256 values.
//
// Strides, broadcasting, threads and the output's memory format are TensorIterator's, as in torch's
// own threshold_backward. AVX-512 is chosen when the processor has it; nothing else depends on it.

#include <ATen/TensorIterator.h>
#include <ATen/ops/empty.h>
#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#if defined(__x86_64__)
#include <immintrin.h>
#define PDSEARCH_X86 1
#define AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,f16c")))
#endif

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

constexpr int64_t kBlock = 512;  // elements gathered at a time when a stride is not the element size

// ------------------------------------------------------------------------------ float32, segments

constexpr int kDegree = 5;
// [segments] inner ends (the last one +inf), [segments] centres, then the coefficients, c0 first.
constexpr int64_t table_size(int64_t segments) { return segments * (kDegree + 3); }

template <int S>
void segments_portable(const float* g_out, const float* x, float* out, int64_t n, const float* table) {
  const float* ends = table;
  const float* centre = table + S;
  const float* c = table + 2 * S;
  constexpr float top = std::numeric_limits<float>::max();
  for (int64_t i = 0; i < n; ++i) {
    const float z = x[i] > top ? top : (x[i] < -top ? -top : x[i]);  // keeps NaN
    int s = 0;
    for (int step = S / 2; step > 0; step /= 2) s += z > ends[s + step - 1] ? step : 0;
    const float u = z - centre[s];
    float p = c[kDegree * S + s];
    for (int k = kDegree - 1; k >= 0; --k) p = p * u + c[k * S + s];
    out[i] = g_out[i] * p;
  }
}

#ifdef PDSEARCH_X86
// One table of S floats, S being 16 or 32, looked up by 16 indices.
template <int S>
struct Registers {
  __m512 low, high;
};

template <int S>
AVX512 inline Registers<S> load_registers(const float* values) {
  return {_mm512_loadu_ps(values), S == 32 ? _mm512_loadu_ps(values + 16) : _mm512_setzero_ps()};
}

template <int S>
AVX512 inline __m512 look_up(const Registers<S>& table, __m512i index) {
  if constexpr (S == 32) return _mm512_permutex2var_ps(table.low, index, table.high);
  return _mm512_permutexvar_ps(index, table.low);
}

template <int S>
AVX512 void segments_avx512(const float* g_out, const float* x, float* out, int64_t n, const float* table) {
  constexpr int levels = S == 32 ? 5 : 4;
  // The ends as a search tree: level k holds 2^k of them.
  __m512 tree[levels];
  for (int k = 0; k < levels; ++k) {
    alignas(64) float level[16];
    const int step = S >> (k + 1);
    for (int j = 0; j < 16; ++j) level[j] = table[(2 * (j & ((1 << k) - 1)) + 1) * step - 1];
    tree[k] = _mm512_load_ps(level);
  }
  const Registers<S> centre = load_registers<S>(table + S);
  Registers<S> c[kDegree + 1];
  for (int k = 0; k <= kDegree; ++k) c[k] = load_registers<S>(table + (2 + k) * S);
  const __m512 top = _mm512_set1_ps(std::numeric_limits<float>::max());
  const __m512 bottom = _mm512_set1_ps(-std::numeric_limits<float>::max());
  const __m512i one = _mm512_set1_epi32(1);
  for (int64_t i = 0; i < n; i += 16) {
    const __mmask16 some = n - i >= 16 ? 0xffff : static_cast<__mmask16>((1u << (n - i)) - 1);
    // min and max return their second operand for NaN, which so stays NaN.
    const __m512 z = _mm512_max_ps(bottom, _mm512_min_ps(top, _mm512_maskz_loadu_ps(some, x + i)));
    __m512i index = _mm512_maskz_mov_epi32(_mm512_cmp_ps_mask(z, tree[0], _CMP_GT_OQ), one);
    for (int k = 1; k < levels; ++k) {
      const __mmask16 above = _mm512_cmp_ps_mask(z, _mm512_permutexvar_ps(index, tree[k]), _CMP_GT_OQ);
      index = _mm512_add_epi32(index, index);
      index = _mm512_mask_add_epi32(index, above, index, one);
    }
    const __m512 u = _mm512_sub_ps(z, look_up<S>(centre, index));
    __m512 p = look_up<S>(c[kDegree], index);
    for (int k = kDegree - 1; k >= 0; --k) p = _mm512_fmadd_ps(p, u, look_up<S>(c[k], index));
    _mm512_mask_storeu_ps(out + i, some, _mm512_mul_ps(_mm512_maskz_loadu_ps(some, g_out + i), p));
  }
}
#endif

void segments(const float* g_out, const float* x, float* out, int64_t n, const float* table, int64_t count) {
#ifdef PDSEARCH_X86
  if (has_avx512()) {
    return count == 16 ? segments_avx512<16>(g_out, x, out, n, table)
                       : segments_avx512<32>(g_out, x, out, n, table);
  }
#endif
  return count == 16 ? segments_portable<16>(g_out, x, out, n, table)
                     : segments_portable<32>(g_out, x, out, n, table);
}

// ------------------------------------------------------------- bfloat16 and float16, every value

template <typename T>
void every_portable(const T* g_out, const uint16_t* x, T* out, int64_t n, const T* table) {
  for (int64_t i = 0; i < n; ++i) {
    out[i] = static_cast<T>(static_cast<float>(g_out[i]) * static_cast<float>(table[x[i]]));
  }
}

#ifdef PDSEARCH_X86
AVX512 inline __m512 widen(__m256i bits, c10::BFloat16) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}
AVX512 inline __m512 widen(__m256i bits, c10::Half) { return _mm512_cvtph_ps(bits); }

AVX512 inline __m256i narrow(__m512 value, c10::BFloat16) {
  // To nearest, ties to even; NaN stays NaN (its upper half alone could read as infinity).
  const __m512i bits = _mm512_castps_si512(value);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  rounded = _mm512_mask_mov_epi32(
      rounded, _mm512_cmp_ps_mask(value, value, _CMP_UNORD_Q), _mm512_set1_epi32(0x7fc00000));
  return _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16));
}
AVX512 inline __m256i narrow(__m512 value, c10::Half) {
  return _mm512_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

template <typename T>
AVX512 void every_avx512(const T* g_out, const uint16_t* x, T* out, int64_t n, const T* table) {
  // A gather reads 32 bits from each 16-bit place: the table has one entry to spare.
  for (int64_t i = 0; i < n; i += 16) {
    const __mmask16 some = n - i >= 16 ? 0xffff : static_cast<__mmask16>((1u << (n - i)) - 1);
    const __m512i index = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(some, x + i));
    const __m256i g = _mm512_cvtepi32_epi16(_mm512_i32gather_epi32(index, table, 2));
    const __m512 product =
        _mm512_mul_ps(widen(_mm256_maskz_loadu_epi16(some, g_out + i), T()), widen(g, T()));
    _mm256_mask_storeu_epi16(out + i, some, narrow(product, T()));
  }
}
#endif

template <typename T>
void every(const T* g_out, const uint16_t* x, T* out, int64_t n, const T* table) {
#ifdef PDSEARCH_X86
  if (has_avx512()) return every_avx512<T>(g_out, x, out, n, table);
#endif
  return every_portable<T>(g_out, x, out, n, table);
}

// ------------------------------------------------------------------------------ one byte each

template <typename T>
void coded_portable(const T* g_out, const uint8_t* code, T* out, int64_t n, const float* values) {
  for (int64_t i = 0; i < n; ++i) out[i] = static_cast<T>(static_cast<float>(g_out[i]) * values[code[i]]);
}

#ifdef PDSEARCH_X86
template <typename T>
AVX512 void coded_avx512(const T* g_out, const uint8_t* code, T* out, int64_t n, const float* values) {
  for (int64_t i = 0; i < n; i += 16) {
    const __mmask16 some = n - i >= 16 ? 0xffff : static_cast<__mmask16>((1u << (n - i)) - 1);
    const __m512i index = _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(some, code + i));
    const __m512 g = _mm512_i32gather_ps(index, values, 4);
    if constexpr (std::is_same_v<T, float>) {
      _mm512_mask_storeu_ps(out + i, some, _mm512_mul_ps(_mm512_maskz_loadu_ps(some, g_out + i), g));
    } else {
      const __m512 wide = widen(_mm256_maskz_loadu_epi16(some, g_out + i), T());
      _mm256_mask_storeu_epi16(out + i, some, narrow(_mm512_mul_ps(wide, g), T()));
    }
  }
}
#endif

template <typename T>
void coded(const T* g_out, const uint8_t* code, T* out, int64_t n, const float* values) {
#ifdef PDSEARCH_X86
  if (has_avx512()) return coded_avx512<T>(g_out, code, out, n, values);
#endif
  return coded_portable<T>(g_out, code, out, n, values);
}

constexpr uint8_t kLookCloser = 255;  // a cell in which g jumps: its parts are told apart by comparing

struct Closer {
  const float* ends;
  const uint8_t* codes;  // of the part of the line up to each end, inclusive
  int64_t count;
  uint8_t find(float x) const { return codes[std::lower_bound(ends, ends + count, x) - ends]; }
};

// The upper 16 bits of a float32 name its cell.
void encode_float(const float* x, uint8_t* out, int64_t n, const uint8_t* cells, const Closer& closer) {
  for (int64_t i = 0; i < n; ++i) {
    uint32_t bits;
    std::memcpy(&bits, x + i, 4);
    const uint8_t code = cells[bits >> 16];
    out[i] = code == kLookCloser && !std::isnan(x[i]) ? closer.find(x[i]) : code;
  }
}

// --------------------------------------------------------------- one side of zero or the other

template <typename T>
void sides(const T* g_out, const T* x, T* out, int64_t n, float below, float above) {
  for (int64_t i = 0; i < n; ++i) {
    const float z = static_cast<float>(x[i]);
    const float g = z > 0 ? above : (z <= 0 ? below : z);
    out[i] = static_cast<T>(static_cast<float>(g_out[i]) * g);
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

at::TensorIterator pair(const at::Tensor& grad_output, const at::Tensor& other) {
  return at::TensorIteratorConfig()
      .check_all_same_dtype(false)
      .declare_static_dtype(grad_output.scalar_type())
      .add_owned_output(at::Tensor())
      .add_const_input(grad_output)
      .add_const_input(other)
      .build();
}

at::Tensor scale(const at::Tensor& grad_output, const at::Tensor& input, const at::Tensor& table) {
  const auto dtype = input.scalar_type();
  TORCH_CHECK(grad_output.scalar_type() == dtype && table.scalar_type() == dtype && table.is_contiguous(),
              "pdsearch::scale: grad_output, input and table need one dtype");
  auto iterator = pair(grad_output, input);
  if (dtype == at::kFloat) {
    const int64_t count = table.numel() / (kDegree + 3);
    TORCH_CHECK((count == 16 || count == 32) && table.numel() == table_size(count), "pdsearch::scale: table size");
    const float* values = table.const_data_ptr<float>();
    over<float, float, float>(iterator, [&](const float* g, const float* x, float* out, int64_t n) {
      segments(g, x, out, n, values, count);
    });
  } else {
    TORCH_CHECK(table.numel() == 65536 + 2, "pdsearch::scale: table size");
    if (dtype == at::kBFloat16) {
      const auto* values = table.const_data_ptr<at::BFloat16>();
      over<at::BFloat16, at::BFloat16, uint16_t>(
          iterator, [&](const at::BFloat16* g, const uint16_t* x, at::BFloat16* out, int64_t n) {
            every(g, x, out, n, values);
          });
    } else {
      TORCH_CHECK(dtype == at::kHalf, "pdsearch::scale: no kernel for ", dtype);
      const auto* values = table.const_data_ptr<at::Half>();
      over<at::Half, at::Half, uint16_t>(
          iterator,
          [&](const at::Half* g, const uint16_t* x, at::Half* out, int64_t n) { every(g, x, out, n, values); });
    }
  }
  return iterator.output();
}

at::Tensor scale_coded(const at::Tensor& grad_output, const at::Tensor& code, const at::Tensor& values) {
  TORCH_CHECK(code.scalar_type() == at::kByte && values.scalar_type() == at::kFloat && values.numel() == 256 &&
                  values.is_contiguous(), "pdsearch::scale_coded: dtype or size");
  const float* table = values.const_data_ptr<float>();
  auto iterator = pair(grad_output, code);
  const auto run = [&](auto kind) {
    using T = decltype(kind);
    over<T, T, uint8_t>(iterator, [&](const T* g, const uint8_t* c, T* out, int64_t n) { coded(g, c, out, n, table); });
  };
  switch (grad_output.scalar_type()) {
    case at::kFloat: run(float()); break;
    case at::kBFloat16: run(at::BFloat16()); break;
    case at::kHalf: run(at::Half()); break;
    default: TORCH_CHECK(false, "pdsearch::scale_coded: no kernel for ", grad_output.scalar_type());
  }
  return iterator.output();
}

at::Tensor scale_sides(const at::Tensor& grad_output, const at::Tensor& output, double below, double above) {
  auto iterator = pair(grad_output, output);
  const auto run = [&](auto kind) {
    using T = decltype(kind);
    over<T, T, T>(iterator, [&](const T* g, const T* x, T* out, int64_t n) {
      sides(g, x, out, n, static_cast<float>(below), static_cast<float>(above));
    });
  };
  TORCH_CHECK(grad_output.scalar_type() == output.scalar_type(), "pdsearch::scale_sides: one dtype");
  switch (grad_output.scalar_type()) {
    case at::kFloat: run(float()); break;
    case at::kBFloat16: run(at::BFloat16()); break;
    case at::kHalf: run(at::Half()); break;
    default: TORCH_CHECK(false, "pdsearch::scale_sides: no kernel for ", grad_output.scalar_type());
  }
  return iterator.output();
}

at::Tensor encode(const at::Tensor& input, const at::Tensor& cells, const at::Tensor& ends, const at::Tensor& codes) {
  TORCH_CHECK(cells.scalar_type() == at::kByte && cells.numel() == 65536 && codes.numel() == ends.numel() + 1,
              "pdsearch::encode: dtype or size");
  const uint8_t* cell = cells.const_data_ptr<uint8_t>();
  const Closer closer{ends.const_data_ptr<float>(), codes.const_data_ptr<uint8_t>(), ends.numel()};
  auto iterator = at::TensorIteratorConfig()
                      .check_all_same_dtype(false)
                      .declare_static_dtype(at::kByte)
                      .add_owned_output(at::Tensor())
                      .add_const_input(input)
                      .add_const_input(input)
                      .build();
  if (input.scalar_type() == at::kFloat) {
    over<uint8_t, float, float>(iterator, [&](const float* x, const float*, uint8_t* out, int64_t n) {
      encode_float(x, out, n, cell, closer);
    });
  } else {
    TORCH_CHECK(input.element_size() == 2, "pdsearch::encode: no kernel for ", input.scalar_type());
    over<uint8_t, uint16_t, uint16_t>(iterator, [&](const uint16_t* x, const uint16_t*, uint8_t* out, int64_t n) {
      for (int64_t i = 0; i < n; ++i) out[i] = cell[x[i]];
    });
  }
  return iterator.output();
}

bool set_portable(bool value) {
  portable = value;
  return has_avx512();
}

}  // namespace

TORCH_LIBRARY(pdsearch, library) {
  library.def("scale(Tensor grad_output, Tensor input, Tensor table) -> Tensor");
  library.def("scale_coded(Tensor grad_output, Tensor code, Tensor values) -> Tensor");
  library.def("scale_sides(Tensor grad_output, Tensor output, float below, float above) -> Tensor");
  library.def("encode(Tensor input, Tensor cells, Tensor ends, Tensor codes) -> Tensor");
  library.def("set_portable(bool value) -> bool", &set_portable);
}

TORCH_LIBRARY_IMPL(pdsearch, CPU, library) {
  library.impl("scale", &scale);
  library.impl("scale_coded", &scale_coded);
  library.impl("scale_sides", &scale_sides);
  library.impl("encode", &encode);
}
