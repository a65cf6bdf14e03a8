"""Prompts to token windows: long prompts are cut into windows, and what is lost is counted.

Axes: B prompts, N windows, L tokens of a window.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any, TypeAlias

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import CLIPTokenizer

from tastemaker.models.tag_tokens import TagTokens

Tokenizer: TypeAlias = CLIPTokenizer | TagTokens
"""CLIP's tokenizer, as it is or with a memory of words; both give the same ids."""

MAX_WINDOWS = 3
"""Three windows of 75 tokens, as bigASP and the common user interfaces have it."""


@dataclass(frozen=True)
class TokenReport:
    """What becomes of one prompt.

    Attributes:
        tokens: of the whole prompt, start and end not counted.
        windows: text windows that it fills.
        cut: tokens at its end that the model never sees.
        lost: the text of those tokens.
    """

    tokens: int
    windows: int
    cut: int = 0
    lost: str = ""


@dataclass(frozen=True)
class TokenSummary:
    """What becomes of many prompts.

    Attributes:
        texts: how many there are.
        longest: tokens of the longest.
        windows: number of windows -> number of prompts that fill so many.
        cut_texts: prompts that lose their end.
        cut_tokens: tokens lost in all.
    """

    texts: int
    longest: int
    windows: Mapping[int, int]
    cut_texts: int
    cut_tokens: int

    def __str__(self) -> str:
        """One sentence for logs."""
        if not self.cut_texts:
            return f"{self.texts:,} texts, the longest of {self.longest} tokens; none is cut"
        return (
            f"{self.cut_texts:,} of {self.texts:,} texts are cut, {self.cut_tokens:,} tokens in "
            f"all; the longest has {self.longest} tokens"
        )


def summarise(reports: Iterable[TokenReport]) -> TokenSummary:
    """Count over prompts."""
    every = list(reports)
    return TokenSummary(
        texts=len(every),
        longest=max((r.tokens for r in every), default=0),
        windows=dict(sorted(Counter(r.windows for r in every).items())),
        cut_texts=sum(r.cut > 0 for r in every),
        cut_tokens=sum(r.cut for r in every),
    )


def token_reports(
    tokenizer: Any, texts: Sequence[str], inside: int, most: int = MAX_WINDOWS
) -> list[TokenReport]:
    """A report a text.

    Args:
        tokenizer: of CLIP or T5.
        texts: the prompts, as the tokenizer will get them.
        inside: tokens in a window, start and end not counted.
        most: windows that the model can be given.
    """
    room, reports = inside * most, []
    for ids in _ids(tokenizer, texts):
        windows = min(max(1, ceil(len(ids) / inside)), most)
        lost = _plain(tokenizer).decode(ids[room:]) if len(ids) > room else ""
        reports.append(TokenReport(len(ids), windows, max(0, len(ids) - room), lost.strip()))
    return reports


def clip_reports(tokenizer: Tokenizer, texts: Sequence[str]) -> list[TokenReport]:
    """A report a text, for up to three windows of CLIP."""
    return token_reports(tokenizer, texts, _plain(tokenizer).model_max_length - 2)


def longest_reports(
    reports: Sequence[TokenReport], others: Sequence[TokenReport]
) -> list[TokenReport]:
    """Of two tokenizers' reports on the same texts, the longer one each."""
    pairs = zip(reports, others, strict=True)
    return [max(pair, key=lambda report: report.tokens) for pair in pairs]


def token_counts(tokenizer: Tokenizer, texts: Sequence[str]) -> list[int]:
    """Tokens of each text, start and end not counted."""
    return [len(ids) for ids in _ids(tokenizer, texts)]


def windows_needed(tokenizer: Tokenizer, texts: Sequence[str], most: int = MAX_WINDOWS) -> int:
    """Windows that the longest text fills: at least 1, at most `most`."""
    longest = max(token_counts(tokenizer, texts), default=0)
    return min(max(1, ceil(longest / (_plain(tokenizer).model_max_length - 2))), most)


def token_windows(tokenizer: Tokenizer, texts: Sequence[str], windows: int) -> Int[Tensor, "B N L"]:
    """Token ids of every text in `windows` windows: start, up to L - 2 tokens, end, padding.

    A text shorter than that ends in windows that hold no token; a longer one loses its tail, which
    `token_reports` counts.
    """
    plain = _plain(tokenizer)
    length, inside = plain.model_max_length, plain.model_max_length - 2
    start, end, pad = (_id(plain, name) for name in ("bos", "eos", "pad"))
    rows = []
    for ids in _ids(tokenizer, texts):
        for window in range(windows):
            row = [start, *ids[window * inside : (window + 1) * inside], end]
            rows.append(row + [pad] * (length - len(row)))
    return torch.tensor(rows, dtype=torch.long).view(len(texts), windows, length)


def text_fields(tokenizer: CLIPTokenizer) -> dict[str, int]:
    """Fields of a CLIPTextConfig that follow from the tokenizer.

    The end id matters most: it says where the pooled text is read.
    """
    return {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": tokenizer.model_max_length,
        "bos_token_id": _id(tokenizer, "bos"),
        "eos_token_id": _id(tokenizer, "eos"),
        "pad_token_id": _id(tokenizer, "pad"),
    }


def _ids(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    if not texts:
        return []
    if isinstance(tokenizer, TagTokens):
        return [ids.tolist() for ids in tokenizer.ids(texts)]
    return tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]


def _plain(tokenizer: Any) -> Any:
    return tokenizer.tokenizer if isinstance(tokenizer, TagTokens) else tokenizer


def _id(tokenizer: CLIPTokenizer, name: str) -> int:
    value = getattr(tokenizer, f"{name}_token_id")
    assert isinstance(value, int), f"the tokenizer has no {name} token"
    return value
