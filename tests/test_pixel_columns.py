"""The weightless column against float64 transcriptions, imagehash, and pictures made to measure."""

import io

import imagehash
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tastemaker.scorers.borders import Borders, find_borders
from tastemaker.scorers.dct_hash import dct_hashes
from tastemaker.scorers.operation import Subject
from tastemaker.scorers.pixel_facts import Pixels

FRACTIONS = ("clipped_dark", "clipped_bright", "flat_share", "border_share") + tuple(
    f"border_{side}" for side in ("top", "bottom", "left", "right")
)


def measured(*pictures: np.ndarray) -> list[dict]:
    measure = Pixels().open({}, "cpu")
    return measure([Subject(str(number), pixels) for number, pixels in enumerate(pictures)])


def photo(seed: int, h: int = 300, w: int = 420) -> np.ndarray:
    """Shapes at several scales, edges and noise; no uniform line anywhere."""
    random = np.random.default_rng(seed)
    pixels = np.zeros((h, w, 3), np.float32)
    for cells, strength in ((3, 60), (12, 30), (48, 20)):
        coarse = random.normal(0, strength, (cells, cells, 3)).astype(np.float32)
        for channel in range(3):
            layer = Image.fromarray(coarse[..., channel])
            pixels[..., channel] += np.asarray(layer.resize((w, h), Image.Resampling.BICUBIC))
    for _ in range(4):
        y, x = random.integers(0, h - 20), random.integers(0, w - 20)
        pixels[y : y + h // 4, x : x + w // 4] += random.normal(0, 50, 3)
    return np.clip(pixels + 125 + random.normal(0, 4, (h, w, 1)), 0, 255).astype(np.uint8)


def grey_of(pixels: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).convert("L"))


def framed(pixels: np.ndarray, widths: Borders, colour=(0, 0, 0)) -> np.ndarray:
    top, bottom, left, right = widths
    height, width = pixels.shape[:2]
    whole = np.empty((height + top + bottom, width + left + right, 3), np.uint8)
    whole[:] = colour
    whole[top : top + height, left : left + width] = pixels
    return whole


def check_sound(values: dict) -> None:
    assert values.keys() == Pixels.FIELDS.keys()
    for name in FRACTIONS:
        assert 0 <= values[name] <= 1, name
    assert 0 <= values["entropy_bits"] <= 8
    assert 0 <= values["sharpness"] < 1e6
    assert 0 <= values["colourfulness"] < 500
    for name in ("phash", "phash_mirror"):
        assert len(values[name]) == 16
        int(values[name], 16)
    assert len(values["colours"]) == 192
    assert all(type(level) is int and 0 <= level <= 255 for level in values["colours"])
    for name, kind in Pixels.FIELDS.items():
        assert type(values[name]) is {"float32": float, "string": str}.get(kind, list), name


# --- transcriptions ------------------------------------------------------------------------------


def colourfulness_in_float64(pixels: np.ndarray) -> float:
    """Hasler & Suesstrunk 2003, M^(3), written once more."""
    r, g, b = (pixels[..., channel].astype(np.float64).ravel() for channel in range(3))
    rg, yb = r - g, 0.5 * (r + g) - b
    return np.hypot(np.std(rg), np.std(yb)) + 0.3 * np.hypot(np.mean(rg), np.mean(yb))


def entropy_in_float64(grey: np.ndarray) -> float:
    shares = np.array([(grey == level).mean() for level in range(256)])
    return float(-sum(share * np.log2(share) for share in shares if share))


def laplacian_variance_in_float64(grey: np.ndarray) -> float:
    from scipy.ndimage import convolve

    kernel = np.array([[0, 1, 0], [1, -4, 1], [0, 1, 0]], np.float64)
    return float(convolve(grey.astype(np.float64), kernel)[1:-1, 1:-1].var())


@pytest.mark.parametrize("seed", range(4))
def test_values_are_those_of_plain_transcriptions(seed):
    pixels = (
        photo(seed) if seed else np.random.default_rng(0).integers(0, 256, (60, 50, 3), np.uint8)
    )
    (values,) = measured(pixels)
    grey = grey_of(pixels)
    assert values["colourfulness"] == pytest.approx(colourfulness_in_float64(pixels), rel=1e-12)
    assert values["entropy_bits"] == pytest.approx(entropy_in_float64(grey), rel=1e-12)
    assert values["sharpness"] == pytest.approx(laplacian_variance_in_float64(grey), rel=1e-9)
    codes, counts = np.unique((pixels >> 3).reshape(-1, 3), axis=0, return_counts=True)
    assert values["flat_share"] == counts.max() / (pixels.size // 3)
    assert len(codes) > 10


def test_cv2_has_the_same_sharpness():
    cv2 = pytest.importorskip("cv2")
    pixels = photo(5)
    (values,) = measured(pixels)
    laplacian = cv2.Laplacian(grey_of(pixels), cv2.CV_64F)[1:-1, 1:-1]
    assert values["sharpness"] == pytest.approx(laplacian.var(), rel=1e-9)


def test_clipped_shares_are_exact_at_full_size():
    pixels = np.full((1000, 1200, 3), 128, np.uint8)
    random = np.random.default_rng(1)
    places = random.permutation(1_200_000)
    flat = pixels.reshape(-1, 3)
    flat[places[:1000]], flat[places[1000:1500]] = 0, 4
    flat[places[1500:2700]], flat[places[2700:3000]] = 255, 251
    flat[places[3000:3300]], flat[places[3300:3600]] = 5, 250
    (values,) = measured(pixels)
    assert values["clipped_dark"] == 1500 / 1_200_000
    assert values["clipped_bright"] == 1500 / 1_200_000


def test_grey_has_no_colour_and_pure_colours_have_much():
    grey = np.repeat(photo(1)[..., :1], 3, axis=2)
    red_and_blue = np.zeros((64, 64, 3), np.uint8)
    red_and_blue[:32, :, 0] = red_and_blue[32:, :, 2] = 255
    values = measured(grey, red_and_blue, np.full((9, 9, 3), 77, np.uint8))
    assert [value["colourfulness"] for value in values[::2]] == [0.0, 0.0]
    assert values[1]["colourfulness"] > 109


# --- invariances ---------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(300, 420), (1100, 1536)])
def test_a_mirrored_picture_swaps_what_has_a_side(size):
    pixels = framed(photo(2, *size), Borders(0, 0, 40, 12))
    one, other = measured(pixels, np.ascontiguousarray(pixels[:, ::-1]))
    assert one["border_left"] == other["border_right"] > other["border_left"] == one["border_right"]
    assert (one["phash"], one["phash_mirror"]) == (other["phash_mirror"], other["phash"])
    grids = [np.array(values["colours"]).reshape(8, 8, 3) for values in (one, other)]
    assert np.abs(grids[0] - grids[1][:, ::-1]).max() <= 1
    for name in ("clipped_dark", "clipped_bright", "border_share"):
        assert one[name] == other[name]
    for name in ("sharpness", "entropy_bits", "flat_share", "colourfulness"):
        assert one[name] == pytest.approx(other[name], rel=3e-2), name


def test_a_picture_and_its_enlargement_are_equally_sharp():
    sharp = photo(3, 384, 512)
    blurred = np.asarray(Image.fromarray(sharp).reduce(4).resize((512, 384)))
    for factor in (2, 2.6, 5):
        size = (round(512 * factor), round(384 * factor))
        large = [np.asarray(Image.fromarray(pixels).resize(size)) for pixels in (sharp, blurred)]
        values = [value["sharpness"] for value in measured(sharp, blurred, *large)]
        # Enlarging and averaging is itself a slight blur.
        assert 0.35 * values[0] < values[2] < 1.1 * values[0]
        assert min(values[0], values[2]) > 8 * max(values[1], values[3])
    (whole,) = measured(np.repeat(np.repeat(sharp, 3, axis=0), 3, axis=1))
    assert whole["sharpness"] == measured(sharp)[0]["sharpness"]


def test_sharpness_hardly_depends_on_the_size():
    # Detail at every scale, and a little blurred, as photographs are.
    image = Image.fromarray(photo(6, 1200, 1800)).resize((1536, 1024), Image.Resampling.LANCZOS)
    values = [
        measured(np.asarray(image.resize((w, w * 2 // 3), Image.Resampling.LANCZOS)))[0][
            "sharpness"
        ]
        for w in (1536, 1500, 1130, 1026, 1022, 800, 690, 514)
    ]
    assert max(values) < 1.5 * min(values)


def test_no_value_depends_on_its_neighbours():
    pictures = [photo(seed, 60, 80) for seed in range(3)]
    assert measured(*pictures) == [measured(pixels)[0] for pixels in pictures]


# --- hashes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(512, 512), (300, 420), (33, 17), (512, 3), (1, 1), (8, 200)])
def test_the_hash_is_imagehash_bit_for_bit(size):
    for seed in range(8):
        random = np.random.default_rng(seed)
        noise = random.integers(0, 256, (*size, 3), np.uint8)
        for pixels in (noise, photo(seed, *size) if min(size) > 20 else noise // 2):
            (values,) = measured(pixels)
            image = Image.fromarray(pixels)
            mirrored = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            assert values["phash"] == str(imagehash.phash(image))
            assert values["phash_mirror"] == str(imagehash.phash(mirrored))


def test_a_symmetric_picture_has_one_hash():
    half = photo(4)[:, :200]
    (values,) = measured(np.concatenate([half, half[:, ::-1]], axis=1))
    assert values["phash"] == values["phash_mirror"]


def test_of_a_larger_picture_the_hash_is_nearly_imagehash():
    distances = []
    for seed in range(12):
        pixels = photo(seed, 1100, 1500)
        (values,) = measured(pixels)
        expected = imagehash.phash(Image.fromarray(pixels))
        distances.append(imagehash.hex_to_hash(values["phash"]) - expected)
    assert np.mean(np.array(distances) == 0) >= 0.7
    assert max(distances) <= 6


def test_a_grey_picture_has_two_hashes():
    grey = Image.fromarray(np.arange(64 * 64, dtype=np.uint8).reshape(64, 64))
    one, other = dct_hashes(grey)
    assert one != other


# --- borders -------------------------------------------------------------------------------------


@given(
    widths=st.tuples(*[st.sampled_from([0, 1, 2, 7, 15, 16, 40, 65])] * 4),
    colour=st.sampled_from([(0, 0, 0), (255, 255, 255), (30, 160, 70)]),
)
@settings(max_examples=60)
def test_a_frame_is_found_to_the_pixel(widths, colour):
    inside = photo(7, 120, 170)
    # Content far from the frame's colour wherever they meet.
    inside[[0, -1], ::5] = inside[::5, [0, -1]] = (255 - np.array(colour)) // 128 * 255
    pixels = framed(inside, Borders(*widths), colour)
    assert find_borders(pixels, grey_of(pixels)) == Borders(*widths)
    (values,) = measured(pixels)
    height, width = pixels.shape[:2]
    top, bottom, left, right = widths
    assert values["border_top"] == top / height
    assert values["border_right"] == right / width
    inner = (height - top - bottom) * (width - left - right)
    assert values["border_share"] == pytest.approx(1 - inner / (height * width))


@pytest.mark.parametrize("quality", [95, 75, 50])
@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (30, 160, 70)])
def test_a_frame_is_found_in_a_jpeg(quality, colour):
    exact = []
    for seed, widths in enumerate([(17, 40, 0, 0), (0, 0, 33, 21), (50, 3, 9, 60), (8, 8, 8, 8)]):
        pixels = framed(photo(seed), Borders(*widths), colour)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=quality)
        saved = np.asarray(Image.open(file))
        found = find_borders(saved, grey_of(saved))
        assert np.abs(np.subtract(found, widths)).max() <= 3, (seed, found)
        exact += [one == other for one, other in zip(found, widths, strict=True)]
    assert np.mean(exact) >= 0.8


def test_each_side_may_have_its_own_colour():
    pixels = framed(photo(1), Borders(0, 0, 30, 30), (255, 255, 255))
    pixels = framed(pixels, Borders(20, 10, 0, 0))
    assert find_borders(pixels, grey_of(pixels)) == (20, 10, 30, 30)
    pixels = framed(framed(photo(1), Borders(20, 10, 0, 0)), Borders(0, 0, 30, 30), (255,) * 3)
    assert find_borders(pixels, grey_of(pixels)) == (20, 10, 30, 30)


def test_what_is_no_border():
    rows = np.arange(256, dtype=np.uint8)
    gradient = np.repeat(np.repeat(rows[:, None], 200, axis=1)[..., None], 3, axis=2)
    halves = np.zeros((100, 100, 3), np.uint8)
    halves[50:] = 255
    flat = np.full((100, 100, 3), 40, np.uint8)
    noisy = flat + np.random.default_rng(0).integers(0, 8, flat.shape, np.uint8)
    # Equal in luminance, so that only colour tells them apart.
    patches = np.zeros((100, 100, 3), np.uint8)
    patches[:, :50, 0], patches[:, 50:, 1] = 255, 130
    assert np.ptp(grey_of(patches)) <= 1
    for pixels in (gradient, halves, flat, noisy, patches, photo(3)):
        turned = np.ascontiguousarray(pixels.swapaxes(0, 1))
        assert find_borders(pixels, grey_of(pixels)) == Borders()
        assert find_borders(turned, grey_of(turned)) == Borders()


def test_borders_are_the_same_in_all_eight_positions():
    widths = Borders(20, 9, 31, 0)
    pixels = framed(photo(9), widths, (250, 250, 250))
    top, bottom, left, right = widths
    turned = np.ascontiguousarray(pixels.swapaxes(0, 1))
    upside_down = np.ascontiguousarray(pixels[::-1])
    assert find_borders(turned, grey_of(turned)) == (left, right, top, bottom)
    assert find_borders(upside_down, grey_of(upside_down)) == (bottom, top, left, right)


# --- odd pictures --------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [0, 128, 255])
@pytest.mark.parametrize(
    "size", [(1, 1), (1, 2), (2, 1), (3, 3), (1, 700), (700, 1), (2, 5000), (9000, 3), (600, 600)]
)
def test_every_size_has_finite_values(size, level):
    flat = np.full((*size, 3), level, np.uint8)
    noise = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    for values in measured(flat, noise):
        check_sound(values)
    (values,) = measured(flat)
    assert (values["sharpness"], values["entropy_bits"], values["flat_share"]) == (0.0, 0.0, 1.0)
    assert (values["border_share"], values["colourfulness"]) == (0.0, 0.0)
    assert values["clipped_dark"] == (level == 0)
    assert values["clipped_bright"] == (level == 255)
    assert values["colours"] == [level] * 192


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32), st.integers(1, 256))
@settings(max_examples=50)
def test_any_small_picture_is_measured(h, w, seed, levels):
    random = np.random.default_rng(seed)
    (values,) = measured(random.integers(0, levels, (h, w, 3)).astype(np.uint8))
    check_sound(values)


def test_what_is_no_picture_is_an_error_of_its_own():
    bad = [None, np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32)]
    values = measured(photo(1, 30, 30), *bad, np.zeros((0, 4, 3), np.uint8))  # type: ignore[arg-type]
    assert "phash" in values[0]
    assert values[1] == {"error": "no pixels"}
    assert [list(one) for one in values[2:]] == [["error"]] * 3


def test_the_column_is_named_and_versioned():
    operation = Pixels()
    assert (operation.column, operation.VERSION, operation.MODELS) == ("pixels", 2, {})
    assert operation.params({}, {}) == {"kind": "pixels"}
