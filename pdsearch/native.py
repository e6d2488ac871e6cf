"""A candidate as a folder with its certified tables and the kernel's C++ source.

The folder is a Python package that needs torch and a compiler, not pdsearch. It holds the plain
exported file too, for whatever the kernel does not serve.
"""

import contextlib
import keyword
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from pdsearch import __version__, kernels
from pdsearch.errors import InputError, UnsupportedError
from pdsearch.export import environment, to_python
from pdsearch.family import Candidate, fading
from pdsearch.files import check_place, replacing_folder
from pdsearch.kernels.build import CODE_FLAGS, SOURCES
from pdsearch.kernels.certify import LIMIT
from pdsearch.kernels.chords import chords
from pdsearch.kernels.pieces import sides
from pdsearch.kernels.plans import NO_TABLE
from pdsearch.kernels.rounded import rounded
from pdsearch.kernels.table import every_value, segments
from pdsearch.plain import plain
from pdsearch.text import escaped

__all__ = ["export_native"]

_TEMPLATES = ("README.md", "__init__.py", "__main__.py", "library.py", "op.py")
_FILES = {*_TEMPLATES, "formula.py", "tables.pt", *(source.name for source in SOURCES)}
_MADE_LATER = {"build", "__pycache__"}


def export_native(
    candidate: Candidate,
    folder: Path | str,
    *,
    force: bool = False,
    provenance: Mapping[str, Any] | None = None,
) -> Path:
    """Write a candidate as a Python package that compiles the kernel and needs only torch.

    Args:
        candidate: What to write.
        folder: A new folder; its name is the package's.
        force: Whether an exported folder that is there may be replaced.
        provenance: Where the candidate comes from; kept in `formula.py`.

    Returns:
        The folder.

    Raises:
        InputError: A name that cannot be imported, or a place that cannot be written to.
        UnsupportedError: No table is proved accurate enough for the candidate.
    """
    folder = Path(folder)
    _check_folder(folder, force=force)
    found = _tables(candidate)
    faded = fading(candidate.family)
    facts = {
        "title": escaped(f"{candidate.name}, written by pdsearch {__version__}"),
        "formula": escaped(candidate.formula),
        "folder": folder.name,
        "sources": repr(tuple(source.name for source in SOURCES)),
        "flags": repr(CODE_FLAGS),
        "sides": repr(found.sides) if found.sides else "",
        "bounds": repr(found.bounds),
        "slow": found.slow,
        "up": candidate.direction == "up",
        "annealed": candidate.annealed,
        "t_doc": "; t is training progress in [0, 1]" if candidate.annealed else "",
        "weight": faded is not None,
        "end": "" if faded is None else repr(faded.end_of(candidate)),
    }
    origin = {"pdsearch": __version__, **plain(dict(provenance or {}))}
    with _written(folder) as partial:
        for name in _TEMPLATES:
            text = environment().get_template(f"native/{name}.jinja").render(facts)
            (partial / name).write_text(text, encoding="utf-8", newline="\n")
        formula = to_python(candidate, origin)
        (partial / "formula.py").write_text(formula, encoding="utf-8", newline="\n")
        for source in SOURCES:
            shutil.copyfile(source, partial / source.name)
        torch.save(found.values, partial / "tables.pt")
    return folder


class _Tables(NamedTuple):
    """Tables by name, the bounds of the float32 ones; or g, if it is two numbers.

    If the polynomials are `slow`, every processor uses the chords.
    """

    values: dict[str, torch.Tensor]
    bounds: dict[str, float]
    sides: tuple[float, float] | None = None
    slow: bool = False


def _tables(candidate: Candidate) -> _Tables:
    found = kernels.plan(
        candidate, dtype=torch.float32, device=torch.device("cpu"), save="input", exact=False
    )
    shape = found.shape
    if shape.annealed:
        raise UnsupportedError(f"{candidate.name}: {found.unfit()}, so no table serves every t")
    if (two := sides(shape)) is not None:
        return _Tables({}, {}, sides=two)
    polynomials = segments(shape)
    if polynomials is None:
        raise UnsupportedError(
            f"{candidate.name}: {NO_TABLE.format(limit=LIMIT)}; export it as a .py file, which "
            "evaluates the formula"
        )
    tables = {
        "float32": polynomials.values,
        "bfloat16": every_value(shape, torch.bfloat16),
        "float16": every_value(shape, torch.float16),
    }
    bounds = {"float32": polynomials.proof.error}
    if (lines := chords(shape)) is not None:
        tables["chords"], bounds["chords"] = lines.values, lines.error
    # The kernel itself checks these at all inputs, which takes AVX-512. Without them, the exported
    # kernel looks every value up, as it does with AVX2.
    wide = kernels.available() is None and torch.ops.pdsearch.level() == "avx512"
    if wide and (bent := rounded(shape)) is not None:
        tables["rounded"] = bent.values
    return _Tables(tables, bounds, slow=polynomials.slow)


def _check_folder(folder: Path, *, force: bool) -> None:
    if not folder.name.isidentifier() or keyword.iskeyword(folder.name):
        raise InputError(
            f"{folder.name or str(folder)!r} cannot be imported: --native writes a folder, and "
            "its name must be that of a Python module, such as pd_relu"
        )
    if folder.is_symlink() or not folder.is_dir():
        check_place(folder, force=False)
        return
    here = {path.name for path in folder.iterdir()}
    if strange := sorted(here - _FILES - _MADE_LATER):
        raise InputError(
            f"{folder} holds {strange[0]}, which is no file of an exported folder: give the name "
            "of a new folder"
        )
    if here and not force:
        raise InputError(f"{folder} exists already: give another name, or --force")


@contextlib.contextmanager
def _written(folder: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes `folder` when it is complete."""
    try:
        with replacing_folder(folder) as partial:
            yield partial
            if folder.is_dir():  # `_check_folder` saw that an export may replace it
                if (folder / "build").is_dir():  # it serves every table
                    os.replace(folder / "build", partial / "build")
                shutil.rmtree(folder)
    except OSError as error:
        raise InputError(f"{folder} cannot be written: {error.strerror}") from None
