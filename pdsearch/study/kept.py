"""What a storage keeps of a study file: everything but its own URL, which may hold a password."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pdsearch.study.settings import StudyFile
from pdsearch.study.url import shown_url

if TYPE_CHECKING:
    import optuna

SETTINGS = "pdsearch:settings"
"""The study attribute."""


def kept_settings(settings: StudyFile) -> dict[str, Any]:
    """The settings as they are stored."""
    data = settings.model_dump(mode="json")
    del data["study"]["storage"]
    return data


def clean(study: "optuna.Study") -> None:
    """Takes the URL out of what an earlier version has stored."""
    kept = study.user_attrs.get(SETTINGS)
    if not isinstance(kept, Mapping):
        return
    section = kept.get("study")
    if isinstance(section, Mapping) and "storage" in section:
        section = {key: value for key, value in section.items() if key != "storage"}
        study.set_user_attr(SETTINGS, {**kept, "study": section})


def with_storage(data: Any, url: str) -> Any:
    """Stored settings with the URL that the study was opened by, as it may be shown."""
    section = data.get("study") if isinstance(data, Mapping) else None
    if not isinstance(section, Mapping):
        return data
    return {**data, "study": {**section, "storage": shown_url(url)}}
