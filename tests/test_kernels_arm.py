"""The kernels for 64-bit Arm, cross-compiled and run in an emulator.

Needs `apt-get install g++-aarch64-linux-gnu qemu-user`. It shows that the results are right there,
where the compiler fuses multiply-adds by itself, not how fast they are.
"""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from pdsearch import library
from pdsearch.codegen import evaluate
from pdsearch.kernels import build
from pdsearch.kernels.chords import chords
from pdsearch.kernels.table import every_input, every_value, segments

COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (shutil.which(COMPILER) and shutil.which(EMULATOR)),
        reason=f"needs {COMPILER} and {EMULATOR}",
    ),
]

MAIN = r"""
#include "fused_neon.h"
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

template <typename T>
std::vector<T> read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  const std::string all((std::istreambuf_iterator<char>(file)), {});
  std::vector<T> values(all.size() / sizeof(T));
  std::memcpy(static_cast<void*>(values.data()), all.data(), all.size());
  return values;
}

// grad_input = the rule of grad_output "up" and what was kept, "x", by the kernel's "table".
template <typename T>
void run(const std::string& kernel, const std::string& folder, const Rule& rule) {
  using Word = std::conditional_t<sizeof(T) == 2, uint16_t, float>;
  const auto up = read<T>(folder + "/up"), x = read<T>(folder + "/x");
  const auto words = read<Word>(folder + "/x"), every = read<Word>(folder + "/table");
  const auto codes = read<uint8_t>(folder + "/x");
  const auto table = read<float>(folder + "/table");
  auto out = up;
  const int64_t n = up.size();
  with_rule(rule, [&](auto plain) {
    constexpr bool Plain = plain();
    if (kernel == "neon sides") {
      neon::scale_sides<T, Plain>(&up[0], &x[0], &out[0], n, table[0], table[1], rule);
    }
    if (kernel == "neon codes") {
      neon::scale_code<T, Plain>(&up[0], &codes[0], &out[0], n, &table[0], rule);
    }
    if constexpr (sizeof(T) == 2) {
      const auto g = [&](int64_t i) { return static_cast<float>(from_bits<T>(every[words[i]])); };
      const auto at = [&](int64_t i) { return static_cast<float>(x[i]); };
      if (kernel == "every") each(&up[0], &out[0], n, rule, g, at);
      if (kernel == "neon every") {
        neon::scale_every<T, Plain>(&up[0], &words[0], &out[0], n, &every[0], rule);
      }
    } else {
      std::vector<float> g(n);
      for (int64_t at = 0; kernel == "table" && at < n; at += kBlock) {
        evaluate_block(&table[0], &x[at], &g[at], std::min(kBlock, n - at));
      }
      with_chords(table.size(), [&](auto free) {
        for (int64_t i = 0; kernel == "chords" && i < n; ++i) {
          g[i] = on_chords<free()>(&table[0], x[i]);
        }
        if (kernel == "neon chords") {
          neon::scale_chords<free(), Plain>(&up[0], &x[0], &out[0], n, &table[0], rule);
        }
      });
      const auto value = [&](int64_t i) { return g[i]; };
      const auto at = [&](int64_t i) { return x[i]; };
      if (kernel == "table" || kernel == "chords") each(&up[0], &out[0], n, rule, value, at);
    }
  });
  std::ofstream made(folder + "/out", std::ios::binary);
  made.write(reinterpret_cast<const char*>(&out[0]), n * sizeof(T));
}

int main(int, char** words) {  // a kernel, a dtype, a folder, the weight, the direction
  const Rule rule(std::stod(words[4]), words[5] == std::string("up"));
  const std::string dtype = words[2];
  if (dtype == "float32") run<float>(words[1], words[3], rule);
  if (dtype == "bfloat16") run<c10::BFloat16>(words[1], words[3], rule);
  if (dtype == "float16") run<c10::Half>(words[1], words[3], rule);
}
"""

RULES = [(1.0, "both"), (0.3, "both"), (1.0, "up"), (0.3, "up")]
SIXTEEN = [torch.bfloat16, torch.float16]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("arm")
    (folder / "main.cpp").write_text(MAIN)
    compiled(folder / "main.cpp", "-static", "-o", str(folder / "kernels"))
    return folder / "kernels"


def compiled(source: Path, *flags: str) -> None:
    include = Path(torch.__file__).parent / "include"
    where = [f"-I{build.SOURCE.parent}", f"-I{include}", f"-I{include}/torch/csrc/api/include"]
    command = [COMPILER, *build.CODE_FLAGS, *where, str(source), *flags]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def emulated(
    program: Path,
    kernel: str,
    table: torch.Tensor,
    x: torch.Tensor,
    up: torch.Tensor,
    rule: tuple[float, str] = RULES[0],
) -> torch.Tensor:
    for name, tensor in {"table": table, "x": x, "up": up}.items():
        (program.parent / name).write_bytes(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    dtype = str(up.dtype).removeprefix("torch.")
    command = [EMULATOR, program, kernel, dtype, program.parent, str(rule[0]), rule[1]]
    subprocess.run(list(map(str, command)), check=True)
    written = np.fromfile(program.parent / "out", dtype=np.uint8)
    return torch.from_numpy(written).view(up.dtype)


def by_the_rule(
    g: torch.Tensor, x: torch.Tensor, up: torch.Tensor, rule: tuple[float, str]
) -> torch.Tensor:
    """Return grad_input in float64, for finite g and up and x of any kind."""
    weight, direction = rule
    x, up = x.double(), up.double()
    found = up * (weight * g.double() + (1 - weight) * (x > 0))
    return found.masked_fill((x <= 0) & (up >= 0), 0) if direction == "up" else found


def points() -> torch.Tensor:
    special = torch.tensor([0.0, -0.0, 1e-45, -1e-45, 3e38, -3e38, torch.inf, -torch.inf])
    dense = torch.linspace(-40, 40, 40_001)
    return torch.cat(
        [special, dense, torch.logspace(-38, 38, 4_001), -torch.logspace(-38, 38, 999)]
    )


def gradients(x: torch.Tensor) -> torch.Tensor:
    return torch.randn(len(x), generator=torch.Generator().manual_seed(1))


def test_the_whole_source_compiles(tmp_path: Path) -> None:
    compiled(build.SOURCE, "-c", "-o", str(tmp_path / "fused.o"))
    assert (tmp_path / "fused.o").stat().st_size > 0


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    "name", ["exp_tail", "b_silu", "gelu", "softsign", "hardswish", "log_tailed"]
)
def test_float32(name: str, rule: tuple[float, str], program: Path) -> None:
    candidate, x = library()[name].default, points()
    up = gradients(x)
    lines, table = chords(candidate), segments(candidate)
    assert table is not None
    assert (lines is None) == (name == "hardswish")
    wanted = by_the_rule(evaluate(candidate, x.double()), x, up, rule)
    tables = [("table", table.values, table.proof.error)]
    if lines is not None:
        tables += [(kernel, lines.values, lines.error) for kernel in ("chords", "neon chords")]
    for kernel, values, error in tables:
        got = emulated(program, kernel, values, x, up, rule)
        if rule == RULES[0]:
            alone = emulated(program, kernel, values, x, torch.ones_like(x), rule)
            assert (alone.double() - evaluate(candidate, x.double())).abs().max() <= error + 1e-12
        # The product and the weighted sum are rounded in float32.
        assert ((got.double() - wanted).abs() <= (error + 3e-7) * up.abs()).all(), kernel
        assert torch.isnan(emulated(program, kernel, values, x * torch.nan, x, rule)).all()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", SIXTEEN)
def test_sixteen_bits(dtype: torch.dtype, rule: tuple[float, str], program: Path) -> None:
    candidate, x = library()["b_silu"].default, every_input(dtype)
    up = gradients(x).to(dtype)
    every = every_value(candidate, dtype)
    plain, neon = (emulated(program, k, every, x, up, rule) for k in ("every", "neon every"))
    assert torch.equal(torch.isnan(plain), torch.isnan(x) | torch.isnan(every))
    assert torch.equal(plain.nan_to_num(9), neon.nan_to_num(9))
    if rule == RULES[0]:
        assert torch.equal(plain.nan_to_num(9), (up * every).nan_to_num(9))
    wanted = by_the_rule(every, x, up, rule).nan_to_num(9)
    # One rounding in float32 and one to the dtype; the smallest numbers of float16 lie 2^-24 apart.
    close = torch.finfo(dtype).eps * 0.51 * wanted.abs() + 2**-25
    assert ((plain.nan_to_num(9).double() - wanted).abs() <= close).all()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", [torch.float32, *SIXTEEN])
def test_two_numbers_and_codes(dtype: torch.dtype, rule: tuple[float, str], program: Path) -> None:
    x = torch.cat([points(), torch.tensor([torch.nan])]).to(dtype)
    up = gradients(x).to(dtype)
    close = torch.finfo(dtype).eps * 0.51 * up.double().abs() + 2**-25
    sides = torch.tensor([0.25, 1.5])
    got = emulated(program, "neon sides", sides, x, up, rule)
    assert torch.equal(torch.isnan(got), torch.isnan(x))
    wanted = by_the_rule(torch.where(x > 0, sides[1], sides[0]), x, up, rule)
    assert ((got.double() - wanted).abs()[:-1] <= 2 * close[:-1]).all()

    # Codes of 128 and above stand for x > 0; one value is NaN.
    values = torch.linspace(-0.4, 1.4, 256)
    values[77] = torch.nan
    codes = torch.randint(256, x.shape, generator=torch.Generator().manual_seed(2))
    got = emulated(program, "neon codes", values, codes.to(torch.uint8), up, rule)
    side = torch.where(codes >= 128, 1.0, -1.0)
    wanted = by_the_rule(values[codes].nan_to_num(0), side, up, rule)
    known = codes != 77
    assert torch.isnan(got[~known]).all()
    assert ((got.double() - wanted).abs()[known] <= 2 * close[known]).all()
