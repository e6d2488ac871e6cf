"""What a study file names: families, criteria, and the files that its results depend on.

A study keeps the text of each criterion's file, and digests of its images and its model's file.
"""

import ast
import functools
import hashlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType
from typing import TYPE_CHECKING, Any

from pdsearch.criteria import UserCriterion, read_criterion
from pdsearch.family import Family, load_family
from pdsearch.study.families import BASELINE, Groups, all_families, resolve_families
from pdsearch.study.problems import Problems
from pdsearch.study.settings import CriteriaSection, StudyFile

if TYPE_CHECKING:
    from pdsearch.data import Dataset
    from pdsearch.trial import TrialSettings


@dataclass(frozen=True)
class Named:
    """The families of a study file by name, and its own criteria with their files' texts.

    The families to search are those of each group of layers.
    """

    groups: Groups
    references: Mapping[str, Family]
    criteria: tuple[UserCriterion, ...] = ()
    texts: Mapping[str, str] = field(default_factory=dict)

    @property
    def searched(self) -> dict[str, Family]:
        """Every family that candidates are drawn from, by name."""
        return all_families(self.groups)

    @property
    def families(self) -> dict[str, Family]:
        """Every family by name, the baseline's too."""
        return {BASELINE: load_family(BASELINE), **self.references, **self.searched}


def resolved(settings: StudyFile) -> Named:
    """Load the families and the criteria that a study file names.

    Raises:
        InputError: some cannot be loaded: all of them, one per line.
    """
    problems = Problems()
    families: tuple[Groups, dict[str, Family]] = {}, {}
    own: tuple[tuple[UserCriterion, ...], dict[str, str]] = (), {}
    with problems.at():
        families = resolve_families(settings.study, directory=settings.directory)
    with problems.at():
        own = load_own(settings.criteria, directory=settings.directory)
    problems.check()
    return Named(*families, *own)


def load_own(
    criteria: CriteriaSection, *, directory: Path
) -> tuple[tuple[UserCriterion, ...], dict[str, str]]:
    """Return a study file's own criteria, and their files' texts by `path.py:function`.

    Raises:
        InputError: some cannot be loaded: all of them, one per line.
    """
    functions, texts, problems = [], {}, Problems()
    for index, spec in enumerate(criteria.own):
        with problems.at(f"criteria.own.{index}: "):
            function, texts[spec] = read_criterion(spec, directory=directory)
            functions.append(function)
    problems.check()
    return tuple(functions), texts


def changed_texts(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Return the criteria whose files have changed, except for comments and layout."""
    return [
        spec
        for spec, text in now.items()
        if spec in before and ast.dump(ast.parse(before[spec])) != ast.dump(ast.parse(text))
    ]


def content_of(
    trial: "TrialSettings", dataset: "Dataset | None", *, directory: Path
) -> dict[str, str]:
    """Return digests of a study's images and of its model's file, by the settings that name them.

    The test images are included: a search does not use them, but its confirmation does. There are
    no digests if a Python function trains, without a data set.
    """
    if dataset is None:
        return {}
    from pdsearch.models import source_digest

    found = {f"trial.dataset {trial.dataset!r}": dataset.fingerprint}
    source = source_digest(trial.model, directory=directory)
    if source is not None:
        found[f"trial.model {trial.model!r}"] = source
    return found


def code_of(function: Callable[..., Any] | None) -> dict[str, str]:
    """Return a digest of a train function's bytecode, which comments and layout do not change.

    By the version of Python, whose bytecodes differ. Defaults and the arguments of a `partial`
    count if they are numbers or text. What the function calls is not included, and nothing is known
    of a builtin.
    """
    bound: list[Any] = []
    while isinstance(function, functools.partial):
        bound.append([_plain(function.args), _plain(function.keywords)])
        function = function.func
    if function is not None and not hasattr(function, "__code__"):
        function = type(function).__call__  # of an object that is callable
    code = getattr(function, "__code__", None)
    if code is None:
        return {}
    for name in ("__defaults__", "__kwdefaults__"):
        bound.append(_plain(getattr(function, name, None)))
    parts = [_parts(code, getattr(function, "__doc__", None)), bound]
    digest = hashlib.sha256(repr(parts).encode())
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    return {f"train (as Python {version} compiles it)": digest.hexdigest()}


def _plain(value: Any) -> Any:
    """Return a value, without what is printed otherwise in each process."""
    if isinstance(value, tuple | list):
        return [_plain(one) for one in value]
    if isinstance(value, Mapping):
        return sorted((str(key), repr(_plain(one))) for key, one in value.items())
    return value if isinstance(value, str | int | float | None) else type(value).__name__


def _parts(code: CodeType, doc: str | None) -> list[Any]:
    def shown(constant: Any) -> Any:
        if isinstance(constant, CodeType):
            return _parts(constant, None)
        # The order of a set of texts differs between processes.
        return sorted(map(repr, constant)) if isinstance(constant, frozenset) else repr(constant)

    constants = [shown(constant) for constant in code.co_consts if constant != doc]
    return [code.co_code.hex(), code.co_names, code.co_varnames, constants]


def other_content(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return the settings whose files have changed; those without a stored digest are skipped."""
    return [key for key in now if key in before and before[key] != now[key]]
