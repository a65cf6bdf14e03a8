"""Stage: train a diffusion model on pairs: DPO and its relatives, or SFT on the winners."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from shutil import copyfile
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from tastemaker.engine.progress import Progress
from tastemaker.errors import InputError
from tastemaker.records.config import Config as BaseConfig
from tastemaker.records.finding import Finding, Forecast
from tastemaker.records.run import Artefact, Manifest
from tastemaker.store.rundir import StepDir
from tastemaker.training.divergence import Alarm, advice
from tastemaker.training.method import AnyMethod, LoraMethod
from tastemaker.training.pair_objective import (
    DivergenceGuard,
    DpoObjective,
    ErrorTable,
    FrozenModel,
    WinnerObjective,
)
from tastemaker.training.settings import TrainingSettings

if TYPE_CHECKING:
    from torch import nn

    from tastemaker.models.family import Family
    from tastemaker.records.size import Size
    from tastemaker.store.reference_tables import ReferenceTable
    from tastemaker.training.group import Group
    from tastemaker.training.pair_source import CachedPairs, PairsAhead
    from tastemaker.training.preference import PairTask
    from tastemaker.training.reference import Reference

VERSION = 1
OUTPUTS = ("model", "adapter", "log", "checkpoints", "reference_table")
PARALLEL = True

READ_AHEAD = 128
"""Most pairs that are read before their step asks for them: 64 MB at 1024 pixels (ours)."""

PREVIEW_PROMPTS = 8
"""Prompts that pictures may be drawn of while it trains, by `generate --watch` (ours)."""

EMPTY_PROMPTS = 0.2
"""Share of empty texts in the DPO authors' code, but for Turbo."""

TABLE = "reference.parquet"
"""The reference's errors, in the step's folder."""


class Config(TrainingSettings):
    """Fit on pairs; `model/` (full) or `adapter/` (LoRA) is the result. An image is a pair here."""

    inputs: ClassVar[dict[str, str]] = {
        "model": "model",
        "adapter": "adapter",
        "pairs": "pairs",
        "cache": "pair_cache",
        "reference": "model",
        "reference_table": "reference_table",
    }
    model: str
    """The model to start from."""
    adapter: str | None = None
    """LoRA weights to start from: gone on with where adapters are trained, merged into the model
    where whole networks are. What training starts from includes them, so a frozen reference does
    too."""
    pairs: str
    """The pair set; its held-out pairs are only validated on."""
    cache: str
    """The latents of both sides, made with this model's autoencoder."""
    reference: str | None = None
    """Another model of the same architecture to compare errors with, in the place of what training
    starts from."""
    reference_table: str | None = None
    """A table of the reference's errors that another run has made, for `objective.reference.kind:
    table`; else this run makes it first."""
    method: AnyMethod = LoraMethod()
    """What is trained; of the parts the denoiser alone."""
    objective: Annotated[DpoObjective | WinnerObjective, Field(discriminator="kind")] = (
        DpoObjective()
    )
    """What a step minimises: `dpo` or `sft_winners`."""
    guard: DivergenceGuard = DivergenceGuard()
    """What to do when errors on held-out pairs show that training goes wrong."""
    preset: Literal[
        "auto", "none", "sdxl", "sdxl-turbo", "sdxl-refiner", "sd15", "pixart-512", "pixart-1024"
    ] = "auto"
    """Which timesteps are trained, and on which schedule, as in `fit`; SDXL-Turbo at 249, 499 and
    749, because at 999 both sides of a pair are the same noise."""
    empty_prompts: float | None = Field(default=None, ge=0, lt=1)
    """Share of visits with the empty text, for both sides; none: 0.2, as in the DPO authors' code,
    and 0 for Turbo, as there."""
    stable_pairs: int = Field(default=32, ge=0)
    """Trained pairs whose errors are also computed on a fixed grid."""
    check_latents: bool = Field(default=True, json_schema_extra={"changes_result": False})
    """Read every latent and compare its checksum before the first step (ours)."""

    @field_validator("objective", mode="before")
    @classmethod
    def _dpo_is_the_kind(cls, value: Any) -> Any:
        """Figures alone are DPO's, as in `objective: {beta: 2000}`."""
        return {"kind": "dpo", **value} if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _one_reference(self) -> "Config":
        if any(part.startswith("text_encoder") for part in self.method.parts):
            raise ValueError(
                "method.parts: the denoiser alone; policy and reference must hear the same text"
            )
        for part in self.optimizer.part_lr:
            if part not in self.method.parts:
                trained = ", ".join(self.method.parts)
                raise ValueError(f"optimizer.part_lr names '{part}', but method.parts is {trained}")
        kept = isinstance(self.objective, DpoObjective) and self.objective.reference
        if self.reference_table is not None and not isinstance(kept, ErrorTable):
            raise ValueError("reference_table: needs objective.reference.kind table")
        if self.reference is not None and not kept:
            raise ValueError("reference: sft_winners compares with no model; leave it out")
        if self.reference is not None and kept and kept.kind == "ema":
            raise ValueError("reference: an ema follows what is trained; leave it out")
        return self


def check(config: Config, inputs: Mapping[str, Artefact]) -> list[Finding]:
    """Packages that are missing, and empty texts where the preset has none."""
    from tastemaker.models.presets import named_or_found
    from tastemaker.training.fit_outlook import missing_packages

    found = missing_packages(config)
    if "model" in inputs and config.empty_prompts:
        preset = named_or_found(config.preset, Path(inputs["model"].path))
        if preset is not None and not preset.empty_captions:
            problem = f"the preset {preset.name} is trained without empty texts, and there are some"
            found.append(Finding("empty_prompts", problem, "Set it to 0.", fatal=False))
    return found


def forecast(
    config: Config, inputs: Mapping[str, Artefact], coming: Mapping[str, BaseConfig]
) -> Forecast:
    """Memory with the reference, disk, licence, too few pairs, figures that are seldom meant."""
    from tastemaker.training.pair_outlook import pair_outlook

    return pair_outlook(config, inputs, coming)


def run(config: Config, inputs: Mapping[str, Artefact], step: StepDir) -> Manifest:
    """Train to the end from the newest checkpoint, then write the result.

    Raises:
        InputError: the adapters or the other model do not fit, nothing is left to train on, or
            several processes cannot share the reference.
        StaleCache: latents or table were made for something else.
        Diverged: a loss is not a number.
    """
    from tastemaker.models.family import load_family
    from tastemaker.store.latent_sets import LatentSet
    from tastemaker.store.pair_sets import PairSet
    from tastemaker.store.retention import kept_counts
    from tastemaker.training.checkpoint_weights import describe_fit
    from tastemaker.training.divergence_watch import DivergenceWatch
    from tastemaker.training.method import own_rates
    from tastemaker.training.pair_source import CachedPairs, PairsAhead, check_pairs
    from tastemaker.training.parallel import present_group
    from tastemaker.training.result import save_trained
    from tastemaker.training.session import fit
    from tastemaker.training.start import start_parts

    group = present_group(config.parallel, rounded=config.precision == "bf16-weights")
    found = PairSet(Path(inputs["pairs"].path))
    latents = LatentSet(Path(inputs["cache"].path))
    family = load_family(str(inputs["model"].path))
    read_all = config.check_latents and group.first
    total = len(latents.keys()) if read_all else 0
    with Progress(step, total, "latents", f"{step.name}: checking") as progress:
        left_out = check_pairs(found, latents, family, progress.advance if read_all else None)
    family.to(group.device)
    adapter = Path(inputs["adapter"].path) if "adapter" in inputs else None
    start = start_parts(family, config.method, config.seed, adapter)
    pairs = CachedPairs(found, latents, config.seed)
    train_ids, held_out = pairs.ids("train"), pairs.ids("heldout")
    if not train_ids:
        raise InputError(
            found.path, f"no pairs to train on, {len(held_out)} held out", "at least one",
            "Hold out fewer in the pairs step, or make more pairs.",
        )  # fmt: skip
    buckets = pairs.buckets(train_ids)
    ahead = PairsAhead(pairs.read, most=READ_AHEAD, threads=1)
    make = _task_maker(config, inputs, family, start, ahead, pairs, group)
    task, table = _opened(config, inputs, make, family, pairs, buckets, step, group)
    settings = own_rates(family, config)
    if group.first:
        drawn = [task.prompter.plain(i) for i in (held_out or train_ids)[:PREVIEW_PROMPTS]]
        describe_fit(step.path, inputs["model"], config.method, config.seed, drawn, adapter)
    with ahead, Progress(step, config.images_total, "pairs", step.name, page=True) as progress:

        def tell(alarm: Alarm) -> None:
            step.event("alarm", level=alarm.level, reasons=list(alarm.reasons))
            progress.say(f"{alarm.level}: {advice(alarm)}")

        watch = DivergenceWatch(config.guard.open(), config.guard.action, tell)
        outcome = fit(
            task, buckets, settings, step.path, progress.advance, task.padded,
            lambda visits: ahead.expect([task.drawn(visit) for visit in visits]), group, watch,
        )  # fmt: skip
    if not group.first:
        # What lies on the disk is the first process's, which may be at work there.
        return Manifest("fit_pairs", step.key, {})
    kind = save_trained(family, config.method, step.path)
    outputs = {kind: kind, "log": "log", "checkpoints": "checkpoints"}
    if table is not None and "reference_table" not in inputs:
        outputs["reference_table"] = TABLE
    return Manifest(
        stage="fit_pairs",
        key=step.key,
        outputs=outputs,
        counts={
            "images": outcome.images,
            "steps": outcome.steps,
            "pairs trained on": len(train_ids),
            "pairs held out": len(held_out),
            **({"pairs without latents": len(left_out)} if left_out else {}),
            **kept_counts(step.path / "checkpoints"),
        },
        results={
            **_settings_used(config, inputs, task),
            **({"alarm": watch.said} if watch.said else {}),
            **({"ended_early": outcome.ended} if outcome.ended else {}),
            **({"result_of_step": outcome.kept_step} if outcome.kept_step else {}),
            **outcome.figures,
        },
    )


def _task_maker(
    config: Config,
    inputs: Mapping[str, Artefact],
    family: "Family",
    parts: "Mapping[str, nn.Module]",
    reader: "PairsAhead",
    pairs: "CachedPairs",
    group: "Group",
) -> "Callable[..., PairTask]":
    """What makes the task of this configuration with a reference or a table."""
    from tastemaker.diffusion.pair_timesteps import informative
    from tastemaker.models.presets import named_or_found
    from tastemaker.training.pair_prompting import PairPrompter
    from tastemaker.training.preference import PairTask

    preset = named_or_found(config.preset, Path(inputs["model"].path))
    schedule = family.schedule()
    times: Sequence[int] = range(len(schedule))
    if preset is not None:
        schedule, times = preset.schedule(schedule), preset.training_timesteps(schedule)
    return partial(
        PairTask,
        family,
        parts,
        reader,
        PairPrompter(pairs.prompts(), config.seed, _empty(config, inputs)),
        config.objective.open(),
        seed=config.seed,
        held_out=pairs.ids("heldout"),
        stable=pairs.ids("train")[: config.stable_pairs],
        schedule=schedule,
        timesteps=config.objective.timesteps.open(informative(schedule, times)),
        sharing=group,
    )


def _opened(
    config: Config,
    inputs: Mapping[str, Artefact],
    make: "Callable[..., PairTask]",
    family: "Family",
    pairs: "CachedPairs",
    buckets: "Mapping[Size, Sequence[str]]",
    step: StepDir,
    group: "Group",
) -> "tuple[PairTask, ReferenceTable | None]":
    """The task with its reference, or with a table, which is made where it is not there."""
    from tastemaker.training.pair_checks import refuse_unshared
    from tastemaker.training.pair_objective import open_reference
    from tastemaker.training.start import other_denoiser

    if not isinstance(config.objective, DpoObjective):
        return make(), None
    wanted, tabled = config.objective.reference, None
    if isinstance(wanted, ErrorTable):
        # A copy is rounded as bf16-weights rounds it; the trained network is not yet.
        tabled = wanted
        wanted = FrozenModel(how="copy" if config.precision == "bf16-weights" else "auto")
    reference = open_reference(
        wanted,
        family,
        config.precision,
        other=other_denoiser(str(inputs["reference"].path), family)
        if "reference" in inputs
        else None,
        goes_on="adapter" in inputs and config.method.kind == "lora",
    )
    assert reference is not None
    if tabled is None:
        refuse_unshared(reference, config.parallel, group.world)
        return make(reference=reference), None
    return _tabled(config, inputs, make, reference, tabled, pairs, buckets, step, group)


def _tabled(
    config: Config,
    inputs: Mapping[str, Artefact],
    make: "Callable[..., PairTask]",
    reference: "Reference",
    tabled: ErrorTable,
    pairs: "CachedPairs",
    buckets: "Mapping[Size, Sequence[str]]",
    step: StepDir,
    group: "Group",
) -> "tuple[PairTask, ReferenceTable]":
    from tastemaker.store.atomic import atomic_file
    from tastemaker.store.hashing import hash_json
    from tastemaker.store.reference_tables import ReferenceTable
    from tastemaker.training.precision import passes_in
    from tastemaker.training.reference_precompute import made_table, table_facts

    maker = make(reference=reference, draws=tabled.draws)
    facts = table_facts(
        maker,
        pairs=pairs.pairs.hash,
        latents=hash_json(sorted(pairs.latents.keys())),
        precision=config.precision,
        draws=tabled.draws,
    )
    if "reference_table" in inputs:
        place = Path(inputs["reference_table"].path)
    else:
        count = tabled.draws * sum(map(len, buckets.values())) if group.first else 0
        with Progress(step, count, "draws", f"{step.name}: reference") as progress:
            made = made_table(
                step.path.parent / "reference_tables",
                maker,
                buckets,
                facts,
                config.micro_batch or config.batch,
                passes=lambda: passes_in(config.precision, group.device),
                group=group,
                on_pairs=progress.advance,
            )
        place = made
        if group.first:
            with atomic_file(step.path / TABLE) as temporary:
                copyfile(made, temporary)
    table = ReferenceTable(place, facts)
    table.check(i for ids in buckets.values() for i in ids)
    return make(table=table), table


def _empty(config: Config, inputs: Mapping[str, Artefact]) -> float:
    """Share of empty texts: what is asked for, else the DPO authors' for this kind of model."""
    from tastemaker.models.presets import named_or_found

    if config.empty_prompts is not None:
        return config.empty_prompts
    preset = named_or_found(config.preset, Path(inputs["model"].path))
    return 0.0 if preset is not None and not preset.empty_captions else EMPTY_PROMPTS


def _settings_used(
    config: Config, inputs: Mapping[str, Artefact], task: "PairTask"
) -> dict[str, Any]:
    """What `auto` has chosen, for the manifest."""
    from tastemaker.models.presets import named_or_found

    preset = named_or_found(config.preset, Path(inputs["model"].path))
    used: dict[str, Any] = {
        "empty_prompts": task.prompter.empty,
        "timesteps_trained": len(task.timesteps.among),
    }
    if task.reference is not None:
        used["reference"] = type(task.reference).__name__
    return used if preset is None else {"preset": preset.name, **used}
