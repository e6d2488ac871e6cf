"""What is installed, reachable, stale or broken, and what to do about it.

Each finding is one line with a level: `ok`, `info` (nothing wrong, good to know) or `attention`
(something does not work or holds a study up), the last always with a remedy.
"""

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import sqlalchemy

__all__ = ["DEFAULT_STORAGE", "Finding", "examine"]

DEFAULT_STORAGE = "sqlite:///pdsearch.db"

STALE_SECONDS = 120
"""A running trial whose process was not heard of for that long counts as dead."""

_LITTLE_DISK = (
    2 * 2**30
)  # bytes; the decoded CIFAR-10 takes 0.2, a study's checkpoints about as much

# extra → (module, what is missing without it)
_EXTRAS = {
    "dashboard": ("optuna_dashboard", "`pdsearch dashboard`"),
    "postgresql": ("psycopg", "PostgreSQL storages, for studies on several machines"),
    "cmaes": ("cmaes", 'sampler = "cmaes"'),
}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: What was looked at.
        level: `ok`, `info` or `attention`.
        text: What was found.
        remedy: What to do; empty where nothing is to be done.
    """

    name: str
    level: Literal["ok", "info", "attention"]
    text: str
    remedy: str = ""

    def to_dict(self) -> dict[str, str]:
        """Plain data for `doctor --json`."""
        return asdict(self)


def examine(*, storage: str | None = None) -> tuple[Finding, ...]:
    """Look at the installation, the machine and the storage.

    Args:
        storage: The URL of a storage; where None, the default one if it is there.

    Returns:
        The findings; something needs attention where one of them has that level.
    """
    return (
        *_installation(),
        *_compiler(),
        *_device(),
        *_disk(),
        *_storage(storage),
    )


# ------------------------------------------------------------------------------- installation


def _installation() -> Iterator[Finding]:
    from pdsearch import __version__
    from pdsearch.errors import PdsearchError
    from pdsearch.family import library

    python = f"{platform.python_version()} ({sys.executable})"
    yield Finding("python", "ok", python)
    yield Finding("pdsearch", "ok", f"{__version__} ({Path(__file__).parent})")
    yield from _requirements()
    try:
        families = library()
    except PdsearchError as error:
        yield Finding("library", "attention", str(error), "install pdsearch again")
    else:
        yield Finding("library", "ok", f"{len(families)} families")


def _requirements() -> Iterator[Finding]:
    from packaging.requirements import Requirement

    try:
        declared = metadata.requires("pdsearch") or []
    except metadata.PackageNotFoundError:
        yield Finding(
            "packages",
            "attention",
            "pdsearch is imported but not installed, so its requirements are not known",
            "pip install . in the checkout",
        )
        return
    found = []
    for text in declared:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        remedy = f"pip install '{requirement.name}{requirement.specifier}'"
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            yield Finding(requirement.name, "attention", "not installed", remedy)
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            wanted = f"{version}, but {requirement.specifier} is needed"
            yield Finding(requirement.name, "attention", wanted, remedy)
            continue
        found.append(f"{requirement.name} {version}")
    yield Finding("packages", "ok", ", ".join(found))
    from importlib.util import find_spec

    for extra, (module, loss) in _EXTRAS.items():
        if find_spec(module) is None:
            text = f"not installed: without it, no {loss}"
            yield Finding(f"extra {extra}", "info", text, f"pip install 'pdsearch[{extra}]'")
        else:
            yield Finding(f"extra {extra}", "ok", "installed")


# ------------------------------------------------------------------------------------ machine


def _compiler() -> Iterator[Finding]:
    wanted = os.environ.get("CXX") or "c++"
    path = next(filter(None, map(shutil.which, (wanted, "g++", "clang++"))), None)
    if path is None:
        yield Finding(
            "compiler",
            "attention",
            "no C++ compiler: the backward pass runs as separate torch operations, several times "
            "slower than ReLU's own",
            "install g++ or clang++ (Debian, Ubuntu: apt install g++), or set CXX",
        )
    else:
        yield Finding("compiler", "ok", path)


def _device() -> Iterator[Finding]:
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        yield Finding("GPU", "ok", ", ".join(names))
    elif torch.backends.mps.is_available():
        yield Finding("GPU", "ok", "Apple MPS")
    else:
        yield Finding("GPU", "info", "none that torch can use: trials run on the CPU")
    cores = _cores()
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


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # Linux: what a container or taskset leaves us
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _disk() -> Iterator[Finding]:
    from pdsearch.data import cache_directory

    for name, folder in (("cache folder", cache_directory()), ("working folder", Path.cwd())):
        there = next(path for path in (folder, *folder.parents) if path.exists())
        if not os.access(there, os.W_OK):
            remedy = "make it writable" + (
                ", or set PDSEARCH_CACHE to one that is" if name == "cache folder" else ""
            )
            yield Finding(name, "attention", f"{folder} cannot be written to", remedy)
            continue
        free = shutil.disk_usage(there).free
        text = f"{folder}, {free / 2**30:.1f} GiB free"
        if free < _LITTLE_DISK:
            yield Finding(name, "attention", text, "free some disk space: at least 2 GiB")
        else:
            yield Finding(name, "ok", text)


# ------------------------------------------------------------------------------------ storage


def _storage(url: str | None) -> Iterator[Finding]:
    import sqlalchemy

    given, url = url is not None, url or DEFAULT_STORAGE
    try:
        address = sqlalchemy.engine.make_url(url)
    except (sqlalchemy.exc.ArgumentError, ValueError):
        # The text itself is not shown: it may hold a password.
        yield Finding(
            "storage",
            "attention",
            "the URL cannot be read",
            "write it as sqlite:///file.db or postgresql+psycopg://user:password@host/database, "
            "with special characters of the password percent-encoded",
        )
        return
    shown = address.render_as_string(hide_password=True)
    sqlite = address.get_backend_name() == "sqlite"
    if sqlite and not Path(address.database or "").is_file():
        text = f"{shown}: there is no such file"
        if given:
            yield Finding("storage", "attention", text, "check the path; a search creates it")
        else:
            yield Finding("storage", "info", f"{text} here yet; the first search creates it")
        return
    engine = None
    try:
        options = {} if sqlite else {"connect_args": {"connect_timeout": 10}}
        engine = sqlalchemy.create_engine(address, poolclass=sqlalchemy.NullPool, **options)
        with engine.connect() as connection:
            yield from _tables(connection, shown, sqlite=sqlite)
    except ModuleNotFoundError as error:
        remedy = (
            "pip install 'pdsearch[postgresql]'"
            if error.name in ("psycopg", "psycopg2")
            else f"pip install {error.name}"
        )
        text = f"{shown}: the driver {error.name} is not installed"
        yield Finding("storage", "attention", text, remedy)
    except sqlalchemy.exc.SQLAlchemyError as error:
        yield Finding("storage", "attention", *_trouble(shown, address, error, sqlite=sqlite))
    finally:
        if engine is not None:
            engine.dispose()


def _trouble(
    shown: str, address: "sqlalchemy.URL", error: Exception, *, sqlite: bool
) -> tuple[str, str]:
    reason = str(getattr(error, "orig", None) or error).strip().splitlines()
    text = reason[0] if reason else type(error).__name__
    if address.password:
        text = text.replace(str(address.password), "***")
    remedy = (
        "if it is no SQLite database or damaged, restore a copy or move it away and search anew"
        if sqlite
        else "check host, port, user, password and that the server runs"
    )
    return f"{shown}: {text}", remedy


def _tables(connection: "sqlalchemy.Connection", shown: str, *, sqlite: bool) -> Iterator[Finding]:
    import sqlalchemy

    if sqlite:
        check = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar()
        if check != "ok":
            remedy = "restore a copy, or `sqlite3 FILE .recover`"
            yield Finding("storage", "attention", f"{shown}: damaged: {check}", remedy)
            return
    present = set(sqlalchemy.inspect(connection).get_table_names())
    if "studies" not in present:
        text = f"{shown}: reachable, no study in it yet"
        yield Finding("storage", "ok" if not present else "info", text)
        return
    if (finding := _schema(connection, shown)) is not None:
        yield finding
        return
    studies = connection.exec_driver_sql("SELECT study_id, study_name FROM studies").all()
    yield Finding(
        "storage",
        "ok",
        f"{shown}: reachable, {len(studies)} stud" + ("y" if len(studies) == 1 else "ies"),
    )
    if sqlite and not os.access(connection.engine.url.database or "", os.W_OK):
        yield Finding("storage", "attention", f"{shown}: read-only", "make the file writable")
    for study_id, name in studies:
        yield from _study(connection, study_id, name)


def _schema(connection: "sqlalchemy.Connection", shown: str) -> Finding | None:
    from optuna.storages import RDBStorage

    url = connection.engine.url.render_as_string(hide_password=False)
    storage = RDBStorage(
        url.replace("{", "{{").replace("}", "}}"),  # Optuna fills the URL as a format string
        engine_kwargs={"poolclass": connection.engine.pool.__class__},
        skip_compatibility_check=True,
        skip_table_creation=True,
    )
    current, head = storage.get_current_version(), storage.get_head_version()
    if current == head:
        return None
    return Finding(
        "storage",
        "attention",
        f"{shown}: its tables are of Optuna's version {current}, this Optuna wants {head}",
        "optuna storage upgrade --storage URL, or use the Optuna that made it",
    )


def _study(connection: "sqlalchemy.Connection", study_id: int, name: str) -> Iterator[Finding]:
    import sqlalchemy

    query = sqlalchemy.text(
        "SELECT t.number, h.heartbeat, CURRENT_TIMESTAMP FROM trials t "
        "LEFT JOIN trial_heartbeats h ON h.trial_id = t.trial_id "
        "WHERE t.study_id = :study AND t.state = 'RUNNING' ORDER BY t.number"
    )
    dead, silent, alive = [], [], 0
    for number, heartbeat, now in connection.execute(query, {"study": study_id}):
        if heartbeat is None:
            silent.append(str(number))
        elif (_moment(now) - _moment(heartbeat)).total_seconds() > STALE_SECONDS:
            dead.append(str(number))
        else:
            alive += 1
    where = f"study {name!r}"
    again = "run the study's `pdsearch search` again: it tries them anew"
    if dead:
        text = f"trial(s) {', '.join(dead)} are marked as running, but their process has gone"
        yield Finding(where, "attention", text, again)
    if silent:
        text = f"trial(s) {', '.join(silent)} are marked as running and never gave a sign of life"
        yield Finding(where, "attention", text, f"if no search is running: {again}")
    if not dead and not silent:
        yield Finding(where, "ok", f"{alive} trial(s) running" if alive else "no trial is running")


def _moment(value: Any) -> datetime:
    """A time from the database, which SQLite hands over as text."""
    moment = datetime.fromisoformat(value) if isinstance(value, str) else value
    assert isinstance(moment, datetime)
    return moment.replace(tzinfo=None)
