"""Puts the compiled kernels into a wheel: `make wheel`.

Off by default, so that an ordinary `pip install .` makes a wheel of Python files alone. It runs
without build isolation, because the library fits the torch it is compiled with.
"""

import shutil
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

from pdsearch.kernels import build

ROOT = Path(__file__).parent


class Prebuilt(BuildHookInterface):
    """Compiles the library and adds it, with its sum, to the wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile; hatchling's documentation of build hooks describes the arguments."""
        folder = ROOT / "build" / "prebuilt"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        if (reason := build.compile_into(folder)) is not None:
            raise RuntimeError(f"the kernels cannot be compiled: {reason}")
        place = Path("pdsearch", "kernels", build.PREBUILT.name)
        build_data["force_include"].update(
            {str(file): str(place / file.name) for file in folder.iterdir()}
        )
        # The library knows no Python version. It is not a manylinux wheel: libtorch_cpu.so comes
        # from another wheel, and the libc is this system's.
        system = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["tag"] = f"py3-none-{system}"
        build_data["pure_python"] = False
