"""From the values of a scorer to the lines of a result: a mean a side, a paired difference each.

The unit is the prompt: pictures of one prompt are averaged first, and every interval is over
prompts.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from tastemaker.scorers.protocol import Provenance
from tastemaker.stats.interval import Interval
from tastemaker.stats.paired import mean_interval, paired_difference
from tastemaker.stats.winrate import wilson, win_rate


@dataclass(frozen=True)
class Scored:
    """All values of one scorer.

    Attributes:
        scorer: where they come from: the scorer itself, or its `Origin`.
        values: model -> one value a picture, NaN where the scorer has no opinion.
    """

    scorer: Provenance
    values: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Figure:
    """How values of a scorer become one line: the mean over prompts of `of(values)`.

    `about` says what it tells: `style`, `likeness` (to the training pictures), `preference`,
    `aesthetics` or `text` (whether pictures show what was asked for).
    """

    name: str
    unit: str
    higher_is_better: bool
    about: str
    of: Callable[[np.ndarray], np.ndarray] = lambda values: values


FIGURES: dict[str, tuple[Figure, ...]] = {
    # A margin of exactly zero is no opinion, and counts half.
    "style": (Figure("style_share", "share", True, "style", lambda v: (v > 0) + 0.5 * (v == 0)),),
    "concept": (
        Figure("concept_top1", "share", True, "text", lambda v: (v == 1).astype(float)),
        Figure("concept_rank", "rank", False, "text"),
    ),
    "image_text": (Figure("image_text", "cosine", True, "text"),),
    "distance": (Figure("distance", "distance", False, "likeness"),),
}
"""Scorer -> its lines, in the order in which a report shows them; any other has one, its mean."""


@dataclass(frozen=True)
class Measured:
    """One figure of several sides, by prompt.

    Attributes:
        figure: what it is.
        scorer: where its values come from.
        sides: side -> prompt id -> the figures of its pictures; a prompt without an opinion is
            not there.
    """

    figure: Figure
    scorer: Provenance
    sides: Mapping[str, Mapping[str, list[float]]]

    def only(self, prompts: Collection[str]) -> "Measured":
        """The figures of some prompts."""
        some = {
            side: {p: values for p, values in groups.items() if p in prompts}
            for side, groups in self.sides.items()
        }
        return replace(self, sides=some)

    @property
    def prompts(self) -> int:
        """How many prompts the side with the fewest has."""
        return min(len(groups) for groups in self.sides.values())

    def mean(self, side: str, level: float) -> Interval:
        """Wilson's interval for a share of single pictures, Student's over prompts for all else."""
        groups = self.sides[side]
        means = [float(np.mean(values)) for values in groups.values()]
        single = all(len(values) == 1 for values in groups.values())
        if self.figure.unit == "share" and single:
            return wilson(sum(means), len(means), level)
        interval = mean_interval(means, level)
        if self.figure.unit == "share":
            low, high = max(0.0, interval.low), min(1.0, interval.high)
            return Interval(interval.estimate, low, high, level, interval.units)
        return interval

    def gains(self, side: str, reference: str) -> dict[str, float]:
        """Prompt id -> by how much the side is better; above 0 is better in any unit."""
        sign = 1.0 if self.figure.higher_is_better else -1.0
        first, second = self.sides[reference], self.sides[side]
        return {
            p: sign * float(np.mean(second[p]) - np.mean(first[p]))
            for p in sorted(first.keys() & second.keys())
        }


def measured(
    scored: Scored, prompt_ids: Mapping[str, Sequence[str]], about: str = "other"
) -> list[Measured]:
    """The figures of one scorer; those with an opinion on fewer than two prompts are left out.

    Args:
        scored: the values.
        prompt_ids: side -> the prompt of each picture; the same prompts for all sides.
        about: what a scorer tells that has no `FIGURES`.
    """
    found = [
        Measured(
            figure,
            scored.scorer,
            {m: _by_prompt(figure.of(v), v, prompt_ids[m]) for m, v in scored.values.items()},
        )
        for figure in FIGURES.get(scored.scorer.name) or (_plain(scored.scorer, about),)
    ]
    return [one for one in found if one.prompts >= 2]


def figure_line(
    one: Measured,
    reference: str | None,
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    """One figure, ready for JSON.

    It has `name`, `unit`, `higher_is_better`, `about`, the scorer's provenance, `models` (side ->
    interval) and `against` (every side but the reference -> `difference`: interval of side minus
    reference; `win_rate`: share of prompts that it is better in, ties half, with Wilson's interval;
    `better`, `worse`, `same`: prompts; `p`: exact sign test).

    Args:
        one: the figure.
        reference: the side that all others are compared with; None compares nothing.
        level: confidence of the intervals.
        resamples: bootstrap draws.
        seed: of the bootstrap.

    Raises:
        ValueError: two sides have an opinion on different prompts.
    """
    options = {"level": level, "resamples": resamples, "seed": seed}
    others = [side for side in one.sides if reference is not None and side != reference]
    return {
        "name": one.figure.name,
        "unit": one.figure.unit,
        "higher_is_better": one.figure.higher_is_better,
        "about": one.figure.about,
        "scorer": one.scorer.name,
        "version": one.scorer.version,
        "backbone": one.scorer.backbone,
        "preprocessing": one.scorer.preprocessing,
        "models": {side: asdict(one.mean(side, level)) for side in one.sides},
        "against": {side: _against(one, side, str(reference), options) for side in others},
    }


def figure_lines(
    scored: Scored,
    prompt_ids: Mapping[str, Sequence[str]],
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """`figure_line` of every figure of a scorer; the first side is the reference of all others."""
    sides = list(scored.values)
    reference = sides[0] if len(sides) > 1 else None
    return [
        figure_line(one, reference, level=level, resamples=resamples, seed=seed)
        for one in measured(scored, prompt_ids)
    ]


def _against(
    one: Measured, side: str, reference: str, options: Mapping[str, Any]
) -> dict[str, Any]:
    paired = paired_difference(one.sides[reference], one.sides[side], **options)
    higher, lower = paired.win_rate.wins, paired.win_rate.losses
    if not one.figure.higher_is_better:
        higher, lower = lower, higher
    rate = win_rate(higher, lower, paired.win_rate.ties, options["level"]).rate
    return {
        "difference": asdict(paired.bootstrap),
        "win_rate": asdict(rate),
        "better": higher,
        "worse": lower,
        "same": paired.win_rate.ties,
        "p": paired.sign_p,
    }


def _plain(scorer: Provenance, about: str) -> Figure:
    return Figure(scorer.name, scorer.unit, scorer.higher_is_better, about)


def _by_prompt(
    shown: np.ndarray, values: np.ndarray, prompt_ids: Sequence[str]
) -> dict[str, list[float]]:
    groups: dict[str, list[float]] = {}
    for figure, value, prompt in zip(shown, values, prompt_ids, strict=True):
        if not np.isnan(value):
            groups.setdefault(prompt, []).append(float(figure))
    return groups
