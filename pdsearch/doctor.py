"""What is installed, reachable, stale or broken, and how to fix it."""

import contextlib
import os
import platform
import shutil
import sqlite3
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import optuna
import torch
from optuna.storages import RDBStorage
from packaging.requirements import Requirement

from pdsearch import __version__
from pdsearch.data import cache_directory
from pdsearch.errors import PdsearchError, one_line
from pdsearch.family import library
from pdsearch.kernels import build, gpu
from pdsearch.study.attributes import SCHEMA, StudyAttrs, TrialAttrs
from pdsearch.study.innards import silent, study_names, trial_id
from pdsearch.study.machine import available_cores, owner_of
from pdsearch.study.settings import default_storage
from pdsearch.study.storage import GRACE, EmptyStorageError, connect, parse_url, reading, shown_url
from pdsearch.study.stored import read

__all__ = ["Finding", "examine"]

# The decoded CIFAR-10 takes 0.2 GiB, a study's checkpoints about as much.
_LITTLE_DISK = 2 * 2**30

# extra: (module, pip requirement, what is missing without it)
_EXTRAS = {
    "dashboard": ("optuna_dashboard", "optuna-dashboard", "`pdsearch dashboard`"),
    "postgresql": (
        "psycopg",
        "'psycopg[binary]'",
        "PostgreSQL storages, for studies on several machines",
    ),
    "cmaes": ("cmaes", "cmaes", 'sampler = "cmaes"'),
    "ray": ("ray", "ray", "`pdsearch search --launcher ray`"),
    "slurm": ("submitit", "submitit", "`pdsearch search --launcher slurm`"),
}

_RESTORE = "restore a copy, or move it away and start a new search"


@dataclass(frozen=True)
class Finding:
    """The result of one check; only `attention` requires action, and comes with a remedy."""

    name: str
    level: Literal["ok", "info", "attention"]
    text: str
    remedy: str = ""


def examine(*, storage: str | None = None) -> tuple[Finding, ...]:
    """Check the installation, the machine and a storage, by default the default storage."""
    return (*_installation(), *_compiler(), *_device(), *_disk(), *_storage(storage))


# ------------------------------------------------------------------------------- installation


def _installation() -> Iterator[Finding]:
    yield Finding("python", "ok", f"{platform.python_version()} ({sys.executable})")
    yield Finding("pdsearch", "ok", f"{__version__} ({Path(__file__).parent})")
    yield from _requirements()
    try:
        yield Finding("library", "ok", f"{len(library())} families")
    except PdsearchError as error:
        yield Finding("library", "attention", str(error), "install pdsearch again")


def _requirements() -> Iterator[Finding]:
    try:
        declared = map(Requirement, metadata.requires("pdsearch") or [])
    except metadata.PackageNotFoundError:
        yield Finding(
            "packages",
            "attention",
            "pdsearch is imported but not installed, so its requirements are not known",
            "pip install . in the checkout",
        )
        return
    found = []
    for requirement in declared:
        name = requirement.name
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            problem = "not installed"
        else:
            if requirement.specifier.contains(version, prereleases=True):
                found.append(f"{name} {version}")
                continue
            problem = f"{version}, but {requirement.specifier} is needed"
        remedy = f"pip install '{name}{requirement.specifier}'"
        yield Finding(name, "attention", problem, remedy)
    yield Finding("packages", "ok", ", ".join(found))
    for extra, (module, package, loss) in _EXTRAS.items():
        if find_spec(module) is None:
            text = f"not installed: without it, no {loss}"
            yield Finding(f"extra {extra}", "info", text, f"pip install {package}")
        else:
            yield Finding(f"extra {extra}", "ok", "installed")


# ------------------------------------------------------------------------------------ machine


def _compiler() -> Iterator[Finding]:
    path, trouble = build.compiler_trouble()
    if trouble is None:
        yield Finding("compiler", "ok", path)
    elif build.prebuilt() is not None:
        text = f"{trouble}: the CPU's kernels need none, because the wheel carries them"
        yield Finding("compiler", "info", text)
    else:
        yield Finding(
            "compiler",
            "attention",
            f"{trouble}: where no kernels are compiled yet, the backward pass runs as separate "
            "torch operations, tens of times slower than ReLU's own",
            "install g++ or clang++ (Debian, Ubuntu: apt install g++), or set CXX to one",
        )
    # Loading compiles missing kernels, as the first backward pass would.
    found = build.state()
    reason = build.load()
    if reason is not None:
        level: Literal["info", "attention"] = "info" if "PDSEARCH_FUSED" in reason else "attention"
        text = f"backward passes run unfused: {reason}"
        yield Finding("kernels", level, text, build.remedy(reason))
        return
    if build.uses_prebuilt():
        yield Finding("kernels", "ok", f"prebuilt kernels of the wheel: {build.PREBUILT}")
        return
    text = {
        "there": "compiled kernels",
        "absent": "kernels, compiled just now",
        "damaged": "kernels that were damaged or unfinished, recompiled just now",
    }[found]
    unfit = "; the wheel's prebuilt ones do not fit this torch or system" * build.carries_library()
    yield Finding("kernels", "ok", f"{text}: {build.cache_directory()}{unfit}")


def _device() -> Iterator[Finding]:
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        yield Finding("GPU", "ok", ", ".join(names))
        yield from _gpu_kernels(len(names))
    elif torch.backends.mps.is_available():
        yield Finding(
            "GPU", "info", "Apple MPS: trials run on the CPU, or with --device mps on the GPU"
        )
    else:
        yield Finding("GPU", "info", "none that torch can use: trials run on the CPU")
    cores = available_cores()
    threads = torch.get_num_threads()
    if threads > cores:
        yield Finding(
            "threads",
            "attention",
            f"torch uses {threads} threads on {cores} core(s): they wait for one another",
            f"set OMP_NUM_THREADS={cores}, or give --threads {cores}",
        )
    else:
        yield Finding("threads", "ok", f"torch uses {threads} of {cores} core(s)")


def _gpu_kernels(count: int) -> Iterator[Finding]:
    # The answer launches a kernel, which compiles it if necessary, as the first backward pass does.
    reasons = {index: gpu.load(torch.device("cuda", index)) for index in range(count)}
    for index, reason in reasons.items():
        if reason is not None:
            level: Literal["info", "attention"] = (
                "info" if "PDSEARCH_FUSED" in reason else "attention"
            )
            text = f"cuda:{index}: backward passes run as separate torch operations: {reason}"
            yield Finding("GPU kernel", level, text, gpu.remedy(reason))
    if not any(reasons.values()):
        yield Finding("GPU kernel", "ok", "Triton compiles and runs it")


def _disk() -> Iterator[Finding]:
    for name, folder, remedy in (
        (
            "cache folder",
            cache_directory(),
            "make it writable, or set PDSEARCH_CACHE to one that is",
        ),
        ("working folder", Path.cwd(), "make it writable"),
    ):
        there = next(path for path in (folder, *folder.parents) if path.exists())
        if not os.access(there, os.W_OK):
            yield Finding(name, "attention", f"{folder} cannot be written to", remedy)
            continue
        free = shutil.disk_usage(there).free
        text = f"{folder}, {free / 2**30:.1f} GiB free"
        if free < _LITTLE_DISK:
            yield Finding(name, "attention", text, "free some disk space: at least 2 GiB")
        else:
            yield Finding(name, "ok", text)


# ------------------------------------------------------------------------------------ storage


def _storage(given: str | None) -> Iterator[Finding]:
    url = given or default_storage()
    shown = shown_url(url)
    try:
        address = parse_url(url)
        file = Path(address.database or "") if address.get_backend_name() == "sqlite" else None
        if file is not None:
            if given is None and not file.exists():
                text = f"{shown}: not there yet; the first search creates it"
                yield Finding("storage", "info", text)
                return
            if trouble := _sqlite_trouble(file):
                yield Finding("storage", "attention", f"{shown}: {trouble}", _RESTORE)
                return
        backend = connect(url, create=False)
    except EmptyStorageError:
        yield Finding("storage", "ok", f"{shown}: reachable, no study in it yet")
        return
    except PdsearchError as error:
        yield Finding("storage", "attention", str(error), _remedy(str(error)))
        return
    try:
        yield from _studies(backend, url)
        if file is not None and not os.access(file, os.W_OK):
            yield Finding("storage", "attention", f"{shown}: read-only", "make it writable")
    finally:
        backend.engine.dispose()


def _sqlite_trouble(file: Path) -> str | None:
    """Return what SQLite's own check finds wrong with a file; None if nothing."""
    if not file.is_file():
        return None  # connecting to it raises the error
    address = f"{file.resolve().as_uri()}?mode=ro"
    try:
        with contextlib.closing(sqlite3.connect(address, uri=True)) as database:
            ((found,),) = database.execute("PRAGMA quick_check(1)").fetchall()
    except (sqlite3.Error, ValueError) as error:  # ValueError: the message is not UTF-8
        return one_line(error)
    return None if found == "ok" else f"damaged: {found.splitlines()[-1]}"


def _remedy(message: str) -> str:
    if "no such file" in message:
        return "check the path, or run a search, which creates it"
    if "pip install" in message or "install the driver" in message:
        return "follow the message"
    if "SQLAlchemy URL" in message:
        return "percent-encode special characters of the password"
    if "optuna" in message.lower():
        return "optuna storage upgrade --storage URL, or use the Optuna that made it"
    return "check that the server runs, and host, port, user and password"


def _studies(backend: RDBStorage, url: str) -> Iterator[Finding]:
    try:
        with reading("of any name", url, backend):
            names = study_names(backend)
    except PdsearchError as error:
        yield Finding("storage", "attention", str(error), _RESTORE)
        return
    noun = "study" if len(names) == 1 else "studies"
    yield Finding("storage", "ok", f"{shown_url(url)}: reachable, {len(names)} {noun}")
    for name in names:
        try:
            with reading(name, url, backend):
                study = optuna.load_study(study_name=name, storage=backend)
                finding = _study(study)
                schema = StudyAttrs(study).schema
            if isinstance(schema, int) and schema > SCHEMA:
                yield Finding(
                    f"study {name!r}", "attention", "written by a newer pdsearch", "update pdsearch"
                )
                continue
            # Without a schema, another program made the study, or it is still being set up.
            if schema is not None:
                read(study, url).trials()
            yield finding
        except PdsearchError as error:
            yield Finding(f"study {name!r}", "attention", str(error), _RESTORE)


def _study(study: optuna.Study) -> Finding:
    name = f"study {study.study_name!r}"
    running = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,))
    unheard = silent(study, after=GRACE)
    gone = []
    for trial in running:
        owner = owner_of(TrialAttrs(trial).owner)
        alive = None if owner is None else owner.alive()
        # Whether a process on another machine lives is known only from its heartbeats.
        if alive is False or (alive is None and trial_id(trial) in unheard):
            gone.append(str(trial.number))
    if gone:
        return Finding(
            name,
            "attention",
            f"trial(s) {', '.join(gone)} are marked as running, but their process has gone",
            "run the study's `pdsearch search` again: it retries them",
        )
    return Finding(name, "ok", f"{len(running)} trial(s) running")
