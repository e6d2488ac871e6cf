"""The confirmation as text, for a terminal and for a results file."""

from pdsearch.confirm.outcome import Confirmation, Row, p_text

COLUMNS = (
    "",
    "n",
    "accuracy %",
    "− ReLU, points",
    "95 % interval",
    "p",
    "p adjusted",
    "seeds needed",
)


def _cells(row: Row) -> tuple[str, ...]:
    spread = "" if row.std is None else f" ± {100 * row.std:.2f}"
    difference = row.difference if row.kind != "baseline" else None
    return (
        row.name,
        str(row.seeds),
        f"{100 * row.mean:.2f}{spread}",
        "" if difference is None else f"{100 * difference:+.2f}",
        "" if row.ci95 is None else f"[{100 * row.ci95[0]:+.2f}, {100 * row.ci95[1]:+.2f}]",
        p_text(row.p_value),
        p_text(row.p_adjusted) + ("*" if row.significant else ""),
        "" if row.seeds_needed is None else str(row.seeds_needed),
    )


def _caption(confirmation: Confirmation) -> str:
    rate = confirmation.learning_rate
    return (
        f"{confirmation.model} on {confirmation.dataset}, test set, {confirmation.epochs} epochs, "
        + ("each at its own learning rate" if rate is None else f"learning rate {rate:g}")
    )


LEGEND = (
    "± is the standard deviation over seeds; the interval is the paired t's; "
    "p adjusted by Holm over the rows (* below 0.05)."
)


def confirm_table(confirmation: Confirmation) -> str:
    """The confirmation for a terminal: headline, table, notes; transfers below."""
    lines = [confirmation.headline, _caption(confirmation), ""]
    table = [COLUMNS, *(_cells(row) for row in confirmation.rows)]
    # A column that no row fills is left out.
    kept = [i for i in range(len(COLUMNS)) if i == 0 or any(cells[i] for cells in table[1:])]
    widths = {i: max(len(cells[i]) for cells in table) for i in kept}
    for cells in table:
        shown = [cells[i].ljust(widths[i]) if i == 0 else cells[i].rjust(widths[i]) for i in kept]
        lines.append("  ".join(shown).rstrip())
    lines += ["", LEGEND, *confirmation.notes]
    for other in confirmation.transfers:
        lines += ["", confirm_table(other)]
    return "\n".join(lines)


def confirm_markdown(confirmation: Confirmation) -> str:
    """The confirmation as Markdown, for a results file."""
    rates = confirmation.learning_rate is None
    columns = ("row", *COLUMNS[1:], *(("learning rate",) if rates else ()), "g")
    lines = [
        f"**{confirmation.headline}**",
        "",
        _caption(confirmation) + ".",
        "",
        "| " + " | ".join(columns) + " |",
        "|" + " --- |" * len(columns),
    ]
    for row in confirmation.rows:
        rate = (f"{row.learning_rate:g}",) if rates else ()
        cells = (*_cells(row), *rate, f"`{row.formula}`")
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    lines += ["", LEGEND, *(f"- {note}" for note in confirmation.notes)]
    for other in confirmation.transfers:
        lines += ["", f"### {other.model} on {other.dataset}", "", confirm_markdown(other)]
    return "\n".join(lines)
