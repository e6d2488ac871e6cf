"""What one PostgreSQL sustains: 1, 4, 16 and 64 workers whose trials train nothing.

Each worker is a process that runs pdsearch's own loop on one study: it draws a candidate, reports
some epochs and stores the result, as a real one does; only the training takes no time. Server and
workers share this machine, so that wall times say how much the machine does. The CPU time of the
server alone is what another machine would spend on the same trials.

    python benchmarks/storage.py [--workers 1 4 16 64] [--trials 200] [--epochs 8] [--json]
"""

import argparse
import itertools
import json
import multiprocessing
import os
import platform
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
# Its whole box fulfils the criteria, so that no candidate is checked alone.
FAMILY = {
    "name": "mild",
    "formula": "Piecewise((1, x > 0), (a, True))",
    "space": {"a": [0.1, 0.3]},
}
TICK = os.sysconf("SC_CLK_TCK")
CONNECTIONS = 400  # PostgreSQL's own default is 100


def start(folder: Path) -> tuple[Any, str, int]:
    """Start a server with its own defaults, except for the connections; return its URL and pid."""
    import pgserver
    import psycopg

    server = pgserver.get_server(folder)
    with psycopg.connect(server.get_uri(), autocommit=True) as connection:
        connection.execute(f"ALTER SYSTEM SET max_connections = {CONNECTIONS}")
    server.cleanup()  # it is read at the start
    server = pgserver.get_server(folder)
    pid = int((folder / "postmaster.pid").read_text().splitlines()[0])
    return server, server.get_uri().replace("postgresql://", "postgresql+psycopg://"), pid


def spent(server: int) -> float:
    """Return the CPU seconds of the server and its processes, ended ones included."""
    total = 0
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        if int(entry.name) == server:
            total += sum(int(field) for field in fields[11:15])  # with its ended children
        elif int(fields[1]) == server:
            total += sum(int(field) for field in fields[11:13])
    return total / TICK


def connections(url: str) -> int:
    """Return the open connections of clients, without this one."""
    import psycopg

    query = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'"
    with psycopg.connect(url.replace("+psycopg", "")) as connection:
        row = connection.execute(query).fetchone()
    return int(row[0]) - 1 if row else 0


def run(url: str, name: str, *, trials: int, epochs: int) -> list[float]:
    """Run trials until the study has its total; return the seconds between their ends."""
    import pdsearch

    ends = []

    def train(candidate: Any) -> Iterator[float]:
        for _ in range(epochs):
            yield 0.5
        ends.append(time.perf_counter())

    pdsearch.search(
        families=[FAMILY], references=[], train=train, name=name, trials=trials, storage=url,
        sampler="random", pruner="none", progress=False,
    )  # fmt: skip
    return [after - before for before, after in itertools.pairwise(ends)]


def work(
    url: str, name: str, trials: int, epochs: int, barrier: Any, results: Any, place: str
) -> None:
    """Wait for the other workers, then run trials."""
    os.chdir(place)
    barrier.wait()
    before = resource.getrusage(resource.RUSAGE_SELF)
    times = run(url, name, trials=trials, epochs=epochs)
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    results.put((times, cpu))


def measure(
    url: str, server: int, *, workers: int, trials: int, epochs: int, place: str
) -> dict[str, Any]:
    """Measure so many workers on one study of so many trials."""
    from pdsearch.study import open_study

    name = f"workers-{workers}"
    context = multiprocessing.get_context("fork")  # torch is imported once for all of them
    # The study is begun, and its baseline is trained.
    first = context.Process(target=run, args=(url, name), kwargs={"trials": 2, "epochs": 1})
    first.start()
    first.join()
    barrier, results = context.Barrier(workers + 1), context.Queue()
    total = trials + 2
    processes = [
        context.Process(target=work, args=(url, name, total, epochs, barrier, results, place))
        for _ in range(workers)
    ]
    for process in processes:
        process.start()
    barrier.wait()
    server_before, begin = spent(server), time.perf_counter()
    most = 0
    while (finished := results.qsize()) == 0:  # the first worker sees that the total is reached
        most = max(most, connections(url))
        time.sleep(0.5)
    seconds, server_spent = time.perf_counter() - begin, spent(server) - server_before
    found = [results.get() for _ in processes]
    for process in processes:
        process.join()
    assert finished and open_study(name, storage=url).counts()["total"] >= total
    times = [value for taken, _ in found for value in taken]
    return {
        "workers": workers,
        "trials": trials,
        "seconds": seconds,
        "trials_per_second": trials / seconds,
        "median_seconds": statistics.median(times) if times else None,
        "worker_cpu_seconds": sum(cpu for _, cpu in found) / trials,
        "server_cpu_seconds": server_spent / trials,
        "connections": most,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--trials", type=int, default=200, help="of each study")
    parser.add_argument("--epochs", type=int, default=8, help="reported by each trial")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    sys.path.insert(0, str(HERE.parent))
    os.environ.setdefault("OMP_NUM_THREADS", "1")

    import pdsearch.study.api  # noqa: F401  # imported once, before the workers are forked

    report: dict[str, Any] = {
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "epochs": arguments.epochs,
        "rows": [],
    }
    with (
        tempfile.TemporaryDirectory(prefix="pg-", ignore_cleanup_errors=True) as folder,
        tempfile.TemporaryDirectory() as place,
    ):
        server, url, pid = start(Path(folder))
        for workers in arguments.workers:
            options = {"trials": arguments.trials, "epochs": arguments.epochs}
            row = measure(url, pid, workers=workers, place=place, **options)
            report["rows"].append(row)
            print(
                f"{workers:3} worker(s): {row['trials_per_second']:6.1f} trials/s, "
                f"{1000 * (row['median_seconds'] or 0):6.0f} ms a trial (median), CPU per trial "
                f"{1000 * row['worker_cpu_seconds']:.0f} ms of the worker and "
                f"{1000 * row['server_cpu_seconds']:.0f} ms of the server, "
                f"{row['connections']} connections",
                file=sys.stderr,
                flush=True,
            )
        server.cleanup()
    if arguments.json:
        print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
