"""FID and KID of generated pictures: how far they are as a set from real ones.

Axes: pictures are uint8 `[H, W, 3]`; features are `[N, D]`.
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from tastemaker.records.config import Config
from tastemaker.scorers.judge import FeatureModel
from tastemaker.scorers.vision_text import VisionText
from tastemaker.stats.feature_distance import (
    SUBSET_SIZE,
    SUBSETS,
    frechet_distance,
    kernel_distance,
)

LITE0 = "lite0"


class SetDistance(Config):
    """Distance of all generated pictures to all real ones, by the features of one network.

    The numbers are not those of papers, which take features of an Inception network: they compare
    models of one run only, and only for as many pictures.
    """

    encoder: str = LITE0
    """The network: `lite0`, the independent judge's (ours: it was tuned for no text and no taste),
    or a transformers folder or hub id of a CLIP or SigLIP; of these the unit vectors are taken."""
    fid: bool = True
    """Whether the Frechet distance is wanted too. It needs more pictures in either set than a
    feature has numbers (1,280 for `lite0`) and is biased for all but very many; with fewer it is
    left out with a note."""
    subsets: int = Field(default=SUBSETS, ge=2)
    """Random subsets of the kernel distance (Binkowski et al. 2018)."""
    subset_size: int = Field(default=SUBSET_SIZE, ge=2)
    """Pictures in each; at most half of the smaller set (ours)."""


class VisionFeatures:
    """A CLIP or SigLIP as a `FeatureModel`.

    Args:
        embedder: the picture network.
        backbone: its name and hash.
    """

    def __init__(self, embedder: VisionText, backbone: str) -> None:
        self._embedder = embedder
        self.backbone = f"{backbone} {embedder.architecture.picture_input.hash}"

    @classmethod
    def load(cls, place: Path, label: str, device: str) -> "VisionFeatures":
        """From a transformers folder."""
        return cls(VisionText.load(place, device=device, part="pictures"), label)

    def features(self, pictures: Any) -> np.ndarray:
        """Unit vectors, float32 `[B, D]`."""
        return self._embedder.embed(pictures)


def set_distance_lines(
    config: SetDistance,
    model: FeatureModel,
    real: np.ndarray,
    shown: Mapping[str, np.ndarray],
    *,
    seed: int,
) -> tuple[list[dict[str, Any]], list[str]]:
    """Lines ready for JSON, and notes of what could not be had.

    Each line has `name` (`kid`, `fid`), `unit`, `higher_is_better`, `backbone`, `real` (pictures)
    and `models`: name -> `value`, `pictures` and, for `kid`, `std`, `subsets`, `subset_size`.

    Args:
        config: what is wanted.
        model: the network that the features are of.
        real: features of real pictures.
        shown: model -> features of its pictures.
        seed: of the subsets.
    """
    head = {"higher_is_better": False, "backbone": model.backbone, "real": len(real)}
    lines: list[dict[str, Any]] = []
    notes: list[str] = []
    kernel: dict[str, Any] = {}
    frechet: dict[str, Any] = {}
    for name, features in shown.items():
        try:
            found = asdict(
                kernel_distance(
                    real,
                    features,
                    subsets=config.subsets,
                    subset_size=config.subset_size,
                    seed=seed,
                )
            )
            kernel[name] = {"value": found.pop("mean"), **found, "pictures": len(features)}
        except ValueError as error:
            notes.append(f"No kernel distance of {name}: {error}.")
        if not config.fid:
            continue
        try:
            value = frechet_distance(real, features)
            frechet[name] = {"value": value, "pictures": len(features)}
        except ValueError as error:
            notes.append(f"No Frechet distance of {name}: {error}.")
    for label, models in (("kid", kernel), ("fid", frechet)):
        if models:
            lines.append({"name": label, "unit": "squared distance", **head, "models": models})
    return lines, notes
