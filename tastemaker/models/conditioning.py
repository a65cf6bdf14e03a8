"""What the text encoders say, and what the denoiser is told, of a batch.

Axes: B batch, L text positions, D width of a text position, P width of the pooled text, S size
numbers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

Rows = slice | Sequence[int] | Tensor
Change = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class TextStates:
    """What the text encoders say of a batch of prompts.

    Attributes:
        context: a state for each text position.
        pooled: one state for the whole text, where the architecture has it (SDXL).
        mask: 1 where a position holds a token and 0 where it is padding, where the denoiser must
            not see padding (T5).
    """

    context: Float[Tensor, "B L D"]
    pooled: Float[Tensor, "B P"] | None = None
    mask: Int[Tensor, "B L"] | None = None

    def __len__(self) -> int:
        """Number of prompts."""
        return self.context.shape[0]

    @staticmethod
    def join(states: Sequence["TextStates"]) -> "TextStates":
        """Several batches as one; all must have the same number of text positions.

        Raises:
            ValueError: the lengths differ; encode with one number of windows then.
        """
        _refuse_lengths([each.context for each in states])
        return TextStates(
            torch.cat([s.context for s in states]),
            _cat([s.pooled for s in states]),
            _cat([s.mask for s in states]),
        )

    def __getitem__(self, rows: Rows) -> "TextStates":
        """The chosen rows, as a batch."""
        index = rows if isinstance(rows, slice | Tensor) else list(rows)
        return self._each(lambda values: values[index])

    def to(self, *args: Any, **kwargs: Any) -> "TextStates":
        """Move or convert, like `Tensor.to`; the mask is only moved."""
        context = self.context.to(*args, **kwargs)
        return TextStates(
            context,
            None if self.pooled is None else self.pooled.to(*args, **kwargs),
            None if self.mask is None else self.mask.to(context.device),
        )

    def _each(self, change: Change) -> "TextStates":
        return TextStates(
            change(self.context), _maybe(self.pooled, change), _maybe(self.mask, change)
        )


@dataclass(frozen=True)
class Conditioning:
    """Text and sizes, ready for `denoise`.

    Attributes:
        context: a state for each text position.
        pooled: one state for the whole text, or None.
        time_ids: the numbers on sizes that the denoiser is told, or None where it is told none;
            always in fp32: bf16 cannot hold 1025.
        mask: 1 where a text position holds a token, or None.
    """

    context: Float[Tensor, "B L D"]
    pooled: Float[Tensor, "B P"] | None = None
    time_ids: Float[Tensor, "B S"] | None = None
    mask: Int[Tensor, "B L"] | None = None

    def __len__(self) -> int:
        """Number of rows."""
        return self.context.shape[0]

    @staticmethod
    def join(parts: Sequence["Conditioning"]) -> "Conditioning":
        """Several batches as one.

        Raises:
            ValueError: their texts differ in length.
        """
        _refuse_lengths([each.context for each in parts])
        return Conditioning(
            torch.cat([c.context for c in parts]),
            _cat([c.pooled for c in parts]),
            _cat([c.time_ids for c in parts]),
            _cat([c.mask for c in parts]),
        )

    def __getitem__(self, rows: Rows) -> "Conditioning":
        """The chosen rows, as a batch."""
        index = rows if isinstance(rows, slice | Tensor) else list(rows)

        def choose(values: Tensor) -> Tensor:
            return values[index]

        return Conditioning(
            choose(self.context),
            _maybe(self.pooled, choose),
            _maybe(self.time_ids, choose),
            _maybe(self.mask, choose),
        )

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> "Conditioning":
        """Move everything; convert the text alone."""
        return Conditioning(
            self.context.to(device=device, dtype=dtype),
            _maybe(self.pooled, lambda values: values.to(device=device, dtype=dtype)),
            _maybe(self.time_ids, lambda values: values.to(device=device)),
            _maybe(self.mask, lambda values: values.to(device=device)),
        )


def _maybe(values: Tensor | None, change: Change) -> Tensor | None:
    return None if values is None else change(values)


def _cat(parts: Sequence[Tensor | None]) -> Tensor | None:
    there = [part for part in parts if part is not None]
    if there and len(there) < len(parts):
        raise ValueError("texts of different architectures cannot be one batch")
    return torch.cat(there) if there else None


def _refuse_lengths(contexts: Sequence[Tensor]) -> None:
    lengths = {context.shape[1] for context in contexts}
    if len(lengths) > 1:
        raise ValueError(
            f"texts of different lengths {sorted(lengths)}: encode them with the same `windows`"
        )
