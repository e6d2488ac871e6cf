"""What decides a study's results and no setting tells: the images, the model's own file."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pdsearch.data import Dataset
    from pdsearch.trial import TrialSettings

CONTENT = "content"
"""The study attribute: a digest of what each file that a setting names holds, by the setting."""


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
