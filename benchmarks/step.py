"""Measure a training step of a model with pd_relu relative to one with ReLU: time and bytes kept.

    python benchmarks/step.py [--json] [--precision bfloat16] [--model resnet18] [--compile]
        [--families exp_tail leaky:linear exp_tail:up]

A family may be followed by how it fades and by the direction "up". With --compile every model goes
through `torch.compile`, so `save` has no effect.

Time: forward, backward and update on one batch that is ready in memory. In each round every variant
makes one step; the ratio is the median over the rounds of its time to ReLU's in the same round.
Bytes: what autograd keeps between the passes, each storage once, excluding the model's weights.
ReLU keeps its output, which the next layer keeps anyway.
"""

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from pdsearch import Candidate, convert, fade, kernels, load_family, set_progress
from pdsearch.models import build_model
from pdsearch.trial import resolve_device
from pdsearch.trial.convolution import hasten
from pdsearch.trial.speed import autocast, memory_format


def candidate_for(text: str) -> Candidate:
    """Return the default of a family, which `:linear` and the like fade and `:up` directs."""
    name, *changes = text.split(":")
    family = load_family(name)
    for change in changes:
        if change != "up":
            family = fade(family, change, end=0.5)
    return family.bind(direction="up") if "up" in changes else family.default


def model_for(
    variant: tuple[str, str] | None, *, name: str, layout: str, device: torch.device, compiled: bool
) -> nn.Module:
    """Return a model as in a trial: with ReLU for None, else a family's default and `save`."""
    torch.manual_seed(0)
    model = build_model(name, classes=10, initialisation="he")
    if variant is not None:
        text, save = variant
        model = convert(model, candidate_for(text), save=save)
        set_progress(model, 0.1 if "linear" in text else 0.0)
    model = model.to(device).to(memory_format=memory_format(layout)).train()
    if compiled:
        return torch.compile(model)
    if device.type == "cpu":
        hasten(model)
    return model


def kept_bytes(model: nn.Module, loss: Callable[[nn.Module], torch.Tensor]) -> int:
    """Return the bytes that the graph of a loss keeps, excluding the model's weights."""
    own = {value.untyped_storage().data_ptr() for value in model.state_dict().values()}
    kept: dict[int, torch.UntypedStorage] = {}

    @torch.compiler.disable
    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        value = loss(model)
    total = sum(storage.nbytes() for storage in kept.values())
    del value
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--model", default="alexnet")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument(
        "--families", nargs="+", default=["exp_tail", "b_silu", "sigmoid", "knots_cubic", "leaky"]
    )
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = resolve_device(arguments.device)
    cuda = device.type == "cuda"
    variants: list[tuple[str, str] | None] = [None]
    for family in arguments.families:
        variants.append((family, "auto"))
        if not arguments.compile and device.type == "cpu" and kernels.available() is None:
            variants.append((family, "uint8"))

    generator = torch.Generator().manual_seed(0)
    images = torch.randn(arguments.batch, 3, 32, 32, generator=generator).to(device)
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 10, (arguments.batch,), generator=generator).to(device)

    def loss(model: nn.Module) -> torch.Tensor:
        with autocast(arguments.precision, device):
            return F.cross_entropy(model(images), labels)

    options = {"name": arguments.model, "device": device, "compiled": arguments.compile}
    models = [model_for(variant, layout="channels_last", **options) for variant in variants]
    optimizers = [
        torch.optim.SGD(m.parameters(), lr=1e-3, momentum=0.9, fused=True) for m in models
    ]
    kept = [kept_bytes(model, loss) for model in models]

    def step(index: int) -> float:
        if cuda:
            torch.cuda.synchronize()
        begin = time.perf_counter()
        optimizers[index].zero_grad(set_to_none=True)
        loss(models[index]).backward()
        optimizers[index].step()
        if cuda:
            torch.cuda.synchronize()
        return time.perf_counter() - begin

    taken: list[list[float]] = [[] for _ in models]
    for number in range(arguments.rounds + 2):
        for index in range(len(models)):
            # Every other round runs in reverse, so no variant always follows the same one.
            place = index if number % 2 else len(models) - 1 - index
            seconds = step(place)
            if number >= 2:
                taken[place].append(seconds)
        print(f"\rround {number + 1} of {arguments.rounds + 2}", end="", file=sys.stderr)
    print(file=sys.stderr)

    rows = []
    for variant, times, size in zip(variants, taken, kept, strict=True):
        ratios = [ours / relu for ours, relu in zip(times, taken[0], strict=True)]
        rows.append(
            {
                "family": variant[0] if variant else "ReLU",
                "save": variant[1] if variant else None,
                "ms": 1e3 * statistics.median(times),
                "time": statistics.median(ratios),
                "bytes": size,
                "kept": size / kept[0],
            }
        )
    hardware = torch.cuda.get_device_name(device) if cuda else platform.machine()
    report = {
        "hardware": hardware,
        "threads": arguments.threads,
        "torch": torch.__version__,
        "precision": arguments.precision,
        "model": arguments.model,
        "compiled": arguments.compile,
        "batch": arguments.batch,
        "rounds": arguments.rounds,
        "fused": kernels.available() or "yes",
        "rows": rows,
    }
    if arguments.json:
        print(json.dumps(report, indent=1))
        return
    print(
        f"{hardware}, {arguments.threads} threads; torch {torch.__version__}; {arguments.model}"
        f"{', compiled' * arguments.compile}; {arguments.precision}, batch {arguments.batch}, "
        f"n = {arguments.rounds} rounds; fused kernels: {report['fused']}"
    )
    print(f"{'':24}{'save':>7}{'ms a step':>11}{'ratio':>8}{'MiB kept':>10}{'ratio':>8}")
    for row in rows:
        print(
            f"{row['family']:24}{row['save'] or '':>7}{row['ms']:11.1f}{row['time']:8.3f}"
            f"{row['bytes'] / 2**20:10.2f}{row['kept']:8.3f}"
        )


if __name__ == "__main__":
    main()
