"""A process that takes part in another's confirmation: `python -m pdsearch.confirm.helper`.

It reads one JSON document from its standard input, see `retrain.confirm`, and ends with the process
that started it.
"""

import json
import signal
import sys

from pdsearch.confirm.retrain import confirm
from pdsearch.errors import PdsearchError
from pdsearch.family import Candidate
from pdsearch.study import open_study


def main() -> int:
    """Takes part until nothing is left to do."""
    # How the process that started this one ends it: as by Ctrl-C, what is finished is stored.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    request = json.load(sys.stdin)
    loud = request.pop("progress")
    candidates = [Candidate.from_dict(entry) for entry in request.pop("candidates")]
    try:
        stored = open_study(request.pop("study"), storage=request.pop("storage"))
        confirm(
            stored,
            candidates=candidates,
            workers=1,
            progress=(lambda line: print(line, file=sys.stderr, flush=True)) if loud else None,
            **request,
        )
    except KeyboardInterrupt:
        return 130
    except PdsearchError as error:
        print(f"pdsearch: a process that helps to confirm ended: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
