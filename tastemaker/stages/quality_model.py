"""Stage: learn from votes what people like, and give every picture a utility and a rank."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import Field

from tastemaker.errors import InputError
from tastemaker.records.config import Config as BaseConfig
from tastemaker.records.run import Artefact, Manifest
from tastemaker.records.vote import Vote
from tastemaker.stats.ranks import By
from tastemaker.store.catalogue import Catalogue, ColumnKey
from tastemaker.store.rundir import StepDir
from tastemaker.training.pairwise_ranks import PairwiseSettings
from tastemaker.training.quality import Method

if TYPE_CHECKING:
    from tastemaker.scorers.quality import QualityModel
    from tastemaker.store.embeddings import Embeddings

VERSION = 2
OUTPUTS = ("quality", "quality_report")

LEAST_ANSWERS = 20
"""Fewer answers than this teach nothing (ours)."""

_GALLERY = 60


class Config(BaseConfig):
    """A quality model from votes; it fills the column `quality` of the collection."""

    inputs: ClassVar[dict[str, str]] = {
        "collection": "collection",
        "votes": "votes",
        "selection": "selection",
        "encoder": "vision",
    }
    collection: str
    """The pictures, with embeddings."""
    votes: str
    """A file of votes: .jsonl, .csv or .parquet."""
    selection: str | None = None
    """Ranks are quantiles of these pictures, by default of all that have an embedding. All pictures
    that were voted on teach, and all get a rank."""
    column: str = "embedding"
    """Name of the column of embeddings: any that has vectors."""
    method: Method = "utility"
    """`utility`: one linear utility on both sides (ours: better on every measured set, and
    consistent by construction). `pairwise`: bigASP's network of both pictures, then Elo, then a
    network of ten ranks."""
    ranks_by: By = "quantile"
    """For `utility`: as many pictures in each rank, or as wide a range of utilities (bigASP)."""
    pairwise: PairwiseSettings = PairwiseSettings()
    """For `pairwise`."""
    worse_copies: int = Field(default=0, ge=0)
    """So many pictures are also compared with a blurred or compressed copy (bigASP); needs
    `encoder`."""
    encoder: str | None = None
    """The model that made the embeddings, for the worse copies."""
    clusters: int = Field(default=16, ge=2)
    """Groups of content in the table of scores by group (ours)."""
    by_attributes: tuple[str, ...] = ("style",)
    """The same table by attributes of the pictures, where they have them."""
    seed: int = 0
    """Of splits, weights and copies."""


def run(config: Config, inputs: Mapping[str, Artefact], step: StepDir) -> Manifest:
    """Write `model/` and `quality.json`, and fill the column `quality`.

    Raises:
        InputError: no embeddings, hardly any answers, or worse copies without their encoder.
    """
    from tastemaker.store.atomic import atomic_folder, write_json
    from tastemaker.store.embeddings import find_embeddings
    from tastemaker.store.hashing import hash_model
    from tastemaker.store.vote_files import read_votes
    from tastemaker.training import quality

    catalogue = Catalogue(Path(inputs["collection"].path))
    found = find_embeddings(catalogue, config.column)
    assert found is not None, "it is not optional"
    stored = read_votes(Path(inputs["votes"].path))
    votes = [one.vote for one in stored if one.superseded_by is None]
    _check_answers(votes, found, inputs["votes"].path)
    ranked = _ranked(found, inputs)
    worse = _worse_copies(config, inputs, catalogue, found) if config.worse_copies else {}
    lesson = quality.lesson_of(votes, found.ids, found.vectors, worse, ranked)
    facts = {
        "column": found.column,
        "embedding": found.folder,
        "method": config.method,
        "answers": len(lesson.answers) - len(worse),
        "worse_copies": len(worse),
        "simulated": any(one.viewport == "simulated" for one in stored),
    }
    if config.method == "utility":
        model, held, figures = quality.train_utility(
            lesson, facts, by=config.ranks_by, seed=config.seed
        )
    else:
        model, held, figures = quality.train_pairwise(
            lesson, facts, config.pairwise, seed=config.seed
        )
    with atomic_folder(step.path / "model") as folder:
        model.save(folder)
    hashed = hash_model(step.path / "model")
    column = _fill(catalogue, model, found, hashed)
    utility, _, targets = model.judge(found.vectors)
    rank = np.array([row["rank"] for row in model.rows(found.vectors)])
    order = np.argsort(utility, kind="stable")
    named = [found.ids[n] for n in order.tolist()]
    summary = {
        **facts,
        **figures,
        **quality.trust(votes, held),
        "votes": dict(Counter(f"{v.reason}: {v.choice}" for v in votes)),
        "raters": dict(Counter(v.rater for v in votes)),
        "pictures": len(found.ids),
        "ranks": np.bincount(rank, minlength=targets.shape[1]).tolist(),
        "groups": _tables(config, catalogue, found, utility, rank),
        "quality_column": column.folder,
        "lowest": named[:_GALLERY],
        "highest": named[: -_GALLERY - 1 : -1],
        "junk": [id_ for n, id_ in zip(order.tolist(), named, strict=True) if rank[n] == 0][
            :_GALLERY
        ],
        "collection": os.path.relpath(catalogue.path, step.path),
    }
    write_json(step.path / "quality.json", summary)
    told = {
        name: summary[name]["value"]
        for name in ("accuracy_both_new", "accuracy_one_new", "repeat_consistency")
        if summary[name]
    }
    return Manifest(
        stage="quality_model",
        key=step.key,
        outputs={"quality": "model", "quality_report": "quality.json"},
        counts={"answers": facts["answers"], "pictures": len(found.ids)},
        results={**told, **figures, "quality_column": column.folder},
    )


def _check_answers(votes: Sequence[Vote], found: "Embeddings", where: object) -> None:
    having = set(found.ids)
    used = [v for v in votes if v.choice != "skip" and v.reason != "gold" and {v.a, v.b} <= having]
    if len(used) < LEAST_ANSWERS:
        raise InputError(
            where,
            f"{len(used)} answers about pictures that have an embedding, of {len(votes)} votes",
            f"at least {LEAST_ANSWERS}",
            "Rate some more: tastemaker rate COLLECTION.",
        )


def _ranked(found: "Embeddings", inputs: Mapping[str, Artefact]) -> frozenset[str] | None:
    """Pictures that ranks are quantiles of; None for all that have an embedding."""
    from tastemaker.store.selections import read_selection

    if "selection" not in inputs:
        return None
    place = inputs["selection"].path
    ranked = frozenset(read_selection(Path(place)).ids) & frozenset(found.ids)
    if not ranked:
        todo = "Measure its pictures, or name another selection."
        raise InputError(place, "no picture with an embedding", "some", todo)
    return ranked


def _worse_copies(
    config: Config, inputs: Mapping[str, Artefact], catalogue: Catalogue, found: "Embeddings"
) -> dict[str, np.ndarray]:
    from tastemaker.scorers.embedding import Embedding
    from tastemaker.scorers.operation import Subject
    from tastemaker.store.hashing import hash_model
    from tastemaker.store.images import load_image
    from tastemaker.training.corruption import corrupted

    if "encoder" not in inputs:
        raise InputError(
            "quality_model.encoder", "nothing", "the model of the embeddings", "Name it."
        )
    place = Path(inputs["encoder"].path)
    if hash_model(place) not in found.hashes:
        raise InputError(
            place,
            f"another model than that of the column '{config.column}'",
            "the same one",
            "Name the model that the embeddings were made with.",
        )
    random = np.random.default_rng([config.seed, 2])
    count = min(config.worse_copies, len(found.ids))
    chosen = {found.ids[n] for n in random.choice(len(found.ids), count, replace=False).tolist()}
    records = [*{r.id: r for r in catalogue.records() if r.id in chosen}.values()]
    operation = Embedding(model=str(place))
    measure = operation.open({"model": place}, "cpu")
    copies: dict[str, np.ndarray] = {}
    for begin in range(0, len(records), operation.BATCH):
        subjects = []
        for record in records[begin : begin + operation.BATCH]:
            pixels = load_image(catalogue.picture_path(record)).pixels
            subjects.append(Subject(record.id, corrupted(pixels, random)))
        for subject, values in zip(subjects, measure(subjects), strict=True):
            if "vector" in values:
                vector = np.asarray(values["vector"], np.float32)
                copies[subject.id] = vector / np.linalg.norm(vector)
    return copies


def _fill(
    catalogue: Catalogue, model: "QualityModel", found: "Embeddings", hashed: str
) -> ColumnKey:
    """The column `quality` of all pictures that have an embedding, as `curate` would fill it."""
    from tastemaker.scorers.quality import Quality

    operation = Quality(weights="model", embedding=found.column)
    params = operation.params({}, {"weights": hashed})
    key = ColumnKey(
        operation.column,
        operation.VERSION,
        {**params, "reads": {found.column: found.folder}},
    )
    place = {id_: number for number, id_ in enumerate(found.ids)}
    for part in catalogue.parts():
        own = [id_ for id_ in dict.fromkeys(catalogue.ids(part)) if id_ in place]
        if own:
            rows = model.rows(found.vectors[[place[id_] for id_ in own]])
            catalogue.write_rows(key, part, dict(zip(own, rows, strict=True)), Quality.FIELDS)
    catalogue.finish_column(key, Quality.FIELDS)
    return key


def _tables(
    config: Config,
    catalogue: Catalogue,
    found: "Embeddings",
    utility: np.ndarray,
    rank: np.ndarray,
) -> dict[str, Any]:
    """Scores by group of content and by attribute: how much of taste is taste for a style?"""
    from tastemaker.curation.embedding_clusters import cluster_numbers
    from tastemaker.store.facts import read_facts

    numbers = cluster_numbers(found.vectors, min(config.clusters, len(found.ids)))
    labels: dict[str, list[str | None]] = {"cluster": [f"{number}" for number in numbers.tolist()]}
    addresses = [f"attribute.{name}" for name in config.by_attributes]
    facts = read_facts(catalogue, {}, addresses)
    row = {id_: n for n, id_ in reversed(list(enumerate(facts.ids)))}
    for address in addresses:
        values = [facts.values[address][row[id_]] for id_ in found.ids]
        if len({value for value in values if value is not None}) > 1:
            labels[address] = values
    return {name: _table(of, found.ids, utility, rank) for name, of in labels.items()}


def _table(
    labels: Sequence[str | None], ids: Sequence[str], utility: np.ndarray, rank: np.ndarray
) -> dict[str, Any]:
    lines, between = [], 0.0
    groups: dict[str, list[int]] = {}
    for number, label in enumerate(labels):
        groups.setdefault("(none)" if label is None else str(label), []).append(number)
    for label, rows in groups.items():
        own = utility[rows]
        between += len(rows) * (own.mean() - utility.mean()) ** 2
        middle = sorted(rows, key=lambda n: abs(utility[n] - own.mean()))
        lines.append(
            {
                "group": label,
                "pictures": len(rows),
                "mean_utility": float(own.mean()),
                "mean_rank": float(rank[rows].mean()),
                "rank_0": float((rank[rows] == 0).mean()),
                "rank_7_up": float((rank[rows] >= 7).mean()),
                "examples": [ids[n] for n in middle[:4]],
            }
        )
    total = float(((utility - utility.mean()) ** 2).sum())
    lines.sort(key=lambda line: -line["mean_utility"])
    return {"explained": between / total if total else 0.0, "rows": lines}
