"""A small network that calls ReLU as module and as function, plain and converted."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from pdsearch import convert, load_family

NAMES = ["relu", "blocks.0.relu", "blocks.0.act", "blocks.1.relu", "blocks.1.act"]
ELU = load_family("elu").bind(alpha=0.7)
GIVEN = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(4))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(F.relu(self.bn(self.conv(x)), inplace=True) + x)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.blocks = nn.Conv2d(3, 4, 3), nn.Sequential(Block(), Block())
        self.fc = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.blocks(torch.relu(self.stem(x))).mean((2, 3)))


def plain() -> Net:
    torch.manual_seed(0)
    return Net()


def converted(candidate: Any = ELU, **options: Any) -> Net:
    model = convert(plain(), candidate, example=GIVEN, **options)
    assert isinstance(model, Net)
    return model
