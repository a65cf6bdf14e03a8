"""Stage: train a diffusion model on cached latents: whole parts of it, or LoRA adapters."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from tastemaker.curation.prompts import CaptionChoice
from tastemaker.engine.progress import Progress
from tastemaker.errors import StaleCache
from tastemaker.records.config import Config as BaseConfig
from tastemaker.records.run import Artefact, Manifest
from tastemaker.records.size import ImageSizes, Size
from tastemaker.store.rundir import StepDir
from tastemaker.training.settings import TrainingSettings

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tastemaker.models.family import Family
    from tastemaker.store.latent_sets import LatentSet

VERSION = 1
OUTPUTS = ("model", "adapter", "log")


class FullMethod(BaseConfig):
    """Train every weight of the named parts."""

    kind: Literal["full"] = "full"
    parts: tuple[str, ...] = ("unet",)
    """Parts of the family: `unet`, `text_encoder_1`, `text_encoder_2`."""


class LoraMethod(BaseConfig):
    """Train low-rank adapters in the denoiser (Hu et al. 2021, arXiv:2106.09685)."""

    kind: Literal["lora"] = "lora"
    rank: int = Field(default=16, gt=0)
    """Rank r of every update B A."""
    alpha: float = Field(default=16.0, gt=0)
    """The update is scaled by alpha / rank."""
    targets: str = "attention"
    """Group of layers: `attention`, or `attention+ff` with the feed-forward layers."""


class SftObjective(BaseConfig):
    """Predict what the model's schedule asks for, on the pictures themselves."""

    kind: Literal["sft"] = "sft"
    weighting: Literal["plain", "min_snr", "debiased"] = "min_snr"
    """Weight of each timestep; min-SNR is Hang et al. 2023, arXiv:2303.09556."""
    gamma: float = Field(default=5.0, gt=0)
    """min-SNR's gamma; 5 is stated in the paper."""


class Config(TrainingSettings):
    """Fit on pictures with captions; `model/` (full) or `adapter/` (LoRA) is the result."""

    inputs: ClassVar[dict[str, str]] = {
        "model": "model",
        "collection": "collection",
        "selection": "selection",
        "cache": "cache",
    }
    model: str
    """The model to start from."""
    collection: str
    """Where the captions are."""
    selection: str
    """The pictures to train on."""
    cache: str
    """Their latents, made with this model's autoencoder."""
    method: Annotated[FullMethod | LoraMethod, Field(discriminator="kind")] = LoraMethod()
    """What is trained."""
    objective: SftObjective = SftObjective()
    """What a step minimises."""
    caption_weights: tuple[float, ...] = (1.0,)
    """Relative frequency of a picture's first, second, ... caption."""
    empty_captions: float = Field(default=0.1, ge=0, lt=1)
    """Share of visits with the empty text, which generation passes as the negative prompt."""
    held_out: int = Field(default=0, ge=0)
    """Pictures that are only validated on, chosen by hash."""
    stable_images: int = Field(default=32, ge=0)
    """Trained pictures whose loss is also computed on a fixed grid."""


def run(config: Config, inputs: Mapping[str, Artefact], step: StepDir) -> Manifest:
    """Train to the end from the newest checkpoint, then write the result."""
    from tastemaker.models.family import load_family
    from tastemaker.objectives.sft import SFT
    from tastemaker.store.catalogue import Catalogue
    from tastemaker.store.latent_sets import LatentSet
    from tastemaker.store.pictures import refuse_uncaptioned, split_held_out
    from tastemaker.store.selections import read_selection
    from tastemaker.training.diffusion import DiffusionTask
    from tastemaker.training.session import fit

    selection = read_selection(Path(inputs["selection"].path))
    train_ids, held_out = split_held_out(selection.ids, config.held_out)
    family = load_family(str(inputs["model"].path))
    latents = _read_latents(LatentSet(Path(inputs["cache"].path)), selection.ids, family)
    records = {r.id: r for r in Catalogue(Path(inputs["collection"].path)).records()}
    refuse_uncaptioned([records[i] for i in train_ids], selection.name)
    task = DiffusionTask(
        family,
        _trained_parts(family, config),
        {i: records[i] for i in selection.ids},
        lambda sample_id, _visit: latents[sample_id],
        SFT(weighting=config.objective.weighting, gamma=config.objective.gamma),
        CaptionChoice(config.caption_weights, config.empty_captions),
        seed=config.seed,
        held_out=held_out,
        stable=train_ids[: config.stable_images],
    )
    buckets: dict[Size, list[str]] = {}
    for sample_id in train_ids:
        buckets.setdefault(latents[sample_id][1].target, []).append(sample_id)
    with Progress(step, config.images_total, "images", step.name) as progress:
        outcome = fit(task, buckets, config, step.path, progress.advance)
    kind = _save(family, config, step.path)
    return Manifest(
        stage="fit",
        key=step.key,
        outputs={kind: kind, "log": "log"},
        counts={
            "images": outcome.images,
            "steps": outcome.steps,
            "pictures trained on": len(train_ids),
            "pictures held out": len(held_out),
        },
        results=outcome.figures,
    )


def _read_latents(
    cache: "LatentSet", ids: tuple[str, ...], family: "Family"
) -> dict[str, tuple["Tensor", ImageSizes]]:
    """All latents of the selection in memory, as fp32."""
    latents = {}
    for sample_id in ids:
        latent = cache.read(sample_id)
        if latent.mean.shape[0] != family.latent_channels:
            raise StaleCache(
                cache.path,
                f"latents of {latent.mean.shape[0]} channels",
                f"{family.latent_channels} channels as this model has",
                "Run the cache step with the model that is trained.",
            )
        latents[sample_id] = (latent.mean.float(), latent.sizes)
    return latents


def _trained_parts(family: "Family", config: Config) -> dict[str, "nn.Module"]:
    from tastemaker.models.adapters import add_lora

    if isinstance(config.method, FullMethod):
        family.trainable(config.method.parts)
        return {name: family.parts[name] for name in config.method.parts}
    family.trainable(())
    add_lora(
        family,
        rank=config.method.rank,
        alpha=config.method.alpha,
        targets=config.method.targets,
        seed=config.seed,
    )
    return {"unet": family.parts["unet"]}


def _save(family: "Family", config: Config, folder: Path) -> str:
    """Write the trained weights; the kind of artefact that they are."""
    from tastemaker.models.adapters import save_lora
    from tastemaker.store.atomic import atomic_folder

    kind = "model" if isinstance(config.method, FullMethod) else "adapter"
    with atomic_folder(folder / kind) as temporary:
        family.save(temporary) if kind == "model" else save_lora(family, temporary)
    return kind
