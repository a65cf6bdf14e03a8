"""Stage: make pairs of a preferred and another picture, for preference training."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, field_validator

from tastemaker.curation.pair_choice import TIE, Choice, PairRules, choose_pairs
from tastemaker.engine.pair_kinds import NEEDED, AnyPairSource, CollectionPairs, ScoredPairs
from tastemaker.engine.pair_sources import gather
from tastemaker.engine.progress import Progress
from tastemaker.errors import InputError
from tastemaker.records.config import as_tuple
from tastemaker.records.finding import Finding
from tastemaker.records.pair import Pair
from tastemaker.records.run import Artefact, Manifest
from tastemaker.store.rundir import StepDir

if TYPE_CHECKING:
    from tastemaker.engine.pair_inputs import Gathered

VERSION = 1
OUTPUTS = ("pairs",)

_EXAMPLES = 5
_MOST_EVENTS = 20


class Config(PairRules):
    """A prompt, a winner, a loser; every comparison that becomes no pair has its reason on file."""

    inputs: ClassVar[dict[str, str]] = {
        "samples": "samples",
        "collection": "collection",
        "selection": "selection",
        "file": "comparisons|votes",
        "scores": "scores",
        "prompts": "prompts",
        "evaluation": "prompts",
        "image_text": "image_text|model",
    }
    samples: tuple[str, ...] = ()
    """Generated pictures, of one or several models: what is scored, voted on, or loses to real
    ones."""
    collection: str | None = None
    """Pictures with their comparisons; those that a file names by id; real ones of self-play."""
    selection: str | None = None
    """The real pictures of self-play."""
    file: str | None = None
    """A JSONL file of comparisons; for `votes` a file of votes, or the folder of a study."""
    scores: str | None = None
    """Scores of the generated pictures: of an evaluate step, or a JSONL or Parquet file with its
    columns. Without it `source.scorer` is run."""
    prompts: str | None = None
    """The prompt set that votes were given on, for its texts."""
    evaluation: str | None = None
    """A prompt set that models will be evaluated on: no pair may have one of its prompts."""
    image_text: str | None = None
    """The model of the scorer `image_text`."""
    source: AnyPairSource = CollectionPairs()
    """Where the comparisons come from: `collection`, `file`, `votes`, `scored` or `self_play`."""
    name: str = Field(default="pairs", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the set."""

    @field_validator("samples", mode="before")
    @classmethod
    def _sets(cls, value: object) -> object:
        return as_tuple(value)


def check(config: Config, inputs: Mapping[str, Artefact]) -> list[Finding]:
    """Inputs that the source needs, a scorer that is none, ties that none of the data can be."""
    found = []
    given = {name for name in Config.inputs if getattr(config, name)}
    for name in NEEDED[config.source.kind]:
        if name not in given:
            problem = f"got nothing; expected {name}, which source.kind {config.source.kind} needs"
            todo = f"Write {name}=PLACE, or choose another source.kind."
            found.append(Finding(name, problem, todo))
    if isinstance(config.source, ScoredPairs) and not config.scores:
        from tastemaker.engine.sample_scores import check_scorer

        try:
            check_scorer(config.source.scorer, bool(config.image_text))
        except InputError as error:
            problem = f"got {error.got}; expected {error.expected}"
            found.append(Finding(str(error.where), problem, error.todo))
    return found


def preview(config: Config, inputs: Mapping[str, Artefact]) -> list[str]:
    """What pairs there would be, without writing any; no scorer is run for it."""
    from tastemaker.engine.pair_inputs import PairInputs

    fields = {name.split(".")[0] for name in inputs}
    if not {*NEEDED[config.source.kind]} <= fields:
        return []
    opened = PairInputs(inputs)
    if isinstance(config.source, ScoredPairs) and "scores" not in inputs:
        count = opened.sample_count()
        return [f"{count} pictures to be scored by {config.source.scorer}; margins are known then"]
    _, choice = _chosen(config, opened, None)
    return _lines(choice)


def run(config: Config, inputs: Mapping[str, Artefact], step: StepDir) -> Manifest:
    """Write `pairs/`: the pairs, their pictures, and a verdict on everything that is no pair.

    Every loose or generated picture is decoded once, to see that it is whole; what was found is
    kept in the step's folder, so that a killed step goes on.

    Raises:
        InputError: an input does not fit, or no pair is left.
    """
    from tastemaker.engine.pair_inputs import PairInputs
    from tastemaker.store.pair_sets import PairSetFacts, write_pair_set

    opened = PairInputs(inputs, step.path / "pictures.jsonl")
    with Progress(step, None, "pictures", step.name) as progress:
        gathered, choice = _chosen(config, opened, step.path / "scored", progress)
    dropped = Counter(one.reason for one in choice.dropped)
    for reason, count in dropped.most_common(_MOST_EVENTS):
        of_kind = [one for one in choice.dropped if one.reason == reason]
        examples = [{"key": one.key, "got": one.got, "limit": one.limit} for one in of_kind[:20]]
        step.event("dropped", reason=reason, count=count, first=examples)
    if not choice.pairs:
        listed = ", ".join(f"{count} {reason}" for reason, count in dropped.most_common(5))
        raise InputError(
            f"pairs of source.kind {config.source.kind}",
            f"no pair ({listed or 'no comparisons'})",
            "at least one",
            "Loosen the rules, or mend what the reasons name.",
        )
    counts = _counts(choice, gathered)
    rules = {name: getattr(config, name) for name in PairRules.model_fields}
    made_with = {
        "source": config.source.model_dump(mode="json"),
        **gathered.made_with,
        "rules": {name: _plain(value) for name, value in rules.items()},
        "inputs": {name: artefact.key for name, artefact in sorted(inputs.items())},
    }
    facts = PairSetFacts(config.name, made_with, counts)
    digest = write_pair_set(
        step.path / "pairs", choice.pairs, gathered.pictures, choice.dropped, facts
    )
    return Manifest(
        stage="pairs",
        key=step.key,
        outputs={"pairs": "pairs"},
        counts=counts,
        results={
            "hash": digest,
            "name": config.name,
            "source": config.source.kind,
            "made_with": made_with,
            "margins": choice.margins,
            "pairs_per_prompt": _per_prompt(choice.pairs),
            "contradicted": choice.contradicted,
            "generated_latents": _with_latents(choice.pairs, gathered),
            "examples": [_example(pair, gathered) for pair in choice.pairs[:_EXAMPLES]],
            "notes": gathered.notes,
        },
    )


def _chosen(
    config: Config, opened: Any, memory: Path | None, progress: Progress | None = None
) -> "tuple[Gathered, Choice]":
    from tastemaker.store.prompt_sets import read_prompt_set

    evaluated: tuple[str, ...] = ()
    if opened.has("evaluation"):
        prompts = read_prompt_set(opened.path("evaluation", config.source.kind))
        evaluated = tuple(prompt.text for prompt in prompts.prompts)
    gathered = gather(
        config.source,
        opened,
        facts={*config.keep_facts, *config.where},
        within_model=config.same_model,
        memory=memory,
        on_picture=progress.advance if progress is not None else lambda count: None,
    )
    return gathered, choose_pairs(gathered.comparisons, config, evaluated)


def _counts(choice: Choice, gathered: "Gathered") -> dict[str, int]:
    pairs = choice.pairs
    held_out = sum(pair.split == "heldout" for pair in pairs)
    counts = {
        "comparisons": choice.compared,
        "pairs": len(pairs),
        "ties": sum(pair.label == TIE for pair in pairs),
        "prompts": len({pair.prompt for pair in pairs}),
        "held out": held_out,
        "pictures": len({i for pair in pairs for i in (pair.winner, pair.loser)}),
        **gathered.counts,
    }
    reasons = Counter(one.reason for one in choice.dropped)
    return counts | {f"dropped: {reason}": count for reason, count in reasons.most_common()}


def _per_prompt(pairs: Sequence[Pair]) -> dict[str, int]:
    """How many prompts have 1, 2, ... pairs."""
    many = Counter(Counter(pair.prompt for pair in pairs).values())
    return {str(count): many[count] for count in sorted(many)}


def _with_latents(pairs: Sequence[Pair], gathered: "Gathered") -> int:
    used = {i for pair in pairs for i in (pair.winner, pair.loser)}
    return sum(bool(gathered.pictures[i].latent) for i in used)


def _example(pair: Pair, gathered: "Gathered") -> dict[str, Any]:
    return {
        "prompt": pair.prompt,
        "winner": gathered.pictures[pair.winner].source,
        "loser": gathered.pictures[pair.loser].source,
        "label": pair.label,
        "margin": pair.margin,
        "split": pair.split,
    }


def _lines(choice: Choice) -> list[str]:
    pairs = choice.pairs
    held_out = sum(pair.split == "heldout" for pair in pairs)
    ties = sum(pair.label == TIE for pair in pairs)
    lines = [
        f"{choice.compared} comparisons: {len(pairs)} pairs, of which {ties} ties and {held_out} "
        f"held out, of {len({pair.prompt for pair in pairs})} prompts"
    ]
    for reason, count in Counter(one.reason for one in choice.dropped).most_common():
        lines.append(f"dropped: {count} {reason}")
    for name, quantiles in choice.margins.items():
        shown = ", ".join(f"{key} {value:.4g}" for key, value in quantiles.items())
        lines.append(f"margins of {name}: {shown}")
    for pair in pairs[:_EXAMPLES]:
        margin = "" if pair.margin is None else f", margin {pair.margin:.4g}"
        mark = "=" if pair.label == TIE else ">"
        lines.append(f"{pair.winner[:12]} {mark} {pair.loser[:12]}{margin}: {pair.prompt[:60]!r}")
    return lines


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
