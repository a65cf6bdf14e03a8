"""What a gallery shows: prompts by models, with the same noise in a row, scores, and votes.

Axes: scores are float64 `[rows, models]`, NaN where there is none; orders are int32 `[rows]`.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tastemaker.errors import TastemakerError
from tastemaker.records.ballot import Study
from tastemaker.store.people import FILE as PEOPLE
from tastemaker.store.people import People
from tastemaker.store.samples import SAMPLES
from tastemaker.store.scores import read_scores
from tastemaker.store.studies import read_study
from tastemaker.web.library import Library, Thing, output_named, steps_of

_COLUMNS = ("model", "prompt_id", "prompt", "sample_index", "seed", "file")
_LOWER_IS_BETTER = ("concept", "distance")

Key = tuple[str, int]
"""Prompt id and number of the picture."""


class Cell(NamedTuple):
    """One picture: its file, and the seed of its noise where that is known."""

    path: str
    seed: int | None


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
        cells: for each row a cell a model, None where a picture is missing.
        scores: scorer -> values, larger is better.
        shares: (model, model) -> share of the votes for the second, -1..1 after centring.
    """

    models: tuple[str, ...]
    keys: tuple[Key, ...]
    texts: tuple[str, ...]
    categories: tuple[str, ...]
    cells: tuple[tuple[Cell | None, ...], ...]
    scores: Mapping[str, np.ndarray] = field(default_factory=dict)
    shares: Mapping[tuple[int, int], np.ndarray] = field(default_factory=dict)

    @cached_property
    def _rows(self) -> dict[Key, int]:
        return {key: row for row, key in enumerate(self.keys)}

    def row_of(self, prompt_id: str, index: int) -> int | None:
        """The row of a prompt's picture."""
        return self._rows.get((prompt_id, index))

    def same_noise(self, row: int) -> bool:
        """Whether all pictures of a row began with the same noise, as far as their seeds tell."""
        seeds = {cell.seed for cell in self.cells[row] if cell is not None}
        return len(seeds) == 1

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
    if thing.kind == "study":
        study = read_study(thing.path)
        models = _contenders(study, thing.path)
        texts = {prompt.id: prompt.text for prompt in study.prompts}
        categories = {p.id: p.attribute("category") or "" for p in study.prompts}
        votes = (study, thing.path)
    else:
        models, texts = _generated(thing)
        votes = _study_of(models, library)
    # In the order of the files first: what is sorted already is sorted quickly.
    keys = tuple(sorted(dict.fromkeys(key for cells in models.values() for key in cells)))
    names = tuple(models)
    cells = tuple(tuple(models[name].get(key) for name in names) for key in keys)
    scores = _score_tables(cells, len(names), _all_scores(library))
    shares = _shares(votes, names, models, keys) if votes else {}
    return Gallery(
        names,
        keys,
        tuple(texts.get(prompt, "") for prompt, _ in keys),
        tuple(categories.get(prompt, "") for prompt, _ in keys),
        cells,
        scores,
        shares,
    )


def _generated(thing: Thing) -> tuple[dict[str, dict[Key, Cell]], dict[str, str]]:
    """Model -> its pictures, and prompt id -> text."""
    folders = (
        {thing.path.name: thing.path}
        if thing.kind == "samples"
        else {s.name: s.path / "samples" for s in steps_of(thing.path) if s.stage == "generate"}
    )
    models: dict[str, dict[Key, Cell]] = {}
    texts: dict[str, str] = {}
    for name, folder in folders.items():
        told = sample_columns(folder / SAMPLES)
        if not told["file"]:
            continue
        label = told["model"][0] or name
        label = label if label not in models else name
        keys = zip(told["prompt_id"], told["sample_index"], strict=True)
        paths = [f"{folder}/{file}" for file in told["file"]]
        models[label] = dict(zip(keys, map(Cell, paths, told["seed"]), strict=True))
        texts |= dict(zip(told["prompt_id"], told["prompt"], strict=True))
    return models, texts


def sample_columns(path: Path) -> dict[str, list[Any]]:
    """The columns of a sample set by name, also while it is being written.

    `model`, `prompt_id`, `prompt`, `sample_index`, `seed`, `file`; all empty where there is none.
    Arrow reads them: a hundred thousand rows take a fifth of a second (measured).
    """
    import pyarrow as pa
    from pyarrow import compute
    from pyarrow import json as arrow_json

    kinds = {"sample_index": pa.int64(), "seed": pa.uint64()}
    schema = pa.schema([(name, kinds.get(name, pa.string())) for name in _COLUMNS])
    empty: dict[str, list[Any]] = {name: [] for name in _COLUMNS}
    try:
        data = path.read_bytes()
        # A line that is being written has no end yet.
        data = data[: data.rfind(b"\n") + 1]
        if not data:
            return empty
        options = arrow_json.ParseOptions(schema, unexpected_field_behavior="ignore")
        table = arrow_json.read_json(pa.BufferReader(data), parse_options=options).drop_null()
    except (OSError, pa.ArrowInvalid):
        return empty
    # A line that names a file outside of its folder is not one of ours.
    pattern = compute.MatchSubstringOptions(r"^/|(^|/)\.\.(/|$)")
    leads_out = compute.call_function("match_substring_regex", [table["file"]], pattern)
    table = table.filter(compute.call_function("invert", [leads_out]))
    return {name: table[name].to_pylist() for name in _COLUMNS}


def _contenders(study: Study, folder: Path) -> dict[str, dict[Key, Cell]]:
    return {
        one.name: {
            (prompt, 0): Cell(str((folder / file).resolve()), None)
            for prompt, file in one.files.items()
        }
        for one in study.contenders
    }


def _all_scores(library: Library) -> dict[str, Scores]:
    """Scorer -> values of all evaluations under the studio's folder."""
    found: dict[str, dict[str, float]] = {}
    lower: set[str] = set(_LOWER_IS_BETTER)
    for run in library.all("run"):
        for step in steps_of(run.path):
            place = step.output("scores") if step.stage == "evaluate" else None
            if place is None:
                continue
            folders = {
                side: output_named(run.path, step.config.get(side), "samples")
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
    cells: Sequence[Sequence[Cell | None]], models: int, scores: Mapping[str, Scores]
) -> dict[str, np.ndarray]:
    tables = {}
    for name, told in sorted(scores.items()):
        values, sign = told.values, 1.0 if told.higher_is_better else -1.0
        table = np.array(
            [
                [sign * values.get(c.path, np.nan) if c is not None else np.nan for c in row]
                for row in cells
            ],
            float,
        ).reshape(len(cells), models)
        if np.isfinite(table).any():
            tables[name] = table
    return tables


def _study_of(
    models: Mapping[str, Mapping[Key, Cell]], library: Library
) -> tuple[Study, Path] | None:
    """A study with votes on these very pictures."""
    there = {cell.path for cells in models.values() for cell in cells.values()}
    if not there:
        return None
    for thing in library.all("study"):
        try:
            study = read_study(thing.path)
        except TastemakerError:
            continue
        files = (f for one in study.contenders for f in list(one.files.values())[:3])
        if (thing.path / PEOPLE).exists() and any(
            str((thing.path / file).resolve()) in there for file in files
        ):
            return study, thing.path
    return None


def _shares(
    votes: tuple[Study, Path],
    names: Sequence[str],
    models: Mapping[str, Mapping[Key, Cell]],
    keys: Iterable[Key],
) -> dict[tuple[int, int], np.ndarray]:
    """For each two models that were compared what people prefer, -1..1, NaN where nobody voted."""
    study, folder = votes
    if not (folder / PEOPLE).exists():
        return {}
    places = {cell.path: (m, key) for m, n in enumerate(names) for key, cell in models[n].items()}
    files = {
        (one.name, prompt): str((folder / file).resolve())
        for one in study.contenders
        for prompt, file in one.files.items()
    }
    rows = {key: row for row, key in enumerate(keys)}
    sums: dict[tuple[int, int], np.ndarray] = {}
    with People(folder / PEOPLE) as people:
        counted = [v.vote for v in people.votes(study.id)]
    for vote in counted:
        value = {"a": -1.0, "b": 1.0, "tie": 0.0, "both_bad": 0.0}.get(vote.choice)
        a = places.get(files.get((vote.a, vote.prompt), ""))
        b = places.get(files.get((vote.b, vote.prompt), ""))
        if value is None or a is None or b is None or vote.reason == "gold" or a[1] != b[1]:
            continue
        first, second = sorted((a[0], b[0]))
        table = sums.setdefault((first, second), np.zeros((2, len(rows))))
        table[:, rows[a[1]]] += (value if first == a[0] else -value, 1.0)
    return {
        pair: np.where(count > 0, total / np.maximum(count, 1), np.nan)
        for pair, (total, count) in sums.items()
    }
