"""Scores of generated pictures: read from a file, or computed by a scorer that is named."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tastemaker.engine.pair_inputs import DrawnPicture
from tastemaker.errors import InputError, RecipeError
from tastemaker.records.run import Artefact
from tastemaker.store.score_files import ScoreRow, read_score_rows

IMAGE_TEXT, PIXELS = "image_text", "pixels."
Read = Callable[[Path], np.ndarray]


@dataclass(frozen=True)
class FoundScores:
    """Values of one scorer.

    Attributes:
        values: one for each picture; None where there is none.
        higher_is_better: the direction of good; None where the scorer does not say.
        about: name, version, backbone, unit.
        unused: values of other models.
        notes: what a reader must know.
    """

    values: list[float | None]
    higher_is_better: bool | None
    about: dict[str, str]
    unused: int = 0
    notes: list[str] = field(default_factory=list)


def read_scores_of(
    path: Path,
    drawn: Sequence[DrawnPicture],
    scorer: str,
    names: Mapping[str, str],
    held_out: str | None,
) -> FoundScores:
    """The values of some pictures in a file of scores.

    Args:
        path: the file, or an evaluation's folder.
        drawn: the pictures.
        scorer: whose values.
        names: model in the file -> short name of the sample set; others are called alike.
        held_out: the scorer that must not select, whose backbone is compared.

    Raises:
        InputError: no such scorer there, values of two versions of it, or a set of samples without
            any value.
    """
    every = read_score_rows(path)
    rows = [row for row in every if row.scorer == scorer]
    if not rows:
        known = ", ".join(sorted({row.scorer for row in every})) or "none"
        raise InputError(path, f"no scorer {scorer!r}", f"one of {known}", "Correct source.scorer.")
    versions = {(row.version, row.backbone) for row in rows}
    if len(versions) > 1:
        raise InputError(
            path, f"{len(versions)} versions of {scorer}", "one", "Values of two versions are "
            "never compared: evaluate all pictures with one of them.",
        )  # fmt: skip
    models = {row.model for row in rows}
    sets = list(dict.fromkeys(one.set_name for one in drawn))
    chosen = _by_set(path, models, sets, names, drawn)
    by_place: dict[tuple[str, str, int], float | None] = {}
    by_file: dict[tuple[str, str], float | None] = {}
    unused = 0
    for row in rows:
        name = chosen.get(row.model)
        if name is None:
            unused += 1
        elif row.prompt_id:
            _put(by_place, (name, row.prompt_id, row.sample_index), row, path)
        else:
            _put(by_file, (name, row.file), row, path)
    values = []
    for one in drawn:
        place = (one.set_name, one.sample.prompt_id, one.sample.sample_index)
        values.append(by_place.get(place, by_file.get((one.set_name, one.sample.file))))
    version, backbone = next(iter(versions))
    about = {"scorer": scorer, "version": version, "backbone": backbone, "unit": rows[0].unit}
    others = {row.backbone for row in every if row.scorer == held_out} - {""}
    notes = []
    if backbone and backbone in others:
        notes.append(
            f"The held-out scorer {held_out} has the backbone of {scorer}, which selects: what one "
            "gains the other may follow."
        )
    return FoundScores(values, _direction(scorer), about, unused, notes)


def compute_scores(
    scorer: str,
    drawn: Sequence[DrawnPicture],
    image_text: Artefact | None,
    memory: Path,
    on_scored: Callable[[int], None],
) -> FoundScores:
    """The values of a scorer that this step runs itself; finished ones are kept in `memory`.

    Args:
        scorer: `image_text`, or `pixels.NAME` for a number of the operation `pixels`.
        drawn: the pictures; those with a problem have no value.
        image_text: the model of `image_text`.
        memory: a folder.
        on_scored: told how many more are done.

    Raises:
        RecipeError: no such scorer.
        InputError: its model was not given.
    """
    from tastemaker.store.feature_cache import FeatureCache
    from tastemaker.store.hashing import hash_bytes
    from tastemaker.store.images import load_image

    measure, about, direction = _opened(scorer, image_text)
    cache = FeatureCache(memory, " ".join(about.values()))
    usable = [one for one in drawn if not one.problem]
    keys = [f"{one.id} {hash_bytes(one.sample.prompt.encode())[:32]}" for one in usable]
    by_key = dict(zip(keys, usable, strict=True))

    def compute(some: Sequence[str]) -> np.ndarray:
        chosen = [by_key[key] for key in some]
        pixels = [load_image(Path(one.picture.path)).pixels for one in chosen]
        return measure(pixels, [one.sample.prompt for one in chosen])[:, None]

    found: dict[str, float] = {}
    if keys:
        rows = cache.get(keys, compute, on_scored)[:, 0].astype(np.float64)
        found = dict(zip(keys, rows.tolist(), strict=True))
    by_place = {id(one): found[key] for one, key in zip(usable, keys, strict=True)}
    return FoundScores([by_place.get(id(one)) for one in drawn], direction, about)


def check_scorer(scorer: str, has_model: bool) -> None:
    """Refuse a scorer that `compute_scores` could not run.

    Raises:
        RecipeError: no such scorer.
        InputError: its model was not given.
    """
    from tastemaker.scorers.pixel_facts import Pixels

    numbers = [name for name, kind in Pixels.FIELDS.items() if kind.startswith("float")]
    if scorer.startswith(PIXELS) and scorer.removeprefix(PIXELS) in numbers:
        return
    if scorer != IMAGE_TEXT:
        listed = ", ".join(f"{PIXELS}{name}" for name in numbers)
        raise RecipeError(
            "source.scorer",
            repr(scorer),
            f"a scorer in a file of scores, {IMAGE_TEXT}, or one of {listed}",
            "Correct the name, or give scores=RUN of an evaluation.",
        )
    if not has_model:
        raise InputError(
            "image_text", "nothing", "the model of the scorer image_text",
            "Write image_text=tiny-clip, or the path of a model; or give scores=RUN.",
        )  # fmt: skip


def _opened(
    scorer: str, image_text: Artefact | None
) -> tuple[Callable[[Sequence[np.ndarray], Sequence[str]], np.ndarray], dict[str, str], bool]:
    check_scorer(scorer, image_text is not None)
    if scorer.startswith(PIXELS):
        from tastemaker.scorers.pixel_facts import Pixels, measure

        name = scorer.removeprefix(PIXELS)

        def of_pixels(pictures: Sequence[np.ndarray], _: Sequence[str]) -> np.ndarray:
            return np.array([measure(pixels)[name] for pixels in pictures], np.float64)

        about = {"scorer": scorer, "version": str(Pixels.VERSION), "backbone": "", "unit": name}
        return of_pixels, about, True
    assert image_text is not None
    from tastemaker.engine.picture_scores import scoring_device
    from tastemaker.models.locate import locate
    from tastemaker.scorers.match_scorers import open_match
    from tastemaker.scorers.scoring import Found

    place = locate(str(image_text.path), "image_text")
    label = f"{Path(str(image_text.path)).name}@{image_text.key[:12]}"
    made = open_match(Found(place, label), IMAGE_TEXT, scoring_device())
    about = {name: str(getattr(made, name)) for name in ("version", "backbone", "preprocessing")}
    return made.score, {"scorer": scorer, **about, "unit": made.unit}, made.higher_is_better


def _direction(scorer: str) -> bool | None:
    from tastemaker.scorers.table import SCORERS, scorer_class

    return bool(scorer_class(scorer).higher_is_better) if scorer in SCORERS else None


def _by_set(
    path: Path,
    models: set[str],
    sets: Sequence[str],
    names: Mapping[str, str],
    drawn: Sequence[DrawnPicture],
) -> dict[str, str]:
    """Model in the file -> set of samples."""
    folders = {(one.set_name, str(Path(one.picture.path).parent)) for one in drawn}
    if len(folders) > len(sets):
        raise InputError(
            "samples", f"several sample sets called {', '.join(sets)}", "names of their own",
            "Scores tell models by name: generate each with a `name` of its own.",
        )  # fmt: skip
    chosen = {model: names.get(model, model) for model in models}
    if len(models) == len(sets) == 1 and not names:
        chosen = {next(iter(models)): sets[0]}
    lacking = [name for name in sets if name not in chosen.values()]
    if lacking:
        raise InputError(
            path,
            f"scores of {', '.join(sorted(models)) or 'no model'}, none of the sample set "
            f"'{lacking[0]}'",
            f"scores of every set ({', '.join(sets)})",
            f"Say which is which: source.models={{{sorted(models)[0]}: {lacking[0]}}}.",
        )
    return {model: name for model, name in chosen.items() if name in sets}


def _put(known: dict[Any, float | None], place: Any, row: ScoreRow, path: Path) -> None:
    if place in known and known[place] != row.value:
        raise InputError(
            path, f"two values of {row.scorer} for {place}", "one a picture", "Evaluate again."
        )
    known[place] = row.value
