"""The exceptions that callers of pdsearch may want to tell apart.

Everything a user can get wrong is an `InputError`; the command line turns any `PdsearchError`
into one line on stderr and exit status 2. Anything else that escapes is a bug of ours.
"""

__all__ = [
    "FormulaError",
    "InputError",
    "PdsearchError",
    "StorageError",
    "UnsupportedError",
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
