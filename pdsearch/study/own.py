"""Criteria of one's own that a study file names: their functions, and the text that is kept."""

import ast
from collections.abc import Mapping
from pathlib import Path

from pdsearch.criteria import UserCriterion, read_criterion
from pdsearch.errors import InputError
from pdsearch.study.settings import CriteriaSection

KEPT = "own_criteria"
"""The study attribute: each file's text, by `path.py:function`."""


def load_own(
    criteria: CriteriaSection, *, directory: Path
) -> tuple[tuple[UserCriterion, ...], dict[str, str]]:
    """The functions, and the texts of the files they come from, by `path.py:function`.

    Args:
        criteria: the study file's section.
        directory: what relative paths are relative to.

    Raises:
        InputError: every one that cannot be had, one a line.
    """
    functions, texts, problems = [], {}, []
    for index, spec in enumerate(criteria.own):
        try:
            function, texts[spec] = read_criterion(spec, directory=directory)
            functions.append(function)
        except InputError as error:
            problems.append(f"criteria.own.{index}: {error}")
    if problems:
        raise InputError("\n".join(problems))
    return tuple(functions), texts


def changed(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Those whose files say something else than they did: remarks and layout do not count."""
    return [
        spec for spec, text in now.items() if spec in before and _said(before[spec]) != _said(text)
    ]


def _said(text: str) -> str:
    return ast.dump(ast.parse(text))
