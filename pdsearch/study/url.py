"""A storage's URL: parsing it, and showing it without its secrets."""

import re
from urllib.parse import parse_qsl, quote, quote_plus, unquote

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from pdsearch.errors import InputError, StorageError, first_line
from pdsearch.masking import HIDDEN, is_secret, mask

_CREDENTIALS = re.compile(r"[A-Za-z0-9+_.-]+://[^:/@]*:(?P<password>.*)@")
_OPTIONS = re.compile(r"\?[A-Za-z_]\w*=")


def parse_url(url: str) -> URL:
    """Parse an SQLAlchemy URL.

    A password may contain `@ / : { }` and `%` unescaped: the last `@` ends it.

    Raises:
        InputError: it is not such a URL; a password in it is not repeated.
        StorageError: the driver is missing.
    """
    text = url
    if found := _credentials(url):
        password = found["password"]
        # Percent signs that begin no escape stand for themselves.
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
    """Return the URL without its password and the secrets among its options."""
    try:
        parsed = parse_url(url)
    except (InputError, StorageError):
        return _masked(url)
    query = {key: HIDDEN if is_secret(key) else value for key, value in parsed.query.items()}
    # SQLAlchemy would write the asterisks as %2A.
    return parsed.set(query=query).render_as_string(hide_password=True).replace("%2A", "*")


def struck(text: str, url: str) -> str:
    """Return a driver's text without the secrets of a URL, which it may repeat."""
    for secret in sorted(_secrets(url), key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return mask(text)


def missing_driver(url: str, error: ImportError) -> StorageError:
    """Return the error for a URL whose driver is not installed."""
    scheme = url.split(":", 1)[0]
    install = (
        "pip install 'psycopg[binary]' and write postgresql+psycopg://…"
        if scheme.startswith("postgres")
        else "install the driver of that database"
    )
    # Optuna wraps the error that names the module.
    cause = error.__cause__ if isinstance(error.__cause__, ImportError) else error
    missing = cause.name or first_line(cause)
    return StorageError(f"storage {_masked(url)}: Python module {missing} is missing; {install}")


def _credentials(url: str) -> re.Match[str] | None:
    """Match scheme, user and password; an `@` among the options does not end a password."""
    options = _OPTIONS.search(url)
    before = _CREDENTIALS.search(url, 0, options.start()) if options else None
    return before or _CREDENTIALS.search(url)


def _masked(url: str) -> str:
    found = _credentials(url)
    if found:
        start, end = found.span("password")
        return mask(f"{url[:start]}{HIDDEN}{url[end:]}")
    return mask(repr(url)) if "@" not in url else "(not shown: it may contain a password)"


def _secrets(url: str) -> set[str]:
    """Return the secrets of a URL, escaped and unescaped."""
    found = {match["password"]} if (match := _credentials(url)) else set()
    for key, value in parse_qsl(url.partition("?")[2], keep_blank_values=True):
        if is_secret(key):
            # ODBC's single option contains a whole list of options.
            inner = [part.partition("=")[::2] for part in value.split(";")]
            found |= {value, *(text for name, text in inner if is_secret(name))}
    plain = found | {unquote(secret) for secret in found}
    escaped = {write(secret, safe="") for secret in plain for write in (quote, quote_plus)}
    return (plain | escaped) - {""}
