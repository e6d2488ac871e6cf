"""The interpreter of `ast.parse`'s tree: what formula text may say, and how much of it."""

import ast
import io
import keyword
import re
import tokenize
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, cast

import sympy
from sympy.logic.boolalg import Boolean

from pdsearch.errors import FormulaError
from pdsearch.expression.conditions import check_arms, check_relation
from pdsearch.expression.functions import (
    CONSTANTS,
    FUNCTIONS,
    MOST_ARGUMENT,
    NOT_FINITE,
    SATURATING,
    function_names,
    shown,
    symbol,
    t,
    x,
)
from pdsearch.expression.limits import Levels, Reality, Spread
from pdsearch.expression.values import constant_value

# A formula is a line a person types; these caps are some ten times what the largest of the
# library needs, and keep every text below a second and a few megabytes.
MAX_LENGTH = 10_000
MAX_NODES = 2_000
MAX_DEPTH = 40
MAX_DIGITS = 660
MAX_BITS = 2_200  # as many digits, and twice the 1 064 bits of 1e-320 as an exact decimal
MAX_EXPONENT = 64
# sympy compares the arguments of these pairwise, and what is in them at every step.
MAX_CHOICES = 48
MAX_ARMS = 64
_CHOICES = frozenset({"Min", "min", "Max", "max", "clamp", "Abs", "abs", "sign", "Heaviside"})
# exp of a constant beyond this is beyond 10^1000
_MAX_EXP = 2_302

_KEYWORDS_WITH_MEANING = {"and", "or", "not", "True", "False", "None", "if", "else"}


def check_digits(number: sympy.Rational) -> None:
    """Refuse a number that takes too long to compute with.

    Raises:
        FormulaError: it has too many digits.
    """
    if max(abs(int(number.p)).bit_length(), int(number.q).bit_length()) > MAX_BITS:
        raise FormulaError("the formula holds a number of too many digits")


def check_exponent(exponent: sympy.Expr) -> None:
    """Refuse an exponent with a large number in it.

    Raises:
        FormulaError: it is.
    """
    largest = max((abs(n) for n in exponent.atoms(sympy.Rational)), default=0)
    if largest > MAX_EXPONENT:
        raise FormulaError(
            f"the exponent {shown(str(exponent))} is too large: at most {MAX_EXPONENT} in size"
        )


def read(text: str, allowed: frozenset[str] | None) -> sympy.Expr:
    """The expression that a text stands for, as sympy puts it together.

    Raises:
        FormulaError: one line that says what is wrong and at which column.
    """
    if not isinstance(text, str):
        raise FormulaError(f"a formula must be text, got {type(text).__name__}")
    if len(text) > MAX_LENGTH:
        raise FormulaError(
            f"the formula has {len(text):,} characters: at most {MAX_LENGTH:,} are read"
        )
    _check_characters(text)
    stripped = text.strip()
    if not stripped:
        raise FormulaError("the formula is empty: write an expression in x, such as sigmoid(4*x)")
    shift = len(text) - len(text.lstrip())
    _check_tokens(stripped, shift)
    try:
        with warnings.catch_warnings():
            # Such as `1(x)` or "invalid escape": the interpreter below says it better.
            warnings.simplefilter("ignore")
            tree = ast.parse(stripped, mode="eval")
    except SyntaxError as error:
        column = error.offset + shift if error.offset else None
        raise _at(column, f"the formula cannot be read ({error.msg})") from None
    except (RecursionError, MemoryError, ValueError) as error:
        raise FormulaError(f"the formula cannot be read ({type(error).__name__})") from None
    try:
        return _Interpreter(stripped, shift, allowed).expression(tree.body)
    except (RecursionError, OverflowError, MemoryError) as error:
        raise FormulaError(f"the formula is too large ({type(error).__name__})") from None
    except FormulaError:
        raise
    except (TypeError, ValueError, ZeroDivisionError) as error:  # sympy's: what it cannot compare
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise FormulaError(f"the formula makes no sense ({reason})") from None


def _at(column: int | None, what: str) -> FormulaError:
    return FormulaError(what if column is None else f"column {column} of the formula: {what}")


def _check_characters(text: str) -> None:
    for position, character in enumerate(text, start=1):
        if ord(character) > 126 or (ord(character) < 32 and character != "\t"):
            raise _at(
                position,
                f"character {shown(character)} is not allowed (plain ASCII on one line is)",
            )
        if character == "#":
            raise _at(position, "a comment is not allowed")


def _check_tokens(text: str, shift: int) -> None:
    """Cap depth and count before `ast.parse`, whose own recursion would cost memory first."""
    depth = deepest = unary = 0
    for character in text:
        if character in "([{":
            depth += 1
            deepest = max(deepest, depth)
        elif character in ")]}":
            depth -= 1
        unary = unary + 1 if character in "+-~" else (unary if character in " \t" else 0)
        if deepest > MAX_DEPTH or unary > MAX_DEPTH:
            raise FormulaError(f"the formula is nested more than {MAX_DEPTH} deep")
    count = 0
    try:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            count += 1
            name = token.string
            if token.type == tokenize.NAME and keyword.iskeyword(name):
                if name in _KEYWORDS_WITH_MEANING:
                    continue
                raise _at(
                    token.start[1] + 1 + shift,
                    f"{name!r} is a Python keyword: not allowed in a formula, nor as a "
                    "parameter's name",
                )
    except (tokenize.TokenError, SyntaxError, IndentationError):
        return  # ast.parse says what and where
    if count > 2 * MAX_NODES:
        raise FormulaError(f"the formula has {count:,} tokens: at most {2 * MAX_NODES:,} are read")


_OPERATORS: Mapping[type, str] = {
    ast.FloorDiv: "//",
    ast.Mod: "%",
    ast.MatMult: "@",
    ast.BitXor: "^ (a power is written **)",
    ast.LShift: "<<",
    ast.RShift: ">>",
}

_COMPARISONS: Mapping[type, Callable[[Any, Any], Any]] = {
    ast.Gt: sympy.Gt,
    ast.GtE: sympy.Ge,
    ast.Lt: sympy.Lt,
    ast.LtE: sympy.Le,
    ast.Eq: sympy.Eq,
    ast.NotEq: sympy.Ne,
}

_DECIMAL = re.compile(r"[0-9]*\.?[0-9]*([eE][+-]?[0-9]{1,4})?\Z")


class _Interpreter:
    """Walks the tree of `ast.parse`; each method takes one kind of node and refuses the rest."""

    def __init__(self, text: str, shift: int, parameters: frozenset[str] | None) -> None:
        self.text = text
        self.shift = shift
        self.parameters = parameters
        self.nodes = 0
        self.depth = 0
        self.choices = 0
        self.arms = 0
        self.constants: dict[sympy.Expr, Any] = {}
        self.spread = Spread()
        self.reality = Reality()
        self.levels = Levels()

    def error(self, node: ast.AST, what: str) -> FormulaError:
        column = getattr(node, "col_offset", None)
        return _at(None if column is None else column + 1 + self.shift, what)

    def fail(self, node: ast.AST, what: str) -> NoReturn:
        raise self.error(node, what)

    def visit(self, node: ast.AST) -> Any:
        self.nodes += 1
        self.depth += 1
        if self.nodes > MAX_NODES:
            raise FormulaError(f"the formula has more than {MAX_NODES:,} parts")
        if self.depth > 4 * MAX_DEPTH:
            raise FormulaError(f"the formula is nested more than {4 * MAX_DEPTH} deep")
        handler = getattr(self, "on_" + type(node).__name__, None)
        if handler is None:
            self.fail(
                node,
                f"{_KINDS.get(type(node).__name__, 'this')} is not allowed in a formula (numbers, "
                "names, + - * / **, comparisons, and calls of functions are)",
            )
        value = handler(node)
        self.depth -= 1
        return value

    def expression(self, node: ast.AST) -> sympy.Expr:
        value = self.visit(node)
        if not isinstance(value, sympy.Expr):
            kind = "a condition" if isinstance(value, Boolean) else "a tuple"
            self.fail(node, f"a number is needed, got {kind}")
        self.checked(node, self.spread.check, value)
        self.checked(node, self.levels.check, value)
        if value.is_Rational:
            self.checked(node, check_digits, value)
        elif not value.free_symbols:
            self.constant(node, value)
        return value

    def checked(self, node: ast.AST, check: Callable[..., Any], *arguments: Any) -> Any:
        """A check whose error is given the column."""
        try:
            return check(*arguments)
        except FormulaError as error:
            raise self.error(node, str(error)) from None

    def constant(self, node: ast.AST, value: sympy.Expr) -> Any:
        """The number that a constant expression stands for; it is of a reasonable size."""
        if value not in self.constants:
            self.constants[value] = self.checked(node, constant_value, value, {})
        return self.constants[value]

    def condition(self, node: ast.AST) -> Boolean:
        value = self.visit(node)
        if isinstance(value, sympy.Expr) or not isinstance(value, Boolean):  # a symbol is both
            self.fail(node, "a condition is needed (such as x > 0, or True), got a number")
        return value

    def on_Constant(self, node: ast.Constant) -> Any:
        value = node.value
        if isinstance(value, bool):
            return sympy.true if value else sympy.false
        if isinstance(value, int):
            if value >= 10**MAX_DIGITS:
                self.fail(node, f"a number may have at most {MAX_DIGITS} digits")
            return sympy.Integer(value)
        if isinstance(value, float):
            # From the text, not from the float: every digit of the literal counts.
            literal = (ast.get_source_segment(self.text, node) or repr(value)).replace("_", "")
            power = literal.lower().partition("e")[2] or "0"
            if not _DECIMAL.match(literal) or abs(int(power)) > 400:
                self.fail(node, f"the number {shown(literal)} is out of range")
            if len(literal) > MAX_DIGITS:
                self.fail(node, f"a number may have at most {MAX_DIGITS} digits")
            return sympy.Rational(literal)
        kind = "a complex number" if isinstance(value, complex) else f"{type(value).__name__}"
        kind = {"str": "a string", "bytes": "a string", "NoneType": "None"}.get(kind, kind)
        self.fail(node, f"{'...' if value is ... else kind} is not allowed in a formula")

    def on_Name(self, node: ast.Name) -> Any:
        name = node.id
        if name == "x":
            return x
        if name == "t":
            return t
        if name in CONSTANTS:
            return CONSTANTS[name]
        if name in FUNCTIONS:
            self.fail(node, f"{name} is a function: write {name}(...)")
        if name in NOT_FINITE or name == "I":
            self.fail(node, f"{name} is not a finite real number")
        if self.parameters is not None and name not in self.parameters:
            declared = ", ".join(sorted(self.parameters)) or "none"
            self.fail(node, f"parameter {shown(name)} is not declared (declared: {declared})")
        return self.checked(node, symbol, name)

    def on_UnaryOp(self, node: ast.UnaryOp) -> Any:
        if isinstance(node.op, ast.Not | ast.Invert):
            return sympy.Not(self.condition(node.operand))
        if isinstance(node.op, ast.USub):
            return self.product(node)
        return self.expression(node.operand)

    def on_BinOp(self, node: ast.BinOp) -> Any:
        match node.op:
            case ast.BitAnd() | ast.BitOr():
                both = (self.condition(node.left), self.condition(node.right))
                return (sympy.And if isinstance(node.op, ast.BitAnd) else sympy.Or)(*both)
            case ast.Add() | ast.Sub():
                return self.sum(node)
            case ast.Mult() | ast.Div():
                return self.product(node)
            case ast.Pow():
                return self.power(node)
        self.fail(node, f"operator {_OPERATORS[type(node.op)]} is not allowed in a formula")

    def sum(self, node: ast.AST) -> sympy.Expr:
        """A chain of sums and differences, however long: its tree is as deep as it has terms."""
        terms: list[sympy.Expr] = []
        stack: list[tuple[ast.AST, bool]] = [(node, False)]
        while stack:
            part, negative = stack.pop()
            if isinstance(part, ast.BinOp) and isinstance(part.op, ast.Add | ast.Sub):
                self.nodes += 1
                stack.append((part.right, negative ^ isinstance(part.op, ast.Sub)))
                stack.append((part.left, negative))
            else:
                term = self.expression(part)
                terms.append(-term if negative else term)
        return cast(sympy.Expr, sympy.Add(*terms))

    def product(self, node: ast.AST) -> sympy.Expr:
        """A chain of products, quotients and signs, multiplied at once.

        One product at a time, sympy would distribute numbers over sums on the way: 2*(a + b)*c is
        (2a + 2b)*c then, and no text would read back as 2*(a + b)*c.
        """
        factors: list[sympy.Expr] = []
        stack: list[tuple[ast.AST, bool]] = [(node, False)]
        while stack:
            part, inverse = stack.pop()
            if isinstance(part, ast.BinOp) and isinstance(part.op, ast.Mult | ast.Div):
                self.nodes += 1
                stack.append((part.right, inverse ^ isinstance(part.op, ast.Div)))
                stack.append((part.left, inverse))
            elif isinstance(part, ast.UnaryOp) and isinstance(part.op, ast.USub):
                self.nodes += 1
                factors.append(sympy.S.NegativeOne)
                stack.append((part.operand, inverse))
            else:
                factor = self.expression(part)
                if inverse and factor == 0:
                    self.fail(part, "division by zero")
                factors.append(1 / factor if inverse else factor)
        return cast(sympy.Expr, sympy.Mul(*factors))

    def power(self, node: ast.BinOp) -> sympy.Expr:
        base, exponent = self.expression(node.left), self.expression(node.right)
        if base is sympy.E:
            return self.call(node, "exp", [exponent])
        if base.is_Rational and exponent.is_Rational:
            bits = max(int(base.p).bit_length(), int(base.q).bit_length())
            if abs(base) != 1 and (bits * abs(exponent) > 2 * MAX_BITS or exponent.q > 1_000):
                self.fail(node, "this power of a number has too many digits")
            if base == 0 and exponent < 0:
                self.fail(node, "division by zero")
            return cast(sympy.Expr, base**exponent)
        self.checked(node.right, check_exponent, exponent)
        if not exponent.free_symbols:
            value = self.constant(node.right, exponent)
            if abs(value) > MAX_EXPONENT:
                self.fail(node.right, f"an exponent must be at most {MAX_EXPONENT} in size")
            if base == 0 and value < 0:
                self.fail(node, "division by zero")
        if not exponent.is_Integer:
            self.checked(node, self.reality.check_inside, base)
            self.checked(node, self.reality.check_inside, exponent)
        power = sympy.Pow(base, exponent, evaluate=False)
        self.checked(node, self.spread.check, power)
        return cast(sympy.Expr, base**exponent)

    def on_Compare(self, node: ast.Compare) -> Any:
        operands = [self.expression(part) for part in (node.left, *node.comparators)]
        parts = []
        for operator, left, right in zip(node.ops, operands, operands[1:], strict=False):
            build = _COMPARISONS.get(type(operator))
            if build is None:
                self.fail(node, "only the comparisons < <= > >= == != are allowed in a formula")
            self.checked(node, check_relation, sympy.Tuple(left, right))
            parts.append(build(left, right))
        return sympy.And(*parts)

    def on_BoolOp(self, node: ast.BoolOp) -> Any:
        parts = [self.condition(part) for part in node.values]
        return (sympy.And if isinstance(node.op, ast.And) else sympy.Or)(*parts)

    def on_Call(self, node: ast.Call) -> Any:
        if not isinstance(node.func, ast.Name):
            self.fail(node, "only a function's plain name can be called in a formula")
        name = node.func.id
        if name not in FUNCTIONS:
            hint = (
                "a product is written with *"
                if name in ("x", "t", *CONSTANTS)
                else (f"there are: {function_names()}")
            )
            self.fail(node, f"{shown(name)} is no function of formulas ({hint})")
        if node.keywords:
            self.fail(node, f"{name} takes no keyword arguments")
        _, least, most = FUNCTIONS[name]
        if not least <= len(node.args) <= most:
            wanted = str(least) if least == most else f"{least} to {most}"
            plural = "" if wanted == "1" else "s"
            self.fail(node, f"{name} takes {wanted} argument{plural}, got {len(node.args)}")
        if name in _CHOICES:
            self.choices += len(node.args)
            if self.choices > MAX_CHOICES:
                raise FormulaError(
                    f"the formula has more than {MAX_CHOICES} arguments of Min, Max, clamp, Abs, "
                    "sign and Heaviside"
                )
        if name == "Piecewise":
            arms = [self.arm(part) for part in node.args]
            self.checked(node, check_arms, arms)
            return sympy.Piecewise(*arms)
        return self.call(node, name, [self.expression(part) for part in node.args])

    def call(self, node: ast.AST, name: str, arguments: list[sympy.Expr]) -> sympy.Expr:
        for argument in arguments:  # before sympy builds it: some take all memory
            self.checked(node, self.reality.check_inside, argument)
        if FUNCTIONS[name][0] in SATURATING:
            (argument,) = arguments
            if not argument.free_symbols and abs(self.constant(node, argument)) > MOST_ARGUMENT:
                self.fail(node, f"{name} of a constant beyond {MOST_ARGUMENT:,} in size")
        if name in ("exp", "sinh", "cosh"):
            (argument,) = arguments
            if not argument.free_symbols and abs(self.constant(node, argument)) > _MAX_EXP:
                self.fail(node, f"{name} of a constant beyond {_MAX_EXP:,} in size")
            # sympy makes exp(n*log(z)) the power z**n, whatever its size.
            for term in sympy.Add.make_args(argument):
                factors = sympy.Mul.make_args(term)
                if any(isinstance(f, sympy.log) for f in factors):
                    number = sympy.Mul(*(f for f in factors if not f.free_symbols))
                    if abs(self.constant(node, number)) > MAX_EXPONENT:
                        self.fail(node, f"exp(n*log(...)) with n beyond {MAX_EXPONENT} in size")
        return cast(sympy.Expr, FUNCTIONS[name][0](*arguments))

    def arm(self, node: ast.expr) -> tuple[sympy.Expr, Boolean]:
        self.nodes += 1
        self.arms += 1
        if self.arms > MAX_ARMS:
            raise FormulaError(f"the formula has more than {MAX_ARMS} arms of Piecewise")
        if not isinstance(node, ast.Tuple) or len(node.elts) != 2:
            self.fail(node, "each arm of Piecewise is (value, condition)")
        return self.expression(node.elts[0]), self.condition(node.elts[1])


_KINDS = {
    "Attribute": "an attribute (a dot)",
    "Subscript": "a subscript",
    "Lambda": "lambda",
    "ListComp": "a comprehension",
    "SetComp": "a comprehension",
    "DictComp": "a comprehension",
    "GeneratorExp": "a comprehension",
    "JoinedStr": "an f-string",
    "TemplateStr": "a t-string",
    "NamedExpr": "an assignment (:=)",
    "IfExp": "if/else (use Piecewise)",
    "Tuple": "a tuple outside of Piecewise",
    "List": "a list",
    "Dict": "a dictionary",
    "Set": "a set",
    "Starred": "a starred argument",
}
