"""What a comparison says, in plain sentences that do not claim more than the intervals allow."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Tone = Literal["good", "mixed", "unclear", "bad"]

PRIMARY = ("style", "likeness", "preference", "aesthetics", "text", "other")
"""What a run is judged by: the first score that tells of the first of these."""

GUARD = "text"
"""What a gain must not be bought with: that pictures show what their prompts say."""

_FEW_PROMPTS = 30
_MINUS, _THIN = "−", "\u202f"  # a true minus, and a narrow space that does not break
_ARROW = " → "


@dataclass(frozen=True)
class Label:
    """How a line of the scores is called and explained."""

    title: str
    meaning: str


@dataclass(frozen=True)
class Verdict:
    """The result in words.

    Attributes:
        tone: colours the page; `good` only where something was gained and nothing lost.
        headline: the main figure, one sentence.
        sentence: what it means, a few words.
        details: further sentences, most important first.
        change: the two figures in the headline, where two models are compared.
    """

    tone: Tone
    headline: str
    sentence: str
    details: tuple[str, ...]
    change: tuple[str, str] | None = None

    @property
    def around(self) -> tuple[str, str]:
        """What stands before and after the two figures of the headline."""
        if self.change is None:
            return self.headline, ""
        first, _, last = self.headline.partition(_ARROW.join(self.change))
        return first, last


def label(line: Mapping[str, Any], style: str | None) -> Label:
    """Title and explanation of a line of `summary.json`."""
    taught = "the style that the prompt names" if (style or "").startswith("@") else style
    known = {
        "style_share": Label(
            f"In {taught}" if (style or "").startswith("@") else f"In the taught style ({taught})",
            "share of pictures that the independent judge puts into this style",
        ),
        "concept_top1": Label(
            "Shows what the prompt names",
            "share of pictures whose nearest real drawing, among 20 concepts, is the named one",
        ),
        "concept_rank": Label(
            "Rank of the named concept", "among 20 concepts: 1 is best, 10.5 is chance"
        ),
        "image_text": Label("Fits its text", f"cosine of picture and prompt by {line['backbone']}"),
        "distance": Label(
            "Distance to the training pictures",
            "in features of an independent network; 1 is one of those pictures itself",
        ),
    }
    if line["name"] in known:
        return known[line["name"]]
    title = next((t for start, t in _TITLES.items() if line["name"].startswith(start)), None)
    name = line["name"].replace("_", " ")
    told = _ABOUT.get(line.get("about", ""), "")
    backbone = str(line["backbone"]).partition("@")[0]
    return Label(title or name[:1].upper() + name[1:], f"{line['unit']}{told}; {backbone}")


_TITLES = {
    "pick_score": "PickScore",
    "hps_v2.1": "HPS v2.1",
    "hps_v2.0": "HPS v2.0",
    "image_reward": "ImageReward",
    "laion_aesthetics": "LAION aesthetics",
    "clip": "Fits its text (CLIP)",
    "siglip": "Fits its text (SigLIP)",
}
_ABOUT = {
    "preference": ", what people would prefer",
    "aesthetics": ", looks whatever the text says",
    "text": ", picture and prompt",
}


def side_title(side: str) -> str:
    """A side as a heading: its own name; `before` and `after` with a capital."""
    return side.capitalize() if side in ("before", "after") else side


def value(number: float, unit: str, *, signed: bool = False) -> str:
    """A figure as people read it: `92 %`, `+0.013`, `1.42`."""
    if unit == "share":
        text = f"{abs(number) * 100:.0f}"
        suffix = f"{_THIN}points" if signed else f"{_THIN}%"
    else:
        places = {"distance": 2, "rank": 1, "cosine x 100": 2, "logit": 2}.get(unit, 3)
        text, suffix = f"{abs(number):.{places}f}", ""
    if float(text) == 0:
        return ("±" if signed else "") + text + suffix
    return (_MINUS if number < 0 else "+" if signed else "") + text + suffix


def interval(found: Mapping[str, float], unit: str, *, signed: bool = False) -> str:
    """`[72, 94]`, in the unit of `value`, without repeating it."""
    ends = [value(found[end], unit, signed=signed) for end in ("low", "high")]
    return "[" + ", ".join(end.split(_THIN)[0] for end in ends) + "]"


Direction = Literal["better", "worse", "same"]


def direction(found: Mapping[str, Any], *, higher_is_better: bool) -> Direction:
    """Whether the whole interval of `difference` lies on one side of zero."""
    low, high = found["difference"]["low"], found["difference"]["high"]
    if low <= 0 <= high:
        return "same"
    return "better" if (low > 0) == higher_is_better else "worse"


def primary(scores: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The line that a run is judged by, or None when nothing was measured."""
    return min(scores, key=lambda line: PRIMARY.index(line["about"]), default=None)


def verdict(summary: Mapping[str, Any], side: str | None = None) -> Verdict:
    """The result of an evaluation in words.

    Args:
        summary: `summary.json`.
        side: the one in question; the last one when not given.
    """
    line = primary(summary["scores"])
    prompts, focus = summary["prompts"], side or str(summary["sides"][-1])
    if line is None:
        text = f"Pictures of {prompts} prompts were made; nothing could be scored."
        return Verdict("unclear", text, "No score", tuple(summary["notes"]))
    title, unit = label(line, summary["style"]).title, line["unit"]
    found = line["models"][focus]
    if focus not in line["against"]:
        head = (
            f"{title}: {value(found['estimate'], unit)} {interval(found, unit)} "
            f"of {prompts} prompts."
            if unit == "share"
            else f"{title}: {value(found['estimate'], unit)} over {prompts} prompts."
        )
        return Verdict("unclear", head, "One model, compared with none", _notes(summary))
    before = value(line["models"][summary["reference"]]["estimate"], unit)
    after, units = value(found["estimate"], unit), line["against"][focus]["difference"]["units"]
    of = "of" if unit == "share" else "over"
    head = f"{title}: {before}{_ARROW}{after} {of} {units} prompts."
    guards = [g for g in summary["scores"] if g["about"] == GUARD and g is not line]
    guards = [g for g in guards if focus in g["against"] and g["name"] != "concept_rank"]
    lost = [g for g in guards if moved(g, focus) == "worse"]
    tone, sentence = _judged(summary, line, guards, lost, focus)
    details = _details(summary, line, guards, focus)
    return Verdict(tone, head, sentence, details, (before, after))


def in_short(summary: Mapping[str, Any], side: str) -> str:
    """One sentence on an evaluation that is not the main one: which models, and how they differ."""
    line, reference = primary(summary["scores"]), summary["reference"]
    if line is None or side not in line["against"]:
        return ""
    ends = [value(line["models"][s]["estimate"], line["unit"]) for s in (reference, side)]
    return f"{side} against {reference}: {_ARROW.join(ends)}, {_difference(line, side)}."


def moved(line: Mapping[str, Any], side: str) -> Direction:
    """Whether a side is clearly better or worse than the reference in one line."""
    return direction(line["against"][side], higher_is_better=line["higher_is_better"])


LEAST_PROMPTS = 20
"""With fewer prompts no verdict is given: an interval over a handful promises too much (ours)."""


def _judged(
    summary: Mapping[str, Any],
    line: Mapping[str, Any],
    guards: Sequence[Mapping[str, Any]],
    lost: Sequence[Mapping[str, Any]],
    focus: str,
) -> tuple[Tone, str]:
    if line["against"][focus]["difference"]["units"] < LEAST_PROMPTS:
        return "unclear", "Too few prompts to call it a gain or a loss."
    went = moved(line, focus)
    what = " and ".join(dict.fromkeys(_loss(g, summary["style"]) for g in lost))
    if went == "better" and not guards and line["about"] == GUARD:
        return "good", "A clear gain."
    if went == "better" and not guards:
        return "mixed", "A clear gain; whether the pictures still fit their texts was not measured."
    if went == "better" and not lost:
        return "good", "A clear gain, and no measurable loss beside it."
    if went == "better":
        return "mixed", f"A clear gain, but it was paid for: {what}."
    if went == "worse":
        return "bad", f"The training made this worse{f', and {what}' if lost else ''}."
    if lost:
        return "bad", f"No clear gain, and a clear loss: {what}."
    return "unclear", "No clear change: the interval of the difference includes zero."


_LOSSES = {
    "image_text": "the pictures fit their texts less well",
    "concept_top1": "fewer pictures show what their prompts name",
}


def _loss(line: Mapping[str, Any], style: str | None) -> str:
    return _LOSSES.get(line["name"], f"“{label(line, style).title}” fell")


def _details(
    summary: Mapping[str, Any],
    line: Mapping[str, Any],
    guards: Sequence[Mapping[str, Any]],
    focus: str,
) -> tuple[str, ...]:
    own = line["against"][focus]
    percent = value(own["difference"]["level"], "share")
    named = "" if summary["sides"] == ["before", "after"] else f"{focus} against "
    named += "" if not named else f"{summary['reference']}: "
    start = f"{named}difference" if named else "Difference"
    found = [f"{start} {_difference(line, focus)}, {percent} interval over prompts."]
    for guard in guards:
        name = label(guard, summary["style"]).title
        verb = {
            "better": "rose",
            "worse": "fell",
            "same": "did not change measurably",
        }[moved(guard, focus)]
        found.append(f"“{name}” {verb}: {_difference(guard, focus)}.")
    others = [side for side in line["against"] if side != focus]
    if others:
        told = "; ".join(f"{side} {_difference(line, side)}" for side in others)
        found.append(f"The other sides against {summary['reference']}: {told}.")
    if summary.get("choice"):
        found.append(choice_sentence(summary))
    return (*found, *_notes(summary))


def choice_sentence(summary: Mapping[str, Any]) -> str:
    """How the best side was chosen, and what the prompts say that did not choose it."""
    choice = summary["choice"]
    line = next(one for one in summary["scores"] if one["name"] == choice["rule"]["score"])
    title = label(line, summary["style"]).title
    if choice["best"] is None:
        return f"No side passes the rule of the choice (by “{title}”)."
    able = sum(point["passes"] for point in choice["curve"])
    by = {"mean": "the mean of", "win_rate": "the win rate in"}[choice["rule"]["by"]]
    text = (
        f"{choice['best']} was chosen of {able} that pass, by {by} “{title}” on "
        f"{choice['decided_on']} prompts."
    )
    confirmed = choice["confirmed"]
    if confirmed is None:
        return f"{text} No other prompts confirm it: the best of several looks better than it is."
    change = _change(confirmed["difference"], line["unit"])
    return (
        f"{text} On the {choice['confirmed_on']} others its difference from {choice['reference']} "
        f"is {change}."
    )


def _difference(line: Mapping[str, Any], side: str) -> str:
    return _change(line["against"][side]["difference"], line["unit"])


def _change(change: Mapping[str, Any], unit: str) -> str:
    return f"{value(change['estimate'], unit, signed=True)} {interval(change, unit, signed=True)}"


def _notes(summary: Mapping[str, Any]) -> tuple[str, ...]:
    """What limits the result; nothing of it is left to the small print."""
    notes = list(summary["notes"])
    prompts, seen = summary["prompts"], summary.get("prompts_seen_in_training", 0)
    if prompts < _FEW_PROMPTS:
        notes.append(f"Only {prompts} prompts: the intervals are wide.")
    if seen:
        share = "All" if seen == prompts else f"{seen} of the {prompts}"
        notes.append(
            f"{share} prompts are captions of training pictures, so this tells nothing of new ones."
            if seen == prompts
            else f"{share} prompts are captions of training pictures."
        )
    lacking = sum(summary.get("missing", {}).values())
    if lacking:
        out = summary.get("prompts_left_out", 0)
        left = f" and {several(out, 'prompt')} left out" if out else ""
        notes.append(f"{lacking} pictures are missing{left}; only complete prompts were compared.")
    return tuple(notes)


def lasting(seconds: float) -> str:
    """A duration in words: `41 s`, `2 min 11 s`, `3 h 05 min`."""
    whole = round(seconds)
    if whole < 1:
        return f"under 1{_THIN}s"
    if whole < 60:
        return f"{whole}{_THIN}s"
    if whole < 3600:
        return f"{whole // 60}{_THIN}min {whole % 60:02d}{_THIN}s"
    return f"{whole // 3600}{_THIN}h {whole % 3600 // 60:02d}{_THIN}min"


def counted(number: int) -> str:
    """A whole number with its thousands apart."""
    return f"{number:,}".replace(",", _THIN)


def figure(number: float | None) -> str:
    """A measured number with 4 digits, as people read it: `0.5021`, `2 875`, `3.1e-6`, `–`."""
    if number is None or not math.isfinite(number):
        return "–"
    if number and not 1e-4 <= abs(number) < 1e9:
        mantissa, exponent = f"{number:.2e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}".replace("-", _MINUS)
    places = 0 if abs(number) >= 1000 or number == round(number) else None
    if places is None:
        places = max(0, 3 - math.floor(math.log10(abs(number))))
    text = f"{abs(number):,.{places}f}"
    text = (text.rstrip("0").rstrip(".") if "." in text else text).replace(",", _THIN)
    return (_MINUS if number < 0 else "") + text


def percent(share: float) -> str:
    """A share of 1: `42 %`, `0.4 %`; never `0 %` for some, nor `100 %` for not all."""
    hundredths = 100 * share
    if 0 < hundredths < 0.1:
        return f"under 0.1{_THIN}%"
    if 99.9 < hundredths < 100:
        return f"over 99.9{_THIN}%"
    near = 0 < hundredths < 1 or 99 < hundredths < 100
    return f"{hundredths:.{1 if near else 0}f}{_THIN}%"


def figures(numbers: Sequence[float | None]) -> list[str]:
    """Numbers of one column, all with as many places as give the largest one 4 digits."""
    known = [abs(number) for number in numbers if number is not None and math.isfinite(number)]
    largest = max(known, default=0.0)
    if largest and not 1e-3 <= largest < 1e9:
        return [figure(number) for number in numbers]
    is_whole = all(number == round(number) for number in known)
    places = 0 if is_whole else max(0, 3 - math.floor(math.log10(largest)))
    return [
        "–"
        if number is None or not math.isfinite(number)
        else f"{number:,.{places}f}".replace(",", _THIN).replace("-", _MINUS)
        for number in numbers
    ]


def seen(stage: str) -> str:
    """What the `images` of a training are."""
    return "pairs" if stage == "fit_pairs" else "images"


def several(number: int, one: str, many: str | None = None) -> str:
    """`1 picture`, `2 pictures`."""
    return f"{counted(number)} {one if number == 1 else many or one + 's'}"
