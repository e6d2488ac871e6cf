"""``python -m pdsearch``: the same as the ``pdsearch`` command."""

import sys

from pdsearch.cli import main

sys.exit(main())
