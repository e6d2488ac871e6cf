"""convert on every way of writing ReLU, against torch's own backward pass with another operator."""

import copy
import pickle

import pytest
import torch
from relu_models import CASES, CIFAR
from relu_oracle import LEAKY, call, check_converts, compare, gradients, relu_nodes

from pdsearch import convert, load_family, relu_sites


def example(name: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    if name in CIFAR:
        return torch.randn(3, 3, 32, 32, generator=generator)
    shape = (2, 3, 4) if name.startswith("encoder") else (6, 4)
    return torch.randn(shape, generator=generator).requires_grad_("Checkpointed" in name)


@pytest.mark.parametrize("name", [*CASES, *CIFAR])
def test_with_an_example(name: str) -> None:
    torch.manual_seed(0)
    given = example(name)
    model = check_converts({**CASES, **CIFAR}[name](), given)
    assert all(site.converted for site in relu_sites(model, given))


@pytest.mark.parametrize("name", [*CASES, *CIFAR])
def test_without_an_example(name: str) -> None:
    torch.manual_seed(0)
    check_converts({**CASES, **CIFAR}[name](), example(name), verify=False)


@pytest.mark.parametrize("name", CASES)
def test_again_copied_and_pickled(name: str) -> None:
    torch.manual_seed(0)
    given = example(name)
    model = convert(CASES[name](), load_family("elu").default, example=given)
    names = [site.name for site in relu_sites(model)]
    twin = copy.deepcopy(model)
    if not any(word in name for word in ("hook", "Containers", "lambda")):  # lambdas do not pickle
        twin = pickle.loads(pickle.dumps(model))
    before = gradients(model, given)
    compare(gradients(twin, given), before)
    convert(twin, LEAKY, example=given)
    assert [site.name for site in relu_sites(twin)] == names
    torch.manual_seed(0)
    wanted = gradients(convert(CASES[name](), LEAKY, example=given), given)
    compare(gradients(twin, given), wanted)
    compare(gradients(model, given), before)
    assert relu_nodes(call(twin, given)) == 0
