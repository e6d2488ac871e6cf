"""The command line.

Each command is a module, listed in `pdsearch.cli.parser`, that imports nothing heavy until it runs.
"""

import errno
import logging
import os
import sys
import traceback
from collections.abc import Sequence

from pdsearch import interrupt
from pdsearch.cli.output import data_only, flush, note
from pdsearch.cli.parser import COMMANDS, parse
from pdsearch.errors import PdsearchError, without_middle
from pdsearch.masking import mask

__all__ = ["INTERRUPTED", "main"]

OK, FAILED, BAD_INPUT, INTERRUPTED, BUG = 0, 1, 2, 130, 70

# Errors of the machine or of a path, rather than bugs.
_REFUSALS = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EISDIR),
    *(errno.ENAMETOOLONG, errno.ENOTDIR, errno.ELOOP),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: The words after `pdsearch`; those of `sys.argv` if None.

    Returns:
        0 success · 1 a required criterion does not hold, or something needs attention · 2 invalid
        input · 130 interrupted · 70 a bug in pdsearch.
    """
    # Must be set before torch is imported. Otherwise waiting OpenMP threads spin on cores that
    # other processes could use. On two cores with two other busy processes, a search on digits with
    # two threads took 400 s (374 s of CPU time), and 96 s (59 s) with sleeping threads.
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
            _configure(getattr(arguments, "verbose", 0))
            with data_only():
                status: int = COMMANDS[arguments.command].run(arguments)
        return status
    except SystemExit as stop:  # --help and --version
        return stop.code if isinstance(stop.code, int) else OK
    except PdsearchError as error:
        note(f"pdsearch: error: {error}")
        return BAD_INPUT
    except KeyboardInterrupt:
        kept = "; everything finished so far is kept, run the same command again to resume"
        note("pdsearch: interrupted" + (kept if trains else ""))
        return INTERRUPTED
    except OSError as error:
        if error.errno not in _REFUSALS:
            return _bug()
        where = f"{without_middle(str(error.filename))}: " if error.filename else ""
        note(f"pdsearch: error: {where}{error.strerror}")
        return BAD_INPUT
    except Exception:
        return _bug()


def _configure(verbose: int) -> None:
    """Set the log levels."""
    levels = (logging.WARNING, logging.INFO, logging.DEBUG)
    logging.basicConfig(format="%(name)s: %(message)s", level=logging.WARNING)
    logging.getLogger("pdsearch").setLevel(levels[min(verbose, 2)])


def _bug() -> int:
    sys.stderr.write(mask(traceback.format_exc()))
    note(
        "pdsearch: this is a bug of ours: please report the lines above, the command and the "
        "output of `pdsearch doctor`"
    )
    return BUG
