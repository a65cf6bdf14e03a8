"""Sizes in pixels, always height first."""

from dataclasses import dataclass
from typing import NamedTuple


class Size(NamedTuple):
    """Height and width in pixels. A bare tuple is never used for a size."""

    h: int
    w: int

    def __str__(self) -> str:
        """Write as `HxW`, height first."""
        return f"{self.h}x{self.w}"


@dataclass(frozen=True)
class ImageSizes:
    """What SDXL's micro-conditioning needs to know of one picture.

    Source: Podell et al. 2023, section 2.2.

    Attributes:
        original: size before any resize, after the EXIF orientation.
        crop_top: pixels cut at the top of the resized picture.
        crop_left: pixels cut at the left of the resized picture.
        target: size of the crop, the bucket.
    """

    original: Size
    crop_top: int
    crop_left: int
    target: Size

    def time_ids(self) -> tuple[int, int, int, int, int, int]:
        """The six numbers in SDXL's order: original h, w, crop top, left, target h, w."""
        return (
            *(self.original.h, self.original.w, self.crop_top, self.crop_left),
            *(self.target.h, self.target.w),
        )


def covering_size(original: Size, target: Size) -> Size:
    """The smallest size with the picture's aspect ratio that covers `target`: what is then cropped.

    Raises:
        ValueError: a size is not positive.
    """
    if min(*original, *target) < 1:
        raise ValueError(f"cannot resize {original} to {target}")
    scale = max(target.h / original.h, target.w / original.w)
    return Size(max(target.h, round(original.h * scale)), max(target.w, round(original.w * scale)))
