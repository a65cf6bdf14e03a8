"""The sides of an evaluation: pictures, votes between them, scores, the checkpoint that is best."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tastemaker.errors import InputError
from tastemaker.records.generation import PromptSet
from tastemaker.store.sample_sets import BASE, read_sets
from tastemaker.store.samples import SampleSet

if TYPE_CHECKING:
    from tastemaker.scorers.figures import Scored
    from tastemaker.scorers.people import Counted


@dataclass(frozen=True)
class Side:
    """One side.

    Attributes:
        folder: its pictures.
        images: images that it was trained on; None where that is not known.
        checkpoint: its weights; None for all but a checkpoint.
    """

    folder: Path
    images: int | None = None
    checkpoint: Path | None = None


def sides_of(
    named: Mapping[str, Path | str], checkpoints: Path | str | None = None
) -> dict[str, Side]:
    """Sides by name: the model before the training, others that are named, then checkpoints.

    Args:
        named: side -> its sample set.
        checkpoints: what `generate` has left of a fit's checkpoints.

    Raises:
        InputError: two sides have one name, or there are no such sets.
    """
    others = {name: Side(Path(folder)) for name, folder in named.items()}
    if checkpoints is None:
        return others
    sets = Path(checkpoints)
    found = {
        one.side: Side(
            sets / one.side,
            one.images,
            (sets / one.checkpoint).resolve() if one.checkpoint else None,
        )
        for one in read_sets(sets)
    }
    if twice := sorted(found.keys() & others.keys()):
        raise InputError(
            f"sides.{twice[0]}",
            "the name of a checkpoint's side",
            f"another name than {', '.join(found)}",
            "Call it otherwise.",
        )
    start = {name: side for name, side in found.items() if name == BASE}
    return start | others | found


def chosen_checkpoint(sides: Mapping[str, Side], best: str | None) -> Path | None:
    """The folder of the side that was chosen, where it is a checkpoint that is still there."""
    place = sides[best].checkpoint if best is not None else None
    return place if place is not None and place.is_dir() else None


def votes_between(
    sides: Sequence[str],
    reference: str,
    place: Path | str,
    prompts: PromptSet,
    asked: Sequence[str],
) -> "Counted":
    """The votes of a file that count.

    Args:
        sides: names of all sides.
        reference: the one that all others are compared with.
        place: the file.
        prompts: the whole prompt set.
        asked: ids of the prompts that are compared.

    Raises:
        InputError: votes on prompts that the set does not have.
    """
    from tastemaker.scorers.people import counted_votes
    from tastemaker.store.vote_files import read_votes

    stored = read_votes(place)
    votes = [one.vote for one in stored if one.counts]
    known = {p.id for p in prompts.prompts}
    odd = sorted({vote.prompt for vote in votes if vote.reason != "gold"} - known)
    if odd:
        raise InputError(
            place,
            f"votes on {len(odd)} prompts that {prompts.name} does not have, first {odd[0]!r}",
            f"votes on its {len(known)} prompts, by id",
            "Give the prompt set that the study was made with.",
        )
    return counted_votes(votes, asked, sides, reference, len(stored) - len(votes))


def score_rows(scored: "Sequence[Scored]", sets: Mapping[str, SampleSet]) -> list[dict[str, Any]]:
    """A row per picture and scorer, for `scores.parquet`."""
    from math import isnan

    return [
        {
            "model": name,
            "prompt_id": sample.prompt_id,
            "sample_index": sample.sample_index,
            "file": sample.file,
            "scorer": found.scorer.name,
            "version": found.scorer.version,
            "backbone": found.scorer.backbone,
            "preprocessing": found.scorer.preprocessing,
            "unit": found.scorer.unit,
            "value": None if isnan(value) else float(value),
        }
        for found in scored
        for name, values in found.values.items()
        for sample, value in zip(sets[name].samples, values, strict=True)
    ]
