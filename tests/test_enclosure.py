"""Enclosures hold every value: random expressions and boxes against mpmath at 60 digits."""

import itertools
import math
import random
from fractions import Fraction
from typing import Any

import mpmath
import pytest
import sympy
from sympy import S
from tree_oracle import TooLargeError, UndefinedError, a, oracle, random_expression

from pdsearch.enclosure import (
    Budget,
    Domain,
    Program,
    Smooth,
    cut,
    functions,
    gaussian_integral,
    limit_at_infinity,
    minimum,
    prepare,
)
from pdsearch.enclosure import interval as iv
from pdsearch.enclosure.interval import JUMP, UNDEFINED
from pdsearch.enclosure.nodes import (
    derivative,
    elasticity,
    log_derivative,
    tail_form,
)
from pdsearch.enclosure.pieces import s, y
from pdsearch.enclosure.search import Bisection
from pdsearch.expression import parse, t, x


def sampled(rng: random.Random) -> tuple[sympy.Expr, Program]:
    """A random formula that sympy did not turn into something a family may not hold."""
    while True:
        try:
            raw = random_expression(rng, rng.randint(1, 4))
            if raw.has(sympy.zoo, sympy.nan, sympy.oo, -sympy.oo, S.ImaginaryUnit):
                continue
            return raw, Program(prepare(raw), (x, a, t))
        except (TypeError, ValueError):  # complex constants, functions that a family may not hold
            continue


def random_box(rng: random.Random) -> tuple[float, float, int]:
    centre = rng.choice([0.0, rng.uniform(-3, 3), rng.uniform(-30, 30)])
    width = rng.choice([0.0, 1e-6, 0.1, 1.0, 10.0]) * rng.random()
    lo, hi = centre - width, centre + width
    if rng.random() < 0.06:
        hi = math.inf
    elif rng.random() < 0.06:
        lo = -math.inf
    return (lo, hi, 0)


def point_in(rng: random.Random, box: tuple[float, float, int]) -> float:
    lo, hi = max(box[0], -60.0), min(box[1], 60.0)
    lo, hi = min(lo, hi), max(lo, hi)
    return min(max(rng.choice([lo, hi, rng.uniform(lo, hi)]), box[0]), box[1])


def test_ten_thousand_random_points_lie_inside() -> None:
    rng = random.Random(20261123)
    inside = 0
    while inside < 10_000:
        raw, program = sampled(rng)
        for _ in range(4):
            box = (random_box(rng), random_box(rng), (0.0, 1.0, 0))
            lo, hi, flag = program.enclose(box)
            assert lo <= hi, (raw, box)
            for _ in range(6):
                point = {v: point_in(rng, b) for v, b in zip((x, a, t), box, strict=True)}
                with mpmath.workdps(60):
                    try:
                        value = oracle(raw, {v: mpmath.mpf(p) for v, p in point.items()})
                    except TooLargeError:
                        continue
                    except (UndefinedError, OverflowError):
                        assert flag & UNDEFINED or not program.at(list(point.values())).is_finite()
                        continue
                    slack = mpmath.mpf(10) ** -45 * (1 + abs(value))
                    assert lo - slack <= value <= hi + slack, (raw, box, point, value, (lo, hi))
                inside += 1


def test_a_point_evaluates_to_a_ball_around_the_oracle() -> None:
    rng = random.Random(7)
    compared = 0
    while compared < 300:
        raw, program = sampled(rng)
        values = [rng.uniform(-4, 4), rng.uniform(-4, 4), rng.random()]
        with mpmath.workdps(60):
            try:
                exact = oracle(raw, dict(zip((x, a, t), map(mpmath.mpf, values), strict=True)))
            except (UndefinedError, OverflowError, TooLargeError):
                continue
            try:
                ball = program.at(values, precision=160)
            except ArithmeticError:
                continue
            if not ball.is_finite():
                continue
            lower, upper = (
                mpmath.mpf(str(end.str(45, radius=False))) for end in (ball.lower(), ball.upper())
            )
            slack = mpmath.mpf(10) ** -40 * (1 + abs(exact))
            assert lower - slack <= exact <= upper + slack, (raw, values)
        compared += 1


@pytest.mark.parametrize(
    ("text", "box", "flag"),
    [
        ("log(x)", (-1.0, 1.0), UNDEFINED),
        ("log(x)", (0.0, 1.0), UNDEFINED),
        ("log(x)", (0.5, 1.0), 0),
        ("sqrt(x)", (-1.0, 1.0), UNDEFINED),
        ("sqrt(x)", (0.0, 1.0), 0),
        ("1/x", (-1.0, 1.0), UNDEFINED),
        ("1/x", (0.0, 1.0), UNDEFINED),
        ("1/(1+x**2)", (-math.inf, math.inf), 0),
        ("abs(x)**0.5", (-1.0, 1.0), 0),
        ("x**0.3", (-1.0, 1.0), UNDEFINED),
        ("Piecewise((log(x), x > 1), (0, True))", (-1.0, 0.5), 0),
        ("Piecewise((1/x, x > 1), (0, True))", (-1.0, 1.5), JUMP | UNDEFINED),
        ("sign(x)", (-1.0, 1.0), JUMP),
        ("sign(x)", (0.5, 1.0), 0),
        ("abs(x)", (-1.0, 1.0), 0),
    ],
)
def test_what_may_be_undefined_or_jump_is_flagged(
    text: str, box: tuple[float, float], flag: int
) -> None:
    assert Program(prepare(parse(text)), (x,)).enclose([(*box, 0)])[2] == flag


@pytest.mark.parametrize(
    ("text", "box", "expected"),
    [
        ("x**2", (-1.0, 2.0), (0.0, 4.0)),
        ("x**3", (-1.0, 2.0), (-1.0, 8.0)),
        ("cos(x)", (-1.0, 4.0), (-1.0, 1.0)),
        ("sin(x)", (1.0, 2.0), (0.8414709848078965, 1.0)),
        ("tanh(x)", (-math.inf, math.inf), (-1.0, 1.0)),
        ("exp(x)", (-math.inf, 0.0), (0.0, 1.0)),
        # sech(2)**2 = 0.070650824853164465686…
        ("1-tanh(x)**2", (-1.0, 2.0), (0.07065082485316446, 1.0)),
        ("exp(x)/(1+exp(x))", (-math.inf, math.inf), (0.0, 1.0)),
        ("1/2+atan(x)/pi", (-math.inf, 0.0), (0.0, 0.5)),
        ("cosh(x)", (-1.0, 0.5), (1.0, 1.5430806348152437)),
        ("clamp(x,0,1)", (-3.0, 0.5), (0.0, 0.5)),
        ("2**x", (-1.0, 1.0), (0.5, 2.0)),
        ("x*(x-x)", (-1.0, 1.0), (0.0, 0.0)),
    ],
)
def test_enclosures_of_primitives_are_tight(
    text: str, box: tuple[float, float], expected: tuple[float, float]
) -> None:
    lo, hi, _ = Program(prepare(parse(text)), (x,)).enclose([(*box, 0)])
    assert lo <= expected[0] and expected[1] <= hi
    assert lo == pytest.approx(expected[0], abs=1e-14)
    assert hi == pytest.approx(expected[1], rel=1e-14, abs=1e-14)


FAR_OUT = {
    "exponential": mpmath.exp, "sinh": mpmath.sinh, "cosh": mpmath.cosh, "tanh": mpmath.tanh,
    "erf": mpmath.erf, "erfc": mpmath.erfc, "atan": mpmath.atan,
    "softplus": lambda u: mpmath.log1p(mpmath.exp(u)),
    "sigmoid": lambda u: 1 / (1 + mpmath.exp(-u)),
    "arccot": lambda u: mpmath.pi / 2 - mpmath.atan(u),
    "bell": lambda u: 1 / (4 * mpmath.cosh(u / 2) ** 2),
    "sech2": lambda u: 1 / mpmath.cosh(u) ** 2,
    "erfc_ratio": lambda u: 2 * mpmath.exp(-(u**2)) / (mpmath.sqrt(mpmath.pi) * mpmath.erfc(u)),
}  # fmt: skip
# Around the places where an evaluation gives way to a bound.
PLACES = (0.5, 25.9, 26.1, 26.9, 27.1, 339.0, 341.0, 399.0, 401.0, 689.0, 691.0, 699.5, 700.5, 1e4)


@pytest.mark.parametrize("name", FAR_OUT)
def test_functions_are_enclosed_far_out(name: str) -> None:
    enclose, exact = getattr(functions, name), FAR_OUT[name]
    for place in PLACES:
        for box in ((-place, -place), (place, place), (-place, place), (-2 * place, -place),
                    (place, 2 * place), (-math.inf, -place), (place, math.inf)):  # fmt: skip
            lo, hi, flag = enclose((*box, 0))
            assert flag == 0
            with mpmath.workdps(400):
                for end in box:
                    at = mpmath.mpf(math.copysign(3e4, end) if math.isinf(end) else end)
                    assert lo <= exact(at) <= hi, (box, lo, hi)


def test_sums_of_floats_are_rounded_only_where_inexact() -> None:
    assert iv.add((0.5, 0.5, 0), (-0.5, 0.25, 0)) == (0.0, 0.75, 0)
    lo, hi, _ = iv.add((0.1, 0.1, 0), (0.2, 0.2, 0))
    exact = Fraction(0.1) + Fraction(0.2)
    assert Fraction(lo) <= exact <= Fraction(hi) and hi - lo <= 2 * math.ulp(0.3)


@pytest.mark.parametrize("operation", ["add", "multiply"])
def test_float_arithmetic_against_exact_rationals(operation: str) -> None:
    rng = random.Random(11)
    scale = [1.0, 1e-300, 1e300, 5e-324, 0.1, 3.0]
    for _ in range(4000):
        ends = [rng.choice(scale) * rng.choice([-1, 0, 1, rng.uniform(-2, 2)]) for _ in range(4)]
        p = (*sorted(ends[:2]), 0)
        q = (*sorted(ends[2:]), 0)
        lo, hi, _ = getattr(iv, operation)(p, q)
        for u in p[:2]:
            for v in q[:2]:
                exact = Fraction(u) + Fraction(v)
                if operation == "multiply":
                    exact = Fraction(u) * Fraction(v)
                assert lo == -math.inf or Fraction(lo) <= exact
                assert hi == math.inf or exact <= Fraction(hi)


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("sigmoid(x)", "1"),
        ("x*exp(-x)", "0"),
        ("x**5*exp(-x**2/2)", "0"),
        ("x*sigmoid(-x)*sigmoid(x)", "0"),
        ("1/2+atan(3*x)/pi", "1"),
        ("x/sqrt(1+x**2)", "1"),
        ("(3*x**2+x)/(2*x**2+1)", "3/2"),
        ("x**2*erfc(x)", "0"),
        ("exp(-x)*sin(x)", "0"),
        ("x/(1+2*abs(x))", "1/2"),
        ("exp(x)*erfc(x)", "0"),
        ("x", "oo"),
        ("-exp(x)/x", "-oo"),
        ("sin(x)", None),
        ("exp(x)-exp(x/2)", None),
    ],
)
def test_limits_are_exact_or_unknown(text: str, limit: str | None) -> None:
    piece = cut(parse(text))[-1]
    found = limit_at_infinity(piece.local)
    if limit is None:
        assert found is None
    else:
        assert found is not None
        wanted = sympy.sympify(limit)
        assert found == wanted or sympy.simplify(found - wanted) == 0


@pytest.mark.parametrize("text", ["x*exp(x)", "x**3*exp(x/3)", "x*sigmoid(x)*sigmoid(-x)",
                                  "x**2*exp(-x**2)*(1+x**2)", "x*erfc(-x)"])  # fmt: skip
def test_tails_that_are_infinity_times_zero_are_bounded(text: str) -> None:
    piece = cut(parse(text))[0]
    box = ((16.0, math.inf, 0),)
    lo, hi, flag = Program(piece.local, (y,), tail=box).enclose(box)
    assert not flag and math.isfinite(lo) and math.isfinite(hi)
    with mpmath.workdps(30):
        for place in (-16, -17, -20, -100, -1000):
            assert lo <= oracle(parse(text), {x: mpmath.mpf(place)}) <= hi


def test_tail_form_leaves_the_function_as_it_is() -> None:
    rng = random.Random(3)
    for text in ("(y**2+3*y)/(1+y)", "sqrt(y**2+y)/y", "exp(-y**2+y)*(y+1)", "1/(2+5*y)**3"):
        e = sympy.sympify(text, {"y": y})
        formed = tail_form(e, y)
        for _ in range(5):
            at = sympy.Rational(rng.randint(5, 900), 7)
            assert abs((e - formed).subs(y, at).evalf(40)) < 1e-30


def test_pieces_cover_the_line_and_agree_with_the_expression() -> None:
    texts = [
        "clamp(x+0.5,0,1)",
        "Piecewise((1,x>0),(0.3*(1+x/0.3),x>-0.3),(0,True))",
        "Heaviside(x)*0.3+sign(x-1/3)",
        "Piecewise((1,x**2<2),(0,True))",
        "max(0,min(1,abs(x)-1))*exp(-x)",
        "Piecewise((1,And(x>0,x<2)),(exp(x),x<=0),(2-x,True))".replace("And(x>0,x<2)", "0<x<2"),
        "abs(abs(x)-1)",
        "max(x, exp(x)-2)",
    ]
    rng = random.Random(5)
    for text in texts:
        expression = parse(text)
        pieces = cut(expression)
        assert pieces[0].lo == -sympy.oo and pieces[-1].hi == sympy.oo
        for left, right in itertools.pairwise(pieces):
            assert left.hi == right.lo
        for piece in pieces:
            for _ in range(3):
                local = Fraction(rng.randint(1, 99), 100)
                if piece.tail:
                    local = Fraction(piece.start[0]) * (1 + local)
                place = piece.position.subs(piece.variable, sympy.Rational(local)).evalf(50)
                with mpmath.workdps(45):
                    direct = oracle(expression, {x: mpmath.mpf(str(place))})
                    there = oracle(
                        piece.local,
                        {piece.variable: mpmath.mpf(local.numerator) / local.denominator},
                    )
                    assert abs(direct - there) < mpmath.mpf(10) ** -35, (text, piece)


@pytest.mark.parametrize(
    ("text", "low"),
    [
        ("x**2-2*x+3", 2.0),
        ("cos(x)+x**2/8", None),
        ("exp(x)-2*x", 2 - 2 * math.log(2)),
        ("(1+x/4)**2", 0.0),
        ("sin(3*x)*exp(-x**2)", None),
        ("x**4-x**3-x**2", None),
    ],
)
def test_minima_against_mpmath(text: str, low: float | None) -> None:
    pieces = [piece for piece in cut(parse(text)) if not piece.tail]
    found = [minimum(Smooth.on(piece, Domain()), Budget()) for piece in pieces]
    assert all(one.complete for one in found)
    lo, hi = min(one.lo for one in found), min(one.hi for one in found)
    if low is None:
        grid = [-4 + 8 * i / 20000 for i in range(20001)]
        function = sympy.lambdify(x, parse(text), "math")
        low = min(function(v) for v in grid)
        assert lo <= low + 1e-12 and abs(lo - low) < 1e-5
    else:
        assert lo <= low <= hi and hi - lo < 1e-5


def test_a_spent_budget_says_so_and_still_encloses() -> None:
    # Some 190 oscillations: six boxes cannot settle the minimum.
    piece = next(p for p in cut(parse("sin(300*x)+x**2/10")) if not p.tail)
    found = minimum(Smooth.on(piece, Domain()), Budget(boxes=6))
    assert not found.complete and found.box is not None
    assert found.lo <= -0.99 <= found.hi + 1.0


def test_a_bisection_judges_every_part_or_leaves_it() -> None:
    third = Fraction(1, 3)

    def side(part: tuple[Fraction, Fraction]) -> str | None:
        return "left" if part[1] <= third else ("right" if part[0] >= third else None)

    def cut(part: tuple[Fraction, Fraction]) -> list[tuple[Fraction, Fraction]] | None:
        middle = (part[0] + part[1]) / 2
        short = part[1] - part[0] < Fraction(1, 60)
        return None if short else [(part[0], middle), (middle, part[1])]

    whole = (Fraction(0), Fraction(1))
    search = Bisection([whole], judge=side, cut=cut, key=lambda part: float(part[0]))
    found = list(search)
    assert search.open == []
    assert [part[0] for part, _ in found] == [Fraction(0), *(part[1] for part, _ in found[:-1])]
    assert found[-1][0][1] == 1
    ((open_, _),) = [one for one in found if one[1] is None]
    assert open_ == (Fraction(21, 64), Fraction(22, 64))  # 21/64 < 1/3 < 22/64
    assert [verdict for _, verdict in found] == sorted(
        (side(part) for part, _ in found), key=["left", None, "right"].index
    )
    widest = list(Bisection([whole], judge=side, cut=cut, key=lambda p: float(p[0] - p[1])))
    assert [part[1] - part[0] for part, _ in widest] == sorted(
        (part[1] - part[0] for part, _ in found), reverse=True
    )


def test_the_leaves_of_a_search_cover_the_piece_and_are_closed_each_by_its_bound() -> None:
    piece = next(p for p in cut(parse("x**4/4-x**3/3-x**2+x")) if not p.tail)
    function = Smooth.on(piece, Domain())
    floor = minimum(function, Budget()).lo - 1e-4
    leaves: list[Any] = []
    found = minimum(function, Budget(), above=floor, below=floor, leaves=leaves)
    assert found.complete and found.lo >= floor
    ends = sorted((left, right) for ((left, right, _),) in leaves)
    assert len(ends) > 2
    assert ends[0][0] == function.start[0] and ends[-1][1] == function.start[1]
    assert all(a[1] == b[0] for a, b in itertools.pairwise(ends))
    assert all(function.lower(leaf)[0] >= floor for leaf in leaves)
    other: list[Any] = []
    assert not minimum(function, Budget(boxes=1), above=floor, leaves=other).complete
    assert len(other) == 2


@pytest.mark.parametrize(
    "text",
    ["sigmoid(4*x)", "exp(-x**2)", "Piecewise((1,x>0),(0.3*exp(x),True))", "x**2/10",
     "tanh(x)*sin(2*x)", "abs(x)", "1/2+x/sqrt(x**2+1)/2", "max(0, sin(x))", "exp(abs(x)/2)"],
)  # fmt: skip
@pytest.mark.parametrize("power", [1, 2])
def test_gaussian_integrals_against_mpmath(text: str, power: int) -> None:
    expression = parse(text)
    lo, hi, _ = gaussian_integral(cut(expression), power, Budget(), shift=lambda _: 0)

    def integrand(v: mpmath.mpf) -> mpmath.mpf:
        return abs(oracle(expression, {x: v})) ** power * mpmath.npdf(v)

    with mpmath.workdps(20):
        ends = [k * mpmath.pi / 2 for k in range(-8, 9)]
        exact = mpmath.quad(integrand, [-20, *ends, 20])
    assert lo - 1e-9 <= exact <= hi + 1e-9
    assert hi - lo < 1e-6


def test_an_integral_that_diverges_is_not_bounded() -> None:
    _lo, hi, _ = gaussian_integral(cut(parse("exp(x**2)")), 1, Budget(boxes=200), shift=lambda _: 0)
    assert hi == math.inf


def test_unbound_symbols_and_unknown_functions_are_refused() -> None:
    with pytest.raises(TypeError, match="without a range"):
        Program(x + a, (x,))
    with pytest.raises(TypeError, match="no enclosure for gamma"):
        Program(sympy.gamma(x), (x,))


def test_parameters_are_boxes_like_x() -> None:
    domain = Domain((a,), ((0.1, 1.0, 0),))
    pieces = cut(parse("Piecewise((1, x > -a), (0, True))", parameters=["a"]), domain)
    assert [str(piece.lo) for piece in pieces if piece.variable == s] == ["-4", "-a", "0"]
    assert domain.sign(1 - a) == 1 and domain.sign(a - S.Half) is None


def test_far_out_every_place_that_moves_has_been_passed() -> None:
    domain = Domain((a,), ((-9.0, 5.0, 0),))
    pieces = cut(parse("Piecewise((1, x > a), (exp(x), True))", parameters=["a"]), domain)
    assert [(str(piece.lo), piece.smooth) for piece in pieces] == [
        ("-oo", True), ("-16", False), ("0", False), ("16", True),
    ]  # fmt: skip
    assert pieces[0].expression == sympy.exp(x) and pieces[-1].expression == 1
    # so far out that the pieces between would be too long
    wide = Domain((a,), ((-9e9, 5.0, 0),))
    pieces = cut(parse("Piecewise((1, x > a), (exp(x), True))", parameters=["a"]), wide)
    assert not pieces[0].smooth


def test_a_rate_that_would_divide_by_zero_has_no_form() -> None:
    arms = sympy.Piecewise((0, y > 7), (y, True))
    assert elasticity(arms * y, y) is None and log_derivative(arms, y) is None
    assert elasticity(y**3 * sympy.exp(-y), y) == 3 - y


@pytest.mark.parametrize(
    "text",
    ["abs(x**2-2)*exp(x)", "sign(x-1/3)*x**2", "x*Heaviside(sinh(x)+2)", "abs(abs(x)-1)**3",
     "Piecewise((abs(x), x > 1), (x*sign(x+1), True))", "max(abs(x), exp(x)-2)*sign(x)",
     "exp(-x**2*1.43)*sign(exp(-x/3)-26740.3268716)", "x**3*exp(-x)"],
)  # fmt: skip
def test_derivatives_of_what_bends_and_jumps(text: str) -> None:
    expression = parse(text)
    slope = derivative(expression, x)
    assert not slope.has(sympy.DiracDelta, sympy.Derivative, sympy.re)
    with mpmath.workdps(40):
        for place in (-7.3, -2.9, -1.7, -0.4, 0.21, 0.83, 1.9, 3.1):  # off the kinks
            found = oracle(prepare(slope), {x: mpmath.mpf(place)})
            step = mpmath.mpf(10) ** -12
            ahead, behind = (oracle(expression, {x: place + s}) for s in (step, -step))
            assert found == pytest.approx((ahead - behind) / (2 * step), rel=1e-15, abs=1e-18)
