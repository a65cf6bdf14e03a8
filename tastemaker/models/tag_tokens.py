"""Token ids of prompts from a memory of their words: exact, and some thirty times as fast.

CLIP's tokenizer cuts a text at white space, and into runs of letters, single digits and runs of
other signs, before it looks for merges; no token reaches across such a cut. So the ids of a text
are those of its pieces, one after the other. Tags come again and again, their prompts never.

Axes: B prompts, N windows, L tokens of a window.
"""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from tastemaker.errors import InputError

_LONG_SIGN = re.compile(r",[^ 0-9A-Za-z]")
"""A comma that may be part of a longer run of signs."""

_NEIGHBOUR = "a"


class TagTokens:
    """Ids of texts; those of a piece, a word with the comma behind it, are computed once.

    Every new piece is checked: between two others it must have the ids that it has alone. A text
    with a piece that fails, or with signs for which the rule is not sure, goes through the
    tokenizer as a whole. So any tokenizer gives its own ids; with one that does not cut at white
    space this is no gain.

    Args:
        tokenizer: CLIP's.
        most: pieces that are remembered; then all are forgotten.
    """

    def __init__(self, tokenizer: Any, most: int = 200_000) -> None:
        self.tokenizer, self.most = tokenizer, most
        # Ids as bytes: these are joined much faster than lists.
        self._pieces: dict[str, bytes] = {}
        self._inexact: set[str] = set()

    def ids(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Token ids of each text, without start and end, as the tokenizer gives them: int32 [n]."""
        found: list[bytes] = []
        late: list[int] = []
        for number, text in enumerate(texts):
            try:
                found.append(self._joined(text))
            except KeyError:
                found.append(b"")
                late.append(number)
        if late:
            self._learn([piece for number in late for piece in _pieces_of(texts[number])])
            for number in late:
                found[number] = self._joined(texts[number])
        return [np.frombuffer(ids, np.int32) for ids in found]

    def _joined(self, text: str) -> bytes:
        """Ids of one text.

        Raises:
            KeyError: it has a new piece.
        """
        if not _is_sure(text):
            return self._encoded([text])[0]
        pieces = _pieces_of(text)
        ids = b"".join([self._pieces[piece] for piece in pieces])
        if self._inexact and not self._inexact.isdisjoint(pieces):
            return self._encoded([text])[0]
        return ids

    def _learn(self, pieces: Sequence[str]) -> None:
        """Ask the tokenizer about pieces that may be new."""
        asked = set(pieces)
        new = sorted(asked - self._pieces.keys())
        if len(self._pieces) + len(new) > self.most:
            self._pieces, self._inexact, new = {}, set(), sorted(asked)
        spaced = [f"{_NEIGHBOUR} {piece} {_NEIGHBOUR}" for piece in new]
        # A comma may be followed by a letter at once.
        tight = [f"{_NEIGHBOUR} {p}{'' if p[-1] == ',' else ' '}{_NEIGHBOUR}" for p in new]
        (around,) = self._encoded([_NEIGHBOUR])
        rows = zip(*(self._encoded(some) for some in (new, spaced, tight)), strict=True)
        for piece, (alone, *others) in zip(new, rows, strict=True):
            self._pieces[piece] = alone
            if any(other != around + alone + around for other in others):
                self._inexact.add(piece)

    def _encoded(self, texts: list[str]) -> list[bytes]:
        rows = self.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        return [np.array(row, np.int32).tobytes() for row in rows]


def pack_windows(
    ids: Sequence[np.ndarray], windows: int, length: int, start: int, end: int, pads: Sequence[int]
) -> tuple[Int[Tensor, "B N L"], ...]:
    """Ids in windows as `models.text.token_windows` makes them: start, up to L - 2, end, padding.

    Args:
        ids: of each text, without start and end; what does not fit is cut off.
        windows: N.
        length: L, start and end included.
        start: id of the start token.
        end: id of the end token.
        pads: ids that fill a window after its end; for each there is one result.
    """
    inside = length - 2
    room = windows * inside
    counts = np.array([min(len(some), room) for some in ids], np.int64)
    packed = np.full((len(ids), windows, length), end, np.int64)
    packed[:, :, 0] = start
    taken = np.arange(room) < counts[:, None]
    flat = np.concatenate([np.empty(0, np.int32), *(some[:room] for some in ids)])
    packed[:, :, 1:-1][taken.reshape(len(ids), windows, inside)] = flat
    # A window ends behind its last token, which is its first place where it has none.
    ends = 1 + np.clip(counts[:, None] - inside * np.arange(windows), 0, inside)
    behind = np.arange(length) > ends[:, :, None]
    found = []
    for pad in pads:
        own = packed.copy()
        own[behind] = pad
        found.append(torch.from_numpy(own))
    return tuple(found)


def pack_for_encoders(
    ids: Sequence[np.ndarray], windows: int, tokenizers: Sequence[Any]
) -> tuple[Int[Tensor, "B N L"], ...]:
    """The same ids for several text encoders of one vocabulary, which differ in their padding.

    Raises:
        InputError: the tokenizers' windows differ.
    """
    facts = {(t.model_max_length, t.bos_token_id, t.eos_token_id) for t in tokenizers}
    if len(facts) > 1:
        raise InputError(
            "tokenizers",
            f"{len(facts)} kinds",
            "one vocabulary and window",
            "Encode the texts with each tokenizer on its own.",
        )
    ((length, start, end),) = facts
    return pack_windows(ids, windows, length, start, end, [t.pad_token_id for t in tokenizers])


def _is_sure(text: str) -> bool:
    """Whether pieces are safe: no letters that Unicode may join, no names of special tokens."""
    return (
        text.isascii()
        and text.isprintable()
        and "<|" not in text
        and _LONG_SIGN.search(text) is None
    )


def _pieces_of(text: str) -> list[str]:
    """Words, each with the comma behind it."""
    return text.replace(",", ", ").split()
