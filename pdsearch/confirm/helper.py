"""One of a confirmation's further processes.

It is told its part by `retrain.confirm`: the study file too, which it takes from the process that
started it, not from the storage.
"""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from pdsearch.confirm.retrain import confirm
from pdsearch.family import Candidate
from pdsearch.study.settings import validate
from pdsearch.study.stored import open_study


def work(request: dict[str, Any]) -> None:
    """Takes part until nothing is left to do."""
    loud = request.pop("progress")
    candidates = [Candidate.from_dict(entry) for entry in request.pop("candidates")]
    directory = Path(request.pop("directory"))
    file = validate(request.pop("file"), directory=directory)
    stored = open_study(request.pop("study"), storage=request.pop("storage"))
    confirm(
        replace(
            stored,
            settings=file,
            directory=directory,
            output=Path(request.pop("output")),
            trusted=True,
        ),
        candidates=candidates,
        workers=1,
        progress=(lambda line: print(line, file=sys.stderr, flush=True)) if loud else None,
        **request,
    )
