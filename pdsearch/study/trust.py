"""What a study may run and where it may write: what the user named, not what a storage contains.

A storage names files to run (a model's, a criterion's) and a folder to write to. Everybody who can
write to it could run any code on every machine that joins the study.
"""

import os
import re
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from pdsearch.errors import InputError
from pdsearch.study.begin import changes_of, refuse, with_decided
from pdsearch.study.settings import StudyFile
from pdsearch.study.sources import resolved
from pdsearch.study.stored import StoredStudy


def check_output(folder: Path) -> None:
    """Check that a study's folder can be created and written to, without creating it.

    Raises:
        InputError: it cannot.
    """
    try:
        there = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
        if not there.is_dir():
            raise InputError(f"study.output: {there} is not a folder")
        with tempfile.TemporaryFile(dir=there):
            pass
    except InputError:
        raise
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"study.output: {str(folder)[:300]} cannot be written: {reason}") from None


def runnable(
    stored: StoredStudy,
    *,
    trust: bool = False,
    gates: bool = True,
    say: Callable[[str], None] | None = None,
) -> StoredStudy:
    """Return a study that may be trained: by the user's own file, or as far as its storage may say.

    Args:
        stored: as it was opened, by its file or its name.
        trust: run the files and write to the folder that the storage names.
        gates: whether candidates are also gated, by custom criteria among others.
        say: called if the output goes to another folder.

    Raises:
        InputError: the file differs from what the study was begun with; or there is none, and only
            the storage names a file to run.
    """
    if stored.trusted:
        return stored
    if stored.file is not None:
        changes = changes_of(stored, stored.file, resolved(stored.file))
        refuse(stored, changes, "give the study's name instead of its file")
        return of_file(stored, stored.file)
    if trust:
        return replace(stored, trusted=True)
    model, own = stored.settings.trial.model, stored.settings.criteria.own
    named = [] if re.fullmatch(r"\w+", model) else [f"trial.model {model!r}"]  # else a package's
    named += [f"criteria.own {spec!r}" for spec in own] if gates else []
    if named:
        raise InputError(
            f"study {stored.name!r} would run {' and '.join(named)} in {stored.directory}: only "
            "its storage names this code, and others may be able to write to it. Give the study "
            "file instead of the name; or, if you trust them, --trust-study-code "
            "(trust_study_code=True)"
        )
    here = Path.cwd()
    if stored.output.resolve().is_relative_to(here.resolve()):
        return stored
    output = here / "results" / stored.name
    if say is not None:
        say(
            f"study {stored.name!r} has its checkpoints in {stored.output}, according to its "
            f"storage: here they go to {output} (give the study file, or --trust-study-code)"
        )
    return replace(stored, output=output)


def of_file(stored: StoredStudy, file: StudyFile) -> StoredStudy:
    """Return a study with the settings of the user's own file, which has been compared with it."""
    return replace(
        stored,
        settings=with_decided(file, stored.settings),
        output=file.directory / file.study.output / stored.name,
        file=file,
        trusted=True,
    )
