"""Prompts to token windows: long prompts are cut, not truncated (as bigASP does).

Axes: B prompts, N windows, L tokens of a window.
"""

from collections.abc import Sequence
from math import ceil

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import CLIPTokenizer

MAX_WINDOWS = 3
"""Three windows of 75 tokens, as bigASP and the common user interfaces have it."""


def token_counts(tokenizer: CLIPTokenizer, texts: Sequence[str]) -> list[int]:
    """Tokens of each text, start and end not counted."""
    return [len(ids) for ids in _ids(tokenizer, texts)]


def windows_needed(tokenizer: CLIPTokenizer, texts: Sequence[str], most: int = MAX_WINDOWS) -> int:
    """Windows that the longest text fills: at least 1, at most `most`."""
    longest = max(token_counts(tokenizer, texts), default=0)
    return min(max(1, ceil(longest / (tokenizer.model_max_length - 2))), most)


def token_windows(
    tokenizer: CLIPTokenizer, texts: Sequence[str], windows: int
) -> Int[Tensor, "B N L"]:
    """Token ids of every text in `windows` windows: start, up to L - 2 tokens, end, padding.

    A text shorter than that ends in windows that hold no token; a longer one loses its tail.
    """
    length, inside = tokenizer.model_max_length, tokenizer.model_max_length - 2
    start, end, pad = (_id(tokenizer, name) for name in ("bos", "eos", "pad"))
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


def _ids(tokenizer: CLIPTokenizer, texts: Sequence[str]) -> list[list[int]]:
    if not texts:
        return []
    return tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]  # pyright: ignore[reportReturnType]


def _id(tokenizer: CLIPTokenizer, name: str) -> int:
    value = getattr(tokenizer, f"{name}_token_id")
    assert isinstance(value, int), f"the tokenizer has no {name} token"
    return value
