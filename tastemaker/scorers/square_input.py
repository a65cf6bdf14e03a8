"""From pixels to a square input as torchvision's transforms make it, for published scorers.

Axes: pixels are uint8 `[H, W, 3]`; inputs are float32 `[3, S, S]`.
"""

from dataclasses import asdict, dataclass

import numpy as np
from PIL import Image

from tastemaker.scorers.picture_input import (
    CLIP_MEAN,
    CLIP_STD,
    LONGEST_PX,
    Normalisation,
    PictureInput,
)
from tastemaker.scorers.protocol import preprocessing_hash


@dataclass(frozen=True)
class CroppedSquare:
    """The shorter side to S by Pillow's bicubic filter, and the middle: OpenAI's CLIP, ImageReward.

    It differs from `PictureInput`, which follows transformers, by one pixel of the crop where
    three pixels more than a multiple of four are cut off; square pictures are the same.

    Attributes:
        side: S.
        normalisation: what is done to the bytes.
    """

    side: int = 224
    normalisation: Normalisation = Normalisation()

    @property
    def hash(self) -> str:
        """Hash of all that happens to a picture before the network."""
        return preprocessing_hash({**asdict(self), "with": "torchvision: resize, centre crop 1"})

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of every input."""
        return self.side, self.side

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """Float32 `[3, S, S]`."""
        height, width = pixels.shape[:2]
        shorter = min(height, width)
        # int, not round: as torchvision's Resize has it.
        target = (int(self.side * height / shorter), int(self.side * width / shorter))
        if target[0] * target[1] > LONGEST_PX**2:
            long_strip = PictureInput(self.side, self.shape, 3, self.normalisation)
            return long_strip(pixels)
        resized = np.array(
            Image.fromarray(pixels).resize((target[1], target[0]), Image.Resampling.BICUBIC)
        )
        # round, half to even: as torchvision's CenterCrop has it.
        top, left = (round((whole - self.side) / 2) for whole in target)
        return self.normalisation(resized[top : top + self.side, left : left + self.side])


@dataclass(frozen=True)
class PaddedSquare:
    """The whole picture, its longer side at S, in the middle of a black square: HPSv2.

    The published code resizes floats rather than bytes, with torch's bicubic kernel and without
    clamping what that overshoots.

    Attributes:
        side: S.
        antialias: whether pixels are averaged where a picture is made smaller.
    """

    side: int = 224
    antialias: bool = False

    @property
    def hash(self) -> str:
        """Hash of all that happens to a picture before the network."""
        steps = {**asdict(self), "mean": CLIP_MEAN, "std": CLIP_STD}
        return preprocessing_hash({**steps, "with": "torch: bicubic, pad 0 1"})

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of every input."""
        return self.side, self.side

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """Float32 `[3, S, S]`."""
        import torch
        from torch.nn import functional

        values = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1).float() / 255
        height, width = pixels.shape[:2]
        scale = self.side / max(height, width)
        target = max(1, round(height * scale)), max(1, round(width * scale))
        if target != (height, width):
            values = functional.interpolate(
                values[None],
                size=target,
                mode="bicubic",
                align_corners=False,
                antialias=self.antialias,
            )[0]
        above, beside = self.side - target[0], self.side - target[1]
        edges = (beside // 2, beside - beside // 2, above // 2, above - above // 2)
        values = functional.pad(values, edges)
        mean, std = (torch.tensor(each)[:, None, None] for each in (CLIP_MEAN, CLIP_STD))
        return ((values - mean) / std).contiguous().numpy()
