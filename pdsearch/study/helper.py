"""One of a search's further processes; see `api._start_worker`.

It takes the study file from the process that started it, not from the storage.
"""

from pathlib import Path
from typing import Any

from pdsearch.study.api import worker
from pdsearch.study.settings import validate


def work(request: dict[str, Any]) -> None:
    """Runs trials until nothing is left to begin."""
    worker(
        validate(request["file"], directory=Path(request["directory"])),
        storage=request["storage"],
        device=request["device"],
        storage_wait=request["storage_wait"],
        progress=False,
    )
