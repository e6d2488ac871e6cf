"""The exceptions that callers may want to tell apart, and how messages show a value or an error.

Everything a user can get wrong is an `InputError`; the command line turns any `PdsearchError`
into one line on stderr and exit status 2. Anything else that escapes is a bug of ours.
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
    """Base of all errors that pdsearch raises on purpose."""


class InputError(PdsearchError, ValueError):
    """Something the user gave is wrong: the message says what, where, and what would be valid."""


class FormulaError(InputError):
    """The text of a formula, or the expression it stands for, cannot be a pseudo-derivative."""


class StorageError(PdsearchError):
    """A study's storage cannot be reached, read or written. Never holds a password."""


class UnsupportedError(PdsearchError, RuntimeError):
    """A combination that torch or Optuna cannot do right, refused rather than done wrong."""


def first_line(error: object) -> str:
    """Return what an error or a text says without its further lines; "" if it says nothing."""
    return (str(error).splitlines() or [""])[0]


def one_line(error: BaseException) -> str:
    """Return an error's message without line breaks; the error's type if it has no message."""
    return " ".join((str(error) or type(error).__name__).split())


def shortened(text: str, most: int) -> str:
    """Return the text, or its beginning and `...`, in at most so many characters."""
    return text if len(text) <= most else text[: most - 3] + "..."


def without_middle(text: str) -> str:
    """Return the text, or both its ends if it is longer than 300 characters: for paths."""
    return text if len(text) <= 300 else f"{text[:120]}...{text[-120:]}"


def short(value: object, most: int = 60) -> str:
    """Return a value as printable ASCII, cut to `most` characters."""
    return shortened(ascii(value), most)
