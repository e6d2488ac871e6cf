"""The criteria of one candidate or family as one HTML file."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pdsearch.criteria import PROVED_BY_BOXES, RECORDS, ProofBox, proof_boxes
from pdsearch.family import Candidate, Family
from pdsearch.report.figures import criteria_figure, family_figure
from pdsearch.report.maps import maps_section
from pdsearch.report.markup import Markup, h
from pdsearch.report.mathml import equation, symbol
from pdsearch.report.page import criteria_table, document, figure_box
from pdsearch.report.terminal import number

if TYPE_CHECKING:
    from pdsearch.criteria import FamilyMap, Report

__all__ = ["about", "criteria_report"]


def criteria_report(
    report: "Report", candidate: "Candidate | Family", *, maps: "Sequence[FamilyMap]" = ()
) -> str:
    """The criteria as one HTML file: the shape, where it fails, and every verdict.

    Args:
        report: of `check`.
        candidate: what was checked; for a family, each witness is drawn on the member that it
            names.
        maps: of a family, its parameter box cut into parts.

    Returns:
        HTML text that loads nothing from anywhere.
    """
    entries = report.to_dict()["criteria"]
    family = candidate if isinstance(candidate, Family) else candidate.family
    member = candidate.default if isinstance(candidate, Family) else candidate
    required = [entry for entry in entries if entry["required"]]
    failing = [entry["name"] for entry in required if not entry["passed"]]
    if failing:
        verdict = f"{len(failing)} of {len(required)} required criteria not shown to hold"
        more = ", ".join(failing)
    else:
        verdict = f"All {len(required)} required criteria hold"
        more = ", ".join(entry["name"] for entry in required)
    others = [e["name"] for e in entries if not e["required"] and not e["passed"]]
    headline = h(
        "div",
        h("p", f"{verdict} (profile {report.profile}).", class_="big"),
        h("p", more, class_="quiet"),
        h("p", f"Not required, and not shown to hold: {', '.join(others)}.") if others else None,
        class_="headline",
    )
    marked = [(member, entries)]
    if isinstance(candidate, Family):
        marked = _members(candidate, entries)
    shapes = [_shape(one, some) for one, some in marked]
    if isinstance(candidate, Family) and candidate.parameters:
        shapes.append(
            figure_box(
                family_figure(candidate),
                f"{candidate.name} over the range of each parameter",
                caption="The family over each parameter's range, the others at their defaults.",
                height=440,
            )
        )
    legend = h(
        "p",
        "proved: by certified enclosures or an exact identity. refuted: with a point, an interval "
        "or a certified number that was itself evaluated rigorously. measured: looked at, not "
        "proved. undecided: the budget was spent, and it does not pass. Comparisons with a bound "
        "allow 1e-6. Criteria are checked at t = 0.",
        class_="quiet small",
    )
    return document(
        f"{candidate.name}: design criteria",
        head=[about(family, None if isinstance(candidate, Family) else candidate), headline],
        sections=[
            ("shape", "Shape", shapes),
            ("criteria", "Criteria", [criteria_table(entries), legend]),
            ("map", "Map of the parameters", maps_section(family, maps) if maps else []),
        ],
    )


def _shape(member: Candidate, entries: Sequence[Mapping[str, Any]]) -> Markup | None:
    """One member beside the step, with witnesses, and the boxes of its proofs on request."""
    proofs = _proofs(member, entries)
    caption = f"{member.name} and the step, ReLU's own derivative."
    if any("x" in (entry.get("witness") or {}) for entry in entries):
        caption += " Rings mark where a refuted criterion fails."
    if proofs:
        caption += (
            " Choose a proof in the legend to see its boxes: over each interval of x, g is "
            "certified to lie within the box's height; where pieces meet, exact arithmetic decides."
        )
    return figure_box(
        criteria_figure(member, entries, proofs=proofs),
        f"{member.name} beside the step, failures marked",
        caption=caption,
        height=420,
    )


def _proofs(
    member: Candidate, entries: Sequence[Mapping[str, Any]]
) -> dict[str, tuple[ProofBox, ...]]:
    """The boxes of what is proved by boxes, found anew: a gate does not keep them."""
    found = {}
    for entry in entries:
        if entry["name"] in PROVED_BY_BOXES and entry["verdict"] == "proved":
            adjustable = RECORDS[entry["name"]].adjustable
            bound = {entry["name"]: entry["bound"]} if adjustable else {}
            if boxes := proof_boxes(member, entry["name"], thresholds=bound):
                found[entry["name"]] = boxes
    return found


def about(family: Family, candidate: Candidate | None) -> list[Any]:
    """Formula, parameters and reference."""
    argument = "g(x, t)" if family.annealed else "g(x)"
    parts: list[Any] = [h("div", equation(family.expression, left=argument), class_="formula")]
    values: list[Any] = []
    for i, name in enumerate(family.parameters):
        joint = Markup(", ") if i else Markup("with ")
        if candidate is not None:
            values += [joint, symbol(name), f" = {number(float(candidate.parameters[name]), 6)}"]
        else:
            low, high = (getattr(family.space[name], end) for end in ("low", "high"))
            values += [joint, symbol(name), f" in [{number(low)}, {number(high)}]"]
    if values:
        parts.append(h("p", values))
    if family.reference:
        parts.append(h("p", family.reference, class_="quiet small"))
    return parts


def _members(
    family: Family, entries: Sequence[Mapping[str, Any]]
) -> list[tuple[Candidate, list[Mapping[str, Any]]]]:
    """The members that the witnesses name, each with the criteria that it breaks."""
    found: dict[Candidate, list[Mapping[str, Any]]] = {}
    for entry in entries:
        witness = entry.get("witness") or {}
        values = {
            k: witness[k] for k in family.parameters if isinstance(witness.get(k), int | float)
        }
        member = family.bind(**values)
        if entry.get("witness") and len(found) < 6:
            found.setdefault(member, []).append(entry)
    return list(found.items()) or [(family.default, list(entries))]
