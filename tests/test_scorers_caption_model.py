"""Captions in this process: a LLaVA of a few thousand weights runs the real code."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tastemaker.errors import InputError
from tastemaker.scorers.caption import Caption
from tastemaker.scorers.operation import Subject

WORDS = ["<pad>", "<s>", "</s>", "<unk>", "<image>", "USER:", "ASSISTANT:", "fox"]
WORDS += [f"w{i}" for i in range(40)]
PIXEL_TOKENS = 4
TEMPLATE = (
    "{% for m in messages %}USER: {% for c in m['content'] %}{% if c['type'] == 'image' %}<image>"
    "{% else %} {{ c['text'] }}{% endif %}{% endfor %}{% endfor %} ASSISTANT:"
)
HALF = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import (
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
        PreTrainedTokenizerFast,
    )
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
    from transformers.utils import logging

    words = Tokenizer(WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", bos_token="<s>", eos_token="</s>",
        unk_token="<unk>", additional_special_tokens=["<image>"],
    )  # fmt: skip
    processor = LlavaProcessor(
        CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}),
        tokenizer, patch_size=8, vision_feature_select_strategy="default",
        num_additional_image_tokens=1, chat_template=TEMPLATE,
    )  # fmt: skip
    vision = CLIPVisionConfig(**HALF, num_hidden_layers=2, image_size=16, patch_size=8)
    text = LlamaConfig(
        **HALF, num_hidden_layers=1, vocab_size=len(WORDS), bos_token_id=1, eos_token_id=2,
        pad_token_id=0, initializer_range=0.8,
    )  # fmt: skip
    torch.manual_seed(1)
    model = LlavaForConditionalGeneration(
        LlavaConfig(vision_config=vision, text_config=text, image_token_index=4)
    )
    with torch.no_grad():
        model.lm_head.weight[:5] = 0  # no mark is ever the likeliest word
    logging.disable_progress_bar()
    place = tmp_path_factory.mktemp("captioner")
    model.save_pretrained(place)
    processor.save_pretrained(place)
    return place


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (16, 16, 3), np.uint8)


def opened(folder: Path, **options: Any) -> Any:
    config = Caption(model=str(folder), precision="fp32", **{"max_tokens": 6, **options})
    return config.open({"model": folder}, "cpu")


def by_hand(folder: Path, pixels: np.ndarray, prompt: str, count: int) -> str:
    """The likeliest words one after the other, with no processor and no `generate`."""
    from transformers import LlavaForConditionalGeneration

    model = LlavaForConditionalGeneration.from_pretrained(folder).eval()
    mean = np.array([0.48145466, 0.4578275, 0.40821073])
    deviation = np.array([0.26862954, 0.26130258, 0.27577711])
    scaled = ((pixels / 255 - mean) / deviation).astype(np.float32)
    shown = torch.from_numpy(scaled).permute(2, 0, 1)[None]
    asked = ["USER:", *["<image>"] * PIXEL_TOKENS, *prompt.split(), "ASSISTANT:"]
    ids = [WORDS.index(word) if word in WORDS else WORDS.index("<unk>") for word in asked]
    start = len(ids)
    with torch.inference_mode():
        for _ in range(count):
            logits = model(input_ids=torch.tensor([ids]), pixel_values=shown).logits
            ids.append(int(logits[0, -1].argmax()))
    return " ".join(WORDS[i] for i in ids[start:] if i > 4)  # marks are not shown


def test_the_likeliest_words_are_the_caption(folder) -> None:
    measure = opened(folder)
    subjects = [Subject(str(i), picture(i)) for i in range(3)]
    values = measure(subjects)
    prompt = "Describe this image and its style in a very detailed manner"
    for i, value in enumerate(values):
        assert value == {
            "caption": by_hand(folder, picture(i), prompt, 6),
            "prompt_tokens": PIXEL_TOKENS + 2 + len(prompt.split()),
            "completion_tokens": 6,
            "finish": "length",
        }
    assert len({value["caption"] for value in values}) > 1, "the picture is seen"
    assert measure(subjects[::-1]) == values[::-1], "no caption depends on its neighbours"


def test_the_old_caption_is_shown(folder) -> None:
    olds = ("fox fox", "w1 w2", "w30")
    subjects = [Subject(old, picture(0), (old,)) for old in olds]
    values = opened(folder, prompt="w3 {caption} w4")(subjects)
    for old, value in zip(olds, values, strict=True):
        assert value["caption"] == by_hand(folder, picture(0), f"w3 {old} w4", 6)
    assert len({value["caption"] for value in values}) > 1


def test_large_pictures_are_reduced_first(folder) -> None:
    large = np.asarray(Image.fromarray(picture(5)).resize((320, 160)))
    (value,) = opened(folder, side_px=28)([Subject("a", large)])
    reduced = np.asarray(Image.fromarray(large).resize((28, 14), Image.Resampling.LANCZOS))
    (same,) = opened(folder)([Subject("b", reduced)])
    assert value == same


def test_it_stops_where_the_model_stops(folder, tmp_path) -> None:
    (long,) = opened(folder)([Subject("a", picture(0))])
    first = long["caption"].split()[0]
    place = shutil.copytree(folder, tmp_path / "stops")
    settings = json.loads((place / "generation_config.json").read_text())
    # What a model says of sampling must not change a caption, nor be remarked upon.
    settings |= {"eos_token_id": [2, WORDS.index(first)], "do_sample": True, "temperature": 9.0}
    (place / "generation_config.json").write_text(json.dumps(settings))
    (value,) = opened(place)([Subject("a", picture(0))])
    assert (value["completion_tokens"], value["finish"]) == (1, "stop")


def test_what_cannot_be_captioned_is_an_error_of_one_picture(folder) -> None:
    subjects = [
        Subject("mark", picture(0), ("an <image> of a fox",)),
        Subject("none", picture(0)),
        Subject("good", picture(0), ("fox",)),
    ]
    marked, none, good = opened(folder, prompt="see {caption}")(subjects)
    assert marked["error"].startswith("the model's processor takes it not")
    assert none == {"error": "neither caption nor tags to put into the prompt"}
    assert good["caption"]


def test_other_folders_are_refused(folder, tmp_path) -> None:
    with pytest.raises(InputError, match="a LLaVA-like model"):
        opened(tmp_path)
    place = shutil.copytree(folder, tmp_path / "silent")
    (place / "chat_template.jinja").unlink()
    with pytest.raises(InputError, match="no chat template"):
        opened(place)


def test_the_model_is_a_part_of_the_column_and_the_server_is_not(folder) -> None:
    config = Caption(model=str(folder))
    params = config.params({"model": folder}, {"model": "abc"})
    assert params["model"] == "abc"
    assert params["precision"] == "bf16"
    assert not {"endpoint", "model_name", "jpeg_quality", "request"} & set(params)
