"""Exceptions that callers may distinguish, and helpers that shorten text for messages.

Invalid user input raises `InputError`. The command line turns any `PdsearchError` into one line on
stderr and exit status 2. Any other exception that escapes is a bug in pdsearch.
"""

__all__ = [
    "FormulaError",
    "InputError",
    "PdsearchError",
    "StorageError",
    "UnsupportedError",
    "first_line",
    "one_line",
    "short",
    "shortened",
    "without_middle",
]


class PdsearchError(Exception):
    """Base class of all errors that pdsearch raises deliberately."""


class InputError(PdsearchError, ValueError):
    """Invalid user input. The message names the value, its place and the valid choices."""


class FormulaError(InputError):
    """A formula that cannot be parsed or cannot be a pseudo-derivative."""


class StorageError(PdsearchError):
    """A storage that cannot be reached, read or written. The message never holds a password."""


class UnsupportedError(PdsearchError, RuntimeError):
    """A combination that torch or Optuna cannot handle correctly."""


def first_line(error: object) -> str:
    """Return the first line of an error's message or of a text; "" if it is empty."""
    return (str(error).splitlines() or [""])[0]


def one_line(error: BaseException) -> str:
    """Return an error's message on one line; its type's name if it has no message."""
    return " ".join((str(error) or type(error).__name__).split())


def shortened(text: str, most: int) -> str:
    """Return the text, cut to `most` characters with `...` at the end."""
    return text if len(text) <= most else text[: most - 3] + "..."


def without_middle(text: str) -> str:
    """Return the text, or only its two ends if it is longer than 300 characters: for paths."""
    return text if len(text) <= 300 else f"{text[:120]}...{text[-120:]}"


def short(value: object, most: int = 60) -> str:
    """Return a value as printable ASCII, cut to `most` characters; text keeps its closing quote."""
    text = ascii(value)
    end = text[-1] if isinstance(value, str) and len(text) > most else ""
    return shortened(text, most - len(end)) + end
