"""Score sets of generated pictures with the scorers that a recipe names, and go on after a kill."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from pathlib import Path

import numpy as np

from tastemaker.engine.progress import Progress
from tastemaker.errors import InputError
from tastemaker.models.locate import locate
from tastemaker.records.finding import Finding
from tastemaker.scorers.figures import Scored
from tastemaker.scorers.match_scorers import open_match
from tastemaker.scorers.protocol import Origin, Scorer
from tastemaker.scorers.scoring import Found, ReadsTexts, Scoring
from tastemaker.scorers.selftest import Check, check_comparison, check_scorer
from tastemaker.store.feature_cache import FeatureCache
from tastemaker.store.hashing import hash_file, hash_model
from tastemaker.store.images import load_image
from tastemaker.store.rundir import StepDir


@dataclass(frozen=True)
class Asked:
    """Pictures of one model and the prompts that they were made from.

    Attributes:
        files: one for each picture.
        texts: its prompt.
    """

    files: Sequence[Path]
    texts: Sequence[str]


def find_scorer(scoring: Scoring) -> dict[str, Path]:
    """Field of a scoring -> where the model that it names lies.

    Raises:
        MissingModel: it is nowhere.
    """
    return {
        field: locate(str(getattr(scoring, field)), kind)  # type: ignore[arg-type]
        for field, kind in scoring.models.items()
    }


def missing_models(scorings: Sequence[Scoring]) -> list[Finding]:
    """What of the scorers' models is nowhere."""
    findings = []
    for scoring in scorings:
        try:
            find_scorer(scoring)
        except InputError as error:
            where = f"scorer {scoring.column}: {error.where}"
            problem = f"got {error.got}; expected {error.expected}"
            findings.append(Finding(where, problem, error.todo))
    return findings


def labelled(reference: str, path: Path) -> Found:
    """A model with the name that results show: no place of this machine, and its hash."""
    given = Path(reference)
    name = given.name if given.exists() else reference
    return Found(path, f"{name}@{hash_model(path)[:12]}")


def open_scorer(scoring: Scoring, device: str) -> Scorer:
    """Find a scorer's models and load them.

    Raises:
        MissingModel: one is nowhere.
        InputError: one is not of the right kind.
    """
    places = find_scorer(scoring)
    models = {field: labelled(getattr(scoring, field), path) for field, path in places.items()}
    return scoring.open(models, device)


def score_all(
    scorings: Sequence[Scoring],
    first: Found | None,
    asked: Mapping[str, Asked],
    step: StepDir,
) -> tuple[list[Scored], list[str]]:
    """Values of all scorers, and what a reader must know of them, whole sentences.

    One model at a time is in memory: several large ones do not fit into one accelerator.

    Args:
        scorings: the scorers.
        first: the CLIP or SigLIP behind `image_text`, which goes before them.
        asked: model -> its pictures.
        step: where values are kept; also for progress.

    Raises:
        MissingModel: a scorer's model is nowhere.
        InputError: a model is not of the right kind, or a value is not finite.
        PictureError: a picture cannot be read.
    """
    device, scored, notes = scoring_device(), [], []
    opened: list[Callable[[], Scorer]] = []
    if first is not None:
        opened.append(partial(open_match, first, "image_text", device))
    opened += [partial(open_scorer, scoring, device) for scoring in scorings]
    for open_next in opened:
        values, told = score_pictures(open_next(), asked, step)
        scored.append(values)
        notes += told
    return scored, notes


def try_scorers(scorings: Sequence[Scoring], image_text: str | None) -> Iterator[Check]:
    """Every check of every scorer, and of what is done with their values.

    Args:
        scorings: the scorers.
        image_text: the model behind `image_text`, if that is measured.

    Raises:
        MissingModel: a scorer's model is nowhere.
        InputError: a model is not of the right kind.
    """
    for scoring in scorings:
        find_scorer(scoring)
    yield from check_comparison()
    device = scoring_device()
    if image_text is not None:
        model = labelled(image_text, locate(image_text, "vision"))
        yield from check_scorer(open_match(model, "image_text", device))
    for scoring in scorings:
        yield from check_scorer(open_scorer(scoring, device))


def scoring_device() -> str:
    """The first accelerator, or the CPU."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def score_pictures(
    scorer: Scorer, asked: Mapping[str, Asked], step: StepDir
) -> tuple[Scored, list[str]]:
    """The values of all pictures, and what a reader must know of them, whole sentences.

    Finished values lie in the step's folder, so that a killed evaluation goes on.

    Args:
        scorer: the scorer.
        asked: model -> its pictures.
        step: where values are kept; also for progress.

    Raises:
        PictureError: a picture cannot be read.
        InputError: a value is not finite.
    """
    tag = " ".join(
        (scorer.name, scorer.version, scorer.unit, scorer.backbone, scorer.preprocessing)
    )
    cache = FeatureCache(step.path / "scored", tag)
    total = sum(len(one.files) for one in asked.values())
    values = {}
    with Progress(step, total, "pictures", scorer.name) as progress:
        for model, one in asked.items():
            keys = [
                f"{hash_file(file)} {blake2b(text.encode(), digest_size=16).hexdigest()}"
                for file, text in zip(one.files, one.texts, strict=True)
            ]
            by_key = dict(zip(keys, zip(one.files, one.texts, strict=True), strict=True))

            def compute(some: Sequence[str], by_key: dict = by_key) -> np.ndarray:
                pictures = [load_image(by_key[key][0]).pixels for key in some]
                return scorer.score(pictures, [by_key[key][1] for key in some])[:, None]

            values[model] = cache.get(keys, compute, progress.advance)[:, 0].astype(np.float64)
    return Scored(Origin.of(scorer), values), _notes(scorer, asked)


def _notes(scorer: Scorer, asked: Mapping[str, Asked]) -> list[str]:
    if not isinstance(scorer, ReadsTexts):
        return []
    texts = sorted({text for one in asked.values() for text in one.texts})
    cut = sum(scorer.truncated(texts))
    if not cut:
        return []
    return [
        f"{scorer.name} reads {scorer.window} tokens: the ends of {cut} of {len(texts)} prompts "
        "were not looked at."
    ]
