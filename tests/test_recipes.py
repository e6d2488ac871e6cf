"""benchmarks/recipes.py: its recipes are valid settings, its networks match their description."""

from pathlib import Path
from types import ModuleType

import pytest
from scripts import load_script
from torch import nn

from pdsearch import load_family
from pdsearch.confirm.outcome import Confirmation, Row
from pdsearch.models import build_model
from pdsearch.statistics import PairedDifference
from pdsearch.study.file import validate

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def recipes(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))  # as where a script is run
    return load_script(BENCHMARKS / "recipes.py")


def test_every_recipe_is_a_study_file(recipes: ModuleType) -> None:
    study = {"name": "s", "families": ["leaky"]}
    seen = []
    for changes in recipes.RECIPES.values():
        trial = {**recipes.COMMON, "learning_rates": list(recipes.RATES), **changes}
        seen.append(validate({"study": study, "trial": trial}).trial)
    assert len(seen) == 8 and all(seen.count(one) == 1 for one in seen)


def test_other_lengths_are_of_a_recipe_that_is_there(recipes: ModuleType) -> None:
    assert recipes.LENGTHS
    for name, (recipe, length) in recipes.LENGTHS.items():
        assert name not in recipes.RECIPES and recipe in recipes.RECIPES
        assert length > 0 and length != 1


def made_up(name: str, difference: float, *, diverged: int = 0) -> Row:
    half, mean = 0.005, 0.5 + difference
    interval = (difference - half, difference + half)
    return Row(
        name=name, kind="candidate", formula="", seed_values=(0, 1, 2, 3), accuracy=(mean,) * 4,
        mean=mean, std=0.0, paired=PairedDifference(4, difference, interval=interval),
        p_adjusted=0.01 if abs(difference) > half else 0.5, seeds_needed=None, learning_rate=0.02,
        diverged=tuple(range(diverged)), seconds=1.0,
    )  # fmt: skip


def confirmed(*rows: Row) -> Confirmation:
    return Confirmation("s", "alexnet", "cifar10", 1, None, rows)


def test_the_table_and_the_figure_hold_every_row(recipes: ModuleType) -> None:
    relu = made_up("relu", 0.0)
    found = {
        "step": confirmed(relu, made_up("b", -0.1), made_up("c", 0.016)),
        "he": confirmed(relu, made_up("b", -0.4, diverged=4), made_up("c", 0.002)),
        "adam": confirmed(relu, made_up("b", -0.2, diverged=3)),
    }
    table = recipes.map_table(found).splitlines()
    assert table[2:5] == [
        "| step | 4 | 50.00 (0.02) | -10.00 [-10.50, -9.50]* (0.02) "
        "| +1.60 [+1.10, +2.10]* (0.02) |",
        "| he | 4 | 50.00 (0.02) | diverged (0.02) | +0.20 [-0.30, +0.70] (0.02) |",
        "| adam | 4 | 50.00 (0.02) | -20.00 [-20.50, -19.50]* (0.02) |  |",
    ]
    drawn = recipes.figure(found)
    inside = [trace for trace in drawn.data if trace.mode == "markers"]
    assert [(trace.name, list(trace.x)) for trace in inside] == [("b", []), ("c", [1.6, 0.2])]
    beyond = [(round(trace.y[0]), trace.text.strip()) for trace in drawn.data if trace.text]
    assert beyond == [
        (0, "-10.00 [-10.50, -9.50]*"),
        (1, "diverged"),
        (2, "-20.00 [-20.50, -19.50]*"),
    ]
    low, high = drawn.layout.xaxis.range
    assert low == pytest.approx(-1.1) and high == pytest.approx(2.9)


def test_candidates_are_read(recipes: ModuleType) -> None:
    bound = recipes.bound("exp_tail:alpha=0.355,beta=2.39")
    assert bound == load_family("exp_tail").bind(alpha=0.355, beta=2.39)
    assert recipes.bound("b_silu") == load_family("b_silu").default


@pytest.mark.parametrize("depth", [6, 16])
def test_plain_networks_have_that_many_layers(depth: int) -> None:
    model = build_model(f"{BENCHMARKS / 'plain.py'}:depth{depth}", classes=10)
    kinds = [type(module) for module in model.modules()]
    assert kinds.count(nn.Conv2d) == kinds.count(nn.ReLU) == depth
    assert kinds.count(nn.MaxPool2d) == kinds.count(nn.Linear) == 1
