"""YAML 1.2, strictly."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tastemaker.errors import RecipeError
from tastemaker.recipe.yaml_text import dump_yaml, parse_value, parse_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-6", 1e-6),
        ("5E4", 5e4),
        ("-.5", -0.5),
        ("1.", 1.0),
        ("12", 12),
        ("017", 17),
        ("0o17", 15),
        ("0x1F", 31),
        ("true", True),
        ("no", "no"),
        ("on", "on"),
        ("12:30", "12:30"),
        ("1_000", "1_000"),
        ("2026-01-02", "2026-01-02"),
        ("~", None),
        ("", None),
        ("'1e-6'", "1e-6"),
        (".inf", math.inf),
        ("-.INF", -math.inf),
        ("[a, 1e-3]", ["a", 1e-3]),
        ("{a: 1}", {"a": 1}),
        ("demo:openmoji", "demo:openmoji"),
        ("$pictures", "$pictures"),
    ],
)
def test_values_of_the_core_schema(text: str, value: object) -> None:
    got = parse_value(text, "x")
    assert got == value
    assert type(got) is type(value)


def test_not_a_number() -> None:
    assert math.isnan(parse_value(".nan", "x"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\nb: 2\na: 3", "r.yaml line 3: got the key 'a' a second time; expected one (the f"),
        ("a: {b: 1, b: 2}", "the key 'b' a second time"),
        ("a: &x 1\nb: *x", "r.yaml line 1: got an anchor, alias or tag"),
        ("a: !!python/name:os.system 1", "an anchor, alias or tag"),
        ("a: [1, 2", "r.yaml line 1"),
        ("a: 1\n\tb: 2", "r.yaml line 2"),
        ("a: 1\n---\nb: 2", "another document"),
        ("? [a]\n: 1", "a key of its own kind"),
        ("[" * 500, "endless nesting"),
    ],
)
def test_what_is_refused(text: str, words: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_yaml(text, "r.yaml")
    assert words in str(caught.value)


def test_lines_of_keys_and_items() -> None:
    text = parse_yaml("a: 1\nb:\n  - x\n  - c: 2\n", "r.yaml")
    assert text.where(("b", 1, "c")) == "r.yaml line 4"
    assert text.where(("b", 1, "missing")) == "r.yaml line 4"
    assert text.where(("z",)) == "r.yaml line 1"


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(VALUES)
def test_what_is_dumped_reads_back(value: object) -> None:
    assert parse_yaml(dump_yaml({"key": value}), "x").value == {"key": value}


@pytest.mark.parametrize("text", ["1e-6", "no", "null", "0o7", "- a", "a: b", "#", "1.5e3", "$x"])
def test_texts_that_look_like_something_else_stay_texts(text: str) -> None:
    assert parse_yaml(dump_yaml({"key": text}), "x").value == {"key": text}
