"""Stage: rate a collection by simulated raters, through the same door that people use."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
from pydantic import Field

from tastemaker.engine.simulated_raters import Noise, simulate_votes
from tastemaker.errors import InputError
from tastemaker.records.ballot import RATING, Shown
from tastemaker.records.config import Config as BaseConfig
from tastemaker.records.run import Artefact, Manifest
from tastemaker.store.rundir import StepDir

VERSION = 2
OUTPUTS = ("votes",)


class Config(BaseConfig):
    """Votes that no person gave: for trying the chain from votes to a selection."""

    inputs: ClassVar[dict[str, str]] = {"collection": "collection", "selection": "selection"}
    collection: str
    """The pictures."""
    selection: str | None = None
    """Only these pictures."""
    taste: str
    """What they judge by: an expression in SQL over the collection's columns, for example
    `pixels_sharpness - 20 * pixels_flat_share`; brought to mean 0 and standard deviation 1."""
    votes: int = Field(default=1000, ge=1)
    """How many answers in all."""
    pool: int = Field(default=2000, ge=2)
    """Pictures that are compared, at most, by lot."""
    column: str | None = None
    """Embeddings that tell groups of content apart; by default `embedding`, where it is there."""
    noise: Noise = Noise()
    """How they err."""
    seed: int = 0
    """Of pairs, sides and answers."""


def run(config: Config, inputs: Mapping[str, Artefact], step: StepDir) -> Manifest:
    """Write `people.sqlite` and, for later steps, `votes.jsonl`.

    Raises:
        InputError: the expression is wrong, or no number for a picture.
    """
    from tastemaker.engine.rating_ballot import open_rating
    from tastemaker.store.people import FILE, People
    from tastemaker.store.vote_files import write_votes

    collection = Path(inputs["collection"].path)
    selection = inputs.get("selection")
    ballot = open_rating(
        collection,
        None if selection is None else Path(selection.path),
        pool=config.pool,
        seed=config.seed,
        column=config.column,
    )
    liked = _tastes(config, collection, ballot.ids)
    step.path.mkdir(parents=True, exist_ok=True)

    def taste(shown: Shown, side: str) -> float:
        return liked[shown.a if side == "a" else shown.b]

    with People(step.path / FILE) as people:
        simulate_votes(people, ballot, taste, config.noise, votes=config.votes, seed=config.seed)
        votes = people.votes(superseded=True)
    write_votes(step.path / "votes.jsonl", votes)
    counts = Counter(f"votes: {vote.vote.reason}" for vote in votes)
    return Manifest(
        stage="simulate_rating",
        key=step.key,
        outputs={"votes": "votes.jsonl"},
        counts={"votes (simulated)": len(votes), "pictures": len(ballot.ids), **counts},
        results={"simulated": True, "study": RATING, "taste": config.taste},
    )


def _tastes(config: Config, collection: Path, ids: tuple[str, ...]) -> dict[str, float]:
    from tastemaker.store.catalogue import Catalogue
    from tastemaker.store.catalogue_queries import check_expression

    check_expression(config.taste)
    sql = f'select id, (\n{config.taste}\n)::DOUBLE as taste from "all"'
    table = Catalogue(collection).query(sql)
    found = dict(zip(table["id"].to_pylist(), table["taste"].to_pylist(), strict=True))
    lacking = [id_ for id_ in ids if found.get(id_) is None]
    if lacking:
        raise InputError(
            f"taste '{config.taste}'",
            f"no number for {len(lacking)} of {len(ids)} pictures, first {lacking[0][:12]}",
            "one for each picture",
            "Measure the columns that it names, or give a selection of pictures that have them.",
        )
    values = np.array([found[id_] for id_ in ids], float)
    values = (values - values.mean()) / (values.std() or 1.0)
    return dict(zip(ids, values.tolist(), strict=True))
