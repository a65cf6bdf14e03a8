"""Text that is really drawn, and pictures that have none, through the packaged networks."""

import pickle
import socket
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tastemaker.errors import InputError, MissingExtra
from tastemaker.scorers import text_area
from tastemaker.scorers.operation import Measure, Subject
from tastemaker.scorers.text_area import TextArea, covered_share
from tests.drawn_text import drawn_page, page, rings, textless, watermarked

needs_ocr = pytest.mark.skipif(
    not (find_spec("rapidocr") and find_spec("onnxruntime")), reason="needs the extra [ocr]"
)
NOTHING = {"share": 0.0, "lines": 0, "text": "", "confidence": 0.0, "boxes": []}


@pytest.fixture(scope="module")
def measure() -> Measure:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("rapidocr")
    return TextArea().open({}, "cpu")


def _of(measure: Measure, image: Image.Image) -> dict[str, Any]:
    (values,) = measure([Subject("x", np.asarray(image))])
    assert set(values) == set(TextArea.FIELDS)
    assert np.isfinite([values["share"], values["confidence"], *values["boxes"]]).all()
    assert len(values["boxes"]) == 4 * values["lines"]
    return values


def _boxes(values: dict[str, Any]) -> np.ndarray:
    return np.array(values["boxes"]).reshape(-1, 4)


def test_lines_are_found_where_they_were_drawn(measure: Measure) -> None:
    image, drawn = drawn_page(4, 28, (640, 320))
    found = _of(measure, image)
    assert found["text"].splitlines() == [f"Line {n} of a drawn page" for n in range(4)]
    assert found["confidence"] > 0.9
    off_px = np.abs(_boxes(found) * [640, 320, 640, 320] - drawn)
    assert off_px.max() < 12  # the detector's boxes have a margin
    exact = sum((right - left) * (bottom - top) for left, top, right, bottom in drawn) / 640 / 320
    assert exact < found["share"] < 1.8 * exact


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_a_turned_page_has_as_much_text(measure: Measure, degrees: int) -> None:
    upright, turned = _of(measure, page()), _of(measure, page().rotate(degrees, expand=True))
    assert turned["lines"] == 4
    assert turned["share"] == pytest.approx(upright["share"], rel=0.3)
    assert {line[-5:] for line in turned["text"].splitlines()} == {" page"}


def test_a_tilted_line_covers_its_own_area_and_not_that_of_its_bounds(measure: Measure) -> None:
    tilted = page().rotate(12, Image.Resampling.BICUBIC, expand=True, fillcolor="white")
    found = _of(measure, tilted)
    assert found["lines"] == 4
    left, top, right, bottom = _boxes(found).T
    assert found["share"] < 0.6 * ((right - left) * (bottom - top)).sum()
    pixels = _of(measure, page())["share"] * 640 * 320
    assert found["share"] * tilted.width * tilted.height == pytest.approx(pixels, rel=0.3)


@pytest.mark.parametrize("alpha", [60, 110, 255])
def test_a_translucent_mark_across_a_picture(measure: Measure, alpha: int) -> None:
    found = _of(measure, watermarked(alpha))
    assert (found["lines"], found["text"]) == (1, "STOCK PHOTO")
    assert found["confidence"] > 0.9
    assert 0.05 < found["share"] < 0.2


@pytest.mark.parametrize("name", textless())
def test_pictures_without_text_have_none(measure: Measure, name: str) -> None:
    assert _of(measure, textless()[name]) == NOTHING


def test_without_limits_rings_are_letters(measure: Measure) -> None:
    """The limits are needed, each of them by itself works, and none hides real text."""
    every = TextArea(least_confidence=0, least_characters=1, least_area=0).open({}, "cpu")
    found = _of(every, rings())
    assert found["lines"] > 0
    assert set(found["text"].replace("\n", "")) <= set("oO0QC。〇")
    strict = TextArea(least_confidence=0, least_characters=2, least_area=0).open({}, "cpu")
    assert _of(strict, rings()) == NOTHING
    large = TextArea(least_confidence=0, least_characters=1, least_area=0.9).open({}, "cpu")
    assert _of(large, rings()) == _of(large, page()) == NOTHING
    sure = TextArea(least_confidence=1, least_characters=1, least_area=0).open({}, "cpu")
    assert _of(sure, rings()) == NOTHING
    assert _of(strict, page())["lines"] == 4


def test_a_large_picture_is_reduced_first(measure: Measure) -> None:
    large = page(4, 84, (1920, 960))
    small = large.resize((960, 480), Image.Resampling.LANCZOS, reducing_gap=2.0)
    assert _of(measure, large) == _of(measure, small)
    tiny = TextArea(longest_px=64).open({}, "cpu")
    assert _of(tiny, page()) == NOTHING


def test_text_is_cut(measure: Measure) -> None:
    short = TextArea(most_characters=9).open({}, "cpu")
    found = _of(short, page())
    assert found["text"] == "Line 0 of"
    assert found["share"] == _of(measure, page())["share"]


@pytest.mark.parametrize("size", [(1, 1), (3, 2000), (2000, 3), (31, 33), (64, 960)])
def test_odd_sizes(measure: Measure, size: tuple[int, int]) -> None:
    assert _of(measure, Image.new("RGB", size, (90, 20, 60))) == NOTHING


def test_text_in_a_strip_is_found(measure: Measure) -> None:
    """rapidocr alone does not look for lines in strips of these proportions."""
    strip = page(1, 28, (640, 320)).crop((0, 20, 640, 70))
    found = _of(measure, strip)
    assert (found["lines"], found["text"]) == (1, "Line 0 of a drawn page")
    assert _of(measure, strip.rotate(90, expand=True))["lines"] == 1


def test_no_value_depends_on_the_others_of_a_batch(measure: Measure) -> None:
    subjects = [
        Subject(str(number), np.asarray(image))
        for number, image in enumerate([page(2), rings(), watermarked(200), page(3, 20)])
    ]
    together = measure(subjects)
    assert together == [measure([subject])[0] for subject in subjects]
    assert together[::-1] == measure(subjects[::-1])
    assert measure([]) == []


def test_the_engine_gets_the_picture_in_its_order_of_colours(
    measure: Measure, monkeypatch: pytest.MonkeyPatch
) -> None:
    import rapidocr

    call, seen = rapidocr.RapidOCR.__call__, []

    def watched(engine: Any, image: np.ndarray, **how: Any) -> Any:
        seen.append(image)
        return call(engine, image, **how)

    monkeypatch.setattr(rapidocr.RapidOCR, "__call__", watched)
    _of(measure, Image.new("RGB", (100, 70), (200, 20, 10)))
    (image,) = seen
    assert image.shape == (96, 128, 3)  # whole strides, filled up with the mean colour
    assert np.unique(image.reshape(-1, 3), axis=0).tolist() == [[10, 20, 200]]


def test_one_bad_picture_is_an_error_of_its_own(
    measure: Measure, monkeypatch: pytest.MonkeyPatch
) -> None:
    import rapidocr

    call = rapidocr.RapidOCR.__call__

    def fragile(engine: Any, image: np.ndarray, **how: Any) -> Any:
        if image.shape == (64, 96, 3):
            raise OSError("broken on purpose")
        return call(engine, image, **how)

    monkeypatch.setattr(rapidocr.RapidOCR, "__call__", fragile)
    bad = np.zeros((64, 96, 3), np.uint8)
    found = measure([Subject("a", bad), Subject("b"), Subject("c", np.asarray(page()))])
    assert found[0] == {"error": "text detection failed: OSError"}
    assert found[1] == {"error": "no pixels"}
    assert found[2]["lines"] == 4


@needs_ocr
def test_nothing_is_downloaded_or_printed(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def offline(*_: Any, **__: Any) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "getaddrinfo", offline)
    monkeypatch.setattr(socket.socket, "connect", offline)
    measure = TextArea().open({}, "cpu")
    assert _of(measure, page())["lines"] == 4
    assert _of(measure, Image.new("RGB", (64, 64))) == NOTHING
    assert capfd.readouterr() == ("", "")


@needs_ocr
def test_one_thread() -> None:
    tasks = Path("/proc/self/task")
    if not tasks.is_dir():
        pytest.skip("threads are counted where there is /proc")
    import cv2

    TextArea().open({}, "cpu")
    before = len(list(tasks.iterdir()))
    measure = TextArea().open({}, "cpu")
    _of(measure, page())
    assert len(list(tasks.iterdir())) <= before
    assert cv2.getNumThreads() == 1


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The operation looks for its weights in a copy of the package's folder."""
    import rapidocr

    weights = Path(rapidocr.__file__).parent / "models"
    (tmp_path / "models").mkdir()
    for file in weights.glob("*.onnx"):
        (tmp_path / "models" / file.name).symlink_to(file)
    monkeypatch.setattr(text_area, "package_folder", lambda *_: tmp_path)
    return tmp_path / "models"


@needs_ocr
@pytest.mark.parametrize("name", ["det_small", "rec_small", "cls_mobile"])
def test_missing_weights_are_not_downloaded(copied: Path, name: str) -> None:
    (file,) = copied.glob(f"*{name}.onnx")
    file.unlink()
    for use in (lambda: TextArea().open({}, "cpu"), lambda: TextArea().params({}, {})):
        with pytest.raises(InputError, match=f"no file .*{name}"):
            use()


@needs_ocr
@pytest.mark.parametrize("name", ["det_small", "rec_small", "cls_mobile"])
def test_broken_weights_fail_once_and_are_another_column(copied: Path, name: str) -> None:
    before = TextArea().params({}, {})
    (file,) = copied.glob(f"*{name}.onnx")
    file.unlink()
    file.write_bytes(b"no network")
    assert TextArea().params({}, {}) != before
    with pytest.raises(InputError, match="Install rapidocr again"):
        TextArea().open({}, "cpu")


@needs_ocr
def test_params_name_the_version_and_the_weights() -> None:
    params = TextArea(name="writing", longest_px=640).params({}, {})
    assert params["rapidocr"] == version("rapidocr")
    assert params["longest_px"] == 640
    assert len(params["weights"]) == 12
    assert "name" not in params
    assert params != TextArea().params({}, {})
    assert pickle.loads(pickle.dumps(TextArea(longest_px=640))) == TextArea(longest_px=640)


@pytest.mark.parametrize("absent", ["rapidocr", "onnxruntime", "cv2"])
def test_without_the_extra(absent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, absent, None)
    with pytest.raises(MissingExtra, match=r'pip install "tastemaker\[ocr\]"'):
        TextArea().open({}, "cpu")


cells = st.integers(0, 12)
rectangles = st.lists(st.tuples(cells, cells, cells, cells), max_size=6)


@given(rectangles)
def test_rectangles_cover_the_union_of_their_cells(found: list[tuple[int, ...]]) -> None:
    quads, union = [], set()
    for x0, y0, x1, y1 in found:
        (left, right), (top, bottom) = sorted((x0, x1)), sorted((y0, y1))
        quads.append(np.array([(left, top), (right, top), (right, bottom), (left, bottom)], float))
        union |= {(x, y) for x in range(left, right) for y in range(top, bottom)}
    assert covered_share(quads, 12, 12) == pytest.approx(len(union) / 144)


@given(st.floats(0, 90), st.permutations(range(4)))
def test_a_turned_square_covers_its_area_whatever_its_first_corner(angle, order) -> None:
    around = np.deg2rad(angle) + np.pi / 2 * np.arange(4)
    quad = 100 + 60 * np.stack([np.cos(around), np.sin(around)], axis=1)
    assert covered_share([quad[order]], 200, 200) * 40_000 == pytest.approx(2 * 60**2, rel=0.02)


def test_what_lies_outside_of_the_picture_does_not_count() -> None:
    quad = np.array([(-5, -5), (5, -5), (5, 5), (-5, 5)], float)
    assert covered_share([quad], 10, 10) == pytest.approx(0.25)
    assert covered_share([quad + 10], 10, 10) == pytest.approx(0.25)
    assert covered_share([quad + 40, quad - 40], 10, 10) == 0
