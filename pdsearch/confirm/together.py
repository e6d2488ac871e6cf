"""Several processes at one confirmation: each takes the runs that no other is at.

What is done is known from the storage, and what another process is at from a file's lock, which
the system releases however its holder ends. So nobody hands anything out: a second `pdsearch
confirm` of the same study on this machine helps the first, and takes over where it is killed.
"""

import contextlib
from collections.abc import Callable, Container, Iterator, Sequence
from pathlib import Path

from pdsearch import interrupt

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
            with _claimed(folder / f"{key.rpartition('/')[2]}.lock") as mine:
                # It may have been finished since.
                if mine and key not in done():
                    run(key)
                if mine:
                    break
        else:
            if left:
                interrupt.pause(PAUSE)
                interrupt.check()


@contextlib.contextmanager
def _claimed(path: Path) -> Iterator[bool]:
    """Whether nobody else is at what a file stands for, and until the end nobody else will be."""
    try:
        import fcntl
    except ImportError:  # no such locks on Windows: one process there
        yield True
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        try:
            yield True
        finally:
            path.unlink(missing_ok=True)
