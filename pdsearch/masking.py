"""Masks passwords in text to be shown: in a URL before its `@`, and among its options."""

import re

__all__ = ["HIDDEN", "is_secret", "mask"]

HIDDEN = "***"

# The last @ of a word ends a password, which may contain others. `Path` leaves one slash of a URL's
# two.
_CREDENTIALS = re.compile(
    r"(?P<before>\b[A-Za-z][A-Za-z0-9+_.-]*://?[^:/?#@\s]*:)(?P<password>\S*)@"
)
# An option's name, an equals sign, and its value to the end of the word or the option.
_OPTION = re.compile(
    r"(?P<before>(?:(?<=[?&;\s,{('\"])|^)(?P<name>[A-Za-z_][\w.-]*)['\"]?=)"
    r"(?P<value>'[^']*'|\"[^\"]*\"|[^&;\s'\",)}]+)"
)
_SECRET = re.compile(r"pass(?!file)|pwd|secret|token|credential|odbc_connect|(?:^|_)key$")
"""Names of options whose value is a secret: `password`, `sslpassword`, `PGPASSWORD`, `passwd`,
`private_key_passphrase`, `api_key`; ODBC's option that holds a whole connection string."""


def is_secret(name: str) -> bool:
    """Return whether an option of that name holds a secret, not the path of a file with one."""
    return _SECRET.search(name.lower().replace("-", "_")) is not None


def mask(text: str) -> str:
    """Return the text with its passwords replaced by `***`."""
    text = _CREDENTIALS.sub(lambda found: f"{found['before']}{HIDDEN}@", text)
    return _OPTION.sub(
        lambda found: f"{found['before']}{HIDDEN}" if is_secret(found["name"]) else found[0], text
    )
