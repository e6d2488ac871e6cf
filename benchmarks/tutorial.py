"""Search for a pseudo-derivative in the style of the Optuna and torchvision tutorials.

    python benchmarks/tutorial.py FOLDER [--trials 30] [--epochs 8] [--batch 256] [--json]

`benchmarks/search.py` compares pdsearch with this script. Its training path uses only the network
and the parameters' ranges from pdsearch, so that both search the same. It is what a careful user
would write in an afternoon: the images are decoded in memory as in torchvision.datasets.CIFAR10,
the DataLoader's workers persist over epochs and trials, and bad trials are pruned.

FOLDER holds train/CLASS/*.png, as torchvision.datasets.ImageFolder reads it.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
import torch.nn.functional as F
from optuna.pruners import MedianPruner
from optuna.samplers import TPESampler
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset
from torchvision import datasets, transforms

from pdsearch import load_family
from pdsearch.models import build_model

FAMILIES = ("exp_tail", "rational_tail", "gaussian_tail", "ramp", "leaky")
RATE, MOMENTUM, DECAY = 0.02, 0.9, 5e-4
SEED = 0


# --------------------------------------------------------------------------- the pseudo-derivative


def derivative(family: str, x: torch.Tensor, p: dict[str, float]) -> torch.Tensor:
    if family == "exp_tail":
        below = p["alpha"] * torch.exp(p["beta"] * x.clamp(max=0))
    elif family == "rational_tail":
        below = p["alpha"] / (1 + (p["beta"] * x) ** 2)
    elif family == "gaussian_tail":
        below = p["alpha"] * torch.exp(-((p["beta"] * x) ** 2))
    elif family == "ramp":
        below = p["alpha"] * (1 + x / p["width"]).clamp(min=0)
    elif family == "leaky":
        below = torch.full_like(x, p["alpha"])
    else:
        raise ValueError(family)
    return torch.where(x > 0, torch.ones_like(x), below)


class PseudoReLUFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, family: str, parameters: dict[str, float]) -> Any:
        ctx.save_for_backward(x)
        ctx.family, ctx.parameters = family, parameters
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        (x,) = ctx.saved_tensors
        return grad * derivative(ctx.family, x, ctx.parameters), None, None


class PseudoReLU(nn.Module):
    def __init__(self, family: str, parameters: dict[str, float]) -> None:
        super().__init__()
        self.family, self.parameters_of_g = family, parameters

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return PseudoReLUFunction.apply(x, self.family, self.parameters_of_g)


def replace_relu(module: nn.Module, family: str, parameters: dict[str, float]) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.ReLU):
            setattr(module, name, PseudoReLU(family, parameters))
        else:
            replace_relu(child, family, parameters)


# ----------------------------------------------------------------------------------------- the data


class InMemory(Dataset):
    """Images in one array, each converted to a PIL image on access, as in CIFAR10."""

    def __init__(self, folder: Path, transform: Callable[[Any], torch.Tensor]) -> None:
        files = datasets.ImageFolder(str(folder))
        self.data = np.stack([np.asarray(image) for image, _ in files])
        self.targets = files.targets
        self.classes = files.classes
        self.transform = transform

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(Image.fromarray(self.data[index])), self.targets[index]

    def __len__(self) -> int:
        return len(self.data)


def loaders(folder: Path, *, batch: int) -> tuple[DataLoader, DataLoader, int]:
    """Return loaders of the training images, of a held-back tenth, and the number of classes."""
    normalise = transforms.Normalize((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
    for_training = transforms.Compose(
        [
            transforms.RandomCrop(32, padding=4),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            normalise,
        ]
    )
    train = InMemory(folder / "train", for_training)
    held = InMemory(folder / "train", transforms.Compose([transforms.ToTensor(), normalise]))
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(SEED)).tolist()
    share = len(train) // 10
    options: dict[str, Any] = {"num_workers": 2, "persistent_workers": True}
    return (
        DataLoader(
            Subset(train, order[share:]), batch_size=batch, shuffle=True, drop_last=True, **options
        ),
        DataLoader(Subset(held, order[:share]), batch_size=1000, **options),
        len(train.classes),
    )


# ------------------------------------------------------------------------------------- the training


def train(
    family: str,
    parameters: dict[str, float],
    data: tuple[DataLoader, DataLoader, int],
    *,
    epochs: int,
) -> Iterator[float]:
    """Train for some epochs, yielding the validation accuracy after each."""
    train_loader, held_loader, classes = data
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(SEED)
    model = build_model("alexnet", classes=classes, initialisation="he")
    replace_relu(model, family, parameters)
    model = model.to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=MOMENTUM, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, RATE, total_steps=epochs * len(train_loader), cycle_momentum=False
    )
    for _ in range(epochs):
        model.train()
        for images, labels in train_loader:
            images, labels = images.to(device), labels.to(device)
            optimizer.zero_grad()
            loss = F.cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()
            schedule.step()
        model.eval()
        correct = 0
        with torch.no_grad():
            for images, labels in held_loader:
                images, labels = images.to(device), labels.to(device)
                correct += (model(images).argmax(1) == labels).sum().item()
        yield correct / len(held_loader.dataset)  # type: ignore[arg-type]


def search(
    data: tuple[DataLoader, DataLoader, int], *, trials: int, epochs: int
) -> tuple[optuna.Study, int]:
    """Run the study; return it and the total number of trained epochs."""
    trained = 0

    def objective(trial: optuna.Trial) -> float:
        nonlocal trained
        family = trial.suggest_categorical("family", FAMILIES)
        parameters = {
            name: trial.suggest_float(f"{family}.{name}", at.low, at.high, log=at.log)
            for name, at in load_family(family).space.items()
        }
        trial.set_user_attr("parameters", parameters)
        accuracy = 0.0
        for epoch, accuracy in enumerate(train(family, parameters, data, epochs=epochs), start=1):
            trained += 1
            trial.report(accuracy, epoch)
            if trial.should_prune():
                raise optuna.TrialPruned
        return accuracy

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        direction="maximize", sampler=TPESampler(seed=SEED), pruner=MedianPruner()
    )
    study.optimize(objective, n_trials=trials)
    return study, trained


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    begin = time.perf_counter()
    data = loaders(arguments.folder, batch=arguments.batch)
    study, trained = search(data, trials=arguments.trials, epochs=arguments.epochs)
    best = study.best_trial
    found = {
        "family": best.params["family"],
        "parameters": best.user_attrs["parameters"],
        "value": best.value,
        "trials": len(study.trials),
        "pruned": sum(t.state == optuna.trial.TrialState.PRUNED for t in study.trials),
        "epochs": trained,
        "seconds": time.perf_counter() - begin,
    }
    json.dump(found, sys.stdout) if arguments.json else print(found)


if __name__ == "__main__":
    main()
