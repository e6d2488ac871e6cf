"""Compiling and loading the C++ kernels: once ever on a machine, into the user's cache.

One compiler call with torch's own headers, rather than `torch.utils.cpp_extension`, whose lock
file outlives a killed process and then blocks every later one. The library needs no Python
headers and no particular processor: it finds out about AVX-512 when it runs.
"""

import contextlib
import functools
import hashlib
import logging
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

__all__ = ["cache_directory", "load", "remedy"]

SOURCE = Path(__file__).with_name("fused.cpp")
TIMEOUT = 600.0  # seconds; the build takes about 20 on one core

_log = logging.getLogger("pdsearch")


def cache_directory() -> Path:
    """Where compiled kernels are kept: `PDSEARCH_CACHE`, else the user's cache directory."""
    if given := os.environ.get("PDSEARCH_CACHE"):
        return Path(given).expanduser() / "kernels"
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "pdsearch" / "kernels"


def _compiler() -> str | None:
    if given := os.environ.get("CXX"):
        return given
    return next(
        (found for name in ("c++", "g++", "clang++") if (found := shutil.which(name))), None
    )


@functools.lru_cache(maxsize=1)
def load() -> str | None:
    """Make the operators of `torch.ops.pdsearch` available, compiling them if need be.

    Returns:
        None if they are there, else why not, in one line. What is missing is logged once; the op
        then computes the formula itself.
    """
    if os.environ.get("PDSEARCH_FUSED") == "0":
        return "switched off by PDSEARCH_FUSED=0"
    reason = _load()
    if reason is not None:
        _log.warning("fused kernels are not available, backward passes run unfused: %s", reason)
    return reason


def remedy(reason: str) -> str:
    """What to do about a reason that `load` gave."""
    if "PDSEARCH_FUSED" in reason:
        return "unset PDSEARCH_FUSED"
    if "no C++ compiler" in reason:
        return "install a C++ compiler (Debian, Ubuntu: apt-get install g++) or set CXX"
    return f"set PDSEARCH_CACHE to a folder that can be written, or look at {cache_directory()}"


def _load() -> str | None:
    if sys.platform == "win32":
        return "no build for Windows"
    compiler = _compiler()
    command = [*shlex.split(compiler or "c++"), *_flags()]
    digest = hashlib.sha256(SOURCE.read_bytes())
    # The compiler's name, not its version: a library that was built loads without a compiler.
    digest.update("\0".join([torch.__version__, *_flags()]).encode())
    library = cache_directory() / f"fused-{digest.hexdigest()[:20]}.so"
    try:
        if not library.is_file():
            if compiler is None:
                return "no C++ compiler was found"
            library.parent.mkdir(parents=True, exist_ok=True)
            with _locked(library.with_suffix(".lock")):
                if not library.is_file():
                    reason = _compile(command, library)
                    if reason is not None:
                        return reason
        torch.ops.load_library(str(library))
    except OSError as error:
        return f"{library} cannot be made or loaded: {_first_line(str(error))}"
    return None


def _flags() -> list[str]:
    root = Path(torch.__file__).parent
    return [
        "-O3",
        "-std=c++20",
        "-fPIC",
        "-shared",
        "-fno-math-errno",
        "-fno-trapping-math",
        f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}",
        f"-I{root / 'include'}",
        f"-I{root / 'include' / 'torch' / 'csrc' / 'api' / 'include'}",
        f"-L{root / 'lib'}",
    ]


def _compile(command: list[str], library: Path) -> str | None:
    """Compile next to the final place and move: nobody ever sees half a library."""
    _log.info("compiling the fused kernels, once on this machine: about 20 seconds")
    handle, name = tempfile.mkstemp(suffix=".so", dir=library.parent)
    os.close(handle)
    try:
        done = subprocess.run(
            [*command, str(SOURCE), "-o", name, "-lc10", "-ltorch_cpu"],
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
        )
        if done.returncode != 0:
            errors = [line for line in done.stderr.splitlines() if "error" in line]
            return f"{command[0]} failed: {_first_line((errors or [done.stderr])[0])}"
        os.replace(name, library)
    except subprocess.TimeoutExpired:
        return f"{command[0]} took more than {TIMEOUT:.0f} s"
    except FileNotFoundError:
        return f"no C++ compiler was found: {command[0]} does not exist"
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
    return None


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """A lock that the system releases when its holder dies."""
    import fcntl

    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _first_line(text: str) -> str:
    return (text.strip().splitlines() or ["no message"])[0][:300]
