"""Stage: generate the pictures of a prompt set with one model."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, model_validator

from tastemaker.engine.drawing import Drawer, Refiner, Share, device
from tastemaker.engine.picture_files import PictureFolder
from tastemaker.engine.picture_jobs import Job, picture_jobs
from tastemaker.engine.picture_sets import FilledSet, cut_prompts, fill_set, write_grid
from tastemaker.engine.picture_settings import (
    VERSION,
    Manner,
    PictureSettings,
    settings_hash,
    settle,
)
from tastemaker.engine.picture_starts import FolderStart, write_layout
from tastemaker.errors import InputError
from tastemaker.records.generation import PromptSet
from tastemaker.records.run import Artefact, Manifest
from tastemaker.records.size import Size
from tastemaker.store.rundir import StepDir
from tastemaker.store.sample_sets import checkpoint_sets, write_sets

if TYPE_CHECKING:
    from tastemaker.models.family import Family
    from tastemaker.models.presets import Preset
    from tastemaker.training.group import Group

__all__ = ["OUTPUTS", "PARALLEL", "VERSION", "Config", "preview", "run", "watch"]

OUTPUTS = ("samples", "sample_sets")
PARALLEL = True


class Config(PictureSettings):
    """Pictures with noise that depends on prompt and number alone, so that models can be paired."""

    inputs: ClassVar[dict[str, str]] = {
        "model": "model",
        "adapter": "adapter",
        "checkpoints": "checkpoints",
        "prompts": "prompts",
        "refiner": "model",
        "start_pictures": "samples",
        "parts": "samples",
    }
    model: str | None = None
    """The model."""
    adapter: str | None = None
    """LoRA weights to use with it."""
    checkpoints: str | None = None
    """In place of a model, a fit: one set of pictures of every checkpoint that it has kept, and one
    of the model that it began with, all with the same noise. `evaluate` chooses among them. With
    `model` too, that is the model that it began with, where it is no more at its place."""
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
        if not self.model and not self.checkpoints:
            raise ValueError("give model, or checkpoints for all that a fit has kept")
        if self.checkpoints and (self.adapter or self.share or self.parts or self.keep_latents):
            raise ValueError("checkpoints: without adapter, share, parts and keep_latents")
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

    if not {"model", "checkpoints"} & inputs.keys():
        return []
    found = named_or_found(config.preset, _model_place(inputs))
    # The model's own size is only known once it is loaded.
    manner = settle(config, found, Size(0, 0))
    size = f"{manner.size} px" if all(manner.size) else "the model's own size"
    lines = [f"{manner.text()}, {size}"]
    if found is not None:
        lines[0] += f" (where nothing is given, as the preset {found.name} says)"
    if "prompts" in inputs:
        count = len(read_prompt_set(Path(inputs["prompts"].path)).prompts)
        lines.append(f"{count * config.samples_per_prompt} pictures of {count} prompts")
        if "checkpoints" in inputs:
            sides = [s.side for s in checkpoint_sets(Path(inputs["checkpoints"].path), Path())]
            lines[-1] += f" by each of {len(sides)} models: {', '.join(sides)}"
    return lines


def run(config: Config, inputs: Mapping[str, Artefact], step: StepDir) -> Manifest:
    """Write `samples/`: pictures, `samples.jsonl`, `run.json`, then `grid.png`; or `sets/` of such.

    A picture whose file and line are there from an earlier attempt is kept. Several processes draw
    a batch each in turn; every picture is the same with any number of them.

    Raises:
        InputError: the size or the sampler does not fit the model, the adapter or the refiner does
            not, a start picture is not there, or earlier pictures are of other versions.
        TastemakerError: a picture is not finite.
    """
    from tastemaker.store.prompt_sets import read_prompt_set
    from tastemaker.training.parallel import present_group

    group = present_group()
    prompts = read_prompt_set(Path(inputs["prompts"].path))
    if "checkpoints" in inputs:
        return _run_checkpoints(config, inputs, step, prompts, group)
    family, refiner = _models(config, inputs)
    keys = _keys(inputs, refiner)
    set_, manner = _fill(config, inputs, step, prompts, group, family, refiner, keys)
    if not group.first:
        return Manifest("generate", step.key, {})
    return Manifest(
        stage="generate",
        key=step.key,
        outputs={"samples": "samples"},
        counts={
            "pictures": len(set_.jobs) - len(set_.lacking),
            "prompts": len(prompts.prompts),
            "kept from before": set_.before,
            **({"left to other shares": len(set_.lacking)} if set_.lacking else {}),
        }
        | cut_prompts(family, prompts),
        results={
            "model": config.name,
            "prompt set": prompts.name,
            **_results(config, manner, refiner, group),
        },
    )


def _run_checkpoints(
    config: Config,
    inputs: Mapping[str, Artefact],
    step: StepDir,
    prompts: PromptSet,
    group: "Group",
) -> Manifest:
    """Write `sets/`: a set of pictures for each checkpoint, with one model in memory."""
    from tastemaker.store.fit_base import read_fit_base
    from tastemaker.training.checkpoint_weights import base_family, load_checkpoint_weights

    folder, place = step.path / "sets", Path(inputs["checkpoints"].path)
    sets = checkpoint_sets(place, folder)
    at = str(inputs["model"].path) if "model" in inputs else None
    family = base_family(read_fit_base(place), model=at, precision=config.precision)
    refiner, kept = _refiner(config, inputs, family), 0
    for one in sets:
        if one.checkpoint:
            load_checkpoint_weights(family, folder / one.checkpoint)
        family.channels_last()
        if refiner is None:
            family.to(device())
        keys = _keys(inputs, refiner) | {"checkpoint": one.weights}
        set_, manner = _fill(config, inputs, step, prompts, group, family, refiner, keys, one.side)
        kept += set_.before
    if not group.first:
        return Manifest("generate", step.key, {})
    write_sets(folder, sets)
    return Manifest(
        stage="generate",
        key=step.key,
        outputs={"sample_sets": "sets"},
        counts={
            "checkpoints": len(sets) - 1,
            "pictures": len(sets) * len(set_.jobs),
            "prompts": len(prompts.prompts),
            "kept from before": kept,
        }
        | cut_prompts(family, prompts),
        results={
            "model": config.name,
            "prompt set": prompts.name,
            "images_seen": {one.side: one.images for one in sets},
            **_results(config, manner, refiner, group),
        },
    )


def _fill(
    config: Config,
    inputs: Mapping[str, Artefact],
    step: StepDir,
    prompts: PromptSet,
    group: "Group",
    family: "Family",
    refiner: Refiner | None,
    keys: Mapping[str, str],
    side: str = "",
) -> tuple[FilledSet, Manner]:
    """Draw what is lacking of one set: the only one, or a checkpoint's."""
    from tastemaker.models.presets import named_or_found
    from tastemaker.store.generated_latents import GeneratedLatents

    manner = settle(config, named_or_found(config.preset, _model_place(inputs)), family.own_size)
    drawer = Drawer(config, manner, family, refiner, _start(inputs))
    folder = step.path / "sets" / side if side else step.path / "samples"
    latents = GeneratedLatents(folder) if config.keep_latents else None
    settings, name = settings_hash(config, manner, keys), side or config.name
    files = PictureFolder(folder, name, settings, group.rank, latents)
    families = [family] if refiner is None else [family, refiner.family]
    jobs = picture_jobs(config, prompts, manner.size, *families)
    if group.first:
        _begin(config, drawer, files, jobs, inputs, prompts, keys)
    set_ = fill_set(drawer, files, jobs, step, group, config.part(), f"{step.name} {side}".strip())
    if config.grid_pictures and group.first:
        write_grid(files.folder, set_.there[: config.grid_pictures])
    return set_, manner


def _models(config: Config, inputs: Mapping[str, Artefact]) -> "tuple[Family, Refiner | None]":
    """The model, on its device, and a refiner, which waits."""
    from tastemaker.models.adapters import load_lora
    from tastemaker.models.family import load_family

    family = load_family(str(inputs["model"].path), precision=config.precision)
    if "adapter" in inputs:
        load_lora(family, Path(inputs["adapter"].path))
    refiner = _refiner(config, inputs, family.channels_last())
    return (family.to(device()) if refiner is None else family), refiner


def _refiner(config: Config, inputs: Mapping[str, Artefact], family: "Family") -> Refiner | None:
    from tastemaker.models.family import load_family
    from tastemaker.models.refining import refuse_unfit

    if "refiner" not in inputs:
        return None
    second = load_family(str(inputs["refiner"].path), precision=config.precision)
    refuse_unfit(family, second.channels_last())
    return Refiner(second, config.refiner_start)


def _model_place(inputs: Mapping[str, Artefact]) -> Path:
    """The files of the model, whose preset holds."""
    from tastemaker.models.locate import locate
    from tastemaker.store.fit_base import read_fit_base

    if "model" in inputs:
        return Path(inputs["model"].path)
    return locate(read_fit_base(Path(inputs["checkpoints"].path)).model, "model")


def _keys(inputs: Mapping[str, Artefact], refiner: Refiner | None) -> dict[str, str]:
    """What the weights and the start pictures are."""
    names = ("model", "adapter", "checkpoints", "refiner", "start_pictures")
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
    told = {"model": files.name, "keys": keys, "prompts": [prompts.name, prompts.hash]}
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
