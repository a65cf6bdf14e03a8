"""What the weightless columns cost beside decoding, and beside measuring them one by one.

    bare      Pillow: open, convert to RGB; nothing else
    loader    store.images.load_image on the same files
    pass      loader, then all fields of the operation `pixels`
    one_by_one   the same facts as common scripts find them: imagehash, OpenCV (numpy without it),
              each with its own decode
    shared    the same functions after one bare decode
    bucket    loader, then store.resize.resize_and_crop to a bucket of 1024x1024's area
    bare_bucket  bare, then Pillow's Lanczos and crop to the same size

Generated photographs (shapes, texture, grain) of 2 to 4 MP, JPEG of quality 90, in a temporary
folder. CPU time of one thread, random order in each round, medians of paired ratios.

Run: OMP_NUM_THREADS=1 python benchmarks/pixel_columns.py [--rounds 9] [--pictures 12]
"""

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import imagehash
import numpy as np
from PIL import Image

from tastemaker.records.size import Size
from tastemaker.scorers.operation import Subject
from tastemaker.scorers.pixel_facts import Pixels
from tastemaker.store.images import load_image
from tastemaker.store.resize import resize_and_crop

SIZES = ((1224, 1632), (1536, 2048), (1728, 2304), (2304, 1728))
BUCKETS = {True: Size(896, 1152), False: Size(1152, 896)}


def photograph(seed: int) -> Image.Image:
    """Colour fields at several scales, hard edges, fine texture and grain."""
    source = np.random.default_rng(seed)
    h, w = SIZES[seed % len(SIZES)]
    pixels = np.full((h, w, 3), 125, np.float32)
    for cells, strength in ((3, 55), (12, 25), (60, 15), (400, 9)):
        coarse = source.normal(0, strength, (cells, cells, 3)).astype(np.float32)
        for channel in range(3):
            layer = Image.fromarray(coarse[..., channel])
            pixels[..., channel] += np.asarray(layer.resize((w, h), Image.Resampling.BICUBIC))
    for _ in range(30):
        y, x = source.integers(0, h - 99), source.integers(0, w - 99)
        height, width = source.integers(20, 400, 2)
        pixels[y : y + height, x : x + width] += source.normal(0, 30, 3).astype(np.float32)
    pixels += source.normal(0, 4, (h, w, 1)).astype(np.float32)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def bare(path: Path) -> Image.Image:
    """What every script begins with."""
    return Image.open(path).convert("RGB")


def facts_one_by_one() -> dict[str, Callable[[Image.Image], object]]:
    """One function a fact, as one finds them in curation scripts."""
    grey = grey_levels()

    def fitted(image: Image.Image) -> Image.Image:
        image.thumbnail((512, 512))
        return image

    def entropy(image: Image.Image) -> float:
        counts = np.bincount(grey(np.asarray(fitted(image))).ravel(), minlength=256)
        shares = counts[counts > 0] / counts.sum()
        return float(-(shares * np.log2(shares)).sum())

    def colourfulness(image: Image.Image) -> float:
        r, g, b = np.moveaxis(np.asarray(fitted(image), np.float32), -1, 0)
        rg, yb = r - g, 0.5 * (r + g) - b
        return float(np.hypot(rg.std(), yb.std()) + 0.3 * np.hypot(rg.mean(), yb.mean()))

    def flat_share(image: Image.Image) -> float:
        coarse = (np.asarray(fitted(image)) >> 3).astype(np.int32)
        return np.bincount((coarse @ np.array([1024, 32, 1])).ravel()).max() / coarse.size

    def clipped(image: Image.Image) -> tuple[float, float]:
        level = grey(np.asarray(image))
        return float((level <= 4).mean()), float((level >= 251).mean())

    def borders(image: Image.Image) -> object:
        level = grey(np.asarray(image))
        return np.ptp(level, axis=1) <= 16, np.ptp(level, axis=0) <= 16

    return {
        "sharpness": lambda image: laplacian_variance(grey(np.asarray(fitted(image)))),
        "clipped": clipped,
        "entropy": entropy,
        "flat_share": flat_share,
        "colourfulness": colourfulness,
        "borders": borders,
        "phash": imagehash.phash,
        "phash_mirror": lambda image: imagehash.phash(
            image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        ),
        "colours": lambda image: image.resize((8, 8), Image.Resampling.BOX),
    }


def grey_levels() -> Callable[[np.ndarray], np.ndarray]:
    """Luminance by OpenCV, or by Pillow without it."""
    try:
        import cv2
    except ImportError:
        return lambda pixels: np.asarray(Image.fromarray(pixels).convert("L"))
    cv2.setNumThreads(1)
    return lambda pixels: cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)


def laplacian_variance(grey: np.ndarray) -> float:
    """By OpenCV, or by numpy without it."""
    try:
        import cv2
    except ImportError:
        level = grey.astype(np.float64)
        around = level[:-2, 1:-1] + level[2:, 1:-1] + level[1:-1, :-2] + level[1:-1, 2:]
        return float((around - 4 * level[1:-1, 1:-1]).var())
    return float(cv2.Laplacian(grey, cv2.CV_64F).var())


def bucket_of(size: tuple[int, int]) -> Size:
    """The bucket of a picture of (width, height)."""
    return BUCKETS[size[0] > size[1]]


def bare_bucket(path: Path) -> np.ndarray:
    """Decode, cover the bucket, crop the middle, with Pillow alone."""
    image = bare(path)
    target = bucket_of(image.size)
    scale = max(target.w / image.width, target.h / image.height)
    size = (max(target.w, round(image.width * scale)), max(target.h, round(image.height * scale)))
    image = image.resize(size, Image.Resampling.LANCZOS)
    left, top = (image.width - target.w) // 2, (image.height - target.h) // 2
    return np.asarray(image.crop((left, top, left + target.w, top + target.h)))


def works() -> dict[str, Callable[[Path], object]]:
    """What is done to each file."""
    measure, facts = Pixels().open({}, "cpu"), facts_one_by_one()

    def whole_pass(path: Path) -> object:
        return measure([Subject("", load_image(path).pixels)])

    def one_by_one(path: Path) -> object:
        return [fact(bare(path)) for fact in facts.values()]

    def shared(path: Path) -> object:
        image = bare(path)
        return [fact(image.copy()) for fact in facts.values()]

    def bucket(path: Path) -> object:
        pixels = load_image(path).pixels
        return resize_and_crop(pixels, bucket_of((pixels.shape[1], pixels.shape[0])))

    return {
        "bare": bare,
        "loader": load_image,
        "pass": whole_pass,
        "one_by_one": one_by_one,
        "shared": shared,
        "bucket": bucket,
        "bare_bucket": bare_bucket,
    }


def seconds(work: Callable[[Path], object], paths: Sequence[Path]) -> float:
    """CPU time of the process, not of the wall clock."""
    start = time.process_time()
    for path in paths:
        work(path)
    return time.process_time() - start


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--pictures", type=int, default=12)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{number}.jpg" for number in range(options.pictures)]
        for number, path in enumerate(paths):
            photograph(number).save(path, quality=90)
        megabytes = sum(path.stat().st_size for path in paths) / 1e6
        all_works = works()
        for work in all_works.values():
            work(paths[0])
        orders = [
            random.Random(number).sample(sorted(all_works), len(all_works))
            for number in range(options.rounds)
        ]
        rounds = [{name: seconds(all_works[name], paths) for name in order} for order in orders]
    medians = {name: statistics.median(one[name] for one in rounds) for name in all_works}
    result = {
        "pictures": len(paths),
        "megabytes": round(megabytes, 1),
        "rounds": options.rounds,
        "pictures_a_cpu_second": {
            name: round(len(paths) / value, 1) for name, value in medians.items()
        },
        "loader_over_bare": ratio(rounds, "loader", "bare"),
        "pass_over_loader": ratio(rounds, "pass", "loader"),
        "one_by_one_over_pass": ratio(rounds, "one_by_one", "pass"),
        "shared_over_pass": ratio(rounds, "shared", "pass"),
        "bucket_over_bare_bucket": ratio(rounds, "bucket", "bare_bucket"),
    }
    print(json.dumps(result, indent=2))


def ratio(rounds: Sequence[dict[str, float]], one: str, other: str) -> float:
    """Median of the ratios within each round."""
    return round(statistics.median(times[one] / times[other] for times in rounds), 3)


if __name__ == "__main__":
    main()
