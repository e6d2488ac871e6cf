"""Ctrl-C and SIGTERM: noted when they come, acted on between two steps.

Python runs a signal's handler between any two bytecodes of the main thread. An exception raised
there inside Optuna, SQLAlchemy or a driver leaves a transaction open, a lock held or a variable
unset. Within `handled` a signal is therefore noted, and `KeyboardInterrupt` is raised

* at once where only our own code, torch or a user's function runs (`exposed`, and the default),
* otherwise when the outermost `deferred` ends, or at the next `check`.

The handler raises it once: later signals do not interrupt the clean-up. What still hangs is
abandoned after `LEAVE` seconds, see `handled`.
"""

import contextlib
import gc
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, TypeVar

__all__ = [
    "adopt",
    "came",
    "check",
    "deferred",
    "deferring",
    "disown",
    "exposed",
    "handled",
    "pause",
]

_T = TypeVar("_T")

# Seconds from the first signal until what still hangs is abandoned: status 130 within five seconds,
# even on a machine that runs ten processes a core.
LEAVE = 2.5
INTERRUPTED = 130

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_WEAK = ("weakref.py", "_weakrefset.py")  # the standard library's callbacks
_AGAIN = 0.1  # seconds until an ignored signal is sent again
_END = b"\0"  # no signal has this number


class _State:
    """The signals of this process; only the main thread receives them."""

    active = False
    came: int | None = None
    raised = False
    insistent = False
    held = 0


_state = _State()
_children: set[int] = set()


def _here() -> bool:
    return _state.active and threading.current_thread() is threading.main_thread()


def came() -> bool:
    """Return whether a signal has come, so that the work must end."""
    return _state.came is not None


def check() -> None:
    """Raise KeyboardInterrupt if a signal has come; called at the end of a step."""
    if came() and _here():
        _state.raised = True
        raise KeyboardInterrupt


def pause(seconds: float) -> None:
    """Sleep until a signal comes, at most so long."""
    end = time.monotonic() + seconds
    while not came() and (left := end - time.monotonic()) > 0:
        time.sleep(min(left, 0.1))


class deferred:  # used as a statement
    """Only note a signal within; act on it when the outermost `deferred` ends."""

    def __enter__(self) -> None:
        self._before = _state.held
        if _here():
            _state.held = self._before + 1

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if not _here():
            return
        _state.held = self._before
        ending = kind is not None and issubclass(kind, KeyboardInterrupt)
        if _state.held == 0 and not _state.raised and not ending:
            check()


class exposed:  # used as a statement
    """Act on a signal at once, even within `deferred`: for code that trains or computes."""

    def __enter__(self) -> None:
        self._before = _state.held
        if not _here():
            return
        if not _state.raised:
            check()
        _state.held = 0

    def __exit__(self, *error: object) -> None:
        if _here():
            _state.held = self._before


def deferring(call: Callable[[_T], None]) -> Callable[[_T], None]:
    """Return a function of one argument that runs within `deferred`."""

    def deferred_call(argument: _T) -> None:
        with deferred():
            call(argument)

    return deferred_call


def _handle(number: int, frame: FrameType | None) -> None:
    if _state.came is None:
        _state.came = number
    waits = _state.held or _state.raised or _would_be_lost(frame)
    if _state.insistent or not waits:
        _state.raised = True
        raise KeyboardInterrupt


def _would_be_lost(frame: FrameType | None) -> bool:
    """Whether a callback runs in which Python drops exceptions.

    These are finalizers and the callbacks of weak references and garbage collections. The watching
    thread sends the signal again.
    """
    collecting = {getattr(callback, "__code__", None) for callback in gc.callbacks}
    while frame is not None:
        code = frame.f_code
        if code.co_name == "__del__" or code.co_filename.endswith(_WEAK) or code in collecting:
            return True
        frame = frame.f_back
    return False


@contextlib.contextmanager
def handled(*, leave: bool = False) -> Iterator[None]:
    """Handle SIGTERM like Ctrl-C, and both as described in this module. The outermost one counts.

    Nothing changes outside the main thread, which alone receives signals, nor for a caller that
    handles Ctrl-C in its own way.

    Args:
        leave: whether the process may be ended: `LEAVE` seconds after the first signal it exits
            with status 130, whatever it is doing, and kills the processes that it `adopt`ed.
            Otherwise the exception is then raised even within `deferred`.

    Raises:
        KeyboardInterrupt: a signal came; raised at the end at the latest.
    """
    if _state.active or threading.current_thread() is not threading.main_thread():
        yield
        return
    before: dict[int, Any] = {}
    watched = [
        number
        for number in _SIGNALS
        if number != signal.SIGINT or signal.getsignal(number) is signal.default_int_handler
    ]
    _state.came, _state.raised, _state.insistent, _state.held = None, False, False, 0
    with _watched(leave=leave):
        _state.active = True
        try:
            before.update({number: signal.signal(number, _handle) for number in watched})
            yield
            if came():
                raise KeyboardInterrupt
        except Exception as error:
            if came():  # a consequence: a storage that is not waited for, say
                raise KeyboardInterrupt from error
            raise
        finally:
            _state.held = 1  # too late to act on a signal
            for number, handler in before.items():
                signal.signal(number, handler)
            _state.active, _state.came, _state.held = False, None, 0


@contextlib.contextmanager
def _watched(*, leave: bool) -> Iterator[None]:
    """Watch for signals in a thread, which sees them even while the main one is in C code."""
    reader, writer = socket.socketpair()
    with reader, writer:
        writer.setblocking(False)
        previous = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        thread = threading.Thread(
            target=_watch, args=(reader, previous), kwargs={"leave": leave}, daemon=True
        )
        thread.start()
        try:
            yield
        finally:
            signal.set_wakeup_fd(previous)
            with contextlib.suppress(OSError):
                writer.send(_END)
            thread.join(timeout=1)


def _watch(reader: socket.socket, previous: int, *, leave: bool) -> None:
    end: float | None = None
    while True:
        reader.settimeout(None if end is None else _AGAIN)
        try:
            received = reader.recv(64)
        except TimeoutError:
            received = b""
        except OSError:  # closed
            return
        if _END in received:
            return
        if previous != -1 and received:
            with contextlib.suppress(OSError):
                os.write(previous, received)
        if end is None and any(number in received for number in _SIGNALS):
            end = time.monotonic() + LEAVE
        if end is not None and time.monotonic() > end:
            if leave:
                _leave()
            # Raise the exception in spite of `deferred`, and at every signal from now on.
            _state.insistent = True
            if not _state.raised:
                _send_again()
            return
        if not received and came() and not (_state.held or _state.raised):
            _send_again()


def _send_again() -> None:
    if _state.came is None:
        return
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(threading.main_thread().ident or 0, _state.came)
    else:  # Windows cannot send a signal to a thread
        signal.raise_signal(_state.came)


def _leave() -> None:
    """End the process, whatever its main thread is doing."""
    for child in list(_children):
        with contextlib.suppress(OSError):
            os.kill(child, signal.SIGKILL)
    text = "pdsearch: interrupted; left what did not end in time, run the same command again\n"
    with contextlib.suppress(OSError, ValueError):
        os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, text.encode())
    os._exit(INTERRUPTED)


def adopt(child: int) -> None:
    """Register a child process to be killed if this one must exit at once."""
    _children.add(child)


def disown(child: int) -> None:
    """Forget a child process that has ended: its number may be reused."""
    _children.discard(child)
