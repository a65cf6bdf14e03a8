"""Small collections and curations of them, for tests."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from tastemaker.engine import column_work
from tastemaker.records.image import ImageRecord
from tastemaker.records.run import Artefact, Manifest
from tastemaker.stages import collect, curate
from tastemaker.store.catalogue import Catalogue
from tastemaker.store.rundir import StepDir


def noise(seed: int, h: int = 96, w: int = 96) -> np.ndarray:
    """Soft spots of colour, uint8 `[h, w, 3]`."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((w, h), Image.Resampling.BICUBIC))


def save(path: Path, pixels: np.ndarray, caption: str | None = "") -> Path:
    """A picture and, unless it is None, its caption: by default one of its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    if caption is not None:
        path.with_suffix(".txt").write_text(caption or f"a {path.stem} thing")
    return path


def collected(folder: Path, *sources: Path) -> Path:
    """The collection of some sources."""
    step = StepDir(folder, name="collect", key="c" * 64)
    collect.run(collect.Config(sources=tuple(map(str, sources))), {}, step)
    return step.path / "collection"


def recorded(folder: Path, records: Sequence[ImageRecord]) -> Path:
    """A collection of records, without any picture."""
    catalogue = Catalogue(folder / "collection")
    catalogue.append_base(records)
    catalogue.close_base()
    return catalogue.path


class Curating:
    """Curates one collection; every call is a step of its own."""

    def __init__(self, folder: Path, collection: Path, monkeypatch) -> None:
        monkeypatch.setattr(os, "fsync", lambda _descriptor: None)
        self.catalogue, self._folder, self._calls = Catalogue(collection), folder, 0
        self.decoded: Counter[str] = Counter()
        real = column_work.load_image

        def load(data: bytes, *, name: str) -> Any:
            self.decoded[Path(name).name] += 1
            return real(data, name=name)

        monkeypatch.setattr(column_work, "load_image", load)
        self.inputs: dict[str, Artefact] = {"collection": Artefact("collection", collection, "c")}

    def __call__(self, **options: Any) -> Manifest:
        self._calls += 1
        name = f"curate{self._calls}"
        self.step = StepDir(self._folder / name, name="curate", key="d" * 64)
        config = curate.Config(collection="collect", **options)
        return curate.run(config, self.inputs, self.step)

    def check(self, **options: Any) -> list[tuple[str, str, str]]:
        config = curate.Config(collection="collect", **options)
        return [(f.where, f.problem, f.todo) for f in curate.check(config, self.inputs)]

    def verdicts(self) -> dict[str, dict[str, Any]]:
        """Those of the last call, by the name of the file."""
        table = pq.read_table(self.step.path / "verdicts.parquet").to_pylist()
        return {row["key"].rpartition("/")[2]: row for row in table}

    def kept(self) -> set[str]:
        return {name for name, row in self.verdicts().items() if row["kept"]}

    def status(self, column: str) -> Mapping[str, str]:
        """Of a column, by the name of the file."""
        (folder,) = (self.catalogue.path / "catalog" / "col").glob(f"{column}@*")
        keys = {r.id: r.key.rpartition("/")[2] for r in self.catalogue.records()}
        rows = [
            row for part in sorted(folder.glob("part-*")) for row in pq.read_table(part).to_pylist()
        ]
        return {keys[row["id"]]: row["error"] or row["status"] for row in rows}
