"""The smallest models that run the real code: a 64-px SDXL with 16x16 latents."""

import json
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
_UNET = {name: value for name, value in CONFIG["unet"].items() if name != "addition_time_embed_dim"}
SD15 = {**CONFIG, "unet": {**_UNET, "attention_head_dim": 2}}
del SD15["text_encoder_2"]
REFINER = {name: value for name, value in CONFIG.items() if name != "text_encoder"}
PIXART: dict[str, Any] = {
    "transformer": {
        "sample_size": 16,
        "num_layers": 2,
        "num_attention_heads": 2,
        "attention_head_dim": 12,
        "in_channels": 4,
        "out_channels": 8,
        "cross_attention_dim": 24,
        "attention_bias": True,
    },
    "text_encoder": {
        "d_model": 20,
        "d_kv": 10,
        "d_ff": 32,
        "num_layers": 2,
        "num_heads": 2,
        "feed_forward_proj": "gated-gelu",
    },
    "vae": CONFIG["vae"],
    "scheduler": {"num_train_timesteps": 1000, "beta_schedule": "linear", "clip_sample": False},
}
# At 128 the transformer is told sizes; the pictures of the tests may be smaller all the same.
PIXART_1024 = {**PIXART, "transformer": {**PIXART["transformer"], "sample_size": 128}}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "sd15": ("sd15", SD15),
    "sdxl": ("sdxl", CONFIG),
    "refiner": ("sdxl", REFINER),
    "pixart-512": ("pixart", PIXART),
    "pixart-1024": ("pixart", PIXART_1024),
}
"""Name in tests -> family and configuration."""
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


def t5_tokenizer(folder: Path) -> Path:
    """A unigram tokenizer of T5's layout in `tokenizer/`: pad 0, end 1, unknown 2."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
    from transformers import T5Tokenizer

    learner = Tokenizer(models.Unigram())
    learner.normalizer = normalizers.NFKC()  # pyright: ignore[reportAttributeAccessIssue]
    learner.pre_tokenizer = pre_tokenizers.Metaspace()  # pyright: ignore[reportAttributeAccessIssue]
    trainer = trainers.UnigramTrainer(
        vocab_size=120, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>",
        show_progress=False,
    )  # fmt: skip
    learner.train_from_iterator(sorted(WORDS), trainer)
    learned: Any = json.loads(learner.to_str())["model"]["vocab"]
    vocab = [(piece, score) for piece, score in learned]
    T5Tokenizer(vocab=vocab, extra_ids=0).save_pretrained(folder / "tokenizer")
    return folder


def tiny_family(name: str, seed: int = 0, **options: Any) -> Any:
    """A new, untrained model of any row of `FAMILIES`."""
    from tastemaker.models.family import build_family

    family, config = FAMILIES[name]
    with TemporaryDirectory() as folder:
        made = t5_tokenizer(Path(folder)) if family == "pixart" else tokenizers(Path(folder))
        return build_family(family, config, made, seed=seed, **options)


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
