"""Test the criteria on functions whose truth is known: no wrong verdict, no crash, no delay.

    OMP_NUM_THREADS=1 python benchmarks/fuzz_criteria.py --functions 2000 --seed 0

Each function starts from one for which the truth of every criterion is known (a step with an
exponential, rational or linear tail, a sigmoid, a ramp) and gets at most one defect. The defect is
written so that simplification, floats or cutting the line may lose it: a value at a single point or
on a stretch (at powers of two, far out, beyond all floats, next to 0, at irrational points), a pole
that cancels, a logarithm or root of a negative number behind a factor that is zero once multiplied
out. The truth follows from the construction; nothing is evaluated to find it. One in ten functions
is a family whose breakpoint is a parameter, decided over its whole range.

Counts verdicts by truth and lists errors: a false statement `proved`, a true and defined one
`refuted`, any exception, or a decision that takes more than twice its budget of CPU seconds. Exits
with 1 after an error.
"""

import argparse
import json
import random
import sys
import time
from collections import Counter
from dataclasses import dataclass, field

from optuna.distributions import FloatDistribution

from pdsearch.criteria import CERTIFIED, demands
from pdsearch.criteria.family import FamilyShape, decide_criterion
from pdsearch.criteria.result import PROVED, REFUTED
from pdsearch.criteria.shape import Shape
from pdsearch.enclosure import Budget
from pdsearch.errors import FormulaError
from pdsearch.expression import parse
from pdsearch.family import Family

SHAPES = ("sign_preserving", "bounded", "non_decreasing")
BUDGET = Budget(boxes=400, seconds=1.0)

# Non-negative, bounded, non-decreasing, 0 at -oo and 1 at +oo.
RISING = (
    "Piecewise((1, x > 0), (0.3*exp(x), True))", "Piecewise((1, x > 0), (0.5*exp(2*x), True))",
    "Piecewise((1, x >= 0), (0.3/(1 + x**2), True))", "sigmoid(4*x)", "(1 + tanh(x))/2",
    "1/2 + atan(2*x)/pi", "erfc(-x)/2", "clamp(x + 1/2, 0, 1)", "exp(x)/(1 + exp(x))",
    "Piecewise((1, x > 0), (0.2/(1 - x)**1.5, True))", "Heaviside(x)*0.7 + 0.3*sigmoid(x)",
    "1/2 + x/(2*sqrt(x**2 + 1))", "Piecewise((1, x > 0), (max(0, 1 + x/3), True))",
)  # fmt: skip
PLACES = (
    *(f"{sign}{2**k}" for k in (3, 20, 52, 53, 54, 57, 60, 61, 70, 100) for sign in ("", "-")),
    *(f"{2**53 + 1}", f"-{2**54 - 1}", f"{2**60 + 3}", "1e39", "-1e39", "1e300", "-1e300"),
    *("1e309", "-1e309", "1e400", "-1e400", "1e-320", "-1e-320", "1e-400", "-1e-400", "1/3"),
    *("-1/3", "0.1", "-2.7", "-50", "1e9", "-1e15", "2.5e17", "-7e200", "sqrt(2)", "-sqrt(3)/2"),
    *("pi", "-pi/3", "0", "4", "-4", "-3", "8", "-16"),
)  # fmt: skip
ZEROS = (
    "((x + 1)**2 - x**2 - 2*x - 1)", "((x - 2)*(x + 2) - x**2 + 4)", "(x*(x + 3) - x**2 - 3*x)",
    "((x + 1)**3 - x**3 - 3*x**2 - 3*x - 1)", "(exp(x)*(exp(x) + 1) - exp(2*x) - exp(x))",
    "(sin(x)**2 + cos(x)**2 - 1)", "(tanh(x)*(1 + x) - tanh(x) - x*tanh(x))",
)  # fmt: skip
UNDEFINED = (
    "log(x - ({p}))", "sqrt(x - ({p}))", "1/(x - ({p}))", "log(cosh(x - ({p})) - 2)",
    "log((x - ({p}))**2)", "1/(exp(x - ({p})) - 1)", "(x - ({p}))**(-3/2)", "1/((x - ({p}))**2)",
    "sqrt(cosh(x - ({p})) - 3)", "log(abs(x - ({p})))", "1/tanh(x - ({p}))", "(x - ({p}))**0.3",
    "log(1 + 1/(x - ({p})))", "1/(abs(x - ({p})) + x - ({p}))",
)  # fmt: skip
DEFINED = (
    "log(1 + (x - ({p}))**2)", "sqrt(1 + exp(x))", "1/(1 + x**4)", "log(cosh(x))", "sqrt(x**2)",
    "log(1 + exp(x))", "1/(2 + sin(x))", "Piecewise((log(x - ({p})), x > ({p})), (0, True))",
    "Piecewise((sqrt(x - ({p})), x >= ({p})), (0, True))", "sqrt(abs(x - ({p})))",
)  # fmt: skip
ONES = (  # 1 wherever they are defined; undefined at {p}, or at 2, 0 or 2**(1/14)
    "(x**2 - ({p})**2)/((x - ({p}))*(x + ({p})))",
    "min(x - ({p}), 1e9)/(min(x, 1e9 + ({p})) - ({p}))",
    "(x**14 - 2)*(x**14 + 2)/(x**28 - 4)", "(x**3 - 8)/((x - 2)*(x**2 + 2*x + 4))",
    "(exp(2*x) - 1)/((exp(x) - 1)*(exp(x) + 1))", "sign(x - ({p}))*(x - ({p}))/abs(x - ({p}))",
    "(x - ({p}))*(1/(x - ({p}) + x**3) + 1/(x - ({p}))) - (x - ({p}))/(x - ({p}) + x**3)",
    "Piecewise((x/(x - ({p})), x != ({p})), (1/(x - ({p})), True))*(1 - ({p})/x)",
)  # fmt: skip


@dataclass
class Made:
    """A function, and which statements about it are true or false; absent ones are unknown."""

    text: str
    kind: str
    truth: dict[str, bool] = field(default_factory=dict)
    space: dict[str, tuple[float, float]] = field(default_factory=dict)


def make(rng: random.Random) -> Made:
    """Make a function with at most one defect."""
    base, place = rng.choice(RISING), rng.choice(PLACES[:-7])  # not 0: x**2/(x*x) is read as 1
    kind = rng.choice(
        ("sound", "point", "point", "stretch", "tail", "zero", "zero", "one", "family")
    )
    every = dict.fromkeys(CERTIFIED, False)
    if kind == "sound":
        extra = f" + {rng.choice(ZEROS)}*{rng.choice(DEFINED).format(p=place)}"
        return Made(
            base + extra * rng.randint(0, 1), kind, dict.fromkeys((*SHAPES, "limits"), True)
        )
    if kind == "zero":
        hidden = rng.choice(UNDEFINED).format(p=place)
        return Made(f"{base} + {rng.choice(ZEROS)}*{hidden}", kind, every)
    if kind == "one":
        return Made(f"({base})*({rng.choice(ONES).format(p=place)})", kind, every)
    value = rng.choice(("-5", "-1e-300", "-1/7", "7", "1.6", "1.51"))
    truth = {"sign_preserving": not value.startswith("-"), "non_decreasing": False,
             "bounded": value in ("-1e-300", "-1/7")}  # fmt: skip
    if kind == "point":
        condition = rng.choice(("x == {p}", "(x >= {p}) & (x <= {p})", "~(x != {p})")).format(
            p=place
        )
        truth["limits"] = True
    elif kind == "stretch":
        width = rng.choice(("1", "1e-9", "1/3", "1e20", "1e300"))
        condition = f"(x > {place}) & (x < {place} + {width})"
        truth["limits"] = True
    elif kind == "tail":
        condition = f"x {rng.choice('<>')} {place}"
        truth["limits"] = False
        truth["non_decreasing"] = ("<" in condition) == value.startswith("-")
    else:
        low, high = rng.choice(((0.5, 2.0), (-3.0, -1.0), (1e15, 1e17), (-1e39, -1e38), (0.0, 1.0)))
        condition = rng.choice(("x == a", "(x > a) & (x < a + 1)", "x < a"))
        truth["limits"] = condition != "x < a"
        if condition == "x < a":
            truth["non_decreasing"] = value.startswith("-")
        return Made(f"Piecewise(({value}, {condition}), ({base}, True))", kind, truth,
                    {"a": (low, high)})  # fmt: skip
    return Made(f"Piecewise(({value}, {condition}), ({base}, True))", kind, truth)


def verdicts(made: Made) -> dict[str, tuple[str, float]] | None:
    """Return each criterion's verdict and seconds, or None if the parser refuses the text."""
    try:
        expression = parse(made.text, parameters=made.space)
    except FormulaError:
        return None
    wanted = demands("strict")
    found = {}
    if made.space:
        space = {name: FloatDistribution(low, high) for name, (low, high) in made.space.items()}
        try:
            shape = FamilyShape(Family("fuzzed", expression, space=space), wanted)
        except FormulaError:
            return None
        for name in CERTIFIED:
            begun = time.process_time()
            verdict = decide_criterion(shape, name, BUDGET.fresh()).verdict
            found[name] = (verdict, time.process_time() - begun)
        return found
    one = Shape(expression, budget=BUDGET.fresh())
    for name, criterion in CERTIFIED.items():
        begun = time.process_time()
        found[name] = (criterion.check(one, wanted).verdict, time.process_time() - begun)
    return found


def run(functions: int, seed: int, *, log: bool = True) -> dict[str, object]:
    """Make and decide that many functions, and list what went wrong."""
    rng = random.Random(seed)
    counts: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    wrong: list[str] = []
    slow: list[tuple[float, str, str]] = []
    while sum(kinds.values()) < functions:
        made = make(rng)
        try:
            found = verdicts(made)
        except Exception as error:
            wrong.append(f"CRASH {type(error).__name__} {error!s:.80}: {made.text}")
            kinds[made.kind] += 1
            continue
        if found is None:
            counts["refused"] += 1
            continue
        kinds[made.kind] += 1
        for name, (verdict, seconds) in found.items():
            slow = sorted([*slow, (seconds, name, made.text)], reverse=True)[:5]
            truth = made.truth.get(name)
            counts[f"{truth}: {verdict}"] += 1
            if truth is False and verdict == PROVED:
                wrong.append(f"PROVED {name}: {made.text} {made.space or ''}")
            if truth is True and verdict == REFUTED:
                wrong.append(f"REFUTED {name}: {made.text} {made.space or ''}")
            if seconds > 2 * BUDGET.seconds:
                wrong.append(f"SLOW {name} {seconds:.1f} s: {made.text} {made.space or ''}")
        if log and sum(kinds.values()) % 50 == 0:
            print(f"{sum(kinds.values())} {dict(counts)}", *wrong, sep="\n  ", file=sys.stderr)
    return {
        "functions": dict(kinds), "verdicts": dict(sorted(counts.items())), "wrong": wrong,
        "slowest": slow, "budget_s": BUDGET.seconds, "seed": seed,
    }  # fmt: skip


def main() -> int:
    """Run the functions and print the tally."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--functions", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    found = run(arguments.functions, arguments.seed)
    print(json.dumps(found, indent=1))
    return 1 if found["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
