"""A storage decides neither what is run nor where something is written: the user does."""

import contextlib
import json
import pickle
import shutil
import sqlite3
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from made_up import made_up_training

import pdsearch.trial
from pdsearch import InputError, search
from pdsearch.cli import main
from pdsearch.confirm import confirm
from pdsearch.errors import StorageError
from pdsearch.study import load_study_file, open_study, worker
from pdsearch.study.trust import runnable

MODEL = """
    from pathlib import Path
    from torch import nn

    Path(__file__).with_suffix(".ran").touch()

    def build(classes):
        return nn.Sequential(
            nn.AvgPool2d(8), nn.Flatten(), nn.Linear(48, 16), nn.ReLU(), nn.Linear(16, classes)
        )

    def harmless(candidate):
        return 0.0, True
"""
FILE = """
    [study]
    name = "tiny"
    families = ["leaky"]
    references = []
    trials = 3
    sampler = "random"
    pruner = "none"
    workers = 1
    storage = "sqlite:///study.db"
    [trial]
    model = "mine.py:build"
    dataset = "digits"
    epochs = 1
    batch_size = 128
    learning_rate = 0.1
    precision = "float32"
    memory_format = "contiguous"
    [confirm]
    seeds = 1
    epochs = 1
"""


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a study of images that has begun, beside a file that nobody named."""
    folder = tmp_path_factory.mktemp("begun")
    for name in ("mine.py", "evil.py"):
        (folder / name).write_text(textwrap.dedent(MODEL))
    (folder / "tiny.toml").write_text(textwrap.dedent(FILE))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        search(folder / "tiny.toml", trials=2, progress=False)
    (folder / "mine.ran").unlink()
    return folder


@pytest.fixture
def tiny(begun: Path, workdir: Path) -> Path:
    """The study file of a copy of it."""
    shutil.copytree(begun, workdir, dirs_exist_ok=True)
    study = optuna.load_study(study_name="tiny", storage="sqlite:///study.db")
    study.set_user_attr("pdsearch:directory", str(workdir))
    return workdir / "tiny.toml"


def tamper(section: str, key: str, value: Any) -> None:
    study = optuna.load_study(study_name="tiny", storage="sqlite:///study.db")
    settings = study.user_attrs["pdsearch:settings"]
    settings["study"]["trials"] = 3  # so that a worker finds something to do
    settings[section][key] = value
    study.set_user_attr("pdsearch:settings", settings)


def joins(study: str | Path, command: str, **keys: Any) -> None:
    """A worker, or a confirmation, of a study."""
    if command == "worker":
        worker(study, storage="sqlite:///study.db", progress=False, **keys)
    else:
        confirm(open_study(study, storage="sqlite:///study.db"), device="cpu", workers=1, **keys)


def ran() -> set[str]:
    return {path.name for path in Path.cwd().glob("*.ran")}


TAMPERED = {
    "the model": ("trial", "model", "evil.py:build"),
    "the model, by an absolute path": ("trial", "model", "{here}/evil.py:build"),
    "a criterion": ("criteria", "own", ["evil.py:harmless"]),
}


@pytest.mark.parametrize("how", TAMPERED)
def test_what_only_the_storage_names_is_not_run(
    tiny: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PDSEARCH_STORAGE", "sqlite:///study.db")
    section, key, value = TAMPERED[how]
    if isinstance(value, str):
        value = value.format(here=Path.cwd())
    tamper(section, key, value)
    for command in ("worker", "confirm"):
        gates = command == "worker" or section == "trial"
        with pytest.raises(InputError, match=rf"{section}\.{key} .*evil") as caught:
            joins(tiny, command)
        assert "was begun with other settings" in str(caught.value)
        # By name the model's file is the storage's word too; of criteria a confirmation runs none.
        said = rf"would run .*{'evil' if gates else 'mine'}.*--trust-study-code"
        with pytest.raises(InputError, match=said):
            joins("tiny", command)
        assert ran() == set()
        assert main([command, "tiny"]) == 2 and main([command, str(tiny)]) == 2
    for words in (["status", "tiny"], ["report", "tiny", "-o", "r.html"], ["criteria", "tiny"]):
        assert main(words) == 0
    assert main(["export", "tiny", "--storage", "sqlite:///study.db", "-o", "g.py"]) in (0, 2)
    assert main(["doctor", "--storage", "sqlite:///study.db"]) in (0, 1)
    assert ran() == set()


@pytest.mark.parametrize("command", ["worker", "confirm"])
def test_the_file_or_the_users_word_lets_it_run(tiny: Path, command: str) -> None:
    tamper("study", "trials", 3)
    joins(tiny, command)
    assert ran() == {"mine.ran"}
    tamper("trial", "model", "evil.py:build")
    study = optuna.load_study(study_name="tiny", storage="sqlite:///study.db")
    study.set_user_attr("pdsearch:content", {})
    if command == "worker":  # it is the storage's own word for the number, too
        tamper("study", "trials", 4)
    joins("tiny", command, trust_study_code=True)
    assert ran() == {"mine.ran", "evil.ran"}


def test_on_the_command_line(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PDSEARCH_STORAGE", "sqlite:///study.db")
    tamper("study", "trials", 3)
    assert main(["worker", "tiny", "-q"]) == 2 and ran() == set()
    assert main(["worker", "tiny", "-q", "--trust-study-code"]) == 0 and ran() == {"mine.ran"}


@pytest.mark.parametrize(
    ("command", "how"),
    [("worker", "../{0.name}"), ("confirm", "{0}"), ("worker", "link"), ("confirm", "link")],
)
def test_the_storage_does_not_say_where_to_write(tiny: Path, command: str, how: str) -> None:
    """By name: it goes below the current folder, unless the user trusts the storage."""
    here, outside = Path.cwd(), Path.cwd().with_name(f"beside-{Path.cwd().name}")
    outside.mkdir()
    (here / "link").symlink_to(outside)
    output = how.format(outside)
    # A model that anybody may run: what is trained, and on what, does not matter here.
    tamper("trial", "model", "alexnet")
    study = optuna.load_study(study_name="tiny", storage="sqlite:///study.db")
    study.set_user_attr("pdsearch:content", {})
    tamper("study", "output", output)
    for trust, below in ((False, here / "results" / "tiny"), (True, outside / "tiny")):
        said: list[str] = []
        found = runnable(
            open_study("tiny", storage="sqlite:///study.db"),
            gates=command == "worker",
            trust=trust,
            say=said.append,
        )
        assert found.output.resolve() == below and len(said) == (not trust)
        assert write(command, trust=trust).is_relative_to(below)
        assert (outside / "tiny").exists() is trust
    with pytest.raises(InputError, match=r"trial\.model 'alexnet' → 'mine\.py:build'"):
        joins(tiny, command)


@pytest.mark.parametrize("command", ["worker", "confirm"])
def test_a_folder_that_cannot_be_written_is_told_first(tiny: Path, command: str) -> None:
    shutil.rmtree(tiny.parent / "results" / "tiny")
    (tiny.parent / "results" / "tiny").touch()
    with pytest.raises(InputError, match=r"study\.output: .*tiny is not a folder"):
        joins(tiny, command)


def write(command: str, *, trust: bool) -> Path:
    """Joins by name, nothing trained; where the first checkpoint would go."""
    found: list[Path] = []

    class Ends(KeyboardInterrupt):
        """What a user may do before the first epoch."""

    def trains(*_: Any, checkpoint: Path, **__: Any) -> Any:
        found.append(checkpoint.resolve())
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        raise Ends

    with made_up_training(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(pdsearch.trial, "run_over_learning_rates", trains)
        patch.setattr(pdsearch.trial, "run_trial", trains)
        with pytest.raises(KeyboardInterrupt):
            joins("tiny", command, trust_study_code=trust)
    return found[0]


def test_settings_given_to_the_search_are_given_to_the_worker(tiny: Path) -> None:
    tiny.write_text(tiny.read_text().replace("trials = 3", "trials = 2").replace("tiny", "t2"))
    assert main(["search", str(tiny), "-q", "--set", "trial.epochs=2", "--seed", "7"]) == 0
    assert main(["worker", str(tiny), "-q"]) == 2
    assert main(["worker", str(tiny), "-q", "--set", "trial.epochs=2", "--seed", "7"]) == 0
    assert main(["worker", "t2", "--set", "trial.epochs=2"]) == 2


def test_a_file_may_change_how_to_confirm_and_where_to_write(tiny: Path) -> None:
    text = tiny.read_text().replace("epochs = 1\n", "epochs = 2\n")
    tiny.write_text(text.replace("epochs = 2", "epochs = 1", 1).replace("[trial]", "[trial] "))
    file = load_study_file(tiny, overrides={"study.output": "mine"})
    outcome = confirm(open_study(file), device="cpu", workers=1, top=0)
    assert outcome.epochs == 2


# ------------------------------------------------------------------- what CMA-ES keeps in a storage


def cma(trials: int) -> Any:
    """A study long enough for CMA-ES to keep its state, and to take it up again."""
    family = {
        "formula": "Piecewise((1, x > 0), (a*exp(b*x), True))",
        "space": {"a": [0.1, 0.3], "b": [0.5, 2.0]},
        "name": "tail",
    }
    return search(
        families=[family],
        references=[],
        train=lambda candidate: 1.0 - candidate.parameters.get("a", 1.0),
        sampler="cmaes",
        pruner="median",
        trials=trials,
        storage="sqlite:///study.db",
        progress=False,
    )


def pickles() -> list[Any]:
    trials = optuna.load_study(study_name="pdsearch", storage="sqlite:///study.db").trials
    return [t for t in trials if any(k.startswith("cma:optimizer") for k in t.system_attrs)]


@pytest.fixture(scope="module")
def half_way(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage with the first half of such a study."""
    pytest.importorskip("cmaes")
    folder = tmp_path_factory.mktemp("cma")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        cma(14)
    return folder / "study.db"


def test_the_state_of_cma_es_goes_on(half_way: Path, workdir: Path) -> None:
    shutil.copy(half_way, workdir)
    before = len(pickles())
    assert before > 0
    assert cma(24).to_dict()["trials"]["total"] == 24
    assert len(pickles()) > before


class Evil:
    def __reduce__(self) -> Any:
        return Path.touch, (Path("evil.ran"),)


def object_array() -> bytes:
    """NumPy's own way to hold a pickle in a pickle."""
    return pickle.dumps(np.array([Evil()], dtype=object))


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps(Evil()),
        pickle.dumps([Evil()]),
        object_array(),
        b"no pickle",
        b"",
        b"cos\nsystem",
    ],
)
def test_a_pickle_that_runs_something_is_not_read(
    half_way: Path, workdir: Path, content: bytes
) -> None:
    shutil.copy(half_way, workdir)
    last = pickles()[-1]
    for key in [k for k in last.system_attrs if k.startswith("cma:optimizer")]:
        _overwrite(key, last._trial_id, content.hex() if key.endswith(":0") else "")
    with pytest.raises(StorageError, match=rf"trial {last.number}: its state of CMA-ES"):
        cma(16)
    assert ran() == set()


def _overwrite(key: str, trial: int, text: str) -> None:
    """Optuna refuses to change a finished trial."""
    with contextlib.closing(sqlite3.connect("study.db")) as database, database:
        database.execute(
            "UPDATE trial_system_attributes SET value_json = ? WHERE key = ? AND trial_id = ?",
            (json.dumps(text), key, trial),
        )
