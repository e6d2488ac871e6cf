"""Diagnostics of a network while it trains: its pseudo-gradient, and units that die or revive.

Nothing here changes a run: no random number is drawn, and weights, their gradients, running
statistics and the optimiser's state stay as they are.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import nn

from pdsearch.autograd import PDReLU, exact_gradients


def batch_size(images: int) -> int:
    """Return the size of the fixed batch of a round that trains on so many images.

    Two passes over one image in 256 take about 0.8 % of the round's time.
    """
    return min(max(images // 256, 16), 256)


def agreement(
    model: nn.Module, images: torch.Tensor, labels: torch.Tensor, *, precision: torch.autocast
) -> tuple[tuple[float | None, float | None], dict[str, tuple[float | None, float | None]]]:
    """Return cosine and norm ratio of pseudo-gradient and exact gradient, in total and by layer.

    The model holds `PDReLU`s, and is left in evaluation mode; `images` are normalised.
    """
    layers = {
        name: [p for p in module.parameters(recurse=False) if p.requires_grad]
        for name, module in model.named_modules()
    }
    layers = {name: own for name, own in layers.items() if own}
    if not layers or not any(isinstance(module, PDReLU) for module in model.modules()):
        return (None, None), {}
    parameters = [p for own in layers.values() for p in own]
    model.eval()

    def gradient() -> list[torch.Tensor]:
        with torch.enable_grad(), precision:
            loss = F.cross_entropy(model(images), labels)
        return list(
            torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
        )

    pseudo = gradient()
    with exact_gradients(model):
        exact = gradient()
    pairs = zip(map(torch.flatten, pseudo), map(torch.flatten, exact), strict=True)
    products = torch.stack([torch.stack([p @ e, p @ p, e @ e]) for p, e in pairs]).cpu().double()
    by_layer, at = {}, 0
    for name, own in layers.items():
        by_layer[name] = _compared(products[at : at + len(own)].sum(0))
        at += len(own)
    return _compared(products.sum(0)), by_layer


def _compared(products: torch.Tensor) -> tuple[float | None, float | None]:
    """Cosine and norm ratio from p·e, p·p and e·e."""
    if not bool(products.isfinite().all()) or products[1] <= 0 or products[2] <= 0:
        return None, None
    both, pseudo, exact = products.tolist()  # summed in float32
    cosine = both / (pseudo * exact) ** 0.5
    return min(max(cosine, -1.0), 1.0), (pseudo / exact) ** 0.5


def turnover(
    before: Mapping[str, torch.Tensor], now: Mapping[str, torch.Tensor]
) -> tuple[dict[str, float], dict[str, float]]:
    """Return the shares of each ReLU's units that revived and that died, from the inactive ones."""
    revived = {name: before[name] & ~now[name] for name in now if name in before}
    died = {name: ~before[name] & now[name] for name in now if name in before}
    return _shares(revived), _shares(died)


def _shares(units: Mapping[str, torch.Tensor]) -> dict[str, float]:
    return {name: share(which) for name, which in units.items()}


def share(units: torch.Tensor) -> float:
    """Return the share of True among booleans, divided on the host, in float64."""
    return int(units.sum()) / units.numel()
