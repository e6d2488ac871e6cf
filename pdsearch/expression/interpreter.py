"""The interpreter of `ast.parse`'s tree: what a formula may contain, and how much of it."""

import ast
import io
import keyword
import re
import tokenize
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn, cast

import sympy
from sympy.logic.boolalg import Boolean

from pdsearch.errors import FormulaError, first_line, short, shortened
from pdsearch.expression import limits
from pdsearch.expression.conditions import check_arms, check_relation
from pdsearch.expression.functions import (
    CONSTANTS,
    FUNCTIONS,
    MOST_ARGUMENT,
    NOT_FINITE,
    SATURATING,
    function_names,
    symbol,
    t,
    x,
)
from pdsearch.expression.values import constant_value

_CHOICES = frozenset({"Min", "min", "Max", "max", "clamp", "Abs", "abs", "sign", "Heaviside"})

_KEYWORDS_WITH_MEANING = {"and", "or", "not", "True", "False", "None", "if", "else"}


def read(text: str, allowed: frozenset[str] | None) -> sympy.Expr:
    """Return the expression that a text stands for, as sympy puts it together.

    Raises:
        FormulaError: one line with what is wrong and the column.
    """
    if not isinstance(text, str):
        raise FormulaError(f"a formula must be text, got {type(text).__name__}")
    if len(text) > limits.MAX_LENGTH:
        raise FormulaError(
            f"the formula has {len(text):,} characters: at most {limits.MAX_LENGTH:,} are read"
        )
    _check_characters(text)
    stripped = text.strip()
    if not stripped:
        raise FormulaError("the formula is empty: write an expression in x, such as sigmoid(4*x)")
    shift = len(text) - len(text.lstrip())
    _check_tokens(stripped, shift)
    try:
        with warnings.catch_warnings():
            # Such as `1(x)` or "invalid escape": the interpreter below gives a better message.
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
        reason = first_line(error) or type(error).__name__
        raise FormulaError(f"the formula makes no sense ({reason})") from None


def _at(column: int | None, what: str) -> FormulaError:
    return FormulaError(what if column is None else f"column {column} of the formula: {what}")


def _check_characters(text: str) -> None:
    for position, character in enumerate(text, start=1):
        if ord(character) > 126 or (ord(character) < 32 and character != "\t"):
            raise _at(
                position,
                f"character {short(character)} is not allowed (plain ASCII on one line is)",
            )
        if character == "#":
            raise _at(position, "a comment is not allowed")


def _check_tokens(text: str, shift: int) -> None:
    """Limit depth and count before `ast.parse`, whose recursion would exhaust memory first."""
    depth = deepest = unary = 0
    for character in text:
        if character in "([{":
            depth += 1
            deepest = max(deepest, depth)
        elif character in ")]}":
            depth -= 1
        unary = unary + 1 if character in "+-~" else (unary if character in " \t" else 0)
        if deepest > limits.MAX_DEPTH or unary > limits.MAX_DEPTH:
            raise FormulaError(f"the formula is nested more than {limits.MAX_DEPTH} deep")
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
        return  # ast.parse reports what and where
    if count > 2 * limits.MAX_NODES:
        raise FormulaError(
            f"the formula has {count:,} tokens: at most {2 * limits.MAX_NODES:,} are read"
        )


_OPERATORS: Mapping[type, str] = {
    ast.FloorDiv: "//",
    ast.Mod: "%",
    ast.MatMult: "@",
    ast.BitXor: "^ (a power is written **)",
    ast.LShift: "<<",
    ast.RShift: ">>",
}

_CONNECTIVES: Mapping[type, Callable[..., Any]] = {
    ast.And: sympy.And,
    ast.BitAnd: sympy.And,
    ast.Or: sympy.Or,
    ast.BitOr: sympy.Or,
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
    """Walks the tree of `ast.parse`; each `on_` method reads one kind of node."""

    def __init__(self, text: str, shift: int, parameters: frozenset[str] | None) -> None:
        self.text = text
        self.shift = shift
        self.parameters = parameters
        self.nodes = 0
        self.depth = 0
        self.choices = 0
        self.arms = 0
        self.constants: dict[sympy.Expr, Any] = {}

    def error(self, node: ast.AST, what: str) -> FormulaError:
        column = getattr(node, "col_offset", None)
        return _at(None if column is None else column + 1 + self.shift, what)

    def fail(self, node: ast.AST, what: str) -> NoReturn:
        raise self.error(node, what)

    def visit(self, node: ast.AST) -> Any:
        self.nodes += 1
        self.depth += 1
        if self.nodes > limits.MAX_NODES:
            raise FormulaError(f"the formula has more than {limits.MAX_NODES:,} parts")
        if self.depth > 4 * limits.MAX_DEPTH:
            raise FormulaError(f"the formula is nested more than {4 * limits.MAX_DEPTH} deep")
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
        self.checked(node, limits.check_spread, value)
        self.checked(node, limits.check_levels, value)
        if value.is_Rational:
            self.checked(node, limits.check_digits, value)
        elif not value.free_symbols:
            self.constant(node, value)
        return value

    def checked(self, node: ast.AST, check: Callable[..., Any], *arguments: Any) -> Any:
        """Run a check, and add the column to its error."""
        try:
            return check(*arguments)
        except FormulaError as error:
            raise self.error(node, str(error)) from None

    def constant(self, node: ast.AST, value: sympy.Expr) -> Any:
        """Return the number that a constant expression stands for, of a reasonable size."""
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
            if value >= 10**limits.MAX_DIGITS:
                self.fail(node, f"a number may have at most {limits.MAX_DIGITS} digits")
            return sympy.Integer(value)
        if isinstance(value, float):
            # From the text, not from the float: every digit of the literal counts.
            literal = (ast.get_source_segment(self.text, node) or repr(value)).replace("_", "")
            power = literal.lower().partition("e")[2] or "0"
            if not _DECIMAL.match(literal) or abs(int(power)) > 400:
                self.fail(node, f"the number {short(literal)} is out of range")
            if len(literal) > limits.MAX_DIGITS:
                self.fail(node, f"a number may have at most {limits.MAX_DIGITS} digits")
            return sympy.Rational(literal)
        self.fail(node, f"{_CONSTANT_KINDS[type(value)]} is not allowed in a formula")

    def on_Name(self, node: ast.Name) -> Any:
        name = node.id
        known = {"x": x, "t": t, **CONSTANTS}.get(name)
        if known is not None:
            return known
        if name in FUNCTIONS:
            self.fail(node, f"{name} is a function: write {name}(...)")
        if name in NOT_FINITE or name == "I":
            self.fail(node, f"{name} is not a finite real number")
        if self.parameters is not None and name not in self.parameters:
            named, declared = shortened(name, 56), ", ".join(sorted(self.parameters)) or "none"
            self.fail(node, f"parameter {named!r} is not declared (declared: {declared})")
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
                return _CONNECTIVES[type(node.op)](*both)
            case ast.Add() | ast.Sub():
                return self.sum(node)
            case ast.Mult() | ast.Div():
                return self.product(node)
            case ast.Pow():
                return self.power(node)
        self.fail(node, f"operator {_OPERATORS[type(node.op)]} is not allowed in a formula")

    def chain(
        self, node: ast.AST, plain: type, inverting: type, inverse: bool = False
    ) -> Iterator[tuple[ast.AST, bool]]:
        """Yield the operands of a chain of any length, and whether each is inverted.

        With a stack, because the tree is as deep as the chain is long.
        """
        stack = [(node, inverse)]
        while stack:
            part, turned = stack.pop()
            if isinstance(part, ast.BinOp) and isinstance(part.op, plain | inverting):
                self.nodes += 1
                stack.append((part.right, turned ^ isinstance(part.op, inverting)))
                stack.append((part.left, turned))
            else:
                yield part, turned

    def sum(self, node: ast.AST) -> sympy.Expr:
        terms: list[sympy.Expr] = []
        for part, negative in self.chain(node, ast.Add, ast.Sub):
            term = self.expression(part)
            terms.append(-term if negative else term)
        return cast(sympy.Expr, sympy.Add(*terms))

    def product(self, node: ast.AST) -> sympy.Expr:
        """Multiply a chain of products, quotients and signs at once.

        One product at a time, sympy would distribute numbers over sums on the way: 2*(a + b)*c
        would become (2a + 2b)*c, and no text would read back as 2*(a + b)*c.
        """
        return cast(sympy.Expr, sympy.Mul(*self.factors(node, inverse=False)))

    def factors(self, node: ast.AST, *, inverse: bool) -> Iterator[sympy.Expr]:
        for part, inverted in self.chain(node, ast.Mult, ast.Div, inverse):
            if isinstance(part, ast.UnaryOp) and isinstance(part.op, ast.USub):
                self.nodes += 1
                yield sympy.S.NegativeOne
                yield from self.factors(part.operand, inverse=inverted)
                continue
            factor = self.expression(part)
            if inverted and factor == 0:
                self.fail(part, "division by zero")
            yield 1 / factor if inverted else factor

    def power(self, node: ast.BinOp) -> sympy.Expr:
        base, exponent = self.expression(node.left), self.expression(node.right)
        if base is sympy.E:
            return self.call(node, "exp", [exponent])
        if base.is_Rational and exponent.is_Rational:
            bits = max(int(base.p).bit_length(), int(base.q).bit_length())
            if abs(base) != 1 and (
                bits * abs(exponent) > 2 * limits.MAX_BITS or exponent.q > 1_000
            ):
                self.fail(node, "this power of a number has too many digits")
            if base == 0 and exponent < 0:
                self.fail(node, "division by zero")
            return cast(sympy.Expr, base**exponent)
        self.checked(node.right, limits.check_exponent, exponent)
        if not exponent.free_symbols:
            value = self.constant(node.right, exponent)
            if abs(value) > limits.MAX_EXPONENT:
                self.fail(node.right, f"an exponent must be at most {limits.MAX_EXPONENT} in size")
            if base == 0 and value < 0:
                self.fail(node, "division by zero")
        if not exponent.is_Integer:
            self.checked(node, limits.check_inside, base)
            self.checked(node, limits.check_inside, exponent)
        power = sympy.Pow(base, exponent, evaluate=False)
        self.checked(node, limits.check_spread, power)
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
        return _CONNECTIVES[type(node.op)](*map(self.condition, node.values))

    def on_Call(self, node: ast.Call) -> Any:
        if not isinstance(node.func, ast.Name):
            self.fail(node, "only a function's plain name can be called in a formula")
        name = node.func.id
        if name not in FUNCTIONS:
            hint = (
                "a product is written with *"
                if name in ("x", "t", *CONSTANTS)
                else f"there are: {function_names()}"
            )
            self.fail(node, f"{shortened(name, 56)!r} is no function of formulas ({hint})")
        if node.keywords:
            self.fail(node, f"{name} takes no keyword arguments")
        _, least, most = FUNCTIONS[name]
        if not least <= len(node.args) <= most:
            wanted = str(least) if least == most else f"{least} to {most}"
            plural = "" if wanted == "1" else "s"
            self.fail(node, f"{name} takes {wanted} argument{plural}, got {len(node.args)}")
        if name in _CHOICES:
            self.choices += len(node.args)
            if self.choices > limits.MAX_CHOICES:
                raise FormulaError(
                    f"the formula has more than {limits.MAX_CHOICES} arguments of Min, Max, "
                    "clamp, Abs, sign and Heaviside"
                )
        if name == "Piecewise":
            arms = [self.arm(part) for part in node.args]
            self.checked(node, check_arms, arms)
            return sympy.Piecewise(*arms)
        return self.call(node, name, [self.expression(part) for part in node.args])

    def call(self, node: ast.AST, name: str, arguments: list[sympy.Expr]) -> sympy.Expr:
        for argument in arguments:  # before sympy builds the call: some calls take all memory
            self.checked(node, limits.check_inside, argument)
        growing = name in ("exp", "sinh", "cosh")
        if growing or FUNCTIONS[name][0] in SATURATING:
            (argument,) = arguments
            most = limits.MAX_EXP if growing else MOST_ARGUMENT
            if not argument.free_symbols and abs(self.constant(node, argument)) > most:
                self.fail(node, f"{name} of a constant beyond {most:,} in size")
        if growing:
            # sympy turns exp(n*log(z)) into the power z**n, whatever its size.
            for term in sympy.Add.make_args(argument):
                factors = sympy.Mul.make_args(term)
                if any(isinstance(f, sympy.log) for f in factors):
                    number = sympy.Mul(*(f for f in factors if not f.free_symbols))
                    if abs(self.constant(node, number)) > limits.MAX_EXPONENT:
                        self.fail(
                            node, f"exp(n*log(...)) with n beyond {limits.MAX_EXPONENT} in size"
                        )
        return cast(sympy.Expr, FUNCTIONS[name][0](*arguments))

    def arm(self, node: ast.expr) -> tuple[sympy.Expr, Boolean]:
        self.nodes += 1
        self.arms += 1
        if self.arms > limits.MAX_ARMS:
            raise FormulaError(f"the formula has more than {limits.MAX_ARMS} arms of Piecewise")
        if not isinstance(node, ast.Tuple) or len(node.elts) != 2:
            self.fail(node, "each arm of Piecewise is (value, condition)")
        return self.expression(node.elts[0]), self.condition(node.elts[1])


_CONSTANT_KINDS = {
    str: "a string",
    bytes: "a string",
    complex: "a complex number",
    type(None): "None",
    type(...): "...",
}

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
    "Tuple": "a tuple outside Piecewise",
    "List": "a list",
    "Dict": "a dictionary",
    "Set": "a set",
    "Starred": "a starred argument",
}
