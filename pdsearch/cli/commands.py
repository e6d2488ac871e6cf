"""One function a command: the words in, a call, its outcome printed; the exit status back."""

import logging
import re
import shlex
import socket
from argparse import Namespace
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pdsearch.cli import show
from pdsearch.cli.output import emit, emit_json, note, width
from pdsearch.errors import InputError, PdsearchError, UnsupportedError

if TYPE_CHECKING:
    from pdsearch.criteria import FamilyMap, Report
    from pdsearch.family import Candidate, Family
    from pdsearch.study import StoredStudy, StudyFile


def configure(arguments: Namespace) -> None:
    """How much is said on stderr."""
    verbose = getattr(arguments, "verbose", 0)
    levels = (logging.WARNING, logging.INFO, logging.DEBUG)
    logging.basicConfig(format="%(name)s: %(message)s", level=logging.WARNING)
    logging.getLogger("pdsearch").setLevel(levels[min(verbose, 2)])


def _progress(arguments: Namespace) -> bool:
    return not getattr(arguments, "quiet", False)


def _settings(pairs: Iterable[str]) -> dict[str, float]:
    """`a=0.3` → {"a": 0.3}; what is wrong is said with the flag's name."""
    settings: dict[str, float] = {}
    for pair in pairs:
        name, value = _split(pair, "NAME=VALUE")
        try:
            settings[name] = float(value)
        except ValueError:
            raise InputError(f"--set {name} needs a number, got {value!r}") from None
    return settings


def _split(pair: str, form: str) -> tuple[str, str]:
    name, equals, value = pair.partition("=")
    if not equals or not name.strip() or not value.strip():
        raise InputError(f"--set needs {form}, got {pair!r}")
    return name.strip(), value.strip()


def families(arguments: Namespace) -> int:
    """List the library."""
    from pdsearch.family import library

    found = library().values()
    if arguments.json:
        emit_json([show.family_entry(family) for family in found])
    else:
        emit(show.families_text(found))
    return 0


def check(arguments: Namespace) -> int:
    """Decide the criteria; 1 where a required one does not hold."""
    from pdsearch.family import load_target

    if arguments.map and not arguments.family:
        raise InputError("--map needs --family: it cuts the family's parameter box into parts")
    if arguments.html:
        from pdsearch.report.files import check_place

        check_place(Path(arguments.html), force=True)
    family, candidate = load_target(
        arguments.target,
        settings=_settings(arguments.set),
        params=arguments.param,
        fading=arguments.fade,
        direction=arguments.direction,
    )
    target = family if arguments.family else candidate
    from pdsearch.criteria import check as decide
    from pdsearch.criteria import load_criterion

    own = [load_criterion(spec) for spec in arguments.own]
    report = decide(target, profile=arguments.profile, extra=own)
    maps = _maps(family, report) if arguments.map else []
    if arguments.html:
        from pdsearch.report import criteria_report, write_html

        write_html(criteria_report(report, target, maps=maps), Path(arguments.html))
    if arguments.json:
        emit_json(report.to_dict() | ({"maps": [m.to_dict() for m in maps]} if maps else {}))
    else:
        from pdsearch.report import criteria_text, maps_text

        emit(criteria_text(report, candidate, width=width()))
        if maps:
            emit(maps_text(family, maps, width=width()))
    if arguments.html:
        note(f"report: {arguments.html}")
    return 0 if report.passed else 1


def _maps(family: "Family", report: "Report") -> list["FamilyMap"]:
    """A map for each certified criterion that is not proved for the whole family."""
    from pdsearch.criteria import CERTIFIED, family_map

    return [
        family_map(family, result.name, profile=report.profile)
        for result in report.criteria
        if result.name in CERTIFIED and result.verdict in ("refuted", "undecided")
    ]


def search(arguments: Namespace) -> int:
    """Run a study to its total, then write its report and its best candidate."""
    from pdsearch.study import load_study_file
    from pdsearch.study import search as run

    overrides = _overrides(arguments.set)
    study = load_study_file(Path(arguments.study), overrides=overrides)
    result = run(
        study,
        trials=arguments.trials,
        storage=arguments.storage,
        workers=arguments.workers,
        device=arguments.device,
        threads=arguments.threads,
        seed=arguments.seed,
        progress=_progress(arguments),
        **_wait(arguments),
    )
    written = _write_results(result.stored)
    if arguments.json:
        emit_json(result.to_dict())
    else:
        measure = result.stored.settings.measure
        emit(show.search_text(result.to_dict(), measure=measure))
    for line in written:
        note(line)
    return 0


def _write_results(stored: "StoredStudy") -> list[str]:
    from pdsearch.export import export as write
    from pdsearch.report import study_report, write_html

    stored.output.mkdir(parents=True, exist_ok=True)
    write_html(study_report(stored, decide=None), stored.output / "report.html")
    written = [f"report: {stored.output / 'report.html'}"]
    best = stored.best()
    if best is not None and best.candidate is not None:
        for name in ("best.py", "best.json"):
            write(
                best.candidate,
                stored.output / name,
                force=True,
                provenance=_provenance(stored, best.number, best.value),
            )
        written.append(f"best candidate: {stored.output / 'best.py'} (and best.json)")
    return written


def _provenance(stored: "StoredStudy", trial: int, value: float | None) -> dict[str, Any]:
    from pdsearch.study.stored import trained_by

    settings = stored.settings.trial
    by = trained_by(stored)
    if by is not None:  # of its model and data nothing is known
        return {"study": stored.name, "trial": trial, "value": value, "train": by}
    return {
        "study": stored.name,
        "trial": trial,
        stored.settings.measure: value,
        "model": settings.model,
        "dataset": settings.dataset,
        "epochs": settings.epochs,
        **({"tasks": settings.stream.tasks} if settings.stream is not None else {}),
    }


def worker(arguments: Namespace) -> int:
    """Join a study that others are running."""
    from pdsearch.study import worker as join

    study = _study(arguments)
    if arguments.seed is not None:
        kept = _stored_as(study, arguments.storage).settings.study.seed
        if arguments.seed != kept:
            raise InputError(f"a worker trains with its study's seed, {kept}: leave --seed out")
    join(
        study,
        storage=arguments.storage,
        device=arguments.device,
        threads=arguments.threads,
        trust_study_code=arguments.trust_study_code,
        progress=_progress(arguments),
        **_wait(arguments),
    )
    return 0


def _overrides(pairs: Iterable[str]) -> dict[str, str]:
    return dict(_split(pair, "section.key=value") for pair in pairs)


def _wait(arguments: Namespace) -> dict[str, Any]:
    return {} if arguments.storage_wait is None else {"storage_wait": arguments.storage_wait}


def _study(arguments: Namespace) -> "StudyFile | str":
    """The study's file with what --set changes in it, or its name."""
    from pdsearch.study import load_study_file
    from pdsearch.study.settings import is_file_spec

    if not is_file_spec(arguments.study):
        if arguments.set:
            raise InputError("--set changes a study file's settings: give the file, not the name")
        name: str = arguments.study
        return name
    overrides = _overrides(arguments.set)
    if arguments.command == "worker" and arguments.seed is not None:
        overrides.setdefault("study.seed", str(arguments.seed))
    return load_study_file(arguments.study, overrides=overrides)


def _stored(arguments: Namespace) -> "StoredStudy":
    return _stored_as(arguments.study, arguments.storage)


def _stored_as(study: "StudyFile | str", storage: str | None) -> "StoredStudy":
    from pdsearch.study import open_study

    return open_study(study, storage=storage)


def status(arguments: Namespace) -> int:
    """How far a study is."""
    from pdsearch.study import status as state

    stored = _stored(arguments)
    data = state(stored)
    if arguments.json:
        emit_json(data)
    else:
        emit(show.status_text(data, measure=stored.settings.measure))
    return 0


def report(arguments: Namespace) -> int:
    """Write a study's report."""
    from pdsearch.report import study_report, write_html
    from pdsearch.report.files import check_place

    check_place(Path(arguments.output), force=True)
    write_html(study_report(_stored(arguments)), Path(arguments.output))
    note(f"report: {arguments.output}")
    return 0


def confirm(arguments: Namespace) -> int:
    """Retrain the best over seeds."""
    from pdsearch.confirm import confirm as retrain
    from pdsearch.confirm import confirm_table
    from pdsearch.family import load_target

    outcome = retrain(
        _stored_as(_study(arguments), arguments.storage),
        seeds=arguments.seeds,
        top=arguments.top,
        epochs=arguments.epochs,
        rate_epochs=arguments.rate_epochs,
        candidates=[load_target(text)[1] for text in arguments.candidate],
        controls=arguments.controls,
        forward_control=arguments.forward_control,
        transfer=arguments.transfer,
        seed=arguments.seed,
        device=arguments.device,
        threads=arguments.threads,
        workers=arguments.workers or "auto",
        trust_study_code=arguments.trust_study_code,
        **_wait(arguments),
        progress=note if _progress(arguments) else None,
    )
    if arguments.json:
        emit_json(outcome.to_dict())
    else:
        emit(confirm_table(outcome))
    return 0


def export(arguments: Namespace) -> int:
    """Write a candidate as a file."""
    from pdsearch.export import export as write
    from pdsearch.family import varied
    from pdsearch.report.files import check_place

    settings = _settings(arguments.set)
    check_place(Path(arguments.output), force=arguments.force)
    candidate, provenance = _source(arguments, settings)
    changes = settings or arguments.fade or arguments.direction
    if changes and provenance is not None:
        candidate = varied(
            candidate, settings, fading=arguments.fade, direction=arguments.direction
        )
        # Nobody has trained what it is now.
        provenance = {"study": provenance["study"], "changed from trial": provenance["trial"]}
    path = write(candidate, Path(arguments.output), force=arguments.force, provenance=provenance)
    note(f"wrote {path}: {candidate.name}")
    return 0


# What a study may be called, as against a formula or a file.
_STUDY_NAME = re.compile(r"[\w][\w .-]*\Z")


def _source(
    arguments: Namespace, settings: Mapping[str, float]
) -> tuple["Candidate", dict[str, Any] | None]:
    """A study's candidate, or a target's: a name is a family's before it is a study's."""
    from pdsearch.family import is_library_name, load_target

    text = arguments.source
    if text.endswith(".toml") or arguments.storage or arguments.trial is not None:
        return _study_source(_stored_as(text, arguments.storage), arguments.trial)
    try:
        found = load_target(
            text, settings=settings, fading=arguments.fade, direction=arguments.direction
        )
        return found[1], None
    except InputError as no_target:
        known = is_library_name(text)  # then it is its settings that are wrong
        if known or not _STUDY_NAME.match(text) or text.endswith((".py", ".json")):
            raise
        try:
            stored = _stored_as(text, None)
        except PdsearchError:
            raise InputError(f"{text!r} is no study here, and as a target: {no_target}") from None
    return _study_source(stored, None)


def _study_source(stored: "StoredStudy", trial: int | None) -> tuple["Candidate", dict[str, Any]]:
    if trial is None:
        row = stored.best()
        if row is None:
            raise InputError(f"study {stored.name!r} has no finished candidate to export yet")
    else:
        rows = {row.number: row for row in stored.trials()}
        if trial not in rows:
            raise InputError(f"study {stored.name!r} has no trial {trial} (it has {len(rows)})")
        row = rows[trial]
    if row.candidate is None:
        raise InputError(f"trial {row.number} of study {stored.name!r} has no candidate")
    return row.candidate, _provenance(stored, row.number, row.value)


def criteria(arguments: Namespace) -> int:
    """What a study says about its criteria."""
    from pdsearch.insight import learned_criteria

    insight = learned_criteria(_stored(arguments))
    if arguments.json:
        emit_json(insight.to_dict())
    else:
        emit(str(insight))
    return 0


def dashboard(arguments: Namespace) -> int:
    """Serve optuna-dashboard on this machine until interrupted."""
    try:
        from optuna_dashboard import run_server
    except ModuleNotFoundError as error:
        raise UnsupportedError(
            "the dashboard is not installed: pip install optuna-dashboard"
        ) from error
    from pdsearch.study.innards import storage_of

    stored = _stored(arguments)
    _check_port(arguments.port)
    note(f"study {stored.name}: http://127.0.0.1:{arguments.port}/ (Ctrl-C ends it)")
    run_server(storage_of(stored.study), host="127.0.0.1", port=arguments.port)
    return 0


def _check_port(port: int) -> None:
    """Before the server says that it starts."""
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server itself does
        try:
            trial.bind(("127.0.0.1", port))
        except OSError as error:
            raise InputError(
                f"port {port} cannot be used ({error.strerror}): choose another with --port"
            ) from None


def doctor(arguments: Namespace) -> int:
    """Look at the installation and the storage; 1 where something needs attention."""
    from pdsearch.doctor import examine

    findings = examine(storage=arguments.storage)
    fine = all(finding.level != "attention" for finding in findings)
    if arguments.json:
        emit_json({"ok": fine, "findings": [finding.to_dict() for finding in findings]})
    else:
        emit(show.doctor_text(findings))
    return 0 if fine else 1


def init(arguments: Namespace) -> int:
    """Write the starter files."""
    from pdsearch.starter import write_starter

    if not arguments.directory.strip():
        raise InputError("DIRECTORY is empty: leave it out to write where you stand")
    directory = Path(arguments.directory)
    for path in write_starter(directory):
        note(f"wrote {path}")
    where = "" if arguments.directory == "." else f"cd {shlex.quote(arguments.directory)} && "
    emit(f"{where}pdsearch check my_family.py\n{where}pdsearch search study.toml")
    return 0
