"""The notes and pictures of `pdsearch dashboard`, by optuna-dashboard's own requests."""

import io
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import optuna
import optuna_dashboard
import pytest
from optuna.artifacts.exceptions import ArtifactNotFound

from pdsearch import Candidate, load_family, open_study, search
from pdsearch.study import StoredStudy
from pdsearch.study.notes import LIMIT, Notes, Pictures

Ask = Callable[..., tuple[int, Any]]


def above_a_half(candidate: Candidate) -> tuple[float, bool]:
    """At most ½ | *below* <b>zero</b>."""
    alpha = candidate.parameters["alpha"]
    return alpha, alpha <= 0.5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten trials: ReLU, two references, and candidates of which some are ruled out."""
    folder = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        search(
            families=[load_family("exp_tail")],
            train=lambda g: g.parameters.get("alpha", 0.0),
            criteria=[above_a_half],
            name="noted",
            trials=10,
            progress=False,
        )
    return folder


@pytest.fixture
def stored(folder: Path) -> StoredStudy:
    return open_study("noted", storage=f"sqlite:///{folder / 'pdsearch.db'}")


@pytest.fixture
def ask(stored: StoredStudy) -> Ask:
    """Send a request to optuna-dashboard, as its page does."""
    app = optuna_dashboard.wsgi(Notes(stored).storage(), artifact_store=Pictures(stored))

    def send(path: str, body: Any = None) -> tuple[int, Any]:
        data = json.dumps(body).encode()
        answer: list[str] = []
        environ = {
            "REQUEST_METHOD": "GET" if body is None else "PUT",
            "PATH_INFO": path,
            "wsgi.input": io.BytesIO(data),
            "wsgi.errors": io.StringIO(),
            "CONTENT_LENGTH": str(len(data)),
            "CONTENT_TYPE": "application/json",
        }
        found = b"".join(app(environ, lambda status, headers, *_: answer.append(status)))
        code = int(answer[0].split()[0])
        return code, json.loads(found) if found[:1] == b"{" else found

    return send


def _trials(ask: Ask) -> list[dict[str, Any]]:
    code, study = ask("/api/studies/1")
    assert code == 200
    return study["trials"]


def _content(folder: Path) -> list[Any]:
    with sqlite3.connect(folder / "pdsearch.db") as database:
        return list(database.iterdump())


def test_every_trial_has_a_note_and_a_picture(ask: Ask, stored: StoredStudy, folder: Path) -> None:
    before = _content(folder)
    rows = {row.number: row for row in stored.trials()}
    trials = _trials(ask)
    assert len(trials) == len(rows) == 10
    statuses = {row.status for row in rows.values()}
    assert statuses == {"complete", "ruled_out"}
    for trial in trials:
        row, body = rows[trial["number"]], trial["note"]["body"]
        escaped = row.candidate.family.name.replace("_", r"\_")
        assert body.startswith(f"**{escaped}") and row.kind in body
        assert f"`g(x) = {row.candidate.formula}`" in body
        (artifact,) = trial["artifacts"]
        address = f"/artifacts/1/{trial['trial_id']}/{artifact['artifact_id']}"
        assert f"![shape]({address})" in body
        code, svg = ask(address)
        assert code == 200 and artifact["mimetype"] == "image/svg+xml"
        paths = ElementTree.fromstring(svg).findall("{http://www.w3.org/2000/svg}path")
        assert len(paths) == 4
        if row.status == "ruled_out":
            assert "| ✗ | above\\_a\\_half |" in body
        for line in body.splitlines():
            if line.startswith("|"):
                assert line.replace("\\|", "").count("|") == 7, line
    assert _content(folder) == before, "showing a study must not write to it"


def test_a_note_that_a_reader_edits_stays(ask: Ask, stored: StoredStudy) -> None:
    trial = _trials(ask)[4]
    path = f"/api/studies/1/{trial['trial_id']}/note"
    assert ask(path, {"version": trial["note"]["version"] + 1, "body": "mine"})[0] == 204
    again = _trials(ask)[4]
    assert again["note"] == {"version": 1, "body": "mine"} and again["artifacts"]
    assert _trials(ask)[5]["note"]["body"] != "mine"
    assert ask(path, {"version": 1, "body": "late"})[0] == 409


def test_a_trial_without_a_candidate_has_no_note(stored: StoredStudy) -> None:
    trial = optuna.load_study(study_name="noted", storage=stored.url).ask()
    shown = Notes(stored).attributes(stored.study.get_trials(), {})
    assert sum(key.endswith(":note_ver") for key in shown) == 10
    with pytest.raises(ArtifactNotFound, match=f"no picture 'd5ea12c4-{trial._trial_id:x}'"):
        Pictures(stored).open_reader(f"d5ea12c4-{trial._trial_id:x}")


def test_a_long_note_is_cut_as_the_dashboard_does(ask: Ask, stored: StoredStudy) -> None:
    shown = Notes(stored).attributes(stored.study.get_trials(), {})
    assert all(len(text) <= LIMIT for key, text in shown.items() if "note_str" in key)
