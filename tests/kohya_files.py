"""Latent caches as kohya's scripts write them: `np.savez` beside the pictures."""

from pathlib import Path
from typing import Any

import numpy as np

from tastemaker.records.size import Size


def numbers(h: int, w: int, channels: int = 4, seed: int = 0) -> np.ndarray:
    """Unscaled latents, fp32 that was bf16."""
    values = np.random.default_rng(seed).standard_normal((channels, h, w)).astype(np.float32) * 7
    return (values.view(np.uint32) & 0xFFFF0000).view(np.float32)


def arrays(latents: np.ndarray, original: Size, suffix: str = "") -> dict[str, np.ndarray]:
    """The members of one latent; sizes are written width first."""
    bucket = Size(8 * latents.shape[1], 8 * latents.shape[2])
    inside = min(bucket.h / original.h, bucket.w / original.w)
    left, top = ((bucket.w - original.w * inside) / 2, (bucket.h - original.h * inside) / 2)
    crop = [left, top, left + original.w * inside, top + original.h * inside]
    return {
        f"latents{suffix}": latents,
        f"original_size{suffix}": np.array([original.w, original.h]),
        f"crop_ltrb{suffix}": np.array([int(side + 0.5) for side in crop]),
    }


def write_kohya(
    picture: Path, latents: np.ndarray, original: Size, model: str = "sdxl", **more: Any
) -> Path:
    """The file that belongs to a picture."""
    name = f"{picture.stem}_{original.w:04d}x{original.h:04d}_{model}.npz"
    path = picture.parent / (name if model else f"{picture.stem}.npz")
    np.savez(path, **{**arrays(latents, original), **more})
    return path
