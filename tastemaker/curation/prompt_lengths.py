"""Lengths of prompts in the windows of a text encoder: what a batch is padded to, and the mix.

A CLIP text encoder reads windows of 75 tokens, start and end not counted. All prompts of a batch
must have one length, so each is padded to the windows of the longest. A model that has seen only
long batches may do badly on short prompts: bigASP's v1 had 9, 66 and 25 % of batches with one, two
and three windows, v2 (which groups pictures by length) 22.9, 71.3 and 5.8 %.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from math import ceil

WINDOW = 75
"""Tokens in a window of CLIP, start and end not counted."""

MOST_WINDOWS = 3
"""Longer prompts are cut off (bigASP, and the common user interfaces)."""

SCORE_TOKENS = 5
"""What score tags add to a text, on average (v2)."""


def windows_of(tokens: int, window: int = WINDOW, most: int = MOST_WINDOWS) -> int:
    """Windows that so many tokens fill: at least 1, at most `most`."""
    return min(max(1, -(-tokens // window)), most)


def cut_off(tokens: int, window: int = WINDOW, most: int = MOST_WINDOWS) -> int:
    """Tokens of a prompt that the text encoders never see."""
    return max(0, tokens - window * most)


def batch_length(
    token_counts: Iterable[int], window: int = WINDOW, most: int = MOST_WINDOWS
) -> int:
    """Tokens that a batch of prompts is padded to: the longest, rounded up to whole windows."""
    return window * windows_of(max(token_counts, default=0), window, most)


def length_mix(
    batches: Iterable[Iterable[int]], window: int = WINDOW, most: int = MOST_WINDOWS
) -> dict[int, float]:
    """Share of the batches that are padded to 75, 150 and 225 tokens.

    Args:
        batches: for every batch, the tokens of its prompts.
        window: tokens in a window.
        most: windows at most.
    """
    found = Counter(batch_length(counts, window, most) for counts in batches)
    total = sum(found.values())
    lengths = range(window, window * most + 1, window)
    return {length: found[length] / total if total else 0.0 for length in lengths}


def window_classes(
    expected_tokens: Mapping[str, float],
    window: int = WINDOW,
    most: int = MOST_WINDOWS,
    *,
    extra: int = 0,
) -> dict[str, int]:
    """Windows that each sample's prompt is expected to fill: what it is grouped with.

    Without groups, nearly every batch holds a long prompt, and none is padded to one window. Inside
    a group the real length still decides, so a wrong guess costs padding, never a token.

    Args:
        expected_tokens: sample id -> length of its prompts on average.
        window: tokens in a window.
        most: windows at most.
        extra: added to every length: `SCORE_TOKENS` where score tags are drawn.
    """
    return {
        sample_id: windows_of(ceil(tokens) + extra, window, most)
        for sample_id, tokens in expected_tokens.items()
    }
