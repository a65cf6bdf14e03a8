"""CLIP weights with open_clip's names to transformers' CLIPModel.

open_clip (Ilharco et al. 2021) keeps query, key and value in one matrix, and projections as
`x @ P` where transformers has `x @ W.T`. Shapes tell everything but the heads, which are 64 wide,
except those of the largest picture networks.

Axes: D width of a network, E of the shared embedding.
"""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

HEAD_WIDTH = 64
PICTURE_HEAD_WIDTHS: Mapping[int, int] = {1280: 80, 1408: 88, 1664: 104}
"""Width of a picture network -> width of its heads: ViT-H-14, ViT-g-14 and ViT-bigG-14, as
open_clip's model configurations say."""

_BLOCK = re.compile(r"^(visual\.)?transformer\.resblocks\.(\d+)\.(.+)$")
_PLAIN = {
    "logit_scale": "logit_scale",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "text_projection": "text_projection.weight",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    # transformers' own spelling.
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
    "visual.proj": "visual_projection.weight",
}
_IN_BLOCK = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}
_TRANSPOSED = ("text_projection", "visual.proj")


def is_open_clip(state: "Mapping[str, Tensor]") -> bool:
    """Whether these are a whole CLIP with a vision transformer, under open_clip's names."""
    return {"visual.conv1.weight", "visual.proj", "text_projection", "ln_final.weight"} <= set(
        state
    )


def clip_config(state: "Mapping[str, Tensor]") -> Any:
    """The `CLIPConfig` that these weights belong to; the activation is GELU, as in open_clip.

    Args:
        state: weights by open_clip's names, see `is_open_clip`.
    """
    from transformers import CLIPConfig

    width, _, patch, _ = state["visual.conv1.weight"].shape
    patches = len(state["visual.positional_embedding"]) - 1
    vocabulary, text_width = state["token_embedding.weight"].shape
    text = {
        "hidden_size": text_width,
        "intermediate_size": len(state["transformer.resblocks.0.mlp.c_fc.bias"]),
        "num_hidden_layers": _layers(state, "transformer"),
        "num_attention_heads": max(1, text_width // HEAD_WIDTH),
        "max_position_embeddings": len(state["positional_embedding"]),
        "vocab_size": vocabulary,
        "hidden_act": "gelu",
        # open_clip reads the text at its highest token id, which is the last of the vocabulary.
        "bos_token_id": vocabulary - 2,
        "eos_token_id": vocabulary - 1,
        "pad_token_id": vocabulary - 1,
    }
    vision = {
        "hidden_size": width,
        "intermediate_size": len(state["visual.transformer.resblocks.0.mlp.c_fc.bias"]),
        "num_hidden_layers": _layers(state, "visual.transformer"),
        "num_attention_heads": max(1, width // PICTURE_HEAD_WIDTHS.get(width, HEAD_WIDTH)),
        "patch_size": patch,
        "image_size": round(patches**0.5) * patch,
        "hidden_act": "gelu",
    }
    joint = state["visual.proj"].shape[1]
    return CLIPConfig(text_config=text, vision_config=vision, projection_dim=joint)


def renamed(state: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
    """The same weights under transformers' names; names that are not known stay as they are."""
    found: dict[str, Tensor] = {}
    for name, value in state.items():
        if name == "logit_scale":
            found[name] = value.reshape(())
        elif name in _PLAIN:
            found[_PLAIN[name]] = value.T.contiguous() if name in _TRANSPOSED else value
        elif match := _BLOCK.match(name):
            side, number, rest = match.groups()
            layer = f"{'vision' if side else 'text'}_model.encoder.layers.{number}"
            part, _, kind = rest.rpartition(".")
            if rest in ("attn.in_proj_weight", "attn.in_proj_bias"):
                kind = rest.rpartition("_")[2]
                for letter, third in zip("qkv", value.chunk(3), strict=True):
                    found[f"{layer}.self_attn.{letter}_proj.{kind}"] = third.contiguous()
            else:
                found[f"{layer}.{_IN_BLOCK.get(part, part)}.{kind}"] = value
        else:
            found[name] = value
    return found


def _layers(state: "Mapping[str, Tensor]", prefix: str) -> int:
    start = f"{prefix}.resblocks."
    return 1 + max(int(k.removeprefix(start).split(".")[0]) for k in state if k.startswith(start))
