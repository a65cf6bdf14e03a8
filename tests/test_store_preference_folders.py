"""kohya's folders: `N_name` with repeats, and `w/` against `l/`."""

import json

import pytest

from tastemaker.store.preference_pairs import find_pairs
from tastemaker.store.sources import open_source
from tests.source_files import by_key, encoded


def put(folder, *names):
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded((number, 0, 0)) if path.suffix in (".png", ".jpg") else b"")


def test_a_folder_with_a_number_gives_repeats_concept_and_caption(tmp_path):
    put(tmp_path, "10_mytoken cat/a.png", "10_mytoken cat/deep/b.png", "3_x/5_y_z/c.png")
    put(tmp_path, "plain/d.png", "_x/e.png", "12_/f.png", "top.png", "10_mytoken cat/g.png")
    (tmp_path / "10_mytoken cat" / "g.txt").write_text("its own caption")
    found = by_key(open_source(str(tmp_path)))
    facts = {key: dict(item.attributes) for key, item in found.items()}
    for key, repeats, concept in (
        ("10_mytoken cat/a.png", "10", "mytoken cat"),
        ("10_mytoken cat/deep/b.png", "10", "mytoken cat"),
        ("3_x/5_y_z/c.png", "5", "y_z"),
    ):
        assert (facts[key]["repeats"], facts[key]["concept"]) == (repeats, concept)
        assert facts[key]["caption_source"] == "folder"
        assert found[key].captions == (concept,)
    own = "10_mytoken cat/g.png"
    assert found[own].captions == ("its own caption",)
    assert facts[own]["repeats"] == "10"
    assert "caption_source" not in facts[own]
    for key in ("plain/d.png", "_x/e.png", "12_/f.png", "top.png"):
        assert not {"repeats", "concept"} & set(facts[key])
        assert found[key].captions == ()


def test_the_name_of_the_folder_itself_is_not_a_concept(tmp_path):
    put(tmp_path / "2024_holiday", "a.png")
    (item,) = open_source(str(tmp_path / "2024_holiday")).items()
    assert item.captions == ()


def test_a_picture_in_w_beats_the_one_of_its_name_in_l(tmp_path):
    put(tmp_path, "w/a.png", "l/a.png", "w/b.jpg", "l/b.png", "w/sub/c.png", "l/sub/c.png")
    put(tmp_path, "w/alone.png", "l/two.png", "l/two.jpg", "w/two.png", "preview.png")
    (tmp_path / "w" / "a.txt").write_text("a cat")
    (tmp_path / "l" / "b.caption").write_text("a dog")
    (tmp_path / "w" / "sub" / "c.json").write_text(json.dumps({"caption": "won"}))
    (tmp_path / "l" / "sub" / "c.txt").write_text("lost")
    source = open_source(str(tmp_path))
    found = by_key(source)
    assert [
        (one.key, one.first, one.second, one.label, one.prompt) for one in source.preferences()
    ] == [
        ("a", "w/a.png", "l/a.png", 1.0, "a cat"),
        ("alone", "", "", None, ""),
        ("b", "w/b.jpg", "l/b.png", 1.0, "a dog"),
        ("sub/c", "w/sub/c.png", "l/sub/c.png", 1.0, "won"),
        ("two", "", "", None, ""),
    ]
    assert [fact for one in source.preferences() for fact in one.facts] == [
        ("pair_problem", "no picture of this name in l/"),
        ("prompt_of_second", "lost"),
        ("pair_problem", "several pictures of this name in l/"),
    ]
    captions = {key: item.captions for key, item in found.items() if item.captions}
    assert captions == {
        "w/a.png": ("a cat",),
        "l/a.png": ("a cat",),
        "w/b.jpg": ("a dog",),
        "l/b.png": ("a dog",),
        "w/sub/c.png": ("won",),
        "l/sub/c.png": ("lost",),
    }
    facts = {key: dict(item.attributes) for key, item in found.items()}
    assert (facts["w/a.png"]["pair"], facts["w/a.png"]["side"]) == ("a", "w")
    assert facts["w/alone.png"]["pair_problem"] == "no picture of this name in l/"
    for key in ("w/two.png", "l/two.png", "l/two.jpg"):
        assert facts[key]["pair_problem"] == "several pictures of this name in l/"
    assert "side" not in facts["preview.png"]
    assert all(item.problem is None for item in found.values())


def test_both_sides_of_a_pair_are_in_one_split(tmp_path):
    put(tmp_path, *(f"{side}/{number}.png" for number in range(20) for side in "wl"))
    found = by_key(open_source(str(tmp_path)))
    by_pair = {}
    for item in found.values():
        facts = dict(item.attributes)
        by_pair.setdefault(facts["pair"], []).append(facts["split"])
    assert len(by_pair) == 20
    assert all(len(set(splits)) == 1 for splits in by_pair.values())
    assert {splits[0] for splits in by_pair.values()} == {"tune", "heldout"}


def test_nested_preference_folders_keep_apart(tmp_path):
    put(tmp_path, "one/w/a.png", "one/l/a.png", "two/w/a.png", "two/l/a.png", "three/w/a.png")
    source = open_source(str(tmp_path))
    assert [(one.key, one.first) for one in source.preferences()] == [
        ("one/a", "one/w/a.png"),
        ("two/a", "two/w/a.png"),
    ]
    assert "pair_problem" not in dict(by_key(source)["three/w/a.png"].attributes)


@pytest.mark.parametrize("letters", ["abwl", "w", "l", "wx"])
def test_folders_of_letters_are_no_preferences(letters):
    assert find_pairs(f"{letter}/1.png" for letter in letters) == []


def test_a_pair_and_its_order_do_not_depend_on_the_listing():
    keys = ["w/b.png", "l/a.png", "l/b.png", "w/a.png"]
    assert find_pairs(keys) == find_pairs(keys[::-1])
    assert [pair.name for pair in find_pairs(keys)] == ["a", "b"]
