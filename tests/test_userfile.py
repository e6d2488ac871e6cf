"""A user's file: read whole and once; a Python file runs as it was read, whatever it says later."""

import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pdsearch.criteria import load_criterion
from pdsearch.errors import InputError
from pdsearch.family import load_family
from pdsearch.models import build_model, source_digest
from pdsearch.userfile import read_bytes, read_python, run_file

NET = """
from torch import nn

def net(classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(3072, {width}), nn.ReLU(), nn.Linear({width}, 10))
"""


def _rewrite(path: Path, text: str) -> None:
    """Another text of the same length, at the very same time: what bytecode is told apart by."""
    before = path.stat()
    assert len(text) == before.st_size
    path.write_text(text)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_a_model_rewritten_at_once_runs_as_it_says_now(tmp_path: Path) -> None:
    path = tmp_path / "m.py"
    path.write_text(NET.format(width=4))
    assert build_model("m.py:net", classes=10, directory=tmp_path)[1].out_features == 4
    first = source_digest("m.py:net", directory=tmp_path)
    _rewrite(path, NET.format(width=7))
    assert build_model("m.py:net", classes=10, directory=tmp_path)[1].out_features == 7
    assert source_digest("m.py:net", directory=tmp_path) != first
    assert not list(tmp_path.rglob("*.pyc"))


def test_bytecode_beside_the_file_is_not_run(tmp_path: Path) -> None:
    """What another program has compiled, of a text that is no longer there."""
    path = tmp_path / "m.py"
    path.write_text(NET.format(width=4))
    subprocess.run([sys.executable, "-m", "compileall", "-q", str(path)], check=True)
    assert list(tmp_path.rglob("*.pyc"))
    _rewrite(path, NET.format(width=5))
    assert build_model("m.py:net", classes=10, directory=tmp_path)[1].out_features == 5


def test_a_model_whose_text_is_another_than_was_hashed_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.py"
    path.write_text(NET.format(width=4))
    kept = source_digest("m.py:net", directory=tmp_path)
    path.write_text("# a remark\n" + NET.format(width=4))  # no other program
    build_model("m.py:net", classes=10, source=kept, directory=tmp_path)
    path.write_text(NET.format(width=5))
    with pytest.raises(InputError, match="its file has changed since this began"):
        build_model("m.py:net", classes=10, source=kept, directory=tmp_path)


def test_families_and_criteria_rewritten_at_once(tmp_path: Path) -> None:
    family = tmp_path / "f.py"
    text = "import sympy\nfrom pdsearch import Family, x\nf = Family('f', {} + sympy.tanh(x)/2)\n"
    family.write_text(text.format(1))
    assert load_family(f"{family}").formula.startswith("1 +") or "1" in load_family(family).formula
    before = load_family(family).formula
    _rewrite(family, text.format(2))
    assert load_family(family).formula != before
    criterion = tmp_path / "c.py"
    criterion.write_text("def c(candidate):\n    return 1, True\n")
    assert load_criterion(f"{criterion}:c")(None) == (1, True)  # type: ignore[arg-type]
    _rewrite(criterion, "def c(candidate):\n    return 2, True\n")
    assert load_criterion(f"{criterion}:c")(None) == (2, True)  # type: ignore[arg-type]


def test_the_source_that_is_shown_is_the_one_that_runs(tmp_path: Path) -> None:
    path = tmp_path / "s.py"
    path.write_text("def f():\n    return 1\n")
    module = run_file(path)
    _rewrite(path, "def f():\n    return 2\n")
    assert module.f() == 1 and "return 1" in inspect.getsource(module.f)
    again = run_file(path)
    assert again.f() == 2 and "return 2" in inspect.getsource(again.f)


def test_two_folders_modules_are_two(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.py").write_text(NET.format(width={"a": 3, "b": 6}[name]))
    models = [build_model(f"{name}/model.py:net", classes=10, directory=tmp_path) for name in "ab"]
    assert [m[1].out_features for m in models] == [3, 6]


def test_what_a_file_defines_can_be_pickled_and_has_dataclasses(tmp_path: Path) -> None:
    import pickle

    path = tmp_path / "d.py"
    path.write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "@dataclass\nclass P:\n    x: int = 3\n"
    )
    module = run_file(path)
    assert pickle.loads(pickle.dumps(module.P(5))).x == 5


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"def f(:\n", "u.py:1: SyntaxError"),
        (b"\n\nraise KeyError('a')\n", "u.py:3: KeyError: 'a'"),
        (b"x = 1\0\n", "null bytes"),
        (b"\xff\xfe", "u.py.*SyntaxError"),
        (b"# coding: no-such\nx = 1\n", "SyntaxError: .*no-such"),
        (b"import sys\nsys.exit(0)\n", "u.py:2: SystemExit: 0"),
        (b"def f():\n    f()\nf()\n", "u.py:2: RecursionError"),
        (b"(" * 500 + b")" * 500, "u.py.*: (SyntaxError|MemoryError|RecursionError)"),
        (b"import nothing_of_that_name\n", "u.py:1: ModuleNotFoundError"),
        (b"raise Exception('a\\nb')\n", "u.py:1: Exception: a$"),
        (b"from pdsearch import InputError\nraise InputError('no')\n", "u.py:2: no$"),
    ],
)
def test_what_fails_is_told_with_its_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "u.py"
    path.write_bytes(content)
    known = set(sys.modules)
    with pytest.raises(InputError, match=message) as caught:
        run_file(path)
    assert "\n" not in str(caught.value)
    assert not [name for name in set(sys.modules) - known if name.startswith("pdsearch_file")]


def test_encodings(tmp_path: Path) -> None:
    for number, (encoding, head) in enumerate(
        [("utf-8", ""), ("latin-1", "# -*- coding: latin-1 -*-\n"), ("utf-8-sig", "")]
    ):
        path = tmp_path / f"e{number}.py"
        path.write_bytes((head + "name = 'é'\n").encode(encoding))
        assert run_file(path).name == "é"
        assert "é" in read_python(path).text


def test_reading_never_goes_on_without_end(tmp_path: Path) -> None:
    keys = {"limit": 1000, "what": "study file"}
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "null").symlink_to("/dev/null")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").write_bytes(b"x" * 1001)
    (tmp_path / "right").write_bytes(b"x" * 1000)
    (tmp_path / "link").symlink_to(tmp_path / "right")
    for name, message in {
        "zero": "is a device or a pipe: give a study file",
        "null": "is a device or a pipe",
        "pipe": "is a device or a pipe",
        "loop": "cannot be read",
        "large": r"has 1,001 bytes: no study file is that large",
        "missing": "cannot be read: No such file",
        ".": "cannot be read: Is a directory",
        "right/further": "cannot be read: Not a directory",
        "a\0b": "cannot be read",
        "n" * 300: "cannot be read: File name too long",
    }.items():
        with pytest.raises(InputError, match=message) as caught:
            read_bytes(tmp_path / name, **keys)  # type: ignore[arg-type]
        assert "\n" not in str(caught.value) and "\0" not in str(caught.value)
    for name in ("right", "link"):
        assert read_bytes(tmp_path / name, **keys) == b"x" * 1000  # type: ignore[arg-type]
    # A file of the kernel's has no size, and an end all the same.
    assert read_bytes(Path("/proc/self/status"), limit=100_000, what="file").startswith(b"Name:")


def test_a_model_may_be_built_in_a_process_that_prints(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "m.py").write_text("print('hello')\n" + NET.format(width=4))
    model = build_model("m.py:net", classes=10, directory=tmp_path)
    assert isinstance(model, torch.nn.Module)
    out, err = capsys.readouterr()
    assert out == "" and err == "hello\n"
