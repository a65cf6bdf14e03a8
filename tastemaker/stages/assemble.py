"""Stage: put a small SDXL together from an autoencoder, a tokenizer and a configuration."""

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from tastemaker.records.config import Config as BaseConfig
from tastemaker.records.run import Artefact, Manifest
from tastemaker.store.atomic import atomic_folder
from tastemaker.store.rundir import StepDir

VERSION = 1
OUTPUTS = ("model",)


class Config(BaseConfig):
    """A new model of the SDXL architecture with random weights where nothing is given."""

    inputs: ClassVar[dict[str, str]] = {"autoencoder": "model", "tokenizer": "tokenizer"}
    autoencoder: str
    """A diffusers AutoencoderKL folder."""
    tokenizer: str
    """A tokenizer step; its window is the text encoders'."""
    unet: dict[str, object]
    """Keyword arguments of UNet2DConditionModel; widths that follow from encoders are filled in."""
    text_encoder: dict[str, object]
    """Keyword arguments of the first text encoder's CLIPTextConfig; token ids are filled in."""
    text_encoder_2: dict[str, object]
    """The same for the second, which also gives the pooled text (`projection_dim`)."""
    scheduler: dict[str, object]
    """Keyword arguments of DDIMScheduler: the noise schedule and what the model predicts."""
    seed: int = 0
    """Of the random weights."""


def run(config: Config, inputs: Mapping[str, Artefact], step: StepDir) -> Manifest:
    """Write `model/`, a StableDiffusionXLPipeline folder."""
    from tastemaker.models.family import build_sdxl

    architecture = {
        "unet": config.unet,
        "text_encoder": config.text_encoder,
        "text_encoder_2": config.text_encoder_2,
        "scheduler": config.scheduler,
    }
    family = build_sdxl(
        architecture,
        Path(inputs["tokenizer"].path),
        vae=Path(inputs["autoencoder"].path),
        seed=config.seed,
    )
    with atomic_folder(step.path / "model") as folder:
        family.save(folder)
    counts = {
        f"parameters of {name}": sum(p.numel() for p in part.parameters())
        for name, part in family.parts.items()
    }
    return Manifest(stage="assemble", key=step.key, outputs={"model": "model"}, counts=counts)
