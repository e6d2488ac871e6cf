"""What a study may run and where it may write: what the user named, not what a storage says.

A storage names files to run (a model's, a criterion's) and a folder to write to. Whoever can write
to it could have anything run, on every machine where somebody joins the study.
"""

import os
import re
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from pdsearch.errors import InputError
from pdsearch.study.attributes import StudyAttrs
from pdsearch.study.begin import changes_of, families_of, with_decided
from pdsearch.study.families import resolve_families
from pdsearch.study.settings import StudyFile
from pdsearch.study.sources import load_own
from pdsearch.study.storage import storage_errors
from pdsearch.study.stored import StoredStudy

# A package's models have plain names.
_NO_FILE = re.compile(r"\w+\Z")


def files_run(settings: StudyFile, *, gates: bool = True) -> list[str]:
    """The settings that name a Python file which training runs, each with its value.

    Args:
        settings: the study's.
        gates: whether candidates are gated too, by criteria of its own among others.
    """
    found = [f"criteria.own {spec!r}" for spec in settings.criteria.own] if gates else []
    if not _NO_FILE.match(settings.trial.model):
        found.insert(0, f"trial.model {settings.trial.model!r}")
    return found


def check_output(folder: Path) -> None:
    """Looks whether a study's folder can be made and written to, and makes nothing.

    Raises:
        InputError: it cannot.
    """
    try:
        there = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
        if not there.is_dir():
            raise InputError(f"study.output: {there} is no folder")
        with tempfile.TemporaryFile(dir=there):
            pass
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"study.output: {str(folder)[:300]} cannot be written: {reason}") from None


def runnable(
    stored: StoredStudy,
    *,
    trust: bool = False,
    gates: bool = True,
    say: Callable[[str], None] | None = None,
) -> StoredStudy:
    """A study that may be trained: as the user's own file says, or as the storage may.

    Args:
        stored: as it was opened, by its file or its name.
        trust: run what the storage names, and write where it says.
        gates: as for `files_run`.
        say: called with where something is written instead.

    Raises:
        InputError: the file says something else than the study was begun with; or there is none,
            and a file would be run that only the storage names.
    """
    if stored.trusted:
        return stored
    if stored.file is not None:
        _check_file(stored, stored.file)
        return of_file(stored, stored.file)
    if trust:
        return replace(stored, trusted=True)
    if named := files_run(stored.settings, gates=gates):
        raise InputError(
            f"study {stored.name!r} would run {' and '.join(named)} in {stored.directory}: its "
            "storage says so, and whoever can write to it. Give the study file instead of the "
            "name; or, if you trust them all, --trust-study-code (trust_study_code=True)"
        )
    here = Path.cwd()
    if stored.output.resolve().is_relative_to(here.resolve()):
        return stored
    output = here / "results" / stored.name
    if say is not None:
        say(
            f"study {stored.name!r} keeps its checkpoints in {stored.output}, as its storage says: "
            f"here they go to {output} (give the study file, or --trust-study-code)"
        )
    return replace(stored, output=output)


def of_file(stored: StoredStudy, file: StudyFile) -> StoredStudy:
    """Return a study that goes by the user's own file, with which it has been compared."""
    return replace(
        stored,
        settings=with_decided(file, stored.settings),
        directory=file.directory,
        output=file.directory / file.study.output / stored.name,
        file=file,
        trusted=True,
    )


def _check_file(stored: StoredStudy, file: StudyFile) -> None:
    with storage_errors(stored.url):
        attrs = StudyAttrs(stored.study.user_attrs)
    searched, references = resolve_families(file.study, directory=file.directory)
    _, texts = load_own(file.criteria, directory=file.directory)
    changes = changes_of(
        attrs,
        stored.settings,
        settings=with_decided(file, stored.settings),
        families=families_of(searched, references),
        texts=texts,
    )
    if changes:
        raise InputError(
            f"study {stored.name!r} in {stored.storage} was begun with other settings: "
            f"{'; '.join(changes)}. Restore them, or give the study's name instead of its file"
        )
