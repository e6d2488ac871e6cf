"""A storage's URL: read, and shown without what is secret in it."""

import re
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, quote, quote_plus, unquote

from pdsearch.errors import InputError, StorageError, first_line
from pdsearch.masking import HIDDEN, is_secret, mask

if TYPE_CHECKING:
    from sqlalchemy import URL

_CREDENTIALS = re.compile(r"[A-Za-z0-9+_.-]+://[^:/@]*:(?P<password>.*)@")
_OPTIONS = re.compile(r"\?[A-Za-z_]\w*=")


def parse_url(url: str) -> "URL":
    """An SQLAlchemy URL from its text.

    A password may hold `@ / : { }` and `%` as they are: the last `@` ends it.

    Raises:
        InputError: it is no such URL; the text is not repeated, for it may hold a password.
        StorageError: the driver is missing.
    """
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    text = url
    if found := _credentials(url):
        password = found["password"]
        # Percent signs that begin no escape are meant as they are.
        plain = unquote(password) if re.search(r"%[0-9A-Fa-f]{2}", password) else password
        start, end = found.span("password")
        text = url[:start] + quote(plain, safe="") + url[end:]
    try:
        parsed = make_url(text)
        parsed.get_dialect()
    except (ArgumentError, ValueError):
        raise InputError(
            "the storage must be an SQLAlchemy URL such as sqlite:///pdsearch.db or "
            f"postgresql+psycopg://user:password@host/database, got {_masked(url)}"
        ) from None
    except ImportError as error:
        raise missing_driver(url, error) from None
    return parsed


def shown_url(url: str) -> str:
    """The URL without its password and the secrets among its options."""
    try:
        parsed = parse_url(url)
    except (InputError, StorageError):
        return _masked(url)
    query = {key: HIDDEN if is_secret(key) else value for key, value in parsed.query.items()}
    # SQLAlchemy would write the asterisks as %2A.
    return parsed.set(query=query).render_as_string(hide_password=True).replace("%2A", "*")


def struck(text: str, url: str) -> str:
    """A text in which a driver may have repeated what is secret in a URL, without it."""
    for secret in sorted(_secrets(url), key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return mask(text)


def missing_driver(url: str, error: ImportError) -> StorageError:
    """The error for a URL whose driver is not installed."""
    scheme = url.split(":", 1)[0]
    install = (
        "pip install 'psycopg[binary]' and write postgresql+psycopg://…"
        if scheme.startswith("postgres")
        else "install the driver of that database"
    )
    # Optuna wraps the error that knows the module's name.
    cause = error.__cause__ if isinstance(error.__cause__, ImportError) else error
    missing = cause.name or first_line(cause)
    return StorageError(f"storage {_masked(url)}: Python module {missing} is missing; {install}")


def _credentials(url: str) -> re.Match[str] | None:
    """Scheme, user and password of a URL that has one; an `@` among its options ends none."""
    options = _OPTIONS.search(url)
    before = _CREDENTIALS.search(url, 0, options.start()) if options else None
    return before or _CREDENTIALS.search(url)


def _masked(url: str) -> str:
    found = _credentials(url)
    if found:
        start, end = found.span("password")
        return mask(f"{url[:start]}{HIDDEN}{url[end:]}")
    return mask(repr(url)) if "@" not in url else "(not shown: it may hold a password)"


def _secrets(url: str) -> set[str]:
    """What must not be shown of a URL, as it is written and as it is meant."""
    found = {match["password"]} if (match := _credentials(url)) else set()
    options = parse_qsl(url.partition("?")[2], keep_blank_values=True)
    for key, value in options:
        if is_secret(key):
            # ODBC's one option holds options of its own.
            inner = [part.partition("=")[::2] for part in value.split(";")]
            found |= {value, *(told for name, told in inner if is_secret(name))}
    meant = found | {unquote(secret) for secret in found}
    written = {write(secret, safe="") for secret in meant for write in (quote, quote_plus)}
    return (meant | written) - {""}
