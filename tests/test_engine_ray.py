"""Ray actors as workers: the same outcomes as in this process, and nothing of Ray left behind."""

import importlib
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tastemaker.engine.config import Engine
from tastemaker.engine.rows import Outcome, RowQuarantined, run_rows
from tastemaker.errors import InputError, PictureError, TastemakerError

RAY = Engine(kind="ray", workers=2)

# Ray leaves files and processes to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning:ray"),
    pytest.mark.timeout(300),
]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A small Ray on this machine, for all tests here."""
    import ray

    # Ray reports its use to its makers unless told not to.
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(
        num_cpus=2, object_store_memory=80_000_000, include_dashboard=False, log_to_driver=False,
        logging_level=logging.ERROR,
    )  # fmt: skip
    yield ray
    ray.shutdown()


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The toy work, under a name by which an actor finds it too."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    return importlib.import_module("rows_work")


def test_no_cluster_at_the_address(toys: ModuleType, tmp_path: Path) -> None:
    # Before the fixture below is used for the first time.
    import ray

    assert not ray.is_initialized()
    for address in ("127.0.0.1:9", "ray://127.0.0.1:9"):
        engine = Engine(kind="ray", address=address)
        with pytest.raises(InputError, match=r"127\.0\.0\.1:9 .*refused"):
            list(run_rows(toys.Toys(tmp_path), [toys.rows(None)], engine))


def test_the_same_outcomes_as_in_this_process(
    cluster: Any, toys: ModuleType, tmp_path: Path
) -> None:
    kinds = [None, "raise", "picture", "odd", None, None, "doubled", "nothing", None, "device"]
    shards = [*toys.in_shards(toys.rows(*kinds), 3), []]
    here = list(run_rows(toys.Toys(tmp_path), shards))
    there = list(run_rows(toys.Toys(tmp_path), shards, RAY))
    assert toys.said(there) == toys.said(here)
    assert [d.index for d in there] == [0, 1, 2, 3, 4]
    assert [d.rows for d in there] == shards
    assert there[0].outcomes[1].error is not None
    assert "in do" in there[0].outcomes[1].error.__notes__[0]
    # It was not ours to end.
    assert cluster.is_initialized()


@pytest.mark.parametrize("fault", ["die", "exit"])
def test_a_row_that_kills_its_actor_is_quarantined(
    cluster: Any, toys: ModuleType, fault: str, tmp_path: Path
) -> None:
    work = toys.Toys(tmp_path)
    shards = [toys.rows(None, fault, None), toys.rows(None, "once kill")]
    first, second = run_rows(work, shards, RAY)
    assert [o.value for o in first.outcomes] == [0, None, 4]
    assert isinstance(first.outcomes[1].error, RowQuarantined)
    assert (first.outcomes[1].tries, first.outcomes[1].deaths) == (4, 4)
    assert second.outcomes == [Outcome(n * n, None, tries=2, deaths=1) for n in (0, 1)]
    assert toys.wait_until(lambda: not toys.alive(work.pids()))


def test_killed_actors_change_no_outcome(cluster: Any, toys: ModuleType, tmp_path: Path) -> None:
    work = toys.Toys(tmp_path)
    shards = toys.in_shards(toys.rows(*[None, "nap", "raise", "nap"] * 10), 4)
    running = run_rows(work, shards, RAY)
    done = [next(running)]
    for pid in toys.alive(work.pids()):
        os.kill(pid, signal.SIGKILL)
    done += running
    assert toys.said(done) == toys.said(run_rows(work, shards))
    assert len(work.pids()) > 2


def test_a_row_that_hangs_is_quarantined(cluster: Any, toys: ModuleType, tmp_path: Path) -> None:
    engine = Engine(kind="ray", workers=1, row_timeout_s=0.7)
    (done,) = run_rows(toys.Toys(tmp_path), [toys.rows("hang", None)], engine)
    assert isinstance(done.outcomes[0].error, RowQuarantined)
    assert done.outcomes[1].value == 1


def test_what_the_opener_raises_is_raised(cluster: Any, toys: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(PictureError) as caught:
        list(run_rows(toys.Toys(tmp_path, at_opening="picture"), [toys.rows(None)], RAY))
    assert type(caught.value) is PictureError
    work = toys.Toys(tmp_path, at_opening="die")
    with pytest.raises(TastemakerError, match="3 times before it was ready"):
        list(run_rows(work, [toys.rows(None)], RAY))


def test_large_rows_and_values(cluster: Any, toys: ModuleType, tmp_path: Path) -> None:
    shards = [[{"n": n, "kind": "large", "data": bytes(4 << 20)}] for n in range(6)]
    for done in run_rows(toys.Toys(tmp_path), shards, RAY):
        assert len(done.outcomes[0].unwrap()) == 4 << 20


def test_more_workers_than_room_do_no_harm(cluster: Any, toys: ModuleType, tmp_path: Path) -> None:
    """Actors that wait for a CPU neither hold up the others nor the end."""
    shards = toys.in_shards(toys.rows(*["nap"] * 12), 1)
    found = list(run_rows(toys.Toys(tmp_path), shards, Engine(kind="ray", workers=4)))
    assert [done.outcomes[0].value for done in found] == [n * n for n in range(12)]


def test_leaving_early_ends_the_actors(cluster: Any, toys: ModuleType, tmp_path: Path) -> None:
    work = toys.Toys(tmp_path)
    engine = Engine(kind="ray", cpus_per_worker=1)  # as many as there is room for: two
    running = run_rows(work, [toys.rows(None), toys.rows("hang"), toys.rows("hang")], engine)
    next(running)
    assert toys.wait_until(lambda: len(work.pids()) == 2)
    running.close()
    assert toys.wait_until(lambda: not toys.alive(work.pids()))


@pytest.mark.parametrize("wish", [{"gpus_per_worker": 1}, {"cpus_per_worker": 3, "workers": 1}])
def test_no_room_for_a_worker(
    cluster: Any, toys: ModuleType, wish: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="room for a worker"):
        list(run_rows(toys.Toys(tmp_path), [toys.rows(None)], Engine(kind="ray", **wish)))


DRIVER = """
from pathlib import Path
from rows_work import Toys, rows
from tastemaker.engine.config import Engine
from tastemaker.engine.rows import run_rows

import ray
for done in run_rows(Toys(Path()), [rows(None), rows(KIND)], Engine(kind="ray", workers=2)):
    print(done.index, done.outcomes[0].value, flush=True)
print("initialised:", ray.is_initialized())
"""


def driver(folder: Path, kind: str) -> "subprocess.Popen[str]":
    tests = Path(__file__).parent
    (folder / "driver.py").write_text(DRIVER.replace("KIND", repr(kind)))
    return subprocess.Popen(
        [sys.executable, folder / "driver.py"], cwd=folder, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tests), str(tests.parent)])},
    )  # fmt: skip


def family(pid: int) -> set[int]:
    """All processes below one."""
    import psutil

    return {child.pid for child in psutil.Process(pid).children(recursive=True)}


@pytest.mark.slow
def test_what_was_started_is_ended(toys: ModuleType, tmp_path: Path) -> None:
    """A Ray of our own comes quietly and goes with the work."""
    with driver(tmp_path, "nap") as process:
        out, noise = process.communicate(timeout=120)
    assert (out, noise, process.returncode) == ("0 0\n1 0\ninitialised: False\n", "", 0)
    assert toys.wait_until(lambda: not toys.alive(toys.Toys(tmp_path).pids()))


@pytest.mark.slow
def test_a_killed_driver_leaves_no_actor_behind(toys: ModuleType, tmp_path: Path) -> None:
    work = toys.Toys(tmp_path)
    with driver(tmp_path, "hang") as process:
        assert toys.wait_until(lambda: len(work.pids()) == 2, seconds=60)
        below = sorted(family(process.pid))
        assert set(work.pids()) <= set(below)
        process.kill()
        try:
            assert toys.wait_until(lambda: not toys.alive(work.pids()), seconds=60)
        finally:
            # Ray's own agents take another minute to notice.
            for pid in toys.alive(below):
                os.kill(pid, signal.SIGKILL)
