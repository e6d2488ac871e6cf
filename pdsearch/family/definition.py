"""The two data types: a family, and a candidate, which is a family with its parameters bound."""

import functools
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

import sympy
from optuna.distributions import BaseDistribution, IntDistribution

from pdsearch import expression as _expression
from pdsearch.errors import FormulaError, InputError
from pdsearch.family.ranges import (
    Range,
    checked,
    checked_distribution,
    distribution_from,
    middle,
    short,
)

if TYPE_CHECKING:
    import torch

SCHEMA = 2
"""Version of the JSON that families and candidates are written as; older ones stay readable.

Version 2 added directions. What has none is still written as version 1."""

DIRECTIONS = ("both", "up")
"""Which gradients pass below zero: all, or only those that would raise the unit."""

JSON_LIMIT = 1_000_000  # bytes; a candidate is about 500
FAMILY_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}\Z")


@dataclass(frozen=True, eq=False)
class Family:
    r"""A pseudo-derivative g(x; parameters) with a range for each of its parameters.

    Args:
        name: an identifier; in a study, `<name>.<parameter>` names its Optuna parameters.
        expression: g as a sympy expression in `pdsearch.x`, optionally `pdsearch.t`, and the
            parameters. Symbols are taken by name, and may be declared to be what their ranges
            are (positive, say), x only real; decimal numbers become exact rationals.
        space: an `optuna.distributions.FloatDistribution` or `IntDistribution` a parameter.
        defaults: values inside the ranges. Left out: the middle (geometric where log).
        reference: where the shape comes from.
        aliases: other names under which the library finds it.
        origin: the file it was read from; not part of what makes families equal.
        directions: what `direction` of its candidates may be in a search; `bind` takes the first
            where none is given.

    Raises:
        InputError: a name, range, default or parameter is wrong.
        FormulaError: the expression is not a finite real function of x at its defaults or at the
            corners of its ranges, or holds what pdsearch cannot compile.
    """

    name: str
    expression: sympy.Expr
    space: Mapping[str, BaseDistribution] = field(default_factory=dict, kw_only=True)
    defaults: Mapping[str, float] = field(default_factory=dict, kw_only=True)
    reference: str = field(default="", kw_only=True)
    aliases: tuple[str, ...] = field(default=(), kw_only=True)
    origin: str = field(default="", kw_only=True)
    directions: tuple[str, ...] = field(default=("both",), kw_only=True)

    def __post_init__(self) -> None:
        if isinstance(self.aliases, str):
            raise InputError(f"aliases must be a tuple of names, got {short(self.aliases)}")
        for name in (self.name, *self.aliases):
            if not isinstance(name, str) or not FAMILY_NAME.match(name):
                raise InputError(
                    f"family name {short(name)} is not valid: use an ASCII identifier of at most "
                    "64 characters, such as exp_tail"
                )
        where = f"family {self.name!r}"
        for field_name, values in (("space", self.space), ("defaults", self.defaults)):
            if not isinstance(values, Mapping):
                raise InputError(f"{where}: {field_name} must be a dictionary, got {short(values)}")
        for field_name, text in (("reference", self.reference), ("origin", self.origin)):
            if not isinstance(text, str):
                raise InputError(f"{where}: {field_name} must be text, got {short(text)}")
        self._check_directions(where)
        try:
            for name in self.space:
                _expression.symbol(name)
            space = {name: checked_distribution(name, d) for name, d in self.space.items()}
            self._check_assumptions(space)
            expression = _expression.canonical(self.expression)
            _expression.check_parameters_used(expression, space)
        except InputError as error:
            raise type(error)(f"{where}: {error}") from None
        if unknown := sorted(map(str, set(self.defaults) - set(space))):
            raise InputError(
                f"{where}: default(s) given for {', '.join(unknown)}, which the space does not "
                f"hold (it holds: {', '.join(space) or 'nothing'})"
            )
        defaults = {
            name: checked(self.defaults[name], name, distribution, where)
            if name in self.defaults
            else middle(distribution)
            for name, distribution in space.items()
        }
        assign = functools.partial(object.__setattr__, self)
        assign("expression", expression)
        assign("space", MappingProxyType(space))
        assign("defaults", MappingProxyType(defaults))
        assign("aliases", tuple(self.aliases))
        assign("directions", tuple(self.directions))
        for values in self._corners():
            self._check_defined(values)

    def _check_directions(self, where: str) -> None:
        given = self.directions
        if isinstance(given, str) or not given or len(set(given)) < len(tuple(given)):
            raise InputError(
                f"{where}: directions must be a tuple of one or more of {', '.join(DIRECTIONS)}, "
                f"each once, got {short(given)}"
            )
        for direction in given:
            check_direction(direction, where)
        if "direction" in self.space:
            raise InputError(f"{where}: 'direction' cannot name a parameter: it is bind's argument")

    def _check_assumptions(self, space: Mapping[str, Range]) -> None:
        if isinstance(self.expression, sympy.Expr):
            ranges = {
                name: _expression.Values(d.low, d.high, isinstance(d, IntDistribution))
                for name, d in space.items()
            }
            _expression.check_assumptions(self.expression, ranges)
            _expression.check_constant(self.expression)

    def _check_defined(self, values: Mapping[str, float]) -> None:
        where = f"family {self.name!r}"
        at = [f"{name} = {value:g}" for name, value in values.items()]
        exact = {_expression.symbol(n): _expression.exact(v) for n, v in values.items()}
        numbers = {s: Fraction(int(v.p), int(v.q)) for s, v in exact.items()}
        moments = (0, 1) if self.annealed else (0,)
        try:
            _expression.check_binding(self.expression, exact)
            for progress in moments if self.annealed else ():
                at_time = {**numbers, _expression.t: Fraction(progress)}
                _expression.check_size(self.expression, at_time)
        except FormulaError as error:
            there = f" at {', '.join(at)}" if at else ""
            raise FormulaError(f"{where}: {error}{there}: {short(self.formula)}") from None
        for progress in moments:
            trouble = _expression.undefined_at(
                self.expression, {**numbers, _expression.t: Fraction(progress)}
            )
            if trouble is not None:
                point, what = trouble
                shown = [f"x = {float(point):.6g}", *at]
                shown += [f"t = {progress}"] if self.annealed else []
                raise FormulaError(
                    f"{where}: {short(self.formula)[1:-1]} {what} at {', '.join(shown)}; a "
                    "pseudo-derivative must be a finite real number at every x"
                )

    def _corners(self) -> Iterator[dict[str, float]]:
        """The defaults, and where parameters have ranges the box's two extreme corners."""
        yield dict(self.defaults)
        ranges = dict(self._ranges())
        if any(d.low != d.high for d in ranges.values()):
            yield {name: d.low for name, d in ranges.items()}
            yield {name: d.high for name, d in ranges.items()}

    def _ranges(self) -> Iterator[tuple[str, Range]]:
        for name, distribution in self.space.items():
            yield name, cast("Range", distribution)

    @property
    def parameters(self) -> tuple[str, ...]:
        """The parameters' names, in the order of the space."""
        return tuple(self.space)

    @property
    def formula(self) -> str:
        """The expression as text that `pdsearch.expression.parse` reads back."""
        return _expression.format_formula(self.expression)

    @property
    def latex(self) -> str:
        """The expression in LaTeX."""
        return _expression.format_latex(self.expression)

    @property
    def annealed(self) -> bool:
        """Whether g changes with training progress t."""
        return _expression.t in self.expression.free_symbols

    @property
    def default(self) -> "Candidate":
        """The candidate with every parameter at its default."""
        return self.bind()

    def bind(self, /, **parameters: float | str) -> "Candidate":
        """Fix the parameters; those that are omitted take their defaults.

        Args:
            **parameters: values inside their ranges; and `direction`, see `Candidate`, by default
                the first of the family's directions.

        Raises:
            InputError: an unknown parameter or direction, or a value outside of its range.
        """
        direction = str(parameters.pop("direction", self.directions[0]))
        if unknown := sorted(set(parameters) - set(self.space)):
            raise InputError(
                f"family {self.name!r} has no parameter {', '.join(map(repr, unknown))} "
                f"(it has: {', '.join(self.space) or 'none'})"
            )
        # A value that is no number is refused there.
        values = cast("dict[str, float]", {**self.defaults, **parameters})
        return Candidate(self, values, direction)

    def to_dict(self) -> dict[str, Any]:
        """The family as plain data; `from_dict` reads it back."""
        directed = self.directions != ("both",)
        return {
            "schema": SCHEMA if directed else 1,
            "name": self.name,
            "formula": self.formula,
            "space": {
                name: {
                    "type": "int" if isinstance(d, IntDistribution) else "float",
                    "low": d.low,
                    "high": d.high,
                    "log": d.log,
                    "step": d.step,
                }
                for name, d in self._ranges()
            },
            "defaults": dict(self.defaults),
            "reference": self.reference,
            "aliases": list(self.aliases),
            **({"directions": list(self.directions)} if directed else {}),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Family":
        """Read what `to_dict` wrote; the formula's text goes through the allow-list.

        Raises:
            InputError: a field is missing, of the wrong type, or of a newer schema.
        """
        _check_schema(data, "family")
        for key, kind in _FIELDS.items():
            if not isinstance(data.get(key, kind()), kind):
                raise InputError(f"a family's JSON holds a wrong {key!r}: {short(data[key])}")
        if missing := [key for key in ("name", "formula") if key not in data]:
            raise InputError(f"a family's JSON lacks {' and '.join(map(repr, missing))}")
        space = {
            name: distribution_from(entry, name) for name, entry in data.get("space", {}).items()
        }
        return cls(
            data["name"],
            _expression.parse(data["formula"], parameters=space),
            space=space,
            defaults=dict(data.get("defaults", {})),
            reference=data.get("reference", ""),
            aliases=tuple(data.get("aliases", ())),
            directions=tuple(data.get("directions", ("both",))),
        )

    def _key(self) -> tuple[Any, ...]:
        return (
            self.name,
            self.expression,
            dict(self.space),
            dict(self.defaults),
            self.reference,
            self.aliases,
            self.directions,
        )

    def __eq__(self, other: object) -> bool:
        return self._key() == other._key() if isinstance(other, Family) else NotImplemented

    def __hash__(self) -> int:
        return hash((self.name, self.expression))

    def __repr__(self) -> str:
        return f"Family({self.name!r}, {self.formula})"

    def __reduce__(self) -> tuple[Any, ...]:
        # Read-only mappings cannot be pickled; models that hold a candidate must be.
        return (_rebuild_family, (self.to_dict(), self.origin))

    def __deepcopy__(self, memo: Any) -> "Family":
        return self


_FIELDS: Mapping[str, type] = {
    "name": str,
    "formula": str,
    "space": dict,
    "defaults": dict,
    "reference": str,
    "aliases": list,
    "directions": list,
}


def check_direction(direction: object, where: str) -> None:
    """Refuse what is no direction.

    Raises:
        InputError: naming the valid ones.
    """
    if direction not in DIRECTIONS:
        raise InputError(
            f"{where}: direction must be one of {', '.join(DIRECTIONS)}, got {short(direction)}"
        )


def _rebuild_family(data: dict[str, Any], origin: str) -> Family:
    family = Family.from_dict(data)
    object.__setattr__(family, "origin", origin)
    return family


@dataclass(frozen=True, eq=False)
class Candidate:
    """A family with its parameters bound: one pseudo-derivative g(x), or g(x, t) if annealed.

    Calling it on a floating-point tensor of any shape gives g's values there, in the tensor's
    dtype. No gradient flows to the parameters: they are searched, not trained.

    Args:
        family: whose shape it is.
        parameters: a value for each of the family's parameters.
        direction: `both`: the backward pass multiplies every gradient by g. `up`: where x <= 0 it
            passes only gradients for which a descent step would raise the pre-activation,
            ``grad_output < 0``, and 0 for the others; where x > 0 nothing changes.

    Raises:
        InputError: a parameter is missing, unknown, not finite or outside of its range, or an
            unknown direction.
    """

    family: Family
    parameters: Mapping[str, float]
    direction: str = "both"

    def __post_init__(self) -> None:
        if not isinstance(self.family, Family) or not isinstance(self.parameters, Mapping):
            raise InputError("a candidate is made of a Family and a dictionary of parameters")
        where = f"family {self.family.name!r}"
        check_direction(self.direction, where)
        given = dict(self.parameters)
        if set(given) != set(self.family.space):
            raise InputError(
                f"{where} needs exactly the parameters "
                f"{', '.join(self.family.space) or '(none)'}, got "
                f"{', '.join(map(str, given)) or 'none'}"
            )
        values = {
            name: checked(given[name], name, distribution, where)
            for name, distribution in self.family.space.items()
        }
        object.__setattr__(self, "parameters", MappingProxyType(values))

    @functools.cached_property
    def expression(self) -> sympy.Expr:
        """The formula with the parameters put in as exact rationals; holds x, and t if annealed."""
        values = {_expression.symbol(n): _expression.exact(v) for n, v in self.parameters.items()}
        if not values:
            return self.family.expression
        try:
            # For instance 1/(alpha - 1) at alpha = 1, inside a range that looked fine at its ends.
            _expression.check_binding(self.family.expression, values)
        except FormulaError as error:
            raise FormulaError(f"{self.name}: {error}: {short(self.family.formula)}") from None
        bound = self.family.expression.xreplace(values)
        if bound.has(sympy.nan, sympy.zoo, sympy.oo):
            raise FormulaError(f"{self.name} is not finite: {short(self.family.formula)}")
        return cast(sympy.Expr, bound)

    @property
    def formula(self) -> str:
        """The bound expression as text."""
        return _expression.format_formula(self.expression)

    @property
    def latex(self) -> str:
        """The bound expression in LaTeX."""
        return _expression.format_latex(self.expression)

    @property
    def name(self) -> str:
        """Family and parameters, such as `exp_tail(alpha=0.5, beta=1)`; a direction but `both`."""
        shown = [f"{name}={value:.6g}" for name, value in self.parameters.items()]
        if self.direction != "both":
            shown.append(f"direction={self.direction}")
        return f"{self.family.name}({', '.join(shown)})" if shown else self.family.name

    @property
    def identity(self) -> str:
        """All that decides what the backward pass computes: the formula, and a direction."""
        return self.formula + ("" if self.direction == "both" else f", direction {self.direction}")

    @property
    def annealed(self) -> bool:
        """Whether g changes with training progress t."""
        return self.family.annealed

    def __call__(self, input: "torch.Tensor", t: float = 0.0) -> "torch.Tensor":
        """Values of g.

        Args:
            input: any shape, a floating-point dtype.
            t: training progress in [0, 1]; matters to annealed families only.

        Returns:
            g(input), same shape and dtype.

        Raises:
            InputError: `input` is not floating-point, or t is outside of [0, 1].
        """
        from pdsearch.codegen import evaluate

        return evaluate(self, input, t=t)

    def to_dict(self) -> dict[str, Any]:
        """The candidate as plain data, its whole family with it."""
        directed = {} if self.direction == "both" else {"direction": self.direction}
        return {
            "schema": SCHEMA if directed else 1,
            "family": self.family.to_dict(),
            "parameters": dict(self.parameters),
            **directed,
        }

    @classmethod
    def from_dict(
        cls, data: Mapping[str, Any], *, read: Callable[[Mapping[str, Any]], Family] | None = None
    ) -> "Candidate":
        """Read what `to_dict` wrote; by `read` its family, where many candidates share a few.

        Raises:
            InputError: a field is missing, of the wrong type, or of a newer schema.
        """
        _check_schema(data, "candidate")
        family, parameters = data.get("family"), data.get("parameters")
        if not isinstance(family, Mapping) or not isinstance(parameters, Mapping):
            raise InputError("a candidate's JSON needs the objects 'family' and 'parameters'")
        read = read or Family.from_dict
        return cls(read(family), dict(parameters), data.get("direction", "both"))

    def to_json(self) -> str:
        """The candidate as one JSON document, with a schema version."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> "Candidate":
        """Read what `to_json` wrote, this version's or an older one's.

        Raises:
            InputError: no JSON, or not a candidate's.
        """
        if len(text) > JSON_LIMIT:
            raise InputError(f"a candidate's JSON has {len(text):,} characters: too long")
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InputError(f"not JSON ({error})") from None
        if not isinstance(data, dict):
            raise InputError("a candidate's JSON must be an object")
        return cls.from_dict(data)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Candidate):
            return NotImplemented
        return (
            self.family == other.family
            and dict(self.parameters) == dict(other.parameters)
            and self.direction == other.direction
        )

    def __hash__(self) -> int:
        return hash((self.family, frozenset(self.parameters.items()), self.direction))

    def __repr__(self) -> str:
        return f"Candidate({self.name})"

    def __reduce__(self) -> tuple[Any, ...]:
        return (Candidate, (self.family, dict(self.parameters), self.direction))

    def __deepcopy__(self, memo: Any) -> "Candidate":
        return self


def _check_schema(data: Mapping[str, Any], what: str) -> None:
    if not isinstance(data, Mapping):
        raise InputError(f"a {what}'s JSON must be an object")
    schema = data.get("schema")
    if not isinstance(schema, int) or isinstance(schema, bool) or schema < 1:
        raise InputError(f"a {what}'s JSON lacks its schema version")
    if schema > SCHEMA:
        raise InputError(
            f"this {what} was written by a newer pdsearch (schema {schema}, this version reads up "
            f"to {SCHEMA}): update pdsearch"
        )
