"""Columns: what is measured of which picture, once; errors, kills, workers; the same bytes."""

import importlib
import os
import weakref
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tastemaker.engine import column_work
from tastemaker.engine import columns as module
from tastemaker.engine.columns import fill_columns, pictures_to_do, resolve
from tastemaker.engine.config import Engine
from tastemaker.errors import InputError, StorageError
from tastemaker.store import base_table
from tastemaker.store.catalogue import Catalogue, Row
from tastemaker.store.hashing import hash_folder
from tastemaker.store.rundir import StepDir

COUNT = 9


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _descriptor: None)
    monkeypatch.setattr(base_table, "PART_ROWS", 5)
    monkeypatch.setattr(module, "SHARD_ROWS", 3)


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The toy operations, under a name by which a spawned process finds them too."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    return importlib.import_module("column_toys")


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each picture is decoded in this process."""
    counts: Counter[str] = Counter()
    real = column_work.load_image

    def load(data: bytes, *, name: str) -> Any:
        counts[Path(name).stem] += 1
        return real(data, name=name)

    monkeypatch.setattr(column_work, "load_image", load)
    return counts


class Work:
    """Fills columns of a small collection with toy operations."""

    def __init__(self, folder: Path, catalogue: Catalogue) -> None:
        self.catalogue, self.log = catalogue, folder / "log"
        self.step = StepDir(folder / "step", name="curate")

    def __call__(self, *operations: Any, **options: Any) -> dict[str, int]:
        given = [op.model_copy(update={"log": str(self.log)}) for op in operations]
        options.setdefault("engine", Engine())
        return dict(fill_columns(self.catalogue, resolve(given), self.step, **options))

    def values(self, operation: Any, field: str) -> list[Any]:
        """By number of the picture; the text of an error, or `missing`."""
        column = resolve([*self.sources(operation), operation])[-1]
        table = self.catalogue.column_table(column.key).to_pylist()
        names = {"ok": field, "error": "error", "missing": "status"}
        return [line[names[line["status"]]] for line in table]

    def sources(self, operation: Any) -> list[Any]:
        return [] if not operation.reads else [self.read[operation.reads[0]]]

    read: dict[str, Any] = {}

    def noted(self) -> Counter[str]:
        """Pictures given to each operation since the last time."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return Counter(line.split()[0] for line in lines)

    def bytes(self) -> str:
        return hash_folder(self.catalogue.path / "catalog" / "col")


@pytest.fixture
def work(toys: ModuleType, tmp_path: Path) -> Work:
    return Work(tmp_path, toys.collection(tmp_path, COUNT))


GREYS = [10.0 * n for n in range(COUNT)]
EVERY = ("grey", "side", "words", "double")


# --- values --------------------------------------------------------------------------------------


def test_every_operation_gets_every_picture_once(
    work: Work, toys: ModuleType, decoded: Counter[str]
) -> None:
    grey, side, words, double = toys.Grey(), toys.Side(), toys.Words(), toys.Double()
    counts = work(double, words, side, grey)
    assert counts == dict.fromkeys([f"measured {n}" for n in EVERY], COUNT)
    assert decoded == dict.fromkeys(map(str, range(COUNT)), 1), "one decode serves all"
    assert work.noted() == dict.fromkeys(EVERY, COUNT)
    work.read = {"grey": grey}
    assert work.values(grey, "mean") == [*GREYS, "missing"]
    assert work.values(side, "h") == [4] * COUNT + ["missing"]
    assert work.values(words, "words")[1] == ["grey", "1", "grey"]
    assert work.values(double, "twice") == [2 * grey for grey in GREYS] + ["missing"]
    before = work.bytes()
    assert work(grey, side, words, double) == {}
    assert work.noted() == {}
    assert work.bytes() == before


def test_a_second_operation_reads_what_was_measured_before(
    work: Work, toys: ModuleType, decoded: Counter[str]
) -> None:
    grey, double = toys.Grey(faults={"3": "error"}), toys.Double()
    work(grey)
    decoded.clear()
    work.noted()
    counts = work(grey, double)
    assert counts == {"measured double": COUNT - 1, "double: no value in column 'grey'": 1}
    assert not decoded
    assert work.noted() == {"double": COUNT - 1}
    work.read = {"grey": grey}
    found = work.values(double, "twice")
    assert found[:3] == [0, 20, 40]
    assert found[3] == "no value in column 'grey'"


def test_new_words_call_for_new_values_of_what_depends_on_them(
    work: Work, toys: ModuleType
) -> None:
    grey, words = toys.Grey(), toys.Words(faults={"3": "error"})
    work(grey, words)
    work.noted()
    rows = {row.record.key: row for row in work.catalogue.rows("part-00000.parquet")}
    for key in ("1", "3"):
        record = replace(rows[key].record, captions=(f"new {key}",))
        work.catalogue.update_base({record.id: Row(record)})
    columns = resolve([grey, words])
    assert pictures_to_do(work.catalogue, columns) == {"grey": 0, "words": 2}
    work(grey, words)
    assert work.noted() == {"words": 2}, "an error, too, was that of the old words"
    assert work.values(words, "words")[1] == ["new", "1", "grey"]
    assert work.values(words, "words")[3] == ["new", "3", "grey"]
    assert work(grey, words) == {}


def test_only_wanted_pictures_are_measured_and_the_rest_later(
    work: Work, toys: ModuleType, decoded: Counter[str]
) -> None:
    grey, side = toys.Grey(), toys.Side()
    ids = [record.id for record in work.catalogue.records()]
    columns = resolve([grey, side])
    todo = {"grey": COUNT, "side": COUNT}
    assert pictures_to_do(work.catalogue, columns) == todo
    assert pictures_to_do(work.catalogue, columns, ids[2:4]) == {"grey": 2, "side": 2}
    assert work(grey, wanted=[ids[1], ids[7], "nobody"]) == {"measured grey": 2}
    assert work.values(grey, "mean") == [10 * n if n in (1, 7) else "missing" for n in range(10)]
    assert pictures_to_do(work.catalogue, columns) == {"grey": COUNT - 2, "side": COUNT}
    work.noted()
    assert work(grey, side) == {"measured grey": COUNT - 2, "measured side": COUNT}
    assert work.noted() == {"grey": COUNT - 2, "side": COUNT}
    assert max(decoded.values()) == 2
    assert work.values(grey, "mean") == [*GREYS, "missing"]
    assert work(grey, wanted=[]) == {}


# --- what goes wrong -----------------------------------------------------------------------------


def test_a_fault_of_one_picture_costs_its_own_value_only(work: Work, toys: ModuleType) -> None:
    faults = {"1": "raise", "2": "picture", "4": "error", "6": "fields", "8": "nan"}
    grey, side = toys.Grey(faults=faults), toys.Side()
    counts = work(grey, side)
    errors = {
        1: "grey failed (ZeroDivisionError: no good)",
        2: "truncated (by me)",
        4: "too grey (25 %)",
        6: "grey failed (ValueError: fields ['mean', 'more'], not ['mean'])",
        8: "mean is not finite",
    }
    assert work.values(grey, "mean") == [errors.get(n, 10 * n) for n in range(COUNT)] + ["missing"]
    assert work.values(side, "h") == [4] * COUNT + ["missing"]
    assert counts == {
        "measured grey": 5,  # one of them is not finite, which is found when it is written
        "measured side": COUNT,
        "grey: grey failed": 2,
        "grey: truncated": 1,
        "grey: too grey": 1,
    }
    # An error stays; it is tried again when that is asked for, and only where it is.
    work.noted()
    good = toys.Grey()
    assert work(good) == {}
    assert work(good, again=True) == {"measured grey": 5}
    assert work.noted() == {"grey": 5}
    assert work.values(good, "mean") == [*GREYS, "missing"]


def test_pictures_that_cannot_be_decoded_are_errors_in_pixel_columns(
    toys: ModuleType, tmp_path: Path
) -> None:
    work = Work(tmp_path, toys.collection(tmp_path, 4, broken=[1]))
    (tmp_path / "2.png").unlink()
    counts = work(toys.Grey(), toys.Words())
    changed, gone = "changed since it was collected", "no such file"
    # Neither says anything of the picture, so nothing is kept of it.
    assert work.values(toys.Grey(), "mean") == [0, "missing", "missing", 30, "missing"]
    assert work.values(toys.Words(), "words")[1] == ["grey", "1", "grey"]
    assert counts == {
        "measured grey": 2, "measured words": 4, f"grey: {changed}": 1, f"grey: {gone}": 1,
    }  # fmt: skip


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_that_is_no_pictures_fault_ends_all(
    work: Work, toys: ModuleType, workers: int
) -> None:
    bad = toys.Grey(faults={"4": "input"})
    with pytest.raises(InputError, match="the server: got 401"):
        work(toys.Side(), bad, engine=Engine(workers=workers))
    columns = resolve([toys.Side(), bad])
    assert not any(work.catalogue.is_finished(column.key) for column in columns)
    # The first shard is there; nothing of the shard that failed.
    assert pictures_to_do(work.catalogue, columns) == {"side": COUNT - 3, "grey": COUNT - 3}
    assert not list(work.catalogue.path.rglob("*.tmp*"))
    assert work(toys.Side(), toys.Grey()) == dict.fromkeys(
        ["measured side", "measured grey"], COUNT - 3
    )


def test_a_full_disk_ends_all(work: Work, toys: ModuleType) -> None:
    with pytest.raises(StorageError, match="the disk is full"):
        work(toys.Grey(faults={"1": "full"}))


def test_an_operation_that_cannot_be_opened_ends_all(work: Work, toys: ModuleType) -> None:
    with pytest.raises(NotImplementedError):
        work(toys.Toy(kind="toy"))
    assert not (work.catalogue.path / "catalog" / "col").exists()


def test_a_picture_that_kills_its_worker_is_an_error_of_its_row(
    work: Work, toys: ModuleType
) -> None:
    bad = toys.Grey(faults={"4": "die"})
    counts = work(bad, toys.Words(), engine=Engine(workers=1))
    found = work.values(bad, "mean")
    assert found[4].startswith("2 worker processes in turn died on this row alone")
    assert [value for n, value in enumerate(found[:-1]) if n != 4] == GREYS[:4] + GREYS[5:]
    assert (counts["measured grey"], counts["measured words"]) == (COUNT - 1, COUNT - 1)
    (event,) = [event for event in work.step.events() if event["kind"] == "quarantined"]
    assert Path(event["path"]).name == "4.png"


# --- kills, workers, memory ----------------------------------------------------------------------


@pytest.mark.parametrize("fatal", range(1, 9))
def test_a_kill_costs_the_shard_in_flight_and_leaves_no_trace(
    work: Work, toys: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fatal: int
) -> None:
    operations = (toys.Grey(faults={"5": "error"}), toys.Words())
    (tmp_path / "whole").mkdir()
    whole = Work(tmp_path / "whole", toys.collection(tmp_path / "whole", COUNT))
    whole(*operations)
    real, calls = Catalogue.write_rows, []

    def write(self: Catalogue, *args: Any) -> None:
        calls.append(args)
        if len(calls) == fatal:
            raise KeyboardInterrupt
        real(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Catalogue, "write_rows", write)
        with pytest.raises(KeyboardInterrupt):
            work(*operations)
    shards = (fatal - 1) // 2
    sizes = [3, 2, 3, 1]
    left = COUNT - sum(sizes[:shards])
    work.noted()
    assert work(*operations)["measured words"] == left
    done = sizes[shards] if fatal % 2 == 0 else 0
    assert work.noted() == Counter(grey=left - done, words=left)
    assert work.bytes() == whole.bytes()


def test_workers_change_no_byte(work: Work, toys: ModuleType, tmp_path: Path) -> None:
    faults = {"1": "raise", "5": "error", "7": "picture"}
    operations = (toys.Grey(faults=faults), toys.Words(), toys.Side(), toys.Double())
    counts = work(*operations)
    (tmp_path / "pool").mkdir()
    pooled = Work(tmp_path / "pool", toys.collection(tmp_path / "pool", COUNT))
    assert pooled(*operations, engine=Engine(workers=2)) == counts
    assert pooled.bytes() == work.bytes()


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning:ray")
def test_ray_changes_no_byte(
    work: Work, toys: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    operations = (toys.Grey(faults={"1": "raise"}), toys.Words(), toys.Double())
    counts = work(*operations)
    (tmp_path / "ray").mkdir()
    far = Work(tmp_path / "ray", toys.collection(tmp_path / "ray", COUNT))
    assert far(*operations, engine=Engine(kind="ray", workers=2)) == counts
    assert far.bytes() == work.bytes()


def test_few_pictures_are_in_memory_at_once(
    work: Work, toys: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SHARD_ROWS", 100)
    alive, most = set[int](), []
    real = column_work.load_image

    def load(data: bytes, *, name: str) -> Any:
        picture = real(data, name=name)
        number = len(most)
        alive.add(number)
        weakref.finalize(picture.pixels, alive.discard, number)
        most.append(len(alive))
        return picture

    monkeypatch.setattr(column_work, "load_image", load)
    work(toys.Grey(), toys.Side(), toys.Words())
    assert len(most) == COUNT
    assert max(most) == toys.Grey.BATCH


def test_what_cannot_be_written_is_an_error_before_anything(
    work: Work, toys: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Catalogue, *_args: Any) -> None:
        raise StorageError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(Catalogue, "write_rows", full)
        with pytest.raises(StorageError):
            work(toys.Grey(), engine=Engine(workers=1))
    assert work(toys.Grey()) == {"measured grey": COUNT}
