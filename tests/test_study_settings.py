"""Study files: everything wrong is told at once, each with its place and what would be valid."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pdsearch import InputError
from pdsearch.study import load_study_file
from pdsearch.study.file import StudyFile
from pdsearch.study.settings import check_name, default_storage, is_file_spec

GOOD = """
[study]
name = "alexnet-cifar10"
families = ["exp_tail", "my_family.py:bent", {formula = "a*x", space = {a = [0.01, 1.0]}}]
references = ["b_silu", "leaky"]
trials = 60
sampler = "tpe"
pruner = "hyperband"
seed = 0
storage = "sqlite:///pdsearch.db"
output = "results"
[criteria]
profile = "paper"
consistent = 0.4
gain = [0.5, 2]
[trial]
model = "alexnet"
dataset = "cifar10"
validation = 0.1
epochs = 8
batch_size = 256
optimizer = "sgd"
learning_rate = 0.02
momentum = 0.9
weight_decay = 5e-4
schedule = "one-cycle"
learning_rates = []
augment = true
precision = "auto"
[confirm]
seeds = 8
epochs = 30
"""
LEAST = '[study]\nname = "s"\nfamilies = ["leaky"]\n'


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def write(text: str | bytes, name: str = "s.toml") -> Path:
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def test_the_designs_study_file(write: Callable[..., Path]) -> None:
    settings = load_study_file(write(GOOD))
    assert settings.study.trials == 60
    assert settings.trial.epochs == 8
    assert settings.confirm.epochs == 30
    assert settings.criteria.bounds() == {"consistent": 0.4, "gain": (0.5, 2.0)}
    assert settings.directory == write(GOOD).parent


def test_defaults(write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PDSEARCH_STORAGE", raising=False)
    study = load_study_file(write(LEAST)).study
    assert (study.sampler, study.pruner, study.trials) == ("tpe", "hyperband", 60)
    assert study.references == ["leaky", "b_silu"]
    assert study.storage == "sqlite:///pdsearch.db"
    assert study.objectives == ["accuracy"]


def test_the_environment_names_a_storage(
    write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PDSEARCH_STORAGE", "sqlite:///elsewhere.db")
    assert default_storage() == "sqlite:///elsewhere.db"
    assert load_study_file(write(LEAST)).study.storage == "sqlite:///elsewhere.db"
    assert load_study_file(write(GOOD)).study.storage == "sqlite:///pdsearch.db"


@pytest.mark.parametrize(
    ("key", "text", "found"),
    [
        ("study.trials", "12", lambda s: s.study.trials == 12),
        ("study.sampler", "random", lambda s: s.study.sampler == "random"),
        ("study.sampler", '"random"', lambda s: s.study.sampler == "random"),
        ("trial.learning_rate", "1e-3", lambda s: s.trial.learning_rate == 1e-3),
        ("trial.dataset", "folder:/data/x y", lambda s: s.trial.dataset == "folder:/data/x y"),
        ("study.families", '["elu"]', lambda s: s.study.families == ["elu"]),
        ("criteria.consistent", "0.3", lambda s: s.criteria.bounds()["consistent"] == 0.3),
        ("trial.augment", "false", lambda s: s.trial.augment is False),
        ("confirm.seeds", "3", lambda s: s.confirm.seeds == 3),
    ],
)
def test_overrides(
    write: Callable[..., Path], key: str, text: str, found: Callable[[StudyFile], bool]
) -> None:
    assert found(load_study_file(write(GOOD), overrides={key: text}))


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("trials", "; did you mean study.trials?"),
        ("epochs", "; did you mean trial.epochs or confirm.epochs?"),
        ("nosuch", "confirm"),
        ("stduy.trials", "confirm"),
    ],
)
def test_an_override_without_its_section(write: Callable[..., Path], key: str, meant: str) -> None:
    with pytest.raises(InputError, match=rf"--set {key}: must be section\.key=value") as caught:
        load_study_file(write(GOOD), overrides={key: "4"})
    assert str(caught.value).endswith(meant)


def test_a_byte_order_mark_is_no_part_of_the_text(write: Callable[..., Path]) -> None:
    """Windows' Notepad begins its files with one."""
    assert load_study_file(write(b"\xef\xbb\xbf" + GOOD.encode())) == load_study_file(write(GOOD))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"is empty: a study file needs a \[study\] section"),
        ("  \n", "is empty"),
        (b"\xff\xfe", "is not UTF-8 text"),
        ("[study]\nname = 1\nname = 2\n", "is not TOML: .*line 3"),
        ("[study\n", "is not TOML"),
        (f"[study]\ntrials = {'9' * 5000}\n", "is not TOML: .*4300 digits"),
        ("# nothing\n", "study: is missing"),
        ("study = 3\n", "study: must be a section, got 3"),
        ('[study]\nname = "s"\n', "study.families: is missing"),
        ('[study]\nfamilies = ["leaky"]\n', "study.name: is missing"),
        (LEAST + "trails = 5\n", "study.trails: unknown key; did you mean trials?"),
        (LEAST + "[tiral]\nepochs = 1\n", "tiral: unknown key; did you mean trial?"),
        (LEAST + "zzz = 5\n", "study.zzz: unknown key; valid are: name, families"),
        (LEAST + "[trial]\nepochs = -3\n", "trial.epochs: must be ≥ 1, got -3"),
        (LEAST + '[trial]\nepochs = "many"\n', "trial.epochs: must be a whole number, got 'many'"),
        (LEAST + '[trial]\nepochs = "8"\n', "trial.epochs: must be a whole number, got '8'"),
        (LEAST + "[trial]\nepochs = 2.5\n", "trial.epochs: must be a whole number, got 2.5"),
        (LEAST + "[trial]\nepochs = true\n", "trial.epochs: must be a whole number, got true"),
        (LEAST + "[trial]\nlearning_rate = nan\n", "trial.learning_rate: must be"),
        (LEAST + "[trial]\nlearning_rate = -inf\n", "trial.learning_rate: must be"),
        (LEAST + "[trial]\nmodel = 3\n", "trial.model: must be text, got 3"),
        (LEAST + '[trial]\noptimizer = "sdg"\n', "trial.optimizer: must be one of sgd | adam"),
        (LEAST + "[trial]\nvalidation = 1.5\n", "trial.validation: must be < 1"),
        (LEAST + "[criteria]\nconsistant = 0.3\n", "did you mean consistent?"),
        (
            LEAST + '[criteria]\nprofile = "lax"\n',
            "criteria.profile: must be one of paper | strict",
        ),
        (
            LEAST + "[criteria]\nlimits = 0.1\n",
            "criteria.thresholds: the criterion 'limits' has no threshold: it holds or not",
        ),
        (LEAST + "[criteria]\ngain = 1.0\n", "threshold of 'gain' must be a pair"),
        (LEAST + "[criteria]\nbounded = [1, 2]\n", "threshold of 'bounded' must be a finite numb"),
        (LEAST + "[criteria]\nalive_radius = -1\n", "'alive_radius' must be positive, got -1"),
        (LEAST + "[criteria]\nalive_radios = 1\n", "did you mean alive_radius?"),
        (LEAST + "[criteria]\nown = 3\n", "criteria.own: must be a list, got 3"),
        (LEAST + "[criteria]\nown = [3]\n", "criteria.own.0: must be text, got 3"),
        (LEAST + '[criteria]\nown = ["a"]\n', "is named path.py:function, got 'a'"),
        (LEAST + '[criteria]\nown = ["a.py"]\n', "is named path.py:function, got 'a.py'"),
        (LEAST + '[criteria]\nown = ["a.py:f g"]\n', "is named path.py:function"),
        (LEAST + '[criteria]\nown = ["a.py:gain"]\n', "'a.py:gain' has the name of a built-in"),
        (LEAST + '[criteria]\nown = ["a.py:f", "b.py:f"]\n', "two criteria are called 'f'"),
        (LEAST + "[criteria]\ngain = [2, 1]\n", "'gain' is empty: low 2 is above high 1"),
        (LEAST + "[criteria]\ngain = 3\n", r"'gain' must be a pair \[low, high\], got 3.0"),
        (LEAST + "[criteria]\ncheap = [1, 2]\n", "'cheap' must be a finite number"),
        (LEAST + "[criteria]\nlimits = 1\n", "'limits' has no threshold: it holds or not"),
        (LEAST + "[criteria]\nconsistent = -1\n", "'consistent' must be positive, got -1.0"),
        (
            LEAST + '[criteria]\nconsistent = "low"\n',
            "consistent: must be a number or a list, got 'low'$",
        ),
        (LEAST + "[confirm]\nseeds = 0\n", "confirm.seeds: must be ≥ 1, got 0"),
        (LEAST + 'sampler = "nsga2"\npruner = "median"\n', "cannot be used with two objectives"),
        (LEAST + 'sampler = "nsga2"\nobjectives = ["accuracy"]\n', "is for two objectives"),
        (
            LEAST + 'sampler = "grid"\nobjectives = ["accuracy", "dead_units"]\n',
            "one objective only",
        ),
        (LEAST + 'objectives = ["dead_units"]\n', "accuracy must be the first objective"),
        (
            LEAST + 'objectives = ["dead_units", "accuracy"]\n',
            "accuracy must be the first objective",
        ),
        (LEAST + 'objectives = ["accuracy", "accuracy"]\n', "one or two different ones"),
        (LEAST + "seed = -1\n", "study.seed: must be ≥ 0, got -1"),
        (LEAST + "trials = 0\n", "study.trials: must be ≥ 1, got 0"),
        (LEAST.replace('"leaky"', "3"), "study.families"),
    ],
)
def test_what_is_wrong_is_said(write: Callable[..., Path], text: str | bytes, message: str) -> None:
    path = write(text)
    with pytest.raises(InputError, match=message) as caught:
        load_study_file(path)
    lines = str(caught.value).splitlines()
    assert all(str(path) in line for line in lines)


def test_all_problems_are_told_at_once(write: Callable[..., Path]) -> None:
    text = (
        LEAST + 'trails = 5\nsampler = "x"\n[trial]\nepochs = -3\nbatch_size = "big"\n[confrim]\n'
    )
    with pytest.raises(InputError, match="trails") as caught:
        load_study_file(write(text), overrides={"trial": "5", "nosuch.key": "1"})
    lines = str(caught.value).splitlines()
    for place in (
        "study.trails",
        "study.sampler",
        "trial.epochs",
        "trial.batch_size",
        "confrim",
        "--set trial",
        "--set nosuch.key",
    ):
        assert sum(f": {place}: " in line for line in lines) == 1, place
    assert len(lines) == 7


def test_every_wrong_criterion_has_its_line(write: Callable[..., Path]) -> None:
    text = LEAST + (
        '[criteria]\nlimits = 1\ngain = 2.0\nown = ["a", "b.py:cheap"]\n[trial]\nepochs = 0\n'
    )
    with pytest.raises(InputError, match="criteria") as caught:
        load_study_file(write(text))
    lines = str(caught.value).splitlines()
    assert sorted(line.split(": ")[1] for line in lines) == [
        *("criteria.own", "criteria.own"), *("criteria.thresholds", "criteria.thresholds"),
        "trial.epochs",
    ]  # fmt: skip


def test_criteria_of_ones_own_and_what_alive_means(write: Callable[..., Path]) -> None:
    text = LEAST + (
        '[criteria]\nown = ["mine.py:small", "b.py:c"]\nalive_radius = 2\nalive_epsilon = 1e-4\n'
    )
    criteria = load_study_file(write(text)).criteria
    assert criteria.own == ["mine.py:small", "b.py:c"]
    assert criteria.bounds() == {"alive_radius": 2.0, "alive_epsilon": 1e-4}


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such study file"):
        load_study_file(tmp_path / "nothing.toml")
    with pytest.raises(InputError, match="is a directory"):
        load_study_file(tmp_path)
    with pytest.raises(InputError, match="cannot be read"):
        load_study_file("a\0b.toml")
    with pytest.raises(InputError, match="cannot be read"):
        load_study_file("a" * 5000 + ".toml")


@pytest.mark.parametrize("name", ["a", "alexnet-cifar10", "A.b_c-1", "0", "x" * 100])
def test_names(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "../../x",
        "a/b",
        "a\\b",
        "x" * 101,
        "x" * 600,
        "a\0",
        "caf\xe9",
        "\U0001f600",
        "a\n",
        "..",
        ".hidden",
        "-q",
        "a b",
        "<script>",
        "a\x1b[31m",
    ],
)
def test_names_that_cannot_be_a_folders(name: str) -> None:
    with pytest.raises(InputError, match="a study's name is 1 to 100") as caught:
        check_name(name)
    assert len(str(caught.value)) < 300
    assert str(caught.value).isprintable()


def test_files_and_names_are_told_apart(tmp_path: Path) -> None:
    assert is_file_spec("studies/a.toml")
    assert is_file_spec(tmp_path / "a")
    assert is_file_spec("./a")
    assert not is_file_spec("alexnet-cifar10")
