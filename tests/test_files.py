"""Files that processes share, and texts as messages show them."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
import sympy

from pdsearch.errors import first_line, one_line, short, shortened, without_middle
from pdsearch.files import locked, replacing
from pdsearch.plain import plain


def test_a_file_is_replaced_in_one_step(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with replacing(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old" and partial.parent == tmp_path
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


def test_an_error_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(OSError, match="full"), replacing(path) as partial:
        partial.write_text("ne")
        raise OSError("full")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX's")
def test_others_may_read_it_as_far_as_the_umask_says(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with replacing(tmp_path / "a.txt") as partial:
            partial.write_text("new")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == 0o640


HOLDS = """
import sys, time
from pathlib import Path
from pdsearch.files import locked
with locked(Path(sys.argv[1])) as mine:
    print(mine, flush=True)
    time.sleep(60)
"""


def test_a_lock_is_held_until_its_holder_ends(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    path = tmp_path / "made" / "a.lock"
    with subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(path)], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "True\n"
        with locked(path, wait=False) as mine:
            assert not mine
        holder.kill()
    with locked(path) as mine:
        assert mine


def test_texts_are_short() -> None:
    assert first_line("one\ntwo") == "one" and first_line("") == ""
    assert (
        one_line(ValueError("one\n  two")) == "one two" and one_line(ValueError()) == "ValueError"
    )
    assert shortened("a" * 60, 60) == "a" * 60 and shortened("a" * 61, 60) == "a" * 57 + "..."
    assert short("é\n") == r"'\xe9\n'" and len(short("a" * 100, 40)) == 40
    assert short("a" * 100) == "'" + "a" * 55 + "...'" and short([1] * 99).endswith(", 1,...")
    assert without_middle("a" * 300) == "a" * 300
    assert without_middle("a" * 150 + "b" * 151) == "a" * 120 + "..." + "b" * 120


def test_plain_data_is_what_json_can_hold() -> None:
    assert plain([sympy.Rational(1, 2), sympy.oo]) == [0.5, None]
    value = {"a": (1.0, float("nan")), 2: numpy.float32(0.5), "b": [float("inf"), True, None]}
    assert plain(value) == {"a": [1.0, None], "2": 0.5, "b": [None, True, None]}
