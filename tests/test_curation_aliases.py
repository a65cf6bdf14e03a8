"""Other names of tags: what is contradictory is resolved or left out, and always counted."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tastemaker.curation.aliases import (
    CHAIN,
    CIRCLE,
    EMPTY,
    IS_TAG,
    SELF,
    TWICE,
    TWO_TAGS,
    AliasTable,
    build_aliases,
    plain_tag,
)
from tastemaker.errors import InputError
from tastemaker.store.alias_files import INACTIVE, UNREADABLE, read_aliases

NAMES = st.sampled_from([*"abcdefgh", "A", " b", "c d", ""])


def test_good_entries_stay():
    table = build_aliases(
        [("Long Locks", "long hair"), ("longhair", "long_hair"), ("kitty", "cat")]
    )
    assert table.of == {"cat": ("kitty",), "long_hair": ("long_locks", "longhair")}
    assert table.notes == {}
    assert table.describe() == ["2 tags with 3 aliases"]


@pytest.mark.parametrize(
    ("pairs", "tags", "of", "reason", "count"),
    [
        ([("a", "a"), ("b", "a")], (), {"a": ("b",)}, SELF, 1),
        ([("b", "a"), ("B", "a")], (), {"a": ("b",)}, TWICE, 1),
        ([("b", "a"), ("b", "c"), ("d", "a")], (), {"a": ("d",)}, TWO_TAGS, 1),
        ([("b", "a"), ("c", "a")], ("a", "b"), {"a": ("c",)}, IS_TAG, 1),
        ([("c", "b"), ("b", "a")], (), {"a": ("b", "c")}, CHAIN, 1),
        ([("d", "c"), ("c", "b"), ("b", "a")], (), {"a": ("b", "c", "d")}, CHAIN, 2),
        ([("a", "b"), ("b", "a"), ("x", "a"), ("y", "z")], (), {"z": ("y",)}, CIRCLE, 3),
        ([("c", "b"), ("b", "a"), ("b", "z")], (), {}, TWO_TAGS, 2),
        ([("", "a"), ("b", "a")], (), {"a": ("b",)}, EMPTY, 1),
    ],
)
def test_bad_entries_are_resolved_or_left_out_and_counted(pairs, tags, of, reason, count):
    table = build_aliases(pairs, tags)
    assert table.of == of
    assert table.notes == {reason: count}
    assert f"{reason}: {count} (" in table.describe()[1]


@given(st.lists(st.tuples(NAMES, NAMES)), st.lists(NAMES))
def test_a_table_has_no_chain_no_self_alias_and_one_tag_an_alias(pairs, tags):
    table = build_aliases(pairs, tags)  # the table itself refuses what is unsound
    aliases = [alias for some in table.of.values() for alias in some]
    assert len(set(aliases)) == len(aliases)
    assert not set(aliases) & set(table.of)
    # Nothing is lost silently: all is in the table unless something is noted.
    plain = {(plain_tag(alias), plain_tag(tag)) for alias, tag in pairs}
    kept = {(alias, tag) for tag, some in table.of.items() for alias in some}
    assert kept == plain or table.notes
    assert all(table.examples[reason] for reason in table.notes)
    assert build_aliases(reversed(pairs), tags).of == table.of


@pytest.mark.parametrize(
    "of", [{"a": ("a",)}, {"a": ("b",), "b": ("c",)}, {"a": ("c",), "b": ("c",)}]
)
def test_an_unsound_table_cannot_be_made(of):
    with pytest.raises(ValueError, match="is a tag of the table|is an alias of"):
        AliasTable(of)


def test_csv_of_tag_completion(tmp_path: Path):
    file = tmp_path / "tags.csv"
    file.write_text(
        "name,category,count,aliases\n"
        '1girl,0,5,"1girls,sole_female"\n'
        'long_hair,0,4,"longhair,/lh"\n'
        'very_long_hair,0,3,"long_hair,hairy"\n'
        "short_hair,0,2,\n"
        "hairy_man,0,1,hairy\n"
        "no tag at all\n"
    )
    table = read_aliases(file)
    assert table.of == {"1girl": ("1girls", "sole_female"), "long_hair": ("/lh", "longhair")}
    assert table.notes == {UNREADABLE: 1, IS_TAG: 1, TWO_TAGS: 1}
    assert table.examples[TWO_TAGS] == ("hairy -> hairy_man and very_long_hair",)
    assert "alias that is a tag itself: 1 (long_hair -> very_long_hair)" in table.describe()


def rows(*pairs: tuple[str, str, str]) -> list[dict[str, str]]:
    names = ("antecedent_name", "consequent_name", "status")
    return [dict(zip(names, pair, strict=True)) for pair in pairs]


@pytest.mark.parametrize("form", ["lines", "list"])
def test_json_lines_of_a_tag_site(tmp_path: Path, form):
    found = rows(("ff7", "final_fantasy_vii", "active"), ("old", "new", "deleted"))
    file = tmp_path / "aliases.json"
    lines = "\n".join(map(json.dumps, found)) + "\nnot json\n" if form == "lines" else None
    file.write_text(lines or json.dumps([*found, 7]))
    table = read_aliases(file)
    assert table.of == {"final_fantasy_vii": ("ff7",)}
    assert table.notes == {INACTIVE: 1, UNREADABLE: 1}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", b"x"),
        ("a.csv", b"x"),
        ("a.csv", b"\xff\xfe\x00"),
        ("a.jsonl", b"[1"),
        ("b.csv", None),
    ],
)
def test_other_files_are_refused_with_what_to_do(tmp_path: Path, name, content):
    file = tmp_path / name
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InputError, match=r"expected CSV rows of name.*(Give a|Save it|Check the)"):
        read_aliases(file)
