"""An evaluation with its pictures: pairs by prompt, and which of them changed most."""

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
_LOWER_IS_BETTER = ("distance", "concept")


@dataclass(frozen=True)
class PicturePair:
    """What both models made of one prompt with the same noise.

    Attributes:
        prompt_id: its id.
        text: the prompt.
        before: file of the first model; None in an evaluation of one model.
        after: file of the second.
        score_before: the value that the run is judged by, larger is better; None without one.
        score_after: the same of the second.
    """

    prompt_id: str
    text: str
    before: Path | None
    after: Path | None
    score_before: float | None = None
    score_after: float | None = None

    @property
    def change(self) -> float | None:
        """How much better the second one is."""
        if self.score_before is None or self.score_after is None:
            return None
        return self.score_after - self.score_before


@dataclass(frozen=True)
class Comparison:
    """One finished evaluate step.

    Attributes:
        step: the step.
        summary: `summary.json`.
        pairs: by prompt id, the first picture of each prompt.
        judged_by: the scorer behind `score_before` and `score_after`.
        samples: pictures a prompt.
    """

    step: StepFacts
    summary: Mapping[str, Any]
    pairs: tuple[PicturePair, ...]
    judged_by: str | None
    samples: int = 1

    @property
    def is_paired(self) -> bool:
        """Whether two models are compared."""
        return any(pair.before is not None for pair in self.pairs)

    def gains(self, count: int) -> list[PicturePair]:
        """The pairs that improved most."""
        changed = [pair for pair in self.pairs if (pair.change or 0) > 0]
        return sorted(changed, key=lambda pair: -(pair.change or 0))[:count]

    def setbacks(self, count: int) -> list[PicturePair]:
        """The pairs whose second picture scores lowest: no help there, or harm."""
        scored = [pair for pair in self.pairs if pair.score_after is not None]
        return sorted(scored, key=lambda pair: pair.score_after or 0)[:count]

    def by_lot(self, count: int) -> list[PicturePair]:
        """Pairs chosen by the hash of their prompt's id, so not for how they came out."""
        return sorted(self.pairs, key=lambda pair: blake2b(pair.prompt_id.encode()).digest())[
            :count
        ]


def comparisons(run: RunFacts) -> list[Comparison]:
    """All finished evaluations; one whose files are gone or damaged is left out."""
    found = []
    for step in run.of_stage("evaluate"):
        folder = step.output("scores")
        try:
            if folder is not None:
                found.append(_comparison(run, step, folder))
        except (OSError, ValueError, KeyError, TastemakerError):
            continue
    return found


def _comparison(run: RunFacts, step: StepFacts, folder: Path) -> Comparison:
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    line = primary(summary["scores"])
    name = str(line["name"]) if line else ""
    judged_by = _SCORER_OF.get(name, name) or None
    values = _values(folder / "scores.parquet", judged_by)
    first: dict[str, dict[str, tuple[Path, Sample]]] = {}
    most = 1
    for model in ("before", "after"):
        samples = run.find(step.config.get(model), "samples")
        first[model] = {}
        if samples is None or not (samples / "samples.jsonl").exists():
            continue
        for sample in read_samples(samples):
            most = max(most, sample.sample_index + 1)
            first[model].setdefault(sample.prompt_id, (samples / sample.file, sample))
    pairs = []
    for prompt_id in sorted({*first["before"], *first["after"]}):
        sides = {m: first[m].get(prompt_id) for m in first}
        sample = next(side[1] for side in sides.values() if side)
        files = {m: side[0] if side else None for m, side in sides.items()}
        scores = {m: values.get((m, prompt_id)) for m in first}
        pairs.append(
            PicturePair(
                prompt_id,
                sample.prompt,
                files["before"],
                files["after"],
                scores["before"],
                scores["after"],
            )
        )
    return Comparison(step, summary, tuple(pairs), judged_by, most)


def _values(path: Path, scorer: str | None) -> dict[tuple[str, str], float]:
    """Score of each prompt's first picture, turned so that more is better."""
    from tastemaker.store.scores import read_scores

    if scorer is None or not path.exists():
        return {}
    rows: Sequence[Mapping[str, Any]] = read_scores(path)
    sign = -1.0 if scorer in _LOWER_IS_BETTER else 1.0
    found: dict[tuple[str, str], float] = {}
    for row in rows:
        if row["scorer"] == scorer and row["value"] is not None:
            found.setdefault((row["model"], row["prompt_id"]), sign * row["value"])
    return found
