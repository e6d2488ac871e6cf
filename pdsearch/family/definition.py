"""The two data types: a family, and a candidate, which is a family with its parameters bound."""

import functools
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

import sympy
from optuna.distributions import BaseDistribution, IntDistribution

from pdsearch import codegen
from pdsearch import expression as _expression
from pdsearch.errors import FormulaError, InputError, short
from pdsearch.family.documents import SCHEMA, check_schema, read_object
from pdsearch.family.notebook import ShownCandidate, ShownFamily
from pdsearch.family.ranges import (
    Range,
    checked,
    checked_distribution,
    distribution_from,
    middle,
)

if TYPE_CHECKING:
    import torch

DIRECTIONS = ("both", "up")
"""Which gradients pass below zero: all, or only those that would raise the unit."""

FAMILY_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}\Z")


@dataclass(frozen=True)
class Family(ShownFamily):
    r"""A pseudo-derivative g(x; parameters) with a range for each of its parameters.

    Args:
        name: an identifier; in a study, `<name>.<parameter>` names its Optuna parameters.
        expression: g as a sympy expression in `pdsearch.x`, optionally `pdsearch.t`, and the
            parameters. Symbols are identified by name. Their assumptions may be those of their
            ranges (positive, for instance), and real for x; decimal numbers become exact
            rationals.
        space: an `optuna.distributions.FloatDistribution` or `IntDistribution` per parameter.
        defaults: values inside the ranges. By default the middle (geometric where log).
        reference: where the shape comes from.
        aliases: other names under which the library finds it.
        origin: the file it was read from; ignored when families are compared.
        directions: which `direction` its candidates may have in a search; `bind` uses the first
            by default.

    Raises:
        InputError: a name, range, default or parameter is wrong.
        FormulaError: the expression is not a finite real function of x at its defaults or at the
            corners of its ranges, or contains something that pdsearch cannot compile.
    """

    name: str
    expression: sympy.Expr
    space: Mapping[str, BaseDistribution] = field(default_factory=dict, kw_only=True, hash=False)
    defaults: Mapping[str, float] = field(default_factory=dict, kw_only=True, hash=False)
    reference: str = field(default="", kw_only=True)
    aliases: tuple[str, ...] = field(default=(), kw_only=True)
    origin: str = field(default="", kw_only=True, compare=False)
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
        for field_name in ("space", "defaults"):
            if not isinstance(values := getattr(self, field_name), Mapping):
                raise InputError(f"{where}: {field_name} must be a dictionary, got {short(values)}")
        for field_name in ("reference", "origin"):
            if not isinstance(text := getattr(self, field_name), str):
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
        for field_name, value in {
            "expression": expression,
            "space": MappingProxyType(space),
            "defaults": MappingProxyType(defaults),
            "aliases": tuple(self.aliases),
            "directions": tuple(self.directions),
        }.items():
            object.__setattr__(self, field_name, value)
        # At the defaults, and at the two extreme corners of the box.
        corners = [defaults]
        if any(d.low != d.high for d in space.values()):
            corners += [{n: d.low for n, d in space.items()}, {n: d.high for n, d in space.items()}]
        for values in corners:
            try:
                _expression.check_defined(expression, values)
            except FormulaError as error:
                raise FormulaError(f"{where}: {error}") from None

    def _check_directions(self, where: str) -> None:
        given = self.directions
        if isinstance(given, str) or not given or len(set(given)) < len(tuple(given)):
            raise InputError(
                f"{where}: directions must be a tuple of one or more of {', '.join(DIRECTIONS)}, "
                f"each once, got {short(given)}"
            )
        for direction in given:
            _check_direction(direction, where)
        if "direction" in self.space:
            raise InputError(f"{where}: 'direction' cannot name a parameter: it is bind's argument")

    def _check_assumptions(self, space: Mapping[str, Range]) -> None:
        if isinstance(self.expression, sympy.Expr):
            ranges = {
                name: _expression.Values(d.low, d.high, isinstance(d, IntDistribution))
                for name, d in space.items()
            }
            _expression.check_assumptions(self.expression, ranges)
            if all(symbol.name in space for symbol in self.expression.free_symbols):
                _expression.check_constant(self.expression)

    @property
    def parameters(self) -> tuple[str, ...]:
        """The names of the parameters, in the order of the space."""
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

    @functools.cached_property
    def default(self) -> "Candidate":
        """The candidate with every parameter at its default."""
        return self.bind()

    def bind(self, /, **parameters: float | str) -> "Candidate":
        """Fix the parameters; omitted ones take their defaults.

        Args:
            **parameters: values inside their ranges; and `direction` (see `Candidate`), by default
                the first of the family's directions.

        Raises:
            InputError: an unknown parameter or direction, or a value outside its range.
        """
        direction = str(parameters.pop("direction", self.directions[0]))
        if unknown := sorted(set(parameters) - set(self.space)):
            raise InputError(
                f"family {self.name!r} has no parameter {', '.join(map(repr, unknown))} "
                f"(it has: {', '.join(self.space) or 'none'})"
            )
        # Candidate checks the values.
        values = cast("dict[str, float]", {**self.defaults, **parameters})
        return Candidate(self, values, direction)

    def to_dict(self) -> dict[str, Any]:
        """Return the family as plain data; `from_dict` reads it back."""
        directed = self.directions != ("both",)
        return {
            "schema": SCHEMA if directed else 1,
            "name": self.name,
            "formula": self.formula,
            "space": {
                name: {
                    "type": "int" if isinstance(d, IntDistribution) else "float",
                    **{key: getattr(d, key) for key in ("low", "high", "log", "step")},
                }
                for name, d in cast("Mapping[str, Range]", self.space).items()
            },
            "defaults": dict(self.defaults),
            "reference": self.reference,
            "aliases": list(self.aliases),
            **({"directions": list(self.directions)} if directed else {}),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Family":
        """Read what `to_dict` wrote; the allow-list checks the formula's text.

        Raises:
            InputError: a field is missing, of the wrong type, or of a newer schema.
        """
        check_schema(data, "family")
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


def _check_direction(direction: object, where: str) -> None:
    if direction not in DIRECTIONS:
        raise InputError(
            f"{where}: direction must be one of {', '.join(DIRECTIONS)}, got {short(direction)}"
        )


def _rebuild_family(data: dict[str, Any], origin: str) -> Family:
    family = Family.from_dict(data)
    object.__setattr__(family, "origin", origin)
    return family


@dataclass(frozen=True)
class Candidate(ShownCandidate):
    """A family with its parameters bound: one pseudo-derivative g(x), or g(x, t) if annealed.

    Calling it on a floating-point tensor of any shape returns the values of g in the tensor's
    dtype. No gradient flows to the parameters: they are searched, not trained.

    Args:
        family: the family.
        parameters: a value for each of its parameters.
        direction: `both`: the backward pass multiplies every gradient by g. `up`: where x <= 0,
            only gradients pass for which a descent step would raise the pre-activation
            (``grad_output < 0``); the others become 0. Nothing changes where x > 0.

    Raises:
        InputError: a parameter is missing, unknown, not finite or outside its range, or the
            direction is unknown.
    """

    family: Family
    parameters: Mapping[str, float]
    direction: str = "both"

    def __post_init__(self) -> None:
        if not isinstance(self.family, Family) or not isinstance(self.parameters, Mapping):
            raise InputError("a candidate is made of a Family and a dictionary of parameters")
        where = f"family {self.family.name!r}"
        _check_direction(self.direction, where)
        given = dict(self.parameters)
        if set(given) != set(self.family.space):
            raise InputError(
                f"{where} needs exactly the parameters "
                f"{', '.join(self.family.space) or '(none)'}, got "
                f"{', '.join(map(str, given)) or 'none'}"
            )
        values = {
            name: checked(given[name], name, cast("Range", distribution), where)
            for name, distribution in self.family.space.items()
        }
        object.__setattr__(self, "parameters", MappingProxyType(values))

    @functools.cached_property
    def expression(self) -> sympy.Expr:
        """The formula with the parameters as exact rationals, in x, and in t if annealed."""
        values = {_expression.symbol(n): _expression.exact(v) for n, v in self.parameters.items()}
        if not values:
            return self.family.expression
        try:
            # For instance 1/(alpha - 1) at alpha = 1, inside a range that is fine at its ends.
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
        """Family and parameters, such as `exp_tail(alpha=0.5, beta=1)`; a direction unless both."""
        shown = [f"{name}={value:.6g}" for name, value in self.parameters.items()]
        if self.direction != "both":
            shown.append(f"direction={self.direction}")
        return f"{self.family.name}({', '.join(shown)})" if shown else self.family.name

    @property
    def identity(self) -> str:
        """Everything that determines the backward pass: the formula, and the direction."""
        return self.formula + ("" if self.direction == "both" else f", direction {self.direction}")

    @property
    def annealed(self) -> bool:
        """Whether g changes with training progress t."""
        return self.family.annealed

    def __call__(self, input: "torch.Tensor", t: float = 0.0) -> "torch.Tensor":
        """Return g(input, t), same shape and dtype as the input.

        Args:
            input: any shape, a floating-point dtype.
            t: training progress in [0, 1], for annealed families.

        Raises:
            InputError: `input` is not floating-point, or t is outside [0, 1].
        """
        return codegen.evaluate(self, input, t=t)

    def to_dict(self) -> dict[str, Any]:
        """Return the candidate as plain data, its whole family included."""
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
        """Read what `to_dict` wrote.

        Args:
            data: what it wrote.
            read: reads the family; for many candidates that share a few.

        Raises:
            InputError: a field is missing, of the wrong type, or of a newer schema.
        """
        if isinstance(data, Mapping) and "groups" in data:
            raise InputError(
                "this JSON holds a candidate for each of several groups: read it with "
                "Grouped.from_json, or export one group's candidate (pdsearch export --group NAME)"
            )
        check_schema(data, "candidate")
        family, parameters = data.get("family"), data.get("parameters")
        if not isinstance(family, Mapping) or not isinstance(parameters, Mapping):
            raise InputError("a candidate's JSON needs the objects 'family' and 'parameters'")
        read = read or Family.from_dict
        return cls(read(family), dict(parameters), data.get("direction", "both"))

    def to_json(self) -> str:
        """Return the candidate as one JSON document, with a schema version."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> "Candidate":
        """Read what `to_json` wrote, in this version or an older one.

        Raises:
            InputError: the text is not JSON, or not a candidate.
        """
        return cls.from_dict(read_object(text, "candidate"))

    def __hash__(self) -> int:
        return hash((self.family, frozenset(self.parameters.items()), self.direction))

    def __repr__(self) -> str:
        return f"Candidate({self.name})"

    def __reduce__(self) -> tuple[Any, ...]:
        return (Candidate, (self.family, dict(self.parameters), self.direction))

    def __deepcopy__(self, memo: Any) -> "Candidate":
        return self
