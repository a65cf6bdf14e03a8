"""The judges of generated pictures: what they are fitted on, and features that outlive a kill."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tastemaker.engine.progress import Progress
from tastemaker.engine.set_distances import pixels_at_side
from tastemaker.records.generation import Prompt
from tastemaker.records.image import ImageRecord
from tastemaker.scorers.drawings import choose_drawings
from tastemaker.scorers.lite0 import PREPROCESSING, Lite0
from tastemaker.scorers.panel import (
    Opinion,
    Shown,
    judge_concept,
    judge_style,
    measure_distance,
)
from tastemaker.store.catalogue import Catalogue
from tastemaker.store.feature_cache import FeatureCache
from tastemaker.store.hashing import hash_file
from tastemaker.store.images import load_image
from tastemaker.store.rundir import StepDir
from tastemaker.store.samples import SampleSet
from tastemaker.store.selections import read_selection


@dataclass(frozen=True)
class RealPictures:
    """The pictures of a collection.

    Attributes:
        collection: its folder.
        records: id -> record, of those that can be used.
        tuned: ids of the pictures that were trained on.
    """

    collection: Path
    records: Mapping[str, ImageRecord]
    tuned: Sequence[str]

    def path(self, picture_id: str) -> Path:
        """Where a picture lies."""
        return Catalogue(self.collection).picture_path(self.records[picture_id])

    def captions(self) -> set[str]:
        """The captions of the pictures that were trained on."""
        return {caption for i in self.tuned for caption in self.records[i].captions}


def read_real(collection: Path, selection: Path | None) -> RealPictures:
    """The usable pictures of a collection, and which of them a selection has (all without one)."""
    found = Catalogue(collection).records()
    records = {record.id: record for record in found if record.status == "ok"}
    if selection is None:
        return RealPictures(collection, records, sorted(records))
    return RealPictures(
        collection, records, [i for i in read_selection(selection).ids if i in records]
    )


@dataclass(frozen=True)
class Judging:
    """What the judges look at.

    Attributes:
        style: the style that was taught, or `@attribute`; None judges no style.
        style_attribute: of real pictures: their style.
        concept_attribute: of real pictures and prompts: what is shown.
        others: most concepts besides the evaluated ones.
        level: confidence of the judges' accuracy.
        seed: of the other concepts that a judge ranks against.
    """

    style: str | None
    style_attribute: str
    concept_attribute: str
    others: int
    level: float
    seed: int


def judge_pictures(
    judging: Judging,
    real: RealPictures,
    prompts: Sequence[Prompt],
    sets: Mapping[str, SampleSet],
    step: StepDir,
) -> dict[str, Opinion]:
    """Opinions of all judges that can have one, best evidence first.

    Args:
        judging: what they look at.
        real: real pictures.
        prompts: the prompts of the pictures.
        sets: side -> its pictures.
        step: where features are kept; also for progress.

    Raises:
        MissingExtra: the packages of the network are not installed.
        InputError: the style is none of the collection's.
    """
    drawings = choose_drawings(
        real.records.values(),
        {concept for p in prompts if (concept := p.attribute(judging.concept_attribute))},
        concept_attribute=judging.concept_attribute,
        style_attribute=judging.style_attribute,
        others=judging.others,
    )
    lite0 = Lite0.load()
    ids = sorted({d.record.id for d in drawings} | set(real.tuned))
    features, shown = _features(lite0, real, ids, prompts, sets, step)
    row = {i: n for n, i in enumerate(ids)}
    of_drawings = features[[row[d.record.id] for d in drawings]]
    common: dict[str, Any] = {
        "concept_attribute": judging.concept_attribute,
        "level": judging.level,
    }
    opinions = {}
    if judging.style:
        opinions["style"] = judge_style(
            lite0, drawings, of_drawings, shown, judging.style, **common
        )
    opinions["concept"] = judge_concept(
        lite0, drawings, of_drawings, shown, seed=judging.seed, **common
    )
    if real.tuned:
        own = features[[row[i] for i in real.tuned]]
        opinions["distance"] = measure_distance(lite0, own, shown)
    return opinions


def _features(
    lite0: Lite0,
    real: RealPictures,
    ids: Sequence[str],
    prompts: Sequence[Prompt],
    sets: Mapping[str, SampleSet],
    step: StepDir,
) -> tuple[np.ndarray, dict[str, Shown]]:
    """Features of real pictures at the size of the generated ones, and of these, by side."""
    by_id = {prompt.id: prompt for prompt in prompts}
    first = next(iter(sets.values()))
    side_px = max(load_image(first.path(first.samples[0])).pixels.shape[:2])
    cache = FeatureCache(step.path / "features", f"{lite0.backbone} {PREPROCESSING} {side_px}")

    def of_real(some: Sequence[str]) -> np.ndarray:
        return lite0.features([pixels_at_side(real.path(i), side_px) for i in some])

    total = len(ids) + sum(len(found.samples) for found in sets.values())
    with Progress(step, total, "pictures", step.name) as progress:
        rows = cache.get(list(ids), of_real, progress.advance)
        shown = {}
        for name, found in sets.items():
            files = {hash_file(path): path for s in found.samples if (path := found.path(s))}

            def of_files(keys: Sequence[str], files: Mapping[str, Path] = files) -> np.ndarray:
                return lite0.features([load_image(files[key]).pixels for key in keys])

            keys = [hash_file(found.path(s)) for s in found.samples]
            features = cache.get(keys, of_files, progress.advance)
            shown[name] = Shown(tuple(by_id[s.prompt_id] for s in found.samples), features)
    return rows, shown
