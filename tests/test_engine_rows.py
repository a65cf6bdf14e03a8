"""Outcomes of rows, the same in this process and in processes: values, errors, order, bounds."""

import importlib
import itertools
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from pydantic import ValidationError

from tastemaker.engine.answers import WorkError
from tastemaker.engine.config import Engine
from tastemaker.engine.rows import run_rows
from tastemaker.errors import InputError, MissingExtra, PictureError, StorageError, TastemakerError

HERE, ONE, TWO = Engine(), Engine(workers=1), Engine(workers=2)


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The toy work, under a name by which a spawned process finds it too."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    return importlib.import_module("rows_work")


@pytest.mark.parametrize("engine", [HERE, TWO], ids=["here", "pool"])
def test_errors_are_outcomes_of_their_rows(
    toys: ModuleType, engine: Engine, tmp_path: Path
) -> None:
    given = toys.rows(
        "slow", "raise", None, "picture", None, "odd", "once raise", None, "doubled",
        "nothing", None,
    )  # fmt: skip
    shards = [*toys.in_shards(given, 3), [], tuple(toys.rows("raise"))]
    done = list(run_rows(toys.Toys(tmp_path), shards, engine))
    assert [d.index for d in done] == list(range(6))
    assert [d.rows for d in done] == shards
    outcomes = [o for d in done for o in d.outcomes]
    assert [o.value for o in outcomes] == [
        0,
        None,
        4,
        None,
        16,
        None,
        36,
        49,
        None,
        None,
        100,
        None,
    ]
    assert [o.tries for o in outcomes] == [2, 3, 2, 2, 2, 3, 2, 2, 3, 3, 2, 2]
    assert not any(o.deaths for o in outcomes)
    errors = {n: o.error for n, o in enumerate(outcomes) if o.error is not None}
    assert {n: type(error) for n, error in errors.items()} == {
        1: ValueError, 3: PictureError, 5: WorkError, 8: WorkError, 9: TastemakerError,
        11: ValueError,
    }  # fmt: skip
    picture = errors[3]
    assert isinstance(picture, PictureError)
    assert (picture.where, picture.got) == (3, "truncated")
    assert str(errors[5]) == "Unportable: 1 and 2"
    assert str(errors[8]) == "Doubled: no value"
    assert str(errors[9]) == "the function gave 0 values for 1 rows"
    with pytest.raises(ValueError, match="no good: 1"):
        outcomes[1].unwrap()
    assert outcomes[0].unwrap() == 0
    if engine.workers:
        assert all("in do" in error.__notes__[0] for n, error in errors.items() if n != 9)


def test_every_number_of_workers_says_the_same(toys: ModuleType, tmp_path: Path) -> None:
    kinds = [None, "raise", None, "picture", "odd", None, None, "doubled", "nothing", None] * 3
    shards = toys.in_shards(toys.rows(*kinds), 4)
    expected = toys.said(run_rows(toys.Toys(tmp_path), shards))
    for workers in (1, 3):
        found = run_rows(toys.Toys(tmp_path), shards, Engine(workers=workers))
        assert toys.said(found) == expected


def test_what_does_not_pickle_is_an_error_of_its_row(toys: ModuleType, tmp_path: Path) -> None:
    given = toys.rows(None, "lambda", None, None)
    given[2]["lock"] = threading.Lock()
    (done,) = run_rows(toys.Toys(tmp_path), [given], ONE)
    assert [o.value for o in done.outcomes] == [0, None, None, 9]
    assert "lambda" in str(done.outcomes[1].error)
    assert "lock" in str(done.outcomes[2].error)


@pytest.mark.parametrize("engine", [HERE, TWO], ids=["here", "pool"])
def test_a_full_disk_ends_everything(toys: ModuleType, engine: Engine, tmp_path: Path) -> None:
    work = toys.Toys(tmp_path)
    shards = toys.in_shards(toys.rows(*[None] * 2, "full", *[None] * 30), 1)
    with pytest.raises(StorageError, match="disk is full"):
        list(run_rows(work, shards, engine))
    if engine.workers:
        assert toys.alive(work.pids()) == []


@pytest.mark.parametrize("engine", [HERE, TWO], ids=["here", "pool"])
def test_a_lazy_source_is_pulled_no_further_than_said(
    toys: ModuleType, engine: Engine, tmp_path: Path
) -> None:
    pulled = []

    def endless() -> Iterator[list[dict]]:
        for n in itertools.count():
            pulled.append(n)
            yield [{"n": n}]

    work = toys.Toys(tmp_path)
    running = run_rows(work, endless(), engine)
    for given in range(30):
        done = next(running)
        assert (done.index, done.outcomes[0].value) == (given, given**2)
        assert len(pulled) <= given + max(1, 4 * engine.workers)
    running.close()
    if engine.workers:
        assert work.pids()
        assert toys.alive(work.pids()) == []


def test_workers_go_on_while_the_caller_is_busy(toys: ModuleType, tmp_path: Path) -> None:
    shards = toys.in_shards(toys.rows(None, *["once slow"] * 3), 1)
    running = run_rows(toys.Toys(tmp_path), shards, ONE)
    next(running)
    # Nobody asks for more; the rest is worked at nevertheless.
    assert toys.wait_until(lambda: len(list(tmp_path.glob("marker-*"))) == 3)
    assert [done.outcomes[0].value for done in running] == [1, 4, 9]


@pytest.mark.parametrize("engine", [HERE, TWO], ids=["here", "pool"])
def test_the_source_fails_after_what_it_gave(
    toys: ModuleType, engine: Engine, tmp_path: Path
) -> None:
    def source() -> Iterator[list[dict]]:
        yield toys.rows(None)
        yield toys.rows("slow")
        raise InputError("the source", "half a file", "a whole one", "Copy it again.")

    running = run_rows(toys.Toys(tmp_path), source(), engine)
    assert [next(running).index, next(running).index] == [0, 1]
    with pytest.raises(InputError, match="half a file"):
        next(running)


def test_unordered_comes_as_it_is_done(toys: ModuleType, tmp_path: Path) -> None:
    shards = toys.in_shards(toys.rows("slow", *[None] * 5), 1)
    shards[0] = shards[0] * 3
    # The slow one has one worker, the rest goes through the other.
    found = [done.index for done in run_rows(toys.Toys(tmp_path), shards, TWO, ordered=False)]
    assert sorted(found) == list(range(6))
    assert found[0] != 0


def test_nothing_to_do_opens_nothing(toys: ModuleType, tmp_path: Path) -> None:
    work = toys.Toys(tmp_path, at_opening="raise")
    for engine in (HERE, TWO):
        assert list(run_rows(work, [], engine)) == []
        assert [done.outcomes for done in run_rows(work, [[]], engine)] == [[]]
    assert work.pids() == []


def test_large_rows_and_values(toys: ModuleType, tmp_path: Path) -> None:
    megabytes = 8
    shards = [[{"n": n, "kind": "large", "data": bytes(megabytes << 20)}] for n in range(8)]
    for done in run_rows(toys.Toys(tmp_path), shards, TWO):
        assert len(done.outcomes[0].unwrap()) == megabytes << 20


@pytest.mark.parametrize("engine", [HERE, TWO], ids=["here", "pool"])
@pytest.mark.parametrize(("fault", "kind"), [("raise", ValueError), ("picture", PictureError)])
def test_what_the_opener_raises_is_raised(
    toys: ModuleType, engine: Engine, fault: str, kind: type[Exception], tmp_path: Path
) -> None:
    work = toys.Toys(tmp_path, at_opening=fault)
    with pytest.raises(kind) as caught:
        list(run_rows(work, toys.in_shards(toys.rows(*[None] * 8), 2), engine))
    assert type(caught.value) is kind
    if engine.workers:
        assert len(work.pids()) <= 2
        assert toys.alive(work.pids()) == []


def _not_there(device: str) -> Any:
    raise AssertionError(device)


def test_an_opener_that_workers_cannot_find(toys: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r"<lambda>|pickle"):
        list(run_rows(lambda device: len, [[1]], ONE))  # type: ignore[arg-type]
    # Pickled by name here, but the module has another name, or none, over there.
    with pytest.raises((ImportError, AttributeError)):
        list(run_rows(_not_there, [[1]], ONE))


def test_devices_are_taken_in_turn(
    toys: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    work, two = toys.Toys(tmp_path), Engine(workers=2, gpus_per_worker=1)
    (done,) = run_rows(work, [toys.rows("device")], Engine(gpus_per_worker=0.5))
    assert done.outcomes[0].value == "cuda:0"
    shards = [[*toys.rows("slow", "device")] for _ in range(4)]
    found = {done.outcomes[1].value for done in run_rows(work, shards, two)}
    assert found == {"cuda:0", "cuda:1"}
    (done,) = run_rows(work, [toys.rows("device")], ONE)
    assert done.outcomes[0].value == "cpu"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(InputError, match="no accelerator"):
        list(run_rows(work, shards, two))


def test_ray_is_an_extra(toys: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(MissingExtra, match=r'pip install "tastemaker\[ray\]"'):
        list(run_rows(toys.Toys(tmp_path), [toys.rows(None)], Engine(kind="ray")))


@pytest.mark.parametrize(
    "wrong",
    [{"workers": -1}, {"kind": "dask"}, {"address": "auto"}, {"row_timeout_s": 0}, {"cpu": 1}],
)
def test_engines_that_make_no_sense(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Engine(**wrong)
