"""TIFFs that Pillow refuses: what is read of them without it, and what is not."""

import io
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tastemaker.errors import PictureError
from tastemaker.store.deep_pictures import read_deep
from tastemaker.store.images import check_picture, load_image, reason_of
from tests.picture_files import encoded, tiff

H, W = 19, 30
UNIT = np.random.default_rng(5).random((H, W, 4))


def of_unit(values: np.ndarray) -> np.ndarray:
    return np.round(values * 255).astype(np.uint8)


def by_pillow(grey: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(grey)))


@pytest.mark.parametrize("predictor", [1, 2, 3])
@pytest.mark.parametrize("codec", ["tiff_lzw", "tiff_adobe_deflate", "zstd"])
def test_predictors_are_undone_as_libtiff_does_them(codec: str, predictor: int) -> None:
    values = UNIT[..., 0].astype(np.float32)
    data = encoded(
        Image.fromarray(values), "TIFF", compression=codec, tiffinfo={317: predictor, 278: 7}
    )
    assert Image.open(io.BytesIO(data)).tag_v2[317] == predictor
    deep = read_deep(data, by_pillow, H * W)
    assert deep.mode == "L;32F"
    assert (np.asarray(deep.image) == of_unit(values.astype(np.float64))).all()


def test_predictors_of_16_bits_are_undone_as_libtiff_does_them() -> None:
    values = (UNIT[..., 0] * 65535).astype(np.uint16)
    data = encoded(Image.fromarray(values), "TIFF", compression="tiff_lzw", tiffinfo={317: 2})
    deep = read_deep(data, by_pillow, H * W)
    assert (np.asarray(deep.image) == np.round(values / 257)).all()


@pytest.mark.parametrize("codec", ["tiff_lzw", "packbits", "zstd", "lzma", "tiff_adobe_deflate"])
def test_floats_are_unpacked_by_every_codec_of_libtiff(codec: str) -> None:
    values = np.round(UNIT[..., :3], 2).astype(np.float32)
    # Pillow packs the bytes as a grey picture; the same bytes then stand in a picture of floats.
    bytes_ = Image.frombytes("L", (W * 12, H), values.tobytes())
    packed = Image.open(io.BytesIO(encoded(bytes_, "TIFF", compression=codec)))
    tags = packed.tag_v2
    assert len(tags[273]) == 1
    data = bytearray(tiff(values))
    strip = encoded(bytes_, "TIFF", compression=codec)[tags[273][0] :][: tags[279][0]]
    start = len(data)
    data += strip
    for tag, value in {259: tags[259], 273: start, 279: len(strip)}.items():
        at = data.index(tag.to_bytes(2, "little") + b"\x04\0\x01\0\0\0")
        data[at + 8 : at + 12] = value.to_bytes(4, "little")
    loaded = load_image(bytes(data))
    assert loaded.mode == "RGB;32F"
    assert (loaded.pixels == of_unit(values.astype(np.float64))).all()


def test_premultiplied_colours_are_divided_by_their_alpha() -> None:
    unit = np.zeros((2, 2, 4), np.float32)
    unit[...] = (0.5, 0.25, 0.0, 0.5)
    pixels = load_image(tiff(unit, alpha=1), background=(0, 0, 0)).pixels
    assert np.abs(pixels.astype(int) - (128, 64, 0)).max() <= 1
    opaque = load_image(tiff(unit, alpha=1), background=(255, 255, 255)).pixels
    assert np.abs(opaque.astype(int) - (255, 191, 127)).max() <= 1


def test_large_deep_pictures_are_read_in_bands(monkeypatch) -> None:
    monkeypatch.setattr("tastemaker.store.deep_pictures.BAND_BYTES", 4000)
    values = np.random.default_rng(0).random((70, 50, 3)).astype(np.float32)
    hows = [{}, {"strip": 7}, {"strip": 7, "planar": True, "deflate": True, "predictor": 3}]
    for how in [*hows, {"tile": 16, "deflate": True, "predictor": 2}]:
        pixels = load_image(tiff(values, **how)).pixels
        assert (pixels == of_unit(values.astype(np.float64))).all()


@pytest.mark.parametrize(
    ("data", "reason", "words"),
    [
        (tiff(np.zeros((4, 5, 5), np.uint8), photometric=1), "not a picture", "5 channels"),
        (tiff(np.zeros((4, 5, 4), np.float32), photometric=5), "not a picture", "type 5"),
        (tiff(np.zeros((4, 5, 3), np.uint32), tags={259: 7}), "not a picture", "compression 7"),
        (tiff(np.zeros((4, 5, 3), np.float32), tags={256: 40_000, 257: 40_000}),
         "not a picture", "pieces"),
        (tiff(np.zeros((4, 5, 3), np.float32), tags={256: 1 << 31, 257: 4, 278: 4}),
         "too many pixels", "4 x"),
        (tiff(np.full((4, 5, 3), np.nan, np.float32)), "no finite values", "NaN"),
        (tiff(np.full((4, 5), np.inf, np.float32)), "no finite values", "NaN"),
        (tiff(np.zeros((30, 30, 3), np.float32), strip=1)[:-600], "not a picture", "TIFF"),
    ],
)  # fmt: skip
def test_deep_tiffs_that_are_not_read_say_why(data: bytes, reason: str, words: str) -> None:
    for read in (load_image, check_picture):
        with pytest.raises(PictureError) as caught:
            read(data)
        assert reason_of(caught.value) == reason
        assert words in str(caught.value)


def test_limits_hold_for_deep_tiffs(monkeypatch) -> None:
    data = tiff(UNIT[..., :3])
    with pytest.raises(PictureError, match="too many pixels"):
        load_image(data, max_pixels=H * W - 1)
    monkeypatch.setattr("tastemaker.store.deep_pictures.MOST_BYTES", H * W * 24 - 1)
    with pytest.raises(PictureError, match="24 bytes each"):
        load_image(data)


def test_pieces_that_lie_one_upon_the_other_are_refused() -> None:
    data = bytearray(tiff(np.zeros((64, 64, 3), np.float32), strip=1))
    at = data.index((279).to_bytes(2, "little") + b"\x04\0\x40\0\0\0")
    place = int.from_bytes(data[at + 8 : at + 12], "little")
    data[place : place + 4 * 64] = (len(data) - 8).to_bytes(4, "little") * 64
    with pytest.raises(PictureError, match="one upon the other"):
        load_image(bytes(data))


@given(st.data())
def test_damage_gives_a_picture_or_a_picture_error(data) -> None:
    how = data.draw(st.sampled_from([
        {}, {"tile": 16}, {"deflate": True, "predictor": 3}, {"planar": True, "strip": 2},
        {"big": True}, {"order": ">", "alpha": 1},
    ]))  # fmt: skip
    values = UNIT[:6, :7, : 4 if "alpha" in how else 3].astype(np.float32)
    content = bytearray(tiff(values, **how))
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(4, len(content) - 1))] = data.draw(st.integers(0, 255))
    del content[data.draw(st.integers(8, len(content))) :]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            loaded = load_image(bytes(content), max_pixels=10_000)
        except PictureError:
            return
    assert loaded.pixels.shape == (*loaded.size, 3)
