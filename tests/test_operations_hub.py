"""What holds for every operation with a model of the hub, tiny ones in its place."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tastemaker.models.locate import Kind, locate
from tastemaker.scorers.aesthetic import Aesthetic
from tastemaker.scorers.embedding import Embedding
from tastemaker.scorers.image_text import ImageText
from tastemaker.scorers.operation import Measure, Operation, Subject, Values
from tastemaker.scorers.tags import Tags
from tastemaker.scorers.watermark import Watermark
from tests import tiny_hub

NAMES = ["apple", "tree", "cat", "car"]
TYPES: dict[str, Callable[[Any], bool]] = {
    "float32": lambda v: isinstance(v, float) and math.isfinite(v),
    "int32": lambda v: isinstance(v, int),
    "bool": lambda v: isinstance(v, bool),
    "string": lambda v: isinstance(v, str),
    "list<string>": lambda v: all(isinstance(one, str) for one in v),
    "list<float32>": lambda v: all(isinstance(one, float) and math.isfinite(one) for one in v),
    "vector<float16>": lambda v: v.dtype == np.float16 and bool(np.isfinite(v).all()),
}


def head(folder: Path) -> Path:
    folder.mkdir()
    np.savez(folder / "head.npz", w=np.arange(12.0), b=5.0)
    return folder / "head.npz"


def wd(folder: Path) -> Path:
    return tiny_hub.onnx_tagger(
        folder, NAMES, layout="NHWC", sigmoid=True, categories=[9, 0, 0, 4], scale=0.02
    )


def joytag(folder: Path) -> Path:
    return tiny_hub.onnx_tagger(folder, NAMES, layout="NCHW", sigmoid=False)


def vit(folder: Path) -> Path:
    return tiny_hub.classifier(folder, NAMES)


CASES: dict[str, tuple[Callable[[str], Operation], Callable[[Path], Path]]] = {
    "embedding-clip": (lambda at: Embedding(model=at), tiny_hub.clip),
    "embedding-clip-vision": (lambda at: Embedding(model=at), tiny_hub.clip_vision),
    "embedding-siglip": (lambda at: Embedding(model=at), tiny_hub.siglip),
    "embedding-siglip2": (lambda at: Embedding(model=at), tiny_hub.siglip2_vision),
    "image-text-clip": (lambda at: ImageText(model=at), tiny_hub.clip),
    "image-text-siglip": (lambda at: ImageText(model=at, captions="best"), tiny_hub.siglip),
    "image-text-stored": (lambda at: ImageText(model=at, embedding="embedding"), tiny_hub.clip),
    "aesthetic": (lambda at: Aesthetic(head=at), head),
    "tags-wd": (lambda at: Tags(model=at, threshold=0.01), wd),
    "tags-joytag": (lambda at: Tags(model=at, threshold=0.01), joytag),
    "tags-vit": (lambda at: Tags(model=at, threshold=0.01), vit),
    "watermark": (lambda at: Watermark(model=at), tiny_hub.owl),
}


@pytest.fixture(scope="module", params=CASES)
def opened(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Operation, Measure]:
    configure, make = CASES[request.param]
    folder = make(tmp_path_factory.mktemp("hub") / request.param)
    operation = configure(str(folder))
    (field,) = operation.MODELS
    kind: Kind = operation.MODELS[field]  # type: ignore[assignment]
    return operation, operation.open({field: locate(str(folder), kind)}, "cpu")


def subjects(operation: Operation) -> list[Subject]:
    rng = np.random.default_rng(2)
    sizes = [(40, 60), (1, 200), (200, 1), (1, 1), (64, 64), (32, 32), (90, 30)]
    pictures = [rng.integers(0, 256, (h, w, 3)).astype(np.uint8) for h, w in sizes]
    pictures.append(np.full((50, 50, 3), 128, np.uint8))
    pictures.append(np.repeat(rng.integers(0, 256, (30, 45, 1)), 3, axis=2).astype(np.uint8))
    found = []
    for number, picture in enumerate(pictures):
        vector = np.random.default_rng(number).normal(size=12)
        vector = (vector / np.linalg.norm(vector)).astype(np.float16)
        captions = (f"a red apple {number}", "the cat and the yellow banana")
        columns = {"embedding": {"vector": vector}}
        pixels = picture if operation.needs_pixels else None
        found.append(Subject(str(number), pixels, captions, ("tree",), columns))
    return found


def same(left: Values, right: Values) -> bool:
    """Equal to the bit."""
    assert set(left) == set(right)
    return all(np.array_equal(left[key], right[key]) for key in left)


def test_every_field_has_a_finite_value(opened: tuple[Operation, Measure]) -> None:
    operation, measure = opened
    rows = measure(subjects(operation))
    assert len(rows) == 9
    for row in rows:
        assert set(row) == set(operation.FIELDS), row.get("error")
        for name, value in row.items():
            if name == "probability" and value is None:
                continue  # CLIP has none
            assert TYPES[operation.FIELDS[name]](value), (name, value)


def test_no_value_depends_on_the_batch(opened: tuple[Operation, Measure]) -> None:
    operation, measure = opened
    all_ = subjects(operation)
    together = measure(all_)
    alone = [measure([subject])[0] for subject in all_]
    backwards = measure(all_[::-1])[::-1]
    assert all(
        same(a, b) and same(a, c) for a, b, c in zip(together, alone, backwards, strict=True)
    )
    assert measure([]) == []


def test_pictures_are_told_apart(opened: tuple[Operation, Measure]) -> None:
    operation, measure = opened
    rows = measure(subjects(operation))
    assert len({str(row) for row in rows}) > 6


def test_configuration_is_whole(opened: tuple[Operation, Measure]) -> None:
    operation, _ = opened
    again = type(operation).model_validate(operation.model_dump())
    assert again == operation
    assert operation.kind == operation.column
    schema = type(operation).model_json_schema()["properties"]
    assert [key for key in schema if not schema[key].get("description")] == []
    (field,) = operation.MODELS
    place = Path(getattr(operation, field))
    params = operation.params({field: place}, {field: "hash"})
    assert params[field] == "hash"
    assert str(place) not in str(params)


@pytest.mark.gpu
@pytest.mark.parametrize("name", CASES)
def test_no_value_depends_on_the_batch_on_an_accelerator(name: str, tmp_path: Path) -> None:
    configure, make = CASES[name]
    folder = make(tmp_path / name)
    operation = configure(str(folder))
    if "precision" in type(operation).model_fields:
        operation = operation.model_copy(update={"precision": "bfloat16"})
    (field,) = operation.MODELS
    measure = operation.open({field: folder}, "cuda:0")
    all_ = subjects(operation)
    together = measure(all_)
    assert all(set(row) == set(operation.FIELDS) for row in together)
    alone = [measure([subject])[0] for subject in all_]
    assert all(same(a, b) for a, b in zip(together, alone, strict=True))
