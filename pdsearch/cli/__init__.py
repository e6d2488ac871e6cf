"""The command line: words to calls, results to text or JSON, errors to exit statuses.

It has no logic of its own, and imports nothing heavy until a command runs.
"""

import errno
import os
import sys
import traceback
from collections.abc import Sequence

from pdsearch import interrupt
from pdsearch.cli.arguments import parse
from pdsearch.cli.output import data_only, flush, note
from pdsearch.errors import PdsearchError
from pdsearch.masking import mask

__all__ = ["INTERRUPTED", "main"]

OK, FAILED, BAD_INPUT, INTERRUPTED, BUG = 0, 1, 2, 130, 70

# What the machine refuses, and paths that can name nothing, as against what we did wrong.
_REFUSALS = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EISDIR),
    *(errno.ENAMETOOLONG, errno.ENOTDIR, errno.ELOOP),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the words after `pdsearch`; `sys.argv`'s if None.

    Returns:
        0 done · 1 a required criterion does not hold, or something needs attention · 2 bad input ·
        130 interrupted · 70 a bug of ours.
    """
    # Before torch is imported: OpenMP's threads wait by spinning unless told otherwise, and spin
    # away the cores that others use. A search of the digits on two threads, beside two other busy
    # processes on two cores, took 400 s (374 of CPU time), and 96 s (59) with threads that sleep.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    status = _run(sys.argv[1:] if argv is None else list(argv))
    flush()
    return status


def _run(argv: list[str]) -> int:
    trains = False
    try:
        with interrupt.handled(leave=True):
            arguments = parse(argv)
            trains = "device" in arguments
            from pdsearch.cli import commands

            commands.configure(arguments)
            with data_only():
                status: int = getattr(commands, arguments.command.replace("-", "_"))(arguments)
        return status
    except SystemExit as stop:  # --help and --version
        return stop.code if isinstance(stop.code, int) else OK
    except PdsearchError as error:
        note(f"pdsearch: error: {error}")
        return BAD_INPUT
    except KeyboardInterrupt:
        kept = "; everything finished so far is kept, run the same command again to go on"
        note("pdsearch: interrupted" + (kept if trains else ""))
        return INTERRUPTED
    except OSError as error:
        if error.errno not in _REFUSALS:
            return _bug()
        where = f"{_shortened(str(error.filename))}: " if error.filename else ""
        note(f"pdsearch: error: {where}{error.strerror}")
        return BAD_INPUT
    except Exception:
        return _bug()


def _shortened(path: str) -> str:
    return path if len(path) <= 300 else f"{path[:120]}...{path[-120:]}"


def _bug() -> int:
    sys.stderr.write(mask(traceback.format_exc()))
    note(
        "pdsearch: this is a bug of ours: please report the lines above with the command, and what "
        "`pdsearch doctor` prints"
    )
    return BUG
