"""Directions that a study searches are kept with its trials, and are parameters to enqueue."""

from pathlib import Path
from typing import Any

import optuna
import pytest

from pdsearch import search
from pdsearch.study import SearchResult
from pdsearch.study.settings import FamilySpec

LEAKY: FamilySpec = {"family": "leaky", "direction": ["up", "both"]}
URL = "sqlite:///study.db"


def run(trials: int, seen: list[tuple[float, str]], **keys: Any) -> SearchResult:
    def train(candidate: Any) -> float:
        seen.append((candidate.parameters.get("alpha", -1.0), candidate.direction))
        return 0.5 + 0.1 * (candidate.direction == "up")

    return search(
        families=[LEAKY], references=[], train=train, trials=trials, storage=URL, progress=False,
        **keys,
    )  # fmt: skip


@pytest.mark.parametrize("sampler", ["random", "grid", "tpe"])
def test_what_is_read_back_is_what_was_trained(workdir: Path, sampler: str) -> None:
    seen: list[tuple[float, str]] = []
    result = run(9, seen, sampler=sampler)
    rows = [row for row in result.stored.trials() if row.kind == "candidate"]
    kept = [(row.parameters["alpha"], row.candidate.direction) for row in rows if row.candidate]
    assert {direction for _, direction in kept} == {"up", "both"}
    assert set(seen[1:]) <= set(kept)
    for row in rows:
        trial = result.stored.study.trials[row.number]
        assert row.candidate is not None
        assert row.candidate.direction == trial.params["leaky.direction"]
    assert result.best is not None and result.best.candidate is not None
    assert result.best.candidate.direction == "up"


def test_a_direction_may_be_enqueued(workdir: Path) -> None:
    seen: list[tuple[float, str]] = []
    run(2, seen)
    study = optuna.load_study(study_name="pdsearch", storage=URL)
    for direction in ("down", "up"):
        study.enqueue_trial({"family": "leaky", "leaky.direction": direction})
    seen.clear()
    result = run(3, seen)
    assert [direction for _, direction in seen] == ["up"]
    refused = [t for t in result.stored.study.trials if t.state.name == "FAIL"]
    assert [t.user_attrs["pdsearch:reason"] for t in refused] == [
        "enqueued with leaky.direction 'down': valid are up, both"
    ]
