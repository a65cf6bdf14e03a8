"""Generated pictures, scores and comparisons on disk, for tests of pairs."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tastemaker.records.codec import to_json
from tastemaker.records.generation import Sample
from tastemaker.store import jsonl
from tastemaker.store.hashing import hash_bytes
from tastemaker.store.pair_sets import PairSet
from tastemaker.store.scores import write_scores
from tests.told import Told


def picture(path: Path, seed: int, h: int = 32, w: int = 32) -> Path:
    """A smooth picture that is like no other."""
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    Image.fromarray(coarse).resize((w, h), Image.Resampling.BICUBIC).save(path)
    return path


def sample(prompt: str, index: int = 0, model: str = "base", seed: int = 0) -> Sample:
    """A line of `samples.jsonl`."""
    prompt_id = prompt.replace(" ", "-")
    name = f"{prompt_id}_{index:02d}.png"
    number = hash_bytes(f"{seed} {prompt} {index}".encode())[:12]
    return Sample(model, prompt_id, prompt, index, int(number, 16), f"settings of {model}", name)


def sample_set(
    folder: Path, prompts: Sequence[str], count: int = 2, model: str = "base", seed: int = 0
) -> list[Sample]:
    """A folder of samples, of which no two are alike."""
    made = [sample(p, n, model) for p in prompts for n in range(count)]
    for number, one in enumerate(made):
        picture(folder / one.file, 1000 * (seed + 1) + number)
        jsonl.append(folder / "samples.jsonl", to_json(one))
    return made


def scores(
    path: Path, values: Mapping[tuple[str, str, int], float | None], scorer: str = "taste"
) -> Path:
    """A file of scores as an evaluation writes it; the key is (model, prompt id, index)."""
    rows: list[dict[str, Any]] = [
        {
            "model": model,
            "prompt_id": prompt,
            "sample_index": index,
            "file": f"{prompt}_{index:02d}.png",
            "scorer": scorer,
            "version": "1",
            "backbone": "net",
            "preprocessing": "",
            "unit": "points",
            "value": value,
        }
        for (model, prompt, index), value in values.items()
    ]
    write_scores(path, rows)
    return path


def lines(path: Path, rows: Sequence[Any]) -> Path:
    """A JSONL file; a text is written as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(text))
    return path


def made(told: Told) -> PairSet:
    """The pair set that a command has made."""
    assert told.code == 0, told.err
    return PairSet(Path(told.value["steps"][-1]["path"]) / "pairs")


def dropped(told: Told) -> dict[str, int]:
    """Reason -> how often, as it was counted."""
    found = {name: n for name, n in told.counts.items() if name.startswith("dropped: ")}
    reasons = {name.removeprefix("dropped: "): n for name, n in found.items()}
    # The list on file is what was counted.
    assert Counter(one.reason for one in made(told).dropped()) == reasons
    return reasons


def names(pairs: PairSet) -> dict[str, tuple[str, str, float]]:
    """Prompt -> files of winner and loser, label."""
    file = {i: Path(one.path).name for i, one in pairs.pictures().items()}
    return {p.prompt: (file[p.winner], file[p.loser], p.label) for p in pairs.pairs()}
