"""The float32 text of a family's g: what does not depend on x is a number at run time.

One text serves every candidate of a family and every training progress, so that `torch.compile`
compiles a family once. Where the parameters and t stand alone, as in `1/α` or `(1 - t)·α`, the text
has a name: the number is computed in float64 on the host and rounded once to float32, a bound of x
so that the comparison holds for the same float32 numbers. Arithmetic on float32 parameters in the
text would lose digits that α - 1 needs and shift breakpoints.

Whether float32 is enough is found out for each candidate, by comparing with float64. A candidate
for which it is not keeps the float64 text.
"""

import functools
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import sympy
import torch

from pdsearch import codegen
from pdsearch.apart import apart
from pdsearch.codegen import KEPT_ORDERS, compiled, torch_function
from pdsearch.enclosure import stretches
from pdsearch.enclosure.clock import OutOfReachError, time_limit
from pdsearch.enclosure.numbers import finite_float
from pdsearch.errors import UnsupportedError
from pdsearch.expression import sigmoid, t, x
from pdsearch.family import Candidate, Family
from pdsearch.float32_source import BOUND, REACHES, SECONDS, keeps_digits, points_near
from pdsearch.saturating import pd_erfc, saturating
from pdsearch.scaled import finite_form
from pdsearch.torch_source import scalar_source, written

__all__ = ["Float32Part", "Formula", "Traceable", "float32_function", "formula"]

PROGRESS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Where a text that depends on t is compared."""


_LIKE = torch.zeros((), dtype=torch.float64, device="cpu")
"""What a number's text takes the dtype and device of its tensors from."""


class FamilyText:
    """The text of an expression in x, t and parameters.

    Args:
        expression: The expression.
        parameters: Their names.

    Attributes:
        functions: The compiled texts, of x and the numbers: the cheapest first, then the one that
            keeps most digits.
        numbers: The numbers, functions of a 0-d tensor, t and the parameters, which may be numbers
            or 0-d tensors. The value is either.
        rounding: Of each number: "down" or "up" where it bounds x.
        moving: Which numbers change with t, by their places.
    """

    def __init__(self, expression: sympy.Expr, parameters: tuple[str, ...]) -> None:
        taken: dict[tuple[sympy.Expr, str], sympy.Symbol] = {}
        form = finite_form(saturating(expression))
        forms = [
            _without_numbers(one, taken) for one in dict.fromkeys((_without_mirrors(form), form))
        ]
        self.numbers = tuple(
            compiled(scalar_source(number, parameters=parameters, name="number"), "number")
            for number, _ in taken
        )
        self.rounding = tuple(way for _, way in taken)
        self.moving = tuple(place for place, (number, _) in enumerate(taken) if number.has(t))
        names = [symbol.name for symbol in taken.values()]
        self.functions = tuple(
            compiled(written(one, names, "g", guard=False), "g") for one in forms
        )

    def value(self, place: int, *given: np.float64) -> float:
        """The number at a place, which is next to be rounded to the nearest float32.

        Args:
            place: Among the numbers.
            given: t and the parameters. NumPy's numbers have infinities where Python's raise.
        """
        value = float(self.numbers[place](_LIKE, *given))
        way = self.rounding[place]
        return value if way == "nearest" else _to_float32(value, way)


def _without_mirrors(form: sympy.Expr) -> sympy.Expr:
    """The expression with half as many exponentials where it has both σ(z) and σ(-z)."""
    found = form.atoms(sigmoid)
    mirrors = [one for one in found if one.args[0].could_extract_minus_sign()]
    pairs = {one: sigmoid(-one.args[0]) for one in mirrors}
    return form.xreplace({one: 1 - other for one, other in pairs.items() if other in found})


_TOWARDS = {"down": -math.inf, "up": math.inf}


def _to_float32(value: float, way: str) -> float:
    near = torch.tensor(value, dtype=torch.float32, device="cpu")
    if (way == "down" and near.item() > value) or (way == "up" and near.item() < value):
        near = torch.nextafter(near, torch.tensor(_TOWARDS[way], device="cpu"))
    return near.item()


# A float32 number is above another one exactly when it is above the nearest float32 below that.
_ROUNDING = {">": "down", "<=": "down", "<": "up", ">=": "up"}


def _without_numbers(node: Any, taken: dict[tuple[sympy.Expr, str], sympy.Symbol]) -> Any:
    """The expression with a symbol for each part without x that is no plain number."""

    def named(part: sympy.Expr, way: str = "nearest") -> sympy.Expr:
        if part.is_number:
            if way == "nearest":
                return part
            return cast(sympy.Expr, sympy.Rational(_to_float32(float(part), way)))
        new = sympy.Symbol(f"k{len(taken)}", real=True)
        return taken.setdefault((part, way), new)

    if isinstance(node, sympy.core.relational.Relational):
        if node.rhs.has(x) and not node.lhs.has(x):
            node = node.reversed
        left = _without_numbers(node.lhs, taken)
        way = _ROUNDING.get(node.rel_op, "nearest") if left in (x, -x) else "nearest"
        right = _without_numbers(node.rhs, taken) if node.rhs.has(x) else named(node.rhs, way)
        return node.func(left, right, evaluate=False)
    if isinstance(node, sympy.Expr) and not node.has(x):
        return named(node)
    if not node.args:
        return node
    if isinstance(node, sympy.Add | sympy.Mul):
        alone = node.func(*(arg for arg in node.args if not arg.has(x)))
        rest = [_without_numbers(arg, taken) for arg in node.args if arg.has(x)]
        return node.func(named(alone), *rest)
    if isinstance(node, sympy.Piecewise):
        arms = [tuple(_without_numbers(part, taken) for part in arm.args) for arm in node.args]
        return sympy.Piecewise(*arms, evaluate=False)
    return node.func(*(_without_numbers(arg, taken) for arg in node.args))


@functools.lru_cache(maxsize=1_024)
def family_text(family: Family, order: int) -> FamilyText | None:
    """The text of one order; None where the derivative is too large."""
    try:
        expression = codegen.derivative(family.expression, order)
    except UnsupportedError:
        return None
    return FamilyText(expression, family.parameters)


class Float32Part:
    """One order of a family's g as a function of x and the numbers, in float32.

    Args:
        text: The text.
        start: Of its numbers among those of all orders.
        reach: The size of x beyond which g is taken at the end.
        keep_nan: Whether the text could lose a NaN.
        choice: Of the text's functions.
    """

    def __init__(
        self, text: FamilyText, start: int, reach: float, *, keep_nan: bool, choice: int
    ) -> None:
        self.text, self.function = text, text.functions[choice]
        self.variant = (reach, keep_nan, choice)
        self.reach, self.keep_nan = reach, keep_nan
        self.start, self.stop = start, start + len(text.numbers)

    def __call__(self, input: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        """Return g at each element: same shape and dtype as `input`, which is not float64."""
        wide = input.float()
        point = wide
        if math.isfinite(self.reach):
            point = torch.clamp(wide, -self.reach, self.reach)
        result = self.function(point, *numbers[self.start : self.stop].unbind())
        if self.keep_nan:
            result = torch.where(torch.isnan(wide), wide, result)
        if input.dtype == torch.float16:
            largest = torch.finfo(input.dtype).max
            result = torch.clamp(result, -largest, largest)
        return result.to(input.dtype)


@functools.lru_cache(maxsize=4_096)
def _part(family: Family, order: int, choice: int, reach: float, keep_nan: bool) -> Float32Part:
    texts = [family_text(family, number) for number in range(order + 1)]
    start = sum(len(text.numbers) for text in texts[:order] if text is not None)
    text = cast(FamilyText, texts[order])
    return Float32Part(text, start, reach, keep_nan=keep_nan, choice=choice)


@dataclass(frozen=True, eq=False)
class Checked:
    """A part that keeps a candidate's digits.

    Attributes:
        error: The largest absolute error that the comparison admits.
    """

    part: Float32Part
    error: float


@functools.lru_cache(maxsize=4_096)
@apart()
def _checked(candidate: Candidate, order: int) -> Checked | None:
    """The part whose float32 values have been compared with float64's; None where they differ."""
    family = candidate.family
    text = family_text(family, order)
    if text is None or codegen.kernel(family).part(order).trouble:
        return None
    try:
        with time_limit(SECONDS):
            expression = codegen.derivative(candidate.expression.xreplace({t: sympy.S.Zero}), order)
            plain = expression.replace(pd_erfc, sympy.erfc)
            places = [finite_float(low) for low, _, _ in stretches(plain)[1:]]
    except OutOfReachError:
        return None
    points = points_near(places, every=EVERY)
    largest = torch.finfo(points.dtype).max
    wide = points.double().clamp(-largest, largest)
    wanted = {
        at: codegen.evaluate(candidate, wide, t=at, order=order)
        for at in (PROGRESS if candidate.annealed else PROGRESS[:1])
    }
    for variant in itertools.product(range(len(text.functions)), REACHES, (False, True)):
        part = _part(family, order, *variant)
        bound = {at: functools.partial(part, numbers=_numbers(candidate, at)) for at in wanted}
        if all(keeps_digits(bound[at], points, exact) for at, exact in wanted.items()):
            size = max(exact.abs().max().item() for exact in wanted.values())
            return Checked(part, BOUND * max(1.0, size))
    return None


EVERY = 8
"""Of the float32 numbers at which a candidate's own text is compared, one in so many is taken: the
check runs for each candidate of a search."""


def _float64(progress: float, candidate: Candidate) -> list[np.float64]:
    return [np.float64(value) for value in (progress, *candidate.parameters.values())]


Place = tuple[int, FamilyText, int]
"""Of a number: its place among those of all orders, the text it belongs to, and its place there."""


@functools.lru_cache(maxsize=1_024)
@apart()
def _at_start(candidate: Candidate) -> tuple[list[float], list[Place]]:
    """The numbers of all orders at t = 0, and the places of those that change with t.

    At the end are the parameters and t as sums of two float32 numbers.
    """
    found: list[float] = []
    moving: list[Place] = []
    begin = _float64(0.0, candidate)
    for order in range(KEPT_ORDERS):
        text = family_text(candidate.family, order)
        if text is not None:
            moving += [(len(found) + place, text, place) for place in text.moving]
            with np.errstate(all="ignore"):
                found += [text.value(place, *begin) for place in range(len(text.numbers))]
    given = [*candidate.parameters.values(), 0.0]
    high = [_to_float32(value, "nearest") for value in given]
    low = [value - near for value, near in zip(given, high, strict=True)]
    # Of equal length for most families: `torch.func.stack_module_state` stacks modules of several
    # families before the module can refuse them.
    spare = [0.0] * (-len(found) % 32)
    return [*found, *spare, *high, *low], moving


@functools.lru_cache(maxsize=1_024)
@apart()
def _numbers(candidate: Candidate, progress: float) -> torch.Tensor:
    """`_at_start` at a training progress, in float32.

    Training asks for them once a step: only what changes with t is computed again.
    """
    start, moving = _at_start(candidate)
    found, given = list(start), _float64(progress, candidate)
    with np.errstate(all="ignore"):
        for at, text, place in moving:
            found[at] = text.value(place, *given)
    high = _to_float32(progress, "nearest")
    found[-len(candidate.parameters) - 2], found[-1] = high, progress - high
    return torch.tensor(found, dtype=torch.float32, device="cpu")


@functools.lru_cache(maxsize=256)
@apart()
def float32_function(expression: sympy.Expr) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """A function of float32 x for an expression in x alone; None where float32 loses its digits."""
    text = FamilyText(expression, ())
    points = points_near([], every=EVERY)
    points = points[points.isfinite()]
    exact = torch_function(expression)(points.double(), 0.0)
    return next((one for one in text.functions if keeps_digits(one, points, exact)), None)


class Traceable:
    """g of a family as torch.compile finds it: two functions of tensors.

    All candidates of a family share one, except those for which float32 is not enough and those
    that overflow at another size of x.
    """

    def __init__(self, exact: codegen.Kernel, part: Float32Part | None, *, of_output: bool) -> None:
        self.exact, self.part, self.of_output = exact, part, of_output

    def __call__(self, kept: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        """Return g at each element of what was kept; float64 numbers ask for the float64 text."""
        if numbers.dtype == torch.float64 or self.part is None:
            return self.exact(kept, numbers[-1], numbers[:-1])
        return self.part(kept, numbers)

    def numbers(self, t: float, given: torch.Tensor) -> torch.Tensor:
        """The numbers at a training progress, made while it is traced: in the parameters' dtype."""
        if given.dtype == torch.float64 or self.part is None:
            return torch.cat([given, torch.tensor([t], dtype=given.dtype)])
        like, parameters = torch.zeros(()), given.unbind()
        numbers = self.part.text.numbers
        return torch.stack([like + number(like, t, *parameters) for number in numbers])


@functools.lru_cache(maxsize=1_024)
def _traceable(family: Family, part: Float32Part | None, of_output: bool) -> Traceable:
    return Traceable(codegen.kernel(family), part, of_output=of_output)


class Formula:
    """g of one candidate and its derivatives, with the candidate's numbers as an argument.

    Args:
        candidate: The pseudo-derivative.
        exact: Whether float64 is asked for whatever the input.
    """

    def __init__(self, candidate: Candidate, *, exact: bool = False) -> None:
        self.candidate, self.is_exact = candidate, exact
        self.annealed = candidate.annealed  # kept: it looks through the expression
        self.exact = codegen.kernel(candidate.family)

    def part(self, order: int) -> Float32Part | None:
        """The float32 text of an order; None where float64 has to do."""
        found = None if self.is_exact else _checked(self.candidate, order)
        return None if found is None else found.part

    def error(self, dtype: torch.dtype) -> float | None:
        """The bound on the absolute error of g for inputs of a dtype; None in float64."""
        found = _checked(self.candidate, 0)
        return None if found is None or self.in_float64(dtype) else found.error

    def in_float64(self, dtype: torch.dtype) -> bool:
        """Whether g itself is evaluated in float64 for inputs of a dtype."""
        return dtype == torch.float64 or self.part(0) is None

    def traceable(self, *, of_output: bool) -> Traceable:
        """What torch.compile finds; `of_output` where ReLU's output will do for its input."""
        return _traceable(self.candidate.family, self.part(0), of_output)

    def numbers(self, progress: float, *, wide: bool) -> torch.Tensor:
        """What the text needs at a training progress besides x: a vector on the CPU.

        Args:
            progress: In [0, 1].
            wide: For the float64 text: the parameters and t, float64. Otherwise float32.
        """
        if wide:
            given = [*self.candidate.parameters.values(), progress]
            return torch.tensor(given, dtype=torch.float64, device="cpu")
        return _numbers(self.candidate, progress if self.annealed else 0.0)

    def __call__(self, input: torch.Tensor, numbers: torch.Tensor, order: int = 0) -> torch.Tensor:
        """The derivative of g of some order at each element: same shape and dtype as `input`."""
        if numbers.dtype != torch.float64:
            part = self.part(order) if order < KEPT_ORDERS else None
            if part is not None:
                return part(input, numbers)
            count = len(self.candidate.parameters) + 1
            numbers = numbers[-2 * count : -count].double() + numbers[-count:].double()
        return self.exact(input, numbers[-1], numbers[:-1], order)


@functools.lru_cache(maxsize=256)
def formula(candidate: Candidate, exact: bool) -> Formula:
    """The formula of a candidate, made once.

    Raises:
        FormulaError: g is finite, but its text is not, and no limit stands for it.
    """
    codegen.parameter_values(candidate)
    return Formula(candidate, exact=exact)
