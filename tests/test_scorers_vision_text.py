"""CLIP and SigLIP folders: the values of transformers' own model and processor, and refusals."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file

from tastemaker.errors import InputError, MissingExtra
from tastemaker.models.locate import packaged
from tastemaker.scorers.embedding import Embedding
from tastemaker.scorers.image_text import ImageText
from tastemaker.scorers.match_scorers import open_match
from tastemaker.scorers.model_folder import run_rows
from tastemaker.scorers.operation import Subject
from tastemaker.scorers.scoring import Found
from tastemaker.scorers.vision_text import Architecture, VisionText
from tests import tiny_hub

LONG = "a blue car on a grey road and the cat and the yellow banana " * 3


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("vision")
    makers = (tiny_hub.clip, tiny_hub.clip_vision, tiny_hub.siglip, tiny_hub.siglip2_vision)
    return {make.__name__: make(root / make.__name__) for make in makers}


def noise(height: int = 40, width: int = 50, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def normalised(values: Any) -> np.ndarray:
    array = values.detach().numpy().astype(np.float64)
    return array / np.linalg.norm(array, axis=-1, keepdims=True)


def their_inputs(folder: Path, processor: str, texts: list[str]) -> tuple[Any, Any]:
    fields = json.loads((folder / "preprocessor_config.json").read_text())
    fields.pop("image_processor_type")
    picture = getattr(transformers, processor)(**fields)(
        Image.fromarray(noise()), return_tensors="pt"
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    length = {"clip": tiny_hub.WINDOW, "siglip": 16}[folder.name]
    words = tokenizer(
        texts, padding="max_length", truncation=True, max_length=length, return_tensors="pt"
    )
    return picture, words


@pytest.mark.parametrize(
    ("name", "processor", "model"),
    [("clip", "CLIPImageProcessorPil", "CLIPModel")]
    + [("siglip", "SiglipImageProcessorPil", "SiglipModel")],
)
def test_equals_transformers_own_forward(
    folders: dict[str, Path], name: str, processor: str, model: str
) -> None:
    """Resizing, tokens, padding, masks, projection, scale and bias: all as their processor."""
    texts = ["a red apple", "the tree", LONG]
    picture, words = their_inputs(folders[name], processor, texts)
    reference = getattr(transformers, model).from_pretrained(folders[name])
    with torch.inference_mode():
        out = reference(**picture, **words)
    ours = VisionText.load(folders[name])
    np.testing.assert_allclose(ours.embed([noise()]), normalised(out.image_embeds), atol=2e-6)
    np.testing.assert_allclose(ours.embed_words(texts), normalised(out.text_embeds), atol=2e-6)
    assert ours.truncated(texts) == [False, False, True]
    cosines = ours.embed([noise()]).astype(np.float64) @ ours.embed_words(texts).T
    found = [ours.probability(float(cosine)) for cosine in cosines[0]]
    if name == "clip":
        assert found == [None] * 3
    else:
        np.testing.assert_allclose(found, torch.sigmoid(out.logits_per_image)[0], atol=1e-5)


def test_picture_networks_alone(folders: dict[str, Path]) -> None:
    picture = [noise()]
    whole = VisionText.load(folders["clip"], part="pictures")
    np.testing.assert_array_equal(
        whole.embed(picture), VisionText.load(folders["clip"]).embed(picture)
    )
    assert whole.model.text_model is None
    alone = VisionText.load(folders["clip_vision"], part="pictures")
    assert alone.embed(picture).shape == (1, alone.width) == (1, 12)
    with pytest.raises(InputError, match="no text network"):
        VisionText.load(folders["clip_vision"])


def test_siglip_2_that_keeps_shapes(folders: dict[str, Path]) -> None:
    folder = folders["siglip2_vision"]
    fields = {"patch_size": 8, "max_num_patches": 16, "resample": 2}
    made = transformers.Siglip2ImageProcessorPil(**fields)(
        [Image.fromarray(noise())], return_tensors="pt"
    )
    reference = transformers.Siglip2VisionModel.from_pretrained(folder)
    with torch.inference_mode():
        out = reference(**made).pooler_output
    ours = VisionText.load(folder, part="pictures").embed([noise()])
    np.testing.assert_allclose(ours, normalised(out), atol=2e-6)


def test_siglip_reads_lower_case_and_no_mask(folders: dict[str, Path]) -> None:
    """A tokenizer's mask would hide the padding that SigLIP was trained to see."""
    ours = VisionText.load(folders["siglip"])
    small = ours.embed_words(["a red apple"])
    ours.tokenizer.do_lower_case = False  # as the tokenizers of SigLIP 2
    np.testing.assert_array_equal(small, ours.embed_words(["A Red APPLE"]))
    ours.tokenizer.init_kwargs["do_lower_case"] = False  # said in the folder's own file
    assert np.abs(small - ours.embed_words(["A Red APPLE"])).max() > 1e-3
    ours.tokenizer.model_input_names = ["input_ids", "attention_mask"]
    np.testing.assert_array_equal(small, ours.embed_words(["a red apple"]))
    ids = torch.tensor(ours.tokenizer(["a red apple"])["input_ids"])
    with torch.inference_mode():
        unpadded = normalised(ours.model.text_model(input_ids=ids).pooler_output)
    assert np.abs(unpadded - small).max() > 1e-3


def test_the_packaged_model_loads_and_knows_its_drawings() -> None:
    """Pillow resizes instead of torch, so its vectors differ from `models.image_text` a little."""
    folder = packaged("tiny-clip")
    if not (folder / "model.safetensors").is_file():
        pytest.skip("no packaged tiny-clip")
    from tastemaker.models.image_text import ImageText as OwnModel

    own, hub = OwnModel.load(folder), VisionText.load(folder)
    texts = ["a red apple", "a green tree, flat colours", LONG]
    np.testing.assert_allclose(hub.embed_words(texts), own.embed_texts(texts).numpy(), atol=1e-5)
    pixels = torch.from_numpy(noise(64, 64)).permute(2, 0, 1)[None]
    np.testing.assert_allclose(
        hub.embed([noise(64, 64)]), own.embed_pictures(pixels).numpy(), atol=1e-5
    )


def test_it_serves_the_scorer_of_generated_pictures(folders: dict[str, Path]) -> None:
    scorer = open_match(Found(folders["clip"], "tiny"), "image_text", "cpu")
    pictures, texts = [noise(40, 50, n) for n in range(3)], ["a red apple", "a tree", "the cat"]
    operation = ImageText(model="tiny").open({"model": folders["clip"]}, "cpu")
    rows = operation(
        [Subject(str(n), p, (t,)) for n, (p, t) in enumerate(zip(pictures, texts, strict=True))]
    )
    np.testing.assert_allclose(
        scorer.score(pictures, texts), [row["cosine"] for row in rows], atol=1e-7
    )


def test_image_text_rows(folders: dict[str, Path]) -> None:
    measure = ImageText(model="x").open({"model": folders["siglip"]}, "cpu")
    texts = ("", "a blue car", "a red apple", LONG)
    row, none, blank, long = measure(
        [
            Subject("a", noise(), texts),
            Subject("b", noise(), (), ("apple",)),
            Subject("c", noise(), (" ",)),
            Subject("d", noise(), (LONG,)),
        ]
    )
    assert none == blank == {"error": "no caption"}
    assert row["caption"] == 1
    assert not row["truncated"]
    assert long["truncated"]
    logit = np.exp(2.0) * row["cosine"] - 3.5
    assert row["probability"] == pytest.approx(1 / (1 + np.exp(-logit)), abs=1e-6)
    best = ImageText(model="x", captions="best").open({"model": folders["siglip"]}, "cpu")
    each = [measure([Subject("a", noise(), (text,))])[0]["cosine"] for text in texts[1:]]
    found = best([Subject("a", noise(), texts)])[0]
    assert found["cosine"] == max(each)
    assert found["caption"] == 1 + int(np.argmax(each))


def test_stored_embeddings_spare_the_picture_network(folders: dict[str, Path]) -> None:
    places = {"model": folders["clip"]}
    vector = Embedding(model="x").open(places, "cpu")([Subject("a", noise())])[0]["vector"]
    assert vector.dtype == np.float16
    assert abs(np.linalg.norm(vector.astype(float)) - 1) < 1e-3
    operation = ImageText(model="x", embedding="vit")
    assert (operation.needs_pixels, operation.reads) == (False, ("vit",))
    assert (ImageText(model="x").needs_pixels, ImageText(model="x").reads) == (True, ())
    measure = operation.open(places, "cpu")
    stored, wide, absent = measure(
        [
            Subject("a", None, ("a tree",), columns={"vit": {"vector": vector.tolist()}}),
            Subject("b", None, ("a tree",), columns={"vit": {"vector": [1.0, 0.0]}}),
            Subject("c", None, ("a tree",)),
        ]
    )
    direct = ImageText(model="x").open(places, "cpu")([Subject("a", noise(), ("a tree",))])[0]
    assert stored["cosine"] == pytest.approx(direct["cosine"], abs=1e-3)
    assert wide["error"] == "embedding of 2 numbers; this model takes 12"
    assert absent["error"] == "no embedding in column 'vit'"


@pytest.mark.parametrize(("device", "sizes"), [("cpu", [1] * 5), ("cpu:0", [3, 3])])
def test_batches_are_always_of_one_size(device: str, sizes: list[int]) -> None:
    """Anything but `cpu` counts as an accelerator, whose sums depend on the size of a batch."""
    seen = []

    def forward(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        seen.append(len(left))
        return (left + right).double()

    rows = [(np.full(2, n, np.float32), np.ones(2, np.float32)) for n in range(5)]
    found = run_rows(forward, rows, device, 3)
    assert seen == sizes
    assert [row.tolist() for row in found] == [[n + 1.0] * 2 for n in range(5)]
    assert found[0].dtype == np.float32


def test_params_say_what_determines_the_values(folders: dict[str, Path]) -> None:
    def params(name: str, **options: Any) -> dict[str, Any]:
        operation = Embedding(model="owner/name", **options)
        return operation.params({"model": folders[name]}, {"model": "h4sh"})

    found = params("clip")
    assert found.pop("preprocessing") != params("siglip")["preprocessing"]
    assert found == {
        "kind": "embedding",
        "precision": "float32",
        "model": "h4sh",
        "backbone": "clip_vision_model-d16-l2-p8-32-quick_gelu",
    }
    assert params("clip", precision="bfloat16")["precision"] == "bfloat16"


def test_half_precision_needs_an_accelerator(folders: dict[str, Path]) -> None:
    with pytest.raises(InputError, match="float16 on a CPU"):
        Embedding(model="x", precision="float16").open({"model": folders["clip"]}, "cpu")


def test_a_network_that_gives_no_numbers_costs_its_rows_only(tmp_path: Path) -> None:
    folder = tiny_hub.clip_vision(tmp_path / "m")
    weights = load_file(folder / "model.safetensors")
    weights["visual_projection.weight"][:] = np.nan
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    rows = Embedding(model="x").open({"model": folder}, "cpu")([Subject("a", noise())])
    assert rows == [{"error": "the network's output is not finite"}]


def test_weights_that_are_not_there_are_never_made_up(tmp_path: Path) -> None:
    folder = tiny_hub.clip_vision(tmp_path / "m")
    weights = load_file(folder / "model.safetensors")
    del weights["visual_projection.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"no weights for visual_projection\.weight"):
        VisionText.load(folder, part="pictures")


def test_pickled_weights_are_not_opened(tmp_path: Path) -> None:
    folder = tiny_hub.clip_vision(tmp_path / "m")
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04N.")
    with pytest.raises(InputError, match="with safetensors"):
        VisionText.load(folder, part="pictures")


def test_other_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no config\.json \(it is empty\).*CLIP or SigLIP"):
        Architecture.read(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(InputError, match="model_type bert.*clip, clip_vision_model"):
        Architecture.read(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "clip", "projection_dim": "many"}')
    with pytest.raises(InputError, match="fields that do not fit"):
        Architecture.read(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(InputError, match="list"):
        Architecture.read(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match="no JSON"):
        Architecture.read(tmp_path)


def test_a_tokenizer_without_its_package_names_the_extra(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(*_: object, **__: object) -> None:
        raise ImportError("SiglipTokenizer requires the SentencePiece library")

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", absent)
    with pytest.raises(MissingExtra, match=r"tastemaker\[siglip\]"):
        VisionText.load(folders["siglip"])
