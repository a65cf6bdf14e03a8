"""From pixels to the patches of a SigLIP 2 that keeps the shape of a picture ("NaFlex").

Tschannen et al. 2025, arXiv:2502.14786, section 2.4.2: the picture is resized so that as many
patches as the network takes cover it, and its sides are whole patches.

Axes: pixels are uint8 `[H, W, 3]`; patches are float32 `[N, P * P * 3]`, row by row.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from tastemaker.scorers.picture_input import Normalisation, read_processor
from tastemaker.scorers.protocol import preprocessing_hash

_MOST_ENLARGED = 100
"""Times that a tiny picture is enlarged at most, as transformers has it."""


@dataclass(frozen=True)
class PatchInput:
    """Resize to whole patches, normalise, cut.

    Attributes:
        patch_px: side of a patch.
        patches: most patches, and the length of every result.
        resample: Pillow's filter (2 bilinear, 3 bicubic).
        normalisation: what is done to the bytes.
    """

    patch_px: int
    patches: int
    resample: int
    normalisation: Normalisation

    @property
    def hash(self) -> str:
        """Hash of all that happens to a picture before the network."""
        return preprocessing_hash({**asdict(self), "with": "pillow patches 1"})

    def __call__(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Patches, which of them are there (int64 `[N]`), and rows and columns (int64 `[2]`)."""
        side = self.patch_px
        rows, columns = self.grid(*pixels.shape[:2])
        resized = Image.fromarray(pixels).resize(
            (columns * side, rows * side), Image.Resampling(self.resample)
        )
        values = self.normalisation(np.array(resized)).reshape(3, rows, side, columns, side)
        cut = values.transpose(1, 3, 2, 4, 0).reshape(rows * columns, side * side * 3)
        filled = np.zeros((self.patches, cut.shape[1]), np.float32)
        filled[: len(cut)] = cut
        there = (np.arange(self.patches) < len(cut)).astype(np.int64)
        return filled, there, np.array([rows, columns], np.int64)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of patches, at the largest scale at which there are not too many."""
        best = (1, 1)
        for rows, columns in self._grids(height, width):
            if rows * columns > self.patches:
                break
            best = rows, columns
        return best

    def _grids(self, height: int, width: int) -> Iterator[tuple[int, int]]:
        """All grids that a growing picture goes through; the first has one patch a side."""
        side, rows, columns = self.patch_px, 1, 1
        while True:
            yield rows, columns
            # The scale at which the picture just fills the grid; beyond it comes the next one.
            by_rows, by_columns = rows * side * width, columns * side * height
            if min(by_rows, by_columns) >= _MOST_ENLARGED * height * width:
                return
            rows, columns = rows + (by_rows <= by_columns), columns + (by_columns <= by_rows)

    @classmethod
    def read(cls, folder: Path, patch_px: int, patches: int) -> "PatchInput":
        """From a folder's `preprocessor_config.json`.

        Args:
            folder: the model's folder.
            patch_px: side of the network's patches.
            patches: what the network has learned positions for.

        Raises:
            InputError: there is no such file.
        """
        fields = read_processor(folder)
        half = {"image_mean": (0.5, 0.5, 0.5), "image_std": (0.5, 0.5, 0.5)}
        return cls(
            patch_px=patch_px,
            patches=int(fields.get("max_num_patches", patches)),
            resample=int(fields.get("resample", 2)),
            normalisation=Normalisation.read({**half, **fields}, folder),
        )
