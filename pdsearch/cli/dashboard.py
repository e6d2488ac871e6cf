"""`pdsearch dashboard`."""

import argparse
import socket

from pdsearch.cli.options import STUDY, add_study, positive, stored_study
from pdsearch.cli.output import note
from pdsearch.errors import InputError, UnsupportedError

SUMMARY = "serve optuna-dashboard for the study's storage, on this machine only"
ABOUT = (
    f"{STUDY}\nEach trial's note shows its shape, its formula and its criteria.\n"
    "Requires an extra package: pip install optuna-dashboard"
)
EXAMPLES = """\
  pdsearch dashboard studies/digits.toml
"""


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add the study and the port."""
    add_study(command)
    command.add_argument("--port", type=_port, default=8080, metavar="N", help="default: 8080")


def _port(text: str) -> int:
    value = positive(text)
    if value > 65_535:
        raise argparse.ArgumentTypeError(f"must be at most 65535, got {value}")
    return value


def run(arguments: argparse.Namespace) -> int:
    """Serve optuna-dashboard on this machine until interrupted."""
    try:
        from optuna_dashboard import run_server
    except ModuleNotFoundError as error:
        raise UnsupportedError(
            "the dashboard is not installed: pip install optuna-dashboard"
        ) from error
    from pdsearch.study.notes import Notes, Pictures

    stored = stored_study(arguments.study, arguments.storage)
    _check_port(arguments.port)
    note(f"study {stored.name}: http://127.0.0.1:{arguments.port}/ (stop with Ctrl-C)")
    run_server(
        Notes(stored).storage(),
        host="127.0.0.1",
        port=arguments.port,
        artifact_store=Pictures(stored),
    )
    return 0


def _check_port(port: int) -> None:
    """Raise `InputError` if the port cannot be used, before the server reports that it starts."""
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does
        try:
            trial.bind(("127.0.0.1", port))
        except OSError as error:
            raise InputError(
                f"port {port} cannot be used ({error.strerror}): choose another with --port"
            ) from None
