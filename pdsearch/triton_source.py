"""The float32 text of a shape in Triton's dialect, for the GPU kernel of exported files.

Nothing is printed anew: each operator of torch in the text is replaced by Triton's, so that both
compute the same formula. Elementary functions are libdevice's. An arm is chosen by `tl.where`, and
a step is a comparison: what `torch.where` costs on a CPU, it does not cost here.
"""

import ast
import functools
from collections.abc import Callable

from pdsearch.float32_source import times

__all__ = ["triton_text"]

_HELPERS = {
    "square": "def _square(v):\n    return v * v",
    "sign": "def _sign(v):\n    return tl.where(v > 0.0, 1.0, tl.where(v < 0.0, -1.0, 0.0))",
    "sigmoid": "def _sigmoid(v):\n    return 1.0 / (1.0 + libdevice.exp(-v))",
    "logaddexp": "def _logaddexp(u, v):\n"
    "    return tl.maximum(u, v) + libdevice.log1p(libdevice.exp(-tl.abs(u - v)))",
}
"""Functions that Triton lacks."""

_LARGEST_POWER = 64
"""Up to it, an integer power is made of products: Triton has no operator for it."""

_SAME = {"add": ast.Add, "sub": ast.Sub, "mul": ast.Mult, "div": ast.Div}
_LIBDEVICE = (
    *("atan", "atan2", "cos", "cosh", "erf", "erfc", "erfcx", "exp", "expm1", "log", "log1p"),
    *("pow", "sin", "sinh", "tanh"),
)
_LANGUAGE = ("abs", "maximum", "minimum", "where")


def triton_text(source: str, *, name: str) -> str:
    """Return the text of a Triton function of x that computes what a text for torch does.

    Args:
        source: `def <name>(x)` as `float32_text` returns it.
        name: of the new function.

    Returns:
        Source of `def <name>(x)`, decorated, and of the functions that it calls; x is a block of
        float32. It needs `triton`, `tl` and `libdevice`. NaN in x need not stay NaN.

    Raises:
        NotImplementedError: The text has an operator that is not known here.
    """
    tree = ast.parse(source)
    (function,) = tree.body
    assert isinstance(function, ast.FunctionDef)
    function.name = name
    function.body = [_Dialect().visit(statement) for statement in function.body]
    text = ast.unparse(ast.fix_missing_locations(tree))
    used = [helper for key, helper in _HELPERS.items() if f"_{key}(" in text]
    return "\n\n".join(f"@triton.jit\n{function}" for function in (*used, text))


class _Dialect(ast.NodeTransformer):
    def visit_Call(self, node: ast.Call) -> ast.AST:
        function = node.func
        if isinstance(function, ast.Name):  # _s(value, like)
            value, like = map(self.visit, node.args)
            return _filled([like, value], {})
        assert isinstance(function, ast.Attribute)
        of_torch = isinstance(function.value, ast.Name) and function.value.id == "torch"
        of_special = ast.unparse(function.value) == "torch.special"
        given = node.args if of_torch or of_special else [function.value, *node.args]
        keywords = {word.arg: self.visit(word.value) for word in node.keywords if word.arg}
        name = function.attr if of_torch or of_special else function.attr.removesuffix("_")
        return self.operator(name, [self.visit(value) for value in given], keywords)

    def operator(self, name: str, given: list[ast.expr], keywords: dict[str, ast.expr]) -> ast.expr:
        if name in _SAME:
            return ast.BinOp(given[0], _SAME[name](), given[1])
        if name in _LIBDEVICE:
            return _call(f"libdevice.{name}", *given)
        if name in _HELPERS:
            return _call(f"_{name}", *given)
        if name in _LANGUAGE:
            return _call(f"tl.{name}", *given)
        made = _OTHERS.get(name)
        if made is None:
            raise NotImplementedError(f"torch.{name} has no translation to Triton")
        return made(given, keywords)

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        if not isinstance(node.op, ast.Pow):
            return node
        exponent = node.right
        if isinstance(exponent, ast.Constant) and isinstance(exponent.value, int):
            if 2 <= exponent.value <= _LARGEST_POWER:
                return _power(node.left, exponent.value)
            exponent = ast.Constant(float(exponent.value))
        return _call("libdevice.pow", node.left, exponent)


def _call(name: str, *arguments: ast.expr) -> ast.Call:
    function = ast.parse(name, mode="eval").body
    return ast.Call(function, list(arguments), [])


def _power(base: ast.expr, exponent: int) -> ast.expr:
    if exponent == 1:
        return base
    half = _call("_square", _power(base, exponent // 2))
    return ast.BinOp(half, ast.Mult(), base) if exponent % 2 else half


def _clamp(given: list[ast.expr], keywords: dict[str, ast.expr]) -> ast.expr:
    value, *ends = given
    low, high = keywords.get("min"), keywords.get("max")
    if ends:  # both, by position
        low, high = ends
    if low is not None:
        value = _call("tl.maximum", value, low)
    return value if high is None else _call("tl.minimum", value, high)


def _filled(given: list[ast.expr], keywords: dict[str, ast.expr]) -> ast.expr:
    like, value = given
    dtype = "tl.int1" if "dtype" in keywords else "tl.float32"  # the text's only other one is bool
    shape = ast.Attribute(like, "shape", ast.Load())
    return _call("tl.full", shape, value, ast.parse(dtype, mode="eval").body)


def _like(value: float) -> Callable[[list[ast.expr], dict[str, ast.expr]], ast.expr]:
    return lambda given, keywords: _filled([given[0], ast.Constant(value)], keywords)


def _either(given: list[ast.expr], keywords: dict[str, ast.expr]) -> ast.expr:
    first, second, weight = given  # a weight of 0 or 1
    taken = ast.Compare(weight, [ast.Gt()], [ast.Constant(0.0)])
    return _call("tl.where", taken, second, first)


def _product_added(given: list[ast.expr], keywords: dict[str, ast.expr]) -> ast.expr:
    term, *factors = given
    if "value" in keywords:
        factors.insert(0, keywords["value"])
    return ast.BinOp(term, ast.Add(), functools.reduce(times, factors))


_OTHERS: dict[str, Callable[[list[ast.expr], dict[str, ast.expr]], ast.expr]] = {
    "addcmul": _product_added,
    "clamp": _clamp,
    "full_like": _filled,
    "lerp": _either,
    "neg": lambda given, keywords: ast.UnaryOp(ast.USub(), given[0]),
    "ones_like": _like(1.0),
    "relu": lambda given, keywords: _call("tl.maximum", given[0], ast.Constant(0.0)),
    "sqrt": lambda given, keywords: _call("tl.sqrt_rn", given[0]),
    "zeros_like": _like(0.0),
}
