"""``python -m pdsearch``: the same as the ``pdsearch`` command."""

import os
import sys
from typing import NoReturn

from pdsearch.cli import INTERRUPTED, main


def entry() -> NoReturn:
    """Run the command line and end the process with its exit status."""
    status = main()
    if status == INTERRUPTED:
        # On a busy machine a normal exit takes seconds, because Python tears torch down first.
        os._exit(status)
    sys.exit(status)


if __name__ == "__main__":
    entry()
