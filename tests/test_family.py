"""Families and candidates as data: what they accept, refuse, write, read back and find."""

import copy
import json
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy
import pytest
import sympy
import torch
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from pdsearch.errors import FormulaError, InputError
from pdsearch.expression import symbol, t, x
from pdsearch.family import (
    SCHEMA,
    Candidate,
    Family,
    at_share,
    distribution_from,
    find_families,
    library,
    library_directory,
    load_family,
    load_target,
)

alpha, beta = sympy.symbols("alpha beta")
STEP = sympy.Piecewise((1, x > 0), (0, True))


def tail(**changes: Any) -> Family:
    """exp_tail as the design writes it."""
    arguments: dict[str, Any] = {
        "space": {
            "alpha": FloatDistribution(0.01, 1.0),
            "beta": FloatDistribution(0.1, 10.0, log=True),
        },
        "defaults": {"alpha": 0.3, "beta": 1.0},
        "reference": "ours",
        **changes,
    }
    name = arguments.pop("name", "tail")
    expression = arguments.pop(
        "expression", sympy.Piecewise((1, x > 0), (alpha * sympy.exp(beta * x), True))
    )
    return Family(name, expression, **arguments)


# ------------------------------------------------------------------------------------- a family


def test_what_a_family_says() -> None:
    family = tail()
    assert family.parameters == ("alpha", "beta")
    assert family.formula == "Piecewise((1, x > 0), (alpha*exp(beta*x), True))"
    assert family.latex.startswith(r"\begin{cases}") and r"\alpha e^{\beta x}" in family.latex
    assert not family.annealed
    assert repr(family) == f"Family('tail', {family.formula})"
    assert family.default == family.bind() == family.bind(alpha=0.3, beta=1)
    assert tail(expression=STEP * t, space={}, defaults={}).annealed


def test_symbols_count_by_name_and_decimals_are_exact() -> None:
    a, b = sympy.Symbol("alpha", positive=True), sympy.Dummy("beta")
    other_x = sympy.Symbol("x")
    same = tail(expression=sympy.Piecewise((1.0, other_x > 0), (a * sympy.exp(b * other_x), True)))
    assert same == tail() and hash(same) == hash(tail())
    family = tail(
        expression=0.1 * sympy.exp(x) + 1e-320 * x * alpha,
        space={"alpha": FloatDistribution(0, 1)},
        defaults={},
    )  # fmt: skip
    rational = sympy.Rational
    assert family.expression.coeff(sympy.exp(x)) == rational(1, 10)
    assert family.expression.coeff(x * symbol("alpha")) == rational(1, 10**320)


@pytest.mark.parametrize(
    ("distribution", "middle"),
    [
        (FloatDistribution(0, 1), 0.5),
        (FloatDistribution(0.01, 1.0, log=True), 0.1),
        (FloatDistribution(-3, 3), 0.0),
        (FloatDistribution(2, 2), 2.0),
        (FloatDistribution(1 / 3, 1 / 3), 1 / 3),
        (FloatDistribution(1e-300, 1e300, log=True), 1.0),
        (FloatDistribution(1.1e-300, 1.1e-300, log=True), 1.1e-300),
        (IntDistribution(1, 4), 3),
        (IntDistribution(1, 100, log=True), 10),
        (IntDistribution(0, 10, step=5), 5),
    ],
)
def test_defaults_left_out_are_the_middle(distribution: Any, middle: float) -> None:
    family = Family("f", symbol("a") / (1 + x**2), space={"a": distribution})
    assert family.defaults["a"] == pytest.approx(middle)
    assert distribution.low <= family.defaults["a"] <= distribution.high


WRONG_FAMILIES = [
    ({"name": "a-b"}, "family name 'a-b' is not valid: use an ASCII identifier"),
    ({"name": "<script>"}, "family name '<script>' is not valid"),
    ({"name": ""}, "family name '' is not valid"),
    ({"name": "é"}, "is not valid"),
    ({"name": "a" * 65}, "is not valid"),
    ({"name": "tail\n"}, r"family name 'tail\\n' is not valid"),
    ({"name": 3}, "family name 3 is not valid"),
    ({"aliases": ("x y",)}, "family name 'x y' is not valid"),
    ({"aliases": "tail2"}, "aliases must be a tuple of names, got 'tail2'"),
    ({"reference": 3}, "family 'tail': reference must be text, got 3"),
    ({"origin": None}, "family 'tail': origin must be text, got None"),
    ({"space": [1]}, r"family 'tail': space must be a dictionary, got \[1\]"),
    ({"defaults": 0.3}, "family 'tail': defaults must be a dictionary, got 0.3"),
    ({"space": {"alpha": FloatDistribution(0, 1)}, "defaults": {}},
     "family 'tail': .*beta of the formula have no range: declare each .declared: alpha"),
    ({"expression": alpha * STEP}, "family 'tail': .*beta are declared but not in the formula"),
    ({"space": {"alpha": (0, 1)}}, r"parameter 'alpha' needs an optuna FloatDistribution or "
     r"IntDistribution, got \(0, 1\)"),
    ({"space": {"alpha": CategoricalDistribution([1, 2])}}, "needs an optuna FloatDistribution"),
    ({"space": {"alpha": FloatDistribution(0, float("inf"))}}, "range of 'alpha' must be finite"),
    ({"space": {"exp": FloatDistribution(0, 1)}}, "'exp' cannot name a parameter: it is reserved"),
    ({"space": {"lambda": FloatDistribution(0, 1)}}, "'lambda' cannot name a parameter"),
    ({"space": {3: FloatDistribution(0, 1)}}, "3 cannot name a parameter"),
    ({"defaults": {"gamma": 1}}, r"default\(s\) given for gamma, which the space does not hold "
     r"\(it holds: alpha, beta\)"),
    ({"defaults": {"alpha": 3.0}}, r"alpha must be in \[0.01, 1.0\] for family 'tail', got 3.0"),
    ({"defaults": {"alpha": float("nan")}}, r"alpha must be in .* got nan"),
    ({"defaults": {"alpha": "0.3"}}, "alpha for family 'tail' must be a number, got '0.3'"),
    ({"defaults": {"alpha": True}}, "alpha for family 'tail' must be a number, got True"),
    ({"expression": "x"}, "must be a sympy expression in x, got str"),
    ({"expression": x > 0}, "must be a sympy expression in x, got StrictGreaterThan"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "message"), WRONG_FAMILIES)
def test_wrong_families(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        tail(**changes)
    assert "\n" not in str(caught.value)


NOT_FINITE = [
    (1 / x, {}, "1/x divides by zero at x = 0; a pseudo-derivative must be a finite real number"),
    (sympy.sqrt(x), {}, r"sqrt\(x\) is not real at x = -100"),
    (sympy.exp(sympy.exp(x)), {}, "overflows at x = 10"),
    (1 / (x**2 + alpha), {"alpha": FloatDistribution(0, 1)}, "at x = 0, alpha = 0"),
    (1 / (x - alpha), {"alpha": FloatDistribution(0, 1)}, "at x = 0.5, alpha = 0.5"),
    (1 / (2 - alpha) + x, {"alpha": FloatDistribution(0, 2)}, "divides by zero at alpha = 2"),
    (x ** (10**9 * alpha), {"alpha": FloatDistribution(0, 1)}, "the exponent .* is too large"),
    (x * 2 ** (alpha**9), {"alpha": FloatDistribution(0, 1e4)}, "is a power of constants"),
    (x * sympy.exp(alpha**9), {"alpha": FloatDistribution(0, 1e4)}, "constant of the .*alpha"),
    ((1 - t) / (x**2 + 1 - t), {}, "divides by zero at x = 0, t = 1"),
]


@pytest.mark.parametrize(("expression", "space", "message"), NOT_FINITE)
def test_not_finite_families(expression: sympy.Expr, space: dict[str, Any], message: str) -> None:
    with pytest.raises(FormulaError, match=message) as caught:
        Family("bad", expression, space=space)
    assert str(caught.value).startswith("family 'bad': ") and "\n" not in str(caught.value)


def test_nothing_in_a_family_can_be_changed() -> None:
    space, defaults = {"alpha": FloatDistribution(0.01, 1.0)}, {"alpha": 0.5}
    family = Family("f", alpha * STEP, space=space, defaults=defaults)
    space["alpha"].high = 7.0  # the caller's own object
    defaults["alpha"] = 0.7
    assert family.space["alpha"] == FloatDistribution(0.01, 1.0)
    assert family.defaults["alpha"] == 0.5
    with pytest.raises(TypeError, match="does not support item assignment"):
        family.space["beta"] = FloatDistribution(0, 1)
    with pytest.raises(TypeError, match="does not support item assignment"):
        family.default.parameters["alpha"] = 0.1
    with pytest.raises(AttributeError, match="cannot assign to field"):
        family.name = "g"  # type: ignore[misc]  # what is tested
    with pytest.raises(AttributeError, match="cannot assign to field"):
        family.default.family = family  # type: ignore[misc]  # what is tested


CHANGES: list[dict[str, Any]] = [
    {"name": "other"},
    {"expression": sympy.Piecewise((1, x > 0), (alpha * sympy.exp(2 * beta * x), True))},
    {
        "space": {
            "alpha": FloatDistribution(0.01, 0.9),
            "beta": FloatDistribution(0.1, 10, log=True),
        }
    },
    {"defaults": {"alpha": 0.4, "beta": 1.0}},
    {"reference": "theirs"},
    {"aliases": ("other",)},
]


@pytest.mark.parametrize("changes", CHANGES, ids=[next(iter(c)) for c in CHANGES])
def test_equality_of_families(changes: dict[str, Any]) -> None:
    assert tail() == tail() and hash(tail()) == hash(tail())
    assert tail(**changes) != tail()
    assert tail(origin="elsewhere.py") == tail()
    assert tail() != "tail"


def test_the_order_of_a_space_does_not_tell_families_apart() -> None:
    a, b = tail(), tail(space=dict(reversed(list(tail().space.items()))))
    assert a == b and hash(a) == hash(b)
    assert a.default == b.default and hash(a.default) == hash(b.default)


# ---------------------------------------------------------------------------------- a candidate


def test_what_a_candidate_says() -> None:
    candidate = tail().bind(alpha=0.5)
    assert candidate.name == "tail(alpha=0.5, beta=1)"
    assert candidate.formula == "Piecewise((1, x > 0), (exp(x)/2, True))"
    assert candidate.expression == sympy.Piecewise((1, x > 0), (sympy.exp(x) / 2, True))
    assert candidate.expression is candidate.expression
    assert dict(candidate.parameters) == {"alpha": 0.5, "beta": 1.0}
    assert repr(candidate) == "Candidate(tail(alpha=0.5, beta=1))"
    assert load_family("relu").default.name == "relu"
    assert tail().bind(alpha=0.1).expression.subs(x, 0) == sympy.Rational(1, 10)
    assert r"\frac{e^{x}}{2}" in candidate.latex and not candidate.annealed
    assert load_family("annealed_exp_tail").default.annealed


def test_values_of_a_candidate() -> None:
    candidate = tail().bind(alpha=0.5)
    points = torch.tensor([[-1.0, 0.0], [1e-30, 2.0]], dtype=torch.float32)
    expected = torch.tensor([[0.5 / 2.718281828459045, 0.5], [1, 1]], dtype=torch.float32)
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        got = candidate(points.to(dtype))
        assert got.dtype == dtype and got.shape == points.shape
        torch.testing.assert_close(got[0], expected[0].to(dtype))
    annealed = load_family("annealed_exp_tail").default
    assert annealed(torch.tensor(-1.0, dtype=torch.float64), t=1.0) == 0
    with pytest.raises(InputError, match="floating-point"):
        candidate(torch.tensor([1]))
    with pytest.raises(InputError, match=r"t must be in \[0, 1\], got 2"):
        annealed(torch.tensor([1.0]), t=2.0)


@pytest.mark.parametrize("value", [1, 1.0, numpy.float64(1), numpy.float32(1), sympy.Integer(1)])
def test_numbers_of_any_kind_bind(value: Any) -> None:
    candidate = tail().bind(beta=value)
    assert candidate == tail().default and type(candidate.parameters["beta"]) is float


def test_whole_number_parameters() -> None:
    family = Family("f", x ** symbol("n") * STEP, space={"n": IntDistribution(1, 4)})
    assert family.bind(n=2.0).parameters["n"] == 2
    assert type(family.bind(n=2.0).parameters["n"]) is int
    with pytest.raises(InputError, match=r"n must be a whole number for family 'f', got 2\.5"):
        family.bind(n=2.5)
    assert Family.from_dict(family.to_dict()) == family


def test_a_parameter_may_be_called_self() -> None:
    family = Family("f", symbol("self") * STEP, space={"self": FloatDistribution(0, 1)})
    assert family.bind(self=0.25).parameters == {"self": 0.25}


WRONG_VALUES = [
    ({"gamma": 1}, "family 'tail' has no parameter 'gamma' .it has: alpha, beta"),
    ({"alpha": 3}, r"alpha must be in \[0.01, 1.0\] for family 'tail', got 3.0"),
    ({"alpha": float("nan")}, "alpha must be in .* got nan"),
    ({"alpha": float("inf")}, "alpha must be in .* got inf"),
    ({"alpha": 10**400}, "alpha for family 'tail' must be a number"),
    ({"alpha": None}, "alpha for family 'tail' must be a number, got None"),
    ({"alpha": [1]}, "alpha for family 'tail' must be a number"),
    ({"alpha": "x" * 500}, r"alpha for family 'tail' must be a number, got 'xxx.*\.\.\."),
    ({"alpha": x}, "alpha for family 'tail' must be a number, got x"),
]


@pytest.mark.parametrize(("values", "message"), WRONG_VALUES)
def test_wrong_values(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        tail().bind(**values)
    assert len(str(caught.value)) < 300


def test_candidates_made_by_hand() -> None:
    with pytest.raises(InputError, match="needs exactly the parameters alpha, beta, got alpha"):
        Candidate(tail(), {"alpha": 0.5})
    with pytest.raises(InputError, match=r"needs exactly the parameters \(none\), got a"):
        Candidate(load_family("relu"), {"a": 0.5})
    with pytest.raises(InputError, match="made of a Family and a dictionary"):
        Candidate("relu", {})  # type: ignore[arg-type]  # what is tested
    with pytest.raises(InputError, match="made of a Family and a dictionary"):
        Candidate(tail(), [0.5])  # type: ignore[arg-type]  # what is tested


def test_a_value_between_the_corners_can_still_be_wrong() -> None:
    family = Family(
        "f", STEP / (alpha - beta), space={
            "alpha": FloatDistribution(0, 1), "beta": FloatDistribution(2, 3)
        },
    )  # fmt: skip
    assert family.bind(alpha=1, beta=2).formula == "-Piecewise((1, x > 0), (0, True))"
    crossing = Family(
        "f", STEP / (alpha - 0.3), space={"alpha": FloatDistribution(0, 1)}, defaults={"alpha": 0.5}
    )
    with pytest.raises(FormulaError, match=r"f\(alpha=0.3\): a constant .* divides by zero"):
        _ = crossing.bind(alpha=0.3).expression


def test_equality_of_candidates() -> None:
    assert tail().bind(alpha=0.5) == tail().bind(alpha=0.5)
    assert hash(tail().bind(alpha=0.5)) == hash(tail().bind(alpha=0.5))
    assert tail().bind(alpha=0.5) != tail().bind(alpha=0.6)
    assert tail().default != tail(name="other").default
    assert tail().default != tail() and tail().default != 3


# ------------------------------------------------------------------------------- round trips


@pytest.mark.parametrize("name", sorted(library()))
def test_library_round_trips(name: str) -> None:
    family = library()[name]
    again = Family.from_dict(json.loads(json.dumps(family.to_dict())))
    assert again == family and hash(again) == hash(family)
    assert again.parameters == family.parameters and again.formula == family.formula
    candidate = family.default
    assert Candidate.from_json(candidate.to_json()) == candidate
    for copied in (
        pickle.loads(pickle.dumps(candidate)),
        copy.deepcopy(candidate),
        copy.copy(candidate),
    ):
        assert copied == candidate and copied.expression == candidate.expression
        assert copied.family.origin == family.origin


@given(st.floats(0.01, 1.0), st.floats(0.1, 10.0))
def test_every_value_comes_back(a: float, b: float) -> None:
    candidate = tail().bind(alpha=a, beta=b)
    again = Candidate.from_json(candidate.to_json())
    assert again == candidate and again.expression == candidate.expression
    assert float(again.parameters["alpha"]) == a


def test_the_json_is_versioned() -> None:
    data = tail().default.to_dict()
    # What has no direction is written as earlier versions read it.
    assert data["schema"] == 1 and data["family"]["schema"] == 1 and SCHEMA == 2
    assert json.loads(tail().default.to_json()) == data
    assert data["family"]["formula"] == tail().formula
    assert data["family"]["space"]["beta"] == {
        **{"type": "float", "low": 0.1, "high": 10.0, "log": True, "step": None}
    }


def _candidate(**changes: Any) -> dict[str, Any]:
    return {**tail().default.to_dict(), **changes}


def _family(**changes: Any) -> dict[str, Any]:
    return _candidate(family={**tail().to_dict(), **changes})


def _without(key: str) -> dict[str, Any]:
    family = tail().to_dict()
    del family[key]
    return _candidate(family=family)


def _range(**changes: Any) -> dict[str, Any]:
    space = tail().to_dict()["space"]
    return _family(space={**space, "alpha": {**space["alpha"], **changes}})


WRONG_JSON = [
    ("", "not JSON"),
    ("{", "not JSON"),
    ("[" * 100_000, "not JSON"),
    ("1" * 5_000, "not JSON|must be an object"),
    ("[]", "a candidate's JSON must be an object"),
    ('"text"', "a candidate's JSON must be an object"),
    (" " * 1_000_001, "has 1,000,001 characters: too long"),
    ({}, "a candidate's JSON lacks its schema version"),
    (_candidate(schema=3), "this candidate was written by a newer pdsearch .schema 3, this version "
     "reads up to 2.: update pdsearch"),
    (_family(schema=7), "this family was written by a newer pdsearch .schema 7"),
    (_candidate(schema="1"), "lacks its schema version"),
    (_candidate(schema=True), "lacks its schema version"),
    (_candidate(schema=0), "lacks its schema version"),
    (_candidate(family=3), "needs the objects 'family' and 'parameters'"),
    (_candidate(parameters=[1]), "needs the objects 'family' and 'parameters'"),
    (_candidate(parameters={"alpha": 0.5}), "needs exactly the parameters alpha, beta, got alpha"),
    (_candidate(parameters={"alpha": 9, "beta": 1}), r"alpha must be in \[0.01, 1.0\]"),
    (_candidate(parameters={"alpha": "9", "beta": 1}), "alpha for family 'tail' must be a number"),
    (_without("name"), "a family's JSON lacks 'name'"),
    (_without("formula"), "a family's JSON lacks 'formula'"),
    (_family(name=3), "a family's JSON holds a wrong 'name': 3"),
    (_family(name="../x"), "family name '../x' is not valid"),
    (_family(formula=["x"]), "a family's JSON holds a wrong 'formula'"),
    (_family(formula="__import__('os').system('id')"), "only a function's plain name"),
    (_family(formula="gamma*x"), "parameter 'gamma' is not declared"),
    (_family(space=[]), "a family's JSON holds a wrong 'space'"),
    (_family(defaults=3), "a family's JSON holds a wrong 'defaults'"),
    (_family(aliases="ab"), "a family's JSON holds a wrong 'aliases': 'ab'"),
    (_family(aliases=[3]), "family name 3 is not valid"),
    (_family(reference=None), "a family's JSON holds a wrong 'reference': None"),
    (_range(low=2), "the range of 'alpha' is empty: low 2 is above high 1.0"),
    (_range(low="0"), "the range of 'alpha' needs numbers, got '0'"),
    (_range(low=True), "the range of 'alpha' needs numbers, got True"),
    (_range(low=10**400), "the range of 'alpha' must be finite"),
    (_range(high=float("nan")), "the range of 'alpha' must be finite, got nan"),
    (_range(low=0, log=True), "the range of 'alpha' is logarithmic and must start above 0, got 0"),
    (_range(log=1), "'log' of the range of 'alpha' must be true or false, got 1"),
    (_range(type="str"), "'type' of the range of 'alpha' must be float or int, got 'str'"),
    (_range(type="int"), "the range of 'alpha' is of whole numbers"),
    (_range(step=-1), "the range of 'alpha'"),
    (_range(evil=1), "the range of 'alpha' has unknown keys: evil"),
]  # fmt: skip


@pytest.mark.parametrize(("data", "message"), WRONG_JSON)
def test_wrong_json(data: Any, message: str) -> None:
    text = data if isinstance(data, str) else json.dumps(data)
    with pytest.raises(InputError, match=message) as caught:
        Candidate.from_json(text)
    assert "\n" not in str(caught.value)


def test_missing_optional_fields_are_read() -> None:
    data = {"schema": 1, "name": "f", "formula": "Piecewise((1, x > 0), (0, True))"}
    assert Family.from_dict(data) == Family("f", STEP)


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ([0, 1], FloatDistribution(0, 1)),
        ((0.1, 1, "log"), FloatDistribution(0.1, 1, log=True)),
        ({"low": 0, "high": 1}, FloatDistribution(0, 1)),
        ({"low": 0, "high": 1, "step": 0.5}, FloatDistribution(0, 1, step=0.5)),
        ({"low": 1, "high": 9, "type": "int"}, IntDistribution(1, 9)),
        ({"low": 1, "high": 9, "type": "int", "step": 2}, IntDistribution(1, 9, step=2)),
    ],
)
def test_distributions_from_plain_data(entry: Any, expected: object) -> None:
    assert distribution_from(entry, "a") == expected


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("ab", r"the range of 'a' must be \[low, high\], got 'ab'"),
        ([1], r'must be \[low, high\] or \[low, high, "log"\], got \[1\]'),
        ([0, 1, "lin"], r'or \[low, high, "log"\]'),
        (None, r"must be \[low, high\], got None"),
        ({"low": 1}, "the range of 'a' lacks 'high'"),
        ([2, 1], "is empty: low 2 is above high 1"),
        ([0, 1, "log"], "is logarithmic and must start above 0, got 0"),
        ([float("-inf"), 1], "must be finite, got -inf"),
        ({"low": 0, "high": 1, "log": True, "step": 0.1}, "the range of 'a'"),
    ],
)
def test_distributions_refused(entry: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        distribution_from(entry, "a")


# ----------------------------------------------------------------------------------- loading


def test_the_library() -> None:
    families = library()
    assert list(families) == sorted(families) and families["relu"].expression == STEP
    families.clear()  # a copy
    assert library() and library()["relu"] is library()["relu"]
    assert library_directory().name == "search_spaces"
    assert all(f.origin.startswith("search_spaces/") for f in library().values())


def test_by_name_and_alias() -> None:
    assert load_family("exp_tail").name == "exp_tail"
    for alias, name in (*(("softplus", "sigmoid"), ("tanh", "sigmoid"), ("squareplus", "circle")),):
        assert load_family(alias) is load_family(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("exp_tial", "no family 'exp_tial': did you mean exp_tail.* the library has .*b_silu"),
        ("zzz", r"no family 'zzz': the library has annealed_b_silu, .*window"),
        ("", "no family ''"),
        ("../x", r"no family '../x'"),
        ("<script>", "no family '<script>'"),
    ],
)
def test_no_such_family(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_family(name)


MINE = """
import sympy
from optuna.distributions import FloatDistribution
from pdsearch import Family, x
a = sympy.Symbol("a")
bent = Family("bent", sympy.Piecewise((1, x > 0), (a, True)), space={"a": FloatDistribution(0, 1)})
"""


def write(folder: Path, text: str, name: str = "mine.py") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, MINE)
    for spec in (path, str(path), f"{path}:bent"):
        assert load_family(spec).name == "bent"
    assert load_family("mine.py", directory=tmp_path).origin == str(tmp_path / "mine.py")
    assert load_family("mine.py:bent", directory=tmp_path).parameters == ("a",)
    monkeypatch.chdir(tmp_path)
    assert load_family("mine.py").name == "bent"
    with pytest.raises(InputError, match=r"mine\.py defines no family 'x' .it defines: bent"):
        load_family("mine.py:x")
    assert not any(name.startswith("_pdsearch_families") for name in sys.modules)
    assert not (tmp_path / "__pycache__").exists()


def test_a_file_that_changed_is_read_again_at_once(tmp_path: Path) -> None:
    assert load_family(write(tmp_path, MINE)).name == "bent"
    assert load_family(write(tmp_path, MINE.replace('"bent"', '"tilt"'))).name == "tilt"


def test_several_in_a_file(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        MINE + "\nlow = Family('low', sympy.Piecewise((1, x > 0), (0.1, True)), aliases=('l',))\n"
        "again = bent\nfrom pdsearch import load_family\nelu = load_family('elu')\n",
    )
    assert list(find_families(path)) == ["bent", "low"]
    assert load_family(f"{path}:l").name == "low"
    with pytest.raises(InputError, match=r"defines several families: choose one .*bent, low"):
        load_family(path)
    assert load_family("elu").origin == "search_spaces/activations.py"


BROKEN_FILES = [
    ("", "defines no Family at its top level"),
    ("x = 1", "defines no Family at its top level"),
    ("from pdsearch import load_family; f = load_family('elu')", "defines no Family"),
    ("import nothing_of_the_kind", "mine.py:1: ModuleNotFoundError: No module named"),
    ("\n\n1/0", "mine.py:3: ZeroDivisionError: division by zero"),
    ("def f():\n    raise ValueError\n\nf()", "mine.py:2: ValueError$"),
    ("raise ValueError('a\\nb')", "mine.py:1: ValueError: a$"),
    ("x = (", "mine.py:1: SyntaxError"),
    ("\0", "SyntaxError|ValueError"),
    ("import sys; sys.exit(3)", "mine.py:1: SystemExit: 3"),
    ("def f(): f()\nf()", "RecursionError"),
    (MINE + "\nFamily('bad', 1/x)\n", "mine.py:8: family 'bad': 1/x divides by zero at x = 0"),
    (MINE + "\nother = Family('bent', x*0 + 1)\n", "defines two families called 'bent'"),
]


@pytest.mark.parametrize(("text", "message"), BROKEN_FILES)
def test_broken_files(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        load_family(write(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.py does not exist: give a Python file"):
        load_family(tmp_path / "none.py")
    (tmp_path / "folder.py").mkdir()
    with pytest.raises(InputError, match=r"folder\.py is a directory: give a Python file"):
        load_family(tmp_path / "folder.py")
    (tmp_path / "latin.py").write_bytes(b"name = '\xe9'")
    with pytest.raises(InputError, match="SyntaxError"):
        load_family(tmp_path / "latin.py")


def test_what_a_file_prints_goes_to_stderr(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    load_family(write(tmp_path, "print('hello')\n" + MINE))
    assert capsys.readouterr() == ("", "hello\n")


# ----------------------------------------------------------------------------------- targets

FORMULA = "Piecewise((1, x > 0), (a*exp(b*x), True))"


def test_target_family() -> None:
    family, candidate = load_target("exp_tail", settings={"alpha": 0.5})
    assert family is load_family("exp_tail") and candidate == family.bind(alpha=0.5)
    assert load_target("tanh")[0].name == "sigmoid"


def test_target_file(tmp_path: Path) -> None:
    path = write(tmp_path, MINE)
    assert load_target(str(path), settings={"a": 0.25})[1].parameters == {"a": 0.25}
    assert load_target(f"{path}:bent")[0].name == "bent"


def test_target_json(tmp_path: Path) -> None:
    candidate = tail().bind(alpha=0.5)
    path = write(tmp_path, candidate.to_json(), "c.json")
    assert load_target(str(path)) == (candidate.family, candidate)
    assert load_target(str(path), settings={"beta": 2})[1] == tail().bind(alpha=0.5, beta=2)
    with pytest.raises(InputError, match="family 'tail' has no parameter 'gamma'"):
        load_target(str(path), settings={"gamma": 2})


def test_target_formula() -> None:
    family, candidate = load_target(FORMULA, settings={"b": 2}, params=["a=0.01:1:log"])
    assert family.name == "formula" and set(family.parameters) == {"a", "b"}
    assert family.space["a"] == FloatDistribution(0.01, 1.0, log=True)
    assert candidate.parameters == {"a": 0.1, "b": 2.0}
    assert load_target(FORMULA, settings={"a": 0.5, "b": 1}, params=["a=0:1"])[1].formula == (
        "Piecewise((1, x > 0), (exp(x)/2, True))"
    )
    assert load_target("sigmoid(4*x)")[1].parameters == {}
    assert load_target("a", settings={"a": 0.5})[1].formula == "1/2"
    assert load_target("x*0 + 1")[1].formula == "1"
    assert load_target("pi")[1].formula == "pi"


WRONG_TARGETS: list[tuple[str, dict[str, Any], list[str], str]] = [
    ("exp_tial", {}, [], "did you mean exp_tail"),
    ("exp_tail", {"gamma": 1}, [], "has no parameter 'gamma'"),
    ("exp_tail", {"alpha": 7}, [], r"alpha must be in \[0.01, 1.0\]"),
    ("exp_tail", {}, ["alpha=0:1"], "--param declares the parameters of a formula; this target"),
    ("c.json", {}, ["alpha=0:1"], "--param declares the parameters of a formula; this target"),
    ("none.json", {}, [], "none.json cannot be read: No such file"),
    ("none.py", {}, [], "none.py does not exist"),
    (FORMULA, {}, [], "parameter 'a' is not declared .declared: none"),
    (FORMULA, {"a": 1}, [], "parameter 'b' is not declared .declared: a"),
    (FORMULA, {"a": 1, "b": 1, "c": 1}, [], "c are declared but not in the formula"),
    (FORMULA, {"a": float("nan"), "b": 1}, [], "--set a needs a finite number, got nan"),
    (FORMULA, {"a": "1", "b": 1}, [], "--set a needs a finite number, got '1'"),
    (FORMULA, {"a": 5, "b": 1}, ["a=0:1"], r"a must be in \[0.0, 1.0\] for family 'formula'"),
    (FORMULA, {}, ["a"], "--param needs NAME=LOW:HIGH or NAME=LOW:HIGH:log, got 'a'"),
    (FORMULA, {}, ["a=1"], "--param needs NAME=LOW:HIGH"),
    (FORMULA, {}, ["a=0:1:lin"], "--param needs NAME=LOW:HIGH"),
    (FORMULA, {}, ["a=low:1"], "--param a: LOW and HIGH must be numbers, got 'low:1'"),
    (FORMULA, {}, ["a=2:1"], "the range of 'a' is empty: low 2.0 is above high 1.0"),
    (FORMULA, {}, ["a=0:1:log"], "the range of 'a' is logarithmic and must start above 0"),
    (FORMULA, {}, ["a=0:inf"], "the range of 'a' must be finite"),
    (FORMULA, {}, ["exp=0:1"], "'exp' cannot name a parameter"),
    (FORMULA, {}, ["lambda=0:1"], "'lambda' cannot name a parameter"),
    (FORMULA, {}, ["x=0:1"], "'x' cannot name a parameter"),
    (FORMULA, {}, ["a=0:1", "a=0:2"], "--param a is given twice"),
    ("1/x", {}, [], "divides by zero at x = 0"),
    ("", {}, [], "the formula is empty"),
    ("x" * 300, {}, [], r"parameter 'x+\.\.\.' is not declared"),
]


@pytest.mark.parametrize(("text", "settings", "params", "message"), WRONG_TARGETS)
def test_wrong_targets(
    text: str, settings: dict[str, Any], params: list[str], message: str, workdir: Path
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        load_target(text, settings=settings, params=params)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1_200


@pytest.mark.parametrize(("low", "high", "log", "share", "value"), [
    (0.0, 10.0, False, 0.25, 2.5), (-1.0, 3.0, False, 0.5, 1.0), (2.0, 2.0, True, 0.7, 2.0),
    (1.0, 100.0, True, 0.5, 10.0), (0.1, 1000.0, True, 0.75, 100.0), (1e-3, 1e3, True, 0.0, 1e-3),
    (1e-300, 1e300, True, 0.5, 1.0), (1e-300, 1e300, True, 1.0, 1e300),
    (-1.5e308, 1.5e308, False, 0.5, 0.0), (-1.5e308, 1.5e308, False, 1.0, 1.5e308),
])  # fmt: skip
def test_a_share_of_a_range(low: float, high: float, log: bool, share: float, value: float) -> None:
    assert at_share(low, high, share, log=log) == pytest.approx(value, rel=1e-12, abs=1e-12)


def test_wrong_candidate_files(tmp_path: Path) -> None:
    for name, content, message in (
        ("empty.json", b"", "empty.json: not JSON"),
        ("latin.json", b"\xe9", "latin.json is not UTF-8 text"),
        ("large.json", b" " * 1_000_001, "large.json has 1,000,001 bytes"),
        ("family.json", json.dumps(tail().to_dict()).encode(), "family.json: a candidate's JSON "
         "needs the objects"),
    ):  # fmt: skip
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=message):
            load_target(str(tmp_path / name))
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(InputError, match=r"folder\.json cannot be read: Is a directory"):
        load_target(str(tmp_path / "folder.json"))


def test_a_parameter_without_a_range_is_named_whatever_x_is_in_sight() -> None:
    x = sympy.Symbol("x", positive=True)
    with pytest.raises(InputError, match="z of the formula have no range"):
        Family("q", sympy.exp(sympy.Symbol("z")))
    assert x.is_positive
