"""What the kernels for 64-bit Arm cost, read off their machine code: no Arm processor is needed.

    python benchmarks/arm_code.py [--processors neoverse-n1 neoverse-v1 ...] [--json]

Needs a cross compiler and LLVM's model of the processors (Debian: `apt-get install
g++-aarch64-linux-gnu llvm-19`). Each kernel's main loop is taken from the compiler's assembly, and
`llvm-mca` tells how many cycles one round of it takes when everything is in the first cache. For
each kernel the script prints the cycles per element, of the NEON loop and of the portable one, and
for comparison those of ReLU's backward pass, written likewise.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from pdsearch.kernels import build

COMPILER, MODEL = "aarch64-linux-gnu-g++", "llvm-mca-19"
ROUNDS = 200

SOURCE = r"""
#include "fused_neon.h"
using namespace neon;
using B = c10::BFloat16;
using H = c10::Half;
#define NEON(name, T, Kept, Table, kernel, ...) \
  void name(const T* g, const Kept* x, T* out, int64_t n, const Table* t, const Rule& rule) { \
    (kernel)(g, x, out, n, __VA_ARGS__, rule); \
  }
#define PORTABLE(name, T, Kept, Table, value) \
  void name(const T* g, const Kept* x, T* out, int64_t n, const Table* t) { \
    for (int64_t i = 0; i < n; ++i) out[i] = static_cast<T>(static_cast<float>(g[i]) * (value)); \
  }
extern "C" {
NEON(neon_float32_lines, float, float, float, (scale_chords<16, true>), t)
NEON(neon_float32_lines_fade, float, float, float, (scale_chords<16, false>), t)
NEON(neon_bfloat16, B, uint16_t, uint16_t, (scale_every<B, true>), t)
NEON(neon_bfloat16_fade, B, uint16_t, uint16_t, (scale_every<B, false>), t)
NEON(neon_float16, H, uint16_t, uint16_t, (scale_every<H, true>), t)
NEON(neon_two_numbers, float, float, float, (scale_sides<float, true>), t[0], t[1])
NEON(neon_uint8, float, uint8_t, float, (scale_code<float, true>), t)
PORTABLE(portable_float32_lines, float, float, float, on_chords<16>(t, x[i]))
PORTABLE(portable_bfloat16, B, uint16_t, B, static_cast<float>(t[x[i]]))
PORTABLE(portable_float16, H, uint16_t, H, static_cast<float>(t[x[i]]))
PORTABLE(portable_two_numbers, float, float, float, std::isnan(x[i]) ? x[i] : t[x[i] > 0])
PORTABLE(portable_uint8, float, uint8_t, float, t[x[i]])
void relu_float32(const float* g, const float* x, float* out, int64_t n) {
  for (int64_t i = 0; i < n; i += 8) {
    const Two given = read(g + i), at = read(x + i);
    const auto kept = [](auto one, auto x) {
      return as_float(vandq_u32(vcgtzq_f32(x), as_bits(one)));
    };
    write(out + i, {kept(given.first, at.first), kept(given.second, at.second)});
  }
}
}
"""


def assembly(folder: Path) -> str:
    """Compile the kernels for 64-bit Arm as they are compiled there."""
    source = folder / "kernels.cpp"
    source.write_text(SOURCE)
    include = Path(torch.__file__).parent / "include"
    where = [f"-I{build.SOURCE.parent}", f"-I{include}"]
    command = [COMPILER, *build.CODE_FLAGS, *where, "-S", str(source), "-o", "-"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(done.stderr)
    return done.stdout


def loops(text: str) -> dict[str, list[str]]:
    """Return the instructions of each function's first loop, which handles all but the last few."""
    found: dict[str, list[str]] = {}
    name, lines, labels = "", list[str](), dict[str, int]()
    for line in text.splitlines():
        if start := re.match(r"((?:neon|portable|relu)_\w+):", line):
            name, lines, labels = start[1], [], {}
        elif label := re.match(r"(\.L\w+):", line):
            labels[label[1]] = len(lines)
        elif re.match(r"\s+[a-z]", line):
            lines.append(line)
            back = re.match(r"\s+(?:b\w?\.?\w*|cbn?z)\s.*?(\.L\w+)$", line)
            if back and back[1] in labels and name not in found:
                found[name] = lines[labels[back[1]] :]
    return found


def cycles(loop: list[str], processor: str) -> float:
    """Return the cycles of a round."""
    command = [MODEL, "-mtriple=aarch64", f"-mcpu={processor}", f"-iterations={ROUNDS}"]
    done = subprocess.run(
        command, input="\n".join(loop) + "\n", check=True, capture_output=True, text=True
    )
    total = re.search(r"Total Cycles:\s+(\d+)", done.stdout)
    assert total is not None, done.stdout
    return int(total[1]) / ROUNDS


def elements(loop: list[str]) -> int:
    """Return how many elements a round writes, from the sizes of its stores."""
    stores = [re.search(r"\sst([rp]h?)\s+([qdswh])", line) for line in loop]
    bits = {"q": 128, "d": 64, "s": 32, "w": 32, "h": 16}
    total = 0
    for store in filter(None, stores):
        size = 16 if store[1] == "rh" else bits[store[2]]
        total += size * (2 if store[1].startswith("p") else 1)
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processors", nargs="+", default=["neoverse-n1", "neoverse-v1"])
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    missing = [tool for tool in (COMPILER, MODEL) if shutil.which(tool) is None]
    if missing:
        sys.exit(f"needs {' and '.join(missing)}: see this script's first lines")
    with tempfile.TemporaryDirectory() as folder:
        found = loops(assembly(Path(folder)))
    table = {}
    for name, loop in found.items():
        size = 16 if "float16" in name else 32
        each = elements(loop) // size
        table[name] = {
            "instructions": len(loop) / each,
            **{one: cycles(loop, one) / each for one in arguments.processors},
        }
    if arguments.json:
        print(json.dumps(table))
        return
    print(f"{'per element':28}" + "".join(f"{one:>14}" for one in next(iter(table.values()))))
    for name, row in table.items():
        print(f"{name:28}" + "".join(f"{value:14.2f}" for value in row.values()))


if __name__ == "__main__":
    main()
