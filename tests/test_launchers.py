"""Workers on a cluster: what is refused, what a cluster is given, and how a study is watched."""

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny import write_tiny

from pdsearch.cli import main
from pdsearch.cli.parser import parse
from pdsearch.errors import InputError, PdsearchError
from pdsearch.launchers import Ended, Job, Seen, on_slurm
from pdsearch.launchers.remote import RemoteWorker, reason_of
from pdsearch.study import api, launched, load_study_file, prepare, search
from pdsearch.study.innards import ask
from pdsearch.study.machine import Owner
from pdsearch.study.storage import close

FILE = """
    [study]
    name = "tiny"
    families = ["leaky"]
    references = []
    trials = 3
    [trial]
    model = "tiny.py:build"
    dataset = "digits"
    epochs = 1
    batch_size = 64
    precision = "float32"
    memory_format = "contiguous"
"""
SECRET = "postgresql+psycopg://me:hunter2@nowhere.invalid/db"


@pytest.fixture
def tiny(workdir: Path) -> Path:
    return write_tiny(workdir / "here", FILE)


# ---------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--launcher", "rey", "--workers", "2"], "invalid choice: 'rey'"),
        (["--launcher", "ray"], "--launcher ray needs a number of workers: --workers N"),
        (["--launcher", "ray", "--workers", "auto"], "needs a number of workers"),
        (["--launcher", "ray", "--workers", "0"], "must be at least 1"),
        (["--gpus-per-worker", "1"], "--gpus-per-worker is for --launcher ray and slurm"),
        (["--launcher", "slurm", "--workers", "2", "--gpus-per-worker", "2"], "must be 0 or 1"),
        (
            ["--launcher", "slurm", "--workers", "2", "--device", "cuda"],
            "workers with --gpus-per-worker 0 train on cpu, got --device cuda: omit it",
        ),
        (
            ["--launcher", "slurm", "--workers", "2", "--storage", "sqlite:///x.db"],
            "needs a storage that all machines reach, got sqlite:///x.db, a file for one machine",
        ),
        (
            ["--launcher", "ray", "--workers", "2", "--set", "study.tie_seeds=2"],
            "study.tie_seeds are trained by the process that starts a search",
        ),
    ],
)
def test_what_cannot_be_launched_is_one_line(
    tiny: Path,
    words: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PDSEARCH_STORAGE", SECRET)
    assert main(["search", str(tiny), *words]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) == 1 and "hunter2" not in error
    assert [path.name for path in Path().rglob("*") if path.is_file()] == ["study.toml", "tiny.py"]


@pytest.mark.parametrize(("launcher", "package"), [("ray", "ray"), ("slurm", "submitit")])
def test_a_missing_package_is_named(
    tiny: Path, launcher: str, package: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv("PDSEARCH_STORAGE", SECRET)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["search", str(tiny), "--launcher", launcher, "--workers", "2"]) == 2
    assert capsys.readouterr().err == (
        f"pdsearch: error: --launcher {launcher} needs the package {package}: "
        f"pip install 'pdsearch[{launcher}]'\n"
    )


def test_a_machine_without_sbatch_is_no_login_node(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    pytest.importorskip("submitit")
    monkeypatch.setenv("PDSEARCH_STORAGE", SECRET)
    monkeypatch.setenv("PATH", "/nonexistent")
    assert main(["search", str(tiny), "--launcher", "slurm", "--workers", "2"]) == 2
    assert "this machine has no sbatch" in capsys.readouterr().err


def test_functions_stay_in_their_process() -> None:
    with pytest.raises(InputError, match="cannot run a function or criteria from Python"):
        search(
            families=["leaky"],
            train=lambda candidate: 0.5,
            storage=SECRET,
            workers=1,
            launcher="ray",
        )


def test_a_gpus_precision_is_not_probed_on_a_cpu(
    tiny: Path, on_cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    text = tiny.read_text().replace('"float32"', '"auto"')
    tiny.write_text(text.replace('"contiguous"', '"auto"'))
    keys: dict[str, Any] = {"launcher": "ray", "gpus_per_worker": 1, "workers": 1}
    cluster = on_cluster(["gone"])
    with pytest.raises(InputError, match=r"trial\.precision is auto, which a probe on a GPU"):
        search(tiny, progress=False, **keys)
    assert cluster.job is None
    with pytest.raises(InputError, match="it holds: none yet"):
        api.open_named("tiny", "sqlite:///pdsearch.db")
    file = load_study_file(tiny, overrides={"trial.precision": "bfloat16"})
    with pytest.raises(PdsearchError, match="no worker is left"):
        search(file, progress=False, **keys)
    job: Any = cluster.job  # mypy believes the None above
    assert job.gpus == 1 and job.request["device"] == "cuda"
    decided = job.request["file"]["trial"]
    assert (decided["precision"], decided["memory_format"]) == ("bfloat16", "channels_last")


# ------------------------------------------------------------------------------ what the docs say

SCALE = (Path(__file__).parents[1] / "docs" / "scale.md").read_text(encoding="utf-8")


def test_the_documented_job_is_valid() -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", SCALE, flags=re.S)
    job = yaml.safe_load(block)
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
    pod = job["spec"]["template"]["spec"]
    assert pod["restartPolicy"] in ("OnFailure", "Never")  # a Job allows no other
    (container,) = pod["containers"]
    program, *words = container["command"]
    arguments = parse(words)
    assert program == "pdsearch" and arguments.command == "search" and arguments.workers == 1
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert set(mounts) == {volume["name"] for volume in pod["volumes"]}
    assert arguments.study == f"{mounts['study']}/study.toml"
    assert arguments.set == [f"study.output={mounts['work']}"]


def test_the_documented_commands_are_valid() -> None:
    found = re.findall(r"^    pdsearch (.*)$", SCALE, flags=re.M)
    assert {parse(words.split()).command for words in found} == {"search", "worker"}


# -------------------------------------------------------------------------- a study that is watched


class Scripted:
    """A cluster whose looks are written down; `works` runs a worker's job in this process."""

    def __init__(self, *looks: Any) -> None:
        self.looks = list(looks)
        self.job: Job | None = None
        self.stopped: list[float] = []
        self.closed = False

    def start(self, job: Job) -> None:
        self.job = job

    def look(self) -> Seen:
        look = self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]
        if isinstance(look, BaseException):
            raise look
        if look == "works":
            self._work()
            look = Seen(0, {}, (Ended("node1"),))
        elif look == "gone":
            look = Seen(0, {}, (Ended("node1", "no data set"), Ended("node2", "no data set")))
        return look

    def _work(self) -> None:
        assert self.job is not None
        # As it arrives on the other machine, where the storage is in the environment alone.
        request = json.loads(json.dumps(dict(self.job.request)))
        assert "hunter2" not in str(request) and "storage" not in request["file"]["study"]
        with pytest.MonkeyPatch.context() as patch:
            for name, value in self.job.environment.items():
                patch.setenv(name, value)
            api.work(request)

    def why_waiting(self) -> str:
        return "Priority"

    def stop(self, seconds: float) -> None:
        self.stopped.append(seconds)

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def on_cluster(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Put a scripted cluster in place of Ray, with a SQLite file as its storage."""

    def put(looks: list[Any]) -> Scripted:
        cluster = Scripted(*looks)
        here = {"local": None}
        monkeypatch.setattr(
            api, "connected", lambda launcher: _Connected(here.get(launcher, cluster))
        )
        monkeypatch.setattr(prepare, "check_launched", lambda *args, **keys: None)
        monkeypatch.setattr(launched, "POLL", 0.01)
        return cluster

    return put


class _Connected:
    def __init__(self, cluster: Scripted | None) -> None:
        self._cluster = cluster

    def __enter__(self) -> Scripted | None:
        return self._cluster

    def __exit__(self, *error: object) -> None:
        if self._cluster is not None:
            self._cluster.close()


def test_workers_elsewhere_run_the_study_and_this_process_watches(
    tiny: Path, on_cluster: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = on_cluster([Seen(0, {"pending": 2}, ()), "works"])
    result = search(tiny, launcher="ray", workers=2, threads=1)
    job = cluster.job
    assert (job.count, job.cpus, job.gpus, job.name) == (2, 1, 0, "pdsearch-tiny")
    assert [row.status for row in result.stored.trials()] == ["complete"] * 3
    assert cluster.closed and cluster.stopped == [launched.LEISURE]
    error = capsys.readouterr().err
    assert "workers: 2 pending" in error
    assert error.count("] trial 0 relu (baseline): complete") == 1
    # The same results as without a cluster.
    alone = search(tiny, workers=1, storage="sqlite:///alone.db", threads=1, progress=False)
    assert [row.value for row in alone.stored.trials()] == [
        row.value for row in result.stored.trials()
    ]


def test_a_finished_study_starts_no_worker(tiny: Path, on_cluster: Any) -> None:
    search(tiny, workers=1, threads=1, progress=False)
    cluster = on_cluster([KeyError("not looked at")])
    assert search(tiny, launcher="slurm", workers=4).to_dict()["trials"]["total"] == 3
    assert cluster.job is None


def test_workers_that_never_start_are_not_waited_for_at_the_end(
    tiny: Path, on_cluster: Any
) -> None:
    class Last(Scripted):
        def look(self) -> Seen:
            super().look()
            return Seen(0, {"pending": 3}, (Ended("node1"),))

    cluster = on_cluster(["works"])
    cluster.__class__ = Last
    assert search(tiny, launcher="slurm", workers=4).to_dict()["trials"]["total"] == 3
    assert cluster.stopped  # which takes them out of the queue


def test_no_worker_is_left(tiny: Path, on_cluster: Any, capsys: Any) -> None:
    cluster = on_cluster([Seen(1, {}, ()), "gone"])
    words = ["search", str(tiny), "--launcher", "ray", "--workers", "2"]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.count("a worker on node1 ended: no data set") == 1
    assert "a worker on node2" not in error  # for the same reason
    assert "no worker is left, with 0 of 3 trials done (2 × no data set)" in error
    assert cluster.closed
    # Resumed without a cluster.
    assert main(["search", str(tiny), "--workers", "1", "-q"]) == 0


def test_workers_that_do_not_start_are_reported_with_the_reason(
    tiny: Path, on_cluster: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(launched, "PATIENT", 0.1)
    waits = [Seen(1, {"pending": 2}, ())] * 40
    cluster = on_cluster([*waits, KeyboardInterrupt()])
    with pytest.raises(KeyboardInterrupt):
        search(tiny, launcher="slurm", workers=3, progress=False)
    assert capsys.readouterr().err == "2 worker(s) have waited for 0 s: Priority\n"
    assert cluster.stopped and cluster.closed


def test_trials_of_dead_machines_are_retried(
    tiny: Path, on_cluster: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(launched, "DEAD", 0.0)
    gone = subprocess.Popen(["true"])
    gone.wait()

    class Dies(Scripted):
        def look(self) -> Seen:
            if len(self.looks) == 2:  # the first: a worker begins a trial and is killed
                study = api.open_named("tiny", "sqlite:///pdsearch.db", write=True).study
                trial = ask(study)
                owner = {**Owner.here().to_dict(), "pid": gone.pid, "started": "0"}
                trial.set_user_attr("pdsearch:owner", owner)
                close(study)
            return super().look()

    cluster = on_cluster([Seen(1, {}, ()), "works"])
    cluster.__class__ = Dies
    rows = search(tiny, launcher="ray", workers=1).stored.trials()
    assert [row.status for row in rows] == ["failed"] + ["complete"] * 3
    assert f"trial 0: its process {gone.pid} is gone; it will be tried again" in (
        capsys.readouterr().err
    )


def test_a_cluster_that_does_not_pass_the_environment_on(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PDSEARCH_STORAGE", raising=False)
    with pytest.raises(InputError, match="PDSEARCH_STORAGE is not set on this machine"):
        api.work({"directory": str(tiny.parent), "file": {}, "device": "cpu"})


# ------------------------------------------------------------------------------- a machine's worker

JOB = """
    import os, sys, time
    from pdsearch.errors import InputError

    def work(request):
        print("begun", os.environ.get("SECRET"), file=sys.stderr, flush=True)
        if request.get("error"):
            raise InputError(request["error"])
        if request.get("kill"):
            os.kill(os.getpid(), 9)
        end = time.monotonic() + request.get("seconds", 0)
        while time.monotonic() < end:
            time.sleep(0.02)
"""


@pytest.fixture
def job(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module with a worker's `work`."""
    (workdir / "some_job.py").write_text(textwrap.dedent(JOB))
    path = os.pathsep.join([str(workdir), *filter(None, [os.environ.get("PYTHONPATH")])])
    monkeypatch.setenv("PYTHONPATH", path)
    return "some_job"


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        ({}, ""),
        ({"error": "no data set\n  at u://me:hunter2@h/"}, "no data set; at u://me:***@h/"),
        ({"kill": True}, "signal 9 killed it, most likely by the system, which was out of memory"),
    ],
)
def test_how_a_worker_ends(
    job: str, request_: dict[str, Any], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    worker = RemoteWorker()
    assert worker.work(job, request_, {"SECRET": "x"}) == Ended(worker.host(), reason)
    error = capsys.readouterr().err
    assert error.startswith("begun x\n") and "hunter2" not in error


def test_a_worker_is_stopped_from_another_thread(job: str) -> None:
    worker = RemoteWorker()
    threading.Timer(1.0, worker.stop).start()
    began = time.monotonic()
    assert worker.work(job, {"seconds": 60}, {}).reason == "it was interrupted"
    assert time.monotonic() - began < 15


@pytest.mark.parametrize(
    ("status", "lines", "reason"),
    [
        (0, ["a warning"], ""),
        (130, [], "it was interrupted"),
        (70, ["Traceback", "ValueError: u://a:hunter2@b"], "ValueError: u://a:***@b"),
        (1, [], "its exit status was 1"),
        (-11, ["x"], "signal 11 killed it"),
    ],
)
def test_why_a_worker_ended(status: int, lines: list[str], reason: str) -> None:
    assert reason_of(status, lines) == reason


# -------------------------------------------------------------------------------------------- Slurm

# What the commands of Slurm do as far as a launcher sees it: a job array runs on this machine.
COMMANDS = {
    "sbatch": """
        import os, pathlib, re, subprocess, sys
        text = pathlib.Path(sys.argv[1]).read_text()
        if os.environ.get("SBATCH_PARTITION"):
            sys.exit("sbatch: error: invalid partition specified")
        found = re.search(r"--array=0-(\\d+)", text)
        for number in range(int(found[1]) + 1 if found else 1):
            name = f"7_{number}" if found else "7"
            ids = {"SLURM_JOB_ID": str(70 + number)}
            if found:
                ids |= {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": str(number)}
            else:
                ids = {"SLURM_JOB_ID": "7"}
            queue = pathlib.Path(os.environ["QUEUE"])
            if "waits" in os.environ.get("SLURM", ""):
                (queue / name).write_text("PENDING|QOSMaxCpuPerUserLimit")
                continue
            line = text.splitlines()[-1].replace("%j", name)
            command = re.search(r"\\S+ -u -m submitit.*$", line)[0]
            process = subprocess.Popen(
                command, shell=True, start_new_session=True, env={**os.environ, **ids,
                "SUBMITIT_EXECUTOR": "slurm"}, stderr=open(queue / f"{name}.err", "w"),
                stdout=subprocess.DEVNULL)
            (queue / name).write_text(f"RUNNING|None|{process.pid}")
        print("Submitted batch job 7")
    """,
    "srun": "",
    "squeue": """
        import os, pathlib
        for path in sorted(pathlib.Path(os.environ["QUEUE"]).iterdir()):
            if path.suffix != ".err":
                state, reason, *pid = path.read_text().split("|")
                if not pid or pathlib.Path(f"/proc/{pid[0]}").exists():
                    print(f"{path.name}|{state}|{reason}")
    """,
    "scancel": """
        import os, pathlib, signal, sys
        for name in sys.argv[1:]:
            path = pathlib.Path(os.environ["QUEUE"]) / name
            _, _, *pid = path.read_text().split("|")
            path.unlink()
            if pid:
                os.killpg(int(pid[0]), signal.SIGTERM)
    """,
}


@pytest.fixture
def slurm(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[on_slurm.SlurmCluster]:
    """A cluster of the commands above, with submitit's own Slurm executor."""
    pytest.importorskip("submitit")
    programs, queue = workdir / "bin", workdir / "queue"
    programs.mkdir()
    queue.mkdir()
    for name, text in COMMANDS.items():
        (programs / name).write_text(f"#!{sys.executable}\n{textwrap.dedent(text)}")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("QUEUE", str(queue))
    monkeypatch.setattr(on_slurm, "_ASK", 0.1)
    monkeypatch.setattr(on_slurm, "_LATE", 0.5)
    cluster = on_slurm.SlurmCluster()
    yield cluster
    cluster.stop(5.0)


def submit(cluster: Any, module: str, *, count: int = 2, gpus: int = 0, **request: Any) -> None:
    cluster.start(
        Job(
            count=count,
            module=module,
            request=request,
            environment={"SECRET": "hunter2"},
            cpus=3,
            gpus=gpus,
            name="pdsearch-tiny",
            folder=Path("shared").absolute(),
        )
    )


def until(cluster: Any, holds: Any, *, seconds: float = 60.0) -> list[Ended]:
    """Look until the condition holds; return the workers that ended meanwhile."""
    ended: list[Ended] = []
    end = time.monotonic() + seconds
    while True:
        seen = cluster.look()
        ended += seen.ended
        if holds(seen):
            return ended
        assert time.monotonic() < end, seen
        time.sleep(0.05)


def gone(seen: Seen) -> bool:
    return not seen.live


def test_slurms_script_asks_for_what_a_worker_needs_and_holds_no_secret(
    slurm: Any, job: str
) -> None:
    submit(slurm, job, gpus=1)
    assert [ended.reason for ended in until(slurm, gone)] == ["", ""]
    lines = next(Path("shared").rglob("*.sh")).read_text().splitlines()
    for line in (
        "#SBATCH --array=0-1%2",
        "#SBATCH --cpus-per-task=3",
        "#SBATCH --gpus-per-node=1",
        "#SBATCH --job-name=pdsearch-tiny",
        "#SBATCH --requeue",
        f"#SBATCH --time={on_slurm.MINUTES}",
    ):
        assert line in lines
    assert "--cpus-per-task 3" in lines[-1]
    # The environment reached the workers, whose log shows it; nothing else does.
    assert "begun hunter2" in Path("queue/7_0.err").read_text()
    assert not [
        p for p in Path("shared").rglob("*") if p.is_file() and b"hunter2" in p.read_bytes()
    ]
    assert "SECRET" not in os.environ


def test_jobs_that_slurm_does_not_accept(slurm: Any, job: str, monkeypatch: Any) -> None:
    monkeypatch.setenv("SBATCH_PARTITION", "nosuch")
    with pytest.raises(
        PdsearchError, match=r"sbatch did not accept .* invalid partition specified"
    ):
        submit(slurm, job)


def test_jobs_that_wait_have_slurms_reason(slurm: Any, job: str, monkeypatch: Any) -> None:
    monkeypatch.setenv("SLURM", "waits")
    submit(slurm, job)
    until(slurm, lambda seen: seen == Seen(0, {"pending": 2}, ()) and slurm.why_waiting() != "")
    until(slurm, lambda seen: "2 × QOSMaxCpuPerUserLimit" in slurm.why_waiting())
    slurm.stop(1.0)
    assert not list(Path("queue").iterdir())


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        ("some_job", "no data set"),
        ("no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
    ],
)
def test_how_slurms_jobs_end(slurm: Any, job: str, module: str, reason: str) -> None:
    submit(slurm, module, count=1, error="no data set")
    (ended,) = until(slurm, gone)
    assert ended.reason == reason


def test_a_job_that_dies_without_a_result(slurm: Any, job: str) -> None:
    submit(slurm, job, seconds=60)
    until(slurm, lambda seen: seen.running == 2)
    pid = int(Path("queue/7_1").read_text().split("|")[2])
    os.killpg(pid, signal.SIGKILL)
    (ended,) = until(slurm, lambda seen: seen.live == 1)
    assert ended.where == "Slurm's job 7_1" and ended.reason.startswith("it is gone")


def test_scancel_ends_workers_in_order(slurm: Any, job: str, workdir: Path) -> None:
    submit(slurm, job, seconds=60)
    end = time.monotonic() + 30
    while any("begun" not in Path(f"queue/7_{n}.err").read_text() for n in (0, 1)):
        assert time.monotonic() < end
        time.sleep(0.05)
    pids = _workers()
    assert len(pids) == 2
    slurm.stop(1.0)
    while _workers():
        assert time.monotonic() < end + 15
        time.sleep(0.05)


def _workers() -> list[str]:
    """The processes that run the job of this test."""
    found = subprocess.run(
        ["pgrep", "-f", "pdsearch.processes some_job"], capture_output=True, text=True, check=False
    )
    return found.stdout.split()


def test_a_worker_is_requeued_before_its_time_limit(job: str) -> None:
    submitit = pytest.importorskip("submitit")
    worker = on_slurm.SlurmWorker()
    ended: list[Ended] = []
    thread = threading.Thread(
        target=lambda: ended.append(worker._worker.work(job, {"seconds": 60}, {}))
    )
    thread.start()
    time.sleep(0.5)
    again = worker.checkpoint(job, {"seconds": 60})
    thread.join(timeout=30)
    assert [end.reason for end in ended] == ["it was interrupted"]
    assert isinstance(again, submitit.helpers.DelayedSubmission)
    assert again.args == (job, {"seconds": 60})
    assert isinstance(again.function, on_slurm.SlurmWorker)
