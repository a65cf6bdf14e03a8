"""The smallest folders that look like models of the hub: CLIP, SigLIP, OWLv2, taggers.

All are built from configurations with fixed seeds; weights mean nothing, shapes and files do.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from tastemaker.models.quiet import quiet
from tests.tiny_models import TEXT, WINDOW, WORDS, tokenizers

SIDE = 32
WIDTH = 16
VISION: dict[str, Any] = {
    "hidden_size": WIDTH,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "patch_size": 8,
}
CLIP_PROCESSOR = {
    "image_processor_type": "CLIPImageProcessor",
    "size": {"shortest_edge": SIDE},
    "crop_size": {"height": SIDE, "width": SIDE},
    "do_center_crop": True,
    "do_resize": True,
    "do_normalize": True,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "resample": 3,
}
SIGLIP_PROCESSOR = {
    "image_processor_type": "SiglipImageProcessor",
    "size": {"height": SIDE, "width": SIDE},
    "do_resize": True,
    "do_rescale": True,
    "rescale_factor": 0.00392156862745098,
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "resample": 3,
}


def save(model: Any, folder: Path, processor: dict[str, Any] | None = None) -> Path:
    """Weights spread wide enough that pictures differ, a config, and a picture processor."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for value in model.parameters():
            if value.ndim > 1:
                value.copy_(torch.randn(value.shape, generator=generator) * value.shape[-1] ** -0.5)
    with quiet():
        model.eval().save_pretrained(folder)
    if processor is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


def clip(folder: Path) -> Path:
    """A whole CLIP with its tokenizer."""
    words = tokenizers(folder / "words") / "tokenizer"
    tokenizer = transformers.CLIPTokenizer.from_pretrained(words)
    fields = {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": WINDOW,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = transformers.CLIPConfig(
        text_config={**TEXT, **fields},
        vision_config={**VISION, "image_size": SIDE},
        projection_dim=12,
    )
    save(transformers.CLIPModel(config), folder, CLIP_PROCESSOR)
    tokenizer.save_pretrained(folder)
    return folder


def clip_vision(folder: Path) -> Path:
    """A picture network of CLIP with its projection."""
    config = transformers.CLIPVisionConfig(**VISION, image_size=SIDE, projection_dim=12)
    return save(transformers.CLIPVisionModelWithProjection(config), folder, CLIP_PROCESSOR)


def sentences(folder: Path) -> Any:
    """A sentencepiece tokenizer as SigLIP has it, in a folder."""
    import sentencepiece

    folder.mkdir(parents=True, exist_ok=True)
    text = [f"{line.replace(',', '').lower()} {n}" for n in range(20) for line in WORDS]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text),
        model_prefix=str(folder / "spiece"),
        vocab_size=60,
        pad_id=-1,
        bos_id=-1,
        eos_id=1,
        unk_id=2,
        pad_piece="<pad>",
        control_symbols=["<s>"],
        hard_vocab_limit=False,
        minloglevel=2,
    )
    (folder / "spiece.vocab").unlink()
    return transformers.SiglipTokenizer(
        str(folder / "spiece.model"), model_max_length=16, model_input_names=["input_ids"]
    )


def siglip(folder: Path) -> Path:
    """A whole SigLIP with its tokenizer; a picture and its text are likely at a cosine of 0.5."""
    tokenizer = sentences(folder)
    text = {**TEXT, "vocab_size": len(tokenizer), "max_position_embeddings": 16}
    text.pop("projection_dim")
    config = transformers.SiglipConfig(
        text_config={**text, "pad_token_id": 1, "eos_token_id": 1, "bos_token_id": 1},
        vision_config={**VISION, "image_size": SIDE},
    )
    model = transformers.SiglipModel(config)
    save(model, folder)
    with torch.no_grad():
        model.logit_scale.fill_(2.0)
        model.logit_bias.fill_(-3.5)
    save_again(model, folder, SIGLIP_PROCESSOR)
    tokenizer.save_pretrained(folder)
    return folder


def save_again(model: Any, folder: Path, processor: dict[str, Any]) -> None:
    """Write a model as it is."""
    with quiet():
        model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))


def siglip2_vision(folder: Path) -> Path:
    """A picture network that keeps the shape of pictures."""
    config = transformers.Siglip2VisionConfig(**VISION, num_patches=16)
    processor = {
        "image_processor_type": "Siglip2ImageProcessor",
        "patch_size": 8,
        "max_num_patches": 16,
        "resample": 2,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
    return save(transformers.Siglip2VisionModel(config), folder, processor)


def owl(folder: Path) -> Path:
    """An OWLv2 with its tokenizer."""
    words = tokenizers(folder / "words", max_length=16) / "tokenizer_2"
    tokenizer = transformers.CLIPTokenizer.from_pretrained(words)
    text = {**TEXT, "vocab_size": len(tokenizer), "max_position_embeddings": 16}
    text.pop("projection_dim")
    special = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = transformers.Owlv2Config(
        text_config={**text, **special},
        vision_config={**VISION, "image_size": SIDE},
        projection_dim=WIDTH,
    )
    processor = {**CLIP_PROCESSOR, "image_processor_type": "Owlv2ImageProcessor", "do_pad": True}
    for key in ("crop_size", "do_center_crop"):
        processor.pop(key)
    processor["size"] = {"height": SIDE, "width": SIDE}
    save(transformers.Owlv2ForObjectDetection(config), folder, processor)
    tokenizer.save_pretrained(folder)
    return folder


def classifier(folder: Path, tags: Sequence[str], *, listed: bool = True) -> Path:
    """A ViT with a sigmoid for each tag; names in `top_tags.txt`, or in its config."""
    config = transformers.ViTConfig(
        **VISION,
        image_size=SIDE,
        problem_type="multi_label_classification",
        id2label=dict(enumerate(tags)),
        label2id={tag: n for n, tag in enumerate(tags)},
    )
    save(transformers.ViTForImageClassification(config), folder)
    if listed:
        (folder / "top_tags.txt").write_text("\n".join(tags) + "\n")
    return folder


def onnx_tagger(
    folder: Path,
    tags: Sequence[str],
    *,
    layout: str,
    sigmoid: bool,
    categories: Sequence[int] | None = None,
    side: int | str = SIDE,
    scale: float = 1.0,
) -> Path:
    """An ONNX network: the mean of each colour times fixed weights, one row for all tags.

    Args:
        folder: where `model.onnx` goes.
        tags: names of the outputs.
        layout: `NHWC` or `NCHW`.
        sigmoid: whether the network ends in one.
        categories: makes a `selected_tags.csv`; without it a `top_tags.txt`.
        side: of the input; a text leaves it open.
        scale: by which the input is multiplied.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    folder.mkdir(parents=True, exist_ok=True)
    shape = ["n", side, side, 3] if layout == "NHWC" else ["n", 3, side, side]
    axes = numpy_helper.from_array(np.array([1, 2] if layout == "NHWC" else [2, 3]), "axes")
    weights = numpy_helper.from_array(onnx_weights(len(tags)) * np.float32(scale), "weights")
    nodes = [
        helper.make_node("ReduceMean", ["input", "axes"], ["mean"], keepdims=0),
        helper.make_node("MatMul", ["mean", "weights"], ["sums" if sigmoid else "output"]),
    ]
    if sigmoid:
        nodes.append(helper.make_node("Sigmoid", ["sums"], ["output"]))
    graph = helper.make_graph(
        nodes,
        "tagger",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["n", len(tags)])],
        [axes, weights],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, folder / "model.onnx")
    if categories is None:
        (folder / "top_tags.txt").write_text("\n".join(tags) + "\n")
    else:
        rows = [f"{n},{tag},{c},7" for n, (tag, c) in enumerate(zip(tags, categories, strict=True))]
        text = "\n".join(["tag_id,name,category,count", *rows]) + "\n"
        (folder / "selected_tags.csv").write_text(text)
    return folder


def onnx_weights(tags: int) -> np.ndarray:
    """Float32 `[3, T]`, one column for each tag."""
    return np.random.default_rng(5).normal(size=(3, tags)).astype(np.float32)


def open_clip_weights(words: Path) -> dict[str, torch.Tensor]:
    """A CLIP under open_clip's names, with two heads on each side, for the tokenizer of `words`."""
    from tests.published_networks import clip_weights

    size = len(transformers.CLIPTokenizer.from_pretrained(words))
    text = {"width": 128, "layers": 2, "context_length": WINDOW, "vocab_size": size}
    vision = {"width": 128, "layers": 2, "patch_size": 8, "image_size": SIDE}
    return clip_weights(joint=24, vision=vision, text=text)


REWARD = {"side": 32, "patch": 8, "wide": 128, "deep": 2, "width": 128, "layers": 2, "places": 40}
"""A small ImageReward, with two heads in either network."""


def bert_words(folder: Path) -> Path:
    """A tokenizer of BERT with the words of the other ones."""
    folder.mkdir(parents=True, exist_ok=True)
    known = sorted({word for line in WORDS for word in line.replace(",", " ,").split()})
    alphabet = "abcdefghijklmnopqrstuvwxyz"
    letters = [*(set(alphabet) - set(known)), *(f"##{letter}" for letter in alphabet)]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *known, *sorted(letters)]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    numbers = {word: number for number, word in enumerate(vocabulary)}
    transformers.BertTokenizer(vocab=numbers, do_lower_case=True).save_pretrained(folder)
    return folder
