"""`pdsearch confirm`."""

import argparse

from pdsearch.cli.options import (
    STUDY,
    TRUST,
    add_begun_study,
    add_json,
    add_repeated,
    add_training,
    natural,
    positive,
    progress,
    stored_study,
    study_of,
    training_of,
    workers,
)
from pdsearch.cli.output import emit_result, note

SUMMARY = "retrain the best over several seeds and test them against ReLU"
ABOUT = f"{STUDY}\n{TRUST}\nThis is the only command that uses the test set."
EXAMPLES = """\
  pdsearch confirm studies/digits.toml --seeds 8 --top 3
  pdsearch confirm studies/digits.toml --candidate b_silu --controls
  pdsearch confirm studies/alexnet_cifar10.toml --transfer resnet18@cifar100
"""


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add the study and the flags that choose the rows and how they are trained."""
    add_begun_study(command)
    command.add_argument(
        "--seeds",
        type=positive,
        metavar="N",
        help="number of seeds; choose it beforehand, because adding seeds until p is small makes p "
        "too small; default: the study file's",
    )
    command.add_argument(
        "--top",
        type=natural,
        default=3,
        metavar="N",
        help="number of the study's best candidates; default: 3",
    )
    command.add_argument("--epochs", type=positive, metavar="E", help="default: the study file's")
    command.add_argument(
        "--rate-epochs",
        type=positive,
        metavar="E",
        help="epochs of the runs that choose a learning rate for each row from "
        "trial.learning_rates; default: the study file's rate_epochs, else --epochs",
    )
    help = (
        "another row: a family at its defaults, path.py[:name], candidate.json or a formula "
        "without parameters"
    )
    add_repeated(command, "--candidate", "TARGET", help)
    command.add_argument(
        "--controls",
        action="store_true",
        help="add rows for the ordinary activation whose true derivative is the best candidate's "
        "g, for ReLU at a raised early rate, and for LeakyReLU, GELU and SiLU; on a stream of "
        "tasks instead of these three for LeakyReLU (0.01 and 0.1), ELU, CReLU, LayerNorm, L2 "
        "towards the initial weights and continual backprop",
    )
    command.add_argument(
        "--forward-control", action="store_true", help="add only the first of these controls"
    )
    help = "repeat the confirmation on another model and data set"
    add_repeated(command, "--transfer", "MODEL@DATASET", help)
    command.add_argument(
        "--workers", type=workers, metavar="N", help="number of processes; default: auto"
    )
    add_json(command)
    add_training(
        command,
        seed="the first seed; default: the study's + 1000, far from the seeds of the search",
    )


def run(arguments: argparse.Namespace) -> int:
    """Confirm a study's best candidates."""
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
    emit_result(arguments, outcome.to_dict(), lambda: confirm_table(outcome))
    return 0
