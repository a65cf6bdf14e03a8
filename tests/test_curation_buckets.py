"""Buckets: the list rebuilt from its rule, each assignment against a loop, and the preview."""

import json
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tastemaker.curation.buckets import (
    SDXL_BUCKETS,
    assign,
    bucket_preview,
    kept_area,
    scaled_buckets,
)
from tastemaker.records.size import Size

SIDES = st.integers(300, 4000) | st.sampled_from([512, 704, 960, 1024, 1088, 1344, 2048])


def published(assets, name: str) -> set[Size]:
    path = assets / "PixArt-alpha__PixArt-alpha" / "aspect_ratio_tables.json"
    return {Size(*size) for size in json.loads(path.read_text())["tables"][name].values()}


def test_the_list_follows_its_rule():
    """Multiples of 64 in 512..2048, 946,176 to 1,048,576 pixels: for each ratio, and 41 in all."""
    sides = range(512, 2049, 64)
    ruled = {Size(h, w) for h in sides for w in sides if 946_176 <= h * w <= 1_048_576}
    assert set(SDXL_BUCKETS) == ruled
    assert len(SDXL_BUCKETS) == 41
    assert {Size(size.w, size.h) for size in SDXL_BUCKETS} == ruled
    ratios = [Fraction(size.h, size.w) for size in SDXL_BUCKETS]
    assert ratios == sorted(ratios)


def test_the_list_is_the_published_one_and_its_missing_mirror(assets):
    assert set(SDXL_BUCKETS) - published(assets, "ASPECT_RATIO_1024") == {Size(1344, 704)}
    assert published(assets, "ASPECT_RATIO_1024") < set(SDXL_BUCKETS)


def test_half_of_the_list_is_the_published_one_for_512(assets):
    half = set(scaled_buckets(SDXL_BUCKETS, 0.5))
    assert half - {Size(672, 352)} == published(assets, "ASPECT_RATIO_512")
    assert set(scaled_buckets(scaled_buckets(SDXL_BUCKETS, 0.5), 2)) == set(SDXL_BUCKETS)


def test_scaled_lists_have_sides_that_a_model_takes():
    smaller = scaled_buckets(SDXL_BUCKETS, 0.75)
    assert all(side % 32 == 0 for size in smaller for side in size)
    assert Size(768, 768) in smaller
    assert all(s.h <= 0.75 * 2048 for s in smaller)
    tiny = scaled_buckets(SDXL_BUCKETS, 1 / 16, multiple_px=8)
    assert Size(64, 64) in tiny
    assert len(tiny) == len(set(tiny)) < 41
    assert scaled_buckets([Size(640, 640)], 0.1, 64) == (Size(64, 64),)
    with pytest.raises(ValueError, match="leaves no multiple of 32"):
        scaled_buckets(SDXL_BUCKETS, 0.05)


@given(st.lists(st.tuples(SIDES, SIDES), min_size=1, max_size=5), st.sampled_from([1.0, 1.1]))
def test_cover_against_a_loop(sizes, most_upscale):
    """The largest kept area among buckets that the picture covers, in exact fractions."""
    chosen = assign(np.array(sizes), SDXL_BUCKETS, "cover", most_upscale)
    for (h, w), index in zip(sizes, chosen.tolist(), strict=True):
        kept = {}
        for number, bucket in enumerate(SDXL_BUCKETS):
            scale = max(Fraction(bucket.h, h), Fraction(bucket.w, w))
            if scale <= most_upscale:
                kept[number] = Fraction(bucket.h * bucket.w) / (scale * scale * h * w)
        if not kept:
            assert index == -1
        else:
            assert float(kept[index]) == pytest.approx(float(max(kept.values())), rel=1e-12)
            target = np.array([SDXL_BUCKETS[index]])
            assert kept_area(np.array([(h, w)]), target)[0] == pytest.approx(float(kept[index]))


@given(SIDES, SIDES)
def test_nearest_is_the_nearest_ratio_and_mirrors_with_the_picture(h, w):
    index, mirrored = assign(np.array([(h, w), (w, h)]), SDXL_BUCKETS, "nearest").tolist()
    distance = [abs(math.log(h / w) - math.log(b.h / b.w)) for b in SDXL_BUCKETS]
    assert distance[index] == pytest.approx(min(distance), abs=1e-12)
    turned = Size(SDXL_BUCKETS[mirrored].w, SDXL_BUCKETS[mirrored].h)
    other = abs(math.log(h / w) - math.log(turned.h / turned.w))
    assert other == pytest.approx(distance[index], abs=1e-12)


def chosen(size: tuple[int, int], rule: str = "cover", **options) -> Size | None:
    index = int(assign(np.array([size]), SDXL_BUCKETS, rule, **options)[0])  # type: ignore[arg-type]
    return None if index < 0 else SDXL_BUCKETS[index]


def test_known_assignments():
    # Barely too small for the square: the two rules differ.
    assert chosen((1024, 1000)) == Size(1024, 960)
    assert chosen((1024, 1000), "nearest") == Size(1024, 1024)
    assert chosen((1024, 1000), most_upscale=1.1) == Size(1024, 1024)
    # Tall is not wide.
    assert chosen((2048, 512)) == Size(2048, 512)
    assert chosen((512, 2048)) == Size(512, 2048)
    assert chosen((3000, 2000)) == Size(1216, 832)
    assert chosen((600, 600)) is None
    assert chosen((600, 600), "nearest") == Size(1024, 1024)
    for size in SDXL_BUCKETS:
        assert chosen(size) == size == chosen(size, "nearest")
        assert chosen((size.h - 1, size.w)) != size
    # A size that nobody knows.
    assert chosen((0, 2000)) is None
    assert chosen((0, 0), "nearest") is None
    # Equal ratios: the larger one.
    both = (*scaled_buckets(SDXL_BUCKETS, 0.5), *SDXL_BUCKETS)
    assert [both[i] for i in assign(np.array([(1024, 1024), (1023, 1023)]), both)] == [
        Size(1024, 1024), Size(512, 512),
    ]  # fmt: skip
    with pytest.raises(ValueError, match="no buckets"):
        assign(np.array([(1, 1)]), [])


def test_more_rows_than_one_part_give_the_same():
    sizes = np.random.default_rng(0).integers(400, 3000, (70_000, 2))
    whole = assign(sizes, SDXL_BUCKETS)
    places = [0, 65_535, 65_536, 69_999]
    assert whole[places].tolist() == assign(sizes[places], SDXL_BUCKETS).tolist()


def test_preview_counts_every_picture():
    sizes = np.array([(1024, 1024)] * 9 + [(1100, 1024)] * 4 + [(2048, 512)] + [(300, 300), (0, 0)])
    preview = bucket_preview(sizes, SDXL_BUCKETS, batch=4)
    assert [(row.bucket, row.pictures, row.full_batches, row.leftover) for row in preview.rows] == [
        (Size(1024, 1024), 9, 2, 1), (Size(1024, 960), 4, 1, 0), (Size(2048, 512), 1, 0, 1),
    ]  # fmt: skip
    assert [row.bucket for row in preview.small] == [Size(2048, 512)]
    assert (preview.pictures, preview.not_fitting, preview.upscaled) == (16, 2, 0)
    share = (1100 / 1024) ** -1 * (1024 / 960)
    assert preview.kept_area == pytest.approx((10 + 4 * share) / 14)
    nearest = bucket_preview(sizes, SDXL_BUCKETS, 4, "nearest")
    assert (nearest.not_fitting, nearest.upscaled) == (1, 1)
    nothing = bucket_preview(np.zeros((3, 2), np.int64), SDXL_BUCKETS, 4)
    assert (nothing.rows, nothing.not_fitting, nothing.kept_area) == ((), 3, None)
    with pytest.raises(ValueError, match="a batch of 0"):
        bucket_preview(sizes, SDXL_BUCKETS, 0)


def test_the_shape_of_the_measured_figures():
    """Photo ratios at a median of 1.6 megapixels; field figures 21.7 % dropped, 0.978 kept."""
    generator = np.random.default_rng(0)
    ratios = generator.choice(
        [1.0, 3 / 4, 2 / 3, 9 / 16, 4 / 5], 20_000, p=[0.1, 0.3, 0.35, 0.15, 0.1]
    )
    ratios = ratios * np.exp(generator.normal(0, 0.03, 20_000))
    turned = generator.random(20_000) < 0.4
    pixels = 1.6e6 * np.exp(generator.normal(0, 0.7, 20_000))
    h, w = np.sqrt(pixels * ratios), np.sqrt(pixels / ratios)
    sizes = np.stack([np.where(turned, w, h), np.where(turned, h, w)], 1).round().astype(np.int64)
    cover = bucket_preview(sizes, SDXL_BUCKETS, 64)
    nearest = bucket_preview(sizes, SDXL_BUCKETS, 64, "nearest")
    assert cover.upscaled == nearest.not_fitting == 0
    # Whom the one drops the other enlarges, and a few more, who cover a bucket of another ratio.
    assert 0 < nearest.upscaled - cover.not_fitting < 0.03 * len(sizes)
    assert 0.15 < cover.not_fitting / len(sizes) < 0.35
    for preview in (cover, nearest):
        assert preview.kept_area == pytest.approx(0.978, abs=0.01)
        assert preview.kept_area_p5 == pytest.approx(0.962, abs=0.015)
        assert preview.megapixels == pytest.approx(0.97 * 1.048576, abs=0.02)
    both = assign(sizes, SDXL_BUCKETS)
    fits = both != -1
    same = (both == assign(sizes, SDXL_BUCKETS, "nearest"))[fits].mean()
    assert same == pytest.approx(0.987, abs=0.01)
