"""What all scorers of generated pictures share, and that the self-test finds what is broken."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter

from tastemaker.engine.picture_scores import find_scorer, open_scorer, try_scorers
from tastemaker.errors import InputError, MissingModel
from tastemaker.models.locate import packaged
from tastemaker.scorers.figures import Scored, figure_lines
from tastemaker.scorers.match_scorers import Clip, PickScore
from tastemaker.scorers.protocol import Needs, Origin, Scorer
from tastemaker.scorers.scoring import Found, ReadsTexts, Scoring, panel_problem
from tastemaker.scorers.scorings import AnyScoring
from tastemaker.scorers.selftest import Check, check_comparison, check_scorer
from tests import published_networks, tiny_hub

ADAPTER: TypeAdapter[Any] = TypeAdapter(AnyScoring)
MEANING = ("drawings fit their names better than noise does", "drawings fit their own names best")
"""Checks that networks of random weights may fail."""


def clip(at: Path) -> dict[str, Any]:
    return {"kind": "clip", "model": str(tiny_hub.clip(at))}


def siglip(at: Path) -> dict[str, Any]:
    return {"kind": "siglip", "model": str(tiny_hub.siglip(at))}


def pick_score(at: Path) -> dict[str, Any]:
    return {"kind": "pick_score", "model": str(tiny_hub.clip(at))}


def hps(at: Path, kind: str = "hps_v2.0", file: str = "HPS_v2_compressed.pt") -> dict[str, Any]:
    words = tiny_hub.clip(at / "words")
    torch.save({"state_dict": tiny_hub.open_clip_weights(words)}, at / file)
    return {"kind": kind, "model": str(at), "tokenizer": str(words)}


def hps_antialiased(at: Path) -> dict[str, Any]:
    return {**hps(at, "hps_v2.1", "HPS_v2.1_compressed.pt"), "antialias": True}


def image_reward(at: Path) -> dict[str, Any]:
    bert = tiny_hub.bert_words(at / "bert")
    count = len((bert / "vocab.txt").read_text().splitlines())
    torch.save(
        published_networks.reward_weights(words=count + 2, **tiny_hub.REWARD), at / "ImageReward.pt"
    )
    return {"kind": "image_reward", "model": str(at / "ImageReward.pt"), "tokenizer": str(bert)}


def laion(at: Path) -> dict[str, Any]:
    model = tiny_hub.clip_vision(at / "vision")
    np.savez(at / "head.npz", w=np.arange(12.0), b=5.0)
    return {"kind": "laion_aesthetics", "model": str(model), "head": str(at / "head.npz")}


CASES: tuple[Callable[[Path], dict[str, Any]], ...] = (
    clip, siglip, pick_score, hps, hps_antialiased, image_reward, laion,
)  # fmt: skip


@pytest.fixture(scope="module", params=CASES, ids=lambda make: make.__name__)
def opened(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Scoring, Scorer]:
    at = tmp_path_factory.mktemp(request.param.__name__) / "model"
    at.mkdir()
    scoring = ADAPTER.validate_python(request.param(at))
    return scoring, open_scorer(scoring, "cpu")


def noise(seed: int, height: int = 40, width: int = 40) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def test_every_scorer_passes_the_self_test(opened: tuple[Scoring, Scorer]) -> None:
    checks = [check for check in check_scorer(opened[1]) if check.check not in MEANING]
    assert [check for check in checks if check.passed is False] == []
    asked = {check.check for check in checks if check.passed}
    assert len(asked) == (8 if opened[1].needs == "image+text" else 6)


def test_every_scorer_says_where_its_values_come_from(opened: tuple[Scoring, Scorer]) -> None:
    scoring, scorer = opened
    origin = Origin.of(scorer)
    assert origin.name == scoring.column == scoring.kind
    assert origin.version
    assert origin.unit
    assert len(origin.preprocessing) == 12
    # The model's hash, and no place of this machine.
    assert "@" in origin.backbone
    assert str(Path(scoring.model_dump()["model"]).parent) not in origin.backbone
    assert scorer.range[0] < scorer.range[1]
    assert isinstance(scorer, ReadsTexts) == (scorer.needs == "image+text")


def test_every_scoring_is_a_whole_configuration(opened: tuple[Scoring, Scorer]) -> None:
    scoring, _ = opened
    assert ADAPTER.validate_python(scoring.model_dump()) == scoring
    schema = type(scoring).model_json_schema()["properties"]
    assert [key for key in schema if not schema[key].get("description")] == []
    assert scoring.ABOUT in ("text", "preference", "aesthetics")
    for field in scoring.models:
        gone = scoring.model_copy(update={field: "no/where/at-all"})
        with pytest.raises(MissingModel):
            find_scorer(gone)


def test_every_scorer_refuses_what_is_no_picture(opened: tuple[Scoring, Scorer]) -> None:
    scorer = opened[1]
    with pytest.raises(ValueError, match="not uint8"):
        scorer.score([noise(0).astype(np.float32)], ["a"])
    if scorer.needs == "image+text":
        for texts in (None, ["a"]):
            with pytest.raises(ValueError, match="as many texts"):
                scorer.score([noise(0), noise(1)], texts)


def test_an_overflowing_network_is_an_error_not_a_score(tmp_path: Path) -> None:
    model = tiny_hub.clip(tmp_path / "m")
    scorer = Clip().open({"model": Found(model, "m@1")}, "cpu")
    with torch.no_grad():
        scorer._embedder.model.visual_projection.weight.fill_(torch.nan)  # type: ignore[attr-defined]
    with pytest.raises(InputError, match="2 values that are not finite"):
        scorer.score([noise(0), noise(1)], ["a", "b"])


def test_pick_score_is_the_scaled_cosine(tmp_path: Path) -> None:
    """As the published example: exp(logit_scale) * text @ image, by transformers' own forward."""
    import transformers

    folder = tiny_hub.clip(tmp_path / "m")
    found = {"model": Found(folder, "m@1")}
    picture, text = noise(3), "a red apple"
    logit = PickScore().open(found, "cpu")
    cosine = PickScore(unit="cosine").open(found, "cpu")
    model = transformers.CLIPModel.from_pretrained(folder)
    words = transformers.CLIPTokenizer.from_pretrained(folder)(text, return_tensors="pt")
    pixels = torch.from_numpy(logit._embedder.architecture.picture_input(picture))[None]  # type: ignore[attr-defined]
    with torch.inference_mode():
        out = model(pixel_values=pixels, **words)
    assert logit.score([picture], [text])[0] == pytest.approx(
        float(out.logits_per_image[0, 0]), abs=1e-4
    )
    scale = float(model.logit_scale.detach().exp())
    assert (logit.unit, cosine.unit) == ("logit", "cosine")
    assert logit.range == pytest.approx((-scale, scale))
    assert cosine.score([picture], [text])[0] * scale == pytest.approx(
        logit.score([picture], [text])[0], rel=1e-6
    )


def test_kinds_are_checked_against_the_model(tmp_path: Path) -> None:
    other = {"kind": "siglip", "model": str(tiny_hub.clip(tmp_path / "m"))}
    with pytest.raises(InputError, match="a model of type clip"):
        open_scorer(ADAPTER.validate_python(other), "cpu")


def test_the_aesthetic_head_wants_its_own_network(tmp_path: Path) -> None:
    fields = laion(tmp_path)
    np.savez(tmp_path / "wide.npz", w=np.arange(13.0), b=5.0)
    wide = ADAPTER.validate_python({**fields, "head": str(tmp_path / "wide.npz")})
    with pytest.raises(InputError, match="a head for embeddings of 13 numbers"):
        open_scorer(wide, "cpu")
    scorer = open_scorer(ADAPTER.validate_python(fields), "cpu")
    vector = scorer._embedder.embed([noise(0)])[0].astype(float)  # type: ignore[attr-defined]
    assert scorer.score([noise(0)], None)[0] == pytest.approx(vector @ np.arange(12.0) + 5.0)


def test_looks_are_never_reported_without_text() -> None:
    looks, liked, text = (
        ADAPTER.validate_python(fields)
        for fields in (
            {"kind": "laion_aesthetics", "head": "h.pth"},
            {"kind": "pick_score"},
            {"kind": "clip"},
        )
    )
    for lonely in ([looks], [liked], [looks, liked]):
        assert "without text fidelity" in str(panel_problem(lonely, with_text=False))
        assert panel_problem(lonely, with_text=True) is None
        assert panel_problem([*lonely, text], with_text=False) is None
    assert panel_problem([], with_text=False) is None
    assert "called clip" in str(panel_problem([text, text], with_text=True))
    taken = text.model_copy(update={"name": "style"})
    assert "called style" in str(panel_problem([taken], with_text=True))


def test_a_scorer_without_a_figure_of_its_own_gets_its_mean() -> None:
    ids = {"before": ["a", "b", "c"], "after": ["a", "b", "c"]}
    values = {"before": np.array([1.0, 2, 3]), "after": np.array([2.0, 3, 5])}
    origin = Origin("pick_score", "v1/1", "m@1", "x", "logit", True)
    (line,) = figure_lines(Scored(origin, values), ids, resamples=100)
    assert (line["name"], line["unit"], line["version"]) == ("pick_score", "logit", "v1/1")
    assert line["against"]["after"]["difference"]["estimate"] == pytest.approx(4 / 3)


@pytest.mark.gpu
@pytest.mark.parametrize("make", CASES, ids=lambda make: make.__name__)
def test_every_scorer_passes_the_self_test_on_an_accelerator(
    make: Callable[[Path], dict[str, Any]], tmp_path: Path
) -> None:
    (tmp_path / "m").mkdir()
    scoring = ADAPTER.validate_python({**make(tmp_path / "m"), "precision": "bfloat16", "batch": 4})
    checks = [
        one for one in check_scorer(open_scorer(scoring, "cuda:0")) if one.check not in MEANING
    ]
    assert [check for check in checks if check.passed is False] == []


# The self-test itself.


@dataclass
class Toy:
    """A scorer that reads colours: how red a picture is, less what its text says of blue."""

    broken: str = ""
    name: str = "toy"
    version: str = "1"
    backbone: str = "none"
    preprocessing: str = "none"
    unit: str = "points"
    range: tuple[float, float] = (-20.0, 20.0)
    higher_is_better: bool = True
    needs: Needs = "image+text"
    window: int = 40

    def score(self, pictures: Sequence[np.ndarray], texts: Sequence[str] | None) -> np.ndarray:
        assert texts is not None
        pairs = list(zip(pictures, texts, strict=True))
        values = np.array([self._one(picture, text) for picture, text in pairs])
        if self.broken == "batch":
            values += values.mean() * 1e-9
        if self.broken == "place":
            values += np.arange(len(values)) * 1e-9
        if self.broken == "random":
            values += np.random.default_rng().normal(size=len(values)) * 1e-9
        if self.broken == "finite":
            values[-1] = np.nan
        if self.broken == "range":
            values += 100
        if self.broken == "constant":
            values[:] = 0.5
        if self.broken == "writes":
            pictures[0][0, 0] = 0
        return -values if self.broken == "upside down" else values

    def _one(self, picture: np.ndarray, text: str) -> float:
        if self.broken == "sizes" and min(picture.shape[:2]) < 2:
            raise ValueError("too small")
        flat = picture.reshape(-1, 3).astype(float)
        colours = {"red": (1, 0, 0), "blue": (0, 0, 1), "star": (1, 1, 0), "smiling": (1, 1, 0.2)}
        wanted = next((np.array(c) for word, c in colours.items() if word in text), np.ones(3))
        inside = flat[(flat.min(axis=1) < 240)] if (flat.min(axis=1) < 240).any() else flat
        near = -np.abs(inside / 255 - wanted).mean()
        return float(near + (0 if self.broken == "deaf" else len(text[:40]) * 1e-3))

    def truncated(self, texts: Sequence[str]) -> list[bool]:
        return [len(text) > 40 and self.broken != "silent" for text in texts]


@pytest.mark.parametrize(
    ("broken", "check"),
    [
        ("batch", "no value depends on the batch"),
        ("place", "candidates in another order, the same values"),
        ("random", "the same picture twice, the same value"),
        ("finite", "one finite value a picture, within its range"),
        ("range", "one finite value a picture, within its range"),
        ("writes", "pictures are left as they were"),
        ("sizes", "odd sizes and texts"),
        ("constant", "the text counts"),
        ("silent", "long texts are told"),
        ("upside down", MEANING[0]),
        ("upside down", MEANING[1]),
    ],
)
def test_the_self_test_finds_what_is_broken(broken: str, check: str) -> None:
    assert {one.check for one in check_scorer(Toy()) if one.passed is False} == set()
    failed = {one.check for one in check_scorer(Toy(broken)) if one.passed is False}
    assert check in failed


def test_comparisons_have_no_winner_by_place() -> None:
    assert [one.passed for one in check_comparison()] == [True] * 4


def test_the_packaged_model_passes_everything() -> None:
    if not (packaged("tiny-clip") / "model.safetensors").is_file():
        pytest.skip("no packaged tiny-clip")
    checks = list(try_scorers([], "tiny-clip"))
    assert len(checks) == 14
    assert [check for check in checks if not check.passed] == []


def test_the_command_prints_a_table_and_fails_with_a_scorer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import json

    from tastemaker.cli.app import main

    model = tiny_hub.clip(tmp_path / "m")
    words = ["evaluate", "--selftest", f"image_text={model}", "--json"]

    def told() -> tuple[int, Any]:
        capsys.readouterr()
        code = main(tuple(words))
        return code, json.loads(capsys.readouterr().out)

    bad = Check("m", "x", False, "why")
    monkeypatch.setattr("tastemaker.engine.picture_scores.check_scorer", lambda _: [bad])
    code, value = told()
    assert (code, value["failed"]) == (1, 1)
    assert value["checks"][-1] == {"scorer": "m", "check": "x", "passed": False, "detail": "why"}
    monkeypatch.setattr("tastemaker.engine.picture_scores.check_scorer", lambda _: [])
    code, value = told()
    assert (code, value["failed"], len(value["checks"])) == (0, 0, 4)
    assert main(("evaluate", "--selftest", "image_text=no/where/at-all")) == 2
