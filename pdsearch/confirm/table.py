"""The confirmation as text: a table for a terminal, and one in Markdown."""

from pdsearch.confirm.outcome import Confirmation, Row
from pdsearch.text import columns, ends, p_value, points, spread

COLUMNS = (
    "",
    "n",
    "accuracy %",
    "− ReLU, points",
    "95 % interval",
    "bootstrap",
    "p",
    "p adjusted",
    "seeds needed",
    "epochs to ReLU's",
    "− ReLU, epochs",
    "learning rate",
)


def _cells(row: Row, *, rate: bool) -> tuple[str, ...]:
    return (
        row.name,
        str(row.seeds),
        spread(row.mean, row.std),
        "" if row.kind == "baseline" else points(row.difference),
        ends(row.ci95),
        ends(row.ci95_bootstrap),
        p_value(row.p_value),
        p_value(row.p_adjusted) + ("*" if row.significant else ""),
        "" if row.seeds_needed is None else str(row.seeds_needed),
        *reaching_cells(row),
        f"{row.learning_rate:g}" if rate else "",
    )


def reaching_cells(row: Row) -> tuple[str, str]:
    """When the row reaches ReLU's final mean accuracy, and how much later than ReLU itself."""
    found = row.reaching
    if found is None:
        return "", ""
    if found.mean is None:
        return "never", ""
    of = "" if not found.never else f" ({row.seeds - found.never} of {row.seeds})"
    paired = found.paired
    if paired is None or not paired.n:
        return f"{found.mean:.1f}{of}", ""
    span = ends(paired.interval, "{:+z.1f}".format, form=" [{}, {}]")
    return f"{found.mean:.1f}{of}", f"{paired.difference:+z.1f}{span} ({paired.n})"


def _legend(confirmation: Confirmation) -> str:
    rows = confirmation.rows
    text = "± is the standard deviation over seeds; the interval is the paired t's"
    if any(row.ci95_bootstrap for row in rows):
        text += ", next to it the bootstrap's"
    text += "; p adjusted by Holm over the rows (* below 0.05)"
    if any(row.seeds_needed is not None for row in rows):
        text += (
            "; seeds needed: for 80 % power at the observed effect, at level 0.05 / rows compared"
        )
    return f"{text}." + (REACHING if any(row.reaching for row in rows) else "")


REACHING = (
    " Epochs to ReLU's: until the mean of ReLU's final accuracies is first reached, linear between "
    "epochs, over the seeds that reach it (how many, if not all do); next to it the paired "
    "difference to ReLU over the seeds (how many) at which both do."
)


def _table(confirmation: Confirmation) -> list[tuple[str, ...]]:
    """The columns that hold something, with their heads."""
    rate = confirmation.learning_rate is None
    rows = [_cells(row, rate=rate) for row in confirmation.rows]
    filled = [i for i in range(len(COLUMNS)) if i == 0 or any(cells[i] for cells in rows)]
    return [tuple(cells[i] for i in filled) for cells in (COLUMNS, *rows)]


def _caption(confirmation: Confirmation) -> str:
    rate = confirmation.learning_rate
    shown = "each at its own learning rate" if rate is None else f"learning rate {rate:g}"
    return f"{confirmation.protocol}, {shown}"


def confirm_table(confirmation: Confirmation) -> str:
    """Return the confirmation for a terminal: headline, table, notes; transfers below."""
    lines = [
        confirmation.headline,
        _caption(confirmation),
        "",
        columns(_table(confirmation), right=range(1, len(COLUMNS))),
        "",
        _legend(confirmation),
        *confirmation.notes,
    ]
    for other in confirmation.transfers:
        lines += ["", confirm_table(other)]
    return "\n".join(lines)


def confirm_markdown(confirmation: Confirmation) -> str:
    """Return the confirmation as Markdown, for a results file."""
    head, *rows = _table(confirmation)
    heads = ("row", *head[1:], "g")
    lines = [
        f"**{confirmation.headline}**",
        "",
        f"{_caption(confirmation)}.",
        "",
        "| " + " | ".join(heads) + " |",
        "|" + " --- |" * len(heads),
    ]
    for row, shown in zip(confirmation.rows, rows, strict=True):
        cells = (*shown, f"`{row.formula}`")
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    lines += ["", _legend(confirmation), *(f"- {note}" for note in confirmation.notes)]
    for other in confirmation.transfers:
        lines += ["", f"### {other.model} on {other.dataset}", "", confirm_markdown(other)]
    return "\n".join(lines)
