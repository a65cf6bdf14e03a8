"""A folder of small pictures, and the steps of a recipe run on it one by one."""

from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image

from tastemaker.records.run import Artefact, Manifest
from tastemaker.stages import cache, collect, curate
from tastemaker.store.rundir import StepDir
from tests.tiny_models import WORDS, saved_sdxl

Artefacts = Mapping[str, Artefact]


def write_picture(path: Path, seed: int, side: int = 32) -> None:
    """A smooth picture that is like no other."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC).save(path)


def write_pictures(folder: Path, count: int = 10) -> Path:
    """`00.png`, `01.png`, ..., with two captions each."""
    folder.mkdir(parents=True)
    for number in range(count):
        write_picture(folder / f"{number:02}.png", number)
        captions = f"{WORDS[number % 5]} {number}\nthe cat {number}\n"
        (folder / f"{number:02}.txt").write_text(captions)
    return folder


def step_dir(root: Path, name: str, key: str = "") -> StepDir:
    """Where a step would lie in a run folder."""
    full = blake2b(f"{name} {key}".encode(), digest_size=32).hexdigest()
    return StepDir(root / name / full[:12], name=name, key=full)


def run_step(
    stage: ModuleType, step: StepDir, given: Artefacts, **fields: Any
) -> tuple[Manifest, dict[str, Artefact]]:
    """Run one stage on what earlier ones made; its manifest, and what it made by kind."""
    inputs = {name: given[name] for name in stage.Config.inputs if name in given}
    config = stage.Config(**{name: name for name in inputs}, **fields)
    manifest = stage.run(config, inputs, step)
    made = {k: Artefact(k, step.path / p, step.key) for k, p in manifest.outputs.items()}
    return manifest, made


def collected(root: Path, folder: Path, key: str = "") -> dict[str, Artefact]:
    """A collection of a folder, and a selection of all of it."""
    _, made = run_step(collect, step_dir(root, "collect", key), {}, sources=str(folder))
    rules = {"rules": []}
    _, chosen = run_step(curate, step_dir(root, "curate", key), made, **rules)
    return {**made, **chosen}


def prepared(root: Path, models: Path) -> dict[str, Artefact]:
    """Ten pictures, the tiny SDXL, and its 8x8 latents."""
    given = collected(root, write_pictures(root / "pictures"))
    given["model"] = Artefact("model", saved_sdxl(models), "m")
    _, made = run_step(cache, step_dir(root, "cache"), given, size_px=32)
    return {**given, **made}
