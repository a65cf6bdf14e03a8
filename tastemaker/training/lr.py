"""The learning rate's course over a run, counted in images, not in steps or micro-batches."""

import math
from collections.abc import Callable
from typing import Literal

from pydantic import Field

from tastemaker.records.config import Config

LrAt = Callable[[int], float]
"""Images seen before the step -> factor on every part's own learning rate."""


class LrCourse(Config):
    """How the learning rate rises and falls."""

    shape: Literal["constant", "cosine", "linear"] = "constant"
    """After the warm-up: stay at 1, or fall to `end` along half a cosine or a line. Ours."""
    warmup_images: int = Field(default=0, ge=0)
    """Rise from 0 to 1 on a line over so many images. Chosen by us."""
    end: float = Field(default=0.0, ge=0.0, le=1.0)
    """Factor at the last image, for `cosine` and `linear`. Chosen by us."""


def lr_course(course: LrCourse, images_total: int) -> LrAt:
    """The factor as a pure function of the images seen.

    With w warm-up images, N in all and n seen, p = clip((n - w) / (N - w), 0, 1):

        n < w    n / w constant 1 linear   1 - (1 - end) p cosine   end + (1 - end) (1 + cos(pi p))
        / 2        Loshchilov & Hutter 2017, eq. 5, one period

    At n >= N the factor is exactly `end` (cosine and linear). The n of a step are the images
    before it: with a warm-up the first step has factor 0, as in diffusers' schedules.
    """
    warmup = course.warmup_images

    def factor(images: int) -> float:
        if images < warmup:
            return images / warmup
        if course.shape == "constant":
            return 1.0
        if images >= images_total:
            return course.end
        p = (images - warmup) / (images_total - warmup)
        fall = p if course.shape == "linear" else (1 - math.cos(math.pi * p)) / 2
        return 1.0 - (1.0 - course.end) * fall

    return factor
