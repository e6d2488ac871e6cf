"""Formula text and sympy expressions, both ways. The only parser of the project.

Text is never handed to `eval`, `sympify` or `parse_expr` (each of them runs code found in the
text). It is parsed by `ast.parse`, which builds a tree and runs nothing, and the tree is read by
an interpreter that knows names, numbers, arithmetic, comparisons, `and`/`or`/`not`, tuples inside
`Piecewise`, and calls of a fixed table of functions. Everything else is an error that says where.
"""

import ast
import functools
import io
import keyword
import re
import tokenize
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn, cast

import mpmath
import sympy
from sympy.core.function import ArgumentIndexError
from sympy.logic.boolalg import Boolean, BooleanFalse, BooleanTrue

from pdsearch.errors import FormulaError, InputError

__all__ = [
    "FUNCTIONS",
    "RESERVED",
    "canonical",
    "clamp",
    "exact",
    "format_formula",
    "parse",
    "sigmoid",
    "softplus",
    "symbol",
    "t",
    "undefined_at",
    "x",
]

x = sympy.Symbol("x", real=True)
"""The pre-activation: the input of the ReLU whose backward pass is replaced."""

t = sympy.Symbol("t", real=True)
"""Training progress in [0, 1], for annealed families."""

# A formula is a line a person types; these caps are some fifty times what any known
# pseudo-derivative needs, and keep every text within milliseconds and a few megabytes.
MAX_LENGTH = 4_000
MAX_NODES = 800
MAX_DEPTH = 60
MAX_DIGITS = 80  # the product of SELU's two constants has 62
MAX_EXPONENT = 64


class sigmoid(sympy.Function):  # noqa: N801 (sympy names functions as mathematics does)
    r"""The logistic function :math:`\sigma(z) = 1 / (1 + e^{-z})`, kept as one node.

    One node, rather than its exponential form, lets the torch printer emit a call that neither
    overflows nor cancels, and the enclosure use that it is increasing.
    """

    nargs = 1

    @classmethod
    def eval(cls, z: sympy.Expr) -> sympy.Expr | None:
        """Exact values, where there are any."""
        if z.is_zero:
            return sympy.Rational(1, 2)
        if z is sympy.oo:
            return sympy.S.One
        if z is -sympy.oo:
            return sympy.S.Zero
        return None

    def fdiff(self, argindex: int = 1) -> sympy.Expr:
        """σ′ = σ(z)·σ(−z): no difference of near-equal numbers on either side."""
        if argindex != 1:
            raise ArgumentIndexError(self, argindex)
        return sigmoid(self.args[0]) * sigmoid(-self.args[0])

    def _eval_is_real(self) -> bool | None:
        return cast("bool | None", self.args[0].is_real)

    def _eval_is_positive(self) -> bool | None:
        return cast("bool | None", self.args[0].is_real)

    def _eval_rewrite_as_exp(self, z: sympy.Expr, **_: Any) -> sympy.Expr:
        return 1 / (1 + sympy.exp(-z))

    def _eval_evalf(self, prec: int) -> sympy.Expr | None:
        z = self.args[0]._eval_evalf(prec)
        if z is None or not z.is_Float:
            return None
        with mpmath.workprec(prec + 10):
            value = mpmath.mpf(1) / (1 + mpmath.exp(-z._to_mpmath(prec + 10)))
            return cast(sympy.Expr, sympy.Float._new(value._mpf_, prec))

    def _latex(self, printer: Any, exp: str | None = None) -> str:
        power = f"^{{{exp}}}" if exp is not None else ""
        return rf"\sigma{power}\left({printer._print(self.args[0])}\right)"


class softplus(sympy.Function):  # noqa: N801
    r"""The softplus :math:`\ln(1 + e^z)`, kept as one node; its derivative is `sigmoid`."""

    nargs = 1

    @classmethod
    def eval(cls, z: sympy.Expr) -> sympy.Expr | None:
        """Exact values, where there are any."""
        if z.is_zero:
            return sympy.log(2)
        if z is sympy.oo:
            return sympy.oo
        if z is -sympy.oo:
            return sympy.S.Zero
        return None

    def fdiff(self, argindex: int = 1) -> sympy.Expr:
        """The logistic function."""
        if argindex != 1:
            raise ArgumentIndexError(self, argindex)
        return sigmoid(self.args[0])

    def _eval_is_real(self) -> bool | None:
        return cast("bool | None", self.args[0].is_real)

    def _eval_is_positive(self) -> bool | None:
        return cast("bool | None", self.args[0].is_real)

    def _eval_rewrite_as_log(self, z: sympy.Expr, **_: Any) -> sympy.Expr:
        return sympy.log(1 + sympy.exp(z))

    def _eval_evalf(self, prec: int) -> sympy.Expr | None:
        z = self.args[0]._eval_evalf(prec)
        if z is None or not z.is_Float:
            return None
        with mpmath.workprec(prec + 10):
            value = mpmath.log1p(mpmath.exp(z._to_mpmath(prec + 10)))
            return cast(sympy.Expr, sympy.Float._new(value._mpf_, prec))

    def _latex(self, printer: Any, exp: str | None = None) -> str:
        power = f"^{{{exp}}}" if exp is not None else ""
        return rf"\operatorname{{softplus}}{power}\left({printer._print(self.args[0])}\right)"


def clamp(z: Any, low: Any, high: Any) -> sympy.Expr:
    """`z` limited to [low, high], as `Min(Max(z, low), high)`."""
    return cast(sympy.Expr, sympy.Min(sympy.Max(z, low), high))


def _piecewise(*arms: Any) -> sympy.Expr:
    _check_arms(arms)
    return cast(sympy.Expr, sympy.Piecewise(*arms))


FUNCTIONS: Mapping[str, tuple[Callable[..., Any], int, int]] = {
    # name: (constructor, least arguments, most arguments)
    "exp": (sympy.exp, 1, 1),
    "log": (sympy.log, 1, 1),
    "sqrt": (sympy.sqrt, 1, 1),
    "sin": (sympy.sin, 1, 1),
    "cos": (sympy.cos, 1, 1),
    "sinh": (sympy.sinh, 1, 1),
    "cosh": (sympy.cosh, 1, 1),
    "tanh": (sympy.tanh, 1, 1),
    "atan": (sympy.atan, 1, 1),
    "erf": (sympy.erf, 1, 1),
    "erfc": (sympy.erfc, 1, 1),
    "sigmoid": (sigmoid, 1, 1),
    "softplus": (softplus, 1, 1),
    "Abs": (sympy.Abs, 1, 1),
    "abs": (sympy.Abs, 1, 1),
    "sign": (sympy.sign, 1, 1),
    "Heaviside": (sympy.Heaviside, 1, 2),
    "Min": (sympy.Min, 2, 16),
    "min": (sympy.Min, 2, 16),
    "Max": (sympy.Max, 2, 16),
    "max": (sympy.Max, 2, 16),
    "clamp": (clamp, 3, 3),
    "Piecewise": (_piecewise, 1, 64),
}
"""What a formula may call. `min`, `max` and `abs` are other spellings of sympy's names."""

_CONSTANTS: Mapping[str, sympy.Expr] = {"pi": sympy.pi, "E": sympy.E}
_NOT_FINITE = {"nan", "NaN", "oo", "inf", "Infinity", "zoo"}

RESERVED = frozenset(
    {"x", "t", "I", "torch", "math", "family", "True", "False", "None"}
    | set(FUNCTIONS)
    | set(_CONSTANTS)
    | _NOT_FINITE
)
"""Names that no parameter may have."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,39}\Z")


def symbol(name: str) -> sympy.Symbol:
    """The canonical real symbol of a parameter.

    Raises:
        FormulaError: `name` is reserved, a Python keyword, or no plain identifier.
    """
    if not _NAME.match(name) or keyword.iskeyword(name) or name.startswith("__"):
        raise FormulaError(
            f"{_shown(name)} cannot name a parameter: use an ASCII identifier of at most 40 "
            "characters that is no Python keyword, such as alpha or beta_2"
        )
    if name in RESERVED:
        raise FormulaError(
            f"{name!r} cannot name a parameter: it is reserved (x is the pre-activation, t the "
            "training progress, the others are functions and constants of formulas)"
        )
    return sympy.Symbol(name, real=True)


def exact(value: float | int | sympy.Expr) -> sympy.Rational:
    """The exact rational of a number's shortest decimal form: 0.1 becomes 1/10.

    Raises:
        FormulaError: the number is not finite.
    """
    if isinstance(value, sympy.Rational):
        return value
    if isinstance(value, bool):
        raise FormulaError(f"a number is needed, got {value!r}")
    if isinstance(value, int):
        return sympy.Integer(value)
    number = float(value)
    if number != number or number in (float("inf"), float("-inf")):
        raise FormulaError(f"a finite number is needed, got {number!r}")
    return sympy.Rational(repr(number))


def canonical(expression: sympy.Expr | float) -> sympy.Expr:
    """The expression with canonical symbols and exact numbers.

    Symbols are replaced by the real symbol of the same name, whatever assumptions they were
    written with, and floating-point numbers by exact rationals, so that two definitions that
    read the same are equal and a round trip through text gives back the same object.

    Raises:
        FormulaError: the expression holds something outside of what `parse` accepts.
    """
    expr = sympy.sympify(expression) if isinstance(expression, int | float) else expression
    if not isinstance(expr, sympy.Expr):
        raise FormulaError(
            f"a family's expression must be a sympy expression in x, got {type(expr).__name__}"
        )
    known = {"x": x, "t": t}
    replacements = {
        s: known.get(s.name) or symbol(s.name) for s in expr.free_symbols | expr.atoms(sympy.Dummy)
    }
    expr = expr.xreplace({old: new for old, new in replacements.items() if old != new})
    floats = expr.atoms(sympy.Float)
    if floats:
        expr = expr.xreplace({number: exact(number) for number in floats})
    # Rebuilt once so that symbols' assumptions take effect: Abs(alpha) of a positive symbol, say.
    _check_nodes(expr)
    return expr


_ALLOWED_NODES: tuple[type, ...] = (
    sympy.Rational,
    sympy.Symbol,
    sympy.Add,
    sympy.Mul,
    sympy.Pow,
    sympy.exp,
    sympy.log,
    sympy.sin,
    sympy.cos,
    sympy.sinh,
    sympy.cosh,
    sympy.tanh,
    sympy.atan,
    sympy.erf,
    sympy.erfc,
    sigmoid,
    softplus,
    sympy.Abs,
    sympy.sign,
    sympy.Heaviside,
    sympy.Min,
    sympy.Max,
    sympy.Piecewise,
    sympy.functions.elementary.piecewise.ExprCondPair,
    sympy.And,
    sympy.Or,
    sympy.Not,
    BooleanTrue,
    BooleanFalse,
    sympy.StrictGreaterThan,
    sympy.GreaterThan,
    sympy.StrictLessThan,
    sympy.LessThan,
    sympy.Equality,
    sympy.Unequality,
    type(sympy.pi),
    type(sympy.E),
)


def _check_nodes(expr: sympy.Basic) -> None:
    for node in sympy.preorder_traversal(expr):
        if isinstance(node, sympy.Tuple):
            continue
        if node is sympy.nan or node in (sympy.oo, -sympy.oo, sympy.zoo) or node is sympy.I:
            raise FormulaError(
                f"the formula holds {node}: a pseudo-derivative must be a finite real number at "
                "every x"
            )
        if not isinstance(node, _ALLOWED_NODES):
            raise FormulaError(
                f"the formula holds {type(node).__name__}, which pdsearch cannot compile; "
                f"functions that it can: {_function_names()}"
            )
        if isinstance(node, sympy.Pow) and abs(node.exp.as_coeff_Mul()[0]) > MAX_EXPONENT:
            raise FormulaError(
                f"an exponent of {node.exp} is too large: at most {MAX_EXPONENT} in size"
            )
        if isinstance(node, sympy.Rational) and max(
            abs(int(node.p)).bit_length(), int(node.q).bit_length()
        ) > 2_200:  # 1e-320 as an exact decimal needs 1 064 bits; its powers are cut here
            raise FormulaError("the formula holds a number of too many digits")


def _function_names() -> str:
    return ", ".join(sorted((n for n in FUNCTIONS if n not in ("Abs", "Min", "Max")), key=str.lower))


# --------------------------------------------------------------------------------------- parsing


def parse(text: str, *, parameters: Iterable[str] | None = None) -> sympy.Expr:
    """Read a formula in x (and t) from text, running nothing that is in it.

    The grammar is Python's arithmetic: numbers (decimal literals are exact rationals), `+ - * /
    **`, comparisons (chained ones too), `and`/`or`/`not` (also `&`, `|`, `~`), the constants `pi`
    and `E`, and calls of `FUNCTIONS`.

    Args:
        text: such as `"Piecewise((1, x > 0), (a*exp(x), True))"`.
        parameters: the declared parameters. None: any other valid name is a parameter.

    Returns:
        The expression, with canonical real symbols.

    Raises:
        FormulaError: one line that says what is wrong and at which column.
    """
    if not isinstance(text, str):
        raise FormulaError(f"a formula must be text, got {type(text).__name__}")
    if len(text) > MAX_LENGTH:
        raise FormulaError(
            f"the formula has {len(text):,} characters: at most {MAX_LENGTH:,} are read"
        )
    stripped = text.strip()
    if not stripped or stripped.startswith("#"):
        raise FormulaError("the formula is empty: write an expression in x, such as sigmoid(4*x)")
    for position, character in enumerate(text):
        if ord(character) > 126 or (ord(character) < 32 and character not in "\t"):
            raise FormulaError(
                f"character {_shown(character)} at column {position + 1} is not allowed in a "
                "formula: plain ASCII on one line only"
            )
    _check_tokens(text)
    try:
        with warnings.catch_warnings():
            # Such as `1(x)` or "invalid escape": the interpreter below says it better.
            warnings.simplefilter("ignore")
            tree = ast.parse(stripped, mode="eval")
    except SyntaxError as error:
        column = f" at column {error.offset}" if error.offset else ""
        raise FormulaError(f"the formula cannot be read: {error.msg}{column}") from None
    except (RecursionError, MemoryError, ValueError) as error:
        raise FormulaError(f"the formula cannot be read: {type(error).__name__}") from None
    allowed = None if parameters is None else frozenset(parameters)
    for name in allowed or ():
        symbol(name)
    try:
        result = _Interpreter(allowed).expression(tree.body)
    except (RecursionError, OverflowError, MemoryError) as error:
        raise FormulaError(f"the formula is too large: {type(error).__name__}") from None
    except (TypeError, ZeroDivisionError) as error:  # sympy's own, such as comparing I with 0
        raise FormulaError(f"the formula makes no sense: {str(error).splitlines()[0]}") from None
    return canonical(result)


def _shown(text: str) -> str:
    """A short printable form of any text."""
    return ascii(text if len(text) <= 40 else text[:37] + "...")


def _check_tokens(text: str) -> None:
    """Cap depth and count before `ast.parse`, whose own recursion would cost memory first."""
    depth = deepest = unary = 0
    for character in text:
        if character in "([{":
            depth += 1
            deepest = max(deepest, depth)
        elif character in ")]}":
            depth -= 1
        unary = unary + 1 if character in "+-~" else (unary if character == " " else 0)
        if deepest > MAX_DEPTH or unary > MAX_DEPTH:
            raise FormulaError(f"the formula is nested more than {MAX_DEPTH} deep")
    try:
        count = sum(1 for _ in tokenize.generate_tokens(io.StringIO(text.strip()).readline))
    except (tokenize.TokenError, SyntaxError, IndentationError):
        return  # ast.parse says what and where
    if count > 2 * MAX_NODES:
        raise FormulaError(f"the formula has {count:,} tokens: at most {2 * MAX_NODES:,} are read")


_COMPARISONS: Mapping[type, Callable[[Any, Any], Any]] = {
    ast.Gt: sympy.Gt,
    ast.GtE: sympy.Ge,
    ast.Lt: sympy.Lt,
    ast.LtE: sympy.Le,
    ast.Eq: sympy.Eq,
    ast.NotEq: sympy.Ne,
}


class _Interpreter:
    """Walks the tree of `ast.parse`; each method takes one kind of node and refuses the rest."""

    def __init__(self, parameters: frozenset[str] | None) -> None:
        self.parameters = parameters
        self.nodes = 0
        self.depth = 0

    def fail(self, node: ast.AST, what: str) -> NoReturn:
        column = getattr(node, "col_offset", None)
        where = "" if column is None else f" at column {column + 1}"
        raise FormulaError(f"{what}{where}")

    def visit(self, node: ast.AST) -> Any:
        self.nodes += 1
        self.depth += 1
        if self.nodes > MAX_NODES:
            self.fail(node, f"the formula has more than {MAX_NODES} parts")
        if self.depth > MAX_DEPTH:
            self.fail(node, f"the formula is nested more than {MAX_DEPTH} deep")
        handler = getattr(self, "on_" + type(node).__name__, None)
        if handler is None:
            self.fail(
                node,
                f"{_KINDS.get(type(node).__name__, type(node).__name__.lower())} not allowed in a "
                "formula (numbers, names, + - * / **, comparisons, and calls of functions are)",
            )
        value = handler(node)
        self.depth -= 1
        return value

    def expression(self, node: ast.AST) -> sympy.Expr:
        value = self.visit(node)
        if not isinstance(value, sympy.Expr):
            kind = "a condition" if isinstance(value, Boolean) else "a tuple"
            self.fail(node, f"a number is needed, got {kind}")
        return value

    def condition(self, node: ast.AST) -> Boolean:
        value = self.visit(node)
        if not isinstance(value, Boolean):
            self.fail(node, "a condition is needed (such as x > 0, or True), got a number")
        return value

    def on_Constant(self, node: ast.Constant) -> Any:  # noqa: N802
        value = node.value
        if isinstance(value, bool):
            return sympy.true if value else sympy.false
        if isinstance(value, int):
            if value >= 10**MAX_DIGITS:
                self.fail(node, f"an integer of more than {MAX_DIGITS} digits")
            return sympy.Integer(value)
        if isinstance(value, float):
            if value in (float("inf"), float("-inf")):
                self.fail(node, "a number too large for a float")
            return exact(value)
        self.fail(node, f"{type(value).__name__} literals are not allowed in a formula")

    def on_Name(self, node: ast.Name) -> Any:  # noqa: N802
        name = node.id
        if name == "x":
            return x
        if name == "t":
            return t
        if name in _CONSTANTS:
            return _CONSTANTS[name]
        if name in FUNCTIONS:
            self.fail(node, f"{name} is a function: write {name}(…)")
        if name in _NOT_FINITE or name == "I":
            self.fail(node, f"{name} is not a finite real number, not allowed in a formula,")
        if self.parameters is not None and name not in self.parameters:
            declared = ", ".join(sorted(self.parameters)) or "none"
            self.fail(
                node, f"parameter {_shown(name)} is not declared (declared: {declared}); found"
            )
        return symbol(name)

    def on_UnaryOp(self, node: ast.UnaryOp) -> Any:  # noqa: N802
        if isinstance(node.op, ast.Not | ast.Invert):
            return sympy.Not(self.condition(node.operand))
        value = self.expression(node.operand)
        return -value if isinstance(node.op, ast.USub) else value

    def on_BinOp(self, node: ast.BinOp) -> Any:  # noqa: N802
        if isinstance(node.op, ast.BitAnd | ast.BitOr):
            both = (self.condition(node.left), self.condition(node.right))
            return sympy.And(*both) if isinstance(node.op, ast.BitAnd) else sympy.Or(*both)
        left, right = self.expression(node.left), self.expression(node.right)
        match node.op:
            case ast.Add():
                return left + right
            case ast.Sub():
                return left - right
            case ast.Mult():
                return left * right
            case ast.Div():
                if right.is_zero:
                    self.fail(node, "division by zero")
                return left / right
            case ast.Pow():
                return self.power(node, left, right)
        self.fail(node, f"operator {type(node.op).__name__} is not allowed in a formula")

    def power(self, node: ast.AST, base: sympy.Expr, exponent: sympy.Expr) -> sympy.Expr:
        if exponent.is_number and (
            not exponent.is_Rational or abs(exponent) > MAX_EXPONENT or int(exponent.q) > 1_000
        ):
            self.fail(
                node,
                f"an exponent must be a plain number of at most {MAX_EXPONENT} in size, or hold "
                "x or a parameter; got another",
            )
        if base.is_zero and exponent.is_number and exponent < 0:
            self.fail(node, "division by zero")
        return cast(sympy.Expr, base**exponent)

    def on_Compare(self, node: ast.Compare) -> Any:  # noqa: N802
        operands = [self.expression(part) for part in (node.left, *node.comparators)]
        parts = []
        for operator, left, right in zip(node.ops, operands, operands[1:], strict=False):
            build = _COMPARISONS.get(type(operator))
            if build is None:
                self.fail(node, f"comparison {type(operator).__name__} is not allowed in a formula")
            parts.append(build(left, right))
        return sympy.And(*parts)

    def on_BoolOp(self, node: ast.BoolOp) -> Any:  # noqa: N802
        parts = [self.condition(part) for part in node.values]
        return sympy.And(*parts) if isinstance(node.op, ast.And) else sympy.Or(*parts)

    def on_Call(self, node: ast.Call) -> Any:  # noqa: N802
        if not isinstance(node.func, ast.Name):
            self.fail(node, "only a function's plain name can be called in a formula, not this")
        name = node.func.id
        if name not in FUNCTIONS:
            self.fail(
                node,
                f"{_shown(name)} is no function of formulas (there are: {_function_names()}); found",
            )
        if node.keywords:
            self.fail(node, f"{name} takes no keyword arguments")
        function, least, most = FUNCTIONS[name]
        if not least <= len(node.args) <= most:
            wanted = str(least) if least == most else f"{least} to {most}"
            self.fail(node, f"{name} takes {wanted} argument(s), got {len(node.args)}")
        if name == "Piecewise":
            return function(*(self.arm(part) for part in node.args))
        return function(*(self.expression(part) for part in node.args))

    def arm(self, node: ast.expr) -> tuple[sympy.Expr, Boolean]:
        self.nodes += 1
        if not isinstance(node, ast.Tuple) or len(node.elts) != 2:
            self.fail(node, "each arm of Piecewise is (value, condition); found something else")
        return self.expression(node.elts[0]), self.condition(node.elts[1])


_KINDS = {
    "Attribute": "an attribute (a dot) is",
    "Subscript": "a subscript is",
    "Lambda": "lambda is",
    "ListComp": "a comprehension is",
    "SetComp": "a comprehension is",
    "DictComp": "a comprehension is",
    "GeneratorExp": "a comprehension is",
    "JoinedStr": "an f-string is",
    "TemplateStr": "a t-string is",
    "NamedExpr": "an assignment (:=) is",
    "IfExp": "if/else is (use Piecewise)",
    "Tuple": "a tuple outside of Piecewise is",
    "List": "a list is",
    "Dict": "a dictionary is",
    "Set": "a set is",
    "Starred": "a starred argument is",
    "Await": "await is",
    "Yield": "yield is",
}


def _check_arms(arms: Iterable[tuple[sympy.Expr, Boolean]]) -> None:
    """Refuse a Piecewise with a gap, or with an arm that can never be taken."""
    conditions = [sympy.sympify(condition) for _, condition in arms]
    taken: list[Boolean] = []
    for number, condition in enumerate(conditions, start=1):
        if condition == sympy.false or (taken and _covers(taken, condition)):
            raise FormulaError(
                f"arm {number} of Piecewise ({condition}) overlaps the arms before it entirely: "
                "it can never be taken"
            )
        taken.append(condition)
    if not _covers(taken, sympy.true):
        raise FormulaError(
            "Piecewise has a gap: no arm is taken for some x; end it with an arm whose condition "
            "is True"
        )


def _covers(taken: list[Boolean], condition: Boolean) -> bool:
    """Whether `condition` implies one of `taken` (decided where x alone is compared)."""
    if any(one == sympy.true or one == condition for one in taken):
        return True
    union = sympy.Or(*taken)
    if union == sympy.true:
        return True
    symbols = union.free_symbols | condition.free_symbols
    atoms = union.atoms(sympy.core.relational.Relational) | condition.atoms(
        sympy.core.relational.Relational
    )
    simple = all(x in (a.lhs, a.rhs) and (a.lhs.is_number or a.rhs.is_number) for a in atoms)
    if symbols == {x} and simple:
        rest = sympy.And(condition, sympy.Not(union))
        return bool(rest.as_set().is_empty) if rest not in (sympy.true, sympy.false) else (
            rest == sympy.false
        )
    return bool(sympy.And(condition, sympy.Not(union)) == sympy.false)


# -------------------------------------------------------------------------------------- printing


class _FormulaPrinter(sympy.printing.str.StrPrinter):
    """Prints what `parse` reads."""

    def _print_Piecewise(self, expr: sympy.Piecewise) -> str:  # noqa: N802
        arms = ", ".join(f"({self._print(v)}, {self._print(c)})" for v, c in expr.args)
        return f"Piecewise({arms})"

    def _print_Exp1(self, expr: sympy.Expr) -> str:  # noqa: N802
        return "E"

    def _print_Heaviside(self, expr: sympy.Heaviside) -> str:  # noqa: N802
        # The second argument is printed only where it is not sympy's own default of 1/2.
        arguments = expr.args if expr.args[1] != sympy.Rational(1, 2) else expr.args[:1]
        return f"Heaviside({', '.join(self._print(a) for a in arguments)})"

    def _print_And(self, expr: sympy.And) -> str:  # noqa: N802
        return " & ".join(f"({self._print(a)})" for a in sorted(expr.args, key=str))

    def _print_Or(self, expr: sympy.Or) -> str:  # noqa: N802
        return " | ".join(f"({self._print(a)})" for a in sorted(expr.args, key=str))

    def _print_Not(self, expr: sympy.Not) -> str:  # noqa: N802
        return f"~({self._print(expr.args[0])})"

    def _print_Relational(self, expr: Any) -> str:  # noqa: N802
        return f"{self._print(expr.lhs)} {expr.rel_op} {self._print(expr.rhs)}"


@functools.lru_cache(maxsize=4_096)
def format_formula(expression: sympy.Expr) -> str:
    """The expression as text that `parse` reads back to an equal expression."""
    return cast(str, _FormulaPrinter({"order": "lex"}).doprint(expression))


# ------------------------------------------------------------------------------------ definedness


def undefined_at(expression: sympy.Expr) -> tuple[sympy.Rational, str] | None:
    """A point at which an expression in x alone is not a finite real number, if one is found.

    Looks at the places where formulas break: 0, ±1, far out (±100), the bounds of conditions, and
    the real zeros of rational denominators. It can only find a failure, never prove that there is
    none: that is for the enclosures.

    Returns:
        (the point, what happens there), or None.
    """
    points = {sympy.Integer(n) for n in (0, 1, -1, 2, -2, 10, -10, 100, -100)}
    points |= {sympy.Rational(1, 3), sympy.Rational(-1, 3), sympy.Rational(-27, 10)}
    for relation in expression.atoms(sympy.core.relational.Relational):
        for side in (relation.lhs, relation.rhs):
            if side.is_Rational:
                points |= {side, side + sympy.Rational(1, 1000), side - sympy.Rational(1, 1000)}
    for power in expression.atoms(sympy.Pow):
        if power.exp.is_negative and power.base.is_polynomial(x) and power.base.has(x):
            points |= {
                root
                for root in sympy.Poly(power.base, x).ground_roots()
                if root.is_Rational
            }
    for point in sorted(points, key=float):
        value = expression.xreplace({x: point})
        try:
            number = complex(sympy.N(value, 15, maxn=60))
        except (TypeError, ValueError, OverflowError, ZeroDivisionError, RecursionError):
            return point, "is not a finite real number"
        if value.has(sympy.nan, sympy.zoo, sympy.oo) or number != number:
            return point, "is not a finite number"
        if abs(number.imag) > 1e-12 * max(1.0, abs(number.real)):
            return point, "is not real"
        if abs(number) > 1e300:
            return point, "overflows"
    return None


def check_parameters_used(expression: sympy.Expr, names: Iterable[str]) -> None:
    """Refuse declared parameters that the formula does not hold, and held ones not declared.

    Raises:
        InputError: naming them.
    """
    declared = set(names)
    held = {s.name for s in expression.free_symbols} - {"x", "t"}
    if missing := sorted(held - declared):
        raise InputError(
            f"parameter(s) {', '.join(missing)} of the formula have no range: declare each "
            f"(declared: {', '.join(sorted(declared)) or 'none'})"
        )
    if unused := sorted(declared - held):
        raise InputError(
            f"parameter(s) {', '.join(unused)} are declared but not in the formula "
            f"{format_formula(expression)}"
        )
