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

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import sympy
from sympy.core.parameters import distribute
from sympy.printing.precedence import PRECEDENCE
from sympy.printing.str import StrPrinter

from pdsearch import expression as _expression
from pdsearch.errors import InputError
from pdsearch.saturating import saturating
from pdsearch.scaled import finite_form

__all__ = ["SCALAR_HELPER", "printed", "scalar_source", "torch_source", "written"]


class _TorchPrinter(StrPrinter):
    """Prints one expression; whether a subexpression is a tensor follows from x being in it.

    Args:
        assign: gives a text a name, on a line of its own.
    """

    def __init__(self, assign: Callable[[str], sympy.Symbol]) -> None:
        super().__init__({"order": None})
        self._assign = assign

    def _named(self, argument: sympy.Basic) -> str:
        """An argument's text where it is needed more than once: nested, it would double each time.

        A tensor, whatever it is made of.
        """
        text = self._print(argument)
        if not _is_tensor(argument):
            text = f"_s({text}, x)"
        return text if text.isidentifier() else self._assign(text).name

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
        return _float(expr)

    def _print_NumberSymbol(self, expr: sympy.Expr) -> str:
        return _float(expr)

    _print_Pi = _print_Exp1 = _print_Float = _print_NumberSymbol

    def _print_ComplexInfinity(self, expr: sympy.Expr) -> str:
        return "float('nan')"  # by it, the text is found to be of no use

    _print_NaN = _print_Infinity = _print_NegativeInfinity = _print_ComplexInfinity

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
            return _float(expr)
        number, rest = expr.as_coeff_Mul()
        above: list[sympy.Expr] = []
        below: list[sympy.Expr] = []
        for factor in sympy.Mul.make_args(rest):
            if isinstance(factor, sympy.Pow) and factor.exp.could_extract_minus_sign():
                below.append(factor.base**-factor.exp)
            else:
                above.append(factor)
        numerator: list[str] = []
        # x·f/(1 + f) as f/(1 + f)·x: the product x·f overflows where the quotient does not.
        for divisor in list(below):
            partner = next((f for f in above if len(above) > 1 and divisor.has(f)), None)
            if partner is not None and _is_tensor(partner):
                above.remove(partner)
                below.remove(divisor)
                shown = self.parenthesize(divisor, PRECEDENCE["Pow"])
                numerator.append(f"({self.parenthesize(partner, PRECEDENCE['Mul'])}/{shown})")
        numerator += [self.parenthesize(factor, PRECEDENCE["Mul"]) for factor in above]
        denominator = [self.parenthesize(factor, PRECEDENCE["Pow"]) for factor in below]
        if number == -1:
            numerator[:1] = ["-" + numerator[0]] if numerator else ["-1.0"]
        elif number != 1:
            numerator.insert(0, self._print(number) if number > 0 else f"({self._print(number)})")
        text = "*".join(numerator) or "1.0"
        return text + "".join(f"/{part}" for part in denominator)

    def _print_Pow(self, expr: sympy.Pow, rational: bool = False) -> str:
        base, exponent = expr.args
        if expr.is_number:
            return _float(expr)
        if base == sympy.E:
            return self._unary("exp", cast(sympy.Expr, exponent))
        if exponent == sympy.Rational(1, 2):
            return self._unary("sqrt", cast(sympy.Expr, base))
        if exponent.could_extract_minus_sign():
            return f"1.0/{self.parenthesize(base**-exponent, PRECEDENCE['Pow'])}"
        if exponent == 2 and _is_tensor(base):
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
            z = self._named(expr.args[0])
            # logaddexp has no threshold beyond which it becomes the identity, unlike softplus.
            return f"torch.logaddexp({z}, torch.zeros_like({z}))"
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
        z = self._named(expr.args[0])
        # erfcx of a large negative number overflows, and is not taken there.
        return f"torch.where({z} > 0.0, torch.special.erfcx({z}), torch.erfc({z}))"

    def _print_pd_softplus_ratio(self, expr: sympy.Expr) -> str:
        z = self._named(expr.args[0])
        near = (
            f"torch.logaddexp({z}, torch.zeros_like({z}))*torch.exp(-torch.clamp({z}, -40.0, 0.0))"
        )
        return f"torch.where({z} > -40.0, {near}, 1.0)"

    def _print_pd_largest(self, expr: sympy.Expr) -> str:
        return self._extremum("maximum", expr)

    def _print_Heaviside(self, expr: sympy.Heaviside) -> str:
        argument, at_zero = expr.args
        z = self._named(argument)
        return (
            f"torch.where({z} > 0.0, 1.0, torch.where({z} < 0.0, 0.0, "
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

    def _print_ITE(self, expr: Any) -> str:
        # sympy makes one of a comparison with a Piecewise in it.
        condition, then, otherwise = expr.args
        return self._print((condition & then) | (~condition & otherwise))

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


def _float(number: sympy.Expr) -> str:
    """The text of a number; beyond float64 it is infinite."""
    value = float(sympy.N(number, _DIGITS))
    return repr(value) if math.isfinite(value) else f"float('{value}')"


def _is_tensor(expr: sympy.Basic) -> bool:
    return _expression.x in expr.free_symbols or any(
        s.name.startswith("_v") for s in expr.free_symbols
    )


class _Writer:
    """Writes the statements of one function, one `Piecewise` at a time from the inside out."""

    def __init__(self, *, first: int = 1, guard: bool = True) -> None:
        self.guard = guard
        self.lines: list[str] = []
        self.count = first - 1
        self.printer = _TorchPrinter(self.assign)

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

    def text(self, expr: sympy.Expr, *, scalar: bool = False) -> str:
        """The text of an expression; with `scalar`, what has no x may stay a number."""
        shared, (body,) = sympy.cse([expr], symbols=iter(self.fresh, None), order="none")
        for name, value in shared:
            shown = self.printer.doprint(value)
            # A shared scalar becomes a tensor here: every name _v… is one.
            self.lines.append(f"{name.name} = {shown if _is_tensor(value) else f'_s({shown}, x)'}")
        printed = self.printer.doprint(body)
        return printed if scalar or _is_tensor(body) else f"_s({printed}, x)"

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
            if not _is_tensor(value) or here is None or not (self.guard and _can_break(value)):
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
    form, arguments = _for_text(expression, parameters)
    return written(form, arguments, name)


def scalar_source(expression: sympy.Expr, *, parameters: Sequence[str], name: str) -> str:
    """As `torch_source`, for an expression without x: the value may be a number.

    It is one if t and the parameters are numbers and the expression needs none of torch's
    functions, which is several times faster than 0-d tensors.
    """
    form, arguments = _for_text(expression, parameters)
    return written(form, arguments, name, scalar=True)


def _for_text(
    expression: sympy.Expr, parameters: Sequence[str]
) -> tuple[sympy.Expr, tuple[str, ...]]:
    """What `written` takes: the form that is evaluated, and the arguments after x."""
    # Symbols of the text never clash with torch's or Python's names: parameters are p_<name>.
    renamed = {_expression.symbol(p): sympy.Symbol(f"p_{p}", real=True) for p in parameters}
    form = finite_form(saturating(expression)).xreplace(renamed)
    return form, ("t", *(f"p_{p}" for p in parameters))


def written(
    form: sympy.Expr,
    arguments: Sequence[str],
    name: str,
    *,
    guard: bool = True,
    scalar: bool = False,
) -> str:
    """The text of a function of x and further arguments that computes an expression as it stands.

    Args:
        form: in x and the arguments, each a real symbol.
        arguments: numbers or 0-d tensors.
        name: of the function.
        guard: whether an arm sees 0 in the place of x where it is not taken. Without, arms can
            share what they compute; what overflows in one is dropped by `torch.where`.
        scalar: whether a value without x may be a number instead of a tensor.
    """
    if not name.isidentifier():
        raise InputError(f"{name!r} is no identifier")
    writer = _Writer(guard=guard)
    body = writer.text(writer.write(form), scalar=scalar)
    given = ", ".join(("x", *arguments))
    lines = "".join(f"    {line}\n" for line in writer.lines)
    return f"{SCALAR_HELPER}\n\ndef {name}({given}):\n{lines}    return {body}\n"


def printed(expression: sympy.Expr, point: str, *, first: int) -> tuple[list[str], str]:
    """The statements that an expression in x alone needs, and the text of its value.

    Args:
        expression: without parameters.
        point: the name of what stands for x; `x` itself is there too.
        first: the number of the first name `_v<number>` that is free.
    """
    writer = _Writer(first=first)
    writer.printer.point = point
    form = finite_form(saturating(expression))
    with distribute(False):  # 0.7·(x + 1) near -1 keeps digits that 0.7·x + 0.7 does not
        result = writer.text(writer.write(_with_one_number_a_product(form)))
    return writer.lines, result


def _with_one_number_a_product(expression: sympy.Expr) -> sympy.Expr:
    """Numbers such as sqrt(2)/2 as decimals, which sympy multiplies and adds up.

    Each number that is left takes an operator on a whole tensor.
    """

    def to_fold(part: sympy.Basic) -> bool:
        return isinstance(part, sympy.Expr) and part.is_number and not part.is_Rational

    return expression.replace(to_fold, lambda number: sympy.N(number, _DIGITS))


_DIGITS = 30  # of a number in a text, before it is rounded to float64


SCALAR_HELPER = '''def _s(value, like):
    """A number as a tensor of `like`'s dtype and shape."""
    return torch.zeros_like(like) + value
'''
