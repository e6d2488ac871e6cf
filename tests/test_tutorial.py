"""The g of the script that benchmarks/search.py compares with is the library's g."""

from pathlib import Path
from types import ModuleType

import pytest
import torch
from scripts import load_script
from torch import nn

from pdsearch import load_family, pd_relu

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture(scope="module")
def tutorial() -> ModuleType:
    return load_script(BENCHMARKS / "tutorial.py")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return load_script(BENCHMARKS / "search.py").write_images(
        tmp_path_factory.mktemp("images") / "made", spec=None, train=120, test=20
    )


def _families() -> list[str]:
    return ["exp_tail", "rational_tail", "gaussian_tail", "ramp", "leaky"]


def test_it_searches_what_the_benchmark_searches(tutorial: ModuleType) -> None:
    assert list(tutorial.FAMILIES) == _families()
    assert all(f'"{name}"' in load_script(BENCHMARKS / "search.py").STUDY for name in _families())


@pytest.mark.parametrize("family", _families())
def test_its_gradient_is_ours(tutorial: ModuleType, family: str) -> None:
    candidate = load_family(family).default
    values = torch.linspace(-8, 8, 801, dtype=torch.float64)
    there, here = values.clone().requires_grad_(), values.clone().requires_grad_()
    module = tutorial.PseudoReLU(family, dict(candidate.parameters))
    forward = module(there)
    assert torch.equal(forward, torch.relu(values))
    forward.sum().backward()
    pd_relu(here, candidate).sum().backward()
    assert there.grad is not None and here.grad is not None
    torch.testing.assert_close(there.grad, here.grad, rtol=1e-12, atol=1e-12)


def test_it_replaces_every_relu(tutorial: ModuleType) -> None:
    model = nn.Sequential(nn.ReLU(), nn.Sequential(nn.Linear(2, 2), nn.ReLU()))
    tutorial.replace_relu(model, "leaky", {"alpha": 0.1})
    kinds = [type(module).__name__ for module in model.modules()]
    assert kinds.count("PseudoReLU") == 2 and "ReLU" not in kinds


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_it_trains_and_searches(tutorial: ModuleType, folder: Path) -> None:
    data = tutorial.loaders(folder, batch=32)
    images, _ = next(iter(data[0]))
    assert images.shape == (32, 3, 32, 32) and images.dtype == torch.float32
    assert len(data[0].dataset) == 108 and len(data[1].dataset) == 12 and data[2] == 10
    # Neither part holds an image of the other.
    assert not set(data[0].dataset.indices) & set(data[1].dataset.indices)
    study, trained = tutorial.search(data, trials=2, epochs=1)
    assert trained == len(study.trials) == 2
    assert 0 <= study.best_value <= 1
    assert set(study.best_trial.user_attrs["parameters"]) <= {"alpha", "beta", "width"}
