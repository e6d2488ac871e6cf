"""The flags that several commands share, and functions that read them."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from pdsearch.errors import InputError

if TYPE_CHECKING:
    from pdsearch.study import StoredStudy, StudyFile

TARGET = """\
TARGET is one of
  exp_tail                 a built-in family (see `pdsearch families`)
  my_family.py[:name]      a Python file that defines a Family (the file is run)
  candidate.json           an exported candidate
  a formula                text in x, such as "Piecewise((1, x > 0), (a*exp(x), True))";
                           --set or --param declares its parameters. Put -- before a formula
                           that begins with a minus sign.
"""

STUDY = "STUDY is a study file (.toml) or the name of a study in the storage."

TRUST = """\
A study file must have the settings that the study was begun with. Given a study's name, Python
files that only the storage names are not run unless --trust-study-code is given.
"""


class Parser(argparse.ArgumentParser):
    """An argument parser that raises `InputError` for invalid arguments."""

    def error(self, message: str) -> NoReturn:
        """Raise the message as an `InputError`."""
        raise InputError(f"{message} (see {self.prog} --help)")

    @property
    def flags(self) -> list[str]:
        """Every long flag."""
        return [flag for flag in self._option_string_actions if flag.startswith("--")]


# -------------------------------------------------------------------------------------- values


def natural(text: str, least: int = 0) -> int:
    """Read a whole number of at least `least`."""
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a whole number, got {text!r}") from None
    if value < least:
        raise argparse.ArgumentTypeError(f"must be at least {least}, got {value}")
    return value


def positive(text: str) -> int:
    """Read a whole number of at least 1."""
    return natural(text, least=1)


def workers(text: str) -> int | str:
    """Read a number of processes, or "auto"."""
    return text if text == "auto" else positive(text)


def _url(text: str) -> str:
    # An unset variable in "$STORAGE" leaves an empty text; the default would be another study's.
    if not text.strip():
        raise argparse.ArgumentTypeError("is empty: give a URL such as sqlite:///pdsearch.db")
    return text


def _split(pair: str, form: str) -> tuple[str, str]:
    name, equals, value = pair.partition("=")
    if not equals or not name.strip() or not value.strip():
        raise InputError(f"--set needs {form}, got {pair!r}")
    return name.strip(), value.strip()


# --------------------------------------------------------------------------------- any command


def add_repeated(command: argparse.ArgumentParser, flag: str, metavar: str, help: str) -> None:
    """Add a flag that may be given more than once."""
    help = f"{help} (repeat for more)"
    command.add_argument(flag, action="append", default=[], metavar=metavar, help=help)


def add_json(command: argparse.ArgumentParser) -> None:
    """Add --json."""
    command.add_argument("--json", action="store_true", help="print one JSON document")


def progress(arguments: argparse.Namespace) -> bool:
    """Return whether to show progress: unless -q is given."""
    return not getattr(arguments, "quiet", False)


# ------------------------------------------------------------------------------------- targets


def add_set(command: argparse.ArgumentParser) -> None:
    """Add --set NAME=VALUE, which sets a parameter of the target."""
    add_repeated(command, "--set", "NAME=VALUE", "set a parameter's value")


def settings_of(arguments: argparse.Namespace) -> dict[str, float]:
    """Return the parameters given by --set: `a=0.3` becomes {"a": 0.3}."""
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
        help="fade the target into ReLU's own derivative during training; --set end=0.1 sets the "
        "fraction of training after which the fade is complete",
    )
    command.add_argument(
        "--direction",
        choices=("both", "up"),
        help="up: below zero, pass only gradients that would raise the unit",
    )


# ------------------------------------------------------------------------------------- studies


def add_storage(command: argparse.ArgumentParser, *, of_file: bool = True) -> None:
    """Add --storage."""
    default = "$PDSEARCH_STORAGE, else sqlite:///pdsearch.db in the working directory"
    command.add_argument(
        "--storage",
        type=_url,
        metavar="URL",
        help="default: " + ("the study file's, else " if of_file else "") + default,
    )


def add_launcher(command: argparse.ArgumentParser) -> None:
    """Add --launcher and --gpus-per-worker."""
    command.add_argument(
        "--launcher",
        choices=("local", "ray", "slurm"),
        default="local",
        help="where the workers run: local, this machine; or an existing cluster, which starts "
        "--workers N of them, each with as many CPUs as --threads (default there: 1)",
    )
    command.add_argument(
        "--gpus-per-worker",
        type=natural,
        default=0,
        metavar="N",
        help="GPUs of each worker on a cluster, 0 or 1; default: 0",
    )


def add_study(command: argparse.ArgumentParser) -> None:
    """Add STUDY and --storage."""
    command.add_argument("study", metavar="STUDY")
    add_storage(command)


def add_changes(command: argparse.ArgumentParser) -> None:
    """Add --set section.key=value, which changes the study file's settings."""
    help = "change a setting of the study file; changed settings need another study.name"
    add_repeated(command, "--set", "section.key=value", help)


def add_begun_study(command: argparse.ArgumentParser) -> None:
    """Add the flags of an existing study: STUDY, --storage, --set and --trust-study-code."""
    add_study(command)
    add_changes(command)
    command.add_argument(
        "--trust-study-code",
        action="store_true",
        help="with a study's name: run the Python files named in its storage (model, criteria), "
        "and write to the output folder named there; anyone who can write to the storage chooses "
        "them",
    )


def changes_of(arguments: argparse.Namespace) -> dict[str, str]:
    """Return the changes of a study file that --set gives."""
    return dict(_split(pair, "section.key=value") for pair in arguments.set)


def study_of(arguments: argparse.Namespace, **more: str) -> "StudyFile | str":
    """Return the study's name, or the study file with the changes of `more` and --set applied."""
    from pdsearch.study import load_study_file
    from pdsearch.study.settings import is_file_spec

    if not is_file_spec(arguments.study):
        if arguments.set:
            raise InputError("--set changes a study file's settings: give the file, not the name")
        return str(arguments.study)
    return load_study_file(Path(arguments.study), overrides=more | changes_of(arguments))


def stored_study(study: "StudyFile | str", storage: str | None) -> "StoredStudy":
    """Open an existing study."""
    from pdsearch.study import open_study

    return open_study(study, storage=storage)


# ------------------------------------------------------------------------------------ training


def add_training(command: argparse.ArgumentParser, *, seed: str) -> None:
    """Add --device, --threads, --seed and --storage-wait."""
    command.add_argument(
        "--device",
        default="auto",
        help="cpu, cuda, cuda:N, mps (Apple; not measured) or auto; default: auto, which takes a "
        "CUDA device if there is one, else the CPU",
    )
    command.add_argument(
        "--threads",
        type=positive,
        metavar="N",
        help="CPU threads of each trial; default: the study's (search and worker refuse others); "
        "for a new study $OMP_NUM_THREADS, else by the number of cores",
    )
    command.add_argument("--seed", type=natural, metavar="N", help=seed)
    command.add_argument(
        "--storage-wait",
        type=natural,
        metavar="SECONDS",
        help="how long to wait for a storage that becomes unreachable during training, as while a "
        "server restarts; default: 600",
    )


def training_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the keyword arguments that these flags give, without the seed."""
    given = {"device": arguments.device, "threads": arguments.threads}
    wait = arguments.storage_wait
    return given if wait is None else {**given, "storage_wait": wait}
