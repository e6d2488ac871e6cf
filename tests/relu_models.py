"""Small models that compute ReLU in every way that people write it, for test_convert.py."""

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.functional import relu as renamed
from torch.utils.checkpoint import checkpoint

CASES: dict[str, Callable[[], nn.Module]] = {}


def case(make: Any) -> Any:
    CASES[make.__name__] = make
    return make


def layer() -> nn.Linear:
    return nn.Linear(4, 4)


@case
class BaseMethod(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = layer(), layer()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(F.relu(self.first(x)))


@case
class Inherited(BaseMethod):
    pass


@case
class Super(BaseMethod):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) + 1


def helper(x: torch.Tensor) -> torch.Tensor:
    return torch.relu(x)


@case
class Helper(BaseMethod):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(helper(self.first(x)))


@case
class Renamed(BaseMethod):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(renamed(self.first(x)))


@case
class TensorMethod(BaseMethod):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.first(x).relu().sub(0.1).relu_())


def rectified(function: Any) -> Any:
    @functools.wraps(function)
    def run(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return F.relu(function(self, x))

    return run


@case
class Decorated(BaseMethod):
    @rectified
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.first(x)


def called(function: Any) -> Any:
    """Wraps without functools.wraps: all that it wraps share one code."""
    return lambda x: function(x)


@called
def shifted(x: torch.Tensor) -> torch.Tensor:
    return x - 0.1


@called
def rectified_too(x: torch.Tensor) -> torch.Tensor:
    return F.relu(x)


@case
class DecoratedHelpers(BaseMethod):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(rectified_too(shifted(self.first(x))))


@case
class Partial(BaseMethod):
    def __init__(self) -> None:
        super().__init__()
        self.act = functools.partial(F.relu, inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.act(self.first(x)))


@case
class InContainers(BaseMethod):
    def __init__(self) -> None:
        super().__init__()
        self.acts = {"list": [F.relu, torch.relu], "lambda": (lambda x: x.relu(),)}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.acts["list"][1](self.acts["list"][0](self.first(x)) - 0.2)
        return self.last(self.acts["lambda"][0](x - 0.1))


class Act:
    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return x.relu()


@case
class CallableObject(BaseMethod):
    def __init__(self) -> None:
        super().__init__()
        self.act = Act()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.act(self.first(x)))


@case
class MadeInForward(BaseMethod):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(nn.ReLU(inplace=True)(self.first(x)))


@case
class PlainList(BaseMethod):
    def __init__(self) -> None:
        super().__init__()
        self.acts = [nn.ReLU(), nn.ReLU(inplace=True)]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for act in self.acts:
            x = act(self.first(x))
        return x


@case
class InModuleDict(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleDict({"relu": nn.ReLU(), "layer": layer()})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.parts["relu"](self.parts["layer"](x))


@case
class OwnSequential(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(layer(), layer())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for part in self:
            x = F.relu(part(x))
        return x


@case
class WalksChildren(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = layer(), layer()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for part in self.children():
            x = F.relu(part(x))
        return x


@case
class CallOverride(BaseMethod):
    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(super().__call__(x))


@case
def forward_hook() -> nn.Module:
    model = nn.Sequential(layer(), layer())
    model[0].register_forward_hook(lambda module, inputs, output: F.relu(output))
    return model


@case
def forward_pre_hook() -> nn.Module:
    model = nn.Sequential(layer(), layer())
    model[1].register_forward_pre_hook(lambda module, inputs: (F.relu(inputs[0]),))
    return model


@case
class InPlaceBeforeSkip(nn.Module):
    """As in Xception and VQ-VAE-2: the skip path sees what the ReLU wrote."""

    def __init__(self) -> None:
        super().__init__()
        self.branch = nn.Sequential(nn.ReLU(inplace=True), layer(), nn.ReLU(inplace=True), layer())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x * 1
        return x + self.branch(x)


@case
class FunctionInPlaceBeforeSkip(BaseMethod):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        return self.last(F.relu_(x)) + x


@case
class InPlaceOnAView(BaseMethod):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x)
        F.relu(y[:, 1:3], inplace=True)
        return self.last(y)


class Doubled(nn.ReLU):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * 2


class Plain(nn.ReLU):
    pass


@case
def subclasses() -> nn.Module:
    return nn.Sequential(layer(), Doubled(), Plain(), layer())


@case
def thresholds() -> nn.Module:
    return nn.Sequential(layer(), nn.Threshold(0, 0), layer(), nn.Threshold(0.0, 0, True), layer())


@case
class ThresholdFunctions(BaseMethod):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(F.threshold(self.first(x), 0, 0)) + torch.threshold(x, 0, 0.0)


@case
class CheckpointedMethod(BaseMethod):
    def inner(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.first(x))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(checkpoint(self.inner, x, use_reentrant=False))


@case
class CheckpointedReentrant(CheckpointedMethod):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(checkpoint(self.inner, x, use_reentrant=True))


@case
class CheckpointedModule(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = BaseMethod()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        once = checkpoint(self.block, x, use_reentrant=False)
        return once + checkpoint(self.block, x, use_reentrant=True)


@case
class InLoop(nn.Module):
    """`block.relu(x)` is a module's, and the argument called relu is none."""

    def __init__(self, relu: bool = True) -> None:
        super().__init__()
        self.relu_last, self.blocks = relu, nn.ModuleList()
        for _ in range(2):
            self.blocks.append(nn.ModuleDict({"layer": layer()}))
            self.blocks[-1].add_module("relu", nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block.relu(block.layer(x))
        return x


@case
class LocalName(BaseMethod):
    def __init__(self) -> None:
        super().__init__()
        self.act = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        relu = self.act
        return self.last(relu(self.first(x)))

    def loss(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self(x)).sum()


@case
class BranchNotTaken(BaseMethod):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) > 1_000:
            return torch.relu(x)
        return self.last(F.relu(self.first(x)))


@case
class Static(BaseMethod):
    @staticmethod
    def act(x: torch.Tensor) -> torch.Tensor:
        return F.relu(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.act(self.first(x)))


@case
class Property(BaseMethod):
    @property
    def act(self) -> Any:
        return F.relu

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.act(self.first(x)))


@case
class Chained(BaseMethod):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.relu(F.relu(self.first(x) - 0.1).relu() - 0.1))


@case
def shared() -> nn.Module:
    act = nn.ReLU()
    return nn.Sequential(layer(), act, layer(), act, layer())


@case
def encoder_layer() -> nn.Module:
    return nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0)


@case
def encoder_layer_with_lambda() -> nn.Module:
    return nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, activation=lambda x: F.relu(x))


@case
def fx_graph() -> nn.Module:
    return torch.fx.symbolic_trace(Chained())


@case
class GraphInside(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.graph = torch.fx.symbolic_trace(Chained())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.graph(x))


# ------------------------------------------------------------------- as in CIFAR model collections


class BasicBlock(nn.Module):
    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outside)
        self.shortcut = nn.Sequential()
        if stride != 1 or inside != outside:
            self.shortcut = nn.Sequential(nn.Conv2d(inside, outside, 1, stride, bias=False))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += self.shortcut(x)
        return F.relu(out)


class PreActBlock(BasicBlock):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = F.relu(x)
        out = self.bn1(self.conv1(out))
        return self.bn2(self.conv2(F.relu(out, inplace=True))) + self.shortcut(x)


class SqueezeBlock(BasicBlock):
    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__(inside, outside, stride)
        self.down, self.up = nn.Conv2d(outside, 2, 1), nn.Conv2d(2, outside, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu_()))
        weight = F.relu(self.down(F.adaptive_avg_pool2d(out, 1)))
        return torch.relu(out * self.up(weight).sigmoid() + self.shortcut(x))


class DenseBlock(BasicBlock):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.conv2(F.relu(self.bn1(self.conv1(F.relu(x)))))
        return out + self.shortcut(x)


class CifarNet(nn.Module):
    def __init__(self, block: type[BasicBlock], classes: int = 3) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.layers = nn.Sequential(block(4, 4, 1), block(4, 8, 2))
        self.linear = nn.Linear(8, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.layers(F.relu(self.bn1(self.conv1(x))))
        return self.linear(F.avg_pool2d(out, out.shape[-1]).flatten(1))


class LeNet(nn.Module):
    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 5), nn.Conv2d(6, 16, 5)
        self.fc1, self.fc2 = nn.Linear(400, 20), nn.Linear(20, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = F.max_pool2d(F.relu(self.conv1(x)), 2)
        out = F.max_pool2d(F.relu(self.conv2(out)), 2)
        return self.fc2(F.relu(self.fc1(out.view(len(out), -1))))


CIFAR: dict[str, Callable[[], nn.Module]] = {
    "lenet": LeNet,
    **{
        kind.__name__: functools.partial(CifarNet, kind)
        for kind in (BasicBlock, PreActBlock, SqueezeBlock, DenseBlock)
    },
}
