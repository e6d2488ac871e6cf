"""Hostile input by the hundred, made from lists: one line on stderr, exit 2, nothing written."""

import copy
import json
import os
from pathlib import Path
from typing import Any

import pytest

from pdsearch.cli import main
from pdsearch.family import load_family

STUDY = """
[study]
name = "s"
families = ["leaky"]
references = []
trials = 4
[trial]
dataset = "digits"
"""


@pytest.fixture
def refused(workdir: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """`refused("check", "x.y")`: bad input, told in a line that is returned."""
    (workdir / "good.toml").write_text(STUDY)

    def call(*words: str) -> str:
        before = {path: path.lstat().st_mtime_ns for path in workdir.rglob("*")}
        status = main(list(words))
        out, err = capsys.readouterr()
        assert status == 2, (words, status, err[-2000:])
        assert out == "" and err.startswith("pdsearch: error: ") and err.count("\n") == 1, err
        assert "Traceback" not in err and len(err) < 2500
        after = {path: path.lstat().st_mtime_ns for path in workdir.rglob("*")}
        new = {path for path in after.keys() - before if "__pycache__" not in path.parts}
        assert not new, f"{words} wrote {new}"
        return err

    return call


# ---------------------------------------------------------------------------------------- --set

WHOLE = ("inf", "-inf", "nan", "1.5", "many", "[1]", "{a=1}", "true", "1e400", "5\n6", "5 # six",
         "-1", "0x", "1_", "\t", "5\rb=3", "'5'", "2026-01-01", "99999999999999999999")  # fmt: skip
REAL = ("inf", "-inf", "nan", "high", "[1.0]", "{a=1}", "true", "1e400", "0.1\n0.2", "0.1 # x",
        "-1", "''", "12:00:00")  # fmt: skip
WORD = ("nothing", "5", "[]", "{}", "true", "tpe\nrandom", "''", "\x00")
KEYS = {
    "study.trials": WHOLE, "study.seed": WHOLE, "trial.epochs": WHOLE, "trial.batch_size": WHOLE,
    "confirm.seeds": WHOLE, "trial.learning_rate": REAL, "trial.momentum": REAL,
    "trial.weight_decay": REAL, "trial.validation": REAL, "study.sampler": WORD,
    "study.pruner": WORD, "trial.optimizer": WORD, "trial.schedule": WORD, "trial.precision": WORD,
    "criteria.profile": WORD,
    "study.name": ("a/b", "..", ".x", "-x", "a\nb", "x.toml", "5", "ä", ""),
    "criteria.consistent": ("high", "inf", "nan", "[1]", "-1", "true"),
    "study.families": ("[]", "5", "[5]", "['no such']", "[{}]", "[{formula = 5}]", "['a.py:b']",
                       "[{formula = 'x.__class__'}]", "[{formula = 'a*x', space = {a = [1, 0]}}]",
                       "[{formula = 'a*x', space = {a = [0, 'x']}}]",
                       "[{formula = 'a*x', space = {a = {low = 0, high = 1, step = 1e-300}}}]",
                       "['leaky', 'leaky']"),
    "study.workers": ("0", "-1", "1.5", "many", "257", "[]", "true"),
    "trial.model": ("nothing", "a.py", "a.py:f", "/dev/zero:f", "5", "x\ny", "../a.py:f"),
    "trial.dataset": ("nothing", "folder:", "folder:nowhere", "folder:/dev/null", "5", "a\nb"),
    "study.output": ("good.toml", "good.toml/x", "/dev/null/x", "/proc/x", "a\nb"),
}  # fmt: skip
SETTINGS = [(key, value) for key, values in KEYS.items() for value in values]


@pytest.mark.parametrize(("key", "value"), SETTINGS, ids=lambda v: ascii(v)[:40])
def test_settings(key: str, value: str, refused: Any) -> None:
    said = refused("search", "good.toml", "--set", f"{key}={value}")
    if value.strip():
        assert key.rpartition(".")[2] in said.replace("data set", "dataset")


def test_a_number_that_is_not_finite_is_told_as_it_is(refused: Any) -> None:
    for value in ("inf", "-inf", "nan"):
        assert f"got {value}" in refused("search", "good.toml", "--set", f"trial.momentum={value}")


# ----------------------------------------------------------------------------- candidates as JSON


def _changed(path: tuple[Any, ...], value: Any) -> Any:
    data = copy.deepcopy(load_family("exp_tail").default.to_dict())
    place: Any = data
    for key in path[:-1]:
        place = place[key]
    if value is KeyError:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return data


def each(path: tuple[str, ...], *values: Any) -> list[tuple[tuple[str, ...], Any]]:
    return [(path, value) for value in values]


SPACE = ("family", "space", "alpha")
JSON = [
    *each(("schema",), 0, -1, 99, "1", 1.5, None, True, [], KeyError),
    *each(("family",), 5, None, [], "exp_tail", {}, KeyError),
    *each(("parameters",), 5, None, [], {}, {"alpha": 0.5}, KeyError),
    *each(("parameters", "alpha"), 5, "x", None, True, [], {}, 1e400, KeyError),
    *each(("family", "name"), 5, "", "a b", "é", "x" * 65, "../x", None),
    *each(("family", "formula"),
          5, "", "x.__class__", "1/x", "(" * 300, "a*x", "__import__('os')", None, []),
    *each(("family", "space"), 5, [], {}, {"alpha": 5}, {"alpha": [0, 1, 2, 3]}),
    *each((*SPACE, "low"), 5, "x", None, True, 1e400, -1e400, [], 10**400),
    *each((*SPACE, "step"), 1e-300, 0, -1, "x", True, [], 1e400, 5e-324),
    *each((*SPACE, "log"), 5, "x", None),
    *each((*SPACE, "type"), 5, "int", "complex", None),
    *each((*SPACE, "extra"), 1),
    *each(("family", "defaults"), 5, [], {"gamma": 1}, {"alpha": "x"}, {"alpha": 9}),
    *each(("family", "reference"), 5, [], None),
    *each(("family", "aliases"), 5, "x", [5], ["a b"]),
]  # fmt: skip


@pytest.mark.parametrize(("path", "value"), JSON, ids=lambda v: ascii(v)[:40])
def test_candidates(path: tuple[Any, ...], value: Any, refused: Any, workdir: Path) -> None:
    (workdir / "c.json").write_text(json.dumps(_changed(path, value)))
    refused("check", "c.json")


TEXTS = ("", "{", "[]", "5", "null", '"x"', "{}", "[" * 100_000, '{"a":' * 50_000, "NaN",
         "\ufeff{}",
         "{'a': 1}", '{"schema": 1}', "9" * 5000)  # fmt: skip


@pytest.mark.parametrize("text", TEXTS, ids=lambda v: ascii(v)[:20])
def test_texts_that_are_no_candidate(text: str, refused: Any, workdir: Path) -> None:
    (workdir / "c.json").write_text(text, encoding="utf-8")
    refused("check", "c.json")


# ------------------------------------------------------------------------------------------ files


@pytest.mark.parametrize("name", ["f.json", "f.py", "f.toml"])
@pytest.mark.parametrize("kind", ["zero", "null", "pipe", "loop", "folder", "missing", "binary"])
def test_files_that_are_none(name: str, kind: str, refused: Any, workdir: Path) -> None:
    path = workdir / name
    if kind in ("zero", "null"):
        path.symlink_to(f"/dev/{kind}")
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "binary":
        path.write_bytes(bytes(range(256)) * 10)
    command = "search" if name.endswith(".toml") else "check"
    refused(command, name)


STUDIES = (
    "[study", "study = 5", "[[study]]", "[study]\nname = 5", "[study]\nname = ''", "x = 1",
    "[study]\nname = 'a'", "[study]\nname = 'a'\nfamilies = 'leaky'",
    "[study]\nname = 'a'\nfamilies = ['leaky']\n[trial]\nepochs = nan",
    "[study]\nname = 'a'\nfamilies = ['leaky']\n[trail]\n",
    "[study]\nname = 'a'\nfamilies = ['leaky']\nstorage = 'nonsense'",
    "[study]\nname = 'a'\nfamilies = ['leaky']\nstorage = 5",
    "[study]\nname = 'a'\nfamilies = ['leaky']\nseed = 1e3",
    "[study]\nname = 'a'\nfamilies = [['leaky']]",
    "[study]\nname = 'a'\nfamilies = ['leaky']\nreferences = ['relu']",
    "[study]\nname = 'a'\nfamilies = ['leaky']\n[criteria]\nown = ['a']",
    "[study]\nname = 'a'\nfamilies = ['leaky']\n[criteria]\nown = ['/dev/zero.py:f']",
    "[study]\nname = 'a'\nfamilies = ['leaky']\n[trial]\nlearning_rates = [inf]",
    "[study]\nname = 'a'\nfamilies = ['leaky']\n[trial]\nlearning_rates = ['x']",
    "a = " + "[" * 5000, "a = " + "9" * 10_000, "\ufeff[study]", "a.b.c.d = 1\na.b = 2",
)  # fmt: skip


@pytest.mark.parametrize("text", STUDIES, ids=lambda v: ascii(v)[:50])
def test_study_files(text: str, refused: Any, workdir: Path) -> None:
    (workdir / "bad.toml").write_text(text, encoding="utf-8")
    refused("search", "bad.toml")


URLS = (
    "sqlite:///x.db?timeout=abc", "sqlite:///x.db?no_such=1", "sqlite:///x.db?check_same_thread=x",
    "sqlite://", "sqlite:///:memory:", "x://y", "://",
    "sqlite:///a\0b", "sqlite:////proc/x.db", "sqlite:////dev/null", "sqlite:///good.toml",
    "file.db",
    "sqlite:///nowhere/x.db", "sqlite+nothing:///x.db", "postgresql+psycopg://u:p@127.0.0.1:1/d",
)  # fmt: skip


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize("command", ["search", "status"])
def test_storages(url: str, command: str, refused: Any) -> None:
    study = "good.toml" if command == "search" else "s"
    refused(command, study, "--storage", url)


@pytest.mark.parametrize(
    "words",
    [
        ("report", "s", "-o", "."), ("report", "s", "-o", "no/such/r.html"),
        ("report", "s", "-o", "/dev/null"), ("report", "s", "-o", "good.toml/r.html"),
        ("report", "s", "-o", "a\0b"), ("report", "s", "-o", "n" * 300),
        ("export", "leaky", "-o", "/proc/e.py"), ("check", "leaky", "--html", "/proc/c.html"),
    ],
    ids=lambda words: ascii(words[-1])[:20],
)  # fmt: skip
def test_places_are_looked_at_first(
    words: tuple[str, ...], refused: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the study is opened or a criterion decided."""

    def opened(*_: Any) -> Any:
        raise AssertionError("work was done first")

    monkeypatch.setattr("pdsearch.study.open_study", opened)
    monkeypatch.setattr("pdsearch.family.load_target", opened)
    refused(*words)


@pytest.mark.parametrize(
    "name",
    ["../x", "a/b", ".x", "-x", "a b", "a\nb", "x" * 600, "\0", "é", "<script>", "$(id)", "a;b",
     "'",
     "%s", "{0}", "\\", "..", "x.toml.toml", "🙂"],
    ids=lambda v: ascii(v)[:20],
)  # fmt: skip
@pytest.mark.parametrize("command", ["status", "criteria", "worker"])
def test_names(name: str, command: str, refused: Any) -> None:
    refused(command, "--", name) if name.startswith("-") else refused(command, name)
