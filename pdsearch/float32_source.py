"""The text of one candidate's g for float32: few operators, each of them fast on a CPU as well.

`torch_source` chooses between arms by `torch.where`. On a CPU that operator is not vectorised: an
element takes it 4 ns, against 0.3 ns for `torch.exp` (torch 2.14, AVX-512). Here a step function
is the sign of a ReLU, and an arm is chosen by `torch.lerp` with a weight of 0 or 1, which returns
either end exactly as long as both are finite. So that they are, each arm is evaluated at the
nearest point of the interval in which it counts.

The text computes in the precision of its input. Whether float32 is enough for a shape is found
out by comparing the text's values with float64's.
"""

import ast
import functools
import itertools
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import sympy
import torch

from pdsearch.codegen import LARGEST_DERIVATIVE, compiled, evaluate
from pdsearch.enclosure import stretches
from pdsearch.enclosure.clock import OutOfReachError, time_limit
from pdsearch.enclosure.nodes import derivative
from pdsearch.enclosure.numbers import evaluated, finite_float
from pdsearch.expression import x as variable
from pdsearch.family import Candidate, fading
from pdsearch.torch_source import SCALAR_HELPER, printed

__all__ = [
    "BOUND",
    "REACHES",
    "SECONDS",
    "Float32Text",
    "float32_text",
    "keeps_digits",
    "points_near",
    "times",
]

BOUND = 2e-6
"""The largest error of g in float32, times max(1, |g|)."""

SHOWN = BOUND / 2
"""The size of g from which its sign must be right."""


@dataclass(frozen=True)
class _Arm:
    """A formula and the interval in which it counts.

    Attributes:
        at_low: What g is at the left end: this formula ("right"), the one before it ("left"), or
            a number of its own.
    """

    low: sympy.Expr
    high: sympy.Expr
    formula: sympy.Expr
    at_low: str | float | None


@dataclass(frozen=True, eq=False)
class Float32Text:
    """The text of a function of x that computes g in its input's precision, and what it makes.

    Attributes:
        source: `def <name>(x)`; it needs `torch` and `_s` (`SCALAR_HELPER`).
        function: The compiled text; x is float32 or float64.
        error: The largest error in float32, absolute, that the comparison admits.
    """

    source: str
    function: Callable[[torch.Tensor], torch.Tensor]
    error: float


@functools.lru_cache(maxsize=256)
def float32_text(candidate: Candidate, *, name: str = "g", order: int = 0) -> Float32Text | None:
    """Return the text of a Python function that computes g in its input's precision.

    Its float32 values have been compared with float64's: at every finite 16-bit number, at 2¹⁸
    float32 numbers of all sizes, at as many up to 2000, and at the neighbours of each breakpoint
    they differ by at most `BOUND`·max(1, |g|) and have the same sign where |g| is above `SHOWN`.

    Args:
        candidate: Its parameters are numbers in the text. A faded candidate's text is of g before
            it fades; the caller puts the weight in.
        name: Of the function.
        order: Of the derivative of g in x; 0 for g itself.

    Returns:
        None if float32 loses digits, if the arms cannot be separated, or if g depends on training
        progress in another way than by fading.
    """
    faded = fading(candidate.family)
    base = candidate if faded is None else faded.unfaded(candidate)
    try:
        with time_limit(SECONDS):
            arms = None if base.annealed else _arms(_derivative(base.expression, order))
    except OutOfReachError:
        return None
    if arms is None:
        return None
    points = points_near([finite_float(arm.low) for arm in arms[1:]])
    with torch.no_grad():
        largest = torch.finfo(points.dtype).max
        exact = evaluate(base, points.double().clamp(-largest, largest), order=order)
    for reach, keep_nan in itertools.product(REACHES, (False, True)):
        source = _source(arms, name, reach, keep_nan=keep_nan)
        if not _has_float32_numbers(source):
            return None
        function = compiled(SCALAR_HELPER + source, name)
        if keeps_digits(function, points, exact):
            return Float32Text(source, function, BOUND * max(1.0, exact.abs().max().item()))
    return None


SECONDS = 20.0
"""For the arms of a formula: those of the library take 0.02 s."""

REACHES = (math.inf, float(torch.finfo(torch.float32).max), 1e18, 1e9)
"""Sizes of x beyond which g is taken at the end: the first one where nothing overflows is used."""


def _derivative(expression: sympy.Expr, order: int) -> sympy.Expr:
    for _ in range(order):
        expression = derivative(expression, variable, most=LARGEST_DERIVATIVE)
    return expression


def _source(arms: list[_Arm], name: str, reach: float, *, keep_nan: bool) -> str:
    lines = _Lines(reach)
    value = lines.formula(arms[0])
    for arm in arms[1:]:
        value = lines.choose(arm, value)
    if keep_nan:  # a step of NaN is 0
        value = lines.assign(f"{value} + torch.clamp(x, 0.0, 0.0)")
    body = "".join(f"    {line}\n" for line in in_place(lines.text))
    return f"def {name}(x):\n{body}    return {value}\n"


def _arms(expression: sympy.Expr) -> list[_Arm] | None:
    """The arms from left to right; None where g is not known at a breakpoint."""
    arms: list[_Arm] = []
    for low, high, formula in stretches(expression):
        if not arms:
            arms.append(_Arm(low, high, formula, None))
            continue
        value = evaluated(expression, low)
        if value is None:
            return None
        here = finite_float(value)
        of_left, of_right = (_is(here, f, low) for f in (arms[-1].formula, formula))
        if arms[-1].formula == formula and of_right:
            arms[-1] = _Arm(arms[-1].low, high, formula, arms[-1].at_low)
        else:
            at_low = "left" if of_left else "right" if of_right else here
            arms.append(_Arm(low, high, formula, at_low))
    return arms


def _is(value: float, formula: sympy.Expr, place: sympy.Expr) -> bool:
    there = evaluated(formula, place)
    return there is not None and math.isclose(
        finite_float(there), value, rel_tol=1e-9, abs_tol=1e-9
    )


class _Lines:
    """The statements of a function, one operator or arm after the other."""

    def __init__(self, reach: float) -> None:
        self.text: list[str] = []
        self.reach = reach

    def assign(self, text: str) -> str:
        name = f"_v{len(self.text) + 1}"
        self.text.append(f"{name} = {text}")
        return name

    def formula(self, arm: _Arm) -> str:
        """The values of an arm, at the nearest point to x where it counts."""
        if not arm.formula.has(variable):
            return self.assign(f"torch.full_like(x, {finite_float(arm.formula)!r})")
        low = max(finite_float(arm.low), -self.reach) if arm.low.is_finite else -self.reach
        high = min(finite_float(arm.high), self.reach) if arm.high.is_finite else self.reach
        ends = ", ".join(
            f"{side}={end!r}" for side, end in (("min", low), ("max", high)) if math.isfinite(end)
        )
        point = self.assign(f"torch.clamp(x, {ends})") if ends else "x"
        statements, result = printed(arm.formula, point, first=len(self.text) + 1)
        self.text += statements
        return self.assign(result)

    def choose(self, right: _Arm, before: str) -> str:
        """The values so far up to a breakpoint, and the next arm's from there on."""
        if isinstance(right.at_low, float):
            alone = self.assign(f"torch.full_like(x, {right.at_low!r})")
            below = self.step(right.low, above=False)
            before = self.assign(f"torch.lerp({alone}, {before}, {below})")
        if right.at_low == "right":
            below = self.step(right.low, above=False)
            return self.assign(f"torch.lerp({self.formula(right)}, {before}, {below})")
        above = self.step(right.low, above=True)
        after = above if right.formula == 1 else self.formula(right)
        return self.assign(f"torch.lerp({before}, {after}, {above})")

    def step(self, place: sympy.Expr, *, above: bool) -> str:
        """1 where x is above a place (or below it), else 0; exact in float32 and in float64."""
        exact = finite_float(place)
        near = torch.tensor(exact, dtype=torch.float32, device="cpu").item()
        less = exact - near
        # The first difference is exact near the place; the second one is smaller than its unit.
        terms = [t for t in (near, less) if t]
        distance = "x" + "".join(f" - {t!r}" if t > 0 else f" + {-t!r}" for t in terms)
        if not above:
            distance = f"-({distance})" if terms else "-x"
        return self.assign(f"torch.sign(torch.relu({distance}))")


# ------------------------------------------------------------------------------------- in place

_METHODS = {ast.Add: "add_", ast.Mult: "mul_", ast.Sub: "sub_", ast.Div: "div_"}
_CALLS = (
    *("abs", "atan", "clamp", "cos", "cosh", "erf", "erfc", "exp", "expm1", "lerp", "log", "log1p"),
    *("relu", "sigmoid", "sign", "sin", "sinh", "sqrt", "square", "tanh"),
)


def in_place(statements: list[str]) -> list[str]:
    """Statements of the same values, which write over what is not needed any more.

    New memory is what an operator on a large tensor costs most on a CPU. A result without a name is
    used once, and so is a name that stands once on the right side of a statement.
    """
    trees = [ast.parse(statement) for statement in statements]
    names = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Name)]
    used = Counter(node.id for node in names if isinstance(node.ctx, ast.Load))
    rewriter = _InPlace({name for name, count in used.items() if count == 1} - {"x", "torch"})
    return [ast.unparse(rewriter.visit(tree)) for tree in trees]


class _InPlace(ast.NodeTransformer):
    def __init__(self, once: set[str]) -> None:
        self.once = once

    def is_free(self, node: ast.AST) -> bool:
        """Whether nothing else needs a tensor."""
        if isinstance(node, ast.Name):
            return node.id in self.once
        return isinstance(node, ast.Call | ast.BinOp | ast.UnaryOp) and _is_tensor(node)

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        added = self.product_added(node) if isinstance(node.op, ast.Add) else None
        if added is not None:
            return added
        free = [self.is_free(side) for side in (node.left, node.right)]
        self.generic_visit(node)
        method = _METHODS.get(type(node.op))
        if method is None or not _is_tensor(node):
            return node
        if free[0]:
            return _method(node.left, method, [node.right])
        if free[1] and isinstance(node.op, ast.Add | ast.Mult):
            return _method(node.right, method, [node.left])
        return node

    def product_added(self, node: ast.BinOp) -> ast.AST | None:
        """A sum with a product of tensors as one operator; None where there is no product."""
        for term, product in ((node.left, node.right), (node.right, node.left)):
            number, factors = _product(product)
            if len(factors) > 1 and _is_tensor(term):
                free = self.is_free(term)
                first, last = functools.reduce(times, factors[:-1]), factors[-1]
                given = [self.visit(part) for part in (term, first, last)]
                words = [] if number == 1.0 else [ast.keyword("value", ast.Constant(number))]
                if free:
                    return _method(given[0], "addcmul_", given[1:], words)
                return _method(ast.Name("torch", ast.Load()), "addcmul", given, words)
        return None

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        free = self.is_free(node.operand)
        self.generic_visit(node)
        if isinstance(node.op, ast.USub) and free:
            return _method(node.operand, "neg_", [])
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        free = bool(node.args) and self.is_free(node.args[0])
        self.generic_visit(node)
        name = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        if free and name in _CALLS:
            return _method(node.args[0], f"{name}_", node.args[1:], node.keywords)
        return node


def _is_tensor(node: ast.AST) -> bool:
    """Names stand for tensors, and so does what is made of them."""
    return any(isinstance(part, ast.Name) for part in ast.walk(node))


def _product(node: ast.expr) -> tuple[float, list[ast.expr]]:
    """The number and the tensors whose product an expression is."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        number, factors = _product(node.operand)
        return -number, factors
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        (left, before), (right, after) = _product(node.left), _product(node.right)
        return left * right, before + after
    return (1.0, [node]) if _is_tensor(node) else (float(ast.literal_eval(node)), [])


def times(left: ast.expr, right: ast.expr) -> ast.expr:
    """The product of two expressions."""
    return ast.BinOp(left, ast.Mult(), right)


def _method(
    of: ast.expr, name: str, args: list[ast.expr], keywords: list[ast.keyword] | None = None
) -> ast.Call:
    return ast.Call(ast.Attribute(of, name, ast.Load()), args, keywords or [])


# ------------------------------------------------------------------------------------- digits


def _has_float32_numbers(source: str) -> bool:
    nodes = list(ast.walk(ast.parse(source)))
    numbers = [node.value for node in nodes if isinstance(node, ast.Constant)]
    largest = torch.finfo(torch.float32).max
    if any(isinstance(node, ast.Name) and node.id in ("inf", "float") for node in nodes):
        return False  # a breakpoint beyond float32, or a number beyond float64
    return all(abs(number) <= largest for number in numbers if isinstance(number, float))


def keeps_digits(
    slope: Callable[[torch.Tensor], torch.Tensor], points: torch.Tensor, exact: torch.Tensor
) -> bool:
    """Whether a float32 function is close to g, has its signs, and lets no NaN get lost."""
    with torch.no_grad():
        found = slope(points).double()
        of_nan = slope(torch.full((1,), math.nan, device=points.device))
    close = (found - exact).abs() <= BOUND * exact.abs().clamp(min=1.0)
    signs = (exact.abs() <= SHOWN) | (found.sign() == exact.sign())
    return bool((close & signs).all() and of_nan.isnan().all())


def points_near(places: list[float], *, every: int = 1) -> torch.Tensor:
    """The inputs at which a text is compared: of all sizes, and the neighbours of some places.

    Args:
        places: Breakpoints.
        every: Of the other inputs except bfloat16's, one in so many is taken.
    """
    # Named, because the ambient default device may be meta, which holds no numbers.
    on = torch.device("cpu")
    halves = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int32, device=on).to(torch.int16)
    near = torch.linspace(-1.0, 1.0, (1 << 16) // every, device=on)
    breakpoints = torch.tensor([0.0, *places], device=on).view(torch.int32)
    around = breakpoints[:, None] + torch.arange(-64, 65, dtype=torch.int32, device=on)
    every_size = torch.arange(-(1 << 31), 1 << 31, every << 14, device=on).to(torch.int32)
    found = torch.cat(
        [
            halves.view(torch.bfloat16).float(),
            halves[::every].view(torch.float16).float(),
            every_size.view(torch.float32),
            *(scale * near for scale in (2.0, 20.0, 200.0, 2000.0)),
            around.flatten().view(torch.float32),
            torch.tensor([math.inf, -math.inf], device=on),
        ]
    )
    return found[~found.isnan()]
