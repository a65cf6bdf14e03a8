"""The smallest models that run the real code: a 64-px SDXL with 16x16 latents."""

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

WORDS = [
    "a red apple, thick outlines",
    "a green tree in the rain",
    "a tiger's face, flat colours",
    "a blue car on a grey road",
    "the cat and the yellow banana",
] * 3
TEXT = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "projection_dim": 16,
}
CONFIG: dict[str, Any] = {
    "unet": {
        "sample_size": 16,
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": [16, 32],
        "layers_per_block": 1,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
        "attention_head_dim": [2, 4],
        "norm_num_groups": 8,
        "use_linear_projection": True,
        "addition_time_embed_dim": 8,
    },
    "vae": {
        "in_channels": 3,
        "out_channels": 3,
        "latent_channels": 4,
        "block_out_channels": [8, 8, 16],
        "down_block_types": ["DownEncoderBlock2D"] * 3,
        "up_block_types": ["UpDecoderBlock2D"] * 3,
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "scaling_factor": 0.5,
    },
    "text_encoder": {**TEXT, "hidden_act": "quick_gelu"},
    "text_encoder_2": {**TEXT, "hidden_size": 24},
    "scheduler": {
        "num_train_timesteps": 1000,
        "beta_schedule": "squaredcos_cap_v2",
        "prediction_type": "v_prediction",
        "clip_sample": False,
        "timestep_spacing": "trailing",
    },
}
CLIP = {
    "text_config": TEXT,
    "vision_config": {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 16,
        "patch_size": 8,
    },
    "projection_dim": 16,
}
WINDOW = 12


def tokenizers(folder: Path, max_length: int = WINDOW) -> Path:
    """`tokenizer/` and `tokenizer_2/` in a folder."""
    from tastemaker.models.tokenizer import train_tokenizer

    train_tokenizer(WORDS, 600, max_length, folder)
    return folder


def tiny_sdxl(seed: int = 0, **unet: Any) -> Any:
    """A new, untrained model."""
    from tastemaker.models.family import build_sdxl

    with TemporaryDirectory() as folder:
        config = {**CONFIG, "unet": {**CONFIG["unet"], **unet}}
        return build_sdxl(config, tokenizers(Path(folder)), seed=seed)


@cache
def _saved(root: str) -> Path:
    folder = Path(root) / "tiny-sdxl"
    tiny_sdxl().save(folder)
    return folder


def saved_sdxl(root: Path) -> Path:
    """The same model as a diffusers folder, written once a root."""
    return _saved(str(root))


def pictures(count: int, side: int = 64) -> torch.Tensor:
    """uint8 [count, 3, side, side], the same every time."""
    generator = torch.Generator().manual_seed(7)
    coarse = torch.rand(count, 3, 8, 8, generator=generator)
    fine = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bilinear")
    return (fine * 255).to(torch.uint8)
