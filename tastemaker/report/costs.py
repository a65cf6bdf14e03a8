"""What a run has cost: time by step, pictures a second, and energy where it was measured."""

from collections.abc import Mapping
from dataclasses import dataclass

from tastemaker.report import words
from tastemaker.report.read import RunFacts, StepFacts

_UNITS = ("images", "pictures", "encoded", "prompts")


@dataclass(frozen=True)
class Span:
    """One step in the list of what took how long."""

    name: str
    stage: str
    seconds: float | None
    share: float
    rate: str
    counts: str


def timeline(run: RunFacts) -> list[Span]:
    """All steps of a run, in order."""
    total = sum(s.manifest.seconds for s in run.steps if s.manifest) or 1.0
    spans = []
    for step in run.steps:
        if step.manifest is None:
            spans.append(Span(step.name, step.stage, None, 0.0, "", "not finished"))
            continue
        counts, seconds = step.manifest.counts, step.manifest.seconds
        told = ", ".join(f"{count} {name}" for name, count in list(counts.items())[:4] if count)
        share = 100 * seconds / total
        spans.append(Span(step.name, step.stage, seconds, share, rate_of(step), told))
    return spans


def cost_figures(run: RunFacts) -> list[tuple[str, str]]:
    """Name and value of each: wall time in all, what trained and generated how fast, energy."""
    done = [s for s in run.steps if s.manifest is not None]
    if not done:
        return []
    found = [("time of all steps", words.lasting(sum(_seconds(s) for s in done)))]
    for stages, counted, title in (
        (("fit", "fit_image_text", "fit_autoencoder"), "images", "training"),
        (("fit_pairs",), "images", "training on pairs"),
        (("generate",), "pictures", "generation"),
    ):
        steps = [s for s in done if s.stage in stages and _count(s, counted)]
        seconds = sum(_seconds(s) for s in steps)
        if not steps or not seconds:
            continue
        found.append((f"{title}, time", words.lasting(seconds)))
        rate = sum(_count(s, counted) for s in steps) / seconds
        found.append(
            (f"{title}, {_said(counted, steps[0])} a second", words.figure(float(f"{rate:.3g}")))
        )
    device = str(_machine(run).get("device") or "")
    if device:
        found.append(("device", device))
    energy = energy_text(run.energy)
    return [*found, *([("energy, measured", energy)] if energy else [])]


def rate_of(step: StepFacts) -> str:
    """`12.5 images/s`; empty where nothing is counted or it was too short to tell."""
    if step.manifest is None or step.manifest.seconds < 0.5:
        return ""
    unit = next((u for u in _UNITS if step.manifest.counts.get(u)), None)
    if unit is None:
        return ""
    rate = step.manifest.counts[unit] / step.manifest.seconds
    return f"{rate:.1f} {_said(unit, step)}/s"


def energy_text(joules: Mapping[str, float]) -> str:
    """`0.42 kWh (GPU 0: 0.30 kWh, ...)`; empty where nothing was measured."""
    if not joules:
        return ""
    total = _kwh(sum(joules.values()))
    parts = ", ".join(f"{name} {_kwh(value)}" for name, value in joules.items())
    return f"{total} ({parts})" if len(joules) > 1 else f"{total} ({next(iter(joules))})"


def _said(unit: str, step: StepFacts) -> str:
    """What a count is of, in words."""
    if unit == "images":
        return words.seen(step.stage)
    return "latents" if unit == "encoded" else unit


def _kwh(joules: float) -> str:
    return f"{joules / 3.6e6:.3g}\u202fkWh" if joules >= 3.6e4 else f"{joules / 3600:.3g}\u202fWh"


def _seconds(step: StepFacts) -> float:
    return step.manifest.seconds if step.manifest else 0.0


def _count(step: StepFacts, unit: str) -> int:
    return step.manifest.counts.get(unit, 0) if step.manifest else 0


def _machine(run: RunFacts) -> Mapping[str, object]:
    found = run.facts.get("machine", {})
    return found if isinstance(found, Mapping) else {}
