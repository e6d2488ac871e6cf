"""``python -m pdsearch``: the same as the ``pdsearch`` command."""

import os
import sys
from typing import NoReturn

from pdsearch.cli import INTERRUPTED, main


def entry() -> NoReturn:
    """Runs the command that was typed, and ends the process."""
    status = main()
    if status == INTERRUPTED:
        # At once: on a busy machine Python takes seconds to take torch apart.
        os._exit(status)
    sys.exit(status)


if __name__ == "__main__":
    entry()
