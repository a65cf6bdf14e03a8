"""Loss masks in training: where they come from, and the weights of a batch.

Validation has none: it is the plain error of the whole latent, always.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import Field

from tastemaker.records.config import Config as BaseConfig
from tastemaker.records.image import ImageRecord
from tastemaker.records.size import ImageSizes
from tastemaker.store.catalogue import Catalogue
from tastemaker.store.loss_masks import LossMasks, box_masks, file_masks

if TYPE_CHECKING:
    from torch import Tensor


class NoMask(BaseConfig):
    """The whole picture counts."""

    kind: Literal["none"] = "none"


class WatermarkMask(BaseConfig):
    """What lies in the boxes of a column does not count: a wish of bigASP's author."""

    kind: Literal["watermark"] = "watermark"
    """Boxes of the operation `watermark`, which the curate step must have measured."""
    column: str = Field(default="watermark", pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    """Name of the column."""
    least_score: float = Field(default=0.0, ge=0, le=1)
    """Boxes with a lower score count as no boxes (ours: all that the column has)."""
    least_weight: float = Field(default=0.0, ge=0, lt=1)
    """Weight inside of the boxes (0 in bigASP's wish)."""


class FilesMask(BaseConfig):
    """Mask files beside the pictures: white counts, black does not."""

    kind: Literal["files"] = "files"
    """`NAME-masklabel.png` beside `NAME.jpg`, or `masks/NAME.png`; who has none, counts whole."""
    folder: str = "masks"
    """Name of that folder."""
    alpha: bool = False
    """Whether pictures without a mask file are masked where they are transparent."""
    least_weight: float = Field(default=0.0, ge=0, lt=1)
    """Weight where the mask is black (ours; OneTrainer has 0.1)."""


AnyMask = Annotated[NoMask | WatermarkMask | FilesMask, Field(discriminator="kind")]


def open_masks(
    config: AnyMask, catalogue: Catalogue, records: Mapping[str, ImageRecord], factor: int
) -> LossMasks | None:
    """The masks of the pictures that are trained on; None for none.

    Args:
        config: which.
        catalogue: of the collection.
        records: the pictures.
        factor: pixels for each latent cell, along one side.

    Raises:
        InputError: the column or the files are not there.
    """
    if isinstance(config, WatermarkMask):
        scores = {"least_score": config.least_score, "least": config.least_weight}
        return box_masks(catalogue, config.column, records, factor, **scores)
    if isinstance(config, FilesMask):
        return file_masks(
            catalogue, records, factor,
            folder=config.folder, alpha=config.alpha, least=config.least_weight,
        )  # fmt: skip
    return None


def check_masks(masks: LossMasks | None, crops: Iterable[tuple[str, ImageSizes]]) -> int:
    """Find every mask once, before the first step; how many latents have one that masks anything.

    Raises:
        InputError: nothing of a latent counts; names its picture.
        PictureError: a mask file cannot be read, or is no mask of its picture.
    """
    if masks is None:
        return 0
    return sum(1 for picture_id, sizes in crops if masks(picture_id, sizes) is not None)


def batch_weight(
    masks: LossMasks | None, ids: Sequence[str], x0: "Tensor", sizes: Sequence[ImageSizes]
) -> "Tensor | None":
    """The loss masks of a batch, `[B, 1, h, w]`; None when all of every latent counts.

    Args:
        masks: of the run.
        ids: pictures of the batch.
        x0: their latents `[B, c, h, w]`.
        sizes: of each latent.
    """
    import torch

    if masks is None:
        return None
    found = [masks(picture_id, own) for picture_id, own in zip(ids, sizes, strict=True)]
    if all(weights is None for weights in found):
        return None
    whole = np.ones(x0.shape[2:], np.float32)
    stacked = np.stack([whole if weights is None else weights for weights in found])
    return torch.from_numpy(stacked[:, None]).to(x0.device)
