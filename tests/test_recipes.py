"""What benchmarks/recipes.py trains: its recipes are settings, its networks what they are said."""

from pathlib import Path
from types import ModuleType

import pytest
from scripts import load_script
from torch import nn

from pdsearch import load_family
from pdsearch.models import build_model
from pdsearch.study.settings import validate

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
    for name, (recipe, length) in recipes.LENGTHS.items():
        assert name not in recipes.RECIPES and recipe in recipes.RECIPES
        assert length > 0 and length != 1


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
