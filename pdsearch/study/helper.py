"""One of a search's further processes: `python -m pdsearch.study.helper`; see `api._start_worker`.

It takes the study file from the process that started it, not from the storage.
"""

import sys
from pathlib import Path
from typing import Any

from pdsearch.study.api import worker
from pdsearch.study.settings import validate
from pdsearch.study.workers import take_part


def main() -> int:
    """Runs trials until nothing is left to begin."""

    def work(request: dict[str, Any]) -> None:
        file = validate(request["file"], directory=Path(request["directory"]))
        worker(
            file,
            storage=request["storage"],
            device=request["device"],
            storage_wait=request["storage_wait"],
            progress=False,
        )

    return take_part(work)


if __name__ == "__main__":
    sys.exit(main())
