"""Which caption a visit trains with: the stated shares, and the same one every time."""

from collections import Counter
from math import sqrt

import pytest

from tastemaker.curation.prompts import CaptionChoice, choose_caption
from tastemaker.records.draws import Draw
from tastemaker.records.image import ImageRecord

VISITS = 100_000


def record(*captions: str) -> ImageRecord:
    return ImageRecord(id="i", path="p", source="s", key="k", size=None, captions=captions)


def draw(visit: int, seed: int = 0) -> Draw:
    return Draw(seed, "prompt", "i", visit)


def test_captions_come_in_the_stated_shares():
    choice = CaptionChoice((4.0, 0.0, 1.0, 5.0), empty=0.1)
    asked = record("best", "never", "third", "fourth", "past the list")
    found = Counter(choose_caption(asked, choice, draw(visit)) for visit in range(VISITS))
    expected = {"": 0.1, "best": 0.9 * 0.4, "third": 0.9 * 0.1, "fourth": 0.9 * 0.5}
    assert found.keys() == expected.keys()
    for text, p in expected.items():
        # Three standard deviations of a binomial count.
        assert abs(found[text] - VISITS * p) <= 3 * sqrt(VISITS * p * (1 - p)), text


def test_a_visit_always_has_the_same_text():
    choice, asked = CaptionChoice((1.0, 1.0, 1.0), empty=0.3), record("a", "b", "c")
    texts = [choose_caption(asked, choice, draw(visit)) for visit in range(200)]
    assert [choose_caption(asked, choice, draw(v)) for v in reversed(range(200))] == texts[::-1]
    assert [choose_caption(asked, choice, draw(v, seed=1)) for v in range(200)] != texts


def test_weights_past_a_pictures_captions_are_shared_by_those_it_has():
    choice = CaptionChoice((1.0, 1.0, 98.0))
    found = Counter(choose_caption(record("a", "b"), choice, draw(v)) for v in range(2000))
    assert found.keys() == {"a", "b"}
    assert abs(found["a"] - 1000) <= 3 * sqrt(500)


def test_nothing_is_empty_unless_asked_and_no_caption_always_is():
    assert {choose_caption(record("a"), CaptionChoice(), draw(v)) for v in range(500)} == {"a"}
    assert choose_caption(record(), CaptionChoice(), draw(0)) == ""


@pytest.mark.parametrize(
    ("weights", "empty"), [((), 0.0), ((0.0, 1.0), 0.0), ((1.0, -1.0), 0.0), ((1.0,), 1.0)]
)
def test_impossible_choices_are_refused(weights, empty):
    with pytest.raises(ValueError, match="must be"):
        CaptionChoice(weights, empty)
