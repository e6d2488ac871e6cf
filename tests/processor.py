"""The levels of the kernels that this kind of processor may have."""

import platform

ARM = platform.machine() in ("aarch64", "arm64")
LEVELS = ("portable", "neon") if ARM else ("portable", "avx2", "avx512")
