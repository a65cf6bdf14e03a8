"""Every colour mode of Pillow to 8-bit sRGB, each by its own rule.

Axes: pixels are uint8 `[H, W, 3]`.
"""

import io

import numpy as np
from PIL import Image, ImageCms

from tastemaker.store.deep_pictures import to_8_bit

Rgb = tuple[int, int, int]


def to_rgb(image: Image.Image, background: Rgb) -> np.ndarray:
    """A decoded picture in RGB.

    Args:
        image: in any mode, with what its file says of colour profile and transparency.
        background: what is seen through transparent parts.

    Returns:
        uint8 `[H, W, 3]`, writeable: torch warns of arrays that are not.

    Raises:
        NotFinite: NaN or infinity among the values.
    """
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return _deep_grey(image, background)
    if image.mode == "LAB":
        return np.array(_to_srgb(image, ImageCms.createProfile("LAB")))
    profile = _profile(image)
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        alpha = np.asarray(rgba.getchannel("A"), np.uint32)[..., None]
        rgb = rgba.convert("RGB")
        if profile is not None and image.mode not in ("LA", "L", "PA"):
            rgb = _to_srgb(rgb, profile)
        return _over(np.asarray(rgb), alpha, background)
    if profile is not None:
        image = _to_srgb(image.convert("RGB") if image.mode in ("P", "1") else image, profile)
    # Converting what is RGB already would copy it.
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def _over(rgb: np.ndarray, alpha: np.ndarray, background: Rgb) -> np.ndarray:
    below = np.asarray(background, np.uint32)
    mixed = rgb.astype(np.uint32) * alpha + below * (255 - alpha)
    return ((mixed + 127) // 255).astype(np.uint8)


def _deep_grey(image: Image.Image, background: Rgb) -> np.ndarray:
    values = np.asarray(image)
    # Pillow brings a PGM of any depth to 16 bits.
    is_16_bit = image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM")
    grey = to_8_bit(values, 65535.0 if is_16_bit else None)
    rgb = np.repeat(grey[..., None], 3, axis=2)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        rgb[values == transparent] = background
    return rgb


def _profile(image: Image.Image) -> ImageCms.ImageCmsProfile | None:
    data = image.info.get("icc_profile")
    if not data:
        return None
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(data))
        is_srgb = "srgb" in ImageCms.getProfileDescription(profile).lower()
    except Exception:  # a broken profile is ignored, as browsers do
        return None
    return None if is_srgb else profile


def _to_srgb(image: Image.Image, profile: object) -> Image.Image:
    try:
        converted = ImageCms.profileToProfile(
            image, profile, ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
    except Exception:  # a profile for another mode than the picture's: as above
        return image.convert("RGB")
    return converted if converted is not None else image.convert("RGB")
