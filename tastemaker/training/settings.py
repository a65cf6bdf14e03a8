"""How long, how fast, with which optimiser: the part of a configuration that every fit shares."""

from typing import Annotated, Literal

from pydantic import Field

from tastemaker.records.config import Config
from tastemaker.training.lr import LrCourse


class AdamWConfig(Config):
    """AdamW (Loshchilov & Hutter 2019)."""

    lr: float = Field(default=1e-4, gt=0)
    """Learning rate of every part that `part_lr` does not name. Chosen by us."""
    part_lr: dict[str, Annotated[float, Field(gt=0)]] = {}
    """Learning rate of single trained parts, such as `text_encoder_1: 1e-6`. Chosen by us."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of the two moments; the paper's defaults."""
    eps: float = Field(default=1e-8, gt=0)
    """Added to the root of the second moment; the paper's default."""
    weight_decay: float = Field(default=0.01, ge=0)
    """Decoupled decay of matrices and kernels; biases, norms, scalars have none. Chosen by us."""


class TrainingSettings(Config):
    """Counted in images (one sample, one visit); steps are derived."""

    seed: int = 0
    """Every draw of the run depends on it."""
    images_total: int = Field(gt=0)
    """How many images the run sees, repeats counted."""
    batch: int = Field(default=32, gt=0)
    """Images per optimiser step, over all micro-batches."""
    micro_batch: int | None = Field(default=None, gt=0)
    """Images per forward pass; the batch when not given. Changes the memory, never the result."""
    optimizer: AdamWConfig = AdamWConfig()
    """Learning rates and AdamW's other figures."""
    lr_course: LrCourse = LrCourse()
    """Warm-up and fall of the learning rate."""
    autocast: Literal["none", "bf16"] = "none"
    """Precision of the forward pass; weights, losses and optimiser stay in fp32. Chosen by us."""
    clip_norm: float = Field(default=1.0, gt=0)
    """Largest norm of the whole gradient."""
    ema_decay: float = Field(default=0.0, ge=0, lt=1)
    """Decay per step of the averaged weights that are exported; 0 exports the last weights."""
    log_every_images: int = Field(default=1_000, gt=0)
    """How often a line of figures is written."""
    validate_every_images: int = Field(default=10_000, gt=0)
    """How often the fixed grids are computed."""
    save_every_images: int = Field(default=20_000, gt=0)
    """How often a checkpoint is written; a killed run loses at most this."""
    keep_checkpoints: int = Field(default=2, gt=0)
    """How many of the newest checkpoints stay."""
