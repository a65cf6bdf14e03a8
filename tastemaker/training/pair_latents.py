"""Pairs as training reads them: two latents of one size, each with the sizes of its own picture.

Axes: C latent channels, H and W latent rows and columns.
"""

from dataclasses import dataclass
from typing import Protocol

from jaxtyping import Float
from torch import Tensor

from tastemaker.errors import InputError
from tastemaker.records.size import ImageSizes, Size


@dataclass(frozen=True)
class PairLatents:
    """Both sides of one visit of a pair.

    Attributes:
        winner: clean latent [C, H, W], scaled as the denoiser sees it.
        loser: the same shape.
        winner_sizes: of the winner's own picture and crop.
        loser_sizes: of the loser's own picture and crop.
        label: 1 where the winner won, 0.5 for a tie.
    """

    winner: Float[Tensor, "C H W"]
    loser: Float[Tensor, "C H W"]
    winner_sizes: ImageSizes
    loser_sizes: ImageSizes
    label: float = 1.0

    def check(self, pair_id: str) -> None:
        """Refuse what no pair objective can use.

        Raises:
            InputError: sides of different buckets, or a label that is none.
        """
        if self.winner.shape != self.loser.shape:
            raise InputError(
                f"pair {pair_id}",
                f"latents of {tuple(self.winner.shape)} and {tuple(self.loser.shape)}",
                "one bucket for both sides",
                "Cache both with the crop of their pair; a side is never squashed.",
            )
        if not 0.5 <= self.label <= 1.0:
            raise InputError(
                f"pair {pair_id}",
                f"label {self.label}",
                "0.5 (a tie) to 1 (the winner surely won)",
                "Exchange the sides where the loser won.",
            )

    @property
    def bucket(self) -> Size:
        """Size of the crops in pixels."""
        return self.winner_sizes.target


class PairReader(Protocol):
    """Where pairs come from."""

    def read(self, pair_id: str, visit: int) -> PairLatents:
        """Both sides of a visit; `kept_latents.FIXED` asks for the one of validation.

        Crops and posterior samples may depend on the visit, the same way for both sides.
        """
        ...
