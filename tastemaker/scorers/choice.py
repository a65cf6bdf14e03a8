"""Which of several checkpoints is the best, by a rule that is stated before one looks.

The best of several looks better than it is, because its luck is chosen with it. So the choice is
made on some prompts, and what it gained is measured on the others.
"""

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any, Literal

from pydantic import Field, field_validator

from tastemaker.errors import InputError
from tastemaker.records.config import Config, as_tuple
from tastemaker.scorers.figures import FIGURES, Measured, figure_line


class Choice(Config):
    """The best side by one score, among those whose texts are not clearly worse than before."""

    score: str
    """Name of the score that decides, such as `style_share` or `pick_score`."""
    by: Literal["mean", "win_rate"] = "mean"
    """What of it: its mean over prompts, or in how many prompts a side beats the reference."""
    not_worse: tuple[str, ...] = ()
    """Scores, such as `image_text`, in which a side must not be clearly worse than the reference:
    whoever's interval of the difference lies wholly on the worse side is out."""
    among: tuple[str, ...] = ()
    """Sides that can be chosen; all but the reference when empty."""
    images_seen: dict[str, int] = Field(default_factory=dict)
    """Side -> images that it was trained on, for the curve; 0 is the untrained model."""
    share: float = Field(default=0.5, gt=0, le=1)
    """Share of the prompts, by hash of their ids, that the choice is made on; the others confirm
    it (ours: half). 1 chooses on all, and says that nothing confirms it."""

    @field_validator("not_worse", "among", mode="before")
    @classmethod
    def _lists(cls, value: object) -> object:
        return as_tuple(value)


def problem_of(
    choice: Choice, sides: Sequence[str], reference: str | None, scorers: Sequence[str]
) -> str | None:
    """What is wrong with a rule, in words, as far as names tell.

    Args:
        choice: the rule.
        sides: names of the sides.
        reference: the side that all are compared with.
        scorers: names of the scorers besides those that are always there.
    """
    if reference is None:
        return "choose: nothing to choose from; give at least two sides"
    scores = [figure.name for lines in FIGURES.values() for figure in lines] + list(scorers)
    named = {
        "score": ((choice.score,), scores, "scores"),
        "not_worse": (choice.not_worse, scores, "scores"),
        "among": (choice.among, sides, "sides"),
        "images_seen": (tuple(choice.images_seen), sides, "sides"),
    }
    for field, (names, known, what) in named.items():
        odd = [name for name in names if name not in known]
        if odd:
            return f"choose.{field} names {', '.join(odd)}; the {what} are {', '.join(known)}"
    return None


def deciding_prompts(prompts: Sequence[str], share: float) -> tuple[list[str], list[str]]:
    """The prompts that a choice is made on, and those that confirm it; by hash, so by lot."""
    ordered = sorted(prompts, key=lambda p: blake2b(p.encode(), digest_size=16).digest())
    count = max(2, round(share * len(ordered)))
    if len(ordered) - count < 2:
        return sorted(ordered), []
    return sorted(ordered[:count]), sorted(ordered[count:])


def choose(
    choice: Choice,
    figures: Sequence[Measured],
    prompts: Sequence[str],
    reference: str,
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    """Apply the rule; ready for JSON.

    `best` (a side, or None where none passes), `rule` (the configuration), `curve` (side, `images`,
    the interval of the mean and of the win rate, whether it `passes`, and `fails`: the scores that
    it is clearly worse in, on the deciding prompts), `decided_on` and `confirmed_on` (prompts), and
    `confirmed` (the best side against the reference on the prompts that did not decide, None
    without such prompts).

    Args:
        choice: the rule.
        figures: all figures.
        prompts: ids of all prompts.
        reference: the side that all are compared with.
        level: confidence of all intervals.
        resamples: bootstrap draws.
        seed: of the bootstrap.

    Raises:
        InputError: a score of the rule was not measured.
    """
    options: dict[str, Any] = {"level": level, "resamples": resamples, "seed": seed}
    by_name = {one.figure.name: one for one in figures}
    for name in (choice.score, *choice.not_worse):
        if name not in by_name:
            known = ", ".join(by_name) or "none"
            raise InputError(
                "choose", f"the score {name!r}", f"one that was measured: {known}", "Correct it."
            )
    decide, confirm = deciding_prompts(prompts, choice.share)
    main = by_name[choice.score]
    line = figure_line(main.only(decide), reference, **options)
    candidates = choice.among or tuple(side for side in main.sides if side != reference)
    guards = {
        name: figure_line(by_name[name].only(decide), reference, **options)["against"]
        for name in choice.not_worse
    }
    fails = {
        side: [name for name in guards if _clearly_worse(by_name[name], guards[name].get(side))]
        for side in main.sides
    }
    able = [side for side in candidates if side != reference and not fails[side]]
    best = max(able, key=lambda side: _rank(choice, line, side, main), default=None)
    return {
        "best": best,
        "reference": reference,
        "rule": choice.model_dump(mode="json"),
        "decided_on": len(decide),
        "confirmed_on": len(confirm),
        "curve": [
            {
                "side": side,
                "images": choice.images_seen.get(side),
                "mean": line["models"][side],
                "win_rate": line["against"].get(side, {}).get("win_rate"),
                "passes": side in able,
                "fails": fails[side],
            }
            for side in main.sides
        ],
        "confirmed": _confirmed(main, best, confirm, reference, options),
        "level": level,
        "unit": main.figure.unit,
        "higher_is_better": main.figure.higher_is_better,
    }


def _rank(choice: Choice, line: Mapping[str, Any], side: str, main: Measured) -> tuple[float, int]:
    """Larger is better; of equal ones the one that has seen fewer images."""
    value = line["models"][side]["estimate"]
    if choice.by == "win_rate":
        value = line["against"][side]["win_rate"]["estimate"]
    elif not main.figure.higher_is_better:
        value = -value
    return value, -choice.images_seen.get(side, list(main.sides).index(side))


def _clearly_worse(one: Measured, against: Mapping[str, Any] | None) -> bool:
    """Whether the whole interval of the difference lies on the worse side of zero."""
    if against is None:
        return False
    difference = against["difference"]
    return difference["high"] < 0 if one.figure.higher_is_better else difference["low"] > 0


def _confirmed(
    main: Measured,
    best: str | None,
    prompts: Sequence[str],
    reference: str,
    options: Mapping[str, Any],
) -> dict[str, Any] | None:
    rest = main.only(prompts)
    if best is None or rest.prompts < 2:
        return None
    line = figure_line(rest, reference, **options)
    return {**line["against"][best], "models": {s: line["models"][s] for s in (reference, best)}}
