"""What a gallery shows: prompts by models, with the same noise in a row, scores, and votes.

Axes: scores are float64 `[rows, models]`, NaN where there is none; orders are int32 `[rows]`.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from tastemaker.errors import TastemakerError
from tastemaker.records.ballot import Study
from tastemaker.store.people import FILE as PEOPLE
from tastemaker.store.people import People
from tastemaker.store.samples import SAMPLES
from tastemaker.store.scores import read_scores
from tastemaker.store.studies import read_study
from tastemaker.web.library import Library, Thing
from tastemaker.web.sample_lines import Cell, Key, Pictures, read_sample_lines

_LOWER_IS_BETTER = ("concept", "distance")


@dataclass(frozen=True)
class Scores:
    """Values of one scorer by the path of the picture."""

    values: Mapping[str, float]
    higher_is_better: bool = True


@dataclass(frozen=True)
class Gallery:
    """Rows of pictures.

    Attributes:
        models: names of the columns.
        keys: prompt id and number of each row, sorted.
        texts: prompt of each row.
        categories: category of each row, or an empty text.
        pictures: of each model.
        scores: scorer -> values, larger is better.
        lower: scorers whose own values are the negative of these: of theirs less is better.
        shares: (model, model) -> share of the votes for the second, -1..1 after centring.
        problems: what could not be read, for people.
    """

    models: tuple[str, ...]
    keys: tuple[Key, ...]
    texts: tuple[str, ...]
    categories: tuple[str, ...]
    pictures: tuple[Pictures, ...]
    scores: Mapping[str, np.ndarray] = field(default_factory=dict)
    lower: frozenset[str] = frozenset()
    shares: Mapping[tuple[int, int], np.ndarray] = field(default_factory=dict)
    problems: tuple[str, ...] = ()

    @cached_property
    def _rows(self) -> dict[Key, int]:
        return {key: row for row, key in enumerate(self.keys)}

    def row_of(self, prompt_id: str, index: int) -> int | None:
        """The row of a prompt's picture."""
        return self._rows.get((prompt_id, index))

    def cells(self, row: int) -> list[Cell | None]:
        """A cell a model, None where a picture is missing."""
        return [pictures.cell(self.keys[row]) for pictures in self.pictures]

    def same_noise(self, row: int) -> bool:
        """Whether all pictures of a row began with the same noise, as far as their seeds tell."""
        return len({cell.seed for cell in self.cells(row) if cell is not None}) == 1

    def difference(self, scorer: str, a: int, b: int) -> np.ndarray:
        """How much better the scorer finds model `b`, in each row."""
        values = self.scores[scorer]
        return values[:, b] - values[:, a]

    def preference(self, a: int, b: int) -> np.ndarray | None:
        """What people prefer in each row: -1 all want `a`, 1 all want `b`; None without votes."""
        found = self.shares.get((a, b))
        if found is not None:
            return found
        turned = self.shares.get((b, a))
        return None if turned is None else -turned

    def disagreement(self, scorer: str, a: int, b: int) -> np.ndarray | None:
        """How far people and the scorer are apart: large where both are sure of the contrary.

        The difference of scores is measured in its standard deviation over the rows.
        """
        people = self.preference(a, b)
        if people is None:
            return None
        difference = self.difference(scorer, a, b)
        spread = np.nanstd(difference) if np.isfinite(difference).any() else 0.0
        return -people * difference / (spread or 1.0)

    def order(self, by: str, scorer: str, a: int, b: int, where: np.ndarray) -> np.ndarray:
        """Rows in the order in which they are shown.

        Args:
            by: `prompt`, `gain` (b over a), `loss`, `apart` (either way), `people` (for b),
                `disagreement`.
            scorer: whose values.
            a: one model.
            b: another one.
            where: bool `[rows]`, those that are shown at all.
        """
        rows = np.flatnonzero(where).astype(np.int32)
        value: np.ndarray | None = None
        if by in ("gain", "loss", "apart") and scorer in self.scores:
            gain = self.difference(scorer, a, b)
            value = {"gain": gain, "loss": -gain, "apart": np.abs(gain)}[by]
        elif by == "people":
            value = self.preference(a, b)
        elif by == "disagreement" and scorer in self.scores:
            value = self.disagreement(scorer, a, b)
        if value is None:
            return rows
        # What has no value comes last; equal ones stay in the order of their prompts.
        rank = np.where(np.isfinite(value[rows]), -value[rows], np.inf)
        return rows[np.argsort(rank, kind="stable")]


def gallery_of(thing: Thing, library: Library) -> Gallery:
    """The gallery of a run, a study, or one folder of samples."""
    votes: tuple[Study, Path] | None = None
    categories: Mapping[str, str] = {}
    problems: list[str] = []
    if thing.kind == "study":
        study = read_study(thing.path)
        models = _contenders(study, thing.path)
        texts = {prompt.id: prompt.text for prompt in study.prompts}
        categories = {p.id: p.attribute("category") or "" for p in study.prompts}
        votes = (study, thing.path)
    else:
        models, texts = _generated(thing, library, problems)
        votes = _study_of(models.values(), library)
    # In the order of the files first: what is sorted already is sorted quickly.
    keys = tuple(sorted(dict.fromkeys(key for one in models.values() for key in one.places)))
    pictures = tuple(models.values())
    told = _all_scores(library)
    return Gallery(
        tuple(models),
        keys,
        tuple([texts.get(prompt, "") for prompt, _ in keys]),
        tuple([categories.get(prompt, "") for prompt, _ in keys]),
        pictures,
        _score_tables(keys, pictures, told),
        frozenset(name for name, scores in told.items() if not scores.higher_is_better),
        _shares(votes, pictures, keys) if votes else {},
        tuple(problems),
    )


def _generated(
    thing: Thing, library: Library, problems: list[str]
) -> tuple[dict[str, Pictures], dict[str, str]]:
    """Model -> its pictures, and prompt id -> text."""
    if thing.kind == "samples":
        folders = {thing.path.name: thing.path}
    else:
        steps = library.steps(thing.path)
        folders = {s.name: s.path / "samples" for s in steps if s.stage == "generate"}
    models: dict[str, Pictures] = {}
    texts: dict[str, str] = {}
    for name, folder in folders.items():
        lines = read_sample_lines(folder / SAMPLES)
        told = lines.columns
        problems += [f"{name}: {lines.problem}"] if lines.problem else []
        if not told["file"]:
            continue
        label = told["model"][0] or name
        label = label if label not in models else name
        keys = zip(told["prompt_id"], told["sample_index"], strict=True)
        places = dict(zip(keys, range(len(told["file"])), strict=True))
        models[label] = Pictures(str(folder), told["file"], told["seed"], places)
        texts |= dict(zip(told["prompt_id"], told["prompt"], strict=True))
    return models, {prompt: text or "" for prompt, text in texts.items()}


def _contenders(study: Study, folder: Path) -> dict[str, Pictures]:
    models = {}
    for one in study.contenders:
        files = [str((folder / file).resolve()) for file in one.files.values()]
        places = {(prompt, 0): place for place, prompt in enumerate(one.files)}
        models[one.name] = Pictures("", files, [None] * len(files), places)
    return models


def _all_scores(library: Library) -> dict[str, Scores]:
    """Scorer -> values of all evaluations under the studio's folder."""
    found: dict[str, dict[str, float]] = {}
    lower: set[str] = set(_LOWER_IS_BETTER)
    for run in library.all("run"):
        for step in library.steps(run.path):
            place = step.output("scores") if step.stage == "evaluate" else None
            if place is None:
                continue
            folders = {
                side: library.output_named(run.path, step.config.get(side), "samples")
                for side in ("before", "after")
            }
            try:
                rows = read_scores(place / "scores.parquet")
                lower |= _lower(place / "summary.json")
            except (OSError, ValueError, TastemakerError):
                continue
            for row in rows:
                folder = folders.get(row["model"])
                if folder is not None and row["value"] is not None:
                    path = f"{folder}/{row['file']}"
                    found.setdefault(row["scorer"], {})[path] = row["value"]
    return {name: Scores(values, name not in lower) for name, values in found.items()}


def _lower(path: Path) -> set[str]:
    """Scorers of which less is better."""
    lines = json.loads(path.read_text(encoding="utf-8")).get("scores", [])
    told = [line for line in lines if line.get("higher_is_better") is False]
    return {str(line.get("scorer") or line.get("name")) for line in told}


def _score_tables(
    keys: Sequence[Key], pictures: Sequence[Pictures], scores: Mapping[str, Scores]
) -> dict[str, np.ndarray]:
    if not scores:
        return {}
    paths = [[c.path if c else "" for c in map(one.cell, keys)] for one in pictures]
    tables = {}
    for name, told in sorted(scores.items()):
        values, sign = told.values, 1.0 if told.higher_is_better else -1.0
        columns = [[sign * values.get(path, np.nan) for path in own] for own in paths]
        table = np.array(columns, float).reshape(len(pictures), len(keys)).T
        if np.isfinite(table).any():
            tables[name] = table
    return tables


def _study_of(models: Iterable[Pictures], library: Library) -> tuple[Study, Path] | None:
    """A study with votes on these very pictures."""
    there = list(models)
    for thing in library.all("study"):
        if not (thing.path / PEOPLE).exists():
            continue
        try:
            study = read_study(thing.path)
        except TastemakerError:
            continue
        files = (f for one in study.contenders for f in list(one.files.values())[:3])
        paths = [str((thing.path / file).resolve()) for file in files]
        if any(one.key_of(path) is not None for path in paths for one in there):
            return study, thing.path
    return None


def _shares(
    votes: tuple[Study, Path], pictures: Sequence[Pictures], keys: Iterable[Key]
) -> dict[tuple[int, int], np.ndarray]:
    """For each two models that were compared what people prefer, -1..1, NaN where nobody voted.

    Only pairs drawn at random tell that: a repeat would count a rater twice.
    """
    study, folder = votes
    if not (folder / PEOPLE).exists():
        return {}
    places: dict[tuple[str, str], tuple[int, Key]] = {}
    for one in study.contenders:
        for prompt, file in one.files.items():
            path = str((folder / file).resolve())
            for number, own in enumerate(pictures):
                if (key := own.key_of(path)) is not None:
                    places[one.name, prompt] = (number, key)
    rows = {key: row for row, key in enumerate(keys)}
    sums: dict[tuple[int, int], np.ndarray] = {}
    with People(folder / PEOPLE) as people:
        counted = [v.vote for v in people.votes(study.id)]
    for vote in counted:
        value = {"a": -1.0, "b": 1.0, "tie": 0.0, "both_bad": 0.0}.get(vote.choice)
        a, b = places.get((vote.a, vote.prompt)), places.get((vote.b, vote.prompt))
        if value is None or a is None or b is None or vote.reason != "random" or a[1] != b[1]:
            continue
        first, second = sorted((a[0], b[0]))
        table = sums.setdefault((first, second), np.zeros((2, len(rows))))
        table[:, rows[a[1]]] += (value if first == a[0] else -value, 1.0)
    return {
        pair: np.where(count > 0, total / np.maximum(count, 1), np.nan)
        for pair, (total, count) in sums.items()
    }
