"""Rules that judge each picture by itself: against plain loops, with verdicts in words."""

import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tastemaker.curation.facts import Facts, field_kind, objects, record_values
from tastemaker.errors import InputError
from tastemaker.records.image import Drop, ImageRecord
from tastemaker.records.size import Size
from tests.curation_rules import NAN, drops, facts, judged, kept, rule

# --- one picture at a time -----------------------------------------------------------------------


def test_readable_tells_copies_from_broken_files():
    known = facts(
        error=[
            None,
            "truncated or damaged (3 bytes)",
            "duplicate of s k2",
            "gone: no longer in s",
            "changed: other bytes now",
            "truncated or damaged (9 bytes)",
        ]
    )
    assert drops(rule(rule="readable"), known) == {
        1: Drop(
            "unreadable: truncated or damaged", "truncated or damaged (3 bytes)", "a whole picture"
        ),
        2: Drop("exact duplicate", "duplicate of s k2", "one of each"),
        3: Drop("gone", "gone: no longer in s", "a file that is still there"),
        4: Drop("gone", "changed: other bytes now", "a file that is still there"),
        5: Drop(
            "unreadable: truncated or damaged", "truncated or damaged (9 bytes)", "a whole picture"
        ),
    }
    counts = judged(rule(rule="readable"), known).counts(np.ones(6, bool))
    assert counts == {"unreadable: truncated or damaged": 2, "exact duplicate": 1, "gone": 2}


def test_captioned():
    known = facts(captions=[("a cat",), (), ("", " "), None, ("", "b")])
    assert drops(rule(rule="captioned"), known) == {i: Drop("no caption", 0, 1) for i in (1, 2, 3)}


def test_range_says_which_limit():
    known = facts(pixels__sharpness=[0.1, 0.2, 0.35, 0.5, 0.51, NAN, math.inf])
    both = rule(rule="range", column="pixels.sharpness", least=0.2, most=0.5)
    name, unknown = "pixels.sharpness", "at least 0.2 and at most 0.5"
    assert drops(both, known) == {
        0: Drop(f"{name} too low", "0.1", "at least 0.2"),
        4: Drop(f"{name} too high", "0.51", "at most 0.5"),
        5: Drop(f"{name} unknown", "(unknown)", unknown),
        6: Drop(f"{name} unknown", "(unknown)", unknown),
    }
    margin = judged(both, known).margin
    expected = [-0.1, 0.0, 0.15, 0.0, -0.01, NAN, NAN]
    np.testing.assert_allclose(margin, expected, atol=1e-12)
    lenient = rule(rule="range", column="pixels.sharpness", least=0.2, unknown="keep")
    assert kept(lenient, known) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("limit", [0.1, 0.2, 0.3, 0.6, 0.7])
def test_a_limit_means_the_same_in_every_precision(dtype, limit):
    """float32(0.7) is below 0.7 and float32(0.6) above 0.6; neither may fall by that."""
    known = facts(a__b=np.array([limit], dtype))
    assert kept(rule(rule="range", column="a.b", least=limit), known) == [0]
    assert kept(rule(rule="range", column="a.b", most=limit), known) == [0]
    assert kept(rule(rule="one_of", column="a.b", values=[limit]), known) == [0]
    assert judged(rule(rule="range", column="a.b", least=limit), known).margin.tolist() == [0.0]


def test_whole_numbers_have_limits_between_them():
    known = facts(n=np.array([0, 1, 2], np.int32))
    assert kept(rule(rule="range", column="n", least=0.5), known) == [1, 2]
    assert kept(rule(rule="one_of", column="n", values=[0.5, 2]), known) == [2]


def test_a_verdict_never_says_that_a_number_missed_itself():
    known = facts(a__b=[0.29999999999])
    (drop,) = drops(rule(rule="range", column="a.b", least=0.3), known).values()
    assert drop == Drop("a.b too low", "0.29999999999", "at least 0.3")


def test_one_of_texts_numbers_and_flags():
    known = facts(
        attribute__style=["openmoji", "twemoji", None, "Openmoji"],
        clusters__cluster=[0.0, 1.0, NAN, 2.0],
        nsfw__unsafe=[True, False, False, True],
    )
    style = rule(rule="one_of", column="attribute.style", values=["openmoji", "noto"])
    assert drops(style, known) == {
        1: Drop("not wanted: style", "twemoji", "openmoji or noto"),
        2: Drop("not wanted: style", "(unknown)", "openmoji or noto"),
        3: Drop("not wanted: style", "Openmoji", "openmoji or noto"),
    }
    assert kept(style.model_copy(update={"unknown": "keep"}), known) == [0, 2]
    cluster = rule(rule="one_of", column="clusters.cluster", values=[1, 2])
    assert drops(cluster, known)[0] == Drop("not wanted: clusters.cluster", "0", "1 or 2")
    assert kept(cluster, known) == [1, 3]
    assert kept(rule(rule="one_of", column="nsfw.unsafe", values=[False]), known) == [1, 2]
    for column, wanted in (("nsfw.unsafe", [0]), ("clusters.cluster", ["1"])):
        with pytest.raises(InputError, match="wanted value"):
            judged(rule(rule="one_of", column=column, values=wanted), known)


def test_an_attribute_that_looks_like_a_number_is_a_text():
    known = facts(attribute__year=["1999", "2000", None])
    assert kept(rule(rule="one_of", column="attribute.year", values=[1999]), known) == [0]


def test_sql_keeps_what_is_true():
    where = "pixels.sharpness > 30 and\n attribute.style = 'it''s a.b' and \"ocr\".share < 0.5"
    sql = rule(rule="sql", where=where)
    assert sql.columns() == (f"sql:{where}",)
    assert sql.measured() == ("pixels", "ocr")
    joined = rule(rule="sql", where="text_area_share < 0.1 and short_side > 3 and nsfw.score < 1")
    assert joined.measured() == ("nsfw", "text", "text_area"), "either may be the column"
    known = Facts(["a", "b"], {f"sql:{where}": np.array([True, False])})
    (drop,) = drops(sql, known).values()
    assert (drop.got, drop.limit) == ("not true", where)


# --- words ---------------------------------------------------------------------------------------


def loop_entries(entry, word) -> bool:
    def spell(text):
        return " ".join(text.replace("_", " ").split()).casefold()

    return any(spell(tag) == spell(word) for tag in entry or ())


def loop_words(entry, word) -> bool:
    """Split into words by hand, and look for the run of words."""
    wanted = re.findall(r"[^\W_]+", word.lower())
    for text in entry or ():
        found = re.findall(r"[^\W_]+|[^\w\s]+", text.lower())
        runs = (found[i : i + len(wanted)] for i in range(len(found)))
        if any(run == wanted for run in runs):
            return True
    return False


WORDS = st.sampled_from(["cat", "Cat", "cats", "cat_ears", "cat ears", "ears", "red  car", "a-b"])


@given(
    st.lists(st.lists(WORDS, max_size=4).map(tuple) | st.none(), min_size=1, max_size=12),
    st.lists(WORDS, max_size=2), st.lists(WORDS, max_size=2), st.lists(WORDS, max_size=2),
    st.sampled_from(["entries", "words"]), st.sampled_from(["drop", "keep"]),
)  # fmt: skip
def test_contains_against_a_loop(lists, any_, all_, none, match, unknown):
    if not any_ + all_ + none:
        any_ = ["cat"]
    known = Facts([str(i) for i in range(len(lists))], {"x.y": objects(lists)})
    chosen = rule(
        rule="contains", column="x.y", any=any_, all=all_, none=none, match=match, unknown=unknown
    )
    has = loop_entries if match == "entries" else loop_words
    expected = []
    for index, entry in enumerate(lists):
        if entry is None:
            fine = unknown == "keep"
        else:
            fine = (
                (not any_ or any(has(entry, word) for word in any_))
                and all(has(entry, word) for word in all_)
                and not any(has(entry, word) for word in none)
            )
        if fine:
            expected.append(index)
    if match == "words" and "a-b" in any_ + all_ + none:
        return  # the loop has its own idea of what a hyphen is
    assert kept(chosen, known) == expected
    assert all(drop.got and drop.limit for drop in drops(chosen, known).values())


def test_tags_match_whole_and_captions_by_words():
    known = facts(
        tags=[("long_hair", "cat"), ("Long  Hair",), ("long hair ribbon",), ()],
        captions=[("A cat, asleep.",), ("cats",), ("a red_car!", "a dog"), ()],
    )
    assert kept(rule(rule="contains", any=["long hair"]), known) == [0, 1]
    assert kept(rule(rule="contains", none="long_hair"), known) == [2, 3]
    assert kept(rule(rule="contains", column="captions", any=["CAT"]), known) == [0]
    assert kept(rule(rule="contains", column="captions", all=["red car", "dog"]), known) == [2]
    entries = rule(rule="contains", column="captions", any=["cats"], match="entries")
    assert kept(entries, known) == [1]
    words = rule(rule="contains", column="tags", any=["hair"], match="words")
    assert kept(words, known) == [0, 1, 2]


def test_contains_says_what_was_found_and_what_was_asked():
    known = facts(tags=[("a", "b"), ("c", "Text", "watermark"), None, ("c", "d"), ("c", "e", "f")])
    chosen = rule(
        rule="contains", any=["c", "x"], all=["e", "f"], none=["watermark", "text", "logo"]
    )
    asked = "one of c, x and all of e, f and none of watermark, text, logo"
    assert drops(chosen, known) == {
        0: Drop("tags without a wanted word", "a, b", "one of c, x"),
        1: Drop("tags lacking a word", "c, Text, watermark", "all of e, f"),
        2: Drop("tags unknown", "(unknown)", asked),
        3: Drop("tags lacking a word", "c, d", "all of e, f"),
    }
    only = rule(rule="contains", none=["watermark", "text"])
    expected = Drop("tags with an unwanted word", "watermark, text", "none of watermark, text")
    assert drops(only, known)[1] == expected
    one = rule(rule="contains", column="ocr.text", none=["c++"])
    assert kept(one, facts(ocr__text=["in c++ or so", "c", None])) == [1]


# --- facts ---------------------------------------------------------------------------------------


def test_facts_of_records():
    known = record_values(
        [
            ImageRecord("a", "p", "s", "k", Size(500, 2000), "PNG", "RGB", 2, ("x",), ("t", "u"),
                        (("style", "o"),)),
            ImageRecord("b", "p", "s", "k", None, status="error", error="zero bytes"),
        ]
    )  # fmt: skip
    facts = Facts(["a", "b"], known)
    numbers = {"h": 500, "w": 2000, "short_side": 500, "long_side": 2000, "aspect": 4.0}
    for name, value in {**numbers, "megapixels": 1.0}.items():
        np.testing.assert_array_equal(facts.numbers(name), [value, NAN])
    assert facts.column("tags").tolist() == [("t", "u"), ()]
    assert facts.column("error").tolist() == [None, "zero bytes"]
    assert facts.column("attribute.style").tolist() == ["o", None]
    assert facts.column("format").tolist() == ["PNG", None]
    assert facts.kinds["captions"] == "list"
    with pytest.raises(InputError, match="Did you mean 'attribute.style'"):
        facts.column("attribute.styl")


def test_facts_of_another_length_are_refused():
    with pytest.raises(ValueError, match="no column of 2 numbers"):
        Facts(["a", "b"], {"h": np.zeros(3)})
    with pytest.raises(ValueError, match="1 labels for 2"):
        Facts(["a", "b"], {}, ["x"])


def test_kinds_of_fields():
    assert [field_kind(t) for t in ("float32", "int32", "string", "bool", "list<string>")] == [
        "number", "number", "text", "flag", "list",
    ]  # fmt: skip
    assert field_kind("list<float32>") is None
    assert field_kind("vector<float16>") is None
