"""Collecting into one folder, for tests: small parts, small shards, no waiting for the disk."""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from tastemaker.records.image import ImageRecord
from tastemaker.stages import collect
from tastemaker.store import ledger
from tastemaker.store.catalogue import Catalogue
from tastemaker.store.rundir import StepDir


class Collecting:
    """Collects into one step folder; called with sources and options it gives the counts."""

    def __init__(self, folder: Path, monkeypatch) -> None:
        monkeypatch.setattr(os, "fsync", lambda _descriptor: None)
        monkeypatch.setattr(ledger, "FLUSH_ROWS", 4)
        monkeypatch.setattr(collect, "_BATCH", 2)
        self.step = StepDir(folder, name="collect", key="k" * 64)
        self.catalogue = Catalogue(folder / "collection")

    def __call__(self, *sources: Path | str, **options) -> Mapping[str, int]:
        config = collect.Config(sources=tuple(str(source) for source in sources), **options)
        return collect.run(config, {}, self.step).counts

    def usable(self) -> dict[str, ImageRecord]:
        return usable(self.catalogue)


def usable(catalogue: Catalogue) -> dict[str, ImageRecord]:
    return {record.key: record for record in catalogue.records() if record.status == "ok"}


def write(path: Path, seed: int, side: int = 16) -> Path:
    """A picture of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (side, side + 4, 3), np.uint8)
    Image.fromarray(noise).save(path)
    return path
