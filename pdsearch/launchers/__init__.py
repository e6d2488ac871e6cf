"""Starting the workers of a study on a cluster that exists: Ray or Slurm.

The unit is a worker, which takes its trials from the study's storage. Where and when a worker runs
is the cluster's decision.
"""

from pdsearch.launchers.connect import LAUNCHERS, connected
from pdsearch.launchers.job import Cluster, Ended, Job, Seen

__all__ = ["LAUNCHERS", "Cluster", "Ended", "Job", "Seen", "connected"]
