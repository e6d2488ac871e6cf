"""Write docs/study.md, the list of all keys of a study file: `python docs/study.py`."""

import json
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from pdsearch.study.begin import FREE
from pdsearch.study.settings import StudyFile

PAGE = Path(__file__).parent / "study.md"

HEAD = """\
# The study file

`pdsearch search FILE.toml` reads a TOML file of four sections. Only `name` and `families` are
required. Paths are relative to the file. Unknown keys, wrong types and impossible values are
reported all at once, before anything runs.

```toml
[study]
name = "example"
families = [
    "exp_tail",                       # a library name
    {{ formula = "Piecewise((1, x > 0), (a*exp(x), True))", space = {{ a = [0.01, 1.0] }} }},
]                                     # "my_family.py" and "my_family.py:name" work too
references = ["b_silu", "leaky"]      # always run, at their defaults, next to ReLU; never "best"
trials = 60                           # in total, including the baseline and references
sampler = "tpe"
pruner = "hyperband"
storage = "sqlite:///pdsearch.db"     # relative to the current folder

[criteria]
profile = "paper"                     # paper: from the abstract of Hu et al.; strict: ours as well
consistent = 0.3                      # a different bound
own = []                              # your own criteria: ["my_criteria.py:function"]

[trial]
model = "alexnet"                     # or a classifier of torchvision, or path.py:function
dataset = "cifar10"                   # or folder:PATH (PATH/train/CLASS/…, PATH/test/CLASS/…)
epochs = 8
batch_size = 128
learning_rate = 0.02
learning_rates = []                   # if given, every row keeps the best of them

[confirm]
seeds = 8
epochs = 30
rate_epochs = 8                       # of the runs that choose among learning_rates, if any
```

**Changing a study.** A study that has begun keeps its settings, because its trials would not be
comparable otherwise. Only these may change from run to run: {free}. Anything else needs a new
name: `pdsearch search FILE.toml --set study.name=other trial.epochs=4`.

**Environment variables.** `PDSEARCH_STORAGE` is the storage if none is named. `PDSEARCH_CACHE` is
the folder of decoded data sets and compiled kernels. `PDSEARCH_FUSED=0` disables the compiled
kernels. `OMP_NUM_THREADS` sets the threads of a new study's trials unless `--threads` does; a
study that has begun keeps its own number.

**Halving.** With `pruner = "halving"`, every candidate pauses at a few points: in a long enough
trial, after a quarter of an epoch, one epoch and four epochs. It continues only while its
validation loss is among the best quarter of those that reached that point, and may be resumed
later.

**Layers.** With `only` or `skip` in `[trial]`, a candidate's derivative goes to some of the
network's ReLUs alone; the others keep ReLU's. `pdsearch confirm` retrains with the same ReLUs, its
controls included.

**Groups.** To see whether the first layers want another shape than the last ones, search groups of
layers. Each trial then draws one candidate for each group:

```toml
[study]
name = "digits-groups"
families = ["exp_tail", "leaky"]      # for groups that name none
trials = 30
pruner = "none"

[study.groups]
first = {{ layers = ["[:2]"] }}         # by depth: the first two ReLUs of a forward pass
last = {{ layers = ["6"], families = ["gaussian_tail", "rational_tail"] }}   # by name

[trial]
model = "mlp"                         # its three ReLUs are called 2, 4 and 6
dataset = "digits"
epochs = 4
batch_size = 64
learning_rate = 0.1
```

`layers` are patterns as in `convert` ([op.md](op.md#names-and-patterns)). A ReLU in two groups, and
a pattern that matches none, are errors before the first trial. ReLUs in no group keep their own
derivative. The baseline is ReLU everywhere; a reference serves the layers of all groups. Every
group's candidate must meet the criteria, and the reason of a trial that is ruled out names the
group, as in `last:consistent`. So `relu` as a group's family needs `alive_below_zero = 1` in
`[criteria]`, which admits dead shapes in every group. Optuna's parameters begin with the group:
`last:family`, `last:gaussian_tail.alpha`.

The best candidate is a `pdsearch.Grouped`, which `convert` takes. `pdsearch export` writes a Python
file for each group (`pd_relu_first.py`, `pd_relu_last.py`), and with `--group` one group's
candidate alone. `pdsearch confirm` retrains the best as they are, and each `--candidate` in the
layers of all groups. `--controls` adds all controls except the forward control, since no activation
has several shapes as its derivative. `pdsearch criteria` compares each group's criteria separately,
as `last:consistent`. Groups exclude `only` and `skip`, the samplers `cmaes`, `gp` and `grid`, and a
`train` function.

**Security.** `pdsearch worker` and `pdsearch confirm` take the study file or the study's name.
With the file, its settings must match those that the study began with, including `--set` and a
worker's `--seed`. With the name, the settings come from the storage, which anyone with write
access may have changed. pdsearch then runs no Python file that only the storage names (a model's,
a criterion's) and writes nothing outside the current folder, unless you pass
`--trust-study-code`. The storage's URL is not kept with the study. pdsearch masks passwords in
URLs wherever it prints them; your own command line is visible to everyone on the machine, so put
such a URL into `PDSEARCH_STORAGE`.

**Outages.** If a database server goes away while trials run, pdsearch waits for it for up to 10
minutes (`--storage-wait SECONDS`). A server that does not answer within 4 seconds at the start is
an error, unless the URL has its own `connect_timeout`.

**Interrupts.** Ctrl-C and SIGTERM end a command with status 130 within 5 seconds. Running trials
are queued again. Whatever does not end within 2.5 seconds (a driver that hangs) is abandoned as
if it had been killed, which uses up one of a trial's three attempts. Only a C function that holds
Python's interpreter lock can delay this.
"""

ABOUT = {
    "study": "What is searched, how, and where it is stored.",
    "criteria": "What a candidate must meet before it is trained ([criteria.md](criteria.md)).",
    "trial": "One training run of one candidate.",
    "confirm": "How `pdsearch confirm` retrains.",
}

SYMBOLS = {Ge: "≥", Gt: ">", Le: "≤", Lt: "<"}


def page() -> str:
    """Return the text of the page."""
    free = [f"`{name}`" for name in FREE]
    parts = [HEAD.format(free=", ".join(free))]
    for name, field in StudyFile.model_fields.items():
        section = field.annotation
        assert isinstance(section, type) and issubclass(section, BaseModel)
        parts.append(f"## `[{name}]`\n\n{ABOUT[name]}\n")
        parts.append(_keys(section, name))
        for key, info in section.model_fields.items():
            if (table := _table(info.annotation)) is not None:
                parts.append(f"### `{key}` in `[{name}]`\n\n{_sentence(table)}\n")
                parts.append(_inner_keys(table))
    return "\n".join(parts)


def _keys(section: type[BaseModel], name: str) -> str:
    lines = ["| key | default | values | meaning |", "|---|---|---|---|"]
    for key, info in section.model_fields.items():
        assert info.description, f"{name}.{key} has no description"
        cells = (f"`{key}`", _default(info), values(info), info.description)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _inner_keys(table: type[BaseModel]) -> str:
    """Return the keys of a table within a section as a list."""
    return "".join(
        f"- `{key}` ({values(info)}; default {_default(info)}): {info.description}\n"
        for key, info in table.model_fields.items()
    )


def _table(kind: Any) -> type[BaseModel] | None:
    """Return the model of a key that holds a table with its own keys, else None."""
    for one in (kind, *get_args(kind)):
        if isinstance(one, type) and issubclass(one, BaseModel):
            return one
    return None


def _sentence(table: type[BaseModel]) -> str:
    """Return the purpose of a table, from its docstring."""
    text = (table.__doc__ or "").splitlines()[0].partition(": ")[2]
    return text[0].upper() + text[1:]


def _default(info: FieldInfo) -> str:
    if info.is_required():
        return "required"
    value = info.default
    if value is None or value == "":
        return "–"
    return f"`{json.dumps(list(value) if isinstance(value, tuple) else value)}`"


def values(info: FieldInfo) -> str:
    """Describe the values that a key takes."""
    return _values(info.annotation, info.metadata)


def _values(kind: Any, metadata: list[Any]) -> str:
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in inner)
    if origin in (Union, UnionType):
        some = [one for one in inner if one is not type(None)]
        return " or ".join(dict.fromkeys(_values(one, metadata) for one in some))
    if origin in (list, tuple):
        return f"list of {_values(inner[0], [])}"
    if hasattr(kind, "__metadata__"):
        return _values(inner[0], list(kind.__metadata__))
    if kind in (int, float):
        noun = "whole number" if kind is int else "number"
        found = [one for item in metadata for one in getattr(item, "metadata", [item])]
        bounds = [
            f"{sign} {getattr(item, type(item).__name__.lower()):g}"
            for item in found
            for known, sign in SYMBOLS.items()
            # Larger limits only catch typing errors; nobody meets them.
            if isinstance(item, known) and getattr(item, type(item).__name__.lower()) < 1e5
        ]
        return " ".join([noun, ", ".join(bounds)]).strip()
    if _table(kind) is not None:
        return "table"
    names = {str: "text", bool: "`true`, `false`", dict: "table"}
    return names[origin or kind]


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
