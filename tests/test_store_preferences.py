"""Comparisons in a collection: all of them, in order, in parts, with the ids of their pictures."""

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tastemaker.errors import CorruptFile
from tastemaker.records.preference import Preference
from tastemaker.store import preferences
from tastemaker.store.hashing import hash_folder
from tastemaker.store.preferences import StoredPreference, read_preferences, write_preferences


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _descriptor: None)
    monkeypatch.setattr(preferences, "_PART_ROWS", 3)


class Source:
    def __init__(self, spec: str, given: list[Preference]) -> None:
        self.spec, self._given = spec, given

    def preferences(self):
        return iter(self._given)


def picture_id(source: str, key: str) -> str | None:
    return None if key == "lost" else f"{source}/{key}"


def made(count: int, **more) -> list[Preference]:
    facts = (("model_0", "x"), ("user", "7"))
    return [
        Preference(f"{n}", f"prompt {n}", f"a{n}", "lost" if n == 1 else f"b{n}",
                   [1.0, 0.0, 0.5, None][n % 4], facts, **more)
        for n in range(count)
    ]  # fmt: skip


def test_what_goes_in_comes_out(tmp_path):
    first, second = made(5), [Preference("x", "", "a", "b", 0.5)]
    sources = [Source("one", first), Source("none", []), Source("two", second)]
    assert write_preferences(tmp_path, sources, picture_id) == 6
    found = list(read_preferences(tmp_path))
    assert [one.preference for one in found] == [*first, *second]
    assert [one.source for one in found] == ["one"] * 5 + ["two"]
    assert found[0] == StoredPreference("one", first[0], "one/a0", "one/b0")
    assert (found[1].first, found[1].second) == ("one/a1", None)
    assert [one.preference.label for one in found] == [1.0, 0.0, 0.5, None, 1.0, 0.5]
    manifest = json.loads((tmp_path / "catalog/preferences/manifest.json").read_text())
    assert [part["rows"] for part in manifest["parts"]] == [3, 3]


def test_fewer_replace_more_and_none_leave_nothing(tmp_path):
    folder = tmp_path / "catalog" / "preferences"
    write_preferences(tmp_path, [Source("s", made(2))], picture_id)
    alone = hash_folder(folder)
    assert write_preferences(tmp_path, [Source("s", made(8))], picture_id) == 8
    assert len(list(folder.glob("part-*"))) == 3
    assert write_preferences(tmp_path, [Source("s", made(2))], picture_id) == 2
    assert hash_folder(folder) == alone, "what was there before leaves no trace"
    assert write_preferences(tmp_path, [Source("s", [])], picture_id) == 0
    assert not folder.exists()
    assert list(read_preferences(tmp_path)) == []


def test_a_lost_part_is_named(tmp_path):
    write_preferences(tmp_path, [Source("s", made(5))], picture_id)
    (tmp_path / "catalog/preferences/part-00001.parquet").unlink()
    with pytest.raises(CorruptFile, match=r"part-00001\.parquet: gone"):
        list(read_preferences(tmp_path))


texts = st.text("a\u00e9\ud800\n", max_size=3)


@given(
    st.builds(
        Preference, texts, texts, texts, texts,
        st.sampled_from([None, 0.0, 0.5, 1.0]),
        st.lists(st.tuples(texts, texts), max_size=2).map(tuple),
    )
)  # fmt: skip
def test_odd_texts_never_stop_it(tmp_path_factory, one):
    folder = tmp_path_factory.mktemp("c")
    write_preferences(folder, [Source("s", [one])], lambda source, key: None)
    (found,) = read_preferences(folder)
    assert found.preference.label == one.label
    if "\ud800" not in "".join((*texts_of(one), *sum(one.facts, ()))):
        assert found.preference == one


def texts_of(one: Preference) -> tuple[str, ...]:
    return one.key, one.prompt, one.first, one.second
