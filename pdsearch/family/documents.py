"""The JSON of families, candidates and groups of them: its versions, and what is checked first."""

import json
from collections.abc import Mapping
from typing import Any

from pdsearch.errors import InputError

SCHEMA = 2
"""Version of the JSON of families and candidates; older versions stay readable.

Version 2 added directions. JSON without them is still written as version 1."""

GROUPED_SCHEMA = 3
"""Version of the JSON of a candidate for each group. It is above `SCHEMA`, so that versions of
pdsearch without groups ask for an update."""

JSON_LIMIT = 1_000_000  # bytes; a candidate is about 500


def check_schema(data: Mapping[str, Any], what: str, *, newest: int = SCHEMA) -> None:
    """Check that data is an object of a version that can be read.

    Raises:
        InputError: it is not.
    """
    if not isinstance(data, Mapping):
        raise InputError(f"a {what}'s JSON must be an object")
    schema = data.get("schema")
    if not isinstance(schema, int) or isinstance(schema, bool) or schema < 1:
        raise InputError(f"a {what}'s JSON lacks its schema version")
    if schema > newest:
        raise InputError(
            f"this {what} was written by a newer pdsearch (schema {schema}, this version reads up "
            f"to {newest}): update pdsearch"
        )


def read_object(text: str, what: str) -> dict[str, Any]:
    """Return a JSON document that is an object.

    Raises:
        InputError: the text is too long, not JSON, or another value.
    """
    if len(text) > JSON_LIMIT:
        raise InputError(f"a {what}'s JSON has {len(text):,} characters: too long")
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"not JSON ({error})") from None
    if not isinstance(data, dict):
        raise InputError(f"a {what}'s JSON must be an object")
    return data
