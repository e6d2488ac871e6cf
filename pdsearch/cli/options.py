"""The flags that several commands share, and what they stand for."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from pdsearch.errors import InputError

if TYPE_CHECKING:
    from pdsearch.study import StoredStudy, StudyFile

__all__ = [
    "STUDY",
    "TARGET",
    "TRUST",
    "Parser",
    "add_begun_study",
    "add_changes",
    "add_json",
    "add_set",
    "add_storage",
    "add_study",
    "add_training",
    "add_variant",
    "changes_of",
    "natural",
    "positive",
    "progress",
    "settings_of",
    "stored_study",
    "study_of",
    "training_of",
    "workers",
]

TARGET = """\
TARGET is one of
  exp_tail                 a family of the library (`pdsearch families`)
  my_family.py[:name]      a Python file that defines a Family (the file is run)
  candidate.json           a candidate that was exported
  a formula                text in x, such as "Piecewise((1, x > 0), (a*exp(x), True))";
                           --set or --param declares its parameters. Put -- before a formula
                           that begins with a minus sign.
"""

STUDY = "STUDY is a study file (.toml) or the name of a study in the storage."

TRUST = """\
With the file, its settings must be those that the study was begun with. With the name, no Python
file is run that only the storage names, unless --trust-study-code is given.
"""


class Parser(argparse.ArgumentParser):
    """Argparse's, with our own end for wrong words."""

    def error(self, message: str) -> NoReturn:
        """End as all other bad input does: in one line, with exit status 2."""
        raise InputError(f"{message} (see {self.prog} --help)")


# -------------------------------------------------------------------------------------- values


def natural(text: str, least: int = 0) -> int:
    """Read a whole number from 0 on."""
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a whole number, got {text!r}") from None
    if value < least:
        raise argparse.ArgumentTypeError(f"must be at least {least}, got {value}")
    return value


def positive(text: str) -> int:
    """Read a whole number from 1 on."""
    return natural(text, least=1)


def workers(text: str) -> int | str:
    """Read a number of processes, or "auto"."""
    return text if text == "auto" else positive(text)


def _url(text: str) -> str:
    # What an unset variable leaves of "$STORAGE": the default instead would be another study's.
    if not text.strip():
        raise argparse.ArgumentTypeError("is empty: give a URL such as sqlite:///pdsearch.db")
    return text


def _split(pair: str, form: str) -> tuple[str, str]:
    name, equals, value = pair.partition("=")
    if not equals or not name.strip() or not value.strip():
        raise InputError(f"--set needs {form}, got {pair!r}")
    return name.strip(), value.strip()


# ------------------------------------------------------------------------------ any command's


def add_json(command: argparse.ArgumentParser) -> None:
    """Add --json."""
    command.add_argument("--json", action="store_true", help="one JSON document on stdout")


def progress(arguments: argparse.Namespace) -> bool:
    """Return whether progress is shown: unless -q is given."""
    return not getattr(arguments, "quiet", False)


# ----------------------------------------------------------------------------------- a target's


def add_set(command: argparse.ArgumentParser, help: str) -> None:
    """Add --set NAME=VALUE, which sets parameters."""
    command.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help=help)


def settings_of(arguments: argparse.Namespace) -> dict[str, float]:
    """Return the parameters that --set gives: `a=0.3` is {"a": 0.3}."""
    settings: dict[str, float] = {}
    for pair in arguments.set:
        name, value = _split(pair, "NAME=VALUE")
        try:
            settings[name] = float(value)
        except ValueError:
            raise InputError(f"--set {name} needs a number, got {value!r}") from None
    return settings


def add_variant(command: argparse.ArgumentParser) -> None:
    """Add --fade and --direction."""
    command.add_argument(
        "--fade",
        choices=("linear", "cosine", "switch"),
        help="let the target fade into ReLU's own derivative during training; --set end=0.1 sets "
        "the share of training after which it has",
    )
    command.add_argument(
        "--direction",
        choices=("both", "up"),
        help="up: below zero pass only gradients that would raise the unit",
    )


# ------------------------------------------------------------------------------------ a study's


def add_storage(command: argparse.ArgumentParser, *, of_file: bool = True) -> None:
    """Add --storage."""
    default = "$PDSEARCH_STORAGE, else sqlite:///pdsearch.db where you stand"
    command.add_argument(
        "--storage",
        type=_url,
        metavar="URL",
        help="default: " + ("the study file's, else " if of_file else "") + default,
    )


def add_study(command: argparse.ArgumentParser) -> None:
    """Add STUDY and --storage."""
    command.add_argument("study", metavar="STUDY")
    add_storage(command)


def add_changes(command: argparse.ArgumentParser, why: str) -> None:
    """Add --set section.key=value, which changes the study file's settings."""
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="section.key=value",
        help=f"change a setting of the study file (repeat for more); {why}",
    )


def add_begun_study(command: argparse.ArgumentParser) -> None:
    """Add STUDY, --storage, --set and --trust-study-code: a study that has begun."""
    add_study(command)
    add_changes(command, "as for the search: a study that has begun keeps its settings")
    command.add_argument(
        "--trust-study-code",
        action="store_true",
        help="with a study's name: run the Python files that its storage names (a model's, "
        "criteria's), and write where it says; whoever can write to the storage chooses them",
    )


def changes_of(arguments: argparse.Namespace) -> dict[str, str]:
    """Return what --set changes in a study file."""
    return dict(_split(pair, "section.key=value") for pair in arguments.set)


def study_of(arguments: argparse.Namespace, **more: str) -> "StudyFile | str":
    """Return the study file with what --set and `more` change in it, or the study's name."""
    from pdsearch.study import load_study_file
    from pdsearch.study.settings import is_file_spec

    if not is_file_spec(arguments.study):
        if arguments.set:
            raise InputError("--set changes a study file's settings: give the file, not the name")
        return str(arguments.study)
    return load_study_file(Path(arguments.study), overrides=more | changes_of(arguments))


def stored_study(study: "StudyFile | str", storage: str | None) -> "StoredStudy":
    """Open a study that has begun."""
    from pdsearch.study import open_study

    return open_study(study, storage=storage)


# ----------------------------------------------------------------------------------- training's


def add_training(command: argparse.ArgumentParser, *, seed: str) -> None:
    """Add --device, --threads, --seed and --storage-wait."""
    command.add_argument(
        "--device",
        default="auto",
        help="cpu, cuda or cuda:N; auto (the default): a CUDA device if there is one, else the CPU",
    )
    command.add_argument(
        "--threads",
        type=positive,
        metavar="N",
        help="CPU threads of each trial; default: those that the study was begun with (search and "
        "worker refuse others), or of a new one $OMP_NUM_THREADS, else by the machine's cores",
    )
    command.add_argument("--seed", type=natural, metavar="N", help=seed)
    command.add_argument(
        "--storage-wait",
        type=natural,
        metavar="SECONDS",
        help="how long the storage may be unreachable once trials run, such as while a server "
        "restarts; default: 600",
    )


def training_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments those flags make for a training function, except the seed."""
    given = {"device": arguments.device, "threads": arguments.threads}
    wait = arguments.storage_wait
    return given if wait is None else {**given, "storage_wait": wait}
