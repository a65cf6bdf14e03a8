"""An evaluation with its pictures: rows by prompt, and which of them changed most."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from tastemaker.errors import TastemakerError
from tastemaker.records.generation import Sample
from tastemaker.report.read import RunFacts, StepFacts
from tastemaker.report.words import primary
from tastemaker.store.samples import read_samples

_SCORER_OF = {"style_share": "style", "concept_top1": "concept"}


@dataclass(frozen=True)
class PictureRow:
    """What several models made of one prompt with the same noise.

    Attributes:
        prompt_id: its id.
        text: the prompt.
        pictures: side -> file of its first picture; a side that has none is not there.
        scores: side -> the value that the run is judged by, larger is better.
        seeds: side -> seed of the picture's noise.
    """

    prompt_id: str
    text: str
    pictures: Mapping[str, Path]
    scores: Mapping[str, float]
    seeds: Mapping[str, int]


@dataclass(frozen=True)
class Comparison:
    """One finished evaluate step.

    Attributes:
        step: the step.
        summary: `summary.json`.
        sides: names, in order.
        reference: the side that the others are compared with; None for a side alone.
        focus: the side that the page is about: the best checkpoint, or else the last side.
        rows: by prompt id.
        judged_by: the scorer behind `scores`.
        samples: pictures a prompt.
        settings: side -> what its generate step says of sampler, size and seed.
    """

    step: StepFacts
    summary: Mapping[str, Any]
    sides: tuple[str, ...]
    reference: str | None
    focus: str
    rows: tuple[PictureRow, ...]
    judged_by: str | None
    samples: int
    settings: Mapping[str, Mapping[str, Any]]

    @property
    def is_paired(self) -> bool:
        """Whether models are compared."""
        return self.reference is not None

    def change(self, row: PictureRow) -> float | None:
        """How much better the side in focus is than the reference."""
        before, after = row.scores.get(self.reference or ""), row.scores.get(self.focus)
        return None if before is None or after is None else after - before

    def gains(self, count: int) -> list[PictureRow]:
        """The rows that improved most."""
        changed = [row for row in self.rows if (self.change(row) or 0) > 0]
        return sorted(changed, key=lambda row: -(self.change(row) or 0))[:count]

    def setbacks(self, count: int) -> list[PictureRow]:
        """The rows whose picture in focus scores lowest: no help there, or harm."""
        scored = [row for row in self.rows if self.focus in row.scores]
        return sorted(scored, key=lambda row: row.scores[self.focus])[:count]

    def by_lot(self, count: int) -> list[PictureRow]:
        """Rows chosen by the hash of their prompt's id, so not for how they came out."""
        return sorted(self.rows, key=lambda row: blake2b(row.prompt_id.encode()).digest())[:count]


def comparisons(run: RunFacts) -> list[Comparison]:
    """All finished evaluations; one whose files are gone or damaged is left out."""
    found = []
    for step in run.of_stage("evaluate"):
        folder = step.output("scores")
        try:
            if folder is not None:
                found.append(_comparison(run, step, folder))
        except (OSError, ValueError, KeyError, TypeError, TastemakerError):
            continue
    return found


def _comparison(run: RunFacts, step: StepFacts, folder: Path) -> Comparison:
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    sides, reference = tuple(summary["sides"]), summary["reference"]
    best = (summary.get("choice") or {}).get("best")
    line = primary(summary["scores"])
    name = str(line["name"]) if line else ""
    judged_by = _SCORER_OF.get(name, name) or None
    lower = line is not None and not line["higher_is_better"]
    values = _values(folder / "scores.parquet", judged_by, -1.0 if lower else 1.0)
    named = step.config.get("sides") or {s: step.config.get(s) for s in sides}
    places = {side: run.find(named.get(side), "samples") for side in sides}
    checkpoints = step.config.get("checkpoints")
    if (drawn := run.find(checkpoints, "sample_sets")) is not None:
        places |= {side: drawn / side for side in sides if places[side] is None}
    first: dict[str, dict[str, tuple[Path, Sample]]] = {
        side: _first_pictures(place) for side, place in places.items()
    }
    most = max(
        [1, *(count // max(1, summary["prompts"]) for count in summary["pictures"].values())]
    )
    rows = _rows(first, values)
    settings = {side: _settings(run, named.get(side) or checkpoints) for side in sides}
    return Comparison(
        step, summary, sides, reference, best or sides[-1], rows, judged_by, most, settings
    )


def only_pictures(run: RunFacts) -> Comparison | None:
    """The pictures of a run that has evaluated none: of the last prompt set, with the same noise.

    None without pictures.
    """
    steps = [s for s in run.of_stage("generate") if s.output("samples")]
    if not steps:
        return None
    prompts = steps[-1].config.get("prompts")
    try:
        first = {
            s.name: _first_pictures(s.output("samples"))
            for s in steps
            if s.config.get("prompts") == prompts
        }
    except TastemakerError:
        return None
    last = {p: sample.seed for p, (_, sample) in first[steps[-1].name].items()}
    first = {
        side: found
        for side, found in first.items()
        if found.keys() == last.keys() and all(s.seed == last[p] for p, (_, s) in found.items())
    }
    if not last:
        return None
    sides = tuple(first)
    summary = {"scores": [], "sides": list(sides), "prompts": len(last), "notes": []}
    return Comparison(
        steps[-1],
        summary,
        sides,
        sides[0] if len(sides) > 1 else None,
        steps[-1].name,
        _rows(first, {}),
        None,
        int(steps[-1].config.get("samples_per_prompt", 1)),
        {side: _settings(run, side) for side in sides},
    )


def _rows(
    first: Mapping[str, Mapping[str, tuple[Path, Sample]]], values: Mapping[tuple[str, str], float]
) -> tuple[PictureRow, ...]:
    """One row a prompt, of all sides' first pictures."""
    rows = []
    for prompt_id in sorted({p for found in first.values() for p in found}):
        there = {side: found[prompt_id] for side, found in first.items() if prompt_id in found}
        rows.append(
            PictureRow(
                prompt_id,
                next(iter(there.values()))[1].prompt,
                {side: file for side, (file, _) in there.items()},
                {s: v for s in first if (v := values.get((s, prompt_id))) is not None},
                {side: sample.seed for side, (_, sample) in there.items()},
            )
        )
    return tuple(rows)


def _first_pictures(folder: Path | None) -> dict[str, tuple[Path, Sample]]:
    """Prompt id -> its first picture."""
    found: dict[str, tuple[Path, Sample]] = {}
    if folder is not None and (folder / "samples.jsonl").exists():
        for sample in read_samples(folder):
            found.setdefault(sample.prompt_id, (folder / sample.file, sample))
    return found


def _settings(run: RunFacts, name: object) -> Mapping[str, Any]:
    for step in run.steps:
        if step.name == name and step.manifest is not None:
            return step.manifest.results
    return {}


def _values(path: Path, scorer: str | None, sign: float) -> dict[tuple[str, str], float]:
    """Score of each prompt's first picture, turned so that more is better."""
    from tastemaker.store.scores import read_scores

    if scorer is None or not path.exists():
        return {}
    rows: Sequence[Mapping[str, Any]] = read_scores(path)
    found: dict[tuple[str, str], float] = {}
    for row in rows:
        if row["scorer"] == scorer and row["value"] is not None:
            # A rank is the better, the lower it is; its share of first ranks is not.
            turned = -1.0 if scorer == "concept" else sign
            found.setdefault((row["model"], row["prompt_id"]), turned * row["value"])
    return found
