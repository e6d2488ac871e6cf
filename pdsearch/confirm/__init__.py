"""Paired retraining over seeds: does a candidate beat ReLU on the test set, and by how much?

A search picks its best by one seed's validation accuracy, so that figure flatters the pick.
`confirm` trains the picks, the references and the baseline anew on the whole training set, each
over the same fresh seeds (same initial weights, batch order and augmentation for each seed), and
only here the test set is looked at.

What keeps the comparison fair:

- The seeds start at `FIRST_SEED` above the study's own, so that no run repeats the one the pick
  was made by.
- Where the study has a grid of learning rates, each row's rate is chosen once, by the *validation*
  accuracy of one run per rate (the study's seed; `rate_epochs`, else the confirmation's epochs),
  then fixed for its test runs. Runs that the search made count, where they are as long. Every row,
  the baseline included, gets the same grid.
- p-values are adjusted (Holm) over every row that was retrained under the same settings, earlier
  calls included.
- A diverged run counts with the accuracy of guessing, and is noted.

The intervals speak of the spread over seeds, given this test set; another test set of the same
size would add its own error. p-values are those of a number of seeds that was decided beforehand:
whoever adds seeds until p is small finds small ones too often.

Each finished run is kept at once in the study's storage, as the study attribute
`pdsearch:confirm/<key>`. The key is a digest of all that the result depends on, so the same call
again continues where the last one stopped. Several processes may take part (see `session`):
`workers` as in a search, or a second `pdsearch confirm` of the same study on the same machine.
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
