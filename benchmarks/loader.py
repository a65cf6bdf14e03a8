"""What the picture loader costs over bare Pillow: CPU time, one thread, median of paired ratios.

The same generated photographs, each from its file, interleaved in one process:

    bare         Image.open(path).convert("RGB"), load(): what a loop by hand does
    bare_array   the same and numpy.array: what a loop needs that measures pixels
    check        tastemaker.store.images.check_picture: `collect`, decodes and forgets
    load         tastemaker.store.images.load_image: an upright RGB array

Run: OMP_NUM_THREADS=1 python benchmarks/loader.py [--rounds 15] [--pictures 4] [--folder DIR]
The spread of bare against bare tells how far the ratios can be trusted.
"""

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

from tastemaker.store.images import check_picture, load_image

SIZES = ((1080, 1920), (1536, 2048), (2048, 1536), (1632, 2448))
"""Height and width, 2 to 4 megapixels."""


def photo(height: int, width: int, seed: int) -> Image.Image:
    """Structure at all scales and grain, so that codecs have as much to do as with a photograph."""
    generator = np.random.default_rng(seed)
    sheet = generator.normal(0, 5, (height, width, 1)) + np.full((height, width, 3), 128.0)
    for step, strength in ((256, 140), (64, 60), (16, 40), (4, 24)):
        small = generator.integers(0, 256, (height // step + 2, width // step + 2, 3), np.uint8)
        large = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
        sheet += (np.asarray(large, np.float64) / 255 - 0.5) * strength
    return Image.fromarray(np.clip(sheet, 0, 255).astype(np.uint8))


def written(folder: Path, count: int) -> dict[str, list[Path]]:
    """The same photographs in each format."""
    options = {"jpg": {"quality": 90}, "png": {"compress_level": 4}, "webp": {"quality": 90}}
    files: dict[str, list[Path]] = {suffix: [] for suffix in options}
    for number in range(count):
        image = photo(*SIZES[number % len(SIZES)], seed=number)
        for suffix, how in options.items():
            path = folder / f"{number}.{suffix}"
            image.save(path, **how)
            files[suffix].append(path)
    return files


def bare(path: Path) -> Image.Image:
    """A loop as one would write it by hand."""
    image = Image.open(path).convert("RGB")
    image.load()
    return image


WAYS: dict[str, Callable[[Path], object]] = {
    "bare": bare,
    "bare_again": bare,
    "bare_array": lambda path: np.array(bare(path)),
    "check": check_picture,
    "load": load_image,
}


def seconds(work: Callable[[Path], object], paths: list[Path]) -> float:
    """CPU time of the process, not of the wall clock."""
    start = time.process_time()
    for path in paths:
        work(path)
    return time.process_time() - start


def measured(paths: list[Path], rounds: int) -> dict[str, object]:
    """Time a picture, and ratios to the bare loops of the same round."""
    for work in WAYS.values():
        seconds(work, paths)
    # A new order in every round, since each way leaves the caches in its own state.
    orders = [random.Random(r).sample(sorted(WAYS), len(WAYS)) for r in range(rounds)]
    found = [{name: seconds(WAYS[name], paths) for name in order} for order in orders]
    base = [(one["bare"] + one["bare_again"]) / 2 for one in found]
    pairs = {
        "bare_over_bare": [one["bare"] / one["bare_again"] for one in found],
        "check_over_bare": [one["check"] / b for one, b in zip(found, base, strict=True)],
        "load_over_bare": [one["load"] / b for one, b in zip(found, base, strict=True)],
        "load_over_bare_array": [one["load"] / one["bare_array"] for one in found],
    }
    return {
        "kilobytes": round(statistics.mean(path.stat().st_size for path in paths) / 1000),
        "bare_ms_a_picture": round(1000 * statistics.median(base) / len(paths), 2),
        **{name: summary(ratios) for name, ratios in pairs.items()},
    }


def summary(ratios: list[float]) -> dict[str, float]:
    """Median and quartiles."""
    low, middle, high = statistics.quantiles(ratios, n=4)
    return {"median": round(middle, 3), "quartile_1": round(low, 3), "quartile_3": round(high, 3)}


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--pictures", type=int, default=4)
    parser.add_argument("--folder", type=Path, help="where the pictures are kept; else temporary")
    options = parser.parse_args()
    with TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        files = written(folder, options.pictures)
        result = {suffix: measured(paths, options.rounds) for suffix, paths in files.items()}
    print(json.dumps({"rounds": options.rounds, **result}, indent=2))  # noqa: T201


if __name__ == "__main__":
    main()
