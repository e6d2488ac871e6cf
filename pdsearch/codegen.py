"""Sympy expressions to torch source text. The only printer of the project.

The op, the standalone exported file and the documentation all use the text that `torch_source`
returns, so a shape is written down exactly once: in its family.

What is printed is the expression in the form that `saturating` and `scaled` give it. Two things are
done that sympy's own torch printer does not do:

* `Piecewise` becomes nested `torch.where`, whose both arms are always evaluated. The input of an
  arm that is not taken is replaced by 0 first, and what comes out is dropped: no overflow of a dead
  arm can reach the result or its derivative.
* Scalars (parameters, `t`) are arguments, so one text serves every candidate of a family.
"""

import functools
import linecache
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import sympy
from sympy.printing.precedence import PRECEDENCE
from sympy.printing.str import StrPrinter

from pdsearch import expression as _expression
from pdsearch.errors import FormulaError, InputError, UnsupportedError
from pdsearch.reach import FAR, find_reach, trouble_at
from pdsearch.saturating import saturating
from pdsearch.scaled import finite_form

if TYPE_CHECKING:
    import torch

    from pdsearch.family import Candidate, Family

__all__ = [
    "FAR",
    "Kernel",
    "derivative",
    "evaluate",
    "kernel",
    "parameter_values",
    "rounded",
    "torch_function",
    "torch_source",
]


class _TorchPrinter(StrPrinter):
    """Prints one expression; whether a subexpression is a tensor follows from x being in it."""

    def _call(self, function: str, *arguments: sympy.Basic) -> str:
        return f"{function}({', '.join(self._print(a) for a in arguments)})"

    def _unary(self, name: str, argument: sympy.Expr) -> str:
        # Scalars are Python floats, or 0-d tensors when t is one; `_s` of the text takes both.
        inner = self._print(argument)
        return f"torch.{name}({inner})" if _is_tensor(argument) else f"torch.{name}(_s({inner}, x))"

    point = "x"
    """What stands for x: within an arm, x where the arm is taken."""

    def _print_Symbol(self, expr: sympy.Symbol) -> str:
        return self.point if expr == _expression.x else expr.name

    def _print_Integer(self, expr: sympy.Integer) -> str:
        return str(int(expr)) + ".0"

    def _print_Rational(self, expr: sympy.Rational) -> str:
        return repr(_double(expr))

    def _print_NumberSymbol(self, expr: sympy.Expr) -> str:
        return repr(_double(expr))

    _print_Pi = _print_Exp1 = _print_NumberSymbol

    def _print_BooleanTrue(self, expr: Any) -> str:
        return "torch.ones_like(x, dtype=torch.bool)"

    def _print_BooleanFalse(self, expr: Any) -> str:
        return "torch.zeros_like(x, dtype=torch.bool)"

    def _print_DiracDelta(self, expr: sympy.Expr) -> str:
        return "0.0"

    def _print_Add(self, expr: sympy.Add, order: Any = None) -> str:
        constant, rest = expr.as_coeff_Add()
        parts = [self.parenthesize(t, PRECEDENCE["Add"]) for t in sympy.Add.make_args(rest)]
        if constant != 0:
            parts.append(self.parenthesize(constant, PRECEDENCE["Add"]))
        return " + ".join(parts)

    def _print_Mul(self, expr: sympy.Mul) -> str:
        if expr.is_number:
            return repr(_double(expr))
        number, rest = expr.as_coeff_Mul()
        numerator: list[str] = []
        denominator: list[str] = []
        for factor in sympy.Mul.make_args(rest):
            if isinstance(factor, sympy.Pow) and factor.exp.could_extract_minus_sign():
                denominator.append(self.parenthesize(factor.base**-factor.exp, PRECEDENCE["Pow"]))
            else:
                numerator.append(self.parenthesize(factor, PRECEDENCE["Mul"]))
        if number == -1:
            numerator[:1] = ["-" + numerator[0]] if numerator else ["-1.0"]
        elif number != 1:
            numerator.insert(0, self._print(number) if number > 0 else f"({self._print(number)})")
        text = "*".join(numerator) or "1.0"
        return text + "".join(f"/{part}" for part in denominator)

    def _print_Pow(self, expr: sympy.Pow, rational: bool = False) -> str:
        base, exponent = expr.args
        if expr.is_number:
            return repr(_double(expr))
        if base == sympy.E:
            return self._unary("exp", cast(sympy.Expr, exponent))
        if exponent == sympy.Rational(1, 2):
            return self._unary("sqrt", cast(sympy.Expr, base))
        if exponent.could_extract_minus_sign():
            return f"1.0/{self.parenthesize(base**-exponent, PRECEDENCE['Pow'])}"
        if exponent == 2:
            return self._unary("square", cast(sympy.Expr, base))
        if exponent.is_Integer:
            # An integer exponent as such: pow with a float one is slower.
            return f"{self.parenthesize(base, PRECEDENCE['Pow'])}**{int(exponent)}"
        left = self._print(base)
        if not _is_tensor(base):
            left = f"_s({left}, x)"
        return f"torch.pow({left}, {self._print(exponent)})"

    def _print_ExpBase(self, expr: sympy.Expr) -> str:
        return self._unary("exp", cast(sympy.Expr, expr.args[0]))

    def _print_Function(self, expr: sympy.Function) -> str:
        name = type(expr).__name__
        if name == "softplus":
            argument = self._print(expr.args[0])
            scalar = argument if _is_tensor(expr.args[0]) else f"_s({argument}, x)"
            # logaddexp has no threshold beyond which it becomes the identity, unlike softplus.
            return f"torch.logaddexp({scalar}, torch.zeros_like({scalar}))"
        if name == "log" and expr.args[0].as_coeff_Add()[0] == 1:
            return self._unary("log1p", cast(sympy.Expr, expr.args[0] - 1))
        return self._unary(_FUNCTIONS[name], cast(sympy.Expr, expr.args[0]))

    _print_exp = _print_ExpBase
    _print_log = _print_sin = _print_cos = _print_sinh = _print_cosh = _print_Function
    _print_tanh = _print_atan = _print_erf = _print_erfc = _print_Function
    _print_sigmoid = _print_softplus = _print_Abs = _print_sign = _print_Function
    _print_pd_expm1 = _print_pd_erfc = _print_Function

    def _print_pd_positive(self, expr: sympy.Expr) -> str:
        return f"torch.clamp({self._print(expr.args[0])}, min=0.0)"

    def _print_pd_negative(self, expr: sympy.Expr) -> str:
        return f"torch.clamp({self._print(expr.args[0])}, max=0.0)"

    def _print_pd_arccot(self, expr: sympy.Expr) -> str:
        return f"torch.atan2(torch.ones_like(x), {self._print(expr.args[0])})"

    def _print_pd_erfc_ratio(self, expr: sympy.Expr) -> str:
        z = self._print(expr.args[0])
        # erfcx of a large negative number overflows, and is not taken there.
        return f"torch.where({z} > 0.0, torch.special.erfcx({z}), torch.erfc({z}))"

    def _print_pd_softplus_ratio(self, expr: sympy.Expr) -> str:
        z = self._print(expr.args[0])
        near = (
            f"torch.logaddexp({z}, torch.zeros_like({z}))*torch.exp(-torch.clamp({z}, -40.0, 0.0))"
        )
        return f"torch.where({z} > -40.0, {near}, 1.0)"

    def _print_pd_largest(self, expr: sympy.Expr) -> str:
        return self._extremum("maximum", expr)

    def _print_Heaviside(self, expr: sympy.Heaviside) -> str:
        argument, at_zero = expr.args
        z = self._print(argument)
        scalar = z if _is_tensor(argument) else f"_s({z}, x)"
        return (
            f"torch.where({scalar} > 0.0, 1.0, torch.where({scalar} < 0.0, 0.0, "
            f"_s({self._print(at_zero)}, x)))"
        )

    def _extremum(self, function: str, expr: sympy.Expr) -> str:
        # Folded pairwise; a Python number is no argument of torch.maximum.
        parts = [self._print(a) if _is_tensor(a) else f"_s({self._print(a)}, x)" for a in expr.args]
        text = parts[0]
        for part in parts[1:]:
            text = f"torch.{function}({text}, {part})"
        return text

    def _print_Max(self, expr: sympy.Max) -> str:
        return self._extremum("maximum", expr)

    def _print_Min(self, expr: sympy.Min) -> str:
        return self._extremum("minimum", expr)

    def _print_Relational(self, expr: Any) -> str:
        left, right = expr.lhs, expr.rhs
        text = self._print(left) if _is_tensor(left) else f"_s({self._print(left)}, x)"
        return f"({text} {expr.rel_op} {self._print(right)})"

    def _print_And(self, expr: Any) -> str:
        return "(" + " & ".join(self._print(a) for a in sorted(expr.args, key=str)) + ")"

    def _print_Or(self, expr: Any) -> str:
        return "(" + " | ".join(self._print(a) for a in sorted(expr.args, key=str)) + ")"

    def _print_Not(self, expr: Any) -> str:
        return f"(~{self._print(expr.args[0])})"

    def emptyPrinter(self, expr: Any) -> str:
        raise InputError(f"pdsearch cannot compile {type(expr).__name__} to torch")


_FUNCTIONS = {
    "log": "log",
    "sin": "sin",
    "cos": "cos",
    "sinh": "sinh",
    "cosh": "cosh",
    "tanh": "tanh",
    "atan": "atan",
    "erf": "erf",
    "erfc": "erfc",
    "sigmoid": "sigmoid",
    "Abs": "abs",
    "sign": "sign",
    "pd_expm1": "expm1",
    "pd_erfc": "erfc",
}


def _double(number: sympy.Expr) -> float:
    return float(sympy.N(number, 30))


def _is_tensor(expr: sympy.Basic) -> bool:
    return _expression.x in expr.free_symbols or any(
        s.name.startswith("_v") for s in expr.free_symbols
    )


class _Writer:
    """Writes the statements of one function, one `Piecewise` at a time from the inside out."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.count = 0
        self.printer = _TorchPrinter({"order": None})

    def fresh(self) -> sympy.Symbol:
        self.count += 1
        return sympy.Symbol(f"_v{self.count}", real=True)

    def assign(self, text: str) -> sympy.Symbol:
        name = self.fresh()
        self.lines.append(f"{name.name} = {text}")
        return name

    def write(self, expr: Any) -> Any:
        """Emit the Piecewise nodes of `expr`, return what is left."""
        replacements = {node: self.piecewise(node) for node in _outermost_piecewise(expr)}
        return expr.xreplace(replacements) if replacements else expr

    def text(self, expr: sympy.Expr) -> str:
        shared, (body,) = sympy.cse([expr], symbols=iter(self.fresh, None), order="none")
        for name, value in shared:
            shown = self.printer.doprint(value)
            # A shared scalar becomes a tensor here: every name _v… is one.
            self.lines.append(f"{name.name} = {shown if _is_tensor(value) else f'_s({shown}, x)'}")
        printed = self.printer.doprint(body)
        return printed if _is_tensor(body) else f"_s({printed}, x)"

    def piecewise(self, node: sympy.Piecewise) -> sympy.Symbol:
        arms = []
        taken = None
        for value, condition in node.args:
            if condition == sympy.true:
                here = f"~{taken.name}" if taken is not None else None
            else:
                mask = self.assign(self.printer.doprint(self.write(condition)))
                here = mask.name if taken is None else f"{mask.name} & ~{taken.name}"
                taken = mask if taken is None else self.assign(f"{taken.name} | {mask.name}")
            arms.append((value, here))
        result = None
        for value, here in reversed(arms):
            if not _is_tensor(value):
                text = self.text(value)
            elif here is None or not _can_break(value):
                text = self.text(self.write(value))
            else:
                text = self.guarded(value, here)
            result = self.assign(
                text if result is None else f"torch.where({here}, {text}, {result.name})"
            )
        assert result is not None
        return result

    def guarded(self, value: sympy.Expr, here: str) -> str:
        """An arm evaluated with x replaced, where the arm is not taken, by 0.

        The arm's own value at 0 may be singular (1/x for x > 1), so what is computed there is
        dropped by torch.where and its derivative is never asked of autograd: the text of every
        derivative is printed from its own expression.
        """
        outside = self.printer.point
        self.printer.point = self.assign(f"torch.where({here}, {outside}, 0.0)").name
        text = self.text(self.write(value))
        self.printer.point = outside
        return text


def _can_break(value: sympy.Expr) -> bool:
    return bool(value.atoms(sympy.Function, sympy.Pow))


def _outermost_piecewise(expr: sympy.Basic) -> list[sympy.Piecewise]:
    found: list[sympy.Piecewise] = []
    stack = [expr]
    while stack:
        node = stack.pop()
        if isinstance(node, sympy.Piecewise):
            if node not in found:
                found.append(node)
        else:
            stack.extend(node.args)
    return found


def torch_source(expression: sympy.Expr, *, parameters: Sequence[str] = (), name: str = "g") -> str:
    """The text of a Python function of torch ops that computes an expression.

    Args:
        expression: in x, t and the parameters; see `pdsearch.expression`.
        parameters: names of the arguments that follow x and t, in this order.
        name: of the function.

    Returns:
        Source of `def <name>(x, t, ...)` and of its helper `_s`; it needs only `torch`. x is a
        floating-point tensor, t and the parameters are numbers or 0-d tensors.
    """
    if not name.isidentifier():
        raise InputError(f"{name!r} is no identifier")
    expression = finite_form(saturating(expression))
    writer = _Writer()
    # Symbols of the text never clash with torch's or Python's names: parameters are p_<name>.
    renamed = {_expression.symbol(p): sympy.Symbol(f"p_{p}", real=True) for p in parameters}
    body = writer.text(writer.write(expression.xreplace(renamed)))
    arguments = "".join(f", p_{p}" for p in parameters)
    lines = "".join(f"    {line}\n" for line in writer.lines)
    return f"{SCALAR_HELPER}\n\ndef {name}(x, t{arguments}):\n{lines}    return {body}\n"


SCALAR_HELPER = '''def _s(value, like):
    """A number as a tensor of `like`'s dtype and shape."""
    return torch.zeros_like(like) + value
'''


@functools.lru_cache(maxsize=1_024)
def torch_function(
    expression: sympy.Expr, parameters: tuple[str, ...] = ()
) -> "Callable[..., torch.Tensor]":
    """The compiled form of `torch_source`'s text, one per expression and parameter names."""
    import torch

    source = torch_source(expression, parameters=parameters)
    file = f"<pdsearch formula {abs(hash(source)):x}>"
    linecache.cache[file] = (len(source), None, source.splitlines(True), file)
    namespace: dict[str, Any] = {"torch": torch}
    # Our own printer's text of an expression that went through the allow-list: nothing a user
    # wrote is in it but identifiers that begin with p_.
    exec(compile(source, file, "exec"), namespace)
    return cast("Callable[..., torch.Tensor]", namespace["g"])


@functools.lru_cache(maxsize=1_024)
def derivative(expression: sympy.Expr, order: int = 1) -> sympy.Expr:
    """The derivative in x away from jumps: DiracDelta terms are dropped.

    At a breakpoint it is the derivative of the arm that is taken there.
    """
    result = saturating(expression)
    for _ in range(order):
        result = sympy.diff(result, _expression.x)
        result = result.replace(sympy.DiracDelta, lambda *_: sympy.S.Zero)
        # d|z|/dz and derivatives of sign come back unevaluated for some arguments.
        result = result.doit()
        result = result.replace(sympy.DiracDelta, lambda *_: sympy.S.Zero)
    return cast(sympy.Expr, result)


class Part:
    """One order of a `Kernel`, compiled.

    Attributes:
        expression: what the text stands for.
        function: the text, of x, t and the parameters.
        span: from where to where an input is taken as it is.
        trouble: why the text cannot be used; empty where it can.
        choosing: whether a NaN in the input could be lost.
    """

    def __init__(self, expression: sympy.Expr, ranges: "Mapping[str, tuple[float, float]]") -> None:
        self.expression = expression
        self.function = torch_function(expression, tuple(ranges))
        found = find_reach(self.function, expression, ranges)
        self.span, self.trouble = (found.low, found.high), found.trouble
        self.choosing = _chooses(expression)


class Kernel:
    """The compiled functions of one family: g, and its derivatives in x by order.

    One per family, made once: it holds no parameter values, so that every candidate of a family
    shares it, and `torch.compile` finds plain functions of tensors in it. Derivatives are made when
    they are first asked for.
    """

    def __init__(self, expression: sympy.Expr, ranges: "Mapping[str, tuple[float, float]]") -> None:
        self._expression, self._ranges = expression, ranges
        self._parts: list[Part | None] = [Part(expression, ranges)]
        self._parts += [None] * (KEPT_ORDERS - 1)

    def part(self, order: int) -> Part:
        """One order; see `Part`."""
        found = self._parts[order]
        if found is None:
            found = Part(derivative(self._expression, order), self._ranges)
            self._parts[order] = found
        return found

    @property
    def reach(self) -> tuple[float, ...]:
        """By order, the size up to which inputs of either sign are taken as they are."""
        spans = [self.part(order).span for order in range(KEPT_ORDERS)]
        return tuple(min(-low, high) for low, high in spans)

    def __call__(
        self, input: "torch.Tensor", t: "torch.Tensor", values: "torch.Tensor", order: int = 0
    ) -> "torch.Tensor":
        """The `order`-th derivative of g in x.

        float64 inside for every dtype: near a zero of g, or in a tail that is a difference,
        arithmetic in the input's own precision would lose digits that the result can show.
        At +inf and -inf it is the value at the largest finite number, at NaN it is NaN. Where a
        power of x in the text overflows float64 (never below 1e30), and inf/inf or 0·inf would be
        NaN, it is the value at a point before that.

        Args:
            input: any shape, floating-point.
            t: 0-d.
            values: the parameters, float64, in the family's order.
            order: 0 for g itself.

        Returns:
            Same shape and dtype as `input`.
        """
        import torch

        if order >= KEPT_ORDERS:
            raise UnsupportedError(
                f"derivatives of a pseudo-derivative are kept up to order {KEPT_ORDERS - 1}"
            )
        part = self.part(order)
        if part.trouble:
            raise FormulaError(part.trouble)
        largest = torch.finfo(input.dtype).max
        low, high = part.span
        wide = torch.clamp(input.double(), max(low, -largest), min(high, largest))
        result = part.function(wide, t, *values.unbind())
        if part.choosing:
            result = torch.where(torch.isnan(wide), wide, result)
        return rounded(torch.clamp(result, -largest, largest), input.dtype)


def rounded(wide: "torch.Tensor", dtype: "torch.dtype") -> "torch.Tensor":
    """float64 to a dtype, rounded once.

    Torch converts to 16 bits by way of float32: to nearest twice, which is not to nearest. So the
    digits that no 16-bit number has are first rounded to odd, which the second rounding forgives.
    """
    import torch

    if dtype in (torch.bfloat16, torch.float16):
        bits = wide.view(torch.int64)
        low = bits & _LOW_BITS
        wide = ((bits | (low + _LOW_BITS)) & ~_LOW_BITS).view(torch.float64)
    return wide.to(dtype)


_LOW_BITS = (1 << 38) - 1
"""14 bits of a float64's 52 are kept: two more than float16 needs, and few enough that a bfloat16
below float32's normal numbers is still exact in float32."""


def _chooses(expression: sympy.Expr) -> bool:
    """Whether a NaN could be lost: an arm is chosen by comparing, or x is not in it."""
    return _expression.x not in expression.free_symbols or expression.has(
        sympy.Piecewise, sympy.Heaviside, sympy.sign
    )


KEPT_ORDERS = 3
"""g, g′ and g″: enough to differentiate a training step twice more."""


@functools.lru_cache(maxsize=1_024)
def kernel(family: "Family") -> Kernel:
    """The family's `Kernel`, made at the first call."""
    space: dict[str, Any] = dict(family.space)
    ranges = {name: (float(space[name].low), float(space[name].high)) for name in family.parameters}
    return Kernel(family.expression, ranges)


def evaluate(
    candidate: "Candidate", input: "torch.Tensor", *, t: float = 0.0, order: int = 0
) -> "torch.Tensor":
    """Values of a candidate's g, or of its derivative of some order.

    Raises:
        InputError: the input is not floating-point, or t is outside of [0, 1].
    """
    import torch

    if not isinstance(input, torch.Tensor) or not input.is_floating_point():
        kind = str(input.dtype) if isinstance(input, torch.Tensor) else type(input).__name__
        raise InputError(f"a floating-point tensor is needed, got {kind}")
    if not 0.0 <= t <= 1.0:
        raise InputError(f"t must be in [0, 1], got {t!r}")
    device = input.device
    progress = torch.tensor(t, dtype=torch.float64, device=device)
    return kernel(candidate.family)(
        input, progress, parameter_values(candidate, device=device), order
    )


def parameter_values(candidate: "Candidate", *, device: Any = None) -> "torch.Tensor":
    """A candidate's parameters in its family's order, float64, shape (parameters,).

    Raises:
        FormulaError: g is finite, but its text is not, and no limit stands for it.
    """
    import torch

    _check(candidate)
    return torch.tensor(list(candidate.parameters.values()), dtype=torch.float64, device=device)


@functools.lru_cache(maxsize=4_096)
def _check(candidate: "Candidate") -> None:
    """Refuse a candidate whose text would give NaN."""
    part = kernel(candidate.family).part(0)
    why = part.trouble or trouble_at(
        part.function, part.expression, candidate.parameters, part.span
    )
    if why:
        raise FormulaError(f"{candidate.name}: {why}")
