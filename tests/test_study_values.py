"""What a train function may give: each kind of number counts as what it is, the rest is refused."""

import asyncio
import decimal
import fractions
import functools
import math
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
import sympy
import torch

from pdsearch import Candidate, InputError, load_family, search
from pdsearch.study.sources import code_of
from pdsearch.study.trainer import as_number, values_of

NUMBERS = {
    "float": 0.625,
    "int": 3,
    "numpy.float16": numpy.float16(0.625),
    "numpy.float32": numpy.float32(0.625),
    "numpy.float64": numpy.float64(0.625),
    "numpy.longdouble": numpy.longdouble(0.625),
    "numpy.int8": numpy.int8(3),
    "numpy.uint64": numpy.uint64(3),
    "0-d array": numpy.array(0.625),
    "0-d array of whole numbers": numpy.array(3),
    "0-d array of float32": numpy.array(0.625, dtype=numpy.float32),
    "tensor": torch.tensor(0.625),
    "bfloat16": torch.tensor(0.625, dtype=torch.bfloat16),
    "float16": torch.tensor(0.625, dtype=torch.float16),
    "float64": torch.tensor(0.625, dtype=torch.float64),
    "int tensor": torch.tensor(3),
    "with a gradient": torch.tensor(0.625, requires_grad=True),
    "of a graph": torch.tensor(0.625, requires_grad=True) * 1,
    "parameter": torch.nn.Parameter(torch.tensor(0.625)),
    "Decimal": decimal.Decimal("0.625"),
    "Fraction": fractions.Fraction(5, 8),
    "sympy.Float": sympy.Float(0.625),
    "sympy.Rational": sympy.Rational(5, 8),
    "subclass": type("Mine", (float,), {})(0.625),
}
REFUSED = {
    "None": (None, "got None \\(is a return missing"),
    "True": (True, "got True"),
    "numpy.bool": (numpy.bool_(True), "True"),
    "bool array": (numpy.array(True), "got array\\(True\\)"),
    "bool tensor": (torch.tensor(True), "got tensor\\(True\\)"),
    "text": ("0.9", "got '0.9'"),
    "bytes": (b"\x01\x02", "got b'"),
    "numpy text": (numpy.array("0.9"), "got array"),
    "complex": (0.5 + 1j, "one number per epoch, or return one, got a complex"),
    "numpy.complex": (numpy.complex64(0.5), "got"),
    "complex tensor": (torch.tensor(0.5 + 0j), "got tensor"),
    "tuple": ((0.9, 2.1), "got a tuple of 2: return one number"),
    "tuple of one": ((0.9,), "got a tuple of 1"),
    "empty tuple": ((), "got a tuple of 0"),
    "list": ([0.1, 0.9], "got a list of 2"),
    "dict": ({"accuracy": 0.9}, "got a dict of 1"),
    "dict of numbers": ({0.9: 1}, "got a dict of 1"),
    "ordered": (OrderedDict(a=1), "got a OrderedDict of 1"),
    "set": ({0.9}, "got a set of 1"),
    "frozenset": (frozenset({0.9}), "got a frozenset of 1"),
    "range": (range(3), "got a range"),
    "1-d array": (numpy.array([0.9]), r"got a numpy.ndarray of shape \(1,\)"),
    "array": (numpy.array([0.1, 0.9]), r"got a numpy.ndarray of shape \(2,\)"),
    "1-d tensor": (torch.tensor([0.9]), r"got a torch.Tensor of shape \(1,\)"),
    "tensor": (torch.tensor([[0.1, 0.9]]), r"of shape \(1, 2\)"),
    "empty tensor": (torch.tensor([]), r"of shape \(0,\)"),
    "meta tensor": (torch.tensor(0.5, device="meta"), "that contains none"),
    "object": (object(), "got an object"),
    "model": (torch.nn.Linear(1, 1), "got a torch.Linear"),
    "function": (len, "got a builtin_function_or_method"),
    "type": (float, "got"),
    "named": (__import__("collections").namedtuple("R", "acc loss")(0.9, 1.0), "got a R of 2"),
}


@pytest.mark.parametrize("kind", NUMBERS)
def test_numbers_count_as_what_they_are(kind: str) -> None:
    value = NUMBERS[kind]
    wanted = 3.0 if int(value) == 3 else 0.625
    assert list(values_of(value)) == [wanted]
    assert list(values_of(iter([value, 0.25, value]))) == [wanted, 0.25, wanted]
    assert all(type(one) is float for one in values_of(iter([value])))


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_number_is_refused_in_a_line(kind: str) -> None:
    value, message = REFUSED[kind]
    with pytest.raises(InputError, match=message) as caught:
        list(values_of(value))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 250
    with pytest.raises(InputError, match=r"train must yield numbers, got .* at epoch 2") as caught:
        list(values_of(iter([0.5, value])))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (math.nan, "nan"), (math.inf, "inf"), (-math.inf, "-inf"), (10**400, "inf"),
        (-(10**400), "-inf"), (fractions.Fraction(10**400, 3), "inf"),
        (decimal.Decimal("1e400"), "inf"), (decimal.Decimal("NaN"), "nan"),
        (decimal.Decimal("sNaN"), "nan"), (numpy.float32("nan"), "nan"),
        (torch.tensor(math.inf), "inf"), (numpy.array(-math.inf), "-inf"),
    ],
)  # fmt: skip
def test_what_is_not_finite_is_a_number_all_the_same(value: Any, wanted: str) -> None:
    assert str(as_number(value)) == wanted


async def waits(candidate: Any) -> float:
    return 0.9


async def waits_and_yields(candidate: Any) -> AsyncIterator[float]:
    yield 0.9


def returns_too(candidate: Candidate) -> Generator[float, None, float]:
    yield 0.1
    return 0.9


def returns_alone(candidate: Candidate) -> Generator[None, None, float]:
    if candidate is None:
        yield
    return 0.9


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda candidate: (0.9, 0.1), "got a tuple of 2"),
        (lambda candidate: iter([(0.9, 0.1)]), r"got \(0.9, 0.1\) at epoch 1"),
        (waits_and_yields, "got an async_generator"),
        (returns_too, "returns 0.9 as well"),
        (returns_alone, "returns 0.9 as well"),
        (lambda candidate: iter(()), "yielded no value"),
    ],
)
def test_a_search_refuses_them(
    workdir: Path, function: Callable[[Candidate], Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        search(families=["leaky"], train=function, trials=4, progress=False)


def test_a_coroutine_is_refused() -> None:
    coroutine = waits(None)
    with pytest.raises(InputError, match="got a coroutine"):
        list(values_of(coroutine))
    assert asyncio.run(coroutine) == 0.9


@pytest.mark.parametrize("wrap", [torch.tensor, numpy.array, numpy.float32])
def test_a_search_finds_the_same_with_any_of_them(
    workdir: Path, wrap: Callable[[float], Any]
) -> None:
    def train(candidate: Candidate) -> Iterator[Any]:
        x = torch.tensor([-1.0], dtype=torch.float64)
        yield float(candidate(x)[0]) / 2
        yield float(candidate(x)[0])

    def wrapped(candidate: Candidate) -> Iterator[Any]:
        return (wrap(value) for value in train(candidate))

    keys: dict[str, Any] = {
        "families": ["exp_tail"],
        "references": [],
        "trials": 5,
        "progress": False,
    }
    keys |= {"sampler": "random", "pruner": "none"}
    plain = search(train=train, name="plain", **keys).stored.trials()
    other = search(train=wrapped, name="other", **keys).stored.trials()
    assert [row.status for row in other] == [row.status for row in plain]
    for one, two in zip(other, plain, strict=True):
        assert (one.value or 0.0) == pytest.approx(two.value or 0.0, rel=1e-6)
    assert sum(row.value is not None for row in other) >= 2


def test_a_value_that_is_not_finite_is_divergence(workdir: Path) -> None:
    def train(candidate: Candidate) -> Iterator[Any]:
        yield torch.tensor(0.5)
        yield torch.tensor(math.nan if candidate.family.name == "leaky" else 0.6)

    keys: dict[str, Any] = {
        "families": ["exp_tail"],
        "references": ["leaky"],
        "trials": 4,
        "progress": False,
    }
    rows = search(train=train, **keys).stored.trials()
    assert [row.status for row in rows if row.kind == "reference"] == ["diverged"]
    assert "train gave nan at epoch 2" in str([row.reason for row in rows])


# ----------------------------------------------------------------------------- the function itself


def versions_of_train() -> dict[str, tuple[Any, Any, bool]]:
    """Pairs of functions, and whether they do the same."""

    def plain(candidate, seed):  # type: ignore[no-untyped-def]
        return 0.1 * seed

    first = plain

    def plain(candidate, seed):  # type: ignore[no-untyped-def, no-redef]
        # A comment, and another layout.
        return (
            0.1 * seed
        )  # fmt: skip

    relaid = plain

    def plain(candidate, seed):  # type: ignore[no-untyped-def, no-redef]
        return 0.2 * seed

    other_number = plain

    def plain(candidate, seed):  # type: ignore[no-untyped-def, no-redef]
        def inner(x):  # type: ignore[no-untyped-def]
            return x + 1

        return inner(seed)

    nested = plain

    def plain(candidate, seed):  # type: ignore[no-untyped-def, no-redef]
        def inner(x):  # type: ignore[no-untyped-def]
            return x + 2

        return inner(seed)

    other_nested = plain

    class One:
        def __call__(self, candidate: Any) -> float:
            return 0.1

        def method(self, candidate: Any) -> float:
            return 0.3

    class Two:
        def __call__(self, candidate: Any) -> float:
            return 0.2

        def method(self, candidate: Any) -> float:
            return 0.4

    one, other = object(), object()
    return {
        "layout": (first, relaid, True),
        "a number": (first, other_number, False),
        "a function within": (nested, other_nested, False),
        "partial": (functools.partial(first, seed=1), functools.partial(other_number), False),
        "a partial's number": (
            functools.partial(first, seed=1),
            functools.partial(first, seed=2),
            False,
        ),
        "a default": (lambda c, lr=0.1: lr, lambda c, lr=0.2: lr, False),
        "a keyword's default": (lambda c, *, lr=0.1: lr, lambda c, *, lr=0.2: lr, False),
        "an object as default": (lambda c, o=one: o, lambda c, o=other: o, True),
        "an object": (One(), Two(), False),
        "an object again": (One(), One(), True),
        "a method": (One().method, Two().method, False),
        "lambda": (lambda c: math.sin(1), lambda c: math.cos(1), False),
        "a set": (
            lambda c: c in {"a", "b", "c"},
            lambda c: c in {"c", "b", "a"},
            True,
        ),
    }


@pytest.mark.parametrize("kind", versions_of_train())
def test_a_functions_digest_is_that_of_what_it_does(kind: str) -> None:
    first, second, same = versions_of_train()[kind]
    assert code_of(first) and (code_of(first) == code_of(second)) == same


def test_a_changed_function_is_another_study(workdir: Path) -> None:
    """Else the old values would come back in silence."""

    def run(train: Any) -> Any:
        train.__qualname__ = "train"
        return search(
            train=train, families=["leaky"], references=[], trials=2, progress=False
        ).stored.best()

    assert run(lambda candidate: 0.25).value == 0.25
    assert run(lambda candidate: 0.25).value == 0.25
    with pytest.raises(InputError, match=r"other settings: train \(.*\): its content") as caught:
        run(lambda candidate: 0.75)
    assert "\n" not in str(caught.value)
    assert code_of(None) == code_of(len) == {}  # nothing is known, and nothing refused


@pytest.mark.parametrize(
    ("train", "said"),
    [
        (lambda candidate, s: 0.5, "missing a required argument: 's'"),
        (lambda: 0.5, "too many positional arguments"),
        (lambda *, candidate: 0.5, "too many positional arguments"),
    ],
)
def test_a_function_that_cannot_be_called_is_refused_at_once(
    train: Any, said: str, workdir: Path
) -> None:
    with pytest.raises(InputError, match=f"train is called as train.candidate.*{said}"):
        search(train=train, families=["leaky"], trials=4, progress=False)
    assert not list(workdir.iterdir())


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"families": "exp_tail"}, "families must be a list, got 'exp_tail'"),
        ({"families": {"family": "leaky"}}, "families must be a list"),
        ({"families": load_family("leaky")}, "families must be a list"),
        ({"families": ["leaky"], "references": "elu"}, "references must be a list, got 'elu'"),
        ({"families": ["leaky"], "criteria": ["x.py:f"]}, "a criterion is a function of a cand"),
        ({"families": ["leaky"], "criteria": "x.py:f"}, "criteria must be a list of functions"),
        ({"families": ["leaky"], "criteria": len}, "criteria must be a list of functions"),
    ],
)
def test_arguments_of_a_wrong_kind(given: dict[str, Any], said: str, workdir: Path) -> None:
    with pytest.raises(InputError, match=said) as caught:
        search(train=lambda candidate: 0.5, trials=4, progress=False, **given)
    assert "\n" not in str(caught.value) and not list(workdir.iterdir())
