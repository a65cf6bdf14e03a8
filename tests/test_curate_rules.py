"""Rules as a recipe has them: what a curation keeps against a plain loop, and what a check says."""

import math
import os
from hashlib import blake2b
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tastemaker.curation.rules import Contains, OneOf, Range, Sql, Top
from tastemaker.errors import InputError, MissingExtra, RecipeError
from tastemaker.recipe.load import parse_recipe
from tastemaker.records.image import ImageRecord
from tastemaker.records.size import Size
from tastemaker.scorers import packaged
from tastemaker.store.hashing import hash_folder
from tastemaker.store.selections import read_selection
from tests.curating import Curating, collected, noise, recorded, save

HEAD = """
name: rules
steps:
  - name: chosen
    stage: curate
    collection: somewhere
"""


def config(text: str):
    """The configuration of a curate step with these lines."""
    lines = "".join(f"    {line}\n" for line in text.strip("\n").splitlines())
    return parse_recipe(HEAD + lines, "rules.yaml").steps[0].config


# --- recipes -------------------------------------------------------------------------------------


def test_rules_and_columns_in_a_recipe():
    made = config("""
where: {style: openmoji, split: [tune, other]}
columns: [{kind: pixels}, {kind: nouns, names: false}]
measure: survivors
rules:
  - rule: range
    column: pixels.sharpness
    least: 30
  - {rule: one_of, column: attribute.style, values: openmoji}
  - {rule: contains, none: [watermark, text]}
  - {rule: top, column: nouns.count, fraction: 0.5, per: attribute.style}
  - {rule: sql, where: "megapixels > 0.5 and pixels.sharpness > 2"}
""")
    assert made.where == {"style": ("openmoji",), "split": ("tune", "other")}
    assert [operation.column for operation in made.columns] == ["pixels", "nouns"]
    assert made.rules == (
        Range(column="pixels.sharpness", least=30),
        OneOf(column="attribute.style", values=("openmoji",)),
        Contains(none=("watermark", "text")),
        Top(column="nouns.count", fraction=0.5, per="attribute.style"),
        Sql(where="megapixels > 0.5 and pixels.sharpness > 2"),
    )


@pytest.mark.parametrize(
    ("lines", "place", "hint"),
    [
        ("rules: [{rule: range, colum: h, least: 1}]", "colum", "column"),
        ("rules: [{rule: rnage, column: h, least: 1}]", "rnage", "range"),
        ("rules: [{column: h, least: 1}]", "rules", "rule"),
        ("rules: [{rule: top, column: h}]", "rules", "either `count` or `fraction`"),
        ("rules: [{rule: range, column: h, least: '1'}]", "least", "number"),
        ("columns: [{kind: pixel}]", "pixel", "pixels"),
        ("columns: [{kind: nouns, name: 3}]", "name", "text"),
        ("measure: some", "measure", "survivors"),
        ("near_duplicate_bits: 3", "near_duplicate_bits", ""),
    ],
)
def test_what_is_wrong_in_a_recipe_is_named(lines, place, hint):
    with pytest.raises(RecipeError) as caught:
        config(lines)
    assert place in str(caught.value)
    assert hint in str(caught.value)


# --- against a plain loop ------------------------------------------------------------------------

STYLES, TAGS = ("x", "y", None), ("cat", "dog", "text")


@st.composite
def pictures(draw):
    rows = []
    for number in range(draw(st.integers(1, 12))):
        style = draw(st.sampled_from(STYLES))
        size = draw(st.none() | st.builds(Size, st.integers(1, 6), st.integers(1, 6)))
        error = draw(st.sampled_from([None, None, None, "zero bytes"]))
        rows.append(
            ImageRecord(
                id=f"id{number}",
                path="p",
                source="s",
                key=str(number),
                size=size,
                captions=draw(st.sampled_from([(), ("",), ("a cat",)])),
                tags=tuple(draw(st.sets(st.sampled_from(TAGS)))),
                attributes=(("style", style),) if style else (),
                status="ok" if error is None else "error",
                error=error,
            )
        )
    return rows


limits = st.integers(1, 6)
some_rules = st.one_of(
    st.just({"rule": "captioned"}),
    st.builds(
        lambda least, unknown: {
            "rule": "range", "column": "short_side", "least": least, "unknown": unknown,
        },
        limits,
        st.sampled_from(["drop", "keep"]),
    ),  # fmt: skip
    st.builds(
        lambda values, unknown: {
            "rule": "one_of", "column": "attribute.style", "values": values, "unknown": unknown,
        },
        st.sampled_from([["x"], ["y", "z"]]),
        st.sampled_from(["drop", "keep"]),
    ),  # fmt: skip
    st.builds(lambda word: {"rule": "contains", "none": [word]}, st.sampled_from(TAGS)),
    st.builds(lambda word: {"rule": "contains", "any": [word]}, st.sampled_from(TAGS)),
    st.builds(
        lambda most: {"rule": "sql", "where": f"w <= {most} or len(tags) = 0"}, limits
    ),
    st.builds(
        lambda count, per, order: {
            "rule": "top", "column": "megapixels", "count": count, "per": per, "order": order,
        },
        limits,
        st.sampled_from([None, "attribute.style"]),
        st.sampled_from(["highest", "lowest"]),
    ),  # fmt: skip
    st.builds(
        lambda fraction, per: {
            "rule": "top", "column": "long_side", "fraction": fraction, "per": per,
        },
        st.sampled_from([0.1, 0.5, 1.0]),
        st.sampled_from([None, "tags"]),
    ),  # fmt: skip
)  # fmt: skip


def plain(row: ImageRecord, rule: dict) -> bool:
    """What a rule that judges alone says of one picture."""
    style = row.attribute("style")
    match rule["rule"]:
        case "captioned":
            return any(text.strip() for text in row.captions)
        case "range":
            keep = rule["unknown"] == "keep"
            return keep if row.size is None else min(row.size) >= rule["least"]
        case "one_of":
            return rule["unknown"] == "keep" if style is None else style in rule["values"]
        case "contains":
            return bool(set(rule.get("any", row.tags or ["."])) & {*row.tags, "."}) and not (
                set(rule.get("none", ())) & set(row.tags)
            )
        case "sql":
            limit = int(rule["where"].split()[2])
            return not row.tags or (row.size is not None and row.size.w <= limit)
    raise AssertionError(rule)


def best(rows: list[ImageRecord], rule: dict) -> list[ImageRecord]:
    """What a top rule leaves."""
    known = [row for row in rows if row.size is not None]
    values = {
        row.id: row.size.h * row.size.w / 1e6 if rule["column"] == "megapixels" else max(row.size)
        for row in known
        if row.size
    }
    sign = -1 if rule.get("order", "highest") == "highest" else 1
    known.sort(
        key=lambda row: (
            sign * values[row.id],
            int.from_bytes(blake2b(row.id.encode(), digest_size=8).digest()),
        )
    )

    def groups(row: ImageRecord) -> tuple:
        if rule["per"] == "tags":
            return row.tags or (None,)
        return (row.attribute("style"),) if rule["per"] else (None,)

    chosen: set[str] = set()
    for group in {group for row in known for group in groups(row)}:
        own = [row for row in known if group in groups(row)]
        quota = rule.get("count") or math.ceil(round(rule["fraction"] * len(own), 6))
        chosen |= {row.id for row in own[:quota]}
    return [row for row in rows if row.id in chosen]


@settings(max_examples=40)
@given(pictures(), st.lists(some_rules, min_size=1, max_size=4))
def test_what_is_kept_is_what_a_plain_loop_keeps(rows, rules):
    left = [row for row in rows if row.status == "ok"]
    for rule in rules:
        if rule["rule"] == "top":
            left = best(left, rule)
        else:
            left = [row for row in left if plain(row, rule)]
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _descriptor: None)
        work = Curating(Path(folder), recorded(Path(folder), rows), patch)
        if not left:
            with pytest.raises(InputError, match=f"0 of {len(rows)} pictures left"):
                work(rules=rules)
        else:
            work(rules=rules)
            assert set(read_selection(work.step.path).ids) == {row.id for row in left}
        assert work.kept() == {row.key for row in left}


# --- what a check says ---------------------------------------------------------------------------


@pytest.fixture
def work(tmp_path, monkeypatch):
    for name in "abc":
        save(tmp_path / "pictures" / f"{name}.png", noise(ord(name)))
    return Curating(tmp_path, collected(tmp_path / "collect", tmp_path / "pictures"), monkeypatch)


def test_nothing_is_wrong(work):
    assert work.check() == []
    right = [
        "pixels.sharpness > 3 and pixels_phash like '0%'",
        "len(nouns.nouns) > 1 and list_contains(nouns.nouns, 'cat')",
        "list_contains(tags, 'cat') or map_from_entries(attributes)['folder'] = 'x'",
    ]
    for where in right:
        rules = [{"rule": "sql", "where": where}]
        assert work.check(columns=[{"kind": "nouns"}], rules=rules) == []


@pytest.mark.parametrize("collected", [True, False])
@pytest.mark.parametrize(
    ("rule", "problem", "todo"),
    [
        ({"rule": "range", "column": "pixels.sharpnes", "least": 1}, "not known",
         "Did you mean 'pixels.sharpness'"),
        ({"rule": "range", "column": "sharpness", "least": 1}, "not known",
         "Did you mean 'pixels.sharpness'?"),
        ({"rule": "range", "column": "format", "least": 1}, "a column of texts", "another"),
        ({"rule": "range", "column": "nouns.count", "least": 1}, "'nouns', which nothing fills",
         "Add {kind: nouns} to `columns`"),
        ({"rule": "sql", "where": "pixels.sharpnes > 1"}, "pixels_sharpnes", ""),
        ({"rule": "sql", "where": "nouns.count > 1"}, "nouns", ""),
        ({"rule": "sql", "where": "pixels.sharpness"}, "which is of type", ""),
        ({"rule": "sql", "where": "len(pixels.sharpness) > 1"}, "No function matches", ""),
        ({"rule": "sql", "where": "count(*) > 1"}, "GROUP BY", ""),
        ({"rule": "sql", "where": "true) or (1 = 1"}, "expected one boolean", ""),
        ({"rule": "sql", "where": "true; drop table images"}, "Only SELECT", ""),
        ({"rule": "sql", "where": "h > (select 1 from read_text('/etc/hosts'))"}, "disabled", ""),
        ({"rule": "duplicates", "by": "embedding", "column": "clip"}, "a column with vector",
         "`kind: embedding`"),
        ({"rule": "duplicates", "column": "clip"}, "colours, phash, phash_mirror", "pixels"),
    ],
)  # fmt: skip
def test_rules_that_cannot_be_asked(work, rule, problem, todo, collected):
    if not collected:
        del work.inputs["collection"]
    ((_, said, remedy),) = work.check(rules=[rule])
    assert problem in said
    assert todo in remedy
    if collected:
        before = hash_folder(work.catalogue.path)
        with pytest.raises(InputError):
            work(rules=[rule])
        assert not work.decoded, "it is said before anything is measured"
        assert hash_folder(work.catalogue.path) == before


def test_attributes_are_known_once_there_is_a_collection(work):
    rule = {"rule": "one_of", "column": "attribute.foldr", "values": ["x"]}
    ((_, problem, todo),) = work.check(rules=[rule])
    assert "not known" in problem
    assert "'attribute.folder'" in todo
    del work.inputs["collection"]
    assert work.check(rules=[rule]) == []


def test_models_and_packages_that_are_nowhere(work, tmp_path, monkeypatch):
    lost = {"kind": "embedding", "model": str(tmp_path / "lost")}
    ((where, problem, _),) = work.check(columns=[lost])
    assert "lost" in where
    assert "no such file or folder" in problem
    two = [{"kind": "pixels"}, {"kind": "pixels"}]
    ((where, problem, todo),) = work.check(columns=two)
    assert "two operations for the column 'pixels'" in problem
    assert "`name`" in todo


def test_an_operation_whose_package_is_not_there_says_what_to_install(work, monkeypatch):
    monkeypatch.setattr(packaged, "find_spec", lambda _name: None)
    ((where, problem, todo),) = work.check(columns=[{"kind": "nouns"}])
    assert "nouns" in where
    assert "no package" in problem
    assert todo == 'Run pip install "tastemaker[nlp]".'
    with pytest.raises(MissingExtra):
        work(columns=[{"kind": "nouns"}])
