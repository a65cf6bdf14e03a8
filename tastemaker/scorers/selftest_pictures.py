"""What a scorer is tested on: plain drawings that anything trained on pictures knows, and noise.

Axes: pictures are uint8 `[H, W, 3]`.
"""

import numpy as np
from PIL import Image, ImageDraw

SIDE = 96

SHOWN: tuple[str, ...] = ("red circle", "star", "red heart", "smiling face", "blue square")
"""What the drawings show."""


def drawing(name: str) -> np.ndarray:
    """One of `SHOWN` on white."""
    image = Image.new("RGB", (SIDE, SIDE), "white")
    draw = ImageDraw.Draw(image)
    if name == "red circle":
        draw.ellipse((12, 12, 84, 84), fill="#e0201b")
    elif name == "star":
        outer, inner = 42.0, 17.0
        turns = np.arange(10) * np.pi / 5 - np.pi / 2
        lengths = np.where(np.arange(10) % 2 == 0, outer, inner)
        ends = 48 + lengths[:, None] * np.stack([np.cos(turns), np.sin(turns)], axis=1)
        points = [(float(x), float(y)) for x, y in ends]
        draw.polygon(points, fill="#f1b31c", outline="black", width=3)
    elif name == "red heart":
        draw.ellipse((12, 16, 50, 54), fill="#ea3a37")
        draw.ellipse((46, 16, 84, 54), fill="#ea3a37")
        draw.polygon([(15, 44), (81, 44), (48, 84)], fill="#ea3a37")
    elif name == "smiling face":
        draw.ellipse((10, 10, 86, 86), fill="#fcea2b", outline="black", width=3)
        draw.ellipse((32, 34, 40, 46), fill="black")
        draw.ellipse((56, 34, 64, 46), fill="black")
        draw.arc((28, 36, 68, 70), 20, 160, fill="black", width=4)
    else:
        draw.rectangle((16, 16, 80, 80), fill="#2a5fd0")
    return np.asarray(image).copy()


def noise(number: int, height: int = SIDE, width: int = SIDE) -> np.ndarray:
    """Independent bytes; every number gives other ones, always the same."""
    rng = np.random.default_rng([20240229, number])
    return rng.integers(0, 256, (height, width, 3)).astype(np.uint8)


def odd_shapes() -> list[np.ndarray]:
    """Pictures of unusual sizes, one colour, one dot."""
    sizes = [(1, 1), (1, 300), (300, 1), (37, 91), (640, 48)]
    return [noise(90 + n, *size) for n, size in enumerate(sizes)] + [
        np.zeros((64, 64, 3), np.uint8),
        np.full((64, 64, 3), 255, np.uint8),
    ]
