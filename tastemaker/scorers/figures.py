"""From the values of a scorer to the lines of a result: one mean a model, one paired difference.

The unit is the prompt: pictures of one prompt are averaged first, and every interval is over
prompts.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tastemaker.scorers.protocol import Scorer
from tastemaker.stats.interval import Interval
from tastemaker.stats.paired import mean_interval, paired_difference
from tastemaker.stats.winrate import wilson


@dataclass(frozen=True)
class Scored:
    """All values of one scorer.

    Attributes:
        scorer: with its provenance.
        values: model -> one value a picture, NaN where the scorer has no opinion.
    """

    scorer: Scorer
    values: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Figure:
    """How values of a scorer become one line: the mean over prompts of `of(values)`."""

    name: str
    unit: str
    higher_is_better: bool
    of: Callable[[np.ndarray], np.ndarray] = lambda values: values


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
"""Scorer -> its lines, in the order in which a report shows them."""


def figure_lines(
    scored: Scored,
    prompt_ids: Mapping[str, Sequence[str]],
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """The lines of one scorer, ready for JSON.

    Each has `name`, `unit`, `higher_is_better`, the scorer's provenance, `models` (model ->
    interval) and, with two models, `difference` (interval, second minus first), `better`, `worse`,
    `same` (prompts) and `p` (exact sign test). A scorer without an opinion on at least two prompts
    gives no line.

    Args:
        scored: the values.
        prompt_ids: model -> the prompt of each picture; with two models, the same prompts.
        level: confidence of the intervals.
        resamples: bootstrap draws.
        seed: of the bootstrap.
    """
    found = []
    for figure in FIGURES[scored.scorer.name]:
        groups = {m: _by_prompt(figure.of(v), v, prompt_ids[m]) for m, v in scored.values.items()}
        if min(len(group) for group in groups.values()) < 2:
            continue
        line: dict[str, Any] = {
            "name": figure.name,
            "unit": figure.unit,
            "higher_is_better": figure.higher_is_better,
            "scorer": scored.scorer.name,
            "version": scored.scorer.version,
            "backbone": scored.scorer.backbone,
            "preprocessing": scored.scorer.preprocessing,
            "models": {m: asdict(_level_of(g, figure, level)) for m, g in groups.items()},
        }
        if len(groups) == 2:
            first, second = groups.values()
            paired = paired_difference(first, second, level=level, resamples=resamples, seed=seed)
            higher, lower = paired.win_rate.wins, paired.win_rate.losses
            line |= {
                "difference": asdict(paired.bootstrap),
                "better": higher if figure.higher_is_better else lower,
                "worse": lower if figure.higher_is_better else higher,
                "same": paired.win_rate.ties,
                "p": paired.sign_p,
            }
        found.append(line)
    return found


def _by_prompt(
    shown: np.ndarray, values: np.ndarray, prompt_ids: Sequence[str]
) -> dict[str, list[float]]:
    groups: dict[str, list[float]] = {}
    for figure, value, prompt in zip(shown, values, prompt_ids, strict=True):
        if not np.isnan(value):
            groups.setdefault(prompt, []).append(float(figure))
    return groups


def _level_of(groups: Mapping[str, list[float]], figure: Figure, level: float) -> Interval:
    """Wilson's interval for a share of single pictures, Student's over prompts for all else."""
    means = [float(np.mean(values)) for values in groups.values()]
    single = all(len(values) == 1 for values in groups.values())
    if figure.unit == "share" and single:
        return wilson(sum(means), len(means), level)
    interval = mean_interval(means, level)
    if figure.unit == "share":
        low, high = max(0.0, interval.low), min(1.0, interval.high)
        return Interval(interval.estimate, low, high, level, interval.units)
    return interval
