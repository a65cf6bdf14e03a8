"""The judges at work: fitted and tested on real drawings, then asked about generated pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from tastemaker.errors import InputError
from tastemaker.records.generation import Prompt
from tastemaker.scorers.drawings import Drawing, free_of
from tastemaker.scorers.figures import Scored
from tastemaker.scorers.judge import ConceptJudge, FeatureModel, StyleJudge
from tastemaker.scorers.likeness import Likeness
from tastemaker.stats.winrate import wilson


@dataclass(frozen=True)
class Shown:
    """The pictures of one model.

    Attributes:
        prompts: the prompt of each picture.
        features: `[N, D]`.
    """

    prompts: tuple[Prompt, ...]
    features: np.ndarray


@dataclass(frozen=True)
class Opinion:
    """What one judge says.

    Attributes:
        scored: its values, None when it could not judge.
        trust: how often it is right on real drawings, and what that rests on.
        notes: what a reader must know, whole sentences.
    """

    scored: Scored | None = None
    trust: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def judge_style(
    model: FeatureModel,
    drawings: Sequence[Drawing],
    real: np.ndarray,
    shown: Mapping[str, Shown],
    wanted: str,
    *,
    concept_attribute: str,
    level: float,
) -> Opinion:
    """In which style each generated picture is.

    Args:
        model: the frozen network.
        drawings: real drawings with styles.
        real: their features, `[N, D]`.
        shown: model -> generated pictures.
        wanted: the style that was taught, or `@attribute` for what each prompt names.
        concept_attribute: the prompts' attribute that names the concept.
        level: confidence of the judge's accuracy.

    Raises:
        InputError: the drawings have styles, but not this one.
    """
    rows = [i for i, d in enumerate(drawings) if d.style]
    if not rows:
        return Opinion(notes=("No real picture names its style, so no style was judged.",))
    concepts = [drawings[i].concept for i in rows]
    styles = [str(drawings[i].style) for i in rows]
    known = sorted(set(styles))
    if not wanted.startswith("@") and wanted not in known:
        raise InputError(
            "style", repr(wanted), f"a style of the collection: {', '.join(known)}", "Correct it."
        )
    if len(known) < 2:
        note = f"All real pictures are in the style {known[0]}: there is nothing to tell it from."
        return Opinion(notes=(note,))
    free = free_of(concepts, _asked_concepts(shown, concept_attribute))
    features = real[rows]
    judge = StyleJudge.fit(
        model, features[free], [s for s, f in zip(styles, free, strict=True) if f]
    )
    trust: dict[str, Any] = {"fitted_on": int(free.sum()), "styles": known}
    if not free.all():
        held = [s for s, f in zip(styles, free, strict=True) if not f]
        right = judge.correct(features[~free], held)
        trust["accuracy"] = asdict(wilson(int(right.sum()), len(right), level))
    values = {}
    for name, pictures in shown.items():
        asked = [
            p.attribute(wanted[1:]) if wanted.startswith("@") else wanted for p in pictures.prompts
        ]
        values[name] = np.array(
            [
                judge.margin_of(pictures.features[i : i + 1], style)[0]
                if style in known
                else np.nan
                for i, style in enumerate(asked)
            ]
        )
    return Opinion(Scored(judge, values), trust)


def judge_concept(
    model: FeatureModel,
    drawings: Sequence[Drawing],
    real: np.ndarray,
    shown: Mapping[str, Shown],
    *,
    concept_attribute: str,
    level: float,
    seed: int,
) -> Opinion:
    """Whether each generated picture shows what its prompt names; arguments as in `judge_style`."""
    concepts = [d.concept for d in drawings]
    evaluated = _asked_concepts(shown, concept_attribute) & set(concepts)
    if not evaluated or len(set(concepts)) < 2:
        note = "No prompt names a concept that real pictures show, so no concept was judged."
        return Opinion(notes=(note,))
    judge = ConceptJudge.fit(model, real, concepts, evaluated, seed=seed)
    keys = {
        str(p.attribute(concept_attribute)): p.id
        for pictures in shown.values()
        for p in pictures.prompts
    }
    trust: dict[str, Any] = {"concepts": len(set(concepts)), "others": judge.others}
    styled = [i for i, d in enumerate(drawings) if d.style]
    ranks = judge.accuracy_across_styles(
        real[styled], [concepts[i] for i in styled], [str(drawings[i].style) for i in styled], keys
    )
    if len(ranks):
        trust["accuracy"] = asdict(wilson(int((ranks == 1).sum()), len(ranks), level))
        trust["mean_rank"] = float(ranks.mean())
    values = {}
    for name, pictures in shown.items():
        asked = [p.attribute(concept_attribute) or "" for p in pictures.prompts]
        able = np.array([judge.knows(concept) for concept in asked])
        ranked = np.full(len(asked), np.nan)
        ranked[able] = judge.ranks(
            pictures.features[able],
            [c for c, a in zip(asked, able, strict=True) if a],
            [p.id for p, a in zip(pictures.prompts, able, strict=True) if a],
        )
        values[name] = ranked
    return Opinion(Scored(judge, values), trust)


def measure_distance(model: FeatureModel, own: np.ndarray, shown: Mapping[str, Shown]) -> Opinion:
    """How far each generated picture is from the ones that were trained on.

    Args:
        model: the frozen network.
        own: features of the pictures that were trained on, `[M, D]`.
        shown: model -> generated pictures.
    """
    try:
        likeness = Likeness.fit(model, own)
    except InputError as error:
        return Opinion(notes=(f"No distance to the training pictures was measured: {error.got}.",))
    values = {name: likeness.distances(pictures.features) for name, pictures in shown.items()}
    return Opinion(Scored(likeness, values), {"fitted_on": len(own)})


def _asked_concepts(shown: Mapping[str, Shown], attribute: str) -> set[str]:
    prompts = (p for pictures in shown.values() for p in pictures.prompts)
    return {concept for p in prompts if (concept := p.attribute(attribute))}
