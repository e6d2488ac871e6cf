"""Choosing a launcher and connecting to its cluster."""

import contextlib
import importlib.util
from collections.abc import Iterator

from pdsearch.errors import UnsupportedError
from pdsearch.launchers.job import Cluster
from pdsearch.launchers.on_ray import RayCluster
from pdsearch.launchers.on_slurm import SlurmCluster

LAUNCHERS = ("local", "ray", "slurm")
"""Where workers start: on this machine, or on a cluster."""

_PACKAGES = {"ray": "ray", "slurm": "submitit"}


@contextlib.contextmanager
def connected(launcher: str) -> Iterator[Cluster | None]:
    """Connect to a launcher's cluster; None is this machine.

    Raises:
        InputError: no such cluster can be reached from here.
        UnsupportedError: its package is not installed.
    """
    if launcher == "local":
        yield None
        return
    package = _PACKAGES[launcher]
    if importlib.util.find_spec(package) is None:
        raise UnsupportedError(
            f"--launcher {launcher} needs the package {package}: pip install 'pdsearch[{launcher}]'"
        )
    cluster: Cluster = RayCluster() if launcher == "ray" else SlurmCluster()
    try:
        yield cluster
    finally:
        cluster.close()
