"""What preference training was given: pairs as pictures, margins, and what became no pair."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from tastemaker.errors import TastemakerError
from tastemaker.report import words
from tastemaker.report.cards import Card, Shown
from tastemaker.report.pictures import embedded
from tastemaker.report.read import RunFacts, StepFacts
from tastemaker.report.svg import FAINT, INK, SERIES, Chart, bare_axes, figure_svg
from tastemaker.store.pair_sets import PairSet

_CARDS, _CARD_PX, _BINS = 12, 240, 24
_DROPPED = "dropped: "
_HOW = {
    "best_worst": "the best against the worst",
    "all": "the better of any two",
}


@dataclass(frozen=True)
class Reason:
    """Why comparisons became no pair."""

    name: str
    count: int


@dataclass(frozen=True)
class Pairs:
    """One finished pairs step as it is shown."""

    step: StepFacts
    sentence: str
    figures: tuple[tuple[str, str], ...]
    reasons: tuple[Reason, ...]
    cards: tuple[Card, ...]
    chart: Chart | None


def pair_sets(run: RunFacts) -> list[Pairs]:
    """All finished pairs steps, in order."""
    return [_pairs(step, f"pairs{n}") for n, step in enumerate(run.of_stage("pairs"))]


def _pairs(step: StepFacts, salt: str) -> Pairs:
    assert step.manifest is not None
    counts, results = step.manifest.counts, step.manifest.results
    made_with = results.get("made_with")
    made_with = made_with if isinstance(made_with, Mapping) else {}
    cards, chart = _shown(step, made_with, salt)
    return Pairs(
        step,
        f"{_became(counts)} {_source(str(results.get('source', '')), made_with)}".strip(),
        _figures(counts, results),
        tuple(
            Reason(name.removeprefix(_DROPPED), count)
            for name, count in counts.items()
            if name.startswith(_DROPPED)
        ),
        cards,
        chart,
    )


def _became(counts: Mapping[str, int]) -> str:
    pairs, compared = counts.get("pairs", 0), counts.get("comparisons", 0)
    of = words.several(compared, "comparison")
    return f"{words.counted(pairs)} of {of} became {'a pair' if pairs == 1 else 'pairs'}."


def _source(kind: str, made_with: Mapping[str, Any]) -> str:
    """Who preferred what, in a sentence."""
    if kind == "scored":
        scorer = str(made_with.get("scorer", "a scorer"))
        how = _HOW.get(str(made_with.get("select")), "the better one")
        judge = made_with.get("held_out_scorer")
        kept = f" {judge} was kept from the choice." if judge else ""
        return f"“{scorer}” chose {how} of the pictures of each prompt.{kept}"
    return {
        "self_play": "The winner is the real picture, the loser the model\u2019s own.",
        "votes": "Votes chose the winners.",
        "collection": "The pictures came with what people preferred.",
        "file": "A file names winners and losers.",
    }.get(kind, "")


def _figures(counts: Mapping[str, int], results: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    pairs, held = counts.get("pairs", 0), counts.get("held out", 0)
    share = f" ({words.percent(held / pairs)})" if pairs else ""
    figures = [
        ("prompts", words.counted(counts.get("prompts", 0))),
        ("pictures", words.counted(counts.get("pictures", 0))),
        ("held out", f"{words.counted(held)}{share}"),
        ("ties among them", words.counted(counts.get("ties", 0))),
    ]
    margins = results.get("margins")
    kept = margins.get("kept") if isinstance(margins, Mapping) else None
    if isinstance(kept, Mapping) and "p50" in kept:
        figures.append(("median margin", words.figure(kept["p50"])))
    if results.get("contradicted"):
        figures.append(("contradicted by others", words.counted(results["contradicted"])))
    return tuple(figures)


def _shown(
    step: StepFacts, made_with: Mapping[str, Any], salt: str
) -> tuple[tuple[Card, ...], Chart | None]:
    """Some pairs by lot, and the margins of all; nothing where the set is gone or damaged."""
    folder = step.output("pairs")
    if folder is None:
        return (), None
    try:
        found = PairSet(folder)
        chosen = sorted(found.ids(), key=lambda i: blake2b(i.encode()).digest())[:_CARDS]
        pictures, pairs = found.pictures(), [found.pair(i) for i in chosen]
        margins = found.margins()
    except (TastemakerError, OSError, KeyError, ValueError):
        return (), None
    cards = []
    for pair in pairs:
        sides = (("winner", pair.winner), ("loser", pair.loser))
        shown = tuple(
            Shown(side, embedded(Path(pictures[i].path), _CARD_PX), None) for side, i in sides
        )
        cards.append(Card(_caption(pair), shown))
    return tuple(cards), _histogram(margins, made_with, salt)


def _caption(pair: Any) -> str:
    told = [] if pair.margin is None else [f"margin {words.figure(pair.margin)}"]
    told += ["a tie"] if pair.label == 0.5 else []
    told += ["held out"] if pair.split == "heldout" else []
    return f"{pair.prompt} ({', '.join(told)})" if told else pair.prompt


def _histogram(margins: Sequence[float], made_with: Mapping[str, Any], salt: str) -> Chart | None:
    if len(margins) < 2 or min(margins) == max(margins):
        return None
    unit = made_with.get("unit")
    title, scorer = "Margins of the pairs", made_with.get("scorer")
    by = f", by {scorer}" if scorer else ""
    note = f"How much better the winner is{by}; pairs near zero teach little."

    def draw(axes: Any) -> None:
        from matplotlib.ticker import MaxNLocator

        axes.hist(list(margins), bins=_BINS, color=SERIES[0], rwidth=0.86)
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.set_xlabel(f"margin ({unit})" if unit and unit != "margin" else "margin", color=INK)
        axes.set_ylabel("pairs", color=INK)
        bare_axes(axes, ink=INK, faint=FAINT)

    return Chart(title, note, figure_svg(draw, title, salt))
