"""The criteria of one candidate or family as one HTML file."""

from collections.abc import Mapping, Sequence
from typing import Any

from pdsearch.criteria import (
    PROVED_BY_BOXES,
    RECORDS,
    FamilyMap,
    ProofBox,
    Report,
    proof_boxes,
)
from pdsearch.criteria.figures import criteria_figure
from pdsearch.family import Candidate, Family
from pdsearch.family.figures import family_figure
from pdsearch.report.maps import VERDICTS, map_figure, share, sides
from pdsearch.report.page import Section, render

MOST_MEMBERS = 6
"""Members of a family that are drawn."""


def criteria_report(
    report: Report, candidate: Candidate | Family, *, maps: Sequence[FamilyMap] = ()
) -> str:
    """Return the criteria as one HTML file: the shape, where it fails, and every verdict.

    `candidate` is what was checked. For a family, each witness is drawn on the member it names. The
    HTML text loads nothing from other files or the network.
    """
    entries = report.to_dict()["criteria"]
    whole = isinstance(candidate, Family)
    family = candidate if isinstance(candidate, Family) else candidate.family
    required = [entry for entry in entries if entry["required"]]
    failing = [entry["name"] for entry in required if not entry["passed"]]
    verdict = f"All {len(required)} required criteria hold"
    if failing:
        verdict = f"{len(failing)} of {len(required)} required criteria not shown to hold"
    return render(
        "check.html",
        title=f"{candidate.name}: design criteria",
        family=family,
        candidate=None if whole else candidate,
        verdict=verdict,
        profile=report.profile,
        named=failing or [entry["name"] for entry in required],
        others=[e["name"] for e in entries if not e["required"] and not e["passed"]],
        sections=[
            Section("shape", "Shape", _shape(candidate, entries), "check/shape.html"),
            Section("criteria", "Criteria", entries, "check/criteria.html"),
            Section("map", "Map of the parameters", _map(family, maps), "check/map.html"),
        ],
    )


def _shape(candidate: Candidate | Family, entries: list[dict[str, Any]]) -> dict[str, Any]:
    """Return members with their witnesses and proofs, and a family's fan."""
    if isinstance(candidate, Family):
        marked = _members(candidate, entries)
        fan = family_figure(candidate) if candidate.parameters else None
    else:
        marked, fan = {candidate: entries}, None
    members = []
    for member, some in marked.items():
        proofs = _proofs(member, some)
        figure = criteria_figure(member, some, proofs=proofs)
        members.append({"member": member, "entries": some, "proofs": proofs, "figure": figure})
    return {"members": members, "fan": fan}


def _proofs(
    member: Candidate, entries: Sequence[Mapping[str, Any]]
) -> dict[str, tuple[ProofBox, ...]]:
    """Recompute the boxes of each proof by boxes, because reports do not keep them."""
    found = {}
    for entry in entries:
        if entry["name"] in PROVED_BY_BOXES and entry["verdict"] == "proved":
            adjustable = RECORDS[entry["name"]].adjustable
            bound = {entry["name"]: entry["bound"]} if adjustable else {}
            if boxes := proof_boxes(member, entry["name"], thresholds=bound):
                found[entry["name"]] = boxes
    return found


def _members(
    family: Family, entries: list[dict[str, Any]]
) -> dict[Candidate, list[dict[str, Any]]]:
    """Return the members named by witnesses, each with the criteria that it violates."""
    found: dict[Candidate, list[dict[str, Any]]] = {}
    for entry in entries:
        if witness := entry.get("witness"):
            values = {
                k: witness[k] for k in family.parameters if isinstance(witness.get(k), int | float)
            }
            member = family.bind(**values)
            if member in found or len(found) < MOST_MEMBERS:
                found.setdefault(member, []).append(entry)
    return found or {family.default: entries}


def _map(family: Family, maps: Sequence[FamilyMap]) -> dict[str, Any] | None:
    """Return the shares of each verdict, and a figure for each map that can be drawn."""
    if not maps:
        return None
    return {
        "verdicts": list(VERDICTS),
        "sides": len(sides(family)),
        "shares": {one.criterion: [share(one, verdict) for verdict in VERDICTS] for one in maps},
        "maps": {one.criterion: map_figure(family, one) for one in maps},
    }
