"""What the loader makes of every format and mode that it reads: the right pixels, to the last."""

from dataclasses import dataclass

import numpy as np
import pytest
from PIL import ExifTags, Image, features

from tastemaker.errors import PictureError
from tastemaker.records.size import Size
from tastemaker.store.images import check_picture, load_image, reason_of
from tests.picture_files import (
    BACKGROUND,
    encoded,
    grey_rgb,
    laid_over,
    noise,
    png,
    smooth,
    tiff,
)

HAS_AVIF = features.check("avif")
NEEDS_AVIF = pytest.mark.skipif(not HAS_AVIF, reason="this Pillow was built without AVIF")


@dataclass(frozen=True)
class Case:
    """A file, and what it shows."""

    data: bytes
    shows: np.ndarray
    format: str
    mode: str
    off: int = 0  # greatest error of a pixel


H, W = 19, 30
RGB, RGBA = noise(H, W, 3), noise(H, W, 4, seed=1)
L, LA = noise(H, W, 1, seed=2), noise(H, W, 2, seed=3)
BIT = L > 127
DEEP = {n: noise(H, W, n, np.uint16, seed=4) for n in (1, 2, 3, 4)}
UNIT = np.random.default_rng(5).random((H, W, 4))
PALETTE = noise(1, 7, 3, seed=6)[0]
INDEX = noise(H, W, 1, seed=7) % 7
OPACITY = noise(1, 7, 1, seed=8)[0]


def palette_image() -> Image.Image:
    image = Image.fromarray(INDEX)
    image.putpalette(PALETTE.tobytes())
    return image


def high(values: np.ndarray) -> np.ndarray:
    """What Pillow keeps of 16-bit colour."""
    return (values >> 8).astype(np.uint8)


def of_unit(values: np.ndarray) -> np.ndarray:
    return np.round(values * 255).astype(np.uint8)


def of_16(values: np.ndarray) -> np.ndarray:
    return np.round(values / 257).astype(np.uint8)


def exact(image: Image.Image, format_: str, shows: np.ndarray, mode: str, **options) -> Case:
    return Case(encoded(image, format_, **options), shows, format_, mode)


def simple(format_: str, *modes: str, **options) -> dict[str, Case]:
    """The plain modes, written by Pillow without loss."""
    made = {
        "1": (Image.fromarray(BIT), grey_rgb(BIT * np.uint8(255))),
        "L": (Image.fromarray(L), grey_rgb(L)),
        "LA": (Image.fromarray(LA), laid_over(grey_rgb(LA[..., 0]), LA[..., 1])),
        "P": (palette_image(), PALETTE[INDEX]),
        "RGB": (Image.fromarray(RGB), RGB),
        "RGBA": (Image.fromarray(RGBA), laid_over(RGBA[..., :3], RGBA[..., 3])),
    }
    return {
        f"{format_}-{mode}": exact(made[mode][0], format_, made[mode][1], mode, **options)
        for mode in modes
    }


def pnm(magic: str, values: np.ndarray, top: int) -> bytes:
    kind = ">u2" if top > 255 else "u1"
    return f"{magic} {W} {H} {top}\n".encode() + values.astype(kind).tobytes()


def cmyk_rgb(ink: np.ndarray) -> np.ndarray:
    """Without a profile: what is left after each ink (Pillow's rule, rounded its way)."""
    left = 255 - ink.astype(np.int64)
    return np.round(left[..., :3] * left[..., 3:] / 255).astype(np.uint8)


def png_cases() -> dict[str, Case]:
    clear = palette_image()
    deep = DEEP[3].copy()
    deep[2, 3] = key = (257, 5000, 65535)
    keyed = high(deep)
    keyed[2, 3] = BACKGROUND
    mixed = laid_over(PALETTE[INDEX], OPACITY[INDEX])
    return {
        **simple("PNG", "1", "L", "LA", "P", "RGB", "RGBA"),
        "PNG-P-alpha": exact(clear, "PNG", mixed, "P", transparency=OPACITY.tobytes()),
        "PNG-L16": Case(png(DEEP[1]), grey_rgb(of_16(DEEP[1])), "PNG", "I;16"),
        "PNG-LA16": Case(
            png(DEEP[2]),
            laid_over(grey_rgb(high(DEEP[2][..., 0])), high(DEEP[2][..., 1])), "PNG", "RGBA",
        ),
        "PNG-RGB16": Case(png(DEEP[3]), high(DEEP[3]), "PNG", "RGB"),
        "PNG-RGB16-key": Case(png(deep, key), keyed, "PNG", "RGB"),
        "PNG-RGBA16": Case(
            png(DEEP[4]), laid_over(high(DEEP[4][..., :3]), high(DEEP[4][..., 3])), "PNG", "RGBA"
        ),
    }  # fmt: skip


def tiff_cases() -> dict[str, Case]:
    unit, ink = UNIT.astype(np.float32), noise(H, W, 4, seed=9)
    whole = noise(H, W, 3, np.uint32, seed=10)
    signed = (noise(H, W, 1, seed=11).astype(np.int16) - 128).astype(np.int8)
    shifted = signed.astype(np.float64) - signed.min()
    stretched = np.round(shifted * (255 / shifted.max())).astype(np.uint8)
    unit_rgb = of_unit(unit[..., :3].astype(np.float64))
    unit_alpha = of_unit(unit[..., 3].astype(np.float64))
    grey = grey_rgb(unit_rgb[..., 0])
    half = UNIT[..., :3].astype(np.float16)
    large = unit[..., :3] * 90 - 7
    spread = (large - large.min()).astype(np.float64) / float(large.max() - large.min())
    rgb32 = {
        "plain": {}, "big-endian": {"order": ">"}, "bigtiff": {"big": True}, "strips": {"strip": 4},
        "planar": {"planar": True, "strip": 4}, "tiles": {"tile": 16}, "deflate": {"deflate": True},
        "predictor2": {"deflate": True, "predictor": 2, "strip": 4},
        "predictor3": {"deflate": True, "predictor": 3},
        "predictor3-tiles": {"deflate": True, "predictor": 3, "tile": 16, "order": ">"},
        "planar-tiles": {"deflate": True, "predictor": 3, "tile": 16, "planar": True},
    }  # fmt: skip
    return {
        **simple("TIFF", "1", "L", "LA", "P", "RGB", "RGBA"),
        **{
            f"TIFF-RGB32F-{name}": Case(tiff(unit[..., :3], **how), unit_rgb, "TIFF", "RGB;32F")
            for name, how in rgb32.items()
        },
        "TIFF-CMYK": Case(
            encoded(Image.frombytes("CMYK", (W, H), ink.tobytes()), "TIFF"),
            cmyk_rgb(ink), "TIFF", "CMYK", off=1,
        ),
        "TIFF-RGBA32F": Case(
            tiff(unit, alpha=2), laid_over(unit_rgb, unit_alpha), "TIFF", "RGBA;32F"
        ),
        "TIFF-RGB32F-extra": Case(tiff(unit, alpha=0), unit_rgb, "TIFF", "RGB;32F"),
        "TIFF-RGB32F-any": Case(tiff(large), of_unit(spread), "TIFF", "RGB;32F", off=1),
        "TIFF-RGB16F": Case(tiff(half), of_unit(half.astype(np.float64)), "TIFF", "RGB;16F"),
        "TIFF-RGB64F": Case(tiff(UNIT[..., :3]), of_unit(UNIT[..., :3]), "TIFF", "RGB;64F"),
        "TIFF-L32F": Case(tiff(unit[..., 0]), grey, "TIFF", "F"),
        "TIFF-L64F": Case(tiff(UNIT[..., 0]), grey, "TIFF", "L;64F", off=1),
        "TIFF-L32F-alpha": Case(
            tiff(unit[..., [0, 3]], alpha=2), laid_over(grey, unit_alpha), "TIFF", "LA;32F"
        ),
        "TIFF-L16": Case(tiff(DEEP[1]), grey_rgb(of_16(DEEP[1])), "TIFF", "I;16"),
        "TIFF-L16-big-endian": Case(
            tiff(DEEP[1], order=">"), grey_rgb(of_16(DEEP[1])), "TIFF", "I;16B"
        ),
        "TIFF-L16-white-is-0": Case(
            tiff(DEEP[1], photometric=0), grey_rgb(255 - of_16(DEEP[1])), "TIFF", "L;16U"
        ),
        "TIFF-L8-white-is-0": Case(tiff(L, photometric=0), grey_rgb(255 - L), "TIFF", "L"),
        "TIFF-L8-signed": Case(tiff(signed), grey_rgb(stretched), "TIFF", "L;8I"),
        "TIFF-L32-unsigned": Case(
            tiff(whole[..., 0]), grey_rgb(of_unit(whole[..., 0] / (2**32 - 1))), "TIFF", "L;32U"
        ),
        "TIFF-RGB32": Case(tiff(whole), of_unit(whole / (2**32 - 1)), "TIFF", "RGB;32U"),
        "TIFF-RGB16": Case(tiff(DEEP[3]), high(DEEP[3]), "TIFF", "RGB"),
        "TIFF-RGBA16": Case(
            tiff(DEEP[4], alpha=2),
            laid_over(high(DEEP[4][..., :3]), high(DEEP[4][..., 3])), "TIFF", "RGBA",
        ),
    }  # fmt: skip


def other_cases() -> dict[str, Case]:
    ten_bits = DEEP[1] % 1024
    floats = UNIT[..., 0].astype("<f4")
    # Below 8 x 8 pixels the four inks of a JPEG are one block each: flat colours stay.
    ink = np.full((16, 16, 4), (30, 200, 90, 40), np.uint8)
    cmyk = encoded(Image.frombytes("CMYK", (16, 16), ink.tobytes()), "JPEG", quality=98)
    cases = {
        **simple("WEBP", "RGB", lossless=True),
        **simple("GIF", "P"),
        **simple("BMP", "1", "L", "P", "RGB"),
        **simple("QOI", "RGB", "RGBA"),
        **simple("JPEG2000", "L", "LA", "RGB", "RGBA"),
        **simple("PPM", "1", "L", "RGB"),
        "PPM-16": Case(pnm("P5", DEEP[1], 65535), grey_rgb(of_16(DEEP[1])), "PPM", "I"),
        "PPM-10": Case(
            pnm("P5", ten_bits, 1023), grey_rgb(of_unit(ten_bits / 1023)), "PPM", "I", off=1
        ),
        "PPM-float": Case(
            f"Pf\n{W} {H}\n-1.0\n".encode() + floats[::-1].tobytes(),
            grey_rgb(of_unit(floats.astype(np.float64))), "PPM", "F",
        ),
        # Colours under full transparency are not stored unless asked for.
        "WEBP-RGBA": exact(
            Image.fromarray(RGBA), "WEBP", laid_over(RGBA[..., :3], RGBA[..., 3]), "RGBA",
            lossless=True, exact=True,
        ),
        "ICO-RGBA": exact(
            Image.fromarray(noise(16, 16, 4)), "ICO",
            laid_over(noise(16, 16, 4)[..., :3], noise(16, 16, 4)[..., 3]), "RGBA",
            sizes=[(16, 16)],
        ),
        "JPEG-RGB": Case(
            encoded(Image.fromarray(smooth()), "JPEG", quality=95), smooth(), "JPEG", "RGB", off=12
        ),
        "JPEG-L": Case(
            encoded(Image.fromarray(smooth()[..., 0]), "JPEG", quality=95),
            grey_rgb(smooth()[..., 0]), "JPEG", "L", off=6,
        ),
        "JPEG-progressive": Case(
            encoded(Image.fromarray(smooth()), "JPEG", quality=95, progressive=True),
            smooth(), "JPEG", "RGB", off=12,
        ),
        "JPEG-CMYK": Case(cmyk, cmyk_rgb(ink), "JPEG", "CMYK", off=6),
        "WEBP-lossy": Case(
            encoded(Image.fromarray(smooth()), "WEBP", quality=95), smooth(), "WEBP", "RGB", off=20
        ),
    }  # fmt: skip
    if HAS_AVIF:
        data = encoded(Image.fromarray(smooth()), "AVIF", quality=95, subsampling="4:4:4")
        cases["AVIF-RGB"] = Case(data, smooth(), "AVIF", "RGB", off=12)
    return cases


CASES = png_cases() | tiff_cases() | other_cases()


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_every_format_and_mode_shows_what_is_in_it(case: Case) -> None:
    loaded = load_image(case.data, background=BACKGROUND)
    assert (loaded.format, loaded.mode, loaded.frames) == (case.format, case.mode, 1)
    assert loaded.pixels.dtype == np.uint8
    assert loaded.pixels.flags["C_CONTIGUOUS"]
    assert loaded.pixels.flags["WRITEABLE"]
    assert loaded.size == Size(*case.shows.shape[:2])
    difference = np.abs(loaded.pixels.astype(int) - case.shows)
    assert difference.max() <= case.off
    assert difference.mean() <= case.off / 4


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_checking_a_picture_tells_the_same_as_loading_it(case: Case) -> None:
    loaded, facts = load_image(case.data), check_picture(case.data)
    assert (facts.size, facts.format, facts.mode, facts.frames) == (
        loaded.size, loaded.format, loaded.mode, loaded.frames,
    )  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_rubbish_after_the_picture_does_not_matter(name: str) -> None:
    case = CASES[name]
    loaded = load_image(case.data + b"\0rubbish" * 9, background=BACKGROUND)
    assert (loaded.pixels == load_image(case.data, background=BACKGROUND).pixels).all()


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("share", [0.7, 0.5, 0.2])
def test_half_a_picture_is_refused(name: str, share: float) -> None:
    data = CASES[name].data
    for read in (load_image, check_picture):
        with pytest.raises(PictureError) as caught:
            read(data[: int(len(data) * share)])
        assert reason_of(caught.value) in ("truncated or damaged", "not a picture")


# --- frames and orientation ----------------------------------------------------------------------


def frames(format_: str, **options) -> bytes:
    pictures = [Image.fromarray(np.full((12, 20, 3), level, np.uint8)) for level in (9, 99, 199)]
    return encoded(pictures[0], format_, save_all=True, append_images=pictures[1:], **options)


@pytest.mark.parametrize(
    ("data", "count"),
    [
        (frames("GIF"), 3),
        (frames("PNG"), 3),
        (frames("PNG", default_image=True), 3),
        (frames("WEBP", lossless=True), 3),
        (frames("TIFF"), 3),
        pytest.param(frames("AVIF", quality=100) if HAS_AVIF else b"", 3, marks=NEEDS_AVIF),
    ],
    ids=["GIF", "APNG", "APNG-still", "WEBP", "TIFF", "AVIF"],
)
def test_the_first_frame_is_shown(data: bytes, count: int) -> None:
    loaded = load_image(data)
    assert np.abs(loaded.pixels.astype(int) - 9).max() <= 2
    assert loaded.frames == check_picture(data).frames == count


# What a viewer does for each EXIF orientation (EXIF 2.3, tag 274).
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: a.transpose(1, 0, 2)[:, ::-1],
    7: lambda a: a.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda a: a.transpose(1, 0, 2)[::-1],
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize(
    "format_",
    ["JPEG", "PNG", "WEBP", "TIFF", pytest.param("AVIF", marks=NEEDS_AVIF), "TIFF-float"],
)
def test_pictures_are_turned_upright(format_: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    if format_ == "TIFF-float":
        data = tiff((smooth() / 255).astype(np.float32), tags={274: orientation})
    else:
        options = {"lossless": True} if format_ == "WEBP" else {"quality": 95}
        data = encoded(Image.fromarray(smooth()), format_, exif=exif, **options)
    expected = UPRIGHT[orientation](smooth())
    loaded = load_image(data)
    assert loaded.size == check_picture(data).size == Size(*expected.shape[:2])
    assert np.abs(loaded.pixels.astype(int) - expected).mean() < 4
    assert loaded.pixels.flags["C_CONTIGUOUS"]


@pytest.mark.parametrize("name", ["PNG-RGB", "WEBP-RGB", "TIFF-RGB32F-plain", "GIF-P"])
@pytest.mark.parametrize("suffix", [".jpg", ".txt", ""])
def test_the_name_does_not_matter(tmp_path, name: str, suffix: str) -> None:
    path = tmp_path / f"picture{suffix}"
    path.write_bytes(CASES[name].data)
    assert (load_image(path).pixels == CASES[name].shows).all()
    assert check_picture(str(path)).format == CASES[name].format
