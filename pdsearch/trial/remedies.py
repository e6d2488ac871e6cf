"""Remedies for the loss of plasticity, which a confirmation compares with a pseudo-derivative.

Both change the training step and leave the network's function as it is.
"""

import functools
import math
from collections.abc import Callable

import torch
from torch import nn

from pdsearch.trial.loop import derive_seed
from pdsearch.trial.settings import TrialSettings


def towards_initial(model: nn.Module, strength: float) -> Callable[[], None]:
    r"""L2 regularisation towards the initial weights: Kumar et al. 2023, arXiv:2308.11958.

    Args:
        model: as initialised.
        strength: :math:`\lambda`.

    Returns:
        A function to call between the backward pass and the optimiser's step. It adds the gradient
        of :math:`\lambda\lVert\theta-\theta_0\rVert^2`, :math:`2\lambda(\theta - \theta_0)`, to
        every parameter's.
    """
    pairs = [(p, p.detach().clone()) for p in model.parameters() if p.requires_grad]

    @torch.no_grad()
    def before_step() -> None:
        for parameter, initial in pairs:
            if parameter.grad is not None:
                parameter.grad.add_(parameter, alpha=2 * strength)
                parameter.grad.add_(initial, alpha=-2 * strength)

    return before_step


class Renewal(nn.Module):
    r"""Continual backprop: replace the least useful hidden units of an MLP, a few at a time.

    Dohare et al. 2024 (doi 10.1038/s41586-024-07711-7). After each step, the contribution utility
    of each hidden unit, with its output h over the batch and its outgoing weights w, becomes

    .. math:: u \leftarrow \eta u + (1-\eta)\,\overline{|h|}\,\sum_k |w_k|

    (their equation 1, averaged over the batch). A count grows by the replacement rate times the
    number of units older than the maturity threshold. For each whole one, the unit of least utility
    among these is replaced: its incoming weights are drawn as initially, and its bias, outgoing
    weights, utility and age become 0. So does the optimiser's state of these weights (SGD's
    momentum, Adam's moments; not Adam's step count, which torch keeps for a whole tensor), as in
    the authors' program (github.com/shibhansh/loss-of-plasticity). Unlike there, the next layer's
    bias is not corrected for the lost unit, nor the utility for its age.

    All state is in buffers. The draws depend on the seed and the step alone.

    Args:
        model: an `MLP`, its activations in place.
        optimizer: of the network's parameters.
        settings: of the trial, with `continual_backprop`.
        seed: of the run.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        settings: TrialSettings,
        *,
        seed: int,
    ) -> None:
        super().__init__()
        assert settings.continual_backprop is not None
        self._chosen, self._seed = settings.continual_backprop, seed
        self._initialisation, self._optimizer = settings.initialisation, optimizer
        parts = list(model.children())
        # A tuple, not submodules: their weights are in the network's state already.
        self._layers = tuple(part for part in parts if isinstance(part, nn.Linear))
        device = self._layers[0].weight.device
        shape = (settings.depth, settings.width)
        self.utility: torch.Tensor = nn.Buffer(torch.zeros(shape, device=device))
        self.age: torch.Tensor = nn.Buffer(torch.zeros(shape, dtype=torch.int64, device=device))
        self.waiting: torch.Tensor = nn.Buffer(torch.zeros(settings.depth, dtype=torch.float64))
        self._outputs = torch.zeros(shape, device=device)
        for number, layer in enumerate(self._layers[:-1]):
            activation = parts[parts.index(layer) + 1]
            activation.register_forward_hook(functools.partial(self._look, number))

    def _look(self, number: int, module: nn.Module, inputs: object, output: torch.Tensor) -> None:
        if module.training:
            self._outputs[number] = output.detach().abs().mean(0)

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Age all units and replace those that are due, after a step (from 0) of the optimiser."""
        eta = self._chosen.decay
        leaving = torch.stack([layer.weight.abs().sum(0) for layer in self._layers[1:]])
        self.utility.mul_(eta).add_(self._outputs * leaving, alpha=1 - eta)
        self.age += 1
        eligible = self.age > self._chosen.maturity
        self.waiting += self._chosen.replacement_rate * eligible.sum(1).cpu()
        if float(self.waiting.max()) < 1:
            return
        for number in range(len(self.waiting)):
            count = min(int(self.waiting[number]), int(eligible[number].sum()))
            if count:
                self.waiting[number] -= count
                useful = self.utility[number].masked_fill(~eligible[number], math.inf)
                units = useful.argsort(stable=True)[:count]
                self._replace(number, units, step=step)

    def _replace(self, number: int, units: torch.Tensor, *, step: int) -> None:
        layer, following = self._layers[number], self._layers[number + 1]
        purpose = derive_seed(self._seed, "continual backprop", step, number)
        drawn = self._draw(len(units), layer.in_features, torch.Generator().manual_seed(purpose))
        layer.weight[units] = drawn.to(layer.weight)
        layer.bias[units] = 0
        following.weight[:, units] = 0
        self.utility[number, units] = 0
        self.age[number, units] = 0
        for parameter in (layer.weight, layer.bias, following.weight):
            for value in self._optimizer.state[parameter].values():
                if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                    value[(slice(None), units) if parameter is following.weight else units] = 0

    def _draw(self, count: int, features: int, generator: torch.Generator) -> torch.Tensor:
        """Draw incoming weights as `build_model` does."""
        if self._initialisation == "he":
            return torch.randn(count, features, generator=generator) * math.sqrt(2 / features)
        bound = 1 / math.sqrt(features)  # nn.Linear's
        return (2 * torch.rand(count, features, generator=generator) - 1) * bound
