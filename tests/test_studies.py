"""The shipped study files: each can be started as it is."""

import tomllib
from pathlib import Path
from typing import Any

import pytest

from pdsearch.family import library
from pdsearch.models import build_model
from pdsearch.study import load_study_file
from pdsearch.study.families import all_families, resolve_families
from pdsearch.trial import learning_rate_at

STUDIES = sorted((Path(__file__).parent.parent / "studies").glob("*.toml"))


@pytest.fixture(params=STUDIES, ids=lambda path: path.stem)
def path(request: pytest.FixtureRequest) -> Path:
    return request.param


def test_there_are_some() -> None:
    names = {path.name for path in STUDIES}
    assert {"digits.toml", "alexnet_cifar10.toml", "alexnet_cifar100.toml"} <= names
    assert "sugar_vgg16_cifar10.toml" in names


def test_it_opens_with_its_command(path: Path) -> None:
    first = path.read_text(encoding="utf-8").splitlines()[0]
    assert first == f"# pdsearch search studies/{path.name}"


def test_it_is_valid_and_its_families_are_there(path: Path) -> None:
    settings = load_study_file(path)
    groups, references = resolve_families(settings.study, directory=settings.directory)
    searched = all_families(groups)
    assert set(searched) | set(references) <= set(library())
    assert settings.trial.dataset in ("digits", "cifar10", "cifar100")
    assert settings.study.trials > 1 + len(references), "nothing is left to search"


def test_its_model_can_be_built(path: Path) -> None:
    trial = load_study_file(path).trial
    classes = 100 if trial.dataset == "cifar100" else 10
    options: dict[str, Any] = {"initialisation": trial.initialisation, "dropout": trial.dropout}
    assert build_model(trial.model, classes=classes, **options) is not None


def test_names_differ() -> None:
    names = [tomllib.loads(path.read_text(encoding="utf-8"))["study"]["name"] for path in STUDIES]
    assert len(set(names)) == len(names)


def test_cifar100_drops_the_rate_where_its_source_does() -> None:
    """The rate drops after epochs 81 and 122 of 164."""
    trial = load_study_file(Path(STUDIES[0]).parent / "alexnet_cifar100.toml").trial
    trial = trial.model_copy(update={"epochs": 164, "learning_rate": 0.1})
    rates = [learning_rate_at(trial, epoch, steps=1) for epoch in range(164)]
    assert rates == pytest.approx([0.1] * 81 + [0.01] * 41 + [0.001] * 42)


def test_sugars_protocol_is_as_noted() -> None:
    settings = load_study_file(Path(STUDIES[0]).parent / "sugar_vgg16_cifar10.toml")
    trial, confirm = settings.trial, settings.confirm
    assert (trial.model, trial.dataset, trial.optimizer) == ("vgg16", "cifar10", "sgd")
    assert (trial.learning_rate, trial.batch_size, trial.augment) == (0.001, 128, False)
    assert (confirm.seeds, confirm.epochs) == (5, 50)
    _, references = resolve_families(settings.study, directory=settings.directory)
    assert references["b_silu"].default.parameters == {"alpha": 1.67}
    assert references["nelu"].default.parameters == {"alpha": 0.05}
