"""Stage: train a diffusion model on cached latents: whole parts of it, or LoRA adapters."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from tastemaker.curation.aliases import NO_ALIASES
from tastemaker.curation.prompts import AnyPrompts, CaptionPrompt
from tastemaker.engine.progress import Progress, say_line
from tastemaker.errors import InputError, MissingModel
from tastemaker.records.config import Config as BaseConfig
from tastemaker.records.finding import Finding, Forecast
from tastemaker.records.run import Artefact, Manifest
from tastemaker.records.size import Size
from tastemaker.store.rundir import StepDir
from tastemaker.training.masking import AnyMask, NoMask, check_masks, open_masks
from tastemaker.training.measured_words import MeasuredWords
from tastemaker.training.method import AnyMethod, LoraMethod, own_rates, trained_parts
from tastemaker.training.objective import SftObjective
from tastemaker.training.settings import TrainingSettings

if TYPE_CHECKING:
    from tastemaker.models.family import Family
    from tastemaker.models.prompt_tokens import PromptTokens
    from tastemaker.records.image import ImageRecord
    from tastemaker.training.first_epoch import AsWritten, Shuffled
    from tastemaker.training.prompt_preview import PromptPreview
    from tastemaker.training.prompting import CountTokens, Prompter

VERSION = 2
OUTPUTS = ("model", "adapter", "log", "checkpoints")
PARALLEL = True

READ_AHEAD = 256
"""Most latents that are read before their step asks for them: 64 MB at 1024 pixels (ours)."""

PREVIEW_PROMPTS = 8
"""Captions that pictures may be drawn of while it trains, by `generate --watch` (ours)."""

MOST_CUT = 0.01
"""A larger share of texts that lose their end is worth a warning (ours)."""


class Config(TrainingSettings):
    """Fit on pictures with captions; `model/` (full) or `adapter/` (LoRA) is the result."""

    inputs: ClassVar[dict[str, str]] = {
        "model": "model",
        "collection": "collection",
        "selection": "selection",
        "cache": "cache",
        "aliases": "aliases",
    }
    model: str
    """The model to start from."""
    collection: str
    """Where the captions are."""
    selection: str
    """The pictures to train on."""
    cache: str
    """Their latents, made with this model's autoencoder."""
    method: AnyMethod = LoraMethod()
    """What is trained."""
    objective: SftObjective = SftObjective()
    """What a step minimises."""
    preset: Literal[
        "auto", "none", "sdxl", "sdxl-turbo", "sdxl-refiner", "sd15", "pixart-512", "pixart-1024"
    ] = "auto"
    """Which timesteps are trained, and on which schedule: SDXL-Turbo at the four that it samples,
    with zero terminal SNR; the refiner at the lowest 200, told the aesthetic score 6. `auto` knows
    the refiner and Turbo by their files (Turbo not in a single file); `none` is the model's own
    schedule and all of it. The saved model keeps its own schedule."""
    loss_mask: AnyMask = NoMask()
    """Which part of a picture counts in the loss: `none` for all of it, `watermark`, or `files`;
    validation is on the whole pictures."""
    prompts: AnyPrompts = CaptionPrompt()
    """The texts: `captions`, `tags`, or `mixed`; drawn anew at every visit, never cached."""
    measured: MeasuredWords = MeasuredWords()
    """Captions, tags and attributes that the curate step has measured, for the texts."""
    aliases: str | None = None
    """A file of other names of tags: CSV rows `name,category,count,"alias,alias"`, or JSON lines of
    `antecedent_name`, `consequent_name`, `status`."""
    balance_lengths: bool = False
    """Put pictures whose texts fill the same number of text windows into the same batches, so that
    short batches exist too (bigASP's second version)."""
    held_out: int = Field(default=0, ge=0)
    """Pictures that are only validated on, chosen by hash."""
    stable_images: int = Field(default=32, ge=0)
    """Trained pictures whose loss is also computed on a fixed grid."""
    first_epoch: Literal["shuffled", "as_written"] = "shuffled"
    """`as_written`: in the order in which the cache step writes, so that training may begin while
    it is at work; it waits where it is faster. The result is the same bit for bit whatever the
    speeds, after a stop of either, and on a finished cache. Later epochs are shuffled."""
    silence_s: float = Field(default=120.0, ge=3, json_schema_extra={"changes_result": False})
    """Stop when a wait has had no sign of life from the cache step for so long (ours)."""
    follow: bool = False
    """Take in the crops that a worker adds to the cache meanwhile. The run cannot be repeated bit
    for bit then, nor after a resume."""
    check_latents: bool = Field(default=True, json_schema_extra={"changes_result": False})
    """Read every latent and compare its checksum before the first step that needs it (ours)."""

    @model_validator(mode="after")
    def _rates_are_of_trained_parts(self) -> "Config":
        for part in self.optimizer.part_lr:
            if part not in self.method.parts:
                trained = ", ".join(self.method.parts)
                raise ValueError(f"optimizer.part_lr names '{part}', but method.parts is {trained}")
        if self.follow and self.first_epoch == "as_written":
            raise ValueError("follow: needs first_epoch shuffled, as crops are added at the end")
        return self


def check(config: Config, inputs: Mapping[str, Artefact]) -> list[Finding]:
    """Pictures without a text, prompts that are cut off, aliases that had to be left out."""
    from tastemaker.training.fit_outlook import missing_packages

    found = missing_packages(config)
    if "aliases" in inputs:
        from tastemaker.store.alias_files import read_aliases

        table = read_aliases(Path(inputs["aliases"].path))
        if table.notes:
            todo = "Nothing need be done: these are not used."
            found.append(Finding("aliases", "; ".join(table.describe()), todo, fatal=False))
    looked = _look_ahead(config, inputs)
    if looked is None:
        return found
    found += _textless_preset(config, inputs)
    texts = looked[0].texts
    if texts.cut_texts > MOST_CUT * texts.texts:
        todo = "Use shorter captions or fewer tags, or accept that their ends are not learned."
        found.append(Finding("prompts", str(texts), todo, fatal=False))
    return found


def _textless_preset(config: Config, inputs: Mapping[str, Artefact]) -> list[Finding]:
    from tastemaker.models.presets import named_or_found

    preset = named_or_found(config.preset, Path(inputs["model"].path))
    if preset is None or preset.empty_captions or not config.prompts.empty:
        return []
    problem = f"the preset {preset.name} is trained without empty texts, and there are some"
    return [Finding("prompts.empty", problem, "Set it to 0.", fatal=False)]


def preview(config: Config, inputs: Mapping[str, Artefact]) -> list[str]:
    """Real prompts as the model will see them, and what batches are padded to."""
    from tastemaker.training.prompt_preview import mix_line, preview_lines

    looked = _look_ahead(config, inputs)
    if looked is None:
        return []
    lines = preview_lines(*looked)
    if not config.balance_lengths and max(looked[0].mix.values()) < 1:
        other = _look_ahead(config.model_copy(update={"balance_lengths": True}), inputs)
        if other is not None:
            lines.append(f"with balance_lengths, {mix_line(other[0])}")
    return lines


def forecast(
    config: Config, inputs: Mapping[str, Artefact], coming: Mapping[str, BaseConfig]
) -> Forecast:
    """Memory by class of device, disk, licence of the base model, figures that are seldom meant."""
    from tastemaker.engine.latent_plan import choose_buckets
    from tastemaker.training.fit_outlook import fit_outlook

    return fit_outlook(config, inputs, coming, choose_buckets)


def run(config: Config, inputs: Mapping[str, Artefact], step: StepDir) -> Manifest:
    """Train to the end from the newest checkpoint, then write the result."""
    from tastemaker.models.family import load_family
    from tastemaker.models.presets import named_or_found
    from tastemaker.store.catalogue import Catalogue
    from tastemaker.store.pictures import split_held_out
    from tastemaker.store.retention import kept_counts
    from tastemaker.store.selections import read_selection
    from tastemaker.training.checkpoint_weights import describe_fit
    from tastemaker.training.diffusion import DiffusionTask
    from tastemaker.training.first_epoch import buckets_of
    from tastemaker.training.latent_source import VisitedLatents
    from tastemaker.training.parallel import present_group
    from tastemaker.training.prompting import refuse_textless
    from tastemaker.training.read_ahead import ReadAhead
    from tastemaker.training.result import save_trained
    from tastemaker.training.session import fit

    group = present_group(config.parallel, rounded=config.precision == "bf16-weights")
    selection = read_selection(Path(inputs["selection"].path))
    family = load_family(str(inputs["model"].path))
    preset = named_or_found(config.preset, Path(inputs["model"].path))
    schedule = family.schedule()
    times: Sequence[int] = range(len(schedule))
    if preset is not None:
        schedule, times = preset.schedule(schedule), preset.training_timesteps(schedule)
    read_all = config.check_latents and group.first
    cache = Path(inputs["cache"].path)
    if group.world > 1:
        _refuse_unfinished(config, cache)
    source = _source(config, cache, selection.ids, family, step, read_all=read_all)
    family.to(group.device)
    train_ids, held_out = split_held_out(source.ids, config.held_out)
    catalogue = Catalogue(Path(inputs["collection"].path))
    records = {r.id: r for r in catalogue.records()}
    chosen = config.measured.fill(catalogue, {i: records[i] for i in selection.ids})
    prompter = _prompter(config, inputs, chosen, family.token_counts)
    refuse_textless(prompter, train_ids, selection.name)
    trained = {i: records[i] for i in train_ids}
    masks = open_masks(config.loss_mask, catalogue, trained, family.latent_factor)
    source.check_crops(train_ids, partial(check_masks, masks))
    held_out = source.present(held_out)
    # A run that follows asks for what is newest, so nothing is read before its time.
    latents = VisitedLatents(source.latents, config.seed, follow=config.follow)
    ahead = ReadAhead(latents, most=READ_AHEAD, threads=0 if config.follow else 1)
    task = DiffusionTask(
        family,
        trained_parts(family, config.method, config.seed),
        prompter,
        ahead,
        config.objective.open(),
        seed=config.seed,
        held_out=held_out,
        stable=source.first(train_ids, config.stable_images),
        masks=masks,
        noise=(schedule, times),
        timesteps=config.objective.timesteps.open(times),
        group=group,
    )
    groups = _groups(config, inputs, buckets_of(source.latents.buckets(), train_ids), prompter)
    order = source.order(groups, config.batch, config.seed)
    drawn = [prompter.plain(i) for i in (held_out or train_ids)[:PREVIEW_PROMPTS]]
    if group.first:
        describe_fit(step.path, inputs["model"], config.method, config.seed, drawn)
    with ahead, Progress(step, config.images_total, "images", step.name, page=True) as progress:
        source.tell(progress.say)
        settings = own_rates(family, config)
        outcome = fit(
            task, order, settings, step.path, progress.advance, task.padded, ahead.expect, group
        )
    if not group.first:
        # What lies on the disk is the first process's, which may be at work there.
        return Manifest("fit", step.key, {})
    kind = save_trained(family, config.method, step.path)
    lost = source.left_out(train_ids)
    without = len(selection.ids) - len(source.ids) + source.left_out(source.ids)
    return Manifest(
        stage="fit",
        key=step.key,
        outputs={kind: kind, "log": "log", "checkpoints": "checkpoints"},
        counts={
            "images": outcome.images,
            "steps": outcome.steps,
            "pictures trained on": len(train_ids) - lost,
            "pictures held out": len(held_out),
            **({} if preset is None else {"timesteps trained": len(times)}),
            **({} if masks is None else {"latents with a loss mask": source.checked}),
            **({"pictures without a latent": without} if without else {}),
            **{f"aliases: {name}": n for name, n in prompter.aliases.notes.items()},
            **kept_counts(step.path / "checkpoints"),
        },
        results={**({} if preset is None else {"preset": preset.name}), **outcome.figures},
    )


def _prompter(
    config: Config,
    inputs: Mapping[str, Artefact],
    records: "Mapping[str, ImageRecord]",
    count_tokens: "CountTokens",
) -> "Prompter":
    """What makes the texts of this configuration."""
    from tastemaker.store.alias_files import read_aliases
    from tastemaker.training.prompting import Prompter

    aliases = read_aliases(Path(inputs["aliases"].path)) if "aliases" in inputs else NO_ALIASES
    return Prompter(records, config.prompts, config.seed, aliases, count_tokens)


def _groups(
    config: Config,
    inputs: Mapping[str, Artefact],
    buckets: "Mapping[Size, list[str]]",
    prompter: "Prompter",
) -> "Mapping[Any, list[str]]":
    """What a batch is drawn from: buckets, or buckets and numbers of text windows."""
    if not config.balance_lengths:
        return buckets
    from tastemaker.models.prompt_tokens import load_prompt_tokens
    from tastemaker.training.prompt_preview import balanced

    return balanced(buckets, prompter, load_prompt_tokens(str(inputs["model"].path)))


def _look_ahead(
    config: Config, inputs: Mapping[str, Artefact]
) -> "tuple[PromptPreview, PromptTokens] | None":
    """The texts of the first steps; None where what they are made of is not there yet.

    Raises:
        InputError: a picture has no text, or the aliases cannot be read.
    """
    if not {"collection", "selection", "model"} <= inputs.keys():
        return None
    from tastemaker.models.prompt_tokens import load_prompt_tokens
    from tastemaker.store.catalogue import Catalogue
    from tastemaker.store.pictures import split_held_out
    from tastemaker.store.selections import read_selection
    from tastemaker.training.first_epoch import buckets_of, planned_latents
    from tastemaker.training.prompt_preview import look_ahead
    from tastemaker.training.prompting import refuse_textless

    selection = read_selection(Path(inputs["selection"].path))
    chosen = set(selection.ids)
    catalogue = Catalogue(Path(inputs["collection"].path))
    own = {record.id: record for record in catalogue.records() if record.id in chosen}
    records = config.measured.fill(catalogue, own)
    sizes: Mapping[str, Size] = {}
    if "cache" in inputs:
        sizes = planned_latents(Path(inputs["cache"].path), config.first_epoch).buckets()
    ids = [i for i in selection.ids if i in records and (i in sizes or "cache" not in inputs)]
    trained = split_held_out(ids, config.held_out)[0]
    try:
        tokens = load_prompt_tokens(str(inputs["model"].path))
    except MissingModel:
        # A single file may come without its tokenizers, and training finds them on the hub.
        return None
    prompter = _prompter(config, inputs, records, tokens.counts)
    refuse_textless(prompter, trained, selection.name)
    groups = _groups(config, inputs, buckets_of(sizes, trained), prompter)
    steps = -(-config.images_total // config.batch)
    return look_ahead(prompter, tokens, groups, config.batch, steps), tokens


def _refuse_unfinished(config: Config, cache: Path) -> None:
    """A wait of one process would be a silence to the others, which give up on it."""
    from tastemaker.store.growing_sets import GrowingSet
    from tastemaker.training.first_epoch import planned_latents

    latents = planned_latents(cache, config.first_epoch)
    if isinstance(latents, GrowingSet) and not latents.is_finished():
        raise InputError(
            cache,
            "a cache that is still being written, and several processes",
            "a finished cache, or one process",
            "Wait until it is finished, or start with one process: the run may go on with several.",
        )


def _source(
    config: Config,
    cache: Path,
    ids: tuple[str, ...],
    family: "Family",
    step: StepDir,
    *,
    read_all: bool,
) -> "AsWritten | Shuffled":
    """The latents, with `read_all` each read once to see that it is whole, or as it comes."""
    from tastemaker.store.growing_sets import GrowingSet
    from tastemaker.training.first_epoch import AsWritten, Shuffled, planned_latents

    latents = planned_latents(cache, config.first_epoch)
    if isinstance(latents, GrowingSet):
        latents.silence_s, latents.say = config.silence_s, partial(say_line, step)
        return AsWritten(latents, ids, family, config.check_latents)
    total = len(latents.keys()) if read_all else 0
    with Progress(step, total, "latents", f"{step.name}: checking") as progress:
        return Shuffled(latents, ids, family, progress.advance if read_all else None)
