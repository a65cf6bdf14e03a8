"""Every way in which plain Pillow ruins or trips over a picture, and what the loader does."""

import io
import os
import pickle
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageCms, features

from tastemaker.errors import PictureError
from tastemaker.records.size import Size
from tastemaker.store.images import load_image, reason_of

RED, GREEN, BLUE, WHITE, BLACK = (
    (255, 0, 0),
    (0, 255, 0),
    (0, 0, 255),
    (255, 255, 255),
    (0, 0, 0),
)


def encoded(image: Image.Image, format_: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, format_, **options)
    return file.getvalue()


def gradient(h: int = 24, w: int = 40) -> np.ndarray:
    rows, columns = np.mgrid[0:h, 0:w]
    return np.stack([rows * 255 // h, columns * 255 // w, (rows + columns) % 256], -1).astype(
        np.uint8
    )


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and has next to nothing in it."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(bytes(100)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + data + chunk(b"IEND", b"")


def plain_pillow(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


# --- brightness ----------------------------------------------------------------------------------


@pytest.mark.parametrize("format_", ["PNG", "TIFF"])
def test_16_bit_grey_keeps_its_brightness(format_):
    values = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    data = encoded(Image.fromarray(values), format_)
    loaded = load_image(data)
    assert loaded.mode.startswith("I;16")
    np.testing.assert_allclose(loaded.pixels[..., 0], values / 257, atol=0.51)
    assert plain_pillow(data).mean() > 240, (
        "plain Pillow makes it white; if not, simplify the loader"
    )


def test_16_bit_ppm_keeps_its_brightness():
    values = np.array([[0, 20000], [40000, 65535]], np.uint16)
    data = b"P5 2 2 65535\n" + values.astype(">u2").tobytes()
    np.testing.assert_allclose(load_image(data).pixels[..., 0], values / 257, atol=0.51)


def test_32_bit_integers_are_read_by_their_greatest_value():
    for top in (200, 60000, 2_000_000_000):
        values = np.array([[0, top // 2], [top // 4, top]], np.int32)
        pixels = load_image(encoded(Image.fromarray(values), "TIFF")).pixels[..., 0]
        full = 255 if top <= 255 else 65535 if top <= 65535 else 2**31 - 1
        np.testing.assert_allclose(pixels, values * (255 / full), atol=0.51)


@pytest.mark.parametrize("scale", [1.0, 255.0, 65535.0, 7.5])
def test_float_pictures_are_not_black(scale):
    values = np.linspace(0, 1, 60, dtype=np.float32).reshape(6, 10)
    stored = values * scale if scale in (1.0, 7.5) else np.round(values * scale)
    data = encoded(Image.fromarray(stored.astype(np.float32)), "TIFF")
    np.testing.assert_allclose(load_image(data).pixels[..., 1], values * 255, atol=1.01)


def test_a_float_picture_of_one_value_is_read():
    data = encoded(Image.fromarray(np.full((4, 4), 0.5, np.float32)), "TIFF")
    assert load_image(data).pixels.mean() == pytest.approx(128, abs=1)
    data = encoded(Image.fromarray(np.full((4, 4), -3.5, np.float32)), "TIFF")
    assert load_image(data).pixels.shape == (4, 4, 3)


def test_a_float_picture_with_nan_is_refused():
    values = np.ones((4, 4), np.float32)
    values[0, 0] = np.nan
    with pytest.raises(PictureError) as caught:
        load_image(encoded(Image.fromarray(values), "TIFF"))
    assert reason_of(caught.value) == "no finite values"


# --- what lies behind ----------------------------------------------------------------------------


def half_transparent(mode: str) -> bytes:
    """Left half opaque red (or grey 100), right half fully transparent garbage."""
    image = Image.new("RGBA", (8, 4), (*RED, 255))
    image.paste((17, 99, 203, 0), (4, 0, 8, 4))
    return encoded(image.convert(mode), "PNG")


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize("background", [WHITE, (10, 200, 30)])
def test_hidden_colours_of_transparent_pixels_never_show(mode, background):
    data = half_transparent(mode)
    pixels = load_image(data, background=background).pixels
    assert (pixels[:, 4:] == background).all()
    assert (pixels[:, :4] == (RED if mode == "RGBA" else (76, 76, 76))).all()
    assert not (plain_pillow(data)[:, 4:] == background).all()


def test_alpha_is_mixed_not_cut():
    data = encoded(Image.new("RGBA", (2, 2), (*RED, 128)), "PNG")
    assert load_image(data, background=BLUE).pixels[0, 0].tolist() == [128, 0, 127]


def test_transparent_palette_entries_show_the_background():
    image = Image.new("P", (4, 4), 0)
    image.putpalette([*GREEN, *RED])
    image.putpixel((3, 3), 1)
    for transparency in (0, bytes([0, 255])):
        pixels = load_image(encoded(image, "PNG", transparency=transparency)).pixels
        assert pixels[0, 0].tolist() == list(WHITE)
        assert pixels[3, 3].tolist() == list(RED)
    assert load_image(encoded(image, "PNG")).pixels[0, 0].tolist() == list(GREEN)
    assert load_image(encoded(image, "PNG")).mode == "P"


def test_a_transparent_colour_key_shows_the_background():
    rgb = Image.new("RGB", (4, 4), GREEN)
    rgb.putpixel((0, 0), RED)
    pixels = load_image(encoded(rgb, "PNG", transparency=GREEN)).pixels
    assert pixels[0, 0].tolist() == list(RED)
    assert (pixels[1:] == 255).all()
    grey = Image.new("L", (4, 4), 7)
    assert (load_image(encoded(grey, "PNG", transparency=7), background=RED).pixels == RED).all()


def test_other_modes_become_rgb():
    for mode in ("1", "L", "P", "RGB", "YCbCr", "CMYK"):
        image = Image.fromarray(gradient()).convert(mode)
        format_ = "JPEG" if mode == "YCbCr" else "TIFF"
        loaded = load_image(encoded(image, format_))
        assert loaded.pixels.shape == (24, 40, 3)
        assert loaded.pixels.dtype == np.uint8
        assert loaded.pixels.flags["C_CONTIGUOUS"]
        assert loaded.pixels.flags["WRITEABLE"]


# --- colour --------------------------------------------------------------------------------------


def test_cmyk_is_converted_the_right_way_round():
    loaded = load_image(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=95))
    assert loaded.mode == "CMYK"
    assert np.abs(loaded.pixels.astype(int) - RED).max() < 12


def swapped_profile() -> bytes:
    """An RGB profile whose red and green primaries are exchanged."""
    data = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    data = (
        data.replace(b"rXYZ", b"????", 1).replace(b"gXYZ", b"rXYZ", 1).replace(b"????", b"gXYZ", 1)
    )
    return data.replace("sRGB".encode("utf-16-be"), "xRGB".encode("utf-16-be"))


def test_an_embedded_profile_is_converted_to_srgb():
    profile = swapped_profile()
    opaque = load_image(encoded(Image.new("RGB", (4, 4), RED), "PNG", icc_profile=profile))
    assert np.abs(opaque.pixels.astype(int) - GREEN).max() < 4
    half = Image.new("RGBA", (4, 4), (*RED, 0))
    half.putpixel((0, 0), (*RED, 255))
    pixels = load_image(encoded(half, "PNG", icc_profile=profile)).pixels
    assert np.abs(pixels[0, 0].astype(int) - GREEN).max() < 4
    assert (pixels[1:] == 255).all()


def test_a_broken_or_foreign_profile_is_ignored():
    image = Image.fromarray(gradient())
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    for profile in (b"nonsense", lab):
        assert (load_image(encoded(image, "PNG", icc_profile=profile)).pixels == gradient()).all()


def test_lab_pictures_are_converted():
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    image = ImageCms.profileToProfile(
        Image.new("RGB", (4, 4), (200, 40, 90)), srgb, lab, outputMode="LAB"
    )
    pixels = load_image(encoded(image, "TIFF")).pixels
    assert np.abs(pixels.astype(int) - (200, 40, 90)).max() <= 3


# --- orientation ---------------------------------------------------------------------------------

# What a viewer does for each EXIF orientation (EXIF 2.3, tag 274), as numpy.
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
def test_exif_orientation_is_applied(orientation):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    loaded = load_image(encoded(Image.fromarray(gradient()), "PNG", exif=exif))
    expected = UPRIGHT[orientation](gradient())
    assert loaded.size == Size(*expected.shape[:2])
    np.testing.assert_array_equal(loaded.pixels, expected)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_unknown_orientations_change_nothing(orientation):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    loaded = load_image(encoded(Image.fromarray(gradient()), "PNG", exif=exif))
    np.testing.assert_array_equal(loaded.pixels, gradient())


def test_damaged_exif_does_not_matter():
    orientation = struct.pack(">HHIHH", ExifTags.Base.Orientation, 3, 1, 6, 0)
    resolution = struct.pack(">HHII", ExifTags.Base.XResolution, 5, 1, 38)
    entries = struct.pack(">H", 2) + orientation + resolution + struct.pack(">I", 0)
    zero_denominator = b"Exif\0\0MM\0*" + struct.pack(">I", 8) + entries + struct.pack(">II", 72, 0)
    data = encoded(Image.fromarray(gradient()), "JPEG", exif=zero_denominator)
    assert load_image(data).size == Size(40, 24)
    data = encoded(Image.fromarray(gradient()), "JPEG", exif=b"Exif\0\0MM\0*" + b"\xff" * 4)
    assert load_image(data).size == Size(24, 40)


# --- frames and names ----------------------------------------------------------------------------


@pytest.mark.parametrize("format_", ["GIF", "WEBP", "TIFF", "PNG"])
def test_the_first_frame_is_used_and_the_number_recorded(format_):
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, GREEN, BLUE)]
    options = {"lossless": True} if format_ == "WEBP" else {}
    loaded = load_image(
        encoded(frames[0], format_, save_all=True, append_images=frames[1:], **options)
    )
    assert loaded.frames == 3
    assert (loaded.pixels == RED).all()


def test_the_content_decides_not_the_name(tmp_path):
    path = tmp_path / "photo.jpg"
    path.write_bytes(encoded(Image.fromarray(gradient()), "PNG"))
    loaded = load_image(path)
    assert (loaded.format, loaded.mode, loaded.frames) == ("PNG", "RGB", 1)
    np.testing.assert_array_equal(loaded.pixels, gradient())


# --- refusals ------------------------------------------------------------------------------------


def refusal(source, **options) -> PictureError:
    with pytest.raises(PictureError) as caught:
        load_image(source, **options)
    error = caught.value
    assert error.exit_code == 2
    assert str(error.got) in str(error)
    assert str(error.todo).endswith(".")
    return error


def test_an_error_names_file_got_expected_and_remedy(tmp_path):
    path = tmp_path / "empty.png"
    path.write_bytes(b"")
    error = refusal(path)
    assert error.where == str(path)
    assert (error.got, error.expected) == ("zero bytes", "a picture")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert refusal(b"", name="picture 7 of the archive").where == "picture 7 of the archive"


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"<!DOCTYPE html><html><body>404</body></html>", "an HTML page"),
        (b"just some words\n", "text"),
        (b"%PDF-1.7 ...", "a PDF"),
        (b"PK\x03\x04....", "a ZIP"),
        (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "an SVG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "a PostScript"),
        (bytes(range(200, 232)), "c8 c9 ca"),
    ],
)
def test_what_is_no_picture_is_called_by_its_name(tmp_path, content, what):
    path = tmp_path / "picture.jpg"
    path.write_bytes(content)
    error = refusal(path)
    assert reason_of(error) == "not a picture"
    assert what in str(error)


class _Bait:
    def __reduce__(self):
        return os.mkdir, ("bait-was-taken",)


def test_a_pickle_is_never_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bait.png").write_bytes(pickle.dumps(_Bait()))
    assert reason_of(refusal(tmp_path / "bait.png")) == "not a picture"
    assert not (tmp_path / "bait-was-taken").exists()


@pytest.mark.parametrize(("width", "height"), [(30_000, 30_000), (12_000, 12_000), (2**31 - 1, 1)])
def test_bombs_are_refused_before_they_are_decoded(width, height):
    assert reason_of(refusal(png_header(width, height))) == "too many pixels"


def test_the_limit_is_a_parameter():
    data = encoded(Image.fromarray(gradient()), "PNG")
    assert "24 x 40" in str(refusal(data, max_pixels=959))
    assert load_image(data, max_pixels=960).size == Size(24, 40)


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "AVIF", "QOI"])
def test_truncated_files_are_refused(format_):
    if format_ == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow was built without AVIF")
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    data = encoded(Image.fromarray(noise), format_)
    assert load_image(data).size == Size(40, 40)
    for share in (0.9, 0.5, 0.1):
        error = refusal(data[: int(len(data) * share)])
        assert reason_of(error) in ("truncated or damaged", "not a picture")


def test_other_things_than_files_are_refused(tmp_path):
    assert reason_of(refusal(tmp_path / "nothing.png")) == "no such file"
    assert reason_of(refusal(tmp_path)) == "no regular file"
    pipe = tmp_path / "pipe.png"
    os.mkfifo(pipe)
    assert reason_of(refusal(pipe)) == "no regular file"  # and does not wait for a writer
    assert reason_of(refusal("/dev/zero")) == "no regular file"


@given(st.data())
def test_damage_gives_a_picture_or_a_picture_error(data):
    format_ = data.draw(st.sampled_from(["PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP"]))
    content = bytearray(encoded(Image.fromarray(gradient(6, 9)), format_))
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    del content[data.draw(st.integers(1, len(content))) :]
    try:
        loaded = load_image(bytes(content), max_pixels=10_000)
    except PictureError:
        return
    assert loaded.pixels.shape == (*loaded.size, 3)
