"""Evaluate random finite formulas, written the way users write them, against ball arithmetic.

    python benchmarks/fuzz_numerics.py --formulas 20000 --seed 0 [--grammar 0.5]

With --grammar, that share of the formulas comes from `fuzz_formula.py`'s grammar, in which every
operator and function meets every other one. The others are in these styles: quotients of
exponentials, activations and their derivatives by hand and by `sympy.diff`, mixtures of steps,
nested `Piecewise`, `Min`, `Max` and `clamp` of exponentials, rational tails, x in exponents. Each
formula becomes a family with one candidate. g is evaluated at finite numbers of float64,
float32, bfloat16 and float16, including the largest, and compared with Arb. For every `--slopes`-th
formula, g′ and g″ are checked for finiteness. Every `--routes`-th formula also goes through the
backward pass (tables) and its exported file.

The bound checked for g is abs(got - g) ≤ 1e-12·abs(g) + 1e-15 + `PDReLU(candidate,
exact=True).error_bound(dtype)`, plus half a unit in the last place for a dtype narrower than
float64; g beyond the dtype's largest number counts as that number. What is finite by Arb must be
finite. Points where the sides of a condition differ by less than their rounding are skipped,
because either arm is right there.

Prints counts and each failure; exits with 1 after a failure.
"""

import argparse
import json
import math
import os
import platform
import random
import re
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import sympy
import torch
from flint import arb, ctx, fmpq
from fuzz_formula import Grammar
from optuna.distributions import FloatDistribution
from written_formulas import Writer, slope

from pdsearch import Candidate, Family, PDReLU
from pdsearch.codegen import evaluate
from pdsearch.errors import FormulaError, InputError
from pdsearch.export import export
from pdsearch.expression import parse, x
from pdsearch.kernels.accuracy import ABSOLUTE, RELATIVE

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)

# -------------------------------------------------------------------------------------- the oracle

ONE: dict[str, Callable[[Any], Any]] = {
    "exp": lambda z: z.exp(),
    "log": lambda z: z.log(),
    "sin": lambda z: z.sin(),
    "cos": lambda z: z.cos(),
    "sinh": lambda z: z.sinh(),
    "cosh": lambda z: z.cosh(),
    "tanh": lambda z: z.tanh(),
    "atan": lambda z: z.atan(),
    "erf": lambda z: z.erf(),
    "erfc": lambda z: z.erfc(),
    "sigmoid": lambda z: 1 / (1 + (-z).exp()),
    "softplus": lambda z: (1 + z.exp()).log(),
    "Abs": abs,
}


class Undecided(Exception):
    """The precision does not suffice to decide a sign."""


def sign(z: arb) -> int:
    if z > 0:
        return 1
    if z < 0:
        return -1
    if z == 0:
        return 0
    raise Undecided


def ball(node: Any, point: arb, known: dict[Any, Any]) -> arb:
    """Evaluate an expression in x at a point, straight from its tree."""
    if node not in known:
        known[node] = _ball(node, point, known)
    return known[node]


def _ball(node: Any, point: arb, known: dict[Any, Any]) -> arb:
    def part(child: Any) -> arb:
        return ball(child, point, known)

    if node == x:
        return point
    if node.is_Rational:
        return arb(fmpq(int(node.p), int(node.q)))
    if node is sympy.pi:
        return arb.pi()
    if node is sympy.E:
        return arb(1).exp()
    if node.is_Add:
        return sum((part(a) for a in node.args), start=arb(0))
    if node.is_Mul:
        return math.prod((part(a) for a in node.args), start=arb(1))
    if node.is_Pow and node.base is not sympy.E:
        if node.exp.is_Integer:
            return part(node.base) ** int(node.exp)
        if node.exp.is_Rational and node.exp.q == 2:
            return part(node.base).sqrt() ** int(node.exp.p)
        return (part(node.exp) * part(node.base).log()).exp()
    if isinstance(node, sympy.Piecewise):
        return next(part(value) for value, condition in node.args if truth(condition, part))
    name = type(node).__name__
    if name == "sign":
        return arb(sign(part(node.args[0])))
    if name == "Heaviside":
        side = sign(part(node.args[0]))
        return part(node.args[1]) if side == 0 else arb(int(side > 0))
    if name in ("Min", "Max"):
        values = [part(a) for a in node.args]
        return math.prod(values[:0], start=_extreme(values, name == "Max"))
    return ONE[name](part(node.args[0]))


def _extreme(values: list[arb], largest: bool) -> arb:
    best = values[0]
    for value in values[1:]:
        best = best.max(value) if largest else best.min(value)
    return best


def truth(condition: Any, part: Callable[[Any], arb]) -> bool:
    if condition in (sympy.true, sympy.false):
        return condition == sympy.true
    if isinstance(condition, sympy.And):
        return all(truth(a, part) for a in condition.args)
    if isinstance(condition, sympy.Or):
        return any(truth(a, part) for a in condition.args)
    if isinstance(condition, sympy.Not):
        return not truth(condition.args[0], part)
    side = sign(part(condition.lhs) - part(condition.rhs))
    return {">": side > 0, ">=": side >= 0, "<": side < 0, "<=": side <= 0, "==": side == 0,
            "!=": side != 0}[condition.rel_op]  # fmt: skip


def exactly(expression: sympy.Expr, point: float) -> float | None:
    """Return the value to 60 bits, or None if it is not finite or Arb cannot decide."""
    for precision in (128, 600, 4_000):
        with ctx.workprec(precision):
            try:
                value = ball(expression, arb(point), {})
            except Undecided:
                continue
            if value.is_finite() and (value.rel_accuracy_bits() > 60 or abs(value) < 1e-330):
                return float(value)
    return None


# ------------------------------------------------------------------------------------- one formula


class Outcome:
    """Counts and failures."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.failures: list[str] = []

    def fail(self, kind: str, text: str, detail: str) -> None:
        self.counts[kind] += 1
        self.failures.append(f"{kind}: {detail}\n    {text}")
        print(self.failures[-1], file=sys.stderr, flush=True)


def candidate_of(text: str, rng: random.Random) -> Candidate:
    expression = parse(text, parameters=["a", "b"])
    names = sorted({s.name for s in expression.free_symbols} & {"a", "b"})
    ranges = {"a": FloatDistribution(0.1, 10.0, log=True), "b": FloatDistribution(0.05, 4.0)}
    family = Family("fuzzed", expression, space={name: ranges[name] for name in names})
    chosen = {n: rng.uniform(ranges[n].low, ranges[n].high) for n in names}
    return family.bind(
        **{n: rng.choice((v, ranges[n].low, ranges[n].high)) for n, v in chosen.items()}
    )


def points_of(dtype: torch.dtype, rng: random.Random, count: int) -> torch.Tensor:
    """Return numbers of a dtype: near zero, on all scales, and the extremes."""
    info = torch.finfo(dtype)
    reach = math.log10(info.max)
    numbers = [0.0, -0.0, info.max, -info.max, info.tiny, -info.tiny, 800.0, -800.0, -28.0, 1000.0]
    numbers += [rng.gauss(0, 3) for _ in range(count // 2)]
    numbers += [rng.choice((-1, 1)) * 10 ** rng.uniform(-3, 3) for _ in range(count // 4)]
    numbers += [rng.choice((-1, 1)) * 10 ** rng.uniform(-5, reach) for _ in range(count // 4)]
    return torch.tensor(numbers, dtype=torch.float64).clamp(-info.max, info.max).to(dtype)


def breaks(expression: sympy.Expr) -> set[float]:
    """Return the inexact numbers of the text, where a breakpoint may be rounded."""
    found: set[float] = set()
    for node in sympy.preorder_traversal(expression):
        if not node.is_Rational or abs(node) > 1e308:
            continue
        if Fraction(float(node)) != Fraction(int(node.p), int(node.q)):
            found |= {float(node), -float(node)}
    return found


def at_a_break(expression: sympy.Expr, point: float) -> bool:
    """Return whether rounding decides between the arms of some condition."""
    sides = [node.args[0] for node in expression.atoms(sympy.Heaviside, sympy.sign)]
    sides += [r.lhs - r.rhs for r in expression.atoms(sympy.core.relational.Relational)]
    values = (exactly(side, point) for side in sides)
    return any(value is not None and abs(value) < 1e-12 * max(1.0, abs(point)) for value in values)


def allowed(want: float, dtype: torch.dtype, bound: float) -> float:
    """Return the stated error bound."""
    info = torch.finfo(dtype)
    rounding = 0.0 if dtype == torch.float64 else 0.5 * info.eps * abs(want)
    smallest = 0.5 * info.smallest_normal * info.eps
    return bound + rounding * (1 + 1e-9) + RELATIVE * abs(want) + ABSOLUTE + smallest


def check(
    text: str, rng: random.Random, outcome: Outcome, *, count: int, orders: int, routes: bool
) -> None:
    """Check one formula and count its failures."""
    try:
        candidate = candidate_of(text, rng)
        g = candidate.expression
        candidate(torch.zeros(1))
    except InputError as error:
        outcome.counts["refused"] += 1
        if "\n" in str(error):
            outcome.fail("crash", text, f"a message of several lines: {error}")
        elif "cannot be evaluated" in str(error):
            outcome.fail("refused, not evaluated", text, str(error))
        return
    skip = breaks(g)
    slopes = [g]
    for dtype in DTYPES:
        points = points_of(dtype, rng, count)
        points = points[[p not in skip for p in points.double().tolist()]]
        largest = torch.finfo(dtype).max
        module = PDReLU(candidate, exact=True)
        for order in range(orders):
            some = points if order == 0 else points[:: 2 * order]
            try:
                found = evaluate(candidate, some, order=order).double().tolist()
            except FormulaError:
                outcome.counts["derivatives refused"] += 1
                break
            for point, got in zip(some.double().tolist(), found, strict=True):
                if order > 0 and math.isfinite(got):
                    continue
                while len(slopes) <= order:
                    slopes.append(slope(slopes[-1]))
                want = exactly(slopes[order], point)
                if want is None:
                    outcome.counts["points without a value"] += 1
                    continue
                outcome.counts["values"] += 1
                where = f"order {order} at {point!r} in {dtype}: got {got!r}, {want!r} is right"
                clamped = min(max(want, -largest), largest)
                if not math.isfinite(got):
                    outcome.fail("not finite", text, f"{where}; {candidate.name}")
                elif order == 0 and abs(got - clamped) > allowed(clamped, dtype, 0.0):
                    # Measuring the bound is slow, so it is measured only if needed.
                    bound = module.error_bound(dtype)
                    if abs(got - clamped) <= allowed(clamped, dtype, bound):
                        outcome.counts["values within a bound above 0"] += 1
                    elif at_a_break(g, point):
                        outcome.counts["values at a breakpoint"] += 1
                    else:
                        detail = f"{where}; bound {bound:g}; {candidate.name}"
                        outcome.fail("beyond the bound", text, detail)
        if routes:
            check_routes(candidate, points, dtype, text, outcome)
    if routes:
        check_export(candidate, text, rng, outcome)


def check_routes(
    candidate: Candidate, points: torch.Tensor, dtype: torch.dtype, text: str, outcome: Outcome
) -> None:
    """Check that the backward pass is finite and its tables are within their bound."""
    infinite = torch.tensor([math.inf, -math.inf], dtype=dtype)
    given = torch.cat([points, infinite]).repeat(40_000 // len(points))
    module = PDReLU(candidate)
    leaf = given.requires_grad_()
    (first,) = torch.autograd.grad(module(leaf).sum(), leaf)
    if not bool(torch.isfinite(first).all()):
        outcome.fail("not finite", text, f"backward pass in {dtype}, {candidate.name}")
    wide = evaluate(candidate, leaf.detach()).double()
    off = (first.double() - wide).abs()
    unit = torch.finfo(dtype).eps * wide.abs() + torch.finfo(dtype).smallest_normal + ABSOLUTE
    at = int((off - unit).argmax())
    beyond = bool(off[at] > module.error_bound(dtype) + unit[at])
    if beyond and not at_a_break(candidate.expression, leaf[at].item()):
        outcome.fail(
            "beyond the bound", text,
            f"table in {dtype} at {leaf[at].item()!r}: {first[at].item()!r}, "
            f"text {wide[at].item()!r}",
        )  # fmt: skip
    outcome.counts["values"] += len(given)


def check_export(candidate: Candidate, text: str, rng: random.Random, outcome: Outcome) -> None:
    """Check the exported file: the op's bits in float64, elsewhere float32 arithmetic's bound."""
    with TemporaryDirectory() as folder:
        path = export(candidate, Path(folder) / "g.py")
        namespace: dict[str, Any] = {"__name__": "exported"}
        exec(compile(path.read_text(encoding="utf-8"), "exported", "exec"), namespace)
    for dtype in DTYPES:
        points = points_of(dtype, rng, 40)
        got, limits = namespace["g"](points), torch.finfo(dtype)
        exact = candidate(points) if dtype == torch.float64 else candidate(points.double())
        exact = exact.double().clamp(-limits.max, limits.max)
        room = 0.0 if dtype == torch.float64 else 2e-6 * exact.abs().clamp(min=1.0)
        room = room + (limits.eps * exact.abs() / 2 + limits.tiny) * (dtype != torch.float64)
        at = (got.double() - exact).abs() > room
        if bool(at.any()) or bool(got.isnan().any()):
            outcome.fail(
                "beyond the bound", text,
                f"the exported file in {dtype} at {points[at][:1].tolist()}",
            )  # fmt: skip


def by_grammar(rng: random.Random) -> str:
    """Return a formula in x, a and b by the grammar."""
    text = Grammar(rng).number(rng.choice((2, 3, 3, 4))).replace("alpha", "a").replace("beta", "b")
    return re.sub(r"\bt\b", "0.5", text)


def run(
    formulas: int,
    seed: int,
    *,
    count: int = 24,
    slopes: int = 4,
    routes: int = 100,
    grammar: float = 0.0,
) -> Outcome:
    """Check that many formulas."""
    rng = random.Random(seed)
    writer, outcome = Writer(rng), Outcome()
    seen: set[str] = set()
    while outcome.counts["formulas"] < formulas:
        text = by_grammar(rng) if grammar and rng.random() < grammar else writer.any()
        if text in seen:
            outcome.counts["drawn again"] += 1
            if outcome.counts["drawn again"] > 50 * formulas:
                break
            continue
        seen.add(text)
        number = outcome.counts["formulas"]
        outcome.counts["formulas"] += 1
        try:
            some = routes > 0 and number % routes == 0
            orders = 3 if number % slopes == 0 else 1
            check(text, rng, outcome, count=count, orders=orders, routes=some)
        except Exception as error:
            outcome.fail("crash", text, f"{type(error).__name__}: {error}")
        if number % 500 == 499:
            sympy.core.cache.clear_cache()
    return outcome


FAILURES = ("not finite", "crash", "beyond the bound", "refused, not evaluated")


def main() -> int:
    """Run the formulas and print the result."""
    parser = argparse.ArgumentParser(description="Fuzz the evaluation of formulas.")
    parser.add_argument("--formulas", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--points", type=int, default=24)
    parser.add_argument("--slopes", type=int, default=4)
    parser.add_argument("--routes", type=int, default=100)
    parser.add_argument("--grammar", type=float, default=0.0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    started = time.perf_counter()
    outcome = run(
        options.formulas,
        options.seed,
        count=options.points,
        slopes=options.slopes,
        routes=options.routes,
        grammar=options.grammar,
    )
    result = {
        "seed": options.seed,
        **{kind: outcome.counts[kind] for kind in FAILURES},
        **{kind: n for kind, n in outcome.counts.items() if kind not in FAILURES},
        "seconds": round(time.perf_counter() - started, 1),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, "
        f"sympy {sympy.__version__}",
    }
    if options.json:
        print(json.dumps(result))
    else:
        for key, value in result.items():
            print(f"{key:24} {value}")
    return int(any(outcome.counts[kind] for kind in FAILURES))


if __name__ == "__main__":
    sys.exit(main())
