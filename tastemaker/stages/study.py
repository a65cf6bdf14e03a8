"""Stage: plan a study of generated pictures; simulated raters may answer it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field, field_validator

from tastemaker.engine.simulated_raters import Noise, simulate_votes
from tastemaker.errors import InputError
from tastemaker.records.ballot import Shown
from tastemaker.records.config import Config as BaseConfig
from tastemaker.records.config import as_tuple
from tastemaker.records.run import Artefact, Manifest
from tastemaker.store.atomic import write_json
from tastemaker.store.rundir import StepDir

VERSION = 2
OUTPUTS = ("study", "votes", "study_results")


class Simulated(BaseConfig):
    """Raters that are none: they judge by a scorer's values."""

    scorer: str = "concept"
    """Name of a scorer in `scores`."""
    noise: Noise = Noise()
    """How they err."""


class Config(BaseConfig):
    """Blind comparisons of sample sets; `tastemaker study serve` lets people vote on it."""

    inputs: ClassVar[dict[str, str]] = {
        "samples": "samples",
        "prompts": "prompts",
        "scores": "scores",
    }
    samples: tuple[str, ...]
    """Generated pictures, two sets or more."""
    prompts: str | None = None
    """Their prompts, whose attributes are the report's categories."""
    scores: str | None = None
    """What scorers say of the same pictures, by an evaluate step: to compare with people."""
    names: tuple[str, ...] = ()
    """Names of the models; by default those of the sample sets."""
    name: str = "study"
    """Of the study, for people."""
    questions: tuple[str, ...] = ("general",)
    """`general`, `appeal`, `alignment` (the three of the Diffusion-DPO study), or `name: text`."""
    votes: int = Field(default=5, ge=1)
    """Votes for each prompt, pair of models and question (the Diffusion-DPO study: 5)."""
    ties: bool = True
    """Whether "as good as each other" is an answer (that study: no)."""
    both_bad: bool = True
    """Whether "neither is acceptable" is one (that study: no)."""
    subset: int | None = Field(default=None, ge=2)
    """Only so many prompts, by lot."""
    allow_missing: bool = False
    """Leave out prompts without a picture of each model, instead of refusing."""
    repeat: float = Field(default=0.05, ge=0, le=0.5)
    """Share of pairs shown again with sides swapped (ours)."""
    gold: int = Field(default=0, ge=0)
    """Pairs with a known answer: a picture beside that of another prompt (ours)."""
    instructions: str = ""
    """What raters read first."""
    simulated: Simulated | None = None
    """Let simulated raters answer; they say nothing of the pictures."""
    seed: int = 0
    """Of order, sides, subset and simulated answers."""

    @field_validator("samples", "names", "questions", mode="before")
    @classmethod
    def _list(cls, value: object) -> object:
        return as_tuple(value)


def run(config: Config, inputs: Mapping[str, Artefact], step: StepDir) -> Manifest:
    """Write `study/` with the plan and the votes.

    Where simulated raters have answered, also `study/votes.jsonl` for later steps, and
    `results.json`. What people answer later is read from the folder itself.

    Raises:
        InputError: a picture is missing, or the simulated raters' scorer is.
    """
    from tastemaker.engine.study_making import make_study, planned, read_pictures
    from tastemaker.engine.study_results import results
    from tastemaker.store.people import FILE, People
    from tastemaker.store.prompt_sets import read_prompt_set
    from tastemaker.store.samples import read_samples
    from tastemaker.store.studies import write_study
    from tastemaker.store.vote_files import write_votes

    prompts = inputs.get("prompts")
    asked = None if prompts is None else read_prompt_set(Path(prompts.path))
    places = [Path(inputs[f"samples.{n}"].path) for n in range(len(config.samples))]
    names = config.names or tuple(read_samples(place)[0].model for place in places)
    if len(names) != len(places):
        raise InputError("study.names", names, f"{len(places)} names", "One for each set.")
    models = [read_pictures(n, place, asked) for n, place in zip(names, places, strict=True)]
    folder = step.path / "study"
    folder.mkdir(parents=True, exist_ok=True)
    study = make_study(
        folder,
        config.name,
        models,
        asked,
        questions=config.questions,
        subset=config.subset,
        allow_missing=config.allow_missing,
        gold=config.gold,
        seed=config.seed,
        votes=config.votes,
        ties=config.ties,
        both_bad=config.both_bad,
        repeat=config.repeat,
        instructions=config.instructions,
    )
    write_study(folder, study)
    plan = planned(study)
    outputs = {"study": "study"}
    told: dict[str, Any] = {"planned_votes": plan["votes"]}
    if plan["smallest_rate"] is not None:
        told["smallest_rate"] = plan["smallest_rate"]
    with People(folder / FILE) as people:
        if config.simulated is not None:
            _simulate(config, config.simulated, inputs, folder, people)
        stored = people.votes(study.id, superseded=True)
    if stored:
        found = results(study, stored, _scores(inputs))
        write_json(step.path / "results.json", found)
        write_votes(folder / "votes.jsonl", stored)
        outputs |= {"study_results": "results.json", "votes": "study/votes.jsonl"}
        told["simulated"] = found["simulated"]
        for line in found["results"]:
            rate = line["verdict"]["majority"]["rate"]["estimate"]
            told[f"{line['question']}: {line['side']} over {line['reference']}"] = rate
    return Manifest(
        stage="study",
        key=step.key,
        outputs=outputs,
        counts={"prompts": len(study.prompts), "votes": len(stored)},
        results=told,
    )


def _scores(inputs: Mapping[str, Artefact]) -> dict[str, dict[tuple[str, str], float]]:
    from tastemaker.engine.study_scores import read_study_scores

    place = inputs.get("scores")
    return {} if place is None else read_study_scores(Path(place.path))


def _simulate(
    config: Config,
    simulated: Simulated,
    inputs: Mapping[str, Artefact],
    folder: Path,
    people: Any,
) -> None:
    from tastemaker.engine.study_ballot import OTHER, open_study

    values = _scores(inputs)
    if simulated.scorer not in values:
        raise InputError(
            "study.simulated.scorer",
            f"'{simulated.scorer}'",
            f"one of {', '.join(values) or 'the scorers of an evaluate step'}",
            "Name one, and the step in `scores`.",
        )
    liked = values[simulated.scorer]
    numbers = np.array(list(liked.values()))
    mean, spread = float(numbers.mean()), float(numbers.std()) or 1.0

    def taste(shown: Shown, side: str) -> float:
        name, _, other = (shown.a if side == "a" else shown.b).partition(OTHER)
        # The picture of another prompt is worse than all.
        return -3.0 if other else (liked.get((name, shown.prompt), mean) - mean) / spread

    ballot = open_study(folder)
    simulate_votes(people, ballot, taste, simulated.noise, votes=None, seed=config.seed)
