"""`pdsearch confirm`."""

import argparse

from pdsearch.cli.options import (
    STUDY,
    TRUST,
    add_begun_study,
    add_json,
    add_training,
    natural,
    positive,
    progress,
    stored_study,
    study_of,
    training_of,
    workers,
)
from pdsearch.cli.output import emit, emit_json, note

SUMMARY = "retrain the best over several seeds and test them against ReLU"
ABOUT = f"{STUDY}\n{TRUST}\nThe only command that looks at the test set."
EXAMPLES = """\
  pdsearch confirm studies/digits.toml --seeds 8 --top 3
  pdsearch confirm studies/digits.toml --candidate b_silu --controls
  pdsearch confirm studies/alexnet_cifar10.toml --transfer resnet18@cifar100
"""


def add_arguments(command: argparse.ArgumentParser) -> None:
    """The study, the rows, and how they are retrained."""
    add_begun_study(command)
    command.add_argument(
        "--seeds",
        type=positive,
        metavar="N",
        help="number of seeds, decided beforehand: adding some until p is small makes p too small "
        "(default: the study file's)",
    )
    command.add_argument(
        "--top",
        type=natural,
        default=3,
        metavar="N",
        help="number of the study's best candidates (default 3)",
    )
    command.add_argument("--epochs", type=positive, metavar="E", help="default: the study file's")
    command.add_argument(
        "--rate-epochs",
        type=positive,
        metavar="E",
        help="of the runs that choose each row's rate of trial.learning_rates; default: the study "
        "file's rate_epochs, else as --epochs",
    )
    command.add_argument(
        "--candidate",
        action="append",
        default=[],
        metavar="TARGET",
        help="one more row: a family at its defaults, path.py[:name], candidate.json or a formula "
        "without parameters (repeat for more)",
    )
    command.add_argument(
        "--controls",
        action="store_true",
        help="also the ordinary activation whose true derivative is the best candidate's g, and "
        "LeakyReLU, GELU and SiLU; of a stream of tasks LeakyReLU (0.01 and 0.1), ELU, CReLU, "
        "LayerNorm, L2 towards the initial weights and continual backprop",
    )
    command.add_argument(
        "--forward-control", action="store_true", help="only the first of these controls"
    )
    command.add_argument(
        "--transfer",
        action="append",
        default=[],
        metavar="MODEL@DATASET",
        help="repeat it on another model and data set",
    )
    command.add_argument(
        "--workers", type=workers, metavar="N", help="number of processes; default: auto"
    )
    add_json(command)
    add_training(
        command,
        seed="the first of the seeds; default: the study's + 1000, far from those of the search",
    )


def run(arguments: argparse.Namespace) -> int:
    """Retrain the best over seeds."""
    from pdsearch.confirm import confirm, confirm_table
    from pdsearch.family import load_target

    outcome = confirm(
        stored_study(study_of(arguments), arguments.storage),
        seeds=arguments.seeds,
        top=arguments.top,
        epochs=arguments.epochs,
        rate_epochs=arguments.rate_epochs,
        candidates=[load_target(text)[1] for text in arguments.candidate],
        controls=arguments.controls,
        forward_control=arguments.forward_control,
        transfer=arguments.transfer,
        seed=arguments.seed,
        workers=arguments.workers or "auto",
        trust_study_code=arguments.trust_study_code,
        progress=note if progress(arguments) else None,
        **training_of(arguments),
    )
    if arguments.json:
        emit_json(outcome.to_dict())
    else:
        emit(confirm_table(outcome))
    return 0
