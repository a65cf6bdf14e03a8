"""A tiny SDXL, ten pairs of pictures with their latents, and fits on them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from tastemaker.records.pair import Pair, PairPicture
from tastemaker.records.run import Artefact, Manifest
from tastemaker.records.size import Size
from tastemaker.stages import cache_pairs, fit_pairs
from tastemaker.store.hashing import hash_file
from tastemaker.store.pair_sets import PairSetFacts, write_pair_set
from tastemaker.store.rundir import StepDir
from tests.pairs_made import picture
from tests.tiny_models import WORDS, saved_sdxl
from tests.tiny_run import run_step, step_dir

Artefacts = Mapping[str, Artefact]

LORA = {"kind": "lora", "rank": 2, "alpha": 2.0}
FULL = {"kind": "full"}
FIELDS: dict[str, Any] = {
    "images_total": 24,
    "batch": 4,
    "stable_pairs": 2,
    "optimizer": {"lr": 1e-2},
    "method": LORA,
    "log_every_images": 4,
    "validate_every_images": 8,
    "save_every_images": 8,
}


def pair_set(root: Path, count: int = 10, held_out: int = 2) -> Artefact:
    """Ten pairs of 32x32 pictures, the last two held out, one a tie."""
    pictures, pairs = {}, []
    for number in range(count):
        ids = []
        for side in range(2):
            file = picture(root / "pictures" / f"{number}{side}.png", 10 * number + side)
            one = PairPicture(hash_file(file), str(file), Size(32, 32), file.name)
            pictures[one.id] = one
            ids.append(one.id)
        split = "train" if number < count - held_out else "heldout"
        label = 0.5 if number == 1 else 1.0
        prompt = f"{WORDS[number % 5]} {number}"
        pairs.append(Pair(f"{number:02}", prompt, ids[0], ids[1], label, 0.5, "test", split=split))
    write_pair_set(root / "set", pairs, pictures, (), PairSetFacts("s", {}, {}))
    return Artefact("pairs", root / "set", "p")


def prepared_pairs(root: Path, models: Path, count: int = 10) -> dict[str, Artefact]:
    """Pairs, the tiny SDXL, and its 8x8 latents."""
    given = {"pairs": pair_set(root, count), "model": Artefact("model", saved_sdxl(models), "m")}
    _, made = run_step(cache_pairs, step_dir(root, "cache_pairs"), given, size_px=32)
    return {**given, "cache": Artefact("pair_cache", made["pair_cache"].path, "c")}


def fitted(step: StepDir, given: Artefacts, **fields: Any) -> Manifest:
    """One fit; fields are put over `FIELDS`."""
    return run_step(fit_pairs, step, given, **{**FIELDS, **fields})[0]


def result(step: StepDir) -> dict[str, torch.Tensor]:
    """The trained weights."""
    for file in (
        step.path / "adapter" / "pytorch_lora_weights.safetensors",
        step.path / "model" / "unet" / "diffusion_pytorch_model.safetensors",
    ):
        if file.is_file():
            return load_file(file)
    raise AssertionError(sorted(step.path.iterdir()))
