"""Stage: put a small SDXL together from an autoencoder, a text tower and a configuration."""

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from tastemaker.records.config import Config as BaseConfig
from tastemaker.records.run import Artefact, Manifest
from tastemaker.store.atomic import atomic_folder
from tastemaker.store.rundir import StepDir

VERSION = 1


class Config(BaseConfig):
    """A new model of the SDXL architecture with random weights where nothing is given."""

    inputs: ClassVar[dict[str, str]] = {"autoencoder": "model", "image_text": "model"}
    autoencoder: str
    """A diffusers AutoencoderKL folder."""
    image_text: str
    """A transformers CLIP folder: its text tower becomes the second text encoder, its tokenizer both."""
    unet: dict[str, object]
    """Keyword arguments of UNet2DConditionModel; widths that follow from the encoders are filled in."""
    text_encoder: dict[str, object]
    """Keyword arguments of the first text encoder's CLIPTextConfig."""
    scheduler: dict[str, object]
    """Keyword arguments of DDIMScheduler: the noise schedule and what the model predicts."""
    seed: int = 0
    """Of the random weights."""


def run(config: Config, inputs: Mapping[str, Artefact], step: StepDir) -> Manifest:
    """Write `model/`, a StableDiffusionXLPipeline folder."""
    from tastemaker.models.family import build_sdxl
    from tastemaker.models.image_text import ImageText
    from tastemaker.models.tokenizer import save_tokenizer_pair

    clip = ImageText.load(Path(inputs["image_text"].path))
    save_tokenizer_pair(clip.tokenizer, step.path / "tokenizers")
    tower = clip.model.config.text_config
    architecture = {
        "unet": config.unet,
        "text_encoder": config.text_encoder,
        "text_encoder_2": {**tower.to_dict(), "projection_dim": clip.model.config.projection_dim},
        "scheduler": config.scheduler,
    }
    vae = Path(inputs["autoencoder"].path)
    family = build_sdxl(architecture, step.path / "tokenizers", vae=vae, seed=config.seed)
    family.text_encoder_2.text_model.load_state_dict(clip.model.text_model.state_dict())
    family.text_encoder_2.text_projection.load_state_dict(clip.model.text_projection.state_dict())
    with atomic_folder(step.path / "model") as folder:
        family.save(folder)
    counts = {
        f"parameters of {name}": sum(p.numel() for p in part.parameters())
        for name, part in family.parts.items()
    }
    return Manifest(stage="assemble", key=step.key, outputs={"model": "model"}, counts=counts)
