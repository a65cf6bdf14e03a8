"""What every scorer must do, whatever its model: checked on a few pictures, in seconds on a CPU.

A scorer that fails one of these would make a comparison wrong in silence.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tastemaker.errors import InputError
from tastemaker.scorers.figures import Scored, figure_lines
from tastemaker.scorers.protocol import Needs, Scorer
from tastemaker.scorers.scoring import ReadsTexts
from tastemaker.scorers.selftest_pictures import SHOWN, drawing, noise, odd_shapes
from tastemaker.stats.preference_accuracy import agreement_points

_ODD_TEXTS = ("", "🎈 日本", "a \n b\t&amp; \u2019c\u201d", "word " * 400)
_SIZES = (1, 2, 3, 5)


@dataclass(frozen=True)
class Check:
    """The outcome of one check.

    Attributes:
        scorer: name of the scorer, or `comparison` for what is done with the values.
        check: what was checked, a few words.
        passed: None where it cannot be asked of this scorer.
        detail: what was found.
    """

    scorer: str
    check: str
    passed: bool | None
    detail: str = ""


class ConstantScorer:
    """Gives every picture one value: no comparison may find a winner by it."""

    name, version, backbone, preprocessing = "constant", "1", "none", "none"
    unit, range, higher_is_better = "points", (0.5, 0.5), True
    needs: Needs = "image"

    def score(self, pictures: Sequence[np.ndarray], texts: Sequence[str] | None) -> np.ndarray:
        """See `Scorer.score`."""
        return np.full(len(pictures), 0.5)


def check_scorer(scorer: Scorer) -> Iterator[Check]:
    """All checks of one scorer; an error of the scorer is a check that failed, not a crash."""
    asked: list[tuple[str, Callable[[Scorer], tuple[bool | None, str]]]] = [
        ("one finite value a picture, within its range", _finite),
        ("the same picture twice, the same value", _repeatable),
        ("no value depends on the batch", _batches),
        ("candidates in another order, the same values", _order),
        ("pictures are left as they were", _untouched),
        ("odd sizes and texts", _odd),
        ("the text counts", _reads_text),
        ("long texts are told", _tells_cut),
        ("drawings fit their names better than noise does", _above_noise),
        ("drawings fit their own names best", _own_names),
    ]
    for name, check in asked:
        try:
            passed, detail = check(scorer)
        except (InputError, ValueError, IndexError, RuntimeError) as error:
            lines = str(error).strip().splitlines()
            passed, detail = False, f"{type(error).__name__}: {lines[0][:160] if lines else ''}"
        yield Check(scorer.name, name, passed, detail)


def check_comparison() -> Iterator[Check]:
    """What is done with values: nobody wins by a constant, by place or by order."""
    prompts = [f"p{n // 2}" for n in range(24)]
    flat = ConstantScorer().score([noise(0)] * 24, None)
    line = _compared(flat, flat, prompts)
    got = (line["better"], line["worse"], line["same"], line["p"])
    yield Check("comparison", "constant values: no winner", got == (0, 0, 12, 1.0), f"{got}")
    accuracy = [float(agreement_points(np.zeros(6), [label] * 6).mean()) for label in (1.0, 0.0)]
    passed = accuracy == [0.5, 0.5]
    yield Check("comparison", "constant values: half of all pairs right", passed, f"{accuracy}")

    rng = np.random.default_rng(7)
    one, other = rng.normal(size=24), rng.normal(size=24)
    line, back = _compared(one, other, prompts), _compared(other, one, prompts)
    flipped = np.isclose(line["difference"]["estimate"], -back["difference"]["estimate"])
    passed = bool(flipped) and (line["better"], line["worse"]) == (back["worse"], back["better"])
    yield Check("comparison", "sides swapped: the difference flips", passed)
    order = rng.permutation(24)
    moved = _compared(one[order], other[order], [prompts[place] for place in order])
    near = np.isclose(moved["difference"]["estimate"], line["difference"]["estimate"])
    yield Check("comparison", "pictures in another order: the same difference", bool(near))


def _compared(first: np.ndarray, second: np.ndarray, prompts: Sequence[str]) -> dict[str, Any]:
    """What a result says of the second side against the first."""
    sides = {"first": first, "second": second}
    ids = dict.fromkeys(sides, prompts)
    (line,) = figure_lines(Scored(ConstantScorer(), sides), ids, resamples=200)
    return line["against"]["second"]


def _pictures() -> tuple[list[np.ndarray], list[str]]:
    """Drawings and noise; each kind of picture with each kind of text."""
    pictures = [drawing(name) for name in SHOWN] + [noise(0), noise(1, 60, 100)]
    return pictures, [*SHOWN, "star", "a photograph of a busy street"]


def _texts(scorer: Scorer, texts: Sequence[str]) -> Sequence[str] | None:
    return texts if scorer.needs == "image+text" else None


def _values(scorer: Scorer) -> np.ndarray:
    pictures, texts = _pictures()
    return scorer.score(pictures, _texts(scorer, texts))


def _finite(scorer: Scorer) -> tuple[bool, str]:
    values, count = _values(scorer), len(_pictures()[0])
    low, high = scorer.range
    inside = bool(((values >= low) & (values <= high)).all())
    right = values.shape == (count,) and values.dtype == np.float64
    shown = f"{values.min():.4g} to {values.max():.4g} {scorer.unit}"
    return right and bool(np.isfinite(values).all()) and inside, shown


def _repeatable(scorer: Scorer) -> tuple[bool, str]:
    return _same(_values(scorer), _values(scorer))


def _batches(scorer: Scorer) -> tuple[bool, str]:
    pictures, texts = _pictures()
    whole = _values(scorer)
    for size in _SIZES:
        parts = [
            scorer.score(pictures[n : n + size], _texts(scorer, texts[n : n + size]))
            for n in range(0, len(pictures), size)
        ]
        passed, detail = _same(whole, np.concatenate(parts))
        if not passed:
            return False, f"batches of {size}: {detail}"
    return True, f"batches of {', '.join(map(str, _SIZES))} and {len(pictures)}"


def _order(scorer: Scorer) -> tuple[bool, str]:
    pictures, texts = _pictures()
    order = np.random.default_rng(3).permutation(len(pictures))
    moved = scorer.score([pictures[n] for n in order], _texts(scorer, [texts[n] for n in order]))
    return _same(_values(scorer)[order], moved)


def _untouched(scorer: Scorer) -> tuple[bool, str]:
    pictures, texts = _pictures()
    kept = [picture.copy() for picture in pictures]
    scorer.score(pictures, _texts(scorer, texts))
    return all(np.array_equal(a, b) for a, b in zip(pictures, kept, strict=True)), ""


def _odd(scorer: Scorer) -> tuple[bool, str]:
    shapes = odd_shapes()
    found = [scorer.score(shapes, _texts(scorer, ["star"] * len(shapes)))]
    if scorer.needs == "image+text":
        found.append(scorer.score([drawing("star")] * len(_ODD_TEXTS), _ODD_TEXTS))
    values = np.concatenate(found)
    return bool(np.isfinite(values).all()), f"{len(values)} cases"


def _reads_text(scorer: Scorer) -> tuple[bool | None, str]:
    if scorer.needs != "image+text":
        return None, "it needs none"
    values = scorer.score([drawing("star")] * len(SHOWN), SHOWN)
    return len(set(values.tolist())) == len(SHOWN), f"{np.ptp(values):.4g} apart"


def _tells_cut(scorer: Scorer) -> tuple[bool | None, str]:
    if scorer.needs != "image+text" or not isinstance(scorer, ReadsTexts):
        return None, "it does not say how much it reads"
    told = scorer.truncated(["star", "word " * 400])
    return told == [False, True], f"{scorer.window} tokens"


def _above_noise(scorer: Scorer) -> tuple[bool | None, str]:
    if scorer.needs != "image+text":
        return None, "it needs no text"
    drawn = scorer.score([drawing(name) for name in SHOWN], SHOWN)
    noisy = np.mean([scorer.score([noise(n)] * len(SHOWN), SHOWN) for n in range(3)], axis=0)
    gain = _signed(scorer, drawn - noisy)
    return bool(gain.mean() > 0), f"{gain.mean():+.4g}, {int((gain > 0).sum())} of {len(SHOWN)}"


def _own_names(scorer: Scorer) -> tuple[bool | None, str]:
    if scorer.needs != "image+text":
        return None, "it needs no text"
    table = np.stack([scorer.score([drawing(name)] * len(SHOWN), SHOWN) for name in SHOWN])
    others = (table.sum(axis=1) - np.diag(table)) / (len(SHOWN) - 1)
    gain = _signed(scorer, np.diag(table) - others)
    return bool(gain.mean() > 0), f"{gain.mean():+.4g}, {int((gain > 0).sum())} of {len(SHOWN)}"


def _signed(scorer: Scorer, values: np.ndarray) -> np.ndarray:
    return values if scorer.higher_is_better else -values


def _same(first: np.ndarray, second: np.ndarray) -> tuple[bool, str]:
    if np.array_equal(first, second):
        return True, "bit for bit"
    return False, f"up to {np.abs(first - second).max():.3g} apart"
