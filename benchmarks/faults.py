"""Kill processes of studies at random, and check that the storage loses nothing.

    python benchmarks/faults.py --kills 300 --writes 60 --outages 3

Each study is run repeatedly by as many processes as its kind specifies. They are killed (KILL),
interrupted (INT, TERM, sometimes twice) or stopped for a while (STOP, CONT) at random moments, or
interrupt themselves at a random line of Optuna or SQLAlchemy within a random write. In an outage, a
PostgreSQL server is shut down under its processes and started again.

In the end, each study must hold exactly the requested number of trials. Trials that were finished
at a kill must not have changed, and none may seem to run. Every process must end with 0, 2, 130 or
by KILL, within five seconds of INT or TERM, and leave no process behind.

Prints a tally; exits with 1 if anything was wrong.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hunted import TOTAL, Forked

KILLS = 12  # per study; then it may finish
SOON = 5.0  # seconds within which a process must end
PATIENCE = 300.0  # seconds after which a process that has not ended counts as hanging

TINY = """
    from torch import nn

    def build(classes):
        return nn.Sequential(
            nn.AvgPool2d(8), nn.Flatten(), nn.Linear(48, 8), nn.ReLU(), nn.Linear(8, classes)
        )
"""
FILE = """
    [study]
    name = "hunted"
    families = ["exp_tail", "leaky"]
    references = []
    trials = {total}
    sampler = "random"
    pruner = "none"
    storage = "{url}"
    [trial]
    model = "tiny.py:build"
    dataset = "digits"
    epochs = 2
    batch_size = 64
    learning_rate = 0.1
    precision = "float32"
    memory_format = "contiguous"
"""


Process = subprocess.Popen[bytes] | Forked


# --------------------------------------------------------------------------------------- the attack


@dataclass
class Tally:
    """Count what was done and what happened."""

    done: Counter[str] = field(default_factory=Counter)
    exits: Counter[str] = field(default_factory=Counter)
    studies: Counter[str] = field(default_factory=Counter)
    asked: int = 0
    counted: int = 0
    wrong: list[str] = field(default_factory=list)
    slowest: float = 0.0

    def show(self) -> str:
        """Return the tally as lines of text."""
        kills = sum(count for what, count in self.done.items() if what != "outage")
        return "\n".join(
            (
                f"{kills} kills: {dict(sorted(self.done.items()))}",
                f"studies: {dict(self.studies)}, {self.asked} trials asked for, "
                f"{self.counted} counted",
                f"exits: {dict(sorted(self.exits.items()))}; "
                f"slowest after INT or TERM {self.slowest:.1f} s",
                f"wrong: {len(self.wrong)}",
                *self.wrong,
            )
        )


@dataclass
class Study:
    """A study under attack, and its storage."""

    kind: str  # sqlite, sqlite2, cli2, postgres3
    folder: Path
    url: str
    tally: Tally
    draw: random.Random
    finished: dict[int, Any] = field(default_factory=dict)

    @property
    def side_by_side(self) -> int:
        """Number of processes at once."""
        return {"sqlite": 1, "sqlite2": 2, "cli2": 1, "postgres3": 3}[self.kind]

    def start(self, *, in_a_write: bool = False) -> Process:
        """Start one process of the study."""
        errors = self.folder / "stderr.txt"
        if self.kind == "cli2":
            words = ["search", "study.toml", "--workers", "2", "-q"]
            with errors.open("a") as file:
                return subprocess.Popen(
                    [sys.executable, "-m", "pdsearch", *words],
                    cwd=self.folder,
                    stdout=subprocess.DEVNULL,
                    stderr=file,
                )
        # A trial has some 8 writes, and a write some 600 lines.
        at = self.draw.randint(1, 3 * 8) if in_a_write else 0
        return Forked(self.url, at=at, line=self.draw.randint(1, 500), errors=errors)

    def trials(self) -> list[Any]:
        """Return the trials as they are stored now."""
        import optuna

        from pdsearch.study.storage import connect

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        try:
            found = optuna.load_study(study_name="hunted", storage=connect(self.url)).trials
        except Exception:  # not begun, or the server is down
            return []
        return found

    def owners(self) -> set[int]:
        """Return the processes that have begun a trial."""
        import sqlalchemy

        query = "SELECT value_json FROM trial_user_attributes WHERE key = 'pdsearch:owner'"
        engine = sqlalchemy.create_engine(self.url, poolclass=sqlalchemy.pool.NullPool)
        try:
            with engine.connect() as connection:
                rows = connection.execute(sqlalchemy.text(query)).all()
        except sqlalchemy.exc.SQLAlchemyError:  # no tables yet
            return set()
        return {json.loads(text)["pid"] for (text,) in rows}

    def look(self) -> None:
        """Compare the finished trials with those seen before, and remember them."""
        now = {trial.number: trial for trial in self.trials()}
        for number, trial in self.finished.items():
            if now and now.get(number) != trial:
                self.tally.wrong.append(f"{self.folder}: trial {number} was lost or changed")
        self.finished.update({n: t for n, t in now.items() if t.state.is_finished()})

    def ended(self, process: Process, *, interrupted_at: float | None) -> None:
        """Record how a process ended; `interrupted_at` is None if it was not."""
        try:
            process.wait(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            self.tally.wrong.append(f"{self.folder}: a process did not end")
        took = 0.0 if interrupted_at is None else time.monotonic() - interrupted_at
        self.tally.slowest = max(self.tally.slowest, took)
        code = process.returncode
        self.tally.exits[str(code)] += 1
        # Before the handlers are installed, a signal ends a process by the system's default.
        if code not in (0, 2, 130, -signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT):
            self.tally.wrong.append(f"{self.folder}: a process ended with {code}")
        if took > SOON:
            self.tally.wrong.append(f"{self.folder}: a process took {took:.1f} s to end")
        if left := _left_behind(process.pid):
            self.tally.wrong.append(f"{self.folder}: left running: {left}")

    def hunt(self, kills: int, writes: int) -> None:
        """Kill processes of the study that many times, then let it finish."""
        how = ["write"] * writes + self.draw.choices(
            ["KILL", "INT", "TERM", "INT INT", "TERM INT", "STOP"], (4, 2, 2, 1, 1, 2), k=kills
        )
        self.draw.shuffle(how)
        running: list[subprocess.Popen[str]] = []
        for what in how:
            if what == "write":
                self._in_a_write(running)
                continue
            while len(running) < self.side_by_side:
                running.append(self.start())
            self.await_trials(running)
            time.sleep(self.draw.uniform(0, 1.5))
            victim = running.pop(self.draw.randrange(len(running)))
            if victim.poll() is not None:  # it had reached the total
                self.ended(victim, interrupted_at=None)
                self.begin_anew(running)
                continue
            self.look()
            self.strike(victim, what)
            self.tally.done[what] += 1
        self.finish(running)

    def await_trials(self, running: list[Process], *, of_all: bool = False) -> None:
        """Wait until one of them (or each) has begun a trial; earlier kills mostly hit imports.

        Now and then, do not wait at all.
        """
        wanted = {process.pid for process in running}
        until = time.monotonic() + 120
        while time.monotonic() < until and all(process.poll() is None for process in running):
            owners = self.owners()
            if (wanted <= owners) if of_all else (wanted & owners or self.draw.random() < 0.02):
                return
            time.sleep(0.1)

    def strike(self, victim: Process, what: str) -> None:
        """Send it one or two signals, and record its end."""
        if what == "STOP":
            victim.send_signal(signal.SIGSTOP)
            time.sleep(self.draw.uniform(0.2, 2))
            victim.send_signal(signal.SIGCONT)
            time.sleep(self.draw.uniform(0, 0.5))
            victim.send_signal(signal.SIGTERM)
        else:
            first, *further = what.split()
            victim.send_signal(getattr(signal, f"SIG{first}"))
            for name in further:
                time.sleep(self.draw.uniform(0, 0.3))
                victim.send_signal(getattr(signal, f"SIG{name}"))
        self.ended(victim, interrupted_at=None if what == "KILL" else time.monotonic())

    def begin_anew(self, running: list[Process]) -> None:
        """Let the study finish, and replace it by a new one."""
        self.finish(running)
        running.clear()
        self.renew()

    def _in_a_write(self, running: list[Process]) -> None:
        process = self.start(in_a_write=True)
        assert isinstance(process, Forked)
        interrupted_at = time.monotonic() if process.interrupts_itself() else None
        self.tally.done["in a write"] += interrupted_at is not None
        self.ended(process, interrupted_at=interrupted_at)
        if interrupted_at is None:  # it had reached the total before
            self.begin_anew(running)

    def finish(self, running: list[Process]) -> None:
        """Let the study reach its total, and check its trials."""
        for process in running:
            self.ended(process, interrupted_at=None)
        for _ in range(6):  # a baseline that was killed three times ends the study: retry
            process = self.start()
            self.ended(process, interrupted_at=None)
            if process.returncode == 0:
                break
        self.look()
        trials = self.trials()
        counted = [
            trial
            for trial in trials
            if trial.state.name in ("COMPLETE", "PRUNED")
            and trial.user_attrs.get("pdsearch:status") != "surplus"
        ]
        over = [t.number for t in trials if t.state.name in ("RUNNING", "WAITING")]
        self.tally.asked += TOTAL
        self.tally.counted += len(counted)
        self.tally.studies[self.kind] += 1
        if len(counted) != TOTAL or over:
            problem = f"{len(counted)} trials of {TOTAL}, running or waiting: {over}"
            self.tally.wrong.append(f"{self.folder}: {problem}")

    def renew(self) -> None:
        """Delete the finished study, so that a new one can start."""
        import optuna

        from pdsearch.study.storage import EmptyStorageError, connect

        with contextlib.suppress(KeyError, EmptyStorageError):
            optuna.delete_study(study_name="hunted", storage=connect(self.url))
        self.finished = {}


def _left_behind(parent: int) -> list[int]:
    """Return the processes that an ended process left running, after a grace period."""
    wanted = f"PDSEARCH_PARENT={parent}".encode()
    until = time.monotonic() + SOON
    while True:
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                if wanted in path.read_bytes().split(b"\0"):
                    found.append(int(path.parent.name))
        if not found or time.monotonic() > until:
            return found
        time.sleep(0.2)


def new_study(kind: str, root: Path, url: str, tally: Tally, draw: random.Random) -> Study:
    """Return a study of the given kind in its own folder."""
    folder = Path(tempfile.mkdtemp(prefix=f"{kind}-", dir=root))
    url = url or f"sqlite:///{folder}/study.db"
    if kind == "cli2":
        (folder / "tiny.py").write_text(textwrap.dedent(TINY))
        (folder / "study.toml").write_text(textwrap.dedent(FILE.format(url=url, total=TOTAL)))
    return Study(kind, folder, url, tally, draw)


@contextlib.contextmanager
def postgres(folder: Path) -> Iterator[Any]:
    """Run a PostgreSQL server; `server.get_uri()` is its URL."""
    import pgserver

    server = pgserver.get_server(folder)
    try:
        yield server
    finally:
        server.cleanup()


def outage(root: Path, tally: Tally, draw: random.Random, *, seconds: float) -> None:
    """Stop the server of a study's three processes for a while; all of them must continue."""
    import pgserver

    data = Path(tempfile.mkdtemp(prefix="pg-", dir=root))
    server = pgserver.get_server(data)
    url = server.get_uri().replace("postgresql://", "postgresql+psycopg://")
    study = new_study("postgres3", root, url, tally, draw)
    running = [study.start() for _ in range(3)]
    study.await_trials(running, of_all=True)
    time.sleep(draw.uniform(0, 1))
    study.look()
    mode = draw.choice(["fast", "immediate"])
    _pg_ctl("stop", data, "-m", mode)
    time.sleep(seconds)
    _pg_ctl("start", data, "-o", f"-h '' -k {data}", "-l", str(data / "log"))
    tally.done["outage"] += 1
    for process in running:
        study.ended(process, interrupted_at=None)
        if process.returncode != 0:
            tally.wrong.append(f"{study.folder}: {mode} outage ended a process")
    study.finish([])
    server.cleanup()


def _pg_ctl(word: str, data: Path, *options: str) -> None:
    import pgserver

    program = Path(pgserver.__file__).parent / "pginstall" / "bin" / "pg_ctl"
    command = [str(program), "-w", "-D", str(data), *options, word]
    # PostgreSQL refuses to run as root, so pgserver gives the folder to another user.
    owner = data.stat().st_uid
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, user=owner, cwd="/")


def main() -> int:
    """Attack studies until the requested numbers are reached."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument(
        "--writes", type=int, default=60, help="how many of the kills are within a write"
    )
    parser.add_argument("--outages", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=60.0, help="length of an outage")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", default=["sqlite", "sqlite2", "cli2", "postgres3"])
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import torch  # noqa: F401  # once, for all forked processes

    import pdsearch.study  # noqa: F401

    # Shells start background jobs with SIGINT ignored, and child processes would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    tally, draw = Tally(), random.Random(arguments.seed)
    root = Path(tempfile.mkdtemp(prefix="faults-"))
    root.chmod(0o755)
    share = arguments.writes / max(1, arguments.kills)
    with contextlib.ExitStack() as stack:
        uri = ""
        if "postgres3" in arguments.kinds:
            uri = stack.enter_context(postgres(root / "pg")).get_uri()
            uri = uri.replace("postgresql://", "postgresql+psycopg://")
        for number in range(arguments.outages):
            outage(root, tally, draw, seconds=arguments.seconds * draw.uniform(0.2, 1))
            print(f"outage {number + 1}\n{tally.show()}", flush=True)
        while sum(tally.done.values()) - tally.done["outage"] < arguments.kills:
            kind = draw.choice(arguments.kinds)
            study = new_study(kind, root, uri if kind == "postgres3" else "", tally, draw)
            if kind == "postgres3":
                study.renew()  # removes the previous one
            writes = 0 if kind == "cli2" else round(KILLS * share * 4 / 3)
            study.hunt(KILLS - writes, writes)
            print(tally.show(), flush=True)
    print(tally.show())
    if not tally.wrong:
        shutil.rmtree(root)
    return 1 if tally.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
