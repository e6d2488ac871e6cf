"""What optuna-dashboard shows of a trial: a note and a picture, made when it asks for them.

Nothing is written to the storage. optuna-dashboard keeps notes and the list of artifacts in system
attributes of the study, whose names were read in optuna-dashboard 0.21.
"""

import io
import json
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO

from optuna.artifacts.exceptions import ArtifactNotFound
from optuna.trial import FrozenTrial

from pdsearch.errors import UnsupportedError
from pdsearch.family import parts_of
from pdsearch.family.shapes import picture
from pdsearch.study.innards import OverlaidStorage, study_id, trial_id
from pdsearch.study.rows import TrialRow
from pdsearch.study.stored import StoredStudy
from pdsearch.text import bound, number, place, printable

LIMIT = 2_045
"""Characters that optuna-dashboard keeps in one attribute."""


class Notes:
    """The notes and pictures of a study's trials; those of finished trials are made once."""

    def __init__(self, stored: StoredStudy) -> None:
        self._stored, self._made = stored, dict[int, dict[str, Any]]()

    def storage(self) -> OverlaidStorage:
        """Return the study's storage with the notes."""
        return OverlaidStorage(self._stored.study, self.attributes)

    def attributes(
        self, trials: Sequence[FrozenTrial], stored: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return the system attributes that hold them, except notes that a reader has edited."""
        fresh = {t.number: t for t in trials if trial_id(t) not in self._made}
        if fresh:
            study = study_id(self._stored.study)
            for row in self._stored.trials():
                if row.number in fresh and row.candidate is not None:
                    number = trial_id(fresh[row.number])
                    self._made[number] = _attributes(row, study, number)
        shown: dict[str, Any] = {}
        for trial in trials:
            made = self._made.get(trial_id(trial), {})
            if f"dashboard:{trial_id(trial)}:note_ver" in stored:
                made = {key: value for key, value in made.items() if "note" not in key}
            shown |= made
            if not trial.state.is_finished():
                self._made.pop(trial_id(trial), None)
        return shown


def _attributes(row: TrialRow, study: int, trial: int) -> dict[str, Any]:
    identifier = _identifier(trial)
    body = _note(row, f"/artifacts/{study}/{trial}/{identifier}")
    parts = [body[at : at + LIMIT] for at in range(0, len(body), LIMIT)]
    artifact = {
        "artifact_id": identifier,
        "filename": "shape.svg",
        "mimetype": "image/svg+xml",
        "encoding": None,
    }
    return {
        f"dashboard:{trial}:note_ver": 0,
        **{f"dashboard:{trial}:note_str:{i}": part for i, part in enumerate(parts)},
        f"dashboard:artifacts:{trial}:{identifier}": json.dumps(artifact),
    }


def _note(row: TrialRow, address: str) -> str:
    """Return a trial's note in Markdown: the shape, the formula, the criteria, the reason."""
    candidate = row.candidate
    assert candidate is not None
    lines = [f"**{_plain(candidate.name)}** ({row.kind}, {row.status})", f"![shape]({address})"]
    for group, part in parts_of(candidate).items():
        begin = f"{_plain(group)}: " if group else ""
        lines.append(f"{begin}`g(x) = {printable(part.formula)}`")
    if row.reason:
        lines.append(_plain(row.reason))
    if criteria := (row.criteria or {}).get("criteria"):
        table = [
            "| | criterion | verdict | value | bound | fails at |",
            "|---|---|---|---|---|---|",
        ]
        for one in criteria:
            cells = (
                "✓" if one["passed"] else "✗",
                one["name"],
                one["verdict"],
                number(one["value"]),
                bound(one["bound"]),
                place(one["witness"]),
            )
            table.append(f"| {' | '.join(map(_plain, cells))} |")
        lines.append("\n".join(table))
    return "\n\n".join(lines)


def _plain(text: object) -> str:
    """Return a text on one line in which Markdown sees no markup."""
    line = " ".join(printable(text).split())
    return "".join(f"\\{c}" if c in "\\`*_{}[]()<>#!|~$" else c for c in line)


class Pictures:
    """The store of artifacts that optuna-dashboard reads: a picture of each trial's candidate."""

    def __init__(self, stored: StoredStudy) -> None:
        self._stored = stored

    def open_reader(self, artifact_id: str) -> BinaryIO:
        """Open a picture.

        Raises:
            ArtifactNotFound: There is no such trial, or it has no candidate.
        """
        trials = self._stored.study.get_trials(deepcopy=False)
        numbers = {t.number for t in trials if artifact_id == _identifier(trial_id(t))}
        for row in self._stored.trials():
            if row.number in numbers and row.candidate is not None:
                return io.BytesIO(picture(*parts_of(row.candidate).values()).encode())
        raise ArtifactNotFound(f"no picture {artifact_id!r}")

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        """Refuse an upload: where a study's files are kept is for its search to say."""
        raise UnsupportedError("pdsearch dashboard stores no uploaded files")

    def remove(self, artifact_id: str) -> None:
        """Keep a picture: it is made anew."""


def _identifier(trial: int) -> str:
    """Return the identifier of a trial's picture: hexadecimal, as optuna-dashboard requires."""
    return f"d5ea12c4-{trial:x}"
