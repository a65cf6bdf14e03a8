"""Buckets: the sizes to which pictures are resized and cropped, and which picture goes to which.

Axes: sizes are `[N, 2]`, height then width, in pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int, Integer

from tastemaker.records.size import Size

NO_BUCKET = -1

Assignment = Literal["cover", "nearest"]

# Rows at once, so that a million pictures do not need a matrix of a million rows.
_ROWS = 1 << 16

SDXL_BUCKETS: tuple[Size, ...] = tuple(
    Size(h, w)
    for h, w in (
        *((512, 2048), (512, 1984), (512, 1920), (512, 1856), (576, 1792), (576, 1728)),
        *((576, 1664), (640, 1600), (640, 1536), (704, 1472), (704, 1408), (704, 1344)),
        *((768, 1344), (768, 1280), (832, 1216), (832, 1152), (896, 1152), (896, 1088)),
        *((960, 1088), (960, 1024), (1024, 1024), (1024, 960), (1088, 960), (1088, 896)),
        *((1152, 896), (1152, 832), (1216, 832), (1280, 768), (1344, 768), (1344, 704)),
        *((1408, 704), (1472, 704), (1536, 640), (1600, 640), (1664, 576), (1728, 576)),
        *((1792, 576), (1856, 512), (1920, 512), (1984, 512), (2048, 512)),
    )
)
"""SDXL's 40 sizes (Podell et al. 2023, appendix I) and 1344x704, the mirror that their list lacks.

Height x width. Whoever reads the list as width x height gets the same 41 sizes.
"""


@dataclass(frozen=True)
class BucketRow:
    """One bucket with pictures.

    Attributes:
        bucket: its size.
        pictures: how many go there.
        full_batches: batches that they fill.
        leftover: pictures that do not fill another batch.
    """

    bucket: Size
    pictures: int
    full_batches: int
    leftover: int

    @property
    def smaller_than_a_batch(self) -> bool:
        """Whether the bucket does not fill one batch."""
        return self.full_batches == 0


@dataclass(frozen=True)
class BucketPreview:
    """Where some pictures would go.

    Attributes:
        rows: buckets that get pictures, from the widest to the tallest.
        batch: pictures in a batch.
        pictures: how many pictures there are.
        not_fitting: those without a bucket: they would need upscaling, or their size is unknown.
        upscaled: those with a bucket larger than themselves.
        kept_area: mean share of a picture's area that the crop leaves, 0..1; None without any.
        kept_area_p5: the share that 19 of 20 pictures have or exceed.
        megapixels: mean size of the pictures' buckets in 10^6 pixels.
    """

    rows: tuple[BucketRow, ...]
    batch: int
    pictures: int
    not_fitting: int
    upscaled: int
    kept_area: float | None
    kept_area_p5: float | None
    megapixels: float | None

    @property
    def small(self) -> tuple[BucketRow, ...]:
        """Buckets with fewer pictures than a batch."""
        return tuple(row for row in self.rows if row.smaller_than_a_batch)


def scaled_buckets(
    buckets: Sequence[Size], factor: int | float, multiple_px: int = 32
) -> tuple[Size, ...]:
    """A list for another resolution: 0.5 makes of SDXL's list one of about 512 px.

    Args:
        buckets: sizes for one resolution.
        factor: new side / old side.
        multiple_px: sides are rounded down to multiples of this; sizes that become equal are one.
            SDXL's autoencoder and UNet halve a side 5 times in all, which makes 32.

    Raises:
        ValueError: a side would vanish.
    """
    # A tiny surplus, so that 0.1 * 640 is 64 and not the multiple below.
    sides = [
        Size(*(int(side * factor / multiple_px + 1e-9) * multiple_px for side in bucket))
        for bucket in buckets
    ]
    if any(min(size) < 1 for size in sides):
        raise ValueError(f"a factor of {factor:g} leaves no multiple of {multiple_px} px")
    return tuple(dict.fromkeys(sides))


def largest_first(
    buckets: Sequence[Size],
) -> tuple[Int[np.ndarray, " K"], Float[np.ndarray, "K 2"]]:
    """Indices and sizes of buckets, so that of equally good ones the first is the largest.

    Raises:
        ValueError: there are none.
    """
    if not buckets:
        raise ValueError("no buckets to choose from")
    order = np.array(sorted(range(len(buckets)), key=lambda i: (-buckets[i].h * buckets[i].w, i)))
    return order, np.array(buckets, np.float64)[order]


def assign(
    sizes: Integer[np.ndarray, "N 2"],
    buckets: Sequence[Size],
    rule: Assignment = "cover",
    most_upscale: int | float = 1.0,
) -> Int[np.ndarray, " N"]:
    """The bucket of every picture: the one that keeps most of its area when cropped.

    A picture h x w is scaled by s = max(bh / h, bw / w) until it just covers the bucket bh x bw,
    and the rest is cut off. The share of its area that is kept is

        bh bw / (s^2 h w) = min(r / rb, rb / r),   r = h / w,  rb = bh / bw,

    so that the bucket is the one with the nearest ratio, tall and wide treated alike. Of equal
    ones the larger bucket is taken.

    Args:
        sizes: height and width; 0 where unknown.
        buckets: the sizes to choose from.
        rule: `cover` takes only buckets with s <= `most_upscale`, so that no picture is enlarged
            (bigASP); `nearest` takes any.
        most_upscale: how much `cover` may enlarge; 1 is not at all.

    Returns:
        Index of the bucket, or -1 where none is allowed.

    Raises:
        ValueError: there are no buckets.
    """
    order, table = largest_first(buckets)
    chosen = np.full(len(sizes), NO_BUCKET, np.int64)
    for begin in range(0, len(sizes), _ROWS):
        part = sizes[begin : begin + _ROWS].astype(np.float64)
        rows = np.flatnonzero((part > 0).all(axis=1))
        h, w = part[rows, :1], part[rows, 1:]
        relative = (h / w) / (table[:, 0] / table[:, 1])
        kept = np.minimum(relative, 1 / relative)
        if rule == "cover":
            fits = (table[:, 0] <= h * most_upscale) & (table[:, 1] <= w * most_upscale)
            kept = np.where(fits, kept, 0.0)
        best = kept.argmax(axis=1)
        allowed = kept[np.arange(len(rows)), best] > 0
        chosen[begin + rows[allowed]] = order[best[allowed]]
    return chosen


def kept_area(
    sizes: Integer[np.ndarray, "N 2"], targets: Integer[np.ndarray, "N 2"]
) -> Float[np.ndarray, " N"]:
    """Share of each picture's area that is left after the crop to its target; see `assign`."""
    relative = (sizes[:, 0] / sizes[:, 1]) / (targets[:, 0] / targets[:, 1])
    return np.minimum(relative, 1 / relative)


def bucket_preview(
    sizes: Integer[np.ndarray, "N 2"],
    buckets: Sequence[Size],
    batch: int,
    rule: Assignment = "cover",
    most_upscale: int | float = 1.0,
) -> BucketPreview:
    """How many pictures each bucket gets, and what does not fit; see `assign`.

    Raises:
        ValueError: there are no buckets, or the batch is not positive.
    """
    if batch < 1:
        raise ValueError(f"a batch of {batch}")
    chosen = assign(sizes, buckets, rule, most_upscale)
    fitting = chosen != NO_BUCKET
    targets = np.array(buckets, np.int64)[chosen[fitting]]
    counts = np.bincount(chosen[fitting], minlength=len(buckets))
    order = sorted(range(len(buckets)), key=lambda i: (buckets[i].h / buckets[i].w, buckets[i]))
    rows = tuple(
        BucketRow(buckets[i], int(counts[i]), *divmod(int(counts[i]), batch))
        for i in order
        if counts[i]
    )
    shares = kept_area(sizes[fitting], targets)
    some = len(shares) > 0
    return BucketPreview(
        rows,
        batch,
        len(sizes),
        int((~fitting).sum()),
        int((targets > sizes[fitting]).any(axis=1).sum()),
        float(shares.mean()) if some else None,
        float(np.quantile(shares, 0.05)) if some else None,
        float(targets.prod(axis=1).mean() / 1e6) if some else None,
    )
