"""Families of pseudo-derivatives, and candidates: families with their parameters bound.

A family is data: one sympy expression in `x` (and maybe `t`), with a range for each parameter.
Kernel, criteria, plots, LaTeX and exported files are all made from that expression.
"""

import functools
import importlib.util
import json
import math
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

import sympy
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution

from pdsearch import expression as _expression
from pdsearch.errors import FormulaError, InputError

if TYPE_CHECKING:
    import torch

__all__ = [
    "Candidate",
    "Family",
    "find_families",
    "library",
    "library_directory",
    "load_family",
    "load_target",
]

SCHEMA = 1
"""Version of the JSON that families and candidates are written as; older ones stay readable."""

_FAMILY_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}\Z")
_JSON_LIMIT = 1_000_000  # bytes; a candidate is about 500


@dataclass(frozen=True, eq=False)
class Family:
    r"""A pseudo-derivative g(x; parameters) with a range for each of its parameters.

    Args:
        name: an identifier; in a study, `<name>.<parameter>` names its Optuna parameters.
        expression: g as a sympy expression in `pdsearch.x`, optionally `pdsearch.t`, and the
            parameters. Symbols are taken by name; decimal numbers become exact rationals.
        space: an `optuna.distributions.FloatDistribution` or `IntDistribution` a parameter.
        defaults: values inside the ranges. Left out: the middle (geometric where log).
        reference: where the shape comes from.
        aliases: other names under which the library finds it.
        origin: the file it was read from; not part of what makes families equal.

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

    def __post_init__(self) -> None:
        for name in (self.name, *self.aliases):
            if not isinstance(name, str) or not _FAMILY_NAME.match(name):
                raise InputError(
                    f"family name {_short(name)} is not valid: use an ASCII identifier of at most "
                    "64 characters, such as exp_tail"
                )
        where = f"family {self.name!r}"
        try:
            expression = _expression.canonical(self.expression)
            for name in self.space:
                _expression.symbol(name)
            for name, distribution in self.space.items():
                _check_distribution(name, distribution)
            _expression.check_parameters_used(expression, self.space)
        except InputError as error:
            raise type(error)(f"{where}: {error}") from None
        if unknown := sorted(set(self.defaults) - set(self.space)):
            raise InputError(
                f"{where}: default(s) given for {', '.join(unknown)}, which the space does not "
                f"hold (it holds: {', '.join(self.space) or 'nothing'})"
            )
        defaults = {
            name: _checked(self.defaults[name], name, distribution, where)
            if name in self.defaults
            else _middle(distribution)
            for name, distribution in self.space.items()
        }
        assign = functools.partial(object.__setattr__, self)
        assign("expression", expression)
        assign("space", MappingProxyType(dict(self.space)))
        assign("defaults", MappingProxyType(defaults))
        assign("aliases", tuple(self.aliases))
        for values in self._corners():
            bound = _bind(expression, values)
            trouble = _expression.undefined_at(bound.xreplace({_expression.t: sympy.S.Zero}))
            if trouble is not None:
                point, what = trouble
                at = ", ".join([f"x = {point}", *(f"{k} = {v:g}" for k, v in values.items())])
                raise FormulaError(
                    f"{where}: {_expression.format_formula(expression)} {what} at {at}; a "
                    "pseudo-derivative must be a finite real number at every x"
                )

    def _corners(self) -> Iterator[dict[str, float]]:
        """The defaults, and where parameters have ranges the box's two extreme corners."""
        yield dict(self.defaults)
        if self.space:
            yield {name: float(d.low) for name, d in self._ranges()}
            yield {name: float(d.high) for name, d in self._ranges()}

    def _ranges(self) -> Iterator[tuple[str, FloatDistribution | IntDistribution]]:
        for name, distribution in self.space.items():
            yield name, cast("FloatDistribution | IntDistribution", distribution)

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
        return sympy.latex(self.expression)

    @property
    def annealed(self) -> bool:
        """Whether g changes with training progress t."""
        return _expression.t in self.expression.free_symbols

    @property
    def default(self) -> "Candidate":
        """The candidate with every parameter at its default."""
        return self.bind()

    def bind(self, **parameters: float) -> "Candidate":
        """Fix the parameters; those left out take their defaults.

        Raises:
            InputError: an unknown parameter, or a value outside of its range.
        """
        if unknown := sorted(set(parameters) - set(self.space)):
            raise InputError(
                f"family {self.name!r} has no parameter {', '.join(map(repr, unknown))} "
                f"(it has: {', '.join(self.space) or 'none'})"
            )
        return Candidate(self, {**self.defaults, **parameters})

    def to_dict(self) -> dict[str, Any]:
        """The family as plain data; `from_dict` reads it back."""
        return {
            "schema": SCHEMA,
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
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Family":
        """Read what `to_dict` wrote; the formula's text goes through the allow-list.

        Raises:
            InputError: a field is missing, of the wrong type, or of a newer schema.
        """
        _check_schema(data, "family")
        try:
            space: dict[str, BaseDistribution] = {}
            for name, entry in dict(data.get("space", {})).items():
                space[name] = distribution_from(entry, name)
            return cls(
                data["name"],
                _expression.parse(data["formula"], parameters=space),
                space=space,
                defaults=dict(data.get("defaults", {})),
                reference=str(data.get("reference", "")),
                aliases=tuple(data.get("aliases", ())),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"a family's JSON is broken: {type(error).__name__} {error}"
            ) from None

    def _key(self) -> tuple[Any, ...]:
        return (
            self.name,
            self.expression,
            tuple(self.space.items()),
            tuple(self.defaults.items()),
            self.reference,
            self.aliases,
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


def _rebuild_family(data: dict[str, Any], origin: str) -> Family:
    family = Family.from_dict(data)
    object.__setattr__(family, "origin", origin)
    return family


@dataclass(frozen=True, eq=False)
class Candidate:
    """A family with its parameters bound: one pseudo-derivative g(x), or g(x, t) if annealed.

    Calling it on a floating-point tensor of any shape gives g's values there, in the tensor's
    dtype. No gradient flows to the parameters: they are searched, not trained.

    Raises:
        InputError: a parameter is missing, unknown, not finite or outside of its range.
    """

    family: Family
    parameters: Mapping[str, float]

    def __post_init__(self) -> None:
        where = f"family {self.family.name!r}"
        given = dict(self.parameters)
        if set(given) != set(self.family.space):
            raise InputError(
                f"{where} needs exactly the parameters "
                f"{', '.join(self.family.space) or '(none)'}, got {', '.join(given) or 'none'}"
            )
        values = {
            name: _checked(given[name], name, distribution, where)
            for name, distribution in self.family.space.items()
        }
        object.__setattr__(self, "parameters", MappingProxyType(values))

    @functools.cached_property
    def expression(self) -> sympy.Expr:
        """g with the parameters put in as exact rationals; holds x, and t if annealed."""
        bound = _bind(self.family.expression, self.parameters)
        # For instance 1/(alpha - 1) at alpha = 1, inside of a range that looked fine at its ends.
        if bound.has(sympy.nan, sympy.zoo, sympy.oo):
            raise FormulaError(f"{self.name} is not finite: {self.family.formula}")
        return bound

    @property
    def formula(self) -> str:
        """The bound expression as text."""
        return _expression.format_formula(self.expression)

    @property
    def latex(self) -> str:
        """The bound expression in LaTeX."""
        return sympy.latex(self.expression)

    @property
    def name(self) -> str:
        """Family and parameters, such as `exp_tail(alpha=0.5, beta=1)`."""
        if not self.parameters:
            return self.family.name
        shown = ", ".join(f"{name}={value:.6g}" for name, value in self.parameters.items())
        return f"{self.family.name}({shown})"

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
        return {
            "schema": SCHEMA,
            "family": self.family.to_dict(),
            "parameters": dict(self.parameters),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Candidate":
        """Read what `to_dict` wrote.

        Raises:
            InputError: a field is missing, of the wrong type, or of a newer schema.
        """
        _check_schema(data, "candidate")
        family, parameters = data.get("family"), data.get("parameters")
        if not isinstance(family, Mapping) or not isinstance(parameters, Mapping):
            raise InputError("a candidate's JSON needs the objects 'family' and 'parameters'")
        return cls(Family.from_dict(family), dict(parameters))

    def to_json(self) -> str:
        """The candidate as one JSON document, with a schema version."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> "Candidate":
        """Read what `to_json` wrote, this version's or an older one's.

        Raises:
            InputError: no JSON, or not a candidate's.
        """
        if len(text) > _JSON_LIMIT:
            raise InputError(f"a candidate's JSON has {len(text):,} characters: too long")
        try:
            data = json.loads(text)
        except (json.JSONDecodeError, RecursionError) as error:
            raise InputError(f"not JSON: {error}") from None
        if not isinstance(data, dict):
            raise InputError("a candidate's JSON must be an object")
        return cls.from_dict(data)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Candidate):
            return NotImplemented
        return self.family == other.family and dict(self.parameters) == dict(other.parameters)

    def __hash__(self) -> int:
        return hash((self.family, tuple(self.parameters.items())))

    def __repr__(self) -> str:
        return f"Candidate({self.name})"

    def __reduce__(self) -> tuple[Any, ...]:
        return (Candidate, (self.family, dict(self.parameters)))

    def __deepcopy__(self, memo: Any) -> "Candidate":
        return self


# ------------------------------------------------------------------------------ ranges and values


def _bind(expression: sympy.Expr, values: Mapping[str, float]) -> sympy.Expr:
    substitution = {_expression.symbol(name): _expression.exact(v) for name, v in values.items()}
    return cast(sympy.Expr, expression.xreplace(substitution))


def _check_distribution(name: str, distribution: BaseDistribution) -> None:
    if not isinstance(distribution, FloatDistribution | IntDistribution):
        raise InputError(
            f"parameter {name!r} needs an optuna FloatDistribution or IntDistribution, got "
            f"{type(distribution).__name__}"
        )
    if not (math.isfinite(distribution.low) and math.isfinite(distribution.high)):
        raise InputError(f"the range of {name!r} must be finite, got {distribution}")


def distribution_from(entry: Any, name: str) -> FloatDistribution | IntDistribution:
    """A distribution from plain data: `[low, high]`, `[low, high, "log"]` or `to_dict`'s object.

    Raises:
        InputError: with the parameter's name.
    """
    if isinstance(entry, Sequence) and not isinstance(entry, str):
        if len(entry) not in (2, 3) or (len(entry) == 3 and entry[2] != "log"):
            raise InputError(
                f'the range of {name!r} must be [low, high] or [low, high, "log"], got {entry!r}'
            )
        entry = {"low": entry[0], "high": entry[1], "log": len(entry) == 3}
    if not isinstance(entry, Mapping):
        raise InputError(f"the range of {name!r} must be [low, high], got {_short(entry)}")
    if unknown := sorted(set(entry) - {"type", "low", "high", "log", "step"}):
        raise InputError(f"the range of {name!r} has unknown keys: {', '.join(map(str, unknown))}")
    try:
        low, high, step = entry["low"], entry["high"], entry.get("step")
    except KeyError as error:
        raise InputError(f"the range of {name!r} lacks {error}") from None
    log = entry.get("log", False)
    for value in (low, high, *(() if step is None else (step,))):
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InputError(f"the range of {name!r} needs numbers, got {_short(value)}")
        if not math.isfinite(value):
            raise InputError(f"the range of {name!r} must be finite, got {value}")
    if not isinstance(log, bool):
        raise InputError(f"'log' of the range of {name!r} must be true or false, got {log!r}")
    if low > high:
        raise InputError(f"the range of {name!r} is empty: low {low} is above high {high}")
    if log and low <= 0:
        raise InputError(f"the range of {name!r} is logarithmic and must start above 0, got {low}")
    try:
        if entry.get("type", "float") == "int":
            return IntDistribution(low, high, log=log, step=step or 1)
        return FloatDistribution(float(low), float(high), log=log, step=step)
    except ValueError as error:
        raise InputError(f"the range of {name!r}: {error}") from None


def _middle(distribution: BaseDistribution) -> float:
    d = cast("FloatDistribution | IntDistribution", distribution)
    value = math.sqrt(d.low * d.high) if d.log else (d.low + d.high) / 2
    if isinstance(d, IntDistribution):
        return int(min(max(round(value), d.low), d.high))
    return float(f"{value:.6g}") if d.low <= float(f"{value:.6g}") <= d.high else value


def _checked(value: Any, name: str, distribution: BaseDistribution, where: str) -> float:
    d = cast("FloatDistribution | IntDistribution", distribution)
    if isinstance(value, bool) or not hasattr(value, "__float__"):
        raise InputError(f"{name} for {where} must be a number, got {_short(value)}")
    number = float(value)
    if not d.low <= number <= d.high:  # NaN fails too
        raise InputError(f"{name} must be in [{d.low!r}, {d.high!r}] for {where}, got {number!r}")
    if isinstance(d, IntDistribution):
        if number != int(number):
            raise InputError(f"{name} must be a whole number for {where}, got {number!r}")
        return int(number)
    return number


def _short(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else text[:57] + "..."


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


# ------------------------------------------------------------------------------------- loading


def library_directory() -> Path:
    """Where the library's families are: in the package, or beside it in a checkout."""
    inside = Path(__file__).parent / "search_spaces"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "search_spaces"


@functools.cache
def _library() -> tuple[Mapping[str, Family], Mapping[str, str]]:
    directory = library_directory()
    if not directory.is_dir():
        raise InputError(f"the library of families is missing: no folder {directory}")
    families: dict[str, Family] = {}
    names: dict[str, str] = {}
    for file in sorted(directory.glob("*.py")):
        for family in find_families(file, origin=f"search_spaces/{file.name}").values():
            for name in (family.name, *family.aliases):
                if name in names:
                    raise InputError(f"two families of the library are called {name!r}")
                names[name] = family.name
            families[family.name] = family
    ordered = dict(sorted(families.items()))
    return MappingProxyType(ordered), MappingProxyType(names)


def library() -> dict[str, Family]:
    """Every family of the library, by name, sorted; aliases lead to it through `load_family`."""
    return dict(_library()[0])


def find_families(path: Path, *, origin: str | None = None) -> dict[str, Family]:
    """The families at the top level of a Python file, by name. Runs the file.

    Raises:
        InputError: no such file, it fails, or holds no family.
    """
    if not path.is_file():
        kind = "is a directory" if path.is_dir() else "does not exist"
        raise InputError(f"{path} {kind}: give a Python file that defines a Family")
    module_name = f"_pdsearch_families_{abs(hash(str(path.resolve()))):x}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise InputError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    # Functions and dataclasses of the file look their module up while it runs.
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except InputError as error:
        raise type(error)(f"{path}: {error}") from None
    except Exception as error:
        line = _line_in(error, path)
        first = str(error).splitlines()[0] if str(error) else ""
        raise InputError(f"{path}{line}: {type(error).__name__}: {first}") from error
    finally:
        sys.modules.pop(module_name, None)
    found: dict[str, Family] = {}
    for value in vars(module).values():
        if isinstance(value, Family) and value.name not in found:
            object.__setattr__(value, "origin", origin or str(path))
            found[value.name] = value
    if not found:
        raise InputError(f"{path} defines no Family at its top level")
    return found


def _line_in(error: BaseException, path: Path) -> str:
    if isinstance(error, SyntaxError):
        return f":{error.lineno}"
    traceback, line = error.__traceback__, ""
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename == str(path):
            line = f":{traceback.tb_lineno}"
        traceback = traceback.tb_next
    return line


def load_family(spec: str | Path, *, directory: Path | None = None) -> Family:
    """A family by its library name or alias, or from a file.

    Args:
        spec: `exp_tail`, or `path.py` where the file holds one family, or `path.py:name`.
        directory: what relative paths are relative to; the working directory if None.

    Raises:
        InputError: no such family or file, naming what there is.
    """
    text = str(spec)
    file, _, name = text.rpartition(":") if ".py:" in text else (text, "", "")
    if file.endswith(".py"):
        path = Path(file) if directory is None else directory / file
        found = find_families(path)
        if name:
            for family in found.values():
                if name in (family.name, *family.aliases):
                    return family
            raise InputError(f"{file} defines no family {name!r} (it defines: {', '.join(found)})")
        if len(found) > 1:
            raise InputError(
                f"{file} defines several families: choose one with {file}:NAME "
                f"({', '.join(found)})"
            )
        return next(iter(found.values()))
    families, names = _library()
    if text in names:
        return families[names[text]]
    raise InputError(_no_such_family(text, names))


def _no_such_family(text: str, names: Mapping[str, str]) -> str:
    import difflib

    close = difflib.get_close_matches(text, names, n=3, cutoff=0.6)
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    return f"no family {_short(text)}: {hint}the library has {', '.join(sorted(names))}"


def load_target(
    text: str,
    *,
    settings: Mapping[str, float] | None = None,
    params: Sequence[str] = (),
) -> tuple[Family, Candidate]:
    """What the command line calls a TARGET: a family, a file, a candidate's JSON, or a formula.

    Args:
        text: `exp_tail` | `path.py[:name]` | `candidate.json` | `"formula in x"`.
        settings: parameter values; in a formula they declare parameters too.
        params: ranges that declare a formula's parameters, each `a=0.01:1` or `a=0.01:1:log`.

    Returns:
        The family, and its candidate at the defaults changed by `settings` (for a JSON file, at
        the file's parameters changed by them).

    Raises:
        InputError: nothing of the kind, or a setting that does not fit.
    """
    settings = dict(settings or {})
    ranges = dict(_parse_range(param) for param in params)
    is_name = bool(_FAMILY_NAME.match(text)) and text not in ("x", "t")
    is_file = text.endswith((".py", ".json")) or ".py:" in text
    if (is_name or is_file) and ranges:
        raise InputError("--param declares the parameters of a formula; this target has its own")
    if text.endswith(".json"):
        candidate = _read_candidate(Path(text))
        return candidate.family, candidate.family.bind(**{**candidate.parameters, **settings})
    if is_name and not is_file and text not in ("pi", "E"):
        # A bare word is a family's name, unless it was declared as a parameter just now.
        if text not in settings:
            family = load_family(text)
            return family, family.bind(**settings)
    elif is_file:
        family = load_family(text)
        return family, family.bind(**settings)
    space: dict[str, BaseDistribution] = dict(ranges)
    for name, value in settings.items():
        if name not in space:
            space[name] = _degenerate(name, value)
    expression = _expression.parse(text, parameters=space)
    family = Family("formula", expression, space=space, defaults=settings, origin="formula")
    return family, family.default


def _degenerate(name: str, value: float) -> FloatDistribution:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InputError(f"--set {name} needs a finite number, got {value!r}")
    return FloatDistribution(float(value), float(value))


def _parse_range(text: str) -> tuple[str, FloatDistribution | IntDistribution]:
    name, equals, rest = text.partition("=")
    parts = rest.split(":")
    if not equals or len(parts) not in (2, 3) or (len(parts) == 3 and parts[2] != "log"):
        raise InputError(f"--param needs NAME=LOW:HIGH or NAME=LOW:HIGH:log, got {_short(text)}")
    name = name.strip()
    _expression.symbol(name)
    try:
        low, high = float(parts[0]), float(parts[1])
    except ValueError:
        raise InputError(f"--param {name}: LOW and HIGH must be numbers, got {rest!r}") from None
    return name, distribution_from({"low": low, "high": high, "log": len(parts) == 3}, name)


def _read_candidate(path: Path) -> Candidate:
    try:
        size = path.stat().st_size
        if size > _JSON_LIMIT:
            raise InputError(f"{path} has {size:,} bytes: no candidate's file is that large")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"{path} is not UTF-8 text") from None
    try:
        return Candidate.from_json(text)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
