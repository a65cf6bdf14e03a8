"""Stage: encode the pictures of a selection once, into latent shards."""

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from tastemaker.engine.progress import Progress
from tastemaker.records.config import Config as BaseConfig
from tastemaker.records.run import Artefact, Manifest
from tastemaker.records.size import Size
from tastemaker.store.pictures import load_pictures
from tastemaker.store.rundir import StepDir

VERSION = 1


class Config(BaseConfig):
    """Latents of every selected picture at one size; captions are not in the cache."""

    inputs: ClassVar[dict[str, str]] = {
        "collection": "collection",
        "selection": "selection",
        "model": "model",
    }
    collection: str
    """The pictures."""
    selection: str
    """Which of them."""
    model: str
    """The model whose autoencoder encodes them."""
    size_px: int = Field(default=64, gt=0)
    """Side of the square bucket."""
    dtype: Literal["bf16", "fp16", "fp32"] = "bf16"
    """How latents are stored (bf16: chosen by us, field figures in docs)."""
    codec: Literal["shuffle-zstd", "none"] = "shuffle-zstd"
    """How shards are packed."""
    batch: int = Field(default=32, gt=0)
    """Pictures per forward pass of the autoencoder."""
    shard_images: int = Field(default=256, gt=0)
    """Latents per shard; a killed run loses at most one."""
