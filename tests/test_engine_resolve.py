"""Which columns operations fill, in which order, and with which models."""

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tastemaker.engine import columns as module
from tastemaker.engine.columns import resolve
from tastemaker.errors import InputError


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    return importlib.import_module("column_toys")


def names(columns: Any) -> list[str]:
    return [column.operation.column for column in columns]


def test_what_is_read_comes_before_what_reads_it_and_pictures_first(toys: ModuleType) -> None:
    double = toys.Double()
    four = toys.Double(name="four", of="double", field="twice")
    ordered = resolve([four, toys.Words(), double, toys.Grey(), toys.Side()])
    assert names(ordered) == ["grey", "side", "words", "double", "four"]
    assert names(resolve([])) == []


def test_a_key_follows_what_is_read(toys: ModuleType) -> None:
    def key(**values: Any) -> str:
        return resolve([toys.Grey(**values), toys.Double()])[-1].key.folder

    assert key() == key(log="x") == key(faults={"1": "die"})
    assert key() != key(scale=2.0)
    one, two = (resolve([toys.Grey(name=name)])[0].key.folder for name in ("", "again"))
    assert one.partition("@")[0] == "grey"
    assert two.partition("@")[0] == "again"


def test_orders_that_cannot_be_done(toys: ModuleType) -> None:
    with pytest.raises(InputError, match="two operations for the column 'grey'"):
        resolve([toys.Grey(), toys.Grey(scale=2.0)])
    assert len(resolve([toys.Grey(), toys.Grey(scale=2.0, name="bright")])) == 2
    with pytest.raises(InputError, match=r"columns\.double: .*the column 'grey'.*words, double"):
        resolve([toys.Words(), toys.Double()])
    with pytest.raises(InputError, match="no circle"):
        resolve([toys.Double(name="a", of="b"), toys.Double(name="b", of="a")])
    with pytest.raises(InputError, match="no circle"):
        resolve([toys.Double(name="a", of="a")])


def test_a_column_is_read_with_the_model_that_made_it(
    toys: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights").write_text(name)
    monkeypatch.setattr(module, "locate", lambda reference, kind: tmp_path / reference)
    maker = toys.Model(name="maker", model="a")
    (column, other) = resolve([maker, toys.Model(model="a", of="maker", extra="b")])
    assert column.places == {"model": tmp_path / "a"}
    assert other.places == {"model": tmp_path / "a", "extra": tmp_path / "b"}
    assert other.key.params["reads"] == {"maker": column.key.folder}
    assert other.key.params["extra"] == other.hashes["extra"]
    with pytest.raises(InputError, match=r"columns\.model\.model.*another model.*'maker'"):
        resolve([maker, toys.Model(model="b", of="maker")])
