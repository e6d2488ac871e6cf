"""Compiling and loading the C++ kernels: once on a machine, into the user's cache.

A wheel may carry the compiled library (`hatch_build.py`). It is used if torch's version and the
sources are those it was compiled from; otherwise the kernels are compiled here.

One compiler call with torch's own headers, rather than `torch.utils.cpp_extension`, whose lock
file outlives a killed process and then blocks every later one. The library needs no Python
headers and no particular processor: it detects AVX2 and AVX-512 at run time.
"""

import functools
import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Literal

import torch

from pdsearch import files
from pdsearch.errors import first_line

__all__ = [
    "CODE_FLAGS",
    "SOURCES",
    "State",
    "cache_directory",
    "carries_library",
    "compile_into",
    "compiler_trouble",
    "load",
    "prebuilt",
    "remedy",
    "state",
    "uses_prebuilt",
]

SWITCHED_OFF = "switched off by PDSEARCH_FUSED=0"
SOURCE = Path(__file__).with_name("fused.cpp")
_PARTS = ("", "_avx2", "_avx512", "_neon")
SOURCES = (SOURCE, *(SOURCE.with_name(f"fused{part}.h") for part in _PARTS))
PREBUILT = SOURCE.with_name("prebuilt")
"""Folder of the library that a wheel may carry."""

CODE_FLAGS = ("-O3", "-std=c++20", "-fno-math-errno", "-fno-trapping-math")
"""What decides which instructions the sources become."""

SUM = ".sum"
"""Suffix of the file next to a library that holds its size and SHA-256."""

TIMEOUT = 600.0  # seconds; the build takes about 20 on one core

_log = logging.getLogger("pdsearch")

State = Literal["there", "absent", "damaged"]


def cache_directory() -> Path:
    """Return the folder of compiled kernels."""
    return files.cache_directory() / "kernels"


def _compiler() -> list[str] | str:
    """Return the compiler's command in words, or what is wrong with it."""
    if given := os.environ.get("CXX"):
        try:
            return shlex.split(given) or "no C++ compiler was found"
        except ValueError as error:  # a quote is not closed
            return f"CXX cannot be read: {error}"
    names = ("c++", "g++", "clang++")
    found = next((path for name in names if (path := shutil.which(name))), None)
    return "no C++ compiler was found" if found is None else [found]


def compiler_trouble() -> tuple[str, str | None]:
    """Return the compiler that would be called, and what is wrong with it; None if it works."""
    command = _compiler()
    if isinstance(command, str):
        return os.environ.get("CXX", "").strip() or "none", command
    shown = shlex.join(command)
    path = shutil.which(command[0])
    if path is None:
        return shown, f"no C++ compiler was found: {command[0]} does not exist or cannot be run"
    probe = [*command, "-std=c++20", "-fsyntax-only", "-x", "c++", "-"]
    try:
        done = subprocess.run(
            probe, input="#include <vector>\n", capture_output=True, text=True, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return shown, f"{command[0]} cannot be run: {_said(str(error))}"
    if done.returncode != 0:
        return shown, f"{command[0]} compiles no C++20: {_said(done.stderr)}"
    return path if len(command) == 1 else shown, None


def is_switched_off() -> bool:
    """Whether the user wants no compiled kernels, on any device."""
    return os.environ.get("PDSEARCH_FUSED") == "0"


@functools.lru_cache(maxsize=1)
def load() -> str | None:
    """Make the operators of `torch.ops.pdsearch` available, compiling them if necessary.

    Returns:
        None if they are available, else the reason in one line, which is logged once. The op then
        runs on torch's own operators.
    """
    if is_switched_off():
        return SWITCHED_OFF
    reason = _load()
    if reason is not None:
        _log.warning("fused kernels are not available, backward passes run unfused: %s", reason)
    return reason


def remedy(reason: str) -> str:
    """Return what to do about a reason that `load` gave."""
    if "PDSEARCH_FUSED" in reason:
        return "unset PDSEARCH_FUSED"
    if "no C++ compiler" in reason or "CXX" in reason or "failed" in reason:
        return "install a C++ compiler (Debian, Ubuntu: apt-get install g++) or set CXX"
    return f"set PDSEARCH_CACHE to a writable folder, or check {cache_directory()}"


def _load() -> str | None:
    if sys.platform == "win32":
        return "no build for Windows"
    if (carried := prebuilt()) is not None:
        try:
            torch.ops.load_library(str(carried))
            return None
        except OSError as error:  # linked with a newer C or C++ library than this system's
            _log.info("%s cannot be loaded and is compiled anew: %s", carried, _said(str(error)))
    library = _library()
    try:
        if state() != "there":
            with files.locked(library.with_suffix(".lock")):
                if state() != "there" and (reason := compile_into(library.parent)):
                    return reason
        torch.ops.load_library(str(library))
    except OSError as error:
        return f"{library} cannot be made or loaded: {_said(str(error))}"
    return None


def _name() -> str:
    """Return the library's file name, which changes with whatever it is compiled from."""
    digest = hashlib.sha256(b"".join(source.read_bytes() for source in SOURCES))
    # Not the compiler's version: a library that was built loads without a compiler. Not the place
    # of torch either: its libraries are in the process already, and are found by their names.
    kind = [platform.machine(), *CODE_FLAGS, _abi(), str(torch.version.git_version)]
    digest.update("\0".join(kind).encode())
    return f"fused-{torch.__version__}-{digest.hexdigest()[:20]}.so"


def _library() -> Path:
    return cache_directory() / _name()


def prebuilt() -> Path | None:
    """Return the library that the installed wheel carries, if it is whole and fits; else None.

    It fits the torch version, sources, flags and processor family that it was compiled for.
    """
    library = PREBUILT / _name()
    return library if _state(library) == "there" else None


def carries_library() -> bool:
    """Whether the installed wheel carries a library, whatever it was compiled for."""
    return any(PREBUILT.glob("fused-*.so"))


def uses_prebuilt() -> bool:
    """Whether the library that the installed wheel carries has been loaded."""
    carried = prebuilt()
    return carried is not None and os.path.realpath(carried) in torch.ops.loaded_libraries


def state() -> State:
    """Return whether the compiled kernels are in the cache, byte for byte as compiled."""
    return _state(_library())


def _state(library: Path) -> State:
    """Compare a library with its sum.

    A truncated library must never be mapped: touching a missing page kills the process (SIGBUS).
    """
    try:
        written = library.read_bytes()
        kept = library.with_suffix(SUM).read_text(encoding="ascii")
    except FileNotFoundError:
        return "damaged" if library.exists() else "absent"
    except ValueError:
        return "damaged"
    return "there" if kept == _sum(written) else "damaged"


def _sum(content: bytes) -> str:
    return f"{len(content)} {hashlib.sha256(content).hexdigest()}\n"


def _abi() -> str:
    return f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"


def _flags() -> list[str]:
    root = Path(torch.__file__).parent
    return [
        *CODE_FLAGS,
        "-fPIC",
        "-shared",
        _abi(),
        f"-I{root / 'include'}",
        f"-I{root / 'include' / 'torch' / 'csrc' / 'api' / 'include'}",
        f"-L{root / 'lib'}",
    ]


def compile_into(folder: Path) -> str | None:
    """Compile the library into a folder, with its sum; return what failed, None if nothing.

    It is compiled next to its final place and moved there: no process sees half a library.

    Raises:
        OSError: The folder cannot be written.
    """
    command = _compiler()
    if isinstance(command, str):
        return command
    library = folder / _name()
    _log.info("compiling the fused kernels, once on this machine: about 20 seconds")
    try:
        with files.replacing(library) as partial:
            subprocess.run(
                [*command, *_flags(), str(SOURCE), "-o", str(partial), "-lc10", "-ltorch_cpu"],
                capture_output=True,
                text=True,
                timeout=TIMEOUT,
                check=True,
            )
            # The sum first: a process killed in between leaves one that fits no library, and the
            # next process compiles again.
            with files.replacing(library.with_suffix(SUM)) as summed:
                summed.write_text(_sum(partial.read_bytes()), encoding="ascii")
    except subprocess.CalledProcessError as failed:
        errors = [line for line in failed.stderr.splitlines() if "error" in line]
        return f"{command[0]} failed: {_said((errors or [failed.stderr])[0])}"
    except subprocess.TimeoutExpired:
        return f"{command[0]} took more than {TIMEOUT:.0f} s"
    except FileNotFoundError:
        return f"no C++ compiler was found: {command[0]} does not exist"
    return None


def _said(text: str) -> str:
    return (first_line(text.strip()) or "no message")[:300]
