from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tastemaker.errors import InputError
from tastemaker.models.image_text import ImageText, Preprocessing
from tests.tiny_models import CLIP, pictures, tokenizers


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ImageText:
    folder = tokenizers(tmp_path_factory.mktemp("clip"))
    return ImageText.build(CLIP, folder / "tokenizer", seed=1)


def test_vectors_are_unit_and_bytes_equal_floats(model: ImageText) -> None:
    pixels = pictures(3, 40)
    vectors = model.embed_pictures(pixels)
    assert vectors.shape == (3, 16)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(3))
    assert torch.equal(vectors, model.embed_pictures(pixels.float() / 255))
    texts = model.embed_texts(["a red apple", "a blue car"])
    torch.testing.assert_close(texts.norm(dim=1), torch.ones(2))
    assert not torch.allclose(texts[0], texts[1])


def test_features_are_those_of_transformers(model: ImageText) -> None:
    """CLIPModel's own forward pass, on the same inputs."""
    pixels = model.preprocessing(pictures(2))
    tokens = model.tokenizer(["a red apple", "a tree"], padding="max_length", return_tensors="pt")
    with torch.no_grad():
        out = model.model(input_ids=tokens.input_ids, pixel_values=pixels)
    torch.testing.assert_close(model.embed_pictures(pictures(2)), out.image_embeds)
    torch.testing.assert_close(model.embed_texts(["a red apple", "a tree"]), out.text_embeds)


def test_gradients_flow_through_features_and_not_through_embeddings(model: ImageText) -> None:
    assert model.picture_features(pictures(1)).requires_grad
    assert model.text_features(["a tree"]).requires_grad
    assert not model.embed_texts(["a tree"]).requires_grad


def test_preprocessing_is_close_to_pillows_bicubic() -> None:
    picture = pictures(1, 64)[0].permute(1, 2, 0).numpy()[:, :48]
    small = Image.fromarray(np.ascontiguousarray(picture)).resize(
        (32, 43), Image.Resampling.BICUBIC
    )
    cropped = np.asarray(small)[5:37].astype(np.float32) / 255
    ours = Preprocessing(32, (0, 0, 0), (1, 1, 1))(
        torch.from_numpy(picture.copy()).permute(2, 0, 1)[None]
    )
    assert float(np.abs(ours[0].permute(1, 2, 0).numpy() - cropped).max()) < 1.5 / 255


def test_preprocessing_hash_tells_settings_apart() -> None:
    one = Preprocessing(32)
    assert one.hash == Preprocessing(32).hash
    assert one.hash != Preprocessing(64).hash
    assert one.hash != replace(one, mean=(0.5, 0.5, 0.5)).hash


def test_save_and_load_are_exact_and_other_tools_can_read_it(
    model: ImageText, tmp_path: Path
) -> None:
    model.save(tmp_path)
    again = ImageText.load(tmp_path)
    assert torch.equal(again.embed_pictures(pictures(2)), model.embed_pictures(pictures(2)))
    assert torch.equal(again.embed_texts(["a tree"]), model.embed_texts(["a tree"]))
    assert again.preprocessing == model.preprocessing
    assert not any(p.requires_grad for p in again.model.parameters())

    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    processor = CLIPImageProcessorPil.from_pretrained(tmp_path)
    theirs = processor(
        Image.fromarray(pictures(1)[0].permute(1, 2, 0).numpy()), return_tensors="pt"
    )
    assert theirs.pixel_values.shape == (1, 3, 16, 16)
    ours = model.preprocessing(pictures(1))
    assert float((theirs.pixel_values - ours).abs().max()) < 0.03


def test_half_precision_on_disk_leaves_the_live_model(model: ImageText, tmp_path: Path) -> None:
    model.save(tmp_path, dtype=torch.float16)
    assert model.model.dtype == torch.float32
    again = ImageText.load(tmp_path)
    assert again.model.dtype == torch.float32
    assert (tmp_path / "model.safetensors").stat().st_size < 0.6 * 4 * sum(
        p.numel() for p in model.model.parameters()
    )
    torch.testing.assert_close(
        again.embed_texts(["a tree"]), model.embed_texts(["a tree"]), atol=2e-3, rtol=0
    )


def test_another_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(InputError, match="CLIP"):
        ImageText.load(tmp_path)
