"""Paired retraining over seeds: does a candidate beat ReLU on the test set, and by how much?

A search picks its best by one seed's validation accuracy, so that figure flatters the pick.
`confirm` retrains the picks, the references and the baseline on the whole training set, each over
the same new seeds (same initial weights, batch order and augmentation for each seed). Only here the
test set is used.

What keeps the comparison fair:

- The seeds start at `FIRST_SEED` above the study's own, so no run repeats the one that chose the
  pick.
- If the study has a grid of learning rates, each row's rate is chosen once, by the *validation*
  accuracy of one run per rate (the study's seed; `rate_epochs`, else the confirmation's epochs),
  and then fixed for its test runs. Runs of the search are used if they are as long. Every row, the
  baseline included, gets the same grid.
- p-values are adjusted (Holm) over every row retrained under the same settings, earlier calls
  included.
- A diverged run counts with the accuracy of guessing, and is noted.

The intervals cover the spread over seeds, given this test set; another test set of the same size
would add its own error. p-values hold for a number of seeds decided beforehand: adding seeds until
p is small finds small ones too often.

Each finished run is stored at once, as the study attribute `pdsearch:confirm/<key>`. The key is a
digest of everything that the result depends on, so the same call continues where the last one
stopped. Several processes may take part (see `session`): `workers` as in a search, or a second
`pdsearch confirm` of the same study on the same machine.
"""

from pdsearch.confirm.outcome import Confirmation, Row
from pdsearch.confirm.retrain import FIRST_SEED, confirm
from pdsearch.confirm.runs import load_confirmation, read_runs
from pdsearch.confirm.table import confirm_markdown, confirm_table

__all__ = [
    "FIRST_SEED",
    "Confirmation",
    "Row",
    "confirm",
    "confirm_markdown",
    "confirm_table",
    "load_confirmation",
    "read_runs",
]
