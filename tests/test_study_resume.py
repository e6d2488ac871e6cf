"""Studies whose processes are killed, stopped and interrupted: nothing finished is ever lost."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import optuna
import pytest
from forked import Forked

from pdsearch import Candidate, PdsearchError, search
from pdsearch.study import open_study, status
from pdsearch.study.innards import ask
from pdsearch.study.machine import Owner, process_started
from pdsearch.study.queue import ATTEMPTS, fail_dead_trials, requeue
from pdsearch.study.storage import connect

TOTAL = 5
# No candidate of it fails a criterion.
FAMILIES = [
    {"formula": "Piecewise((1, x > 0), (a, True))", "space": {"a": [0.1, 0.3]}, "name": "mild"}
]
URL = "sqlite:///study.db"


@pytest.fixture(autouse=True)
def _here(workdir: Path) -> None:
    """Processes and test share one folder."""


def slow_search(pause: float) -> None:
    def train(candidate: Candidate, seed: int) -> Iterator[float]:
        with open("calls.txt", "a") as log:
            log.write(f"{candidate.name}\n")
        for epoch in range(1, 4):
            time.sleep(pause)
            yield 0.5 + epoch / 10
            with open("epochs.txt", "a") as log:
                log.write(f"{candidate.name} {epoch}\n")

    search(
        families=FAMILIES,
        references=["leaky"],
        train=train,
        trials=TOTAL,
        pruner="none",
        storage=URL,
    )


def start(pause: float) -> Forked:
    number = len(list(Path().glob("errors-*")))
    return Forked(slow_search, pause, errors=Path(f"errors-{number}").absolute())


def trials() -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(study_name="pdsearch", storage=URL).trials


def wait_for(what: Callable[[], Any], process: Forked, timeout: float = 120) -> None:
    until = time.monotonic() + timeout
    while not what():
        process.check_running()
        assert time.monotonic() < until
        time.sleep(0.02)


def lines(workdir: Path, name: str) -> list[str]:
    path = workdir / name
    return path.read_text().splitlines() if path.exists() else []


def check_whole(before: list[optuna.trial.FrozenTrial]) -> None:
    """The total is reached, and what was finished before is as it was."""
    after = trials()
    done = [t for t in after if t.state in (t.state.COMPLETE, t.state.PRUNED)]
    assert len(done) == TOTAL
    for trial in before:
        if trial.state.is_finished():
            assert after[trial.number] == trial
    assert [t.state for t in after if t.state in (t.state.RUNNING, t.state.WAITING)] == []


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interruption_that_python_drops_ends_the_search_all_the_same(workdir: Path) -> None:
    class Finalized:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGINT)
            sum(range(10))  # where the handler's exception comes up, to be dropped

    trained = []

    def train(candidate: Candidate) -> Iterator[float]:
        trained.append(candidate.name)
        Finalized()
        yield 0.5
        yield 0.6

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        search(families=FAMILIES, references=[], train=train, trials=TOTAL, storage=URL)
    assert trained == ["relu"] and trials()[0].user_attrs["pdsearch:reason"] == "interrupted"
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize(
    "how",
    [signal.SIGKILL, signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)],
)
def test_an_ended_search_goes_on(workdir: Path, how: signal.Signals) -> None:
    process = start(0.3)
    # In the middle of the third trial: two are finished.
    wait_for(lambda: len(lines(workdir, "epochs.txt")) >= 7, process)
    process.send(how)
    code, _ = process.end(60)
    assert code == (-9 if how == signal.SIGKILL else 130)
    before = trials()
    if how == signal.SIGKILL:
        assert [t.state.name for t in before] == ["COMPLETE", "COMPLETE", "RUNNING"]
    else:
        assert [t.state.name for t in before] == ["COMPLETE", "COMPLETE", "FAIL", "WAITING"]
        assert before[2].user_attrs["pdsearch:reason"] == "interrupted"
    code, error = start(0).end()
    assert code == 0, error
    assert ("is gone" in error) == (how == signal.SIGKILL)
    check_whole(before)
    interrupted, retried = trials()[2:4]
    assert retried.params == interrupted.params
    assert interrupted.user_attrs["pdsearch:candidate"] == retried.user_attrs["pdsearch:candidate"]


@pytest.mark.slow
def test_killed_while_the_baseline_trains(workdir: Path) -> None:
    process = start(5)
    wait_for(lambda: lines(workdir, "calls.txt"), process)
    process.send(signal.SIGKILL)
    process.end()
    code, error = start(0).end()
    assert code == 0, error
    rows = open_study("pdsearch", storage=URL).trials()
    assert [row.kind for row in rows if row.status == "complete"].count("baseline") == 1
    check_whole([])


def test_a_live_process_is_left_alone(workdir: Path) -> None:
    """A second search waits for the trial that the first one runs, and takes nothing from it."""
    first = start(0.5)
    wait_for(lambda: lines(workdir, "calls.txt"), first)
    data = status(open_study("pdsearch", storage=URL))
    (running,) = data["running"]
    assert running["pid"] == first.pid
    assert running["alive"] is True
    code, error = start(0.1).end()
    assert code == 0, error
    assert first.end()[0] == 0
    check_whole([])
    assert all(row.status == "complete" for row in open_study("pdsearch", storage=URL).trials())
    assert len(lines(workdir, "calls.txt")) <= TOTAL


def test_a_process_that_slept_too_long_does_not_crash(workdir: Path) -> None:
    """SIGSTOP past the grace period: its trial is given to somebody else, and it goes on."""
    process = start(0.3)
    wait_for(lambda: len(lines(workdir, "epochs.txt")) >= 7, process)
    process.send(signal.SIGSTOP)
    study = optuna.load_study(study_name="pdsearch", storage=URL)
    (running,) = [t for t in study.trials if t.state.name == "RUNNING"]
    # What Optuna does once no heartbeat has come for the grace period.
    study._storage.set_trial_state_values(running._trial_id, optuna.trial.TrialState.FAIL)
    requeue(study, running)
    process.send(signal.SIGCONT)
    code, error = process.end()
    assert code == 0, error
    assert "Traceback" not in error
    check_whole([])


def test_the_last_epochs_loss_of_a_trial_does_not_crash_either(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Given to somebody else after its last report: Optuna cannot tell it, and we go on."""
    lost: list[int] = []

    def train(candidate: Candidate) -> Iterator[float]:
        yield 0.5
        if candidate.family.name == "mild" and not lost:
            study = optuna.load_study(study_name="pdsearch", storage=URL)
            (running,) = [t for t in study.trials if t.state.name == "RUNNING"]
            study._storage.set_trial_state_values(running._trial_id, optuna.trial.TrialState.FAIL)
            requeue(study, running)
            lost.append(running.number)

    search(families=FAMILIES, references=[], train=train, trials=3, storage=URL, progress=False)
    rows = open_study("pdsearch", storage=URL).trials()
    assert [row.status for row in rows if row.number == lost[0]] == ["failed"]
    assert len([row for row in rows if row.status == "complete"]) == 3


# ---------------------------------------------------------------------------- who is alive, who not


def left_behind(owner: Owner | None, *, age: float = 0.0) -> optuna.Study:
    """A study with one running trial of an owner."""
    search(
        families=FAMILIES,
        references=[],
        train=lambda candidate: 0.5,
        trials=1,
        storage=URL,
        progress=False,
    )
    study = optuna.load_study(study_name="pdsearch", storage=URL)
    attrs = {} if owner is None else {"pdsearch:owner": owner.to_dict()}
    trial = optuna.create_trial(
        state=optuna.trial.TrialState.RUNNING,
        user_attrs={"pdsearch:kind": "candidate", **attrs},
    )
    trial.datetime_start = datetime.now() - timedelta(seconds=age)
    study.add_trial(trial)
    return study


def ended() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def owner(**changes: Any) -> Owner:
    here = Owner.here()
    return Owner(**{**here.to_dict(), **changes})


@pytest.mark.parametrize(
    ("who", "age", "gone"),
    [
        (lambda: owner(pid=ended(), started="1"), 0, True),
        (lambda: owner(pid=os.getppid(), started="1"), 0, True),  # the number is used again
        (lambda: owner(pid=os.getppid(), started=process_started(os.getppid())), 1e4, False),
        (lambda: owner(), 0, True),  # ours, and we run none at this moment
        (lambda: owner(host="elsewhere"), 10, False),
        (lambda: owner(host="elsewhere"), 1e4, True),  # it never gave a sign of life
        (lambda: owner(scope="another boot"), 10, False),
        (lambda: None, 1, False),  # it may be about to sign
        (lambda: None, 60, True),
    ],
)
def test_whose_trials_are_taken_over(
    who: Callable[[], Owner | None], age: float, gone: bool
) -> None:
    study = left_behind(who(), age=age)
    assert fail_dead_trials(study) == ([1] if gone else [])
    states = [t.state.name for t in study.trials[1:]]
    assert states == (["FAIL", "WAITING"] if gone else ["RUNNING"])


def test_a_heartbeat_elsewhere_is_optunas_to_judge() -> None:
    study = left_behind(owner(host="elsewhere"), age=1e4)
    backend = connect(URL, write=True)
    backend.record_heartbeat(study.trials[1]._trial_id)
    assert fail_dead_trials(study) == []


def test_a_trial_is_given_up_after_three_attempts() -> None:
    study = left_behind(owner(pid=ended(), started="1"))
    for _ in range(ATTEMPTS):
        fail_dead_trials(study)
        waiting = [t for t in study.trials if t.state.name == "WAITING"]
        for trial in waiting:
            study._storage.set_trial_state_values(trial._trial_id, optuna.trial.TrialState.RUNNING)
            dead = owner(pid=ended(), started="1").to_dict()
            study._storage.set_trial_user_attr(trial._trial_id, "pdsearch:owner", dead)
    assert [t.state.name for t in study.trials[1:]] == ["FAIL"] * ATTEMPTS
    assert study.trials[3].system_attrs["retry_history"] == [1, 2]


def test_a_baseline_that_is_killed_at_every_attempt_ends_the_study(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupted(candidate: Candidate) -> Iterator[float]:
        raise KeyboardInterrupt
        yield

    keys: dict[str, Any] = {"families": FAMILIES, "references": [], "storage": URL, "trials": 2}
    with pytest.raises(KeyboardInterrupt):
        search(**keys, train=interrupted)
    dead = owner(pid=ended(), started="1").to_dict()
    study = optuna.load_study(study_name="pdsearch", storage=connect(URL, write=True))
    for attempt in range(ATTEMPTS):
        (waiting,) = [t for t in study.trials if t.state.name == "WAITING"]
        study._storage.set_trial_state_values(waiting._trial_id, optuna.trial.TrialState.RUNNING)
        study._storage.set_trial_user_attr(waiting._trial_id, "pdsearch:owner", dead)
        if attempt < ATTEMPTS - 1:
            fail_dead_trials(study)
    before, same = capsys.readouterr(), {**keys, "train": interrupted}
    with pytest.raises(PdsearchError, match=r"\(baseline\) failed at every .* process was killed"):
        search(**same)
    assert "given up after 3 attempts" in capsys.readouterr().err, before
    with pytest.raises(KeyboardInterrupt):  # whoever calls again has mended something
        search(**same)


def test_an_interruption_uses_up_no_attempt() -> None:
    study = left_behind(owner())
    for number in range(1, 6):
        assert fail_dead_trials(study, mine=True) == [number]
        (waiting,) = [t for t in study.trials if t.state.name == "WAITING"]
        study._storage.set_trial_state_values(waiting._trial_id, optuna.trial.TrialState.RUNNING)
        study._storage.set_trial_user_attr(
            waiting._trial_id, "pdsearch:owner", Owner.here().to_dict()
        )


def test_a_zombie_is_not_alive() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    until = time.monotonic() + 30
    while process_started(process.pid) is not None:
        assert time.monotonic() < until
        time.sleep(0.02)  # it ends, and stays in the table until waited for
    process.wait()


def test_a_surplus_trial_of_a_dead_process_is_not_kept_waiting(workdir: Path) -> None:
    """Two processes begin the last trial, one is killed there; what a user queued stays."""

    def train(candidate: Candidate) -> float:
        return 0.5

    options: dict[str, Any] = {
        "families": FAMILIES,
        "references": [],
        "train": train,
        "storage": URL,
    }
    search(**options, trials=3, progress=False)
    study = optuna.load_study(study_name="pdsearch", storage=connect(URL))
    gone = subprocess.Popen([sys.executable, "-c", ""])
    owner = Owner.here().to_dict() | {"pid": gone.pid, "started": "1"}
    gone.wait()
    killed = ask(study)
    killed.set_user_attr("pdsearch:owner", owner)
    study.enqueue_trial({"family": "mild", "mild.a": 0.2})
    before = {t.number: t.state.name for t in trials()}
    search(**options, trials=3, progress=False)
    after = trials()
    assert all(after[number].state.name == state for number, state in before.items() if number < 3)
    assert [t.number for t in after if t.state.name == "RUNNING"] == []
    (waiting,) = [t for t in after if t.state.name == "WAITING"]
    assert "fixed_params" in waiting.system_attrs
    (dropped,) = [t for t in after if t.user_attrs.get("pdsearch:status") == "surplus"]
    assert dropped.system_attrs["failed_trial"] == killed.number
    rows = open_study("pdsearch", storage=URL).trials()
    assert [row.status for row in rows].count("complete") == 3
