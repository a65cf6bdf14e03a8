"""The packaged recipe slow_learner_funnel from end to end: small models, real OCR, plain numpy."""

import itertools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageOps
from pyarrow import parquet

from tastemaker.cli.app import main
from tastemaker.scorers.vision_text import VisionText
from tests import tiny_hub
from tests.drawn_text import font
from tests.page_reader import parsed

LEAST_SIDE, KEEP, LAYERS = 160, 6, ((12, 8), (8, 6), (6, 4), (4, 3), (3, 1))
WORDS = ("apple", "cat", "yellow", "a", "car", "rain", "of")
TEXTS = [" ".join(words) for words in itertools.product(*[WORDS] * 3)]

PLAN = {
    "readable": ["broken.png", "copy.png"],
    "captioned": ["mute.png"],
    f"short_side >= {LEAST_SIDE}": ["small1.png", "small2.png"],
    "aspect <= 3": ["long.png"],
    "pixels.flat_share <= 0.9": ["flat.png"],
    "no duplicates": ["good1 flipped.png", "good2 flipped.png", "good3 smaller.png"],
    "text_area.share <= 0": ["text1.png", "text2.png", "text3.png"],
}
"""Rule -> the pictures that are made to fall by it; a rule on captions and the best ones follow."""


def soft(seed: int, h: int = 200, w: int = 240) -> Image.Image:
    """A soft picture of many colours, like no other."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), np.uint8)
    return Image.fromarray(coarse).resize((w, h), Image.Resampling.BICUBIC)


def pictures() -> dict[str, Image.Image]:
    found = {f"good{n}.png": soft(n) for n in range(1, 13)}
    found |= {f"wrong{n}.png": soft(120 + n) for n in range(1, 5)}
    found |= {f"good{n} flipped.png": ImageOps.mirror(soft(n)).resize((228, 190)) for n in (1, 2)}
    found["good3 smaller.png"] = soft(3).resize((228, 190), Image.Resampling.LANCZOS)
    found |= {f"small{n}.png": soft(200 + n, LEAST_SIDE - n) for n in (1, 2)}
    found |= {"long.png": soft(300, 160, 500), "mute.png": soft(301)}
    found["flat.png"] = Image.new("RGB", (240, 200), "teal")
    return found | {f"text{n}.png": written_on(soft(400 + n), n) for n in (1, 2, 3)}


def written_on(image: Image.Image, lines: int) -> Image.Image:
    draw = ImageDraw.Draw(image)
    for line in range(lines):
        at = (12, 20 + 50 * line)
        draw.text(at, "Words on it", "white", font(34), stroke_width=4, stroke_fill="black")
    return image


def texts_by_fit(folder: Path, images: Mapping[str, Image.Image]) -> tuple[dict, float]:
    """A caption for each picture, the best fitting but for the wrong ones, and a limit between."""
    model = VisionText.load(folder, device="cpu", precision="float32", part="both", batch=8)
    seen = model.embed([np.asarray(image) for image in images.values()])
    fits = np.asarray(seen) @ np.asarray(model.embed_words(TEXTS)).T
    wrong = np.array([name.startswith("wrong") for name in images])
    chosen = np.where(wrong, fits.argmin(axis=1), fits.argmax(axis=1))
    values = fits[np.arange(len(images)), chosen]
    assert values[wrong].max() + 0.01 < values[~wrong].min()
    limit = float(values[wrong].max() + values[~wrong].min()) / 2
    return {name: TEXTS[n] for name, n in zip(images, chosen, strict=True)}, round(limit, 4)


def head_weights() -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(9)
    return [(rng.normal(size=(o, i)), rng.normal(size=o)) for i, o in LAYERS]


@dataclass
class Funnel:
    """A finished run and what it was made from."""

    folder: Path
    words: list[str]
    limit: float

    @property
    def step(self) -> Path:
        (step,) = (self.folder / "run/steps/chosen").iterdir()
        return step

    @property
    def summary(self) -> dict[str, Any]:
        return json.loads((self.step / "curation.json").read_text())

    def verdicts(self) -> dict[str, dict[str, Any]]:
        rows = parquet.read_table(self.step / "verdicts.parquet").to_pylist()
        found = {row["key"]: row for row in rows}
        assert len(found) == len(rows)
        return found

    def column(self, name: str) -> dict[str, dict[str, Any]]:
        """Rows of a column by the picture's name, read from its files alone."""
        (told,) = (column for column in self.summary["columns"] if column["name"] == name)
        (collection,) = (self.folder / "run/steps/pictures").glob("*/collection/catalog")
        base = parquet.read_table(collection / "base/part-00000.parquet", columns=["id", "key"])
        table = parquet.read_table(collection / "col" / told["folder"] / "part-00000.parquet")
        assert table["id"].to_pylist() == base["id"].to_pylist()
        return dict(zip(base["key"].to_pylist(), table.to_pylist(), strict=True))


@pytest.fixture(scope="module")
def funnel(tmp_path_factory: pytest.TempPathFactory) -> Funnel:
    folder = tmp_path_factory.mktemp("funnel")
    siglip, clip = tiny_hub.siglip(folder / "siglip"), tiny_hub.clip(folder / "clip")
    layers = zip((0, 2, 4, 6, 7), head_weights(), strict=True)
    state = {}
    for number, (weight, bias) in layers:
        state[f"layers.{number}.weight"] = torch.from_numpy(weight)
        state[f"layers.{number}.bias"] = torch.from_numpy(bias)
    torch.save(state, folder / "head.pth")
    images, source = pictures(), folder / "pictures"
    source.mkdir()
    texts, limit = texts_by_fit(siglip, images)
    for name, image in images.items():
        image.save(source / name)
        if name != "mute.png":
            (source / name).with_suffix(".txt").write_text(texts[name])
    (source / "broken.png").write_bytes((source / "good1.png").read_bytes()[:500])
    (source / "copy.png").write_bytes((source / "good4.png").read_bytes())
    words = ["run", "slow_learner_funnel", f"pictures={source}", f"image_text={siglip}"]
    words += [f"clip={clip}", f"head={folder / 'head.pth'}", f"least_match={limit}"]
    words += [f"keep={KEEP}", f"least_side={LEAST_SIDE}", "-o", str(folder / "run")]
    assert main(words) == 0
    return Funnel(folder, words, limit)


def scores(funnel: Funnel) -> dict[str, float]:
    """Aesthetic scores by the head's five layers one after the other, from the stored vectors."""
    found = {}
    for name, row in funnel.column("embedding").items():
        if row["status"] == "ok":
            value = np.asarray(row["vector"], np.float64)
            for weight, bias in head_weights():
                value = weight @ value + bias
            found[name] = float(value[0])
    return found


def test_exactly_the_planned_pictures_survive(funnel: Funnel) -> None:
    verdicts = funnel.verdicts()
    assert len(verdicts) == len(pictures()) + 2
    fell = {}
    for name, row in verdicts.items():
        assert row["kept"] == (row["rule"] is None)
        fell.setdefault(row["rule"], set()).add(name)
    best = sorted(scores(funnel).items(), key=lambda one: -one[1])
    kept = {name for name, _ in best[:KEEP]}
    planned = {rule: set(names) for rule, names in PLAN.items()}
    planned[f"image_text.cosine >= {funnel.limit:g}"] = {f"wrong{n}.png" for n in range(1, 5)}
    planned[f"top {KEEP} by aesthetic.score"] = {name for name, _ in best[KEEP:]}
    assert fell == {**planned, None: kept}
    selection = json.loads((funnel.step / "selection.json").read_text())
    assert set(selection["ids"]) == {verdicts[name]["id"] for name in kept}


def test_the_selection_follows_from_the_columns_alone(funnel: Funnel) -> None:
    """Golden: every rule once more in plain numpy; only who doubles whom is taken as planned."""
    size = {name: image.size for name, image in pictures().items()}
    doubles = set(PLAN["no duplicates"])
    flat, text, fit = (
        {name: row[field] for name, row in funnel.column(column).items() if row["status"] == "ok"}
        for column, field in (
            ("pixels", "flat_share"),
            ("text_area", "share"),
            ("image_text", "cosine"),
        )
    )
    left = [name for name in size if name != "mute.png"]
    left = [name for name in left if min(size[name]) >= LEAST_SIDE]
    left = [name for name in left if max(size[name]) / min(size[name]) <= 3]
    assert set(flat) == set(left)
    left = [name for name in left if flat[name] <= 0.9 and name not in doubles]
    assert set(text) == set(left)
    left = [name for name in left if text[name] <= 0]
    assert set(fit) == set(left)
    left = [name for name in left if fit[name] >= np.float32(funnel.limit)]
    value = scores(funnel)
    assert set(value) == set(left)
    stored = {name: row["score"] for name, row in funnel.column("aesthetic").items()}
    assert {n: stored[n] for n in left} == pytest.approx(value, abs=1e-5)
    assert {name for name, score in stored.items() if score is None} == set(stored) - set(left)
    order = np.argsort([-value[name] for name in left])
    kept = {name for name, row in funnel.verdicts().items() if row["kept"]}
    assert kept == {left[n] for n in order[:KEEP]}


def test_dear_columns_know_only_who_reached_their_rule(funnel: Funnel) -> None:
    verdicts, rules = funnel.verdicts(), [s["label"] for s in funnel.summary["funnel"]["stages"]]
    first = {"pixels": 4, "text_area": 6, "image_text": 7, "embedding": 8, "aesthetic": 8}
    for name, before in first.items():
        rows = funnel.column(name)
        asked = {n for n, row in verdicts.items() if row["rule"] not in rules[:before]}
        assert {n for n, row in rows.items() if row["status"] == "ok"} == asked, name
        assert {row["status"] for n, row in rows.items() if n not in asked} == {"missing"}
        assert all(row["error"] is None for row in rows.values())
    told = {column["name"]: column["measured"] for column in funnel.summary["columns"]}
    assert told == {
        "pixels": 23,
        "text_area": 19,
        "image_text": 16,
        "embedding": 12,
        "aesthetic": 12,
    }


def test_the_funnel_has_count_and_mean_score_after_every_rule(funnel: Funnel) -> None:
    stages = funnel.summary["funnel"]["stages"]
    expected = [*PLAN, f"image_text.cosine >= {funnel.limit:g}", f"top {KEEP} by aesthetic.score"]
    assert [stage["label"] for stage in stages] == expected
    left = set(funnel.verdicts())
    value, fit = scores(funnel), funnel.column("image_text")
    fell = {name: row["rule"] for name, row in funnel.verdicts().items()}
    for stage in stages:
        assert stage["before"] == len(left)
        left = {name for name in left if fell[name] != stage["label"]}
        assert stage["after"] == len(left)
        assert sum(stage["reasons"].values()) == stage["before"] - stage["after"]
        for column, known in (
            ("aesthetic.score", value),
            ("image_text.cosine", {n: row["cosine"] for n, row in fit.items()}),
        ):
            numbers = [known[name] for name in left if known.get(name) is not None]
            assert stage["means"][column] == pytest.approx(np.mean(numbers), abs=1e-5)
    assert stages[-1]["after"] == KEEP == len(left)


def test_a_second_run_does_nothing(funnel: Funnel, capsys: pytest.CaptureFixture[str]) -> None:
    run = funnel.folder / "run"
    files = [path for path in run.rglob("*") if path.suffix in (".parquet", ".json")]
    kept = [path for path in files if path.parent != run]
    before = {path: path.stat().st_mtime_ns for path in kept}
    assert main(funnel.words) == 0
    told = capsys.readouterr()
    assert told.out.count("done before, nothing to do") == 2
    assert "starts" not in told.out
    assert re.search(r"\d+/\d+ pictures", told.err) is None
    assert {path: path.stat().st_mtime_ns for path in kept} == before
    assert set(before) == {p for p in run.rglob("*") if p.suffix in (".parquet", ".json")} - {
        path for path in files if path.parent == run
    }


def test_reports_are_whole_and_lead_to_each_other(funnel: Funnel) -> None:
    report, page_ = funnel.folder / "run/report.html", funnel.step / "curation.html"
    for path in (report, page_):
        text = path.read_text(encoding="utf-8")
        found = parsed(text)
        assert all(address.startswith(("data:", "#")) for address in found.loads)
        assert not re.search(r"url\((?!#)|@import", text)
    (link,) = (a for a in parsed(report.read_text()).links if not a.startswith("#"))
    assert (report.parent / link).resolve() == page_.resolve()
    assert f"{KEEP} of {len(funnel.verdicts())} pictures were kept" in report.read_text()
    text = page_.read_text()
    for stage in funnel.summary["funnel"]["stages"]:
        assert f"{stage['before']} → <b>{stage['after']}</b>" in text
