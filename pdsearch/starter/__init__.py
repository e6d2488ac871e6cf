"""Starter files of `pdsearch init`: a family and a study that takes two minutes on digits."""

from importlib import resources
from pathlib import Path

from pdsearch.errors import InputError

__all__ = ["FILES", "write_starter"]

FILES = ("my_family.py", "study.toml")


def write_starter(directory: Path) -> list[Path]:
    """Write the starter files into a directory, which is created if missing.

    Raises:
        InputError: One of the files already exists, or the directory cannot be written to.
    """
    paths = [directory / name for name in FILES]
    if there := [path for path in paths if path.exists() or path.is_symlink()]:
        raise InputError(f"{there[0]} is there already and is not replaced: choose another folder")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for path in paths:
            text = resources.files(__package__).joinpath(path.name).read_text(encoding="utf-8")
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
    except OSError as error:
        raise InputError(f"cannot write {error.filename or directory}: {error.strerror}") from None
    except ValueError as error:  # a NUL in the path
        raise InputError(f"cannot write {str(directory)!r}: {error}") from None
    return paths
