"""The words of the command line: commands, flags, help."""

import argparse
import re
from collections.abc import Sequence
from typing import NoReturn

from pdsearch import __version__
from pdsearch.errors import InputError

__all__ = ["parse"]

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

AS_SEARCHED = "as the search was told to: a study that has begun keeps its settings"

EXAMPLES = {
    "families": """\
  pdsearch families
  pdsearch families --json""",
    "check": """\
  pdsearch check b_silu
  pdsearch check exp_tail --set alpha=0.5 --profile strict
  pdsearch check my_family.py --family --map
  pdsearch check exp_tail --own my_criteria.py:below_one
  pdsearch check exp_tail --fade switch --set end=0.1 --direction up
  pdsearch check "Piecewise((1, x > 0), (a*exp(x), True))" --param a=0.01:1 --html check.html""",
    "search": """\
  pdsearch search studies/digits.toml
  pdsearch search studies/digits.toml --trials 30
  pdsearch search studies/digits.toml --set study.name=digits5 trial.epochs=5""",
    "worker": """\
  pdsearch worker studies/alexnet_cifar10.toml --storage postgresql+psycopg://user@host/db""",
    "status": """\
  pdsearch status studies/digits.toml
  pdsearch status digits --json""",
    "report": """\
  pdsearch report studies/digits.toml -o report.html""",
    "confirm": """\
  pdsearch confirm studies/digits.toml --seeds 8 --top 3
  pdsearch confirm studies/digits.toml --candidate b_silu --controls
  pdsearch confirm studies/alexnet_cifar10.toml --transfer resnet18@cifar100""",
    "export": """\
  pdsearch export studies/digits.toml -o pd_relu.py
  pdsearch export exp_tail --set alpha=0.5 -o candidate.json
  pdsearch export studies/digits.toml --trial 7 -o best.tex""",
    "criteria": """\
  pdsearch criteria studies/digits.toml""",
    "dashboard": """\
  pdsearch dashboard studies/digits.toml""",
    "doctor": """\
  pdsearch doctor
  pdsearch doctor --storage sqlite:///pdsearch.db --json""",
    "init": """\
  pdsearch init my_search && cd my_search && pdsearch search study.toml""",
}


class _Parser(argparse.ArgumentParser):
    """Wrong words end as every other bad input does: one line, exit 2."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message} (see {self.prog} --help)")


def _verbosity() -> "_Parser":
    shared = _Parser(add_help=False)
    group = shared.add_mutually_exclusive_group()
    # SUPPRESS: given before the command, they would otherwise be reset by the command's default.
    group.add_argument(
        "-q", "--quiet", action="store_true", default=argparse.SUPPRESS, help="no progress"
    )
    group.add_argument(
        "-v",
        "--verbose",
        action="count",
        default=argparse.SUPPRESS,
        help="say more on stderr; twice: everything",
    )
    shared.add_argument("--version", action="version", version=f"pdsearch {__version__}")
    return shared


def _positive(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a whole number, got {text!r}") from None
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def _natural(text: str) -> int:
    try:
        return _positive(text)
    except argparse.ArgumentTypeError as error:
        if text.strip() == "0":
            return 0
        raise argparse.ArgumentTypeError(str(error).replace("at least 1", "at least 0")) from None


def _workers(text: str) -> int | str:
    return text if text == "auto" else _positive(text)


def _port(text: str) -> int:
    value = _positive(text)
    if value > 65_535:
        raise argparse.ArgumentTypeError(f"must be at most 65535, got {value}")
    return value


def _url(text: str) -> str:
    # What an unset variable leaves of "$STORAGE": the default instead would be another study's.
    if not text.strip():
        raise argparse.ArgumentTypeError("is empty: give a URL such as sqlite:///pdsearch.db")
    return text


# After each of these flags several values may follow; what still looks like one belongs to it.
_SEVERAL = {
    "--set": re.compile(r"[A-Za-z_][\w.]*=(?!=)"),
    "--param": re.compile(r"[A-Za-z_]\w*=(?!=)"),
    "--transfer": re.compile(r"[^-][^@]*@"),
}


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read the words after `pdsearch`.

    Raises:
        InputError: they make no command.
    """
    words: list[str] = []
    pattern: re.Pattern[str] | None = None
    flag = ""
    for i, word in enumerate(argv):
        if pattern is not None and argv[i - 1] != flag and pattern.match(word):
            words.append(flag)  # `--set a=1 b=2` means `--set a=1 --set b=2`
        elif pattern is None or argv[i - 1] != flag:
            flag, pattern = word, _SEVERAL.get(word)
            # In `confirm STUDY --candidate A B` B is a candidate too; else it may be the study.
            if word == "--candidate" and _study_comes_first(argv[:i]):
                pattern = re.compile(r"[^-]")
        words.append(word)
    return parser().parse_args(words)


def _study_comes_first(words: Sequence[str]) -> bool:
    """Whether the word after `confirm` is the study rather than a flag."""
    after = list(words[words.index("confirm") + 1 :]) if "confirm" in words else []
    return bool(after) and not after[0].startswith("-")


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    root = _Parser(
        prog="pdsearch",
        description="Design, check and search pseudo-derivatives (surrogate gradients) for ReLU.",
        epilog="pdsearch COMMAND --help tells more about a command, with examples.\n\n"
        "exit status: 0 done, 1 a required criterion does not hold (check) or something needs\n"
        "attention (doctor), 2 bad input, 130 interrupted, 70 a bug of ours",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[_verbosity()],
        allow_abbrev=False,
    )
    commands = root.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def add(name: str, summary: str, about: str = "") -> argparse.ArgumentParser:
        command = commands.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.\n\n{about}".rstrip(),
            epilog=f"examples:\n{EXAMPLES[name]}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            parents=[_verbosity()],
            allow_abbrev=False,
        )
        return command

    families = add("families", "list the library: name, formula, parameters, reference")
    _json(families)

    check = add(
        "check",
        "decide the design criteria for a candidate or a family",
        f"{TARGET}\nA family is checked at one point: its defaults, with what --set changes (a "
        "parameter given by\n--param alone at the middle of its range). --family decides the whole "
        "range.",
    )
    check.add_argument("target", metavar="TARGET")
    _set(check, "a parameter's value (repeat for more)")
    check.add_argument(
        "--param",
        action="append",
        default=[],
        metavar="NAME=LOW:HIGH[:log]",
        help="declare a formula's parameter with its range",
    )
    _variant(check)
    check.add_argument(
        "--family", action="store_true", help="decide over the whole parameter box, not one point"
    )
    check.add_argument(
        "--map",
        action="store_true",
        help="with --family: which part of the box is proved, refuted, undecided",
    )
    check.add_argument(
        "--own",
        action="append",
        default=[],
        metavar="FILE.py:FUNCTION",
        help="a criterion of your own, listed after the ten (repeat for more; the file is run)",
    )
    check.add_argument(
        "--profile",
        choices=("paper", "strict"),
        default="paper",
        help="the criteria that must hold: the abstract's (default), or ours as well",
    )
    _json(check)
    check.add_argument("--html", metavar="FILE", help="also write the report as one HTML file")

    search = add(
        "search",
        "run a study, or go on with one",
        "The study file's `trials` is the total: the same command again finishes what is missing.\n"
        "At the end the report and the best candidate are in <output>/<name>/.",
    )
    search.add_argument("study", metavar="STUDY.toml")
    search.add_argument("--trials", type=_positive, metavar="N", help="the study's total")
    _storage(search)
    search.add_argument(
        "--workers",
        type=_workers,
        metavar="N",
        help="processes side by side, or auto; default: the study file's, which is auto unless set",
    )
    _changes(search, "a study that has begun keeps its settings, so set study.name as well")
    _json(search)
    _training(search, seed="of the sampler and of every training; default: the study file's")

    worker = add("worker", "join a study that others are running", f"{STUDY}\n{TRUST}")
    _study(worker)
    _changes(worker, AS_SEARCHED)
    _trust(worker)
    _training(worker, seed="must be the study's; may be left out")

    status = add("status", "how far a study is", STUDY)
    _study(status)
    _json(status)

    report = add("report", "write a study's report as one HTML file", STUDY)
    _study(report)
    report.add_argument("-o", "--output", required=True, metavar="report.html")

    confirm = add(
        "confirm",
        "retrain the best over several seeds and test them against ReLU",
        f"{STUDY}\n{TRUST}\nThe only command that looks at the test set.",
    )
    _study(confirm)
    _changes(confirm, AS_SEARCHED)
    _trust(confirm)
    confirm.add_argument(
        "--seeds",
        type=_positive,
        metavar="N",
        help="over how many, decided beforehand: adding some until p is small makes p too small "
        "(default: the study file's)",
    )
    confirm.add_argument(
        "--top",
        type=_natural,
        default=3,
        metavar="N",
        help="how many of the study's best candidates (default 3)",
    )
    confirm.add_argument("--epochs", type=_positive, metavar="E", help="default: the study file's")
    confirm.add_argument(
        "--rate-epochs",
        type=_positive,
        metavar="E",
        help="of the runs that choose each row's rate of trial.learning_rates; default: the study "
        "file's rate_epochs, else as --epochs",
    )
    confirm.add_argument(
        "--candidate",
        action="append",
        default=[],
        metavar="TARGET",
        help="one more row: a family at its defaults, path.py[:name], candidate.json or a formula "
        "without parameters (repeat for more)",
    )
    confirm.add_argument(
        "--controls",
        action="store_true",
        help="also the ordinary activation whose true derivative is the best candidate's g, and "
        "LeakyReLU, GELU and SiLU; of a stream of tasks LeakyReLU (0.01 and 0.1), ELU, CReLU, "
        "LayerNorm, L2 towards the initial weights and continual backprop",
    )
    confirm.add_argument(
        "--forward-control",
        action="store_true",
        help="only the first of these controls",
    )
    confirm.add_argument(
        "--transfer",
        action="append",
        default=[],
        metavar="MODEL@DATASET",
        help="repeat it on another model and data set",
    )
    confirm.add_argument(
        "--workers", type=_workers, metavar="N", help="processes side by side; default: auto"
    )
    _json(confirm)
    _training(
        confirm,
        seed="the first of the seeds; default: the study's + 1000, far from those of the search",
    )

    export = add(
        "export",
        "write a candidate as a standalone torch file, JSON or LaTeX",
        f"{STUDY} Of a study the best candidate is taken, or --trial's;\nwhere a family of the "
        f"library has the same name, the family.\n\n{TARGET.replace('--set or --param', '--set')}",
    )
    export.add_argument("source", metavar="STUDY|TARGET")
    _set(export, "change a parameter's value (repeat for more)")
    _variant(export)
    _storage(export)
    export.add_argument("--trial", type=_natural, metavar="N", help="that trial's candidate")
    export.add_argument("-o", "--output", required=True, metavar="FILE.py|.json|.tex")
    export.add_argument("--force", action="store_true", help="replace a file that is there")

    criteria = add(
        "criteria",
        "learned criteria: what the study's trials say about each criterion",
        STUDY,
    )
    _study(criteria)
    _json(criteria)

    dashboard = add(
        "dashboard",
        "open optuna-dashboard on the study's storage, on this machine only",
        f"{STUDY}\nNeeds one more package: pip install optuna-dashboard",
    )
    _study(dashboard)
    dashboard.add_argument("--port", type=_port, default=8080, metavar="N", help="default 8080")

    doctor = add("doctor", "what is installed, reachable, stale or broken, and what to do")
    _storage(doctor, of_file=False)
    _json(doctor)

    init = add("init", "write a starter family and study file that run")
    init.add_argument("directory", metavar="DIRECTORY", nargs="?", default=".")
    return root


def _json(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="one JSON document on stdout")


def _set(command: argparse.ArgumentParser, help: str) -> None:
    command.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help=help)


def _variant(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--fade",
        choices=("linear", "cosine", "switch"),
        help="let the target fade into ReLU's own derivative as training goes on; --set end=0.1 "
        "sets the share of training after which it has",
    )
    command.add_argument(
        "--direction",
        choices=("both", "up"),
        help="up: below zero pass only gradients that would raise the unit",
    )


def _changes(command: argparse.ArgumentParser, why: str) -> None:
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="section.key=value",
        help=f"change a setting of the study file (repeat for more); {why}",
    )


def _trust(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--trust-study-code",
        action="store_true",
        help="with a study's name: run the Python files that its storage names (a model's, "
        "criteria's), and write where it says; whoever can write to the storage chooses them",
    )


def _storage(command: argparse.ArgumentParser, *, of_file: bool = True) -> None:
    default = "$PDSEARCH_STORAGE, else sqlite:///pdsearch.db where you stand"
    command.add_argument(
        "--storage",
        type=_url,
        metavar="URL",
        help="default: " + ("the study file's, else " if of_file else "") + default,
    )


def _study(command: argparse.ArgumentParser) -> None:
    command.add_argument("study", metavar="STUDY")
    _storage(command)


def _training(command: argparse.ArgumentParser, *, seed: str) -> None:
    command.add_argument(
        "--device",
        default="auto",
        help="cpu, cuda or cuda:N; auto (the default): a CUDA device if there is one, else the CPU",
    )
    command.add_argument(
        "--threads",
        type=_positive,
        metavar="N",
        help="CPU threads of each trial; default: those that the study was begun with (search and "
        "worker refuse others), or of a new one $OMP_NUM_THREADS, else by the machine's cores",
    )
    command.add_argument("--seed", type=_natural, metavar="N", help=seed)
    command.add_argument(
        "--storage-wait",
        type=_natural,
        metavar="SECONDS",
        help="how long a storage may be away once trials run (a server that restarts); "
        "default: 600",
    )
