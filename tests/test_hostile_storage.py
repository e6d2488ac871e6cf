"""Damaged and tampered storages: one line, exit 2, naming study and key; nothing is run."""

import contextlib
import functools
import json
import random
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from made_up import made_up_study, made_up_training

import pdsearch.doctor
import pdsearch.trial
from pdsearch.cli import main
from pdsearch.confirm import confirm_table
from pdsearch.confirm.outcome import assemble
from pdsearch.confirm.runs import read_runs
from pdsearch.errors import StorageError
from pdsearch.study import open_study
from pdsearch.study.attributes import check_study
from pdsearch.study.run import Session

# Of each kind of value, JSON that is of another one.
NO_JSON = ("{", "", "nonsense", '"open')
NO_TEXT = ("5", "[]", "{}", "true", "null")
NO_TABLE = ("5", '"text"', "[1]", "null")
NO_LIST = ("5", '"text"', '{"a": 1}', "[5]", "null")
NO_COUNT = ("-1", '"5"', "1.5", "[]", "1e400", "true")
STUDY = {
    "schema": ("0", "-3", '"1"', "1.5", "[]", "true", "99"),
    "settings": (*NO_TABLE, "{}", '{"study": 5}', '{"study": {"name": "x"}}'),
    "families": (*NO_TABLE, '{"relu": 5}', '{"relu": {}}', "{}"),
    "searched": (*NO_LIST, '["nothing"]'),
    "references": (*NO_LIST, '["nothing"]'),
    "directory": NO_TEXT,
    "versions": (*NO_TABLE, '{"torch": 2}'),
    "device": ("5", "[]"),
    "threads": ("0", "-1", '"2"', "[]", "1e400"),
    "content": (*NO_TABLE, '{"a": 5}'),
    "gates": (*NO_TABLE, '{"leaky": {}}',
              '{"leaky": {"proved": 5, "ranges": {}, "hopeless": null}}'),
    "own_criteria": (*NO_TABLE, '{"a": 5}'),
    "criteria": ("5", '"text"', "[5]"),
    "train": ("5", "[]"),
    "direction": ('"up"', "5", "null"),
    "seeds": (*NO_TABLE, '{"a": {}}', '{"1": {"2": "x"}}', '{"1": 5}'),
    "insight": (*NO_TABLE, '{"a": 5}', '{"a": [{"name": 1}]}'),
    "confirm": ("5", "null", '{"schema": 1}', '{"schema": 1, "split": "test", "accuracy": "x"}'),
}  # fmt: skip
TRIAL = {
    "candidate": (*NO_TABLE, "{}", '{"schema": 1, "family": {}, "parameters": {}}',
                  '{"schema": 99, "family": {}, "parameters": {}}'),
    "kind": ('"other"', "5", "null", "[]"),
    "epochs": (*NO_LIST, '[{"epoch": 1}]', '[{"epoch": "1", "value": 1}]',
               '[{"epoch": 1, "value": "high"}]', '[{"epoch": 1, "value": NaN}]'),
    "criteria": ("5", '"text"', "[1]", "{}", '{"criteria": [{"name": 5}]}'),
    "reason": ("5", "[]", "{}"),
    "seconds": ('"long"', "-1", "[]", "1e400", "NaN"),
    "status": ("5", "[]", "null"),
    "duplicate_of": ("-1", '"5"', "1.5", "[]"),
    "learning_rate": ('"high"', "[]", "1e400"),
    "owner": ("5", '"me"', "[1]"),
    "stopped": NO_COUNT,
    "past": NO_COUNT,
    "continues": NO_COUNT,
    "looks": (*NO_LIST, '[{"accuracy": 1}]'),
}  # fmt: skip
CASES = [
    (table, key, value)
    for table, keys in (("study", STUDY), ("trial", TRIAL))
    for key, values in keys.items()
    for value in (*NO_JSON[:2], *values)
]
# Those whose content is read further than for its kind tell of it in their own words.
OTHERWISE = ("schema", "settings", "families")
COMMANDS = ("report", "criteria", "export", "confirm", "search", "worker")


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished study's file and storage."""
    folder = tmp_path_factory.mktemp("kept")
    made_up_study(folder, trials=6)
    return folder


@pytest.fixture
def storage(kept: Path, workdir: Path) -> Iterator[Path]:
    """Copies of both where the test stands; whatever would be trained fails the test."""

    def trains(*_: Any, **__: Any) -> Any:
        raise AssertionError("something was run")

    shutil.copy(kept / "study.db", workdir / "study.db")
    text = (kept / "study.toml").read_text().replace(str(kept), str(workdir))
    (workdir / "study.toml").write_text(text)
    # Inside, so that it is undone before what made_up_training patches.
    with made_up_training(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(pdsearch.trial, "run_over_learning_rates", trains)
        patch.setattr(pdsearch.trial, "run_trial", trains)
        patch.setattr(Session, "_one", trains)
        yield workdir / "study.db"


def tamper(storage: Path, table: str, key: str, value: str) -> str:
    """Puts a value in place of what is kept, or beside it; the full key."""
    full = f"pdsearch:{key}" + ("/0123" if key == "confirm" else "")
    owner = "study_id" if table == "study" else "trial_id"
    number = 1 if table == "study" else 4  # a candidate's
    name = f"{table}_user_attributes"
    with contextlib.closing(sqlite3.connect(storage)) as database, database:
        database.execute(f"DELETE FROM {name} WHERE key = ? AND {owner} = ?", (full, number))
        database.execute(
            f"INSERT INTO {name} ({owner}, key, value_json) VALUES (?, ?, ?)", (number, full, value)
        )
    return full


def words(command: str, storage: Path) -> list[str]:
    url = ["--storage", f"sqlite:///{storage}"]
    return {
        "search": ["search", "study.toml", "--trials", "9", "-q"],
        "report": ["report", "made-up", *url, "-o", "report.html"],
        "export": ["export", "made-up", *url, "-o", "g.py"],
        "confirm": ["confirm", "made-up", *url, "--seeds", "2", "-q"],
        "worker": ["worker", "made-up", *url, "-q"],
    }.get(command, [command, "made-up", *url])


def refused(command: str, storage: Path, capsys: Any, *said: str) -> None:
    before = {path: path.stat().st_size for path in storage.parent.iterdir()}
    status = main(words(command, storage))
    out, err = capsys.readouterr()
    assert status == 2, (command, status, err[-3000:])
    assert out == "" and err.startswith("pdsearch: error: ") and err.count("\n") == 1, err
    assert "Traceback" not in err and len(err) < 1500
    for text in said:
        assert text in err
    after = {path for path in storage.parent.iterdir() if not path.name.startswith("study.db-")}
    assert after == {path for path in before if not path.name.startswith("study.db-")}


@pytest.mark.parametrize(
    "number",
    # Every third one: the slow test below takes all of them, with every command.
    range(0, len(CASES), 3),
    ids=lambda n: "-".join(CASES[n])[:60],
)
def test_a_tampered_value_is_told_in_a_line(number: int, storage: Path, capsys: Any) -> None:
    table, key, value = CASES[number]
    full = tamper(storage, table, key, value)
    # Which of the commands comes second goes around; all of them where it is slow.
    for command in ("status", COMMANDS[number // 3 % len(COMMANDS)]):
        refused(command, storage, capsys, "'made-up'", *([] if key in OTHERWISE else [full]))


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("number", range(len(CASES)), ids=lambda n: "-".join(CASES[n])[:60])
def test_a_tampered_value_stops_each_command(
    number: int, command: str, storage: Path, capsys: Any
) -> None:
    tamper(storage, *CASES[number])
    refused(command, storage, capsys)


@pytest.mark.parametrize("key", ["settings", "families", "searched", "references"])
def test_a_missing_value_is_named(key: str, storage: Path, capsys: Any) -> None:
    with contextlib.closing(sqlite3.connect(storage)) as database, database:
        database.execute("DELETE FROM study_user_attributes WHERE key = ?", (f"pdsearch:{key}",))
    for command in ("status", "report", "worker"):
        refused(command, storage, capsys, f"it lacks 'pdsearch:{key}'")


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("UPDATE trials SET state = 'SLEEPING' WHERE number = 3", "SLEEPING"),
        ("UPDATE trials SET datetime_start = 'yesterday' WHERE number = 3", "yesterday"),
        ("UPDATE trial_params SET distribution_json = '{' WHERE trial_id = 4", "parameter"),
        ('UPDATE trial_params SET distribution_json = \'{"name": "No"}\' WHERE trial_id = 4', ""),
        ("UPDATE study_directions SET direction = 'SIDEWAYS'", "SIDEWAYS"),
        ("UPDATE trial_values SET value_type = 'LARGE' WHERE trial_id = 4", "LARGE"),
        ("UPDATE trial_user_attributes SET value_json = x'ff' WHERE trial_id = 4", ""),
        ("UPDATE trial_user_attributes SET value_json = NULL WHERE trial_id = 4", ""),
        (
            "UPDATE trial_user_attributes SET value_json = CAST(x'7b22ff227d' AS TEXT) "
            "WHERE trial_id = 4 AND key = 'pdsearch:epochs'",
            "trial 3's 'pdsearch:epochs' is not JSON",
        ),
        (
            "UPDATE study_user_attributes SET value_json = CAST(x'ff' AS TEXT) "
            "WHERE key = 'pdsearch:settings'",
            "'pdsearch:settings' is not JSON",
        ),
        ("DROP TABLE trial_user_attributes", "no such table"),
        ("DROP TABLE trials", "no such table"),
        ("DELETE FROM study_directions", ""),
    ],
)
def test_damaged_tables(statement: str, said: str, storage: Path, capsys: Any) -> None:
    with contextlib.closing(sqlite3.connect(storage)) as database, database:
        database.execute(statement)
    for command in ("status", "report", "criteria", "export", "worker"):
        refused(command, storage, capsys, said)
    assert said in examined(storage, capsys)


def test_the_doctor_names_study_and_key(storage: Path, capsys: Any) -> None:
    """Of each key no JSON, or the last of what the other commands refuse."""
    content = storage.read_bytes()
    for table, keys in (("study", STUDY), ("trial", TRIAL)):
        for number, (key, values) in enumerate(keys.items()):
            storage.write_bytes(content)
            full = tamper(storage, table, key, values[-1] if number % 2 else "{")
            told = examined(storage, capsys)
            assert "study 'made-up'" in told and (key in OTHERWISE or full in told), told


def paths(value: Any, *begun: Any) -> Iterator[tuple[Any, ...]]:
    """Where in a JSON value something stands; of a list the first alone."""
    inside = value.items() if isinstance(value, dict) else list(enumerate(value))[:1]
    for key, part in inside:
        yield (*begun, key)
        if isinstance(part, dict | list):
            yield from paths(part, *begun, key)


def test_a_part_of_a_run_is_damaged(storage: Path) -> None:
    """Each part of a confirmation's run in turn: it is refused by name, or of no importance."""
    runs = read_runs(open_study("made-up", storage=f"sqlite:///{storage}"))
    baseline, other = (
        next((key, run) for key, run in runs.items() if run["kind"] == kind)
        for kind in ("baseline", "candidate")
    )
    damaged = 0
    for full, whole in (baseline, other):
        rest = [run for key, run in (baseline, other) if key != full]
        for path in paths(whole):
            for wrong in (None, "x"):
                record = json.loads(json.dumps(whole))
                place = functools.reduce(lambda part, key: part[key], path[:-1], record)
                if wrong is None:
                    del place[path[-1]]
                else:
                    place[path[-1]] = wrong
                try:
                    check_study("made-up", "sqlite:///study.db", {full: record}, whole=False)
                except StorageError as error:
                    assert full in str(error) and "\n" not in str(error)
                    damaged += 1
                    continue
                if record.get("schema") == 1:  # else it is passed over
                    found = assemble("made-up", record["setting"], [record, *rest])
                    confirm_table(found), json.dumps(found.to_dict())
    assert damaged > 80


def test_a_damaged_study_hides_no_other(storage: Path, capsys: Any) -> None:
    url = f"sqlite:///{storage}"
    optuna.copy_study(
        from_study_name="made-up", from_storage=url, to_storage=url, to_study_name="twin"
    )
    capsys.readouterr()
    full = tamper(storage, "study", "settings", "{")
    assert full in examined(storage, capsys)
    assert main(["status", "twin", "--storage", url]) == 0
    capsys.readouterr()
    refused("status", storage, capsys, "'made-up'", full)


def examined(storage: Path, capsys: Any) -> str:
    """The one line in which the doctor tells of what needs attention."""
    with pytest.MonkeyPatch.context() as patch:
        for part in ("_installation", "_compiler", "_device", "_disk"):
            patch.setattr(pdsearch.doctor, part, lambda: ())
        status = main(["doctor", "--storage", f"sqlite:///{storage}"])
    out, err = capsys.readouterr()
    told = [line for line in out.splitlines() if line.startswith("!!")]
    assert (status, len(told), err) == (1, 1, ""), out + err
    assert "Traceback" not in out and len(told[0]) < 1500
    return str(told[0])


def flipped(content: bytes, seed: int) -> bytes:
    """Bits, bytes or pages of it changed."""
    draw = random.Random(seed)
    data = bytearray(content)
    kind = draw.choice(("bit", "byte", "some", "zeros", "cut", "swap"))
    place = draw.randrange(len(data)) if draw.random() < 0.7 else draw.randrange(4096)
    if kind == "bit":
        data[place] ^= 1 << draw.randrange(8)
    elif kind == "byte":
        data[place] = draw.randrange(256)
    elif kind == "some":
        for _ in range(50):
            data[draw.randrange(len(data))] = draw.randrange(256)
    elif kind == "zeros":
        data[place : place + 2000] = bytes(len(data[place : place + 2000]))
    elif kind == "cut":
        del data[place:]
    else:
        page, other = (draw.randrange(len(data) // 4096) * 4096 for _ in range(2))
        data[page : page + 4096], data[other : other + 4096] = (
            data[other : other + 4096],
            data[page : page + 4096],
        )
    return bytes(data)


def read_all(storage: Path, capsys: Any) -> dict[str, int]:
    found = {}
    for command in ("status", "report", "export"):
        status = main(words(command, storage))
        out, err = capsys.readouterr()
        assert status in (0, 2), (command, err)
        if status == 2:
            assert out == "" and err.count("\n") == 1 and err.startswith("pdsearch: error: "), err
        found[command] = status
        (storage.parent / "g.py").unlink(missing_ok=True)
    status = main(["doctor", "--storage", f"sqlite:///{storage}"])
    out, err = capsys.readouterr()
    assert status in (0, 1) and "Traceback" not in out + err, err
    # What no other command can read is not in order; a name may have become another one.
    assert status == 1 or 2 not in found.values() or "study 'made-up'" not in out, (found, out)
    return {**found, "doctor": status}


@pytest.mark.parametrize("seed", range(12))
def test_flipped_bytes(seed: int, storage: Path, capsys: Any) -> None:
    storage.write_bytes(flipped(storage.read_bytes(), seed))
    read_all(storage, capsys)


def test_tables_of_two_versions(storage: Path, capsys: Any) -> None:
    with contextlib.closing(sqlite3.connect(storage)) as database, database:
        database.execute("INSERT INTO alembic_version VALUES ('v0.9.0.a')")
    assert read_all(storage, capsys)["status"] == 2


@pytest.mark.slow
def test_many_flipped_bytes(storage: Path, capsys: Any) -> None:
    content = storage.read_bytes()
    outcomes = []
    for seed in range(1000, 1600):
        for beside in storage.parent.glob("study.db-*"):
            beside.unlink()
        storage.write_bytes(flipped(content, seed))
        outcomes.append(read_all(storage, capsys))
    assert sum(found["status"] == 2 for found in outcomes) > 50


def test_a_whole_storage_is_read(storage: Path, capsys: Any) -> None:
    """The other tests' own oracle: without damage each command does its work."""
    assert read_all(storage, capsys) == dict.fromkeys(("status", "report", "export", "doctor"), 0)
    assert json.loads(json.dumps(CASES)) and len(CASES) > 150
