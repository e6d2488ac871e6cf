"""The kernels of every processor, cross-compiled for 64-bit Arm and run in an emulator.

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
#include "fused.h"
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

int main(int, char** words) {  // the kernel; a folder
  const std::string kernel = words[1], folder = words[2];
  const auto table = read<float>(folder + "/table");
  const Rule rule(1, false);
  std::ofstream made(folder + "/out", std::ios::binary);
  if (kernel == "every") {
    using T = c10::BFloat16;
    const auto every = read<T>(folder + "/table"), up = read<T>(folder + "/up");
    const auto x = read<uint16_t>(folder + "/x");
    auto out = up;
    const auto g = [&](int64_t i) { return static_cast<float>(every[x[i]]); };
    const auto at = [&](int64_t i) { return static_cast<float>(from_bits<T>(x[i])); };
    each(up.data(), out.data(), out.size(), rule, g, at);
    made.write(reinterpret_cast<const char*>(out.data()), out.size() * 2);
    return 0;
  }
  const auto x = read<float>(folder + "/x"), up = read<float>(folder + "/up");
  std::vector<float> g(x.size()), out(x.size());
  const int64_t n = x.size();
  for (int64_t at = 0; at < n; at += kBlock) {
    const int64_t m = std::min(kBlock, n - at);
    if (kernel == "table") evaluate_block(table.data(), &x[at], &g[at], m);
    else with_chords(table.size(), [&](auto free) {
      for (int64_t i = at; i < at + m; ++i) g[i] = on_chords<free()>(table.data(), x[i]);
    });
  }
  const auto value = [&](int64_t i) { return g[i]; };
  each(up.data(), out.data(), n, rule, value, [&](int64_t i) { return x[i]; });
  made.write(reinterpret_cast<const char*>(out.data()), n * 4);
}
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("arm")
    source = folder / "main.cpp"
    source.write_text(MAIN)
    include = Path(torch.__file__).parent / "include"
    where = [f"-I{build.SOURCE.parent}", f"-I{include}"]
    flags = ["-O3", "-std=c++20", "-static", "-fno-math-errno", "-fno-trapping-math"]
    command = [COMPILER, *flags, *where, str(source), "-o", str(folder / "kernels")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "kernels"


def emulated(
    program: Path, kernel: str, table: torch.Tensor, x: torch.Tensor, up: torch.Tensor
) -> torch.Tensor:
    for name, tensor in {"table": table, "x": x, "up": up}.items():
        (program.parent / name).write_bytes(tensor.view(torch.uint8).numpy().tobytes())
    subprocess.run([EMULATOR, str(program), kernel, str(program.parent)], check=True)
    written = np.fromfile(program.parent / "out", dtype=np.uint8)
    return torch.from_numpy(written).view(up.dtype)


def points() -> torch.Tensor:
    special = torch.tensor([0.0, -0.0, 1e-45, -1e-45, 3e38, -3e38])
    dense = torch.linspace(-40, 40, 40_001)
    return torch.cat(
        [special, dense, torch.logspace(-38, 38, 4_001), -torch.logspace(-38, 38, 999)]
    )


@pytest.mark.parametrize(
    "name", ["exp_tail", "b_silu", "gelu", "softsign", "hardswish", "log_tailed"]
)
def test_float32(name: str, program: Path) -> None:
    candidate, x = library()[name].default, points()
    lines, table = chords(candidate), segments(candidate)
    assert table is not None
    assert (lines is None) == (name == "hardswish")
    wanted = evaluate(candidate, x.double())
    tables = [("table", table.values, table.proof.error)]
    tables += [("chords", lines.values, lines.error)] if lines is not None else []
    for kernel, values, error in tables:
        got = emulated(program, kernel, values, x, torch.ones_like(x))
        assert (got.double() - wanted).abs().max().item() <= error + 1e-12
        assert torch.isnan(emulated(program, kernel, values, x * torch.nan, x)).all()


def test_bfloat16(program: Path) -> None:
    candidate, x = library()["b_silu"].default, every_input(torch.bfloat16)
    up = torch.randn(len(x), generator=torch.Generator().manual_seed(1)).bfloat16()
    every = every_value(candidate, torch.bfloat16)
    got = emulated(program, "every", every, x, up)
    assert torch.equal(got.nan_to_num(9), (up * every).nan_to_num(9))
