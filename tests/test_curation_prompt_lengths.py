"""What a batch of prompts is padded to, and the mix of lengths."""

import pytest

from tastemaker.curation.prompt_lengths import (
    SCORE_TOKENS,
    batch_length,
    cut_off,
    length_mix,
    window_classes,
    windows_of,
)


@pytest.mark.parametrize(
    ("tokens", "windows", "lost"),
    [
        (0, 1, 0),
        (1, 1, 0),
        (75, 1, 0),
        (76, 2, 0),
        (150, 2, 0),
        (151, 3, 0),
        (225, 3, 0),
        (226, 3, 1),
    ],
)
def test_windows_are_filled_one_after_the_other(tokens, windows, lost):
    assert windows_of(tokens) == windows
    assert cut_off(tokens) == lost
    assert batch_length([0, tokens]) == 75 * windows


def test_a_batch_is_as_long_as_its_longest_prompt():
    assert batch_length([]) == 75
    batches = [[3, 70], [3, 76], [150, 4], [400], [0]]
    assert length_mix(batches) == {75: 0.4, 150: 0.4, 225: 0.2}
    assert length_mix([]) == {75: 0.0, 150: 0.0, 225: 0.0}
    assert length_mix([[119]], window=119, most=1) == {119: 1.0}


def test_samples_are_classed_by_expected_length():
    expected = {"a": 70.0, "b": 70.5, "c": 71.0, "d": 500.0, "e": 0.0}
    assert window_classes(expected) == {"a": 1, "b": 1, "c": 1, "d": 3, "e": 1}
    scored = window_classes(expected, extra=SCORE_TOKENS)
    assert scored == {"a": 1, "b": 2, "c": 2, "d": 3, "e": 1}
