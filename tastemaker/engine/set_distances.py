"""FID and KID of sets of generated pictures, with features that outlive a kill."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tastemaker.engine.picture_scores import labelled, scoring_device
from tastemaker.engine.progress import Progress
from tastemaker.models.locate import locate
from tastemaker.records.size import Size
from tastemaker.scorers.judge import FeatureModel
from tastemaker.scorers.lite0 import PREPROCESSING, Lite0
from tastemaker.scorers.set_distance import (
    LITE0,
    SetDistance,
    VisionFeatures,
    set_distance_lines,
)
from tastemaker.store.feature_cache import FeatureCache
from tastemaker.store.hashing import hash_file
from tastemaker.store.images import load_image
from tastemaker.store.resize import resize_and_crop
from tastemaker.store.rundir import StepDir


def open_encoder(config: SetDistance, device: str) -> FeatureModel:
    """The network whose features are compared.

    Raises:
        MissingModel: it is nowhere.
        MissingExtra: the packages of `lite0` are not installed.
    """
    if config.encoder == LITE0:
        return Lite0.load()
    place = locate(config.encoder, "vision")
    return VisionFeatures.load(place, labelled(config.encoder, place).label, device)


def pixels_at_side(file: Path, side_px: int) -> np.ndarray:
    """A whole picture, its longer side at `side_px`: uint8 `[H, W, 3]`.

    Real pictures are sharper than generated ones; at one size that is no clue.
    """
    pixels = load_image(file).pixels
    height, width = pixels.shape[:2]
    scale = side_px / max(height, width)
    target = Size(max(1, round(height * scale)), max(1, round(width * scale)))
    return resize_and_crop(pixels, target)[0]


def measure_sets(
    config: SetDistance,
    real: Mapping[str, Path],
    shown: Mapping[str, Sequence[Path]],
    step: StepDir,
    *,
    seed: int,
) -> tuple[list[dict[str, Any]], list[str]]:
    """Lines and notes of `set_distance_lines`.

    Args:
        config: what is wanted.
        real: id of a real picture -> its file.
        shown: model -> files of its pictures, all of one size.
        step: where features are kept; also for progress.
        seed: of the subsets.
    """
    if not real:
        return [], ["No real pictures were given, so no distance of sets was measured."]
    model = open_encoder(config, scoring_device())
    side_px = max(load_image(next(iter(shown.values()))[0]).pixels.shape[:2])
    # The judge's features of the same pictures are there already.
    cache = FeatureCache(step.path / "features", f"{model.backbone} {PREPROCESSING} {side_px}")
    total = len(real) + sum(len(files) for files in shown.values())
    with Progress(step, total, "pictures", f"{step.name}: distance of sets") as progress:
        rows = cache.get(
            list(real),
            lambda keys: model.features([pixels_at_side(real[key], side_px) for key in keys]),
            progress.advance,
        )
        features = {}
        for name, files in shown.items():
            by_hash = {hash_file(file): file for file in files}
            features[name] = cache.get(
                [hash_file(file) for file in files],
                lambda keys, by_hash=by_hash: model.features(
                    [load_image(by_hash[key]).pixels for key in keys]
                ),
                progress.advance,
            )
    return set_distance_lines(config, model, rows, features, seed=seed)
