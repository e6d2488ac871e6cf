"""Several processes at one confirmation: each takes the runs that no other is at.

What is done is known from the storage, and what another process is at from a file's lock, which
the system releases however its holder ends. So nobody hands anything out: a second `pdsearch
confirm` of the same study on this machine helps the first, and takes over where it is killed.
"""

from collections.abc import Callable, Container, Sequence
from pathlib import Path

from pdsearch import interrupt
from pdsearch.files import locked

PAUSE = 1.0  # seconds between two looks at what others are at, where nothing else is left


def take_turns(
    keys: Sequence[str],
    run: Callable[[str], None],
    *,
    done: Callable[[], Container[str]],
    folder: Path,
) -> None:
    """Has every key done, in their order: by `run`, or by another process that is at it.

    Args:
        keys: what there is to do.
        run: does one, and sees to it that `done` has it afterwards.
        done: those that are, by whichever process.
        folder: of the files that are locked.
    """
    left = list(keys)
    while left:
        finished = done()
        left = [key for key in left if key not in finished]
        for key in left:
            lock = folder / f"{key.rpartition('/')[2]}.lock"
            with locked(lock, wait=False) as mine:
                if not mine:
                    continue
                try:
                    if key not in done():  # it may have been finished since
                        run(key)
                finally:
                    lock.unlink(missing_ok=True)
                break
        else:
            if left:
                interrupt.pause(PAUSE)
                interrupt.check()
