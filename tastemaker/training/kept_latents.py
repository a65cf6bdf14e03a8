"""Cached latents by number, the first ones kept decoded; and their samples in training.

Axes: C latent channels, H and W latent rows and columns.
"""

from threading import Lock

import torch
from torch import Tensor

from tastemaker.diffusion.noise import noise
from tastemaker.records.draws import Draw
from tastemaker.store.latent_reader import LatentReader
from tastemaker.store.latent_sets import LatentSet
from tastemaker.store.latents import CachedLatent

FIXED = -1
"""The visit of validation: always the first crop, and its mean."""

_MEMORY_BYTES = 256 << 20
"""Latents up to this size in all are kept decoded (ours): small sets are read once."""


class KeptLatents:
    """Number in a set -> its latent. Several threads may ask.

    Args:
        latents: the set; it should have been checked (`check_latents`), as reading is not.
    """

    def __init__(self, latents: LatentSet) -> None:
        self._reader = LatentReader(latents.cache.columns, check=False)
        self._lock = Lock()
        self._room = _MEMORY_BYTES
        self._kept: dict[int, CachedLatent] = {}

    def __call__(self, number: int) -> CachedLatent:
        """The latent.

        Raises:
            CorruptFile: the shard cannot be read.
        """
        if (kept := self._kept.get(number)) is not None:
            return kept
        latent = self._reader.read_one(number)
        size = latent.mean.nbytes * (1 if latent.logvar is None else 2)
        with self._lock:
            if number not in self._kept and size <= self._room:
                self._room -= size
                self._kept[number] = latent
        return latent


def sampled(latent: CachedLatent, seed: int, name: str, visit: int) -> Tensor:
    """The latent [C, H, W] of one visit in fp32: with a log-variance a fresh sample.

    Args:
        latent: from the cache.
        seed: the run's.
        name: of the sample, or of the pair, whose sides share their draw.
        visit: how often it was visited before; `FIXED` gives the mean.
    """
    mean = latent.mean.float()
    if latent.logvar is None or visit == FIXED:
        return mean
    own = noise(Draw(seed, "vae", name, visit), mean.shape)
    return mean + torch.exp(latent.logvar.float() / 2) * own
