"""Stage: generate the pictures of a prompt set with one model."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, model_validator

from tastemaker.engine.drawing import Drawer, Refiner, Share, device
from tastemaker.engine.picture_files import PictureFolder
from tastemaker.engine.picture_jobs import Job, batches, picture_jobs
from tastemaker.engine.picture_settings import (
    VERSION,
    Manner,
    PictureSettings,
    settings_hash,
    settle,
)
from tastemaker.engine.picture_starts import FolderStart, write_layout
from tastemaker.engine.progress import Progress
from tastemaker.errors import InputError
from tastemaker.records.generation import PromptSet
from tastemaker.records.run import Artefact, Manifest
from tastemaker.records.size import Size
from tastemaker.store.rundir import StepDir

if TYPE_CHECKING:
    from tastemaker.models.family import Family
    from tastemaker.models.presets import Preset
    from tastemaker.training.group import Group

__all__ = ["OUTPUTS", "PARALLEL", "VERSION", "Config", "preview", "run", "watch"]

OUTPUTS = ("samples",)
PARALLEL = True


class Config(PictureSettings):
    """Pictures with noise that depends on prompt and number alone, so that models can be paired."""

    inputs: ClassVar[dict[str, str]] = {
        "model": "model",
        "adapter": "adapter",
        "prompts": "prompts",
        "refiner": "model",
        "start_pictures": "samples",
        "parts": "samples",
    }
    model: str
    """The model."""
    adapter: str | None = None
    """LoRA weights to use with it."""
    prompts: str
    """What to draw."""
    refiner: str | None = None
    """A second model, such as SDXL's refiner, that does the last steps on the same latents; it is
    told the aesthetic scores 6 and, for the negative prompt, 2.5. One of the two is on the device
    at a time."""
    refiner_start: float = Field(default=0.8, gt=0, lt=1)
    """Share of the denoising that is done before the refiner: 0.8 leaves the lowest 200 noise
    levels, those that SDXL's was trained on (Podell et al. 2023, section 2.5). No meaning without
    `refiner`."""
    start_pictures: str | None = None
    """Pictures to begin from instead of noise alone, see `strength`: a folder with `ID.png` for
    every prompt, or `ID_00.png` for its first picture and so on, as another generate step leaves
    them."""
    keep_latents: bool = False
    """Keep the latents that the sampler ended with, in bf16, for training on pairs of own pictures:
    encoding a picture again does not give them back."""
    share: str | None = Field(default=None, pattern=r"^[1-9][0-9]*/[1-9][0-9]*$")
    """`2/4`: draw the second of four parts, for machines that no launcher joins. The set is then
    incomplete; a last run with `parts` and no share makes it whole."""
    parts: tuple[str, ...] = ()
    """Runs whose pictures are taken over where they are what this run would draw."""
    grid_pictures: int = Field(default=64, ge=0)
    """Pictures on the contact sheet `grid.png`; 0 writes none."""

    @model_validator(mode="after")
    def _fits(self) -> "Config":
        if self.layout and self.start_pictures:
            raise ValueError("give layout or start_pictures, not both")
        if self.share is not None:
            number, of = map(int, self.share.split("/"))
            if number > of:
                raise ValueError(f"share {self.share}: the first number is at most the second")
        return self

    def part(self) -> Share:
        """Which share is drawn, counted from 0."""
        number, of = map(int, (self.share or "1/1").split("/"))
        return Share(number - 1, of)


def preview(config: Config, inputs: Mapping[str, Artefact]) -> list[str]:
    """Say how pictures would be drawn, with what the model's preset fills in."""
    from tastemaker.models.presets import named_or_found
    from tastemaker.store.prompt_sets import read_prompt_set

    if "model" not in inputs:
        return []
    found = named_or_found(config.preset, Path(inputs["model"].path))
    # The model's own size is only known once it is loaded.
    manner = settle(config, found, Size(0, 0))
    size = f"{manner.size} px" if all(manner.size) else "the model's own size"
    lines = [f"{manner.text()}, {size}"]
    if found is not None:
        lines[0] += f" (where nothing is given, as the preset {found.name} says)"
    if "prompts" in inputs:
        count = len(read_prompt_set(Path(inputs["prompts"].path)).prompts)
        lines.append(f"{count * config.samples_per_prompt} pictures of {count} prompts")
    return lines


def run(config: Config, inputs: Mapping[str, Artefact], step: StepDir) -> Manifest:
    """Write `samples/`: pictures, `samples.jsonl`, `run.json`, then `grid.png`.

    A picture whose file and line are there from an earlier attempt is kept. Several processes draw
    a batch each in turn; every picture is the same with any number of them.

    Raises:
        InputError: the size or the sampler does not fit the model, the adapter or the refiner does
            not, a start picture is not there, or earlier pictures are of other versions.
        TastemakerError: a picture is not finite.
    """
    from tastemaker.models.presets import named_or_found
    from tastemaker.store.generated_latents import GeneratedLatents
    from tastemaker.store.prompt_sets import read_prompt_set
    from tastemaker.training.parallel import present_group

    group = present_group()
    prompts = read_prompt_set(Path(inputs["prompts"].path))
    family, refiner = _models(config, inputs)
    preset = named_or_found(config.preset, Path(inputs["model"].path))
    manner = settle(config, preset, family.own_size)
    start = _start(inputs)
    drawer = Drawer(config, manner, family, refiner, start)
    folder = step.path / "samples"
    latents = GeneratedLatents(folder) if config.keep_latents else None
    keys = _keys(inputs, refiner)
    settings = settings_hash(config, manner, keys)
    files = PictureFolder(folder, config.name, settings, group.rank, latents)
    families = [family] if refiner is None else [family, refiner.family]
    jobs = picture_jobs(config, prompts, manner.size, *families)
    if group.first:
        _begin(config, drawer, files, jobs, inputs, prompts, keys)
    todo, own = _divide(drawer, jobs, files, config.part(), group)
    mine = [job for batch in own for job in batch]
    unit = "pictures" if group.world == 1 else f"pictures (one of {group.world} processes)"
    before = len(mine) - len(todo & set(mine)) if config.share or group.world > 1 else 0
    if not config.share and group.world == 1:
        mine, before = jobs, len(jobs) - len(todo)
    with Progress(step, len(mine), unit, step.name, done=before) as progress:
        drawer.draw_batches(own, todo, files, progress.advance)
    group.barrier()
    if not group.first:
        return Manifest("generate", step.key, {})
    lacking = files.lacking(jobs)
    if config.grid_pictures:
        _write_grid(folder, [job for job in jobs if job not in lacking][: config.grid_pictures])
    return Manifest(
        stage="generate",
        key=step.key,
        outputs={"samples": "samples"},
        counts={
            "pictures": len(jobs) - len(lacking),
            "prompts": len(prompts.prompts),
            "kept from before": len(jobs) - len(todo),
            **({"left to other shares": len(lacking)} if lacking else {}),
        }
        | _cut_prompts(family, prompts),
        results={
            "model": config.name,
            "prompt set": prompts.name,
            **_results(config, manner, refiner, group),
        },
    )


def _models(config: Config, inputs: Mapping[str, Artefact]) -> "tuple[Family, Refiner | None]":
    """The model, on its device, and a refiner, which waits."""
    from tastemaker.models.adapters import load_lora
    from tastemaker.models.family import load_family
    from tastemaker.models.refining import refuse_unfit

    family = load_family(str(inputs["model"].path), precision=config.precision)
    if "adapter" in inputs:
        load_lora(family, Path(inputs["adapter"].path))
    family.channels_last()
    if "refiner" not in inputs:
        return family.to(device()), None
    second = load_family(str(inputs["refiner"].path), precision=config.precision)
    refuse_unfit(family, second.channels_last())
    return family, Refiner(second, config.refiner_start)


def _keys(inputs: Mapping[str, Artefact], refiner: Refiner | None) -> dict[str, str]:
    """What the weights and the start pictures are."""
    names = ("model", "adapter", "refiner", "start_pictures")
    keys = {name: inputs[name].key for name in names if name in inputs}
    if refiner is not None:
        keys["refiner_start"] = f"{refiner.start}"
    return keys


def _start(inputs: Mapping[str, Artefact]) -> FolderStart | None:
    if "start_pictures" not in inputs:
        return None
    return FolderStart(Path(inputs["start_pictures"].path))


def _begin(
    config: Config,
    drawer: Drawer,
    files: PictureFolder,
    jobs: Sequence[Job],
    inputs: Mapping[str, Artefact],
    prompts: PromptSet,
    keys: Mapping[str, str],
) -> None:
    """What one process does before all begin."""
    if isinstance(drawer.start, FolderStart):
        for job in jobs:
            drawer.start.file(job.names())
    told = {"model": config.name, "keys": keys, "prompts": [prompts.name, prompts.hash]}
    files.begin(drawer.told(**told, seed=config.seed), jobs)
    if config.layout:
        write_layout(files.folder / "layout.png", config.layout, drawer.manner.size)
    for number, name in enumerate(config.parts):
        part = Path(inputs[f"parts.{number}"].path)
        if not files.take_over(part, jobs, files.lacking(jobs)):
            raise InputError(
                f"parts.{number} ({name})",
                "no picture that this run would draw",
                "shares of the same model, prompts and settings",
                "Give this run the values of that one, or leave it out.",
            )


def _divide(
    drawer: Drawer, jobs: Sequence[Job], files: PictureFolder, part: Share, group: "Group"
) -> tuple[set[Job], list[list[Job]]]:
    """What is lacking, and the batches that this process draws.

    All must have looked before anyone draws: a share is of what is lacking.
    """
    group.barrier()
    todo = files.lacking(jobs)
    group.barrier()
    # The share of a machine does not depend on what is done; within it, processes take turns.
    every = batches(jobs, drawer.config.batch)[part.number :: part.of]
    lacking = [batch for batch in every if todo & set(batch)]
    return todo, lacking[group.rank :: group.world]


def _results(
    config: Config, manner: Manner, refiner: Refiner | None, group: "Group"
) -> dict[str, Any]:
    found: dict[str, Any] = {
        "size": str(manner.size),
        "sampler": manner.text(),
        "seed": config.seed,
    }
    if manner.preset:
        found["preset"] = manner.preset
    if refiner is not None:
        found["refiner"] = f"from {config.refiner_start:g} on"
    if config.layout or config.start_pictures:
        of = "a layout" if config.layout else "start pictures"
        found["start"] = f"{of}, strength {config.strength:g}"
    if group.world > 1:
        found["processes"] = group.world
    return found


def watch(
    fit: Path,
    config: PictureSettings,
    prompts: PromptSet,
    out: Path,
    say: Callable[[str], None],
    *,
    model: str | None = None,
    **options: Any,
) -> dict[str, int]:
    """Draw the checkpoints of a fit while it trains; no step of a recipe.

    Args:
        fit: the fit step's folder.
        config: how to draw.
        prompts: what to draw.
        out: where the pictures go.
        say: told a line for every checkpoint.
        model: the base model, where it is no more where the fit found it.
        options: see `engine.watch.watch`.

    Raises:
        InputError: the pictures in `out` were drawn in another way, or the base is not there.
        RunLocked: another process draws there.
    """
    from tastemaker.engine.watch import watch as watch_fit
    from tastemaker.store.fit_base import read_fit_base
    from tastemaker.training.checkpoint_weights import base_family, load_checkpoint_weights

    def base() -> "Family":
        return base_family(read_fit_base(fit), model=model, precision=config.precision)

    return watch_fit(
        fit,
        config,
        prompts,
        out,
        say,
        base=base,
        put=load_checkpoint_weights,
        preset=_preset_of_base(config, fit, model),
        **options,
    )


def _preset_of_base(config: PictureSettings, fit: Path, model: str | None) -> "Preset | None":
    """That of the model which the fit started from, once there is one."""
    from tastemaker.models.locate import locate
    from tastemaker.models.presets import named_or_found
    from tastemaker.store.fit_base import read_fit_base

    if config.preset == "none" or not (fit / "checkpoints" / "base.json").is_file():
        return None
    return named_or_found(config.preset, locate(model or read_fit_base(fit).model, "model"))


def _cut_prompts(family: "Family", prompts: PromptSet) -> dict[str, int]:
    """How many prompts the model cannot read to their end, and by how much; nothing if it can."""
    from tastemaker.models.text import summarise

    told = summarise(family.token_reports([prompt.text for prompt in prompts.prompts]))
    if not told.cut_texts:
        return {}
    return {"prompts cut": told.cut_texts, "tokens cut": told.cut_tokens}


def _write_grid(folder: Path, jobs: Sequence[Job]) -> None:
    from tastemaker.store.contact_sheet import write_contact_sheet
    from tastemaker.store.images import load_image

    pictures = [load_image(folder / job.file()).pixels for job in jobs]
    write_contact_sheet(folder / "grid.png", pictures, [job.prompt.text for job in jobs])
