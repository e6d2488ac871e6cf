"""What decides a study's results and no setting tells: the files that its settings name.

Of images and a model's file a digest is kept, of a criterion's file its text.
"""

import ast
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pdsearch.criteria import UserCriterion, read_criterion
from pdsearch.errors import InputError
from pdsearch.study.settings import CriteriaSection

if TYPE_CHECKING:
    from pdsearch.data import Dataset
    from pdsearch.trial import TrialSettings


def content_of(
    trial: "TrialSettings", dataset: "Dataset | None", *, directory: Path
) -> dict[str, str]:
    """The digests as of now; none where a Python function trains and no data set is known.

    The test images are among a data set's: a search never looks at them, its confirmation does.

    Args:
        trial: the settings that name them.
        dataset: as loaded.
        directory: what a relative path of the model is relative to.
    """
    if dataset is None:
        return {}
    from pdsearch.models import source_digest

    found = {f"trial.dataset {trial.dataset!r}": dataset.fingerprint}
    source = source_digest(trial.model, directory=directory)
    if source is not None:
        found[f"trial.model {trial.model!r}"] = source
    return found


def other_content(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The settings that say what they said, and mean something else; those not kept are passed."""
    return [key for key in now if key in before and before[key] != now[key]]


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


def changed_texts(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Those whose files say something else than they did: remarks and layout do not count."""
    return [
        spec for spec, text in now.items() if spec in before and _said(before[spec]) != _said(text)
    ]


def _said(text: str) -> str:
    return ast.dump(ast.parse(text))
