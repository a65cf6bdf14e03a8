"""BLIP weights with the names of its authors' code (Li et al. 2022) to transformers' BLIP models.

Shapes tell everything but the heads, which are 64 wide in both networks.

Axes: D width of a network.
"""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

HEAD_WIDTH = 64
_VISION, _TEXT, _HEAD = "blip.visual_encoder.", "blip.text_encoder.", "mlp."
_UNUSED = ("blip.vision_proj.", "blip.text_proj.", "blip.itm_head.")
"""Of BLIP's other tasks; ImageReward's file has some of them, and never uses them."""

_PLAIN = {
    "cls_token": "embeddings.class_embedding",
    "pos_embed": "embeddings.position_embedding",
    "patch_embed.proj.weight": "embeddings.patch_embedding.weight",
    "patch_embed.proj.bias": "embeddings.patch_embedding.bias",
    "norm.weight": "post_layernorm.weight",
    "norm.bias": "post_layernorm.bias",
}
_BLOCK = re.compile(r"^blocks\.(\d+)\.(.+)\.(weight|bias)$")
_IN_BLOCK = {
    "norm1": "layer_norm1",
    "norm2": "layer_norm2",
    "attn.qkv": "self_attn.qkv",
    "attn.proj": "self_attn.projection",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}


def is_image_reward(state: "Mapping[str, Tensor]") -> bool:
    """Whether these are a BLIP and a head, under the names of ImageReward's code."""
    wanted = ("visual_encoder.pos_embed", "text_encoder.embeddings.word_embeddings.weight")
    return all(f"blip.{name}" in state for name in wanted) and "mlp.layers.0.weight" in state


def split(
    state: "Mapping[str, Tensor]",
) -> "tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Any]]":
    """Weights of the picture network and of the text network under transformers' names, the head's.

    Names that are not known stay as they are, so that they are noticed.
    """
    vision: dict[str, Tensor] = {}
    text: dict[str, Tensor] = {}
    head: dict[str, Any] = {}
    for name, value in state.items():
        if name.startswith(_VISION):
            vision[_vision_name(name.removeprefix(_VISION))] = value
        elif name.startswith(_HEAD):
            head[name.removeprefix(_HEAD)] = value.double().numpy()
        elif name.startswith(_UNUSED) or name.endswith(".position_ids"):
            continue  # the latter is a row of numbers from 0 that old files hold
        else:
            text[name.removeprefix(_TEXT)] = value
    return vision, text, head


def blip_configs(state: "Mapping[str, Tensor]") -> tuple[Any, Any]:
    """The `BlipVisionConfig` and `BlipTextConfig` that these weights belong to."""
    from transformers import BlipTextConfig, BlipVisionConfig

    width, _, patch, _ = state[f"{_VISION}patch_embed.proj.weight"].shape
    patches = state[f"{_VISION}pos_embed"].shape[1] - 1
    vision = BlipVisionConfig(
        hidden_size=width,
        intermediate_size=len(state[f"{_VISION}blocks.0.mlp.fc1.bias"]),
        num_hidden_layers=_count(state, f"{_VISION}blocks."),
        num_attention_heads=max(1, width // HEAD_WIDTH),
        image_size=round(patches**0.5) * patch,
        patch_size=patch,
        hidden_act="gelu",
        # That of BLIP's own code; transformers' default is another one.
        layer_norm_eps=1e-6,
    )
    words, text_width = state[f"{_TEXT}embeddings.word_embeddings.weight"].shape
    text = BlipTextConfig(
        vocab_size=words,
        hidden_size=text_width,
        encoder_hidden_size=width,
        intermediate_size=len(state[f"{_TEXT}encoder.layer.0.intermediate.dense.bias"]),
        num_hidden_layers=_count(state, f"{_TEXT}encoder.layer."),
        num_attention_heads=max(1, text_width // HEAD_WIDTH),
        max_position_embeddings=len(state[f"{_TEXT}embeddings.position_embeddings.weight"]),
        hidden_act="gelu",
        layer_norm_eps=1e-12,
        is_decoder=True,  # what gives its layers cross attention
        bos_token_id=words - 2,
        sep_token_id=min(102, words - 1),
    )
    return vision, text


def _vision_name(name: str) -> str:
    match = _BLOCK.match(name)
    if match is None:
        return _PLAIN.get(name, name)
    number, part, kind = match.groups()
    return f"encoder.layers.{number}.{_IN_BLOCK.get(part, part)}.{kind}"


def _count(state: "Mapping[str, Tensor]", start: str) -> int:
    return 1 + max(int(k.removeprefix(start).split(".")[0]) for k in state if k.startswith(start))
