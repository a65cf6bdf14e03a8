"""The command line as a user calls it, on twelve pictures in a folder of their own."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tastemaker.cli.app import main

TEXT = 'a thing, "{}"\n<b>and</b> more'


def draw(path: Path, seed: int, side: int = 72) -> None:
    """A picture of soft colours with a text beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 7, 3), np.uint8)
    Image.fromarray(coarse).resize((side + 10, side), Image.Resampling.BICUBIC).save(path)
    path.with_suffix(".txt").write_text(TEXT.format(seed))


def draw_twelve(folder: Path) -> None:
    """n00.png to n11.png; two are small and one has no text."""
    for number in range(12):
        draw(folder / f"n{number:02}.png", number, 50 if number in (3, 4) else 72)
    (folder / "n05.txt").unlink()


def answer(capsys: pytest.CaptureFixture[str], words: tuple[str, ...]) -> tuple[int, str]:
    """Exit code and all that was said, results and errors together."""
    told = Told(capsys, words)
    return told.code, told.out + told.err


class Told:
    """What a command line answered."""

    def __init__(self, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]) -> None:
        capsys.readouterr()
        self.code = main(words)
        captured = capsys.readouterr()
        self.out, self.err = captured.out, captured.err
        self.last = self.out.splitlines()[-1] if self.out else ""

    @property
    def value(self) -> dict[str, Any]:
        return json.loads(self.out)

    @property
    def counts(self) -> dict[str, int]:
        return self.value["steps"][-1]["counts"]
