"""Pictures that tell where they were cut, and a stand-in for an autoencoder that shows it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tastemaker.engine.latent_encoder import LatentEncoder
from tastemaker.records.run import Artefact
from tastemaker.store.selections import read_selection

CELL = 4
"""Pixels along one side of a latent cell of the tiny models."""


def position_picture(path: Path, h: int, w: int, blue: int = 0) -> None:
    """Red is the row, green the column; sides up to 256."""
    rows, columns = np.mgrid[0:h, 0:w]
    pixels = np.stack([rows, columns, np.full_like(rows, blue)], -1).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    path.with_suffix(".txt").write_text(f"the cat {blue}\n")


def shrinks(
    _: LatentEncoder, crops: Sequence[np.ndarray], vae_hash: str
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Instead of `LatentEncoder.encode`: means of 4x4 pixels, and a fourth channel of ones."""
    del vae_hash
    means = []
    for crop in crops:
        h, w, _ = crop.shape
        cells = crop.reshape(h // CELL, CELL, w // CELL, CELL, 3).mean((1, 3), dtype=np.float64)
        whole = np.concatenate([cells, np.ones_like(cells[..., :1])], -1)
        means.append(torch.from_numpy(whole).permute(2, 0, 1).float())
    return means, [torch.full_like(mean, -2.0) for mean in means]


def place_of(latent: torch.Tensor) -> tuple[int, int]:
    """Top and left of the crop that a latent of `shrinks` shows."""
    middle = (CELL - 1) / 2
    return round(latent[0, 0, 0].item() - middle), round(latent[1, 0, 0].item() - middle)


def ids_of(given: dict[str, Artefact]) -> tuple[str, ...]:
    """The ids of the selection."""
    return read_selection(Path(given["selection"].path)).ids
