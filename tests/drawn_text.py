"""Pictures with and without writing, drawn with the font that comes with matplotlib."""

from importlib.resources import files
from io import BytesIO

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Box = tuple[float, float, float, float]


def font(px: int) -> ImageFont.FreeTypeFont:
    file = files("matplotlib").joinpath("mpl-data", "fonts", "ttf", "DejaVuSans.ttf")
    return ImageFont.truetype(BytesIO(file.read_bytes()), px)


def page(lines: int = 4, px: int = 28, size: tuple[int, int] = (640, 320)) -> Image.Image:
    return drawn_page(lines, px, size)[0]


def drawn_page(lines: int, px: int, size: tuple[int, int]) -> tuple[Image.Image, list[Box]]:
    """Black lines on white, and where each of them was drawn (x0, y0, x1, y1)."""
    image = Image.new("RGB", size, "white")
    draw, letters, boxes = ImageDraw.Draw(image), font(px), []
    for number in range(lines):
        at, text = (40, 30 + 2 * px * number), f"Line {number} of a drawn page"
        draw.text(at, text, fill="black", font=letters)
        boxes.append(draw.textbbox(at, text, font=letters))
    return image, boxes


def texture(size: tuple[int, int] = (640, 480)) -> Image.Image:
    """Soft colours with a little noise, as behind a watermark."""
    y, x = np.mgrid[: size[1], : size[0]]
    waves = 90 + 50 * np.sin(x / 61) * np.cos(y / 83) + 30 * np.sin((x + y) / 140)
    noise = np.random.default_rng(0).normal(0, 5, (size[1], size[0], 3))
    colour = waves[..., None] * np.array([1.0, 0.8, 0.7]) + noise
    return Image.fromarray(colour.clip(0, 255).astype(np.uint8))


def watermarked(alpha: int, degrees: float = 20, words: str = "STOCK PHOTO") -> Image.Image:
    """Translucent white writing across a texture."""
    image = texture().convert("RGBA")
    layer = Image.new("RGBA", image.size, (0, 0, 0, 0))
    draw = ImageDraw.Draw(layer)
    draw.text((110, 200), words, fill=(255, 255, 255, alpha), font=font(60))
    turned = layer.rotate(degrees, Image.Resampling.BICUBIC)
    return Image.alpha_composite(image, turned).convert("RGB")


def rings() -> Image.Image:
    """What a reader of letters takes for the letter O."""
    image = Image.new("RGB", (640, 480), (230, 230, 230))
    draw = ImageDraw.Draw(image)
    for x, y, r in ((120, 120, 50), (400, 200, 90), (200, 360, 30), (520, 400, 40)):
        draw.ellipse((x - r, y - r, x + r, y + r), outline=(20, 20, 20), width=8)
    return image


def textless() -> dict[str, Image.Image]:
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:400, :600]
    grey = {
        "flat": np.full((400, 600), 180),
        "gradient": x * 255 / 600,
        "noise": rng.integers(0, 256, (400, 600)),
        "stripes": np.where(x // 9 % 2, 230, 30),
        "bricks": np.where((y % 40 < 3) | ((x + y // 40 % 2 * 40) % 80 < 3), 220, 110),
        "grain": 120 + 60 * np.sin((y + 20 * np.sin(x / 90)) / 5),
    }
    tint = np.array([1.0, 0.9, 0.8])
    found = {
        name: Image.fromarray((values[..., None] * tint).astype(np.uint8))
        for name, values in grey.items()
    }
    return {**found, "texture": texture(), "rings": rings()}
