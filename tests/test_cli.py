"""The command line: what it prints where, its exit statuses, and one clear line for bad input."""

import io
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pdsearch import __version__
from pdsearch.cli import main
from pdsearch.cli.parser import COMMANDS, parse
from pdsearch.cli.search import rounded, search_text
from pdsearch.plain import plain
from pdsearch.text import columns


class Outcome(NamedTuple):
    status: int
    out: str
    err: str


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], workdir: Path) -> Any:
    """`run("check", "relu")` in an empty folder, in this process."""

    def call(*words: str) -> Outcome:
        status = main(words)
        return Outcome(status, *capsys.readouterr())

    return call


def _process(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pdsearch", *words]
    return subprocess.run(command, capture_output=True, text=True, **options)


# ---------------------------------------------------------------------------------- the words


def test_version(run: Any) -> None:
    assert run("--version") == (0, f"pdsearch {__version__}\n", "")


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help_with_an_example(command: str, run: Any) -> None:
    outcome = run(command, "--help")
    assert outcome.status == 0 and outcome.err == ""
    assert f"  pdsearch {command}" in outcome.out.split("examples:")[1]


def test_help_lists_every_command(run: Any) -> None:
    out = run("--help").out
    assert all(f"\n    {command} " in out for command in COMMANDS)


@pytest.mark.parametrize("before", [True, False])
def test_quiet_and_verbose_go_before_or_after_the_command(before: bool) -> None:
    assert parse(["-q", "families"] if before else ["families", "-q"]).quiet
    assert parse(["-vv", "families"] if before else ["families", "-vv"]).verbose == 2


@pytest.mark.parametrize(
    ("words", "values"),
    [
        (["check", "f", "--set", "a=1", "b=2"], ["a=1", "b=2"]),
        (["check", "f", "--set", "a=1", "--set", "b=2"], ["a=1", "b=2"]),
        (["check", "--set", "a=1", "b=2", "f"], ["a=1", "b=2"]),
        (["check", "--set", "a=1", "f", "--json"], ["a=1"]),
        (["check", "--set", "a=-1", "f"], ["a=-1"]),
    ],
)
def test_values_may_follow_one_flag_or_each_its_own(words: list[str], values: list[str]) -> None:
    arguments = parse(words)
    assert arguments.set == values and arguments.target == "f"


def test_several_candidates_and_transfers() -> None:
    words = ["confirm", "s", "--candidate", "a", "b", "--transfer", "vgg16@digits", "m@folder:d"]
    arguments = parse(words)
    assert arguments.study == "s" and arguments.candidate == ["a", "b"]
    assert arguments.transfer == ["vgg16@digits", "m@folder:d"]
    for words in (["-q"], []):
        arguments = parse([*words, "confirm", "--candidate", "a", "s", "--candidate", "b"])
        assert arguments.study == "s" and arguments.candidate == ["a", "b"]
        arguments = parse([*words, "confirm", "s", "--candidate", "a", "b"])
        assert arguments.study == "s" and arguments.candidate == ["a", "b"]


def test_a_formula_that_begins_with_minus() -> None:
    assert parse(["check", "--json", "--", "-x"]).target == "-x"
    assert parse(["check", "-x + 1"]).target == "-x + 1"


# ------------------------------------------------------------------------- output and statuses


def test_json_has_no_numbers_that_json_does_not_know() -> None:
    nan, inf = float("nan"), float("inf")
    assert plain({"a": [nan, inf, -inf, 1.5], 2: (True, None, Path("p"))}) == {
        "a": [None, None, None, 1.5],
        "2": [True, None, "p"],
    }
    numpy = pytest.importorskip("numpy")
    assert plain([numpy.float32(0.5), numpy.int64(3), numpy.bool_(True)]) == [0.5, 3, True]
    with pytest.raises(TypeError, match="object"):
        plain(object())


def test_long_decimals_are_rounded_for_people_only() -> None:
    assert rounded("0.08551669661029408*exp(-12.5*x) + 1/3") == "0.0855167*exp(-12.5*x) + 1/3"
    assert rounded("exp(x)/1000000000000") == "exp(x)/1000000000000"


def test_table_aligns() -> None:
    assert columns([("a", "1"), ("bcd", "22")], right=(1,)) == "a     1\nbcd  22"
    assert columns([]) == ""


def test_interrupted(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(arguments: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("pdsearch.cli.search.run", interrupt)
    monkeypatch.setattr("pdsearch.cli.families.run", interrupt)
    outcome = run("search", "s.toml")
    assert outcome.status == 130
    assert "everything finished so far is kept, run the same command again" in outcome.err
    assert run("families") == (130, "", "pdsearch: interrupted\n")


def test_numbers_name_their_least_value() -> None:
    from pdsearch.errors import InputError

    with pytest.raises(InputError, match="--seed: must be at least 0, got -1"):
        parse(["search", "s.toml", "--seed", "-1"])
    with pytest.raises(InputError, match="--trials: must be at least 1, got 0"):
        parse(["search", "s.toml", "--trials", "0"])


def test_what_a_users_code_prints_stays_out_of_the_data(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pdsearch.cli.output import emit_json

    def chatty(arguments: object) -> int:
        print("a model's own words")
        emit_json({"a": 1})
        return 0

    monkeypatch.setattr("pdsearch.cli.families.run", chatty)
    outcome = run("families", "--json")
    assert json.loads(outcome.out) == {"a": 1} and outcome.err == "a model's own words\n"


def test_what_stdout_can_show_is_asked_of_stdout(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command runs with `print` redirected to stderr, whose encoding may be another."""
    from pdsearch.cli.output import data_only, takes_unicode

    for name, encoding in (("stdout", "ascii"), ("stderr", "utf-8")):
        monkeypatch.setattr(sys, name, io.TextIOWrapper(io.BytesIO(), encoding))
    with data_only():
        assert not takes_unicode()


@pytest.mark.parametrize(
    ("set_before", "wanted"), [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")]
)
def test_threads_sleep_while_they_wait(set_before: dict[str, str], wanted: str) -> None:
    """Set before torch, whose OpenMP reads it once, and left alone where a user has set it."""
    script = (
        "import os, sys; from pdsearch.cli import main; main(['--version']); "
        "assert 'torch' not in sys.modules; print(os.environ['OMP_WAIT_POLICY'])"
    )
    environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"} | set_before
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0 and done.stdout.split()[-1] == wanted, done.stderr


def test_sigterm_ends_any_command_as_ctrl_c_does(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def ended(arguments: object) -> int:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
        return 0

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("pdsearch.cli.confirm.run", ended)
    outcome = run("confirm", "s")
    assert outcome.status == 130 and "everything finished so far is kept" in outcome.err
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_bug_of_ours_shows_its_traceback(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pdsearch.cli.families.run", lambda arguments: 1 / 0)
    outcome = run("families")
    assert outcome.status == 70 and outcome.out == ""
    assert "ZeroDivisionError" in outcome.err and "a bug of ours" in outcome.err


def test_an_error_stays_on_one_line(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from pdsearch.errors import InputError

    def fail(arguments: object) -> int:
        raise InputError("two problems:\n  first \x1b[31m\n  second\x00")

    monkeypatch.setattr("pdsearch.cli.families.run", fail)
    err = run("families").err
    assert err == "pdsearch: error: two problems:; first \\x1b[31m; second\\x00\n"


def test_a_reader_that_has_gone_is_no_error() -> None:
    command = f"{sys.executable} -m pdsearch families --json | head -c 1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.stdout == "[0\n" and done.stderr == ""


def test_a_full_disk_is_one_line() -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "pdsearch", "families", "--json"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2 and done.stderr == "pdsearch: error: No space left on device\n"


def test_a_terminal_that_knows_ascii_only() -> None:
    done = _process("families", env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0 and done.stderr == ""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["search", "s.toml", "--trails", "4"],
            "did you mean --trials? see pdsearch search --help",
        ),
        (["confirm", "s.toml", "--controlls"], "did you mean --controls? see pdsearch confirm"),
        (["confirm", "s.toml", "--sedes=3"], "did you mean --seeds? see pdsearch confirm --help"),
        (["families", "--jsn"], "did you mean --json? see pdsearch families --help"),
        (["-q", "worker", "s", "--until"], "did you mean --until-total? see pdsearch worker"),
        (["check", "exp_tail", "--zzz"], "--zzz (see pdsearch check --help)"),
        (["check", "exp_tail", "further", "words"], "further words (see pdsearch check --help)"),
        (["export", "a", "-o", "b.py", "--verbos"], "did you mean --verbose? see pdsearch export"),
    ],
)
def test_a_misspelt_flag(words: list[str], said: str, run: Any) -> None:
    outcome = run(*words)
    assert outcome.status == 2 and outcome.out == "" and said in outcome.err
    assert outcome.err.startswith("pdsearch: error: unrecognized arguments: ")


@pytest.mark.parametrize("text", ["best.jsn", "a/b.toml", "./x.txt", "my.pyy", "x.diff", "f.py.x"])
def test_a_mistyped_file_is_no_formula(text: str, run: Any) -> None:
    outcome = run("check", text)
    assert outcome.status == 2 and outcome.err.count("\n") == 1
    assert f"{text!r} is no target: a file must end in .py or .json" in outcome.err


@pytest.mark.parametrize(("words", "limit"), [(["--help"], 0.7), (["families"], 3.0)])
def test_starts_quickly(words: list[str], limit: float) -> None:
    """In seconds of processor time: on a busy machine the clock tells of its other work too."""
    seconds: list[float] = []
    while len(seconds) < 3 and not (seconds and seconds[-1] < limit):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert _process(*words).returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert seconds[-1] < limit, seconds


# ------------------------------------------------------------------------------------ commands


def test_families_json(run: Any) -> None:
    entries = json.loads(run("families", "--json").out)
    names = [entry["name"] for entry in entries]
    assert {"relu", "leaky", "b_silu", "nelu", "exp_tail"} <= set(names)
    assert len(names) >= 12 and names == sorted(names)
    for entry in entries:
        assert set(entry) == {
            *("name", "aliases", "formula", "latex", "parameters", "reference", "origin")
        }
        for parameter in entry["parameters"].values():
            assert set(parameter) == {"low", "high", "log", "default"}
            assert parameter["low"] <= parameter["default"] <= parameter["high"]


def test_families_text_names_each_with_its_formula(run: Any) -> None:
    from pdsearch import library

    out = run("families").out
    joined = " ".join(out.split())
    for family in library().values():
        assert f"\n{family.name}" in "\n" + out
        assert " ".join(family.formula.split()) in joined


def test_check_json_and_status(run: Any) -> None:
    outcome = run("check", "b_silu", "--json", "--profile", "strict")
    data = json.loads(outcome.out)
    assert outcome.status == 1 and outcome.err == ""
    assert set(data) == {"target", "profile", "passed", "criteria"}
    assert data["passed"] is False and data["profile"] == "strict"
    by_name = {entry["name"]: entry for entry in data["criteria"]}
    assert list(by_name) == [
        *("forward_is_relu", "alive_below_zero", "consistent", "cheap", "limits"),
        *("sign_preserving", "bounded", "non_decreasing", "gain", "alive_in_half"),
    ]
    assert by_name["sign_preserving"]["verdict"] == "refuted"
    for entry in by_name.values():
        assert {
            *("name", "statement", "verdict", "passed", "required", "value"),
            *("bound", "witness", "source"),
        } <= set(entry)


def test_check_text(run: Any) -> None:
    outcome = run("check", "exp_tail")
    assert outcome.status == 0
    assert "alive_below_zero" in outcome.out and "profile paper: 3; all hold" in outcome.out
    failing = run("check", "relu")
    assert failing.status == 1
    assert "not shown to hold: alive_below_zero" in failing.out


def test_check_a_family_and_map_it(run: Any) -> None:
    formula = "Piecewise((1, x > 0), (a, True))"
    words = ("check", formula, "--param", "a=0.1:2", "--family", "--map")
    outcome = run(*words, "--json")
    assert outcome.status == 1
    data = json.loads(outcome.out)
    (shares,) = [m["shares"] for m in data["maps"] if m["criterion"] == "consistent"]
    # E|g − step| = a/2 ≤ 0.4 exactly where a ≤ 0.8: 0.7 of the range 1.9.
    assert shares["proved"] == pytest.approx(0.7 / 1.9, abs=0.02)
    assert sum(shares.values()) == pytest.approx(1)
    assert "share of the parameter space" in run(*words).out


def test_check_a_formula_at_once(run: Any) -> None:
    formula = "Piecewise((1, x > 0), (a*exp(x), True))"
    outcome = run("check", formula, "--param", "a=0.01:1")
    assert outcome.status == 0, outcome.err
    assert run("check", formula, "--set", "a=0.3").status == 0


@pytest.mark.parametrize(
    ("formula", "flags", "target"),
    [
        ("Piecewise((1, x>0), (a, True))", ("--set", "a=0.3"),
         "Piecewise((1, x > 0), (0.3, True))"),
        ("Piecewise((1, x>0), (a, True))", ("--param", "a=0.1:0.3", "--family"),
         "Piecewise((1, x > 0), (a, True))"),
        ("sigmoid(4*x)", (), "sigmoid(4*x)"),
        ("leaky", ("--set", "alpha=0.1"), "leaky(alpha=0.1)"),
        ("leaky", ("--family",), "leaky"),
    ],
)  # fmt: skip
def test_the_target_of_a_formula_is_its_text(
    formula: str, flags: tuple[str, ...], target: str, run: Any
) -> None:
    assert json.loads(run("check", formula, *flags, "--json").out)["target"] == target
    lines = run("check", formula, *flags).out.splitlines()
    assert lines[0] in (target, f"g(x) = {target}")
    assert sum(target in line for line in lines[:4]) == 1  # not as name and formula both


OWN = '''\
import numpy as np
from pdsearch import x
from pdsearch.criteria import Result

def below_half(candidate):
    """g(-1) is below one half."""
    print("looking")
    value = np.float64(candidate.expression.subs(x, -1))
    return value, value < 0.5

def whole(candidate):
    return Result("whole", "it is whole", "proved", True, False, 1.0, 2.0, None, "mine")
'''


def test_criteria_of_ones_own_are_listed_after_the_ten(run: Any, workdir: Path) -> None:
    (workdir / "mine.py").write_text(OWN)
    words = ("check", "leaky", "--set", "alpha=0.3")
    own = ("--own", "mine.py:below_half", "--own", "mine.py:whole")
    outcome = run(*words, *own, "--json", "--html", "own.html")
    assert outcome.status == 0 and "looking" in outcome.err
    data = json.loads(outcome.out)
    entries = data["criteria"]
    plain_names = [e["name"] for e in json.loads(run(*words, "--json").out)["criteria"]]
    assert [entry["name"] for entry in entries] == [*plain_names, "below_half", "whole"]
    assert len(plain_names) == 10
    assert all(set(entry) == set(entries[0]) for entry in entries)
    first, second = entries[-2:]
    assert (first["statement"], first["verdict"], first["value"], first["passed"]) == (
        "g(-1) is below one half.", "measured", 0.3, True)  # fmt: skip
    assert (second["verdict"], second["value"], second["bound"]) == ("proved", 1.0, 2.0)
    page = (workdir / "own.html").read_text(encoding="utf-8")
    text = run(*words, *own).out
    for shown in (page, text):
        assert "below_half" in shown and "it is whole" in shown
    failing = run(*words[:3], "alpha=0.5", *own)
    assert failing.status == 1 and "not shown to hold: below_half" in failing.out


def test_ones_own_criteria_of_a_family(run: Any, workdir: Path) -> None:
    (workdir / "mine.py").write_text(OWN)
    own = ("--own", "mine.py:below_half", "--own", "mine.py:whole")
    outcome = run("check", "leaky", "--family", "--map", *own, "--json")
    assert outcome.status == 1
    first, second = json.loads(outcome.out)["criteria"][-2:]
    # alpha in [0.001, 0.5]: the default 0.01 holds, the upper end does not
    assert not first["passed"] and first["value"] == 0.5
    assert "asked of 3 of the family's candidates, this is leaky(alpha=0.5)" in first["detail"]
    # some of its candidates are no proof for all
    assert second["verdict"] == "measured" and second["passed"]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("mine.py", "is named path.py:function, got 'mine.py'"),
        ("gone.py:f", "gone.py does not exist"),
        ("mine.py:nothing", "mine.py has no function 'nothing' (it has: odd)"),
        ("mine.py:limits", "mine.py has no function 'limits'"),
        ("mine.py:odd", "the verdict of the criterion 'odd' must be one of proved, refuted, und"),
    ],
)
def test_what_is_no_criterion_is_told_in_one_line(
    spec: str, message: str, run: Any, workdir: Path
) -> None:
    (workdir / "mine.py").write_text(
        "from pdsearch import criteria\n"
        "def odd(candidate):\n"
        "    return criteria.Result('odd', 's', 'yes', True, False, None, 'b', None, 'mine')\n"
    )
    outcome = run("check", "leaky", "--own", spec)
    assert outcome.status == 2 and outcome.out == ""
    assert message in outcome.err and outcome.err.count("\n") == 1


def test_maps_are_drawn_for_one_and_two_parameters(run: Any, workdir: Path) -> None:
    formula = "Piecewise((1, x > 0), ({}, True))"
    words = ("--family", "--map", "--profile", "strict", "--html", "m.html")
    one = run("check", formula.format("a"), "--param", "a=0.1:2", *words).out
    (strip,) = [line.strip() for line in one.split("\nconsistent\n")[1].splitlines()[:1]]
    # E|g - step| = a/2 ≤ 0.4 up to a = 0.8, which is 0.7/1.9 of 60 columns: 22.1
    assert len(strip) == 60 and strip[:21] == strip[0] * 21 and strip[23:] == strip[-1] * 37
    assert strip[0] != strip[-1]
    assert "Map of the parameters" in (workdir / "m.html").read_text(encoding="utf-8")
    two = run(
        "check", formula.format("a*b"), "--param", "a=0.1:2", "--param", "b=0.1:1", *words
    ).out
    rows = two.split("\nconsistent\n")[1].splitlines()[:12]
    middles = [0.1 + 1.9 * (i + 0.5) / 60 for i in range(60)]
    for i, row in enumerate(rows):
        b = 1 - 0.9 * (i + 0.5) / 12
        for a, cell in zip(middles, row[-60:], strict=True):
            if cell != "?":
                assert (cell == rows[-1][-60]) == (a * b <= 0.8 + 1e-6)
    assert sum(row.count("?") for row in rows) < 72


def test_check_writes_html(run: Any, workdir: Path) -> None:
    assert run("check", "leaky", "--set", "alpha=0.1", "--html", "c.html").status == 0
    assert (workdir / "c.html").read_text(encoding="utf-8").lstrip().lower().startswith("<!doctype")


def test_init_writes_files_that_run_and_never_replaces(run: Any, workdir: Path) -> None:
    assert run("init", "here").status == 0
    before = (workdir / "here" / "study.toml").read_bytes()
    outcome = run("init", "here")
    assert outcome.status == 2 and "is there already" in outcome.err
    assert (workdir / "here" / "study.toml").read_bytes() == before
    assert run("check", "here/my_family.py").status == 0


def test_init_says_what_to_type_next(run: Any, workdir: Path) -> None:
    outcome = run("init", "my search")
    assert outcome.out.splitlines()[0] == "cd 'my search' && pdsearch check my_family.py"


def test_export_of_a_family_with_wrong_settings_speaks_of_them_alone(run: Any) -> None:
    err = run("export", "exp_tail", "--set", "alpha=9", "-o", "e.py").err
    assert err == ("pdsearch: error: alpha must be in [0.01, 1.0] for family 'exp_tail', got 9.0\n")


def test_export_of_a_target(run: Any, workdir: Path) -> None:
    assert run("export", "exp_tail", "--set", "alpha=0.5", "-o", "c.json").status == 0
    assert run("export", "c.json", "--set", "beta=2", "-o", "d.json").status == 0
    data = json.loads((workdir / "d.json").read_text())
    assert data["parameters"] == {"alpha": 0.5, "beta": 2.0}
    assert run("export", "x + 1", "-o", "f.tex").status == 0


# --------------------------------------------------------------------------- a study, end to end

STUDY = """\
[study]
name = "tiny"
families = ["exp_tail", "leaky"]
references = []
trials = 4
sampler = "random"
pruner = "none"
[trial]
model = "tiny.py:model"
dataset = "digits"
epochs = 1
batch_size = 128
learning_rate = 0.05
[confirm]
seeds = 2
epochs = 1
"""

MODEL = """\
from torch import nn

def model(classes):
    return nn.Sequential(
        nn.AvgPool2d(4), nn.Flatten(), nn.Linear(192, 32), nn.ReLU(), nn.Linear(32, classes)
    )
"""


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished study of seconds."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "tiny.toml").write_text(STUDY)
    (folder / "tiny.py").write_text(MODEL)
    done = _process("search", "tiny.toml", "--json", "--threads", "1", cwd=folder)
    assert done.returncode == 0, done.stderr
    (folder / "search.json").write_text(done.stdout)
    (folder / "search.err").write_text(done.stderr)
    return folder


@pytest.fixture
def there(run: Any, study: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`run` in the folder of the finished study."""
    monkeypatch.chdir(study)
    return run


def test_search_json(study: Path) -> None:
    data = json.loads((study / "search.json").read_text())
    assert set(data) == {"study", "storage", "trials", "best", "baseline", "references"}
    assert data["study"] == "tiny" and data["storage"] == "sqlite:///pdsearch.db"
    assert data["trials"]["total"] == 4
    assert set(data["trials"]) == {"complete", "pruned", "ruled_out", "failed", "total"}
    assert set(data["best"]) == {"trial", "family", "parameters", "formula", "value"}
    assert 0 < data["baseline"]["value"] <= 1


def test_search_leaves_a_report_and_a_best_candidate(study: Path) -> None:
    output = study / "results" / "tiny"
    for name in ("report.html", "best.py", "best.json"):
        assert (output / name).stat().st_size > 100
    said = (study / "search.err").read_text()
    assert "report.html" in said and "best.py" in said
    assert "\r" not in said  # no bars where stderr is no terminal


def test_search_again_runs_nothing_new(there: Any, study: Path) -> None:
    data = json.loads((study / "search.json").read_text())
    outcome = there("-q", "search", "tiny.toml", "--json")
    assert outcome.status == 0 and json.loads(outcome.out) == data


def test_status(there: Any) -> None:
    by_file, by_name = there("status", "tiny.toml", "--json"), there("status", "tiny", "--json")
    assert by_file.status == by_name.status == 0
    assert json.loads(by_file.out)["trials"]["total"] == 4
    assert json.loads(by_file.out)["study"] == json.loads(by_name.out)["study"] == "tiny"
    text = there("status", "tiny")
    assert text.status == 0 and "study tiny" in text.out


def test_report(there: Any, study: Path) -> None:
    assert there("report", "tiny", "-o", "r.html").status == 0
    assert (study / "r.html").stat().st_size > 1000


def test_export_of_a_study(there: Any, study: Path) -> None:
    data = json.loads((study / "search.json").read_text())
    assert there("export", "tiny.toml", "-o", "e.json").status == 0
    best = json.loads((study / "e.json").read_text())
    assert best["parameters"] == data["best"]["parameters"]
    number = str(data["best"]["trial"])
    assert there("export", "tiny", "--trial", number, "-o", "e2.json").status == 0
    assert json.loads((study / "e2.json").read_text())["parameters"] == best["parameters"]
    refused = there("export", "tiny", "-o", "e.json")
    assert refused.status == 2 and "--force" in refused.err
    assert there("export", "tiny", "-o", "e.json", "--force").status == 0
    assert best["provenance"]["trial"] == data["best"]["trial"]
    (name, value), *_ = best["parameters"].items()
    there("export", "tiny", "--set", f"{name}={value * 0.99}", "-o", "changed.json")
    changed = json.loads((study / "changed.json").read_text())
    assert changed["parameters"][name] == value * 0.99
    came = {key: entry for key, entry in changed["provenance"].items() if key != "pdsearch"}
    assert came == {"study": "tiny", "changed from trial": data["best"]["trial"]}
    missing = there("export", "tiny", "--trial", "99", "-o", "e3.json")
    assert missing.status == 2 and "has no trial 99" in missing.err


def test_confirm(there: Any) -> None:
    words = ("confirm", "tiny", "--top", "1", "--threads", "1", "--trust-study-code")
    outcome = there(*words, "--candidate", "b_silu", "--json")
    assert outcome.status == 0, outcome.err
    data = json.loads(outcome.out)
    assert {"study", "rows", "epochs", "dataset", "model", "learning_rate"} <= set(data)
    assert len(data["rows"]) == 3
    for row in data["rows"]:
        assert {
            *("name", "formula", "seeds", "accuracy", "mean", "std", "difference"),
            *("ci95", "p_value", "p_adjusted"),
        } <= set(row)
        assert row["seeds"] == len(row["accuracy"]) == 2
    assert there(*words, "-q").status == 0


def test_learned_criteria(there: Any) -> None:
    assert there("criteria", "tiny").status == 0
    assert isinstance(json.loads(there("criteria", "tiny", "--json").out), dict)


def test_worker_finds_nothing_left_to_do(there: Any) -> None:
    assert there("worker", "tiny", "--trust-study-code").status == 0


def test_dashboard_serves_this_machine_only(there: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import optuna_dashboard

    served: dict[str, Any] = {}
    monkeypatch.setattr(
        optuna_dashboard, "run_server", lambda storage, **options: served.update(options)
    )
    outcome = there("dashboard", "tiny", "--port", "8123")
    assert outcome.status == 0
    assert (served["host"], served["port"]) == ("127.0.0.1", 8123)
    assert "http://127.0.0.1:8123/" in outcome.err


def test_dashboard_on_a_port_that_is_taken(there: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        outcome = there("dashboard", "tiny", "--port", port)
    _is_one_line(outcome)
    assert f"port {port} cannot be used (Address already in use)" in outcome.err


def test_dashboard_without_its_extra(there: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna_dashboard", None)
    outcome = there("dashboard", "tiny")
    assert outcome.status == 2 and "pip install optuna-dashboard" in outcome.err


def test_a_password_is_never_shown(run: Any) -> None:
    for words in (["status", "s"], ["doctor"]):
        outcome = run(*words, "--storage", "postgresql+psycopg://u:s3cret{%25}@127.0.0.1:1/d")
        assert outcome.status in (1, 2)
        assert "s3cret" not in outcome.out + outcome.err


# ------------------------------------------------------------------------------------ bad input

BAD_FORMULAS = {
    "code": "__import__('os').system('id')",
    "attribute": "().__class__.__bases__",
    "attribute of x": "x.__class__",
    "string": 'simplify("x")',
    "f-string": "f'{x}'",
    "lambda": "(lambda: x)()",
    "comprehension": "[x for x in (1,)]",
    "walrus": "(y := x)",
    "tower": "9**9**9**9",
    "factorial": "factorial(10**9)",
    "parentheses": "(" * 250 + "x" + ")" * 250,
    "minuses": "x + " + "-" * 100_000 + "x",
    "long": "x + " * 1_000_000 + "x",
    "full width": "ｅｘｐ(x)",
    "Cyrillic": "х + 1",
    "NUL": "x\x00",
    "empty": "",
    "blank": "  \n",
    "comment": "# x",
    "two lines": "x\nx",
    "nan": "nan*x",
    "oo": "oo + x",
    "I": "I*x",
    "pole": "1/x",
    "log": "log(x)",
    "root": "sqrt(x)",
    "gap": "Piecewise((1, x > 0))",
    "undeclared": "a*x",
    "unknown function": "sine(x)",
    "unbalanced": "exp(x",
}


@pytest.mark.parametrize("formula", BAD_FORMULAS.values(), ids=BAD_FORMULAS)
def test_bad_formula_is_one_line(formula: str, run: Any) -> None:
    start = time.perf_counter()
    outcome = run("check", "--", formula)
    _is_one_line(outcome)
    assert time.perf_counter() - start < 5


BAD_WORDS = {
    "no command": [],
    "unknown command": ["serach"],
    "unknown flag": ["families", "--jason"],
    "abbreviated flag": ["families", "--js"],
    "profile": ["check", "relu", "--profile", "lax"],
    "no such family": ["check", "exp_tial"],
    "no such file": ["check", "missing.py"],
    "a folder": ["check", "folder.py"],
    "a file without family": ["check", "empty.py"],
    "a file that fails": ["check", "broken.py"],
    "no such name in a file": ["check", "empty.py:name"],
    "no JSON": ["check", "bad.json"],
    "JSON of something else": ["check", "other.json"],
    "out of range": ["check", "exp_tail", "--set", "alpha=3.0"],
    "nan": ["check", "exp_tail", "--set", "alpha=nan"],
    "no such parameter": ["check", "exp_tail", "--set", "gamma=1"],
    "no number": ["check", "exp_tail", "--set", "alpha=big"],
    "no value": ["check", "exp_tail", "--set", "alpha"],
    "unused parameter": ["check", "x", "--set", "a=1"],
    "reserved parameter": ["check", "exp*x", "--set", "exp=1"],
    "parameter called x": ["check", "x", "--param", "x=0:1"],
    "low above high": ["check", "a*x", "--param", "a=1:0.1"],
    "log from zero": ["check", "a*x", "--param", "a=0:1:log"],
    "infinite range": ["check", "a*x", "--param", "a=0:inf"],
    "half a range": ["check", "a*x", "--param", "a=0"],
    "map without family": ["check", "relu", "--map"],
    "html into a missing folder": ["check", "leaky", "--html", "no/such/folder/c.html"],
    "no study file": ["search", "missing.toml"],
    "study file is a folder": ["search", "folder.toml"],
    "empty study file": ["search", "empty.toml"],
    "study file not UTF-8": ["search", "latin.toml"],
    "study file with a duplicate key": ["search", "duplicate.toml"],
    "study file with an unknown key": ["search", "good.toml", "--set", "trial.epoch=3"],
    "study file with a wrong type": ["search", "good.toml", "--set", "trial.epochs=many"],
    "negative epochs": ["search", "good.toml", "--set", "trial.epochs=-1"],
    "unknown section": ["search", "good.toml", "--set", "trail.epochs=1"],
    "override without section": ["search", "good.toml", "--set", "epochs=1"],
    "no such model": ["search", "good.toml", "--set", "trial.model=alexnett"],
    "no such data set": ["search", "good.toml", "--set", "trial.dataset=mnist1"],
    "no such folder": ["search", "good.toml", "--set", "trial.dataset=folder:nowhere"],
    "batch larger than the data": ["search", "good.toml", "--set", "trial.batch_size=100000"],
    "no such sampler": ["search", "good.toml", "--set", "study.sampler=tpee"],
    "path in the study's name": ["search", "good.toml", "--set", "study.name=../../x"],
    "long study name": ["search", "good.toml", "--set", "study.name=" + "n" * 600],
    "NUL in the study's name": ["search", "good.toml", "--set", "study.name=a\x00b"],
    "trials": ["search", "good.toml", "--trials", "0"],
    "trials no number": ["search", "good.toml", "--trials", "ten"],
    "storage": ["search", "good.toml", "--storage", "nonsense"],
    "storage of garbage": ["search", "good.toml", "--storage", "sqlite:///garbage.db"],
    "storage in a missing folder": ["search", "good.toml", "--storage", "sqlite:///no/x.db"],
    "storage left empty": ["search", "good.toml", "--storage", ""],
    "negative seed": ["search", "good.toml", "--seed", "-1"],
    "path too long": ["search", "good.toml", "--set", f"trial.dataset=folder:{'d' * 400}"],
    "file name too long": ["check", "f" * 400 + ".py"],
    "model that cannot be trained": ["search", "good.toml", "--set", "trial.model=frozen.py:f"],
    "threshold of another kind": ["search", "good.toml", "--set", "criteria.gain=3"],
    "device": ["search", "good.toml", "--device", "tpu9"],
    "status of no study": ["status", "nobody"],
    "report of no study": ["report", "nobody", "-o", "r.html"],
    "confirm of no study": ["confirm", "nobody"],
    "worker of no study": ["worker", "nobody"],
    "criteria of no study": ["criteria", "nobody"],
    "no port": ["dashboard", "nobody", "--port", "65536"],
    "dashboard of no study": ["dashboard", "nobody"],
    "export of nothing": ["export", "nobody", "-o", "e.py"],
    "export with another ending": ["export", "relu", "-o", "e.txt"],
    "export onto a folder": ["export", "relu", "-o", "folder.py"],
    "export onto a file": ["export", "relu", "-o", "empty.py"],
    "export into a missing folder": ["export", "relu", "-o", "no/such/e.py"],
    "export of a target's trial": ["export", "relu", "--trial", "3", "-o", "e.py"],
    "init onto a file": ["init", "empty.py"],
    "init nowhere": ["init", ""],
    "init with NUL": ["init", "a\0b"],
}


@pytest.fixture
def rubbish(workdir: Path) -> Path:
    """A folder of wrong files."""
    for name in ("folder.py", "folder.toml"):
        (workdir / name).mkdir()
    (workdir / "empty.py").touch()
    (workdir / "broken.py").write_text("import pdsearch\n1 / 0\n")
    (workdir / "frozen.py").write_text(
        "from torch import nn\ndef f(classes):\n    return nn.Sequential(nn.Flatten(), nn.ReLU(), "
        "nn.Linear(3072, classes)).requires_grad_(False)\n"
    )
    (workdir / "bad.json").write_text("{")
    (workdir / "other.json").write_text("[1, 2]")
    (workdir / "empty.toml").touch()
    (workdir / "latin.toml").write_bytes(b'[study]\nname = "\xe4"\n')
    (workdir / "duplicate.toml").write_text('[study]\nname = "a"\nname = "b"\n')
    (workdir / "good.toml").write_text(STUDY.replace("tiny.py:model", "alexnet"))
    (workdir / "garbage.db").write_bytes(b"garbage" * 500)
    return workdir


def _is_one_line(outcome: Outcome) -> None:
    assert outcome.status == 2, outcome.err
    assert outcome.out == ""
    assert outcome.err.startswith("pdsearch: error: ") and outcome.err.count("\n") == 1
    assert len(outcome.err) < 2000


@pytest.mark.parametrize("words", BAD_WORDS.values(), ids=BAD_WORDS)
def test_bad_input_is_one_line(words: list[str], rubbish: Path, run: Any) -> None:
    before = sorted(rubbish.rglob("*"))
    _is_one_line(run(*words))
    left = set(rubbish.rglob("*")) - set(before)
    assert {path.name for path in left if "__pycache__" not in path.parts} <= {"__pycache__"}


@pytest.mark.parametrize(
    "words", [["check", "x.__class__"], ["status", "nobody"]], ids=lambda words: words[0]
)
def test_bad_input_in_a_process_of_its_own(words: list[str], workdir: Path) -> None:
    done = _process(*words, cwd=workdir)
    _is_one_line(Outcome(done.returncode, done.stdout, done.stderr))


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0.9, ""),
        (0.8, "It is not ahead of ReLU, leaky."),
        (0.85, "It is not ahead of leaky."),
        (None, "no candidate finished"),
    ],
)
def test_what_a_search_says_of_its_best(value: float | None, said: str) -> None:
    best: dict[str, Any] = {
        "trial": 2,
        "value": value,
        "family": "f",
        "parameters": {},
        "formula": "1",
    }
    text = search_text(
        {
            "study": "s",
            "trials": {"complete": 3},
            "best": None if value is None else best,
            "baseline": {"value": 0.8},
            "references": {"leaky": 0.85, "elu": None},
        }
    )
    assert said in text and ("picked the best" in text) == (value is not None)
    assert ("not ahead" in text) == ("not ahead" in said)
