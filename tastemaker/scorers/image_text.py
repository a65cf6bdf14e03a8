"""How well a picture fits its text, by a contrastive image-text model.

Axes: pictures are uint8 `[H, W, 3]`; embeddings are `[B, D]`, L2-normalised.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from tastemaker.scorers.protocol import Needs, checked

if TYPE_CHECKING:
    from torch import Tensor


class Embedder(Protocol):
    """What is needed of an image-text model; `tastemaker.models.image_text.ImageText` has it."""

    def embed_pictures(self, pixels: "Tensor") -> "Tensor":
        """Float `[B, 3, H, W]` in 0..1 to `[B, D]`, L2-normalised."""
        ...

    def embed_texts(self, texts: Sequence[str]) -> "Tensor":
        """Texts to `[B, D]`, L2-normalised."""
        ...


class ImageTextScorer:
    """Cosine of picture and text embeddings (Radford et al. 2021, "CLIP", figure 3), in -1..1.

    The value is the plain cosine, neither clipped at zero nor multiplied by 2.5 or 100 as some
    score packages do; it is compared within one prompt only, since its level differs from text to
    text.

    Args:
        embedder: the image-text model, in evaluation mode.
        backbone: its reference, for example `tiny-clip`, and the hash of its weights.
        preprocessing: hash of how it turns pixels into its input.
        batch: pictures per forward pass.
    """

    name = "image_text"
    version = "1"
    unit = "cosine"
    range = (-1.0, 1.0)
    higher_is_better = True
    needs: Needs = "image+text"

    def __init__(
        self, embedder: Embedder, backbone: str, *, preprocessing: str, batch: int = 32
    ) -> None:
        self._embedder, self.backbone, self._batch = embedder, backbone, batch
        self.preprocessing = preprocessing

    def score(self, pictures: Sequence[np.ndarray], texts: Sequence[str] | None) -> np.ndarray:
        """See `Scorer.score`; texts are the prompts as the generator saw them."""
        import torch

        texts = checked(pictures, texts, self.needs)
        values = np.empty(len(pictures))
        with torch.inference_mode():
            for rows in _runs_of_one_size(pictures, self._batch):
                pixels = torch.from_numpy(np.stack([pictures[i] for i in rows]))
                image = self._embedder.embed_pictures(pixels.permute(0, 3, 1, 2).float() / 255.0)
                text = self._embedder.embed_texts([texts[i] for i in rows])
                values[rows] = (image.double() * text.double()).sum(dim=1).numpy()
        return values


def _runs_of_one_size(pictures: Sequence[np.ndarray], batch: int) -> list[list[int]]:
    """Rows grouped by picture size, at most `batch` in a group."""
    by_size: dict[tuple[int, ...], list[int]] = {}
    for row, picture in enumerate(pictures):
        by_size.setdefault(picture.shape, []).append(row)
    return [
        rows[start : start + batch]
        for rows in by_size.values()
        for start in range(0, len(rows), batch)
    ]
