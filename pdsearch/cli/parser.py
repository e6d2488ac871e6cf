"""The table of commands, and the parser of the command line."""

import argparse
import difflib
import re
from collections.abc import Sequence
from types import ModuleType

from pdsearch import __version__
from pdsearch.cli import (
    check,
    confirm,
    criteria,
    dashboard,
    doctor,
    export,
    families,
    init,
    report,
    search,
    status,
    worker,
)
from pdsearch.cli.options import Parser
from pdsearch.errors import InputError

# In the order of `pdsearch --help`. Each module has SUMMARY, ABOUT and EXAMPLES for its help text,
# `add_arguments`, and `run`, which returns the exit status.
_MODULES = (
    *(families, check, search, worker, status, report, confirm, export),
    *(criteria, dashboard, doctor, init),
)
COMMANDS: dict[str, ModuleType] = {m.__name__.rpartition(".")[2]: m for m in _MODULES}

# Flags that several values may follow: each further word that matches the pattern is one of them.
_SEVERAL = {
    "--set": re.compile(r"[A-Za-z_][\w.]*=(?!=)"),
    "--param": re.compile(r"[A-Za-z_]\w*=(?!=)"),
    "--transfer": re.compile(r"[^-][^@]*@"),
}


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the words after `pdsearch`.

    Raises:
        InputError: The words are not a valid command.
    """
    words: list[str] = []
    pattern: re.Pattern[str] | None = None
    flag = ""
    for i, word in enumerate(argv):
        if pattern is not None and argv[i - 1] != flag and pattern.match(word):
            words.append(flag)  # `--set a=1 b=2` means `--set a=1 --set b=2`
        elif pattern is None or argv[i - 1] != flag:
            flag, pattern = word, _SEVERAL.get(word)
            # In `confirm STUDY --candidate A B`, B is a candidate; without STUDY, B may be it.
            if word == "--candidate" and _study_comes_first(argv[:i]):
                pattern = re.compile(r"[^-]")
        words.append(word)
    arguments, unknown = _parser().parse_known_args(words)
    if unknown:
        raise InputError(_unrecognized(unknown, arguments.command))
    return arguments


def _unrecognized(words: Sequence[str], command: str) -> str:
    """Return the message for words that a command does not take."""
    flag = next((word for word in words if word.startswith("--")), "").partition("=")[0]
    sub = Parser(add_help=False, parents=[_shared()])
    COMMANDS[command].add_arguments(sub)
    near = difflib.get_close_matches(flag, sub.flags, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"unrecognized arguments: {' '.join(words)} ({hint}see pdsearch {command} --help)"


def _study_comes_first(words: Sequence[str]) -> bool:
    """Return whether the word after `confirm` is the study rather than a flag."""
    after = list(words[words.index("confirm") + 1 :]) if "confirm" in words else []
    return bool(after) and not after[0].startswith("-")


def _parser() -> argparse.ArgumentParser:
    shared = _shared()
    form = argparse.RawDescriptionHelpFormatter
    root = Parser(
        prog="pdsearch",
        description="Design, check and search pseudo-derivatives (surrogate gradients) for ReLU.",
        epilog="pdsearch COMMAND --help describes a command and gives examples.\n\n"
        "exit status: 0 success, 1 a required criterion does not hold (check) or something needs\n"
        "attention (doctor), 2 invalid input, 130 interrupted, 70 a bug in pdsearch",
        formatter_class=form,
        parents=[shared],
        allow_abbrev=False,
    )
    commands = root.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, module in COMMANDS.items():
        summary = module.SUMMARY
        command = commands.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.\n\n{module.ABOUT}".rstrip(),
            epilog=f"examples:\n{module.EXAMPLES}".rstrip(),
            formatter_class=form,
            parents=[shared],
            allow_abbrev=False,
        )
        module.add_arguments(command)
    return root


def _shared() -> Parser:
    """Return the flags that may be given before or after any command."""
    shared = Parser(add_help=False)
    group = shared.add_mutually_exclusive_group()
    # Without SUPPRESS, the command's default would overwrite a flag given before the command.
    hidden = argparse.SUPPRESS
    group.add_argument(
        "-q", "--quiet", action="store_true", default=hidden, help="show no progress"
    )
    group.add_argument(
        "-v",
        "--verbose",
        action="count",
        default=hidden,
        help="show more messages; -vv shows all of them",
    )
    shared.add_argument("--version", action="version", version=f"pdsearch {__version__}")
    return shared
