"""Storages: their troubles in one line without a password, several processes, PostgreSQL."""

import contextlib
import json
import os
import re
import sqlite3
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy
from forked import Forked
from optuna.storages import RDBStorage
from PIL import Image
from tiny import MODEL, write_tiny
from torch import nn

from pdsearch import Candidate, InputError, search
from pdsearch.confirm import confirm
from pdsearch.errors import StorageError
from pdsearch.family import Drawn
from pdsearch.study import StoredStudy, open_study, worker
from pdsearch.study.api import SearchResult
from pdsearch.study.rows import TrialRow
from pdsearch.study.storage import connect, parse_url, shown_url
from pdsearch.trial import TrialResult

MILD = {"formula": "Piecewise((1, x > 0), (a, True))", "space": {"a": [0.1, 0.3]}, "name": "mild"}


@pytest.fixture(autouse=True)
def _here(workdir: Path) -> None:
    """Relative storages and results land in a folder of the test's own."""


def find(storage: str = "sqlite:///study.db", **keys: Any) -> SearchResult:
    return search(
        families=[MILD],
        references=[],
        storage=storage,
        progress=False,
        **{"train": lambda candidate: 0.5, "trials": 3, **keys},
    )


def test_a_trial_sends_few_statements() -> None:
    """A server's time is what limits the number of workers: see docs/scale.md."""
    sent = {"in all": 0}

    def count(*_: Any) -> None:
        sent["in all"] += 1

    def train(candidate: Candidate) -> Iterator[float]:
        yield from [0.5] * 8

    sqlalchemy.event.listen(sqlalchemy.Engine, "before_cursor_execute", count)
    try:
        totals = []
        for trials in (3, 13):
            sent["in all"] = 0
            storage = f"sqlite:///of-{trials}.db"
            find(storage, train=train, trials=trials, sampler="random", pruner="none")
            totals.append(sent["in all"])
    finally:
        sqlalchemy.event.remove(sqlalchemy.Engine, "before_cursor_execute", count)
    assert 80 < (totals[1] - totals[0]) / 10 < 190


# ------------------------------------------------------------------------------------------ URLs


@pytest.mark.parametrize(
    ("password", "written"),
    [
        ("secret", "secret"),
        ("p@ss", "p@ss"),
        ("p@ss", "p%40ss"),
        ("a{b}c", "a{b}c"),
        ("50%off", "50%off"),
        ("50%/@:{x}", "50%/@:{x}"),
        ("ünï", "ünï"),
    ],
)
def test_passwords_may_hold_anything_and_are_never_shown(password: str, written: str) -> None:
    url = f"postgresql+psycopg://me:{written}@db.example:5432/studies"
    parsed = parse_url(url)
    assert parsed.password == password
    assert (parsed.username, parsed.host, parsed.port) == ("me", "db.example", 5432)
    assert shown_url(url) == "postgresql+psycopg://me:***@db.example:5432/studies"


@pytest.mark.parametrize(
    "url", ["nonsense", "", "sqlite", "nosuch://me:secret@host/db", "http://me:secret@h/", "://"]
)
def test_what_is_no_storage(url: str) -> None:
    with pytest.raises(InputError, match="must be an SQLAlchemy URL") as caught:
        parse_url(url)
    assert "secret" not in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_missing_driver_is_named() -> None:
    with pytest.raises(StorageError, match="Python module MySQLdb is missing") as caught:
        connect("mysql://me:secret@host/db", create=True)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:"])
def test_a_storage_in_memory_is_refused(url: str) -> None:
    with pytest.raises(InputError, match="in memory is lost"):
        find(url)


# ----------------------------------------------------------------------------- files with troubles


def test_no_file_is_made_by_looking() -> None:
    with pytest.raises(InputError, match="no such file"):
        open_study("s", storage="sqlite:///nothing.db")
    assert not Path("nothing.db").exists()


def test_a_study_that_is_not_there() -> None:
    find()
    with pytest.raises(InputError, match=r"holds no study 'other'.*it holds: pdsearch"):
        open_study("other", storage="sqlite:///study.db")


@pytest.mark.parametrize("content", [b"garbage" * 1000, b"SQLite format 3\0" + b"x" * 5000])
def test_a_damaged_file(content: bytes) -> None:
    Path("study.db").write_bytes(content)
    for act in (find, lambda: open_study("s", storage="sqlite:///study.db")):
        with pytest.raises(StorageError, match=r"sqlite:///study.db: .*(damaged|not a database)"):
            act()


def test_a_file_cut_off_in_the_middle() -> None:
    find()
    data = Path("study.db").read_bytes()
    Path("study.db").write_bytes(data[: len(data) // 2])
    with pytest.raises(StorageError, match="damaged"):
        find()


def test_a_folder_that_does_not_exist() -> None:
    with pytest.raises(StorageError, match=r"unable to open.*its folder does not exist"):
        find("sqlite:///no/such/folder/study.db")


def test_a_storage_that_is_a_directory() -> None:
    Path("folder.db").mkdir()
    with pytest.raises(StorageError, match="unable to open"):
        find("sqlite:///folder.db")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_file_that_cannot_be_written() -> None:
    find()
    Path("study.db").chmod(stat.S_IRUSR)
    with pytest.raises(StorageError, match="cannot be written"):
        find(trials=5)
    assert open_study("pdsearch", storage="sqlite:///study.db").counts()["total"] == 3


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("UPDATE alembic_version SET version_num = 'v2.4.0.a'", "optuna storage upgrade"),
        ("INSERT INTO alembic_version VALUES ('v2.4.0.a')", "has more than one head"),
        ("UPDATE alembic_version SET version_num = 'nonsense'", "try updating optuna"),
    ],
)
def test_another_optunas_tables(statement: str, said: str | None) -> None:
    find()
    with contextlib.closing(sqlite3.connect("study.db")) as connection, connection:
        connection.execute(statement)
    with pytest.raises(StorageError, match=said):
        find()


def test_a_finished_study_is_one_plain_file() -> None:
    find()
    assert sorted(path.name for path in Path().glob("study.db*")) == ["study.db"]
    connection = sqlite3.connect("study.db")
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    connection.close()


# ------------------------------------------------------------------------------ several processes


def join(url: str, total: int) -> None:
    def train(candidate: Candidate) -> Iterator[float]:
        yield 0.5
        time.sleep(0.05)
        yield 0.6

    search(
        families=[MILD], references=["leaky"], train=train, trials=total, pruner="none",
        sampler="random", storage=url, progress=False,
    )  # fmt: skip


def side_by_side(url: str, *, count: int, total: int) -> list[TrialRow]:
    processes = [
        Forked(join, url, total, errors=Path(f"errors-{number}").absolute())
        for number in range(count)
    ]
    ends = [process.end(300) for process in processes]
    assert [code for code, _ in ends] == [0] * count, ends
    rows = open_study("pdsearch", storage=url).trials()
    assert [row.status for row in rows] == ["complete"] * total
    assert [row.kind for row in rows].count("baseline") == 1
    assert [row.kind for row in rows].count("reference") == 1
    drawn = [row.parameters["a"] for row in rows if row.kind == "candidate"]
    assert len(set(drawn)) == len(drawn), "two workers drew the same"
    return rows


def test_processes_that_begin_at_once_share_one_study() -> None:
    rows = side_by_side("sqlite:///study.db", count=2, total=9)
    assert len({row.owner["pid"] for row in rows}) > 1


def test_the_race_to_create_the_tables_may_be_lost_more_than_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # What two processes of one moment got from SQLite, one after the other.
    table = sqlite3.OperationalError("table studies already exists")
    version = sqlite3.IntegrityError("UNIQUE constraint failed: alembic_version.version_num")
    lost = [
        sqlalchemy.exc.OperationalError("CREATE TABLE", None, table),
        sqlalchemy.exc.IntegrityError("INSERT", None, version),
    ]
    real = RDBStorage.__init__

    def init(self: Any, *args: Any, **options: Any) -> None:
        if lost:
            raise lost.pop(0)
        real(self, *args, **options)

    monkeypatch.setattr(RDBStorage, "__init__", init)
    assert find().to_dict()["trials"]["total"] == 3
    assert not lost


def test_a_table_that_is_missing_is_no_race(monkeypatch: pytest.MonkeyPatch) -> None:
    tries = []

    def init(self: Any, *args: Any, **options: Any) -> None:
        tries.append(options)
        missing = sqlite3.OperationalError("no such table: studies")
        raise sqlalchemy.exc.OperationalError("SELECT", None, missing)

    monkeypatch.setattr(RDBStorage, "__init__", init)
    with pytest.raises(StorageError, match="no such table"):
        find()
    assert len(tries) == 1


def test_a_study_that_is_deleted_while_it_runs() -> None:
    def train(candidate: Candidate) -> Iterator[float]:
        yield 0.5
        optuna.delete_study(study_name="pdsearch", storage="sqlite:///study.db")
        yield 0.6

    with pytest.raises(StorageError, match=r"sqlite:///study\.db: the study has been deleted"):
        find(train=train)


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    pgserver = pytest.importorskip("pgserver")
    pytest.importorskip("psycopg")
    server = pgserver.get_server(tmp_path_factory.mktemp("pg"))
    yield server.get_uri().replace("postgresql://", "postgresql+psycopg://")
    server.cleanup()


@pytest.mark.slow
def test_processes_share_a_study_in_postgresql(postgres: str) -> None:
    side_by_side(postgres, count=3, total=14)


# ------------------------------------------------------------- real trials, and workers of the CLI

CHANGES_ITSELF = """
from pathlib import Path

def build(classes, _plain=build):
    calls = Path(__file__).with_name("calls")
    calls.write_text(calls.read_text() + "1" if calls.exists() else "1")
    if len(calls.read_text()) == 2:  # the first is a look only
        Path(__file__).write_text(Path(__file__).read_text() + "changed = True")
    return _plain(classes)
"""
FILE = """
    [study]
    name = "tiny"
    families = ["exp_tail", "leaky"]
    references = ["b_silu"]
    trials = 5
    storage = "sqlite:///study.db"
    [trial]
    model = "tiny.py:build"
    dataset = "digits"
    epochs = 2
    batch_size = 64
    learning_rate = 0.1
    precision = "float32"
"""


@pytest.fixture
def tiny(workdir: Path) -> Path:
    return write_tiny(workdir / "here", FILE)


def trained_alone(stored: StoredStudy, candidate: Drawn | None) -> TrialResult:
    """A run of a study's settings outside any study."""
    from pdsearch.data import load_dataset
    from pdsearch.trial import run_trial

    assert candidate is not None

    return run_trial(
        candidate,
        stored.settings.trial,
        load_dataset("digits"),
        seed=0,
        device="cpu",
        threads=1,
        directory=stored.directory,
    )


def test_a_study_of_images(tiny: Path, workdir: Path) -> None:
    result = search(tiny, threads=1, device="cpu", progress=False)
    stored = result.stored
    assert stored.counts()["total"] == 5
    assert stored.output == workdir / "here" / "results" / "tiny"
    assert stored.study.user_attrs["pdsearch:device"] == "cpu"
    assert stored.study.user_attrs["pdsearch:threads"] == 1
    for row in stored.trials():
        if row.status == "complete":
            assert [entry["epoch"] for entry in row.epochs] == [1, 2]
            assert set(row.epochs[0]) >= {"loss", "accuracy", "dead", "seconds"}
            assert row.value == row.epochs[-1]["accuracy"]
    assert not list((stored.output / "checkpoints").iterdir())
    json.dumps(result.to_dict(), allow_nan=False)
    # The same candidate over the same seed is the same, bit for bit: an own run of the baseline.
    again = trained_alone(stored, stored.baseline().candidate)
    assert again.value == stored.baseline().value


CALLS = """
import torch.nn.functional as F
from torch import nn

class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.hidden, self.out = nn.Linear(3 * 32 * 32, 16), nn.Linear(16, classes)

    def forward(self, x):
        return self.out(F.relu(self.hidden(x.flatten(1))))

def build(classes):
    return Net(classes)
"""


def test_a_model_that_calls_relu_as_a_function_has_a_best(tiny: Path) -> None:
    (tiny.parent / "tiny.py").write_text(CALLS)
    text = tiny.read_text().replace('["b_silu"]', "[]")
    tiny.write_text(text.replace("epochs = 2", "epochs = 1"))
    result = search(tiny, trials=2, threads=1, device="cpu", progress=False)
    best, baseline = result.best, result.stored.baseline()
    assert [row.status for row in result.stored.trials()] == ["complete"] * 2
    assert result.to_dict()["best"]["trial"] == best.number == 1
    assert best.epochs[0]["loss"] != baseline.epochs[0]["loss"]  # by another backward pass


@pytest.fixture
def halved(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, list[tuple[str, int]]]:
    """A study by halving with looks, and the (candidate, epoch) that it trained."""
    text = tiny.read_text().replace("trials = 5", 'trials = 16\npruner = "halving"\nlooks = 4')
    # Seven epochs: rungs after a quarter of one, one and four.
    tiny.write_text(text.replace("epochs = 2", "epochs = 7"))
    from pdsearch.trial import loop, run

    trained = []
    names = []
    begin, train = run.convert, loop.Loop.train

    def named(model: nn.Module, candidate: Candidate, **options: Any) -> nn.Module:
        names.append(candidate.name)
        return begin(model, candidate, **options)

    def spy(self: Any, epoch: int, **keys: Any) -> Any:
        trained.append((names[-1], epoch))
        return train(self, epoch, **keys)

    monkeypatch.setattr(run, "convert", named)
    monkeypatch.setattr(loop.Loop, "train", spy)
    return tiny, trained


def test_halving_goes_on_from_the_checkpoint(halved: tuple[Path, list[tuple[str, int]]]) -> None:
    file, trained = halved
    stored = search(file, threads=1, device="cpu", progress=False, workers=1).stored
    rows = stored.trials()
    assert stored.counts()["total"] == len(rows) == 16
    assert not list((stored.output / "checkpoints").iterdir())
    taken_up = [t for t in stored.study.trials if "pdsearch:continues" in t.user_attrs]
    assert taken_up
    # An epoch is trained once; only what was stopped within the first begins anew.
    for name, epoch in set(trained):
        assert trained.count((name, epoch)) <= (2 if epoch == 0 else 1)
    stopped = [row for row in rows if row.status == "pruned"]
    assert {row.reason for row in stopped} >= {"stopped after epoch 0.25"}
    for row in stopped:
        trial = stored.study.trials[row.number]
        looks = trial.user_attrs["pdsearch:looks"]
        last = (row.epochs or looks)[-1]
        assert row.value == last["accuracy"]
        # What is compared is the loss on the validation set.
        assert max(trial.intermediate_values) == trial.user_attrs["pdsearch:stopped"]
        loss = last["evaluation_loss"] if row.epochs else last["loss"]
        assert trial.intermediate_values[max(trial.intermediate_values)] == -loss
    # Those at the end are as if they had never been stopped.
    best = stored.best()
    assert [entry["epoch"] for entry in best.epochs] == list(range(1, 8))
    again = trained_alone(stored, best.candidate)
    assert [e.accuracy for e in again.epochs] == [e["accuracy"] for e in best.epochs]
    assert [e.loss for e in again.epochs] == [e["loss"] for e in best.epochs]


def test_halving_may_be_interrupted(
    halved: tuple[Path, list[tuple[str, int]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    file, trained = halved
    from pdsearch.trial import loop

    train = loop.Loop.train
    calls = 0

    def interrupts(self: Any, epoch: int, **keys: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls % 5 == 0:
            raise KeyboardInterrupt
        return train(self, epoch, **keys)

    monkeypatch.setattr(loop.Loop, "train", interrupts)
    monkeypatch.setattr("pdsearch.trial.run.SAVE_EVERY", 0.0)
    stored = None
    while stored is None:
        with contextlib.suppress(KeyboardInterrupt):
            stored = search(file, threads=1, device="cpu", progress=False, workers=1).stored
    assert calls > 20
    rows = stored.trials()
    assert stored.counts()["total"] == 16
    live = [row for row in rows if row.status != "failed"]
    assert len({row.candidate for row in live}) == len(live) == 16
    assert not list((stored.output / "checkpoints").iterdir())
    # Where nothing was stopped or interrupted an epoch is still trained but once.
    assert all(trained.count(one) == 1 for one in trained if one[1] > 0)
    # What defines the end: of all that got to a rung the best quarter have gone on.
    values = {row.number: stored.study.trials[row.number].intermediate_values for row in live}
    for rung in (1, 4, 16):
        there = sorted((n for n in values if rung in values[n]), key=lambda n: -values[n][rung])
        for number in there[: len(there) // 4]:
            assert stored.study.trials[number].user_attrs.get("pdsearch:stopped") != rung


def test_two_processes_that_take_up_the_same_trial(tiny: Path) -> None:
    from pdsearch.study.queue import queue_continued

    text = tiny.read_text().replace("trials = 5", 'trials = 8\npruner = "halving"\nlooks = 1')
    tiny.write_text(text.replace("epochs = 2", "epochs = 3"))
    stored = search(tiny, threads=1, device="cpu", progress=False, workers=1).stored
    before = {row.candidate: row for row in stored.trials()}
    stopped = next(row for row in before.values() if row.status == "pruned" and row.epochs)
    for _ in range(2):
        queue_continued(stored.study, stored.study.trials[stopped.number], past=3)
    tiny.write_text(tiny.read_text().replace("trials = 8", "trials = 9"))
    stored = search(tiny, threads=1, device="cpu", progress=False, workers=1).stored
    rows = stored.trials()
    assert len(rows) == stored.counts()["total"] == 9
    again = [row for row in rows if row.candidate == stopped.candidate]
    assert [(row.status, len(row.epochs)) for row in again] == [("complete", 3)]
    assert sum(t.user_attrs.get("pdsearch:status") == "surplus" for t in stored.study.trials) == 1


def test_looks_need_batches(tiny: Path) -> None:
    text = tiny.read_text().replace("trials = 5", 'trials = 5\npruner = "halving"\nlooks = 21')
    tiny.write_text(text)
    # 1438 digits less the 10 % held back of each class, in batches of 64.
    with pytest.raises(InputError, match=r"study\.looks: must be ≤ 20, the batches of an epoch"):
        search(tiny, progress=False)


def test_checkpoints_of_a_study_that_was_deleted_are_no_obstacle(
    tiny: Path, workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its folder stays where its storage is gone; the settings have changed since."""
    with monkeypatch.context() as patched:
        patched.setattr("pdsearch.study.run.drop_checkpoints", lambda checkpoint: None)
        patched.setattr("pdsearch.trial.run.SAVE_EVERY", 0.0)
        left = search(tiny, threads=1, device="cpu", progress=False, trials=2).stored.output
    assert len(list((left / "checkpoints").iterdir())) == 2
    (workdir / "study.db").unlink()
    tiny.write_text(tiny.read_text().replace("epochs = 2", "epochs = 3"))
    rows = search(tiny, threads=1, device="cpu", progress=False, trials=2).stored.trials()
    assert [[entry["epoch"] for entry in row.epochs] for row in rows] == [[1, 2, 3]] * 2
    assert not list((left / "checkpoints").iterdir())


def test_two_objectives_on_images(tiny: Path) -> None:
    text = tiny.read_text().replace("trials = 5", 'trials = 9\nsampler = "nsga2"')
    tiny.write_text(text)
    result = search(tiny, threads=1, device="cpu", progress=False)
    study = optuna.load_study(study_name="tiny", storage="sqlite:///study.db")
    assert [d.name for d in study.directions] == ["MAXIMIZE", "MINIMIZE"]
    assert study.best_trials
    complete = [row for row in result.stored.trials() if row.status == "complete"]
    assert all(len(row.values) == 2 and 0 <= row.values[1] <= 1 for row in complete)


def test_a_grid_of_learning_rates(tiny: Path) -> None:
    text = tiny.read_text().replace("[trial]", "[trial]\nlearning_rates = [0.001, 0.1]")
    tiny.write_text(text.replace("trials = 5", "trials = 3"))
    rows = search(tiny, threads=1, device="cpu", progress=False).stored.trials()
    # ReLU, the reference and one candidate of seed 0, which passes the criteria.
    assert [(row.status, row.duplicate_of) for row in rows] == [("complete", None)] * 3
    for row in rows:
        assert [entry["epoch"] for entry in row.epochs] == [1, 2, 3, 4]
        # Two epochs of each rate, in the order of the grid; the last one's accuracy is its value.
        finals = dict(zip((0.001, 0.1), [e["accuracy"] for e in row.epochs[1::2]], strict=True))
        assert finals[row.learning_rate] == row.value == max(finals.values())


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("tiny.py:build", "nosuch.py:build", "nosuch.py"),
        ("tiny.py:build", "alexnett", "alexnet"),
        ("batch_size = 64", "batch_size = 99999", "trial.batch_size: must be ≤"),
        ('"digits"', '"digitz"', "digits"),
    ],
)
def test_wrong_trials_leave_nothing(tiny: Path, old: str, new: str, message: str) -> None:
    tiny.write_text(tiny.read_text().replace(old, new))
    with pytest.raises(InputError, match=message):
        search(tiny, threads=1, device="cpu", progress=False)
    assert not Path("study.db").exists()


@pytest.fixture
def pictures(tiny: Path) -> Path:
    """The study on a folder of 64 images in two classes."""
    folder = tiny.parent / "pictures"
    for part, count in (("train", 32), ("test", 4)):
        for number, name in enumerate(("dark", "light")):
            (folder / part / name).mkdir(parents=True)
            for index in range(count):
                image = Image.new("RGB", (32, 32), (100 * number + index,) * 3)
                image.save(folder / part / name / f"{index}.png")
    text = tiny.read_text().replace('"digits"', '"folder:pictures"')
    tiny.write_text(text.replace("batch_size = 64", "batch_size = 8"))
    return folder


def test_other_images_or_another_model_is_another_study(tiny: Path, pictures: Path) -> None:
    keys: dict[str, Any] = {"threads": 1, "device": "cpu", "progress": False, "workers": 1}
    search(tiny, trials=3, **keys)
    model, image = tiny.parent / "tiny.py", pictures / "train" / "dark" / "0.png"
    before = image.read_bytes()
    model.write_text("# a remark\n" + model.read_text())
    assert search(tiny, trials=4, **keys).stored.counts()["total"] == 4

    def refused(match: str) -> None:
        for call in (lambda: search(tiny, **keys), lambda: worker(tiny, progress=False)):
            with pytest.raises(InputError, match=match):
                call()

    image.write_bytes((pictures / "train" / "light" / "9.png").read_bytes())
    refused(r"with other (settings: |content of )trial\.dataset 'folder:pictures'")
    image.write_bytes(before)
    model.write_text(model.read_text().replace("16", "17"))
    refused(r"with other (settings: |content of )trial\.model 'tiny\.py:build'")
    model.write_text(model.read_text().replace("17", "16)("))
    refused(r"model 'tiny\.py:build': (reading|running) .* raised SyntaxError")
    with pytest.raises(InputError, match=r"raised SyntaxError"):
        confirm(open_study(tiny), seeds=1, epochs=1)
    model.write_text(model.read_text().replace("16)(", "16"))
    assert search(tiny, trials=5, **keys).stored.counts()["total"] == 5


def test_a_confirmation_tells_models_apart(tiny: Path, pictures: Path) -> None:
    keys: dict[str, Any] = {"device": "cpu", "threads": 1}
    stored = search(tiny, trials=4, workers=1, progress=False, **keys).stored
    few: dict[str, Any] = {"seeds": 2, "epochs": 1, "top": 0, "workers": 1, **keys}
    assert {row.seeds for row in confirm(stored, **few).rows} == {2}
    model = tiny.parent / "tiny.py"
    model.write_text(model.read_text().replace("16", "17"))
    trained: list[str] = []
    found = confirm(stored, **{**few, "seeds": 1}, progress=trained.append)
    assert len(trained) == len(found.rows) == 2
    assert {row.seeds for row in found.rows} == {1}  # those of the model before are not among them
    assert found.notes[-1] == (
        "The search was made with other content of trial.model 'tiny.py:build'."
    )


def test_a_model_that_changes_under_a_study_ends_it(tiny: Path) -> None:
    model = tiny.parent / "tiny.py"
    model.write_text(MODEL + CHANGES_ITSELF)
    tiny.write_text(tiny.read_text() + 'memory_format = "contiguous"\n')  # no probe looks at it
    keys: dict[str, Any] = {"threads": 1, "device": "cpu", "progress": False, "workers": 1}
    with pytest.raises(InputError, match="its file has changed since this began"):
        search(tiny, **keys)
    trials = open_study("tiny", storage="sqlite:///study.db").trials()
    assert [row.status for row in trials if row.kind == "baseline"] == ["complete"]
    assert all(row.status != "complete" for row in trials if row.kind != "baseline")


@pytest.mark.parametrize(("shares", "said"), [((32, 32), None), ((96, 8), "guessing (92.3 %)")])
def test_guessing_is_the_share_of_the_largest_class(
    tiny: Path, capsys: pytest.CaptureFixture[str], shares: tuple[int, int], said: str | None
) -> None:
    folder = tiny.parent / "pictures"
    for part, counts in (("train", shares), ("test", (4, 4))):
        for number, (name, count) in enumerate(zip(("dark", "light"), counts, strict=True)):
            (folder / part / name).mkdir(parents=True)
            for index in range(count):
                # Told apart with ease where there are as many of each.
                Image.new("RGB", (32, 32), (40 + 180 * number,) * 3).save(
                    folder / part / name / f"{index}.png"
                )
    text = tiny.read_text().replace('"digits"', '"folder:pictures"')
    text = text.replace("batch_size = 64", "batch_size = 8\nvalidation = 0.25")
    tiny.write_text(text if said is None else text.replace("= 0.1\n", "= 1e-9\n"))
    search(tiny, trials=2, threads=1, device="cpu", workers=1)
    err = capsys.readouterr().err
    assert ("guessing" in err) is (said is not None)
    assert said is None or said in err
    assert not Path("study.db-wal").exists()  # one plain file again


def test_workers_share_the_work(tiny: Path, capfd: pytest.CaptureFixture[str]) -> None:
    tiny.write_text(tiny.read_text().replace("trials = 5", "trials = 10"))
    result = search(tiny, workers=2, threads=1, device="cpu")
    rows = result.stored.trials()
    # Every trial is shown once, whichever process ran it, and the count misses none.
    shown = re.findall(r"^\[(\d+)/10\] trial (\d+) ", capfd.readouterr().err, flags=re.MULTILINE)
    assert sorted(int(number) for _, number in shown) == [row.number for row in rows]
    assert [int(count) for count, _ in shown] == list(range(1, 11))
    assert result.stored.counts()["total"] == 10
    assert all(row.status != "running" for row in rows)
    # Nothing is left for one that joins now.
    keys: dict[str, Any] = {
        "storage": "sqlite:///study.db",
        "trust_study_code": True,
        "progress": False,
    }
    assert worker("tiny", **keys).counts()["total"] == 10


def test_a_study_around_a_function_is_not_for_workers() -> None:
    find()
    with pytest.raises(InputError, match="trains by a Python function"):
        worker("pdsearch", storage="sqlite:///study.db")


def test_a_study_with_criteria_from_python_is_for_those_who_have_them(tiny: Path) -> None:
    def mild(candidate: Candidate) -> tuple[float, bool]:
        return 0.0, True

    def other(candidate: Candidate) -> tuple[float, bool]:
        return 0.0, True

    keys: dict[str, Any] = {"threads": 1, "device": "cpu", "progress": False}
    search(tiny, trials=2, criteria=[mild], **keys)
    with pytest.raises(InputError, match=r"criteria \['.*mild'\] → \['.*other'\]"):
        search(tiny, criteria=[other], **keys)
    with pytest.raises(InputError, match=r"criteria \['.*mild'\] → None"):
        search(tiny, **keys)
    with pytest.raises(InputError, match="has criteria in Python, which a worker cannot run"):
        worker(tiny, progress=False)
    assert search(tiny, trials=3, criteria=[mild], **keys).stored.counts()["total"] == 3
