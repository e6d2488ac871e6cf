"""Measure images per second in a trial, relative to a plain training step of the same network.

    python benchmarks/trial.py [--dataset folder:PATH] [--threads 2] [--rounds 5]

The plain step is torch's textbook one: AlexNet with nn.ReLU in float32, SGD, and one batch that is
ready in memory, with no data loading, augmentation or evaluation. A trial does all of that and
replaces the derivative. They take turns, round by round; each round gives a ratio.
"""

import argparse
import dataclasses
import platform
import statistics
import time

import torch
import torch.nn.functional as F

from pdsearch.data import Dataset, load_dataset
from pdsearch.family import load_family
from pdsearch.models import build_model
from pdsearch.trial import TrialSettings, resolve_device, run_trial

STEPS = 20


def synthetic() -> Dataset:
    """Return noise in the shape of CIFAR-10; the content does not affect the time."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (12_000, 3, 32, 32), dtype=torch.uint8, generator=generator)
    labels = torch.arange(12_000) % 10
    classes = tuple("0123456789")
    return Dataset("noise", images[2000:], labels[2000:], images[:2000], labels[:2000], classes)


def plain(dataset: Dataset, *, batch: int, device: torch.device) -> float:
    torch.manual_seed(0)
    model = build_model("alexnet", classes=len(dataset.classes)).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    images = (dataset.train_images[:batch].float() / 64 - 2).to(device)
    labels = dataset.train_labels[:batch].to(device)
    begin = 0.0
    for step in range(STEPS + 3):
        if step == 3:
            if device.type == "cuda":
                torch.cuda.synchronize()
            begin = time.perf_counter()
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return STEPS * batch / (time.perf_counter() - begin)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", help="as in a study file; default: noise")
    parser.add_argument("--images", type=int, default=10_000, help="training images to use")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--families", nargs="+", default=["relu", "exp_tail", "b_silu"])
    arguments = parser.parse_args()
    device = resolve_device(arguments.device)
    torch.set_num_threads(arguments.threads)
    dataset = load_dataset(arguments.dataset) if arguments.dataset else synthetic()
    every = max(1, len(dataset.train_labels) // arguments.images)
    dataset = dataclasses.replace(
        dataset,
        train_images=dataset.train_images[::every],
        train_labels=dataset.train_labels[::every],
        fingerprint="",
    )
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor()
    print(f"torch {torch.__version__}, {name or platform.machine()}, {arguments.threads} threads")
    print(f"{len(dataset.train_labels)} images, batch {arguments.batch}, {arguments.rounds} rounds")

    speeds: dict[str, list[float]] = {}
    for number in range(arguments.rounds + 1):
        one = {"plain step, float32": plain(dataset, batch=arguments.batch, device=device)}
        for precision in ("float32", "bfloat16"):
            for family in arguments.families:
                settings = TrialSettings(
                    epochs=1,
                    batch_size=arguments.batch,
                    precision=precision,
                    initialisation="he",
                    schedule="constant",
                    learning_rate=0.001,
                )
                result = run_trial(
                    load_family(family).default, settings, dataset, seed=0, device=str(device)
                )
                one[f"trial, {precision}, {family}"] = result.images_per_second
        if number:  # the first round warms up
            for key, value in one.items():
                speeds.setdefault(key, []).append(value)
    base = speeds["plain step, float32"]
    print(f"{'':34}{'images/s':>10}{'ratio to the plain step: median [least, most]':>50}")
    for key, values in speeds.items():
        ratios = [value / other for value, other in zip(values, base, strict=True)]
        span = f"{statistics.median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}]"
        print(f"{key:34}{statistics.median(values):10.0f}{span:>50}")


if __name__ == "__main__":
    main()
