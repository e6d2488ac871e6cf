"""`pdsearch worker`."""

import argparse

from pdsearch.cli.options import (
    STUDY,
    TRUST,
    add_begun_study,
    add_training,
    progress,
    stored_study,
    study_of,
    training_of,
)
from pdsearch.errors import InputError

SUMMARY = "join a study that other processes are running"
ABOUT = f"{STUDY}\n{TRUST}"
EXAMPLES = """\
  pdsearch worker studies/alexnet_cifar10.toml --storage postgresql+psycopg://user@host/db
"""


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add the study and the flags of training."""
    add_begun_study(command)
    command.add_argument(
        "--until-total",
        action="store_true",
        help="stay until the study has reached its total, and retry the trials of workers that die",
    )
    add_training(command, seed="must be the study's; may be omitted")


def run(arguments: argparse.Namespace) -> int:
    """Work on a study until it is finished."""
    from pdsearch.study import worker

    seed = {} if arguments.seed is None else {"study.seed": str(arguments.seed)}
    study = study_of(arguments, **seed)
    if arguments.seed is not None:
        kept = stored_study(study, arguments.storage).settings.study.seed
        if arguments.seed != kept:
            raise InputError(f"a worker trains with its study's seed, {kept}: omit --seed")
    worker(
        study,
        storage=arguments.storage,
        trust_study_code=arguments.trust_study_code,
        until_total=arguments.until_total,
        progress=progress(arguments),
        **training_of(arguments),
    )
    return 0
