"""Checkpoints of a run: one safetensors file, always replaced as a whole; no pickle."""

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pdsearch.errors import InputError, one_line
from pdsearch.files import replacing

FORMAT = 1

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint file.

    Attributes:
        state: JSON: the epochs so far, the resolved settings.
        tensors: of the model (`model.<name>`) and the optimiser (`optimizer.<number>.<name>`).
    """

    state: dict[str, Any]
    tensors: dict[str, torch.Tensor]


def read_checkpoint(path: Path, *, identity: str) -> Checkpoint | None:
    """Read a checkpoint; None if there is none or, with a warning, if it is damaged.

    Raises:
        InputError: the file has another `identity`, so it belongs to another run.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})["pdsearch"])
            found, state = header["identity"], header["state"]
            # Copies: the file is replaced while they are still in use.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        log.warning("the checkpoint %s is damaged (%s): training restarts", path, one_line(error))
        return None
    if found != identity:
        raise InputError(
            f"checkpoint {path} belongs to another run (other candidate, settings, data, seed or "
            "version of torch): remove it, or name another file"
        )
    return Checkpoint(state, tensors)


def write_checkpoint(
    path: Path,
    *,
    identity: str,
    state: dict[str, Any],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
) -> None:
    """Replace the checkpoint at `path`; warn if that is impossible."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    for number, entry in optimizer.state_dict()["state"].items():
        for name, value in entry.items():
            if value is not None:
                tensors[f"optimizer.{number}.{name}"] = torch.as_tensor(value)
    stored = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    header = {"format": FORMAT, "identity": identity, "state": state}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial:
            save_file(stored, partial, metadata={"pdsearch": json.dumps(header)})
    except (OSError, SafetensorError) as error:  # safetensors wraps the disk's errors
        # A checkpoint only saves time after a crash: training continues without it.
        reason = getattr(error, "strerror", None) or error
        log.warning("the checkpoint %s cannot be written (%s)", path, reason)


def restore(checkpoint: Checkpoint, *, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Load the tensors of a checkpoint into a model and its optimiser."""
    weights: dict[str, torch.Tensor] = {}
    entries: dict[int, dict[str, torch.Tensor]] = {}
    for key, tensor in checkpoint.tensors.items():
        part, _, name = key.partition(".")
        if part == "model":
            weights[name] = tensor
        else:
            number, _, entry = name.partition(".")
            entries.setdefault(int(number), {})[entry] = tensor
    model.load_state_dict(weights)
    optimizer.load_state_dict({**optimizer.state_dict(), "state": entries})
    # torch's fused optimisers read weights and their state in memory order, and are silently wrong
    # where the two orders differ (torch 2.14): give the state the weights' strides.
    for parameter, entry in optimizer.state.items():
        for name, value in entry.items():
            if value.shape == parameter.shape and value.stride() != parameter.stride():
                entry[name] = torch.empty_like(parameter).copy_(value)
