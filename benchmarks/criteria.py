"""Measure how long the criteria take: the certified ones per family, and a study's gate.

    OMP_NUM_THREADS=1 python benchmarks/criteria.py [--json] [--rounds 5] [--families]

Prints, over the library at its defaults:

- certified_*: all seven certified criteria of a new candidate (median and maximum over families);
- gate_*: the gate for further candidates of a family, with every required criterion decided for the
  candidate (gate), everything proved for the family (gate_known), or what a study proves at its
  start (gate_study);
- start_*: what a study decides at its start, for the families of studies/digits.toml together and
  for the slowest family of the library.

`--families` also decides every criterion over every parameter space and counts what stays
undecided.
"""

import argparse
import json
import platform
import statistics
import time
from typing import Any

import flint
import sympy

from pdsearch.criteria import (
    CERTIFIED,
    CRITERIA,
    Budget,
    FamilyGate,
    decide_family,
    demands,
    gate,
    settle,
)
from pdsearch.criteria.result import PROVED
from pdsearch.criteria.shape import Shape
from pdsearch.family import Family, library

DIGITS = ("exp_tail", "rational_tail", "gaussian_tail", "leaky")  # studies/digits.toml


def certified_seconds(family: Family) -> float:
    """Time all certified criteria of the default candidate, with nothing cached."""
    sympy.core.cache.clear_cache()
    expression = family.default.expression
    wanted = demands("strict")
    begun = time.perf_counter()
    shape = Shape(expression)
    for criterion in CERTIFIED.values():
        criterion.check(shape, wanted)
    return time.perf_counter() - begun


def gate_seconds(family: Family, *, known: dict[str, str], rounds: int) -> float:
    """Return the median time of the gate over new candidates."""
    times = []
    for i in range(rounds + 1):
        values = {
            name: d.low + (d.high - d.low) * (0.31 + 0.07 * i) for name, d in family.space.items()
        }
        candidate = family.bind(**values)
        begun = time.perf_counter()
        gate(candidate, known=known)
        times.append(time.perf_counter() - begun)
    return statistics.median(times[1:])


def settled(family: Family) -> tuple[float, FamilyGate]:
    """Return the time and the result of what a study decides about a family at its start."""
    sympy.core.cache.clear_cache()
    begun = time.perf_counter()
    found = settle(family)
    return time.perf_counter() - begun, found


def main() -> None:
    """Measure and print the times."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--families", action="store_true")
    arguments = parser.parse_args()
    families = library()
    certified = {
        name: statistics.median(certified_seconds(family) for _ in range(arguments.rounds))
        for name, family in families.items()
    }
    gates, gates_known, gates_study = {}, {}, {}
    begun_with = {name: settled(family) for name, family in families.items()}
    start = {name: seconds for name, (seconds, _) in begun_with.items()}
    settled_wholly = [
        name
        for name, (_, found) in begun_with.items()
        if not found.hopeless and {"alive_below_zero", "consistent"} <= set(found.proved)
    ]
    proved = {name: PROVED for name in CRITERIA if name in CERTIFIED}
    for name, family in families.items():
        if family.parameters:
            gates[name] = gate_seconds(family, known={}, rounds=arguments.rounds)
            gates_study[name] = gate_seconds(
                family, known=begun_with[name][1].known, rounds=arguments.rounds
            )
            gates_known[name] = gate_seconds(family, known=proved, rounds=arguments.rounds)
    found: dict[str, Any] = {
        "machine": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "python-flint": flint.__version__,
        "sympy": sympy.__version__,
        "families": len(families),
        "rounds": arguments.rounds,
        "certified_median_s": statistics.median(certified.values()),
        "certified_max_s": max(certified.values()),
        "certified_slowest": max(certified, key=lambda name: certified[name]),
        "gate_median_s": statistics.median(gates.values()),
        "gate_max_s": max(gates.values()),
        "gate_known_median_s": statistics.median(gates_known.values()),
        "gate_known_max_s": max(gates_known.values()),
        "gate_study_median_s": statistics.median(gates_study.values()),
        "gate_study_max_s": max(gates_study.values()),
        "gate_study_proved_max_s": max(gates_study.get(name, 0.0) for name in settled_wholly),
        "families_proved": len(settled_wholly),
        "start_digits_s": sum(start[name] for name in DIGITS),
        "start_max_s": max(start.values()),
        "start_slowest": max(start, key=lambda name: start[name]),
    }
    if arguments.families:
        begun = time.perf_counter()
        verdicts = {
            (family.name, criterion): verdict
            for family in families.values()
            for criterion, verdict in decide_family(
                family, profile="strict", budget=Budget(boxes=20_000, seconds=10.0)
            ).items()
        }
        open_ = [f"{a}/{b}" for (a, b), verdict in verdicts.items() if verdict == "undecided"]
        found |= {
            "family_pairs": len(verdicts),
            "family_undecided": open_,
            "family_seconds": time.perf_counter() - begun,
        }
    if arguments.json:
        print(json.dumps(found, indent=2))
        return
    for key, value in found.items():
        print(f"{key:24s} {value:.4f}" if isinstance(value, float) else f"{key:24s} {value}")


if __name__ == "__main__":
    main()
