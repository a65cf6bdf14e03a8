"""What the engine costs beside the work: CPU seconds of all processes per 1,000 rows.

A row is like a picture to be collected (a path, a caption, tags), its value like what collecting
it tells (hash, size, format); the work itself is next to nothing. Two runs of different length part
the cost of starting from the cost of a row. CPU time is user and system time of this process and of
all below it; for Ray with its servers, which are busy even when nothing is asked of them, and
without the start of Ray itself.

Run: OMP_NUM_THREADS=1 python benchmarks/engine_overhead.py [--rounds 3] [--rows 100000]
"""

import argparse
import contextlib
import hashlib
import logging
import resource
import statistics
import time
from collections.abc import Callable, Iterator, Sequence

from tastemaker.engine.config import Engine
from tastemaker.engine.rows import run_rows

FEW = 1_024

Row = tuple[str, str, tuple[str, ...]]


def opener(device: str) -> Callable[[Sequence[Row]], list[dict]]:
    """The trivial work."""

    def work(rows: Sequence[Row]) -> list[dict]:
        return [
            {
                "hash": hashlib.blake2b(path.encode(), digest_size=32).hexdigest(),
                "size": (768, 1024), "format": "JPEG", "mode": "RGB", "frames": 1, "error": None,
            }
            for path, _, _ in rows
        ]  # fmt: skip

    return work


def shards(rows: int, size: int) -> Iterator[list[Row]]:
    """Rows as a source gives them."""
    for start in range(0, rows, size):
        yield [
            (
                f"photos/{n // 1000:05}/{n:09}.jpg",
                f"a photograph of thing {n} on a table",
                ("a", "b"),
            )
            for n in range(start, min(start + size, rows))
        ]


def cpu_seconds(ray: bool) -> dict[int, float]:
    """By process: this one with all ended ones below it; for Ray also each that lives below it."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    seconds = {0: sum(u.ru_utime + u.ru_stime for u in used)}
    if ray:
        import psutil

        for one in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                times = one.cpu_times()
                seconds[one.pid] = times.user + times.system
    return seconds


def measured(engine: Engine, rows: int, size: int) -> tuple[float, float]:
    """CPU and wall seconds of one run."""
    import engine_overhead  # by its own name, so that actors find it too

    ray = engine.kind == "ray"
    count, at_last, before, wall = 0, {}, cpu_seconds(ray), time.perf_counter()
    for done in run_rows(engine_overhead.opener, shards(rows, size), engine):
        count += len(done.outcomes)
        if ray and count == rows:
            at_last = cpu_seconds(ray)  # what an actor has used is forgotten with it
    assert count == rows
    wall = time.perf_counter() - wall
    after = at_last if ray else cpu_seconds(ray)
    return sum(used - before.get(pid, 0.0) for pid, used in after.items()), wall


def line(name: str, engine: Engine, options: argparse.Namespace, size: int) -> str:
    """One line of the table: medians of the rounds."""
    starts, slopes, rates = [], [], []
    for _ in range(options.rounds):
        few, _ = measured(engine, FEW, size)
        many, wall = measured(engine, options.rows, size)
        slope = (many - few) / (options.rows - FEW)
        slopes.append(1000 * slope)
        starts.append(few - FEW * slope)
        rates.append(options.rows / wall)
    start, slope, rate = map(statistics.median, (starts, slopes, rates))
    return f"| {name} | {size} | {start:.2f} | {slope:.4f} | {rate:,.0f} |"


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=100_000)
    options = parser.parse_args()
    print(
        "| runner | rows a shard | CPU s to start and end | CPU s per 1,000 rows | rows a second |"
    )
    print("|---|---|---|---|---|")
    for name, engine in (("in process", Engine()), ("pool, 2", Engine(workers=2))):
        for size in (32, 256):
            print(line(name, engine, options, size))
    import ray

    ray.init(
        num_cpus=2, object_store_memory=80_000_000, include_dashboard=False, log_to_driver=False,
        logging_level=logging.ERROR,
    )  # fmt: skip
    time.sleep(5)  # until its servers have come up
    for size in (32, 256):
        print(line("Ray, 2 actors", Engine(kind="ray", workers=2), options, size))
    ray.shutdown()


if __name__ == "__main__":
    main()
