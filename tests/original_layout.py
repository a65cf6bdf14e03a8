"""Diffusers weights renamed as single-file checkpoints of the original layout have them."""

import re
from typing import Any

import torch
from torch import Tensor, nn

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_UNET = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_MIDDLE = {"resnets.0": "0", "attentions.0": "1", "resnets.1": "2"}


def checkpoint(family: Any) -> dict[str, Tensor]:
    """All weights of an SD1.5, an SDXL or a refiner of ours, by their original names."""
    parts = family.parts
    layers = family.unet.config["layers_per_block"]
    found = {f"model.diffusion_model.{_unet_name(n, layers, parts['unet'])}": v
             for n, v in parts["unet"].state_dict().items()}  # fmt: skip
    found |= {f"first_stage_model.{n}": v for n, v in _autoencoder(parts["vae"]).items()}
    if family.name == "sd15":
        return found | _clip(parts["text_encoder_1"], "cond_stage_model.transformer.")
    if family.is_refiner:
        return found | _open_clip(parts["text_encoder_2"], "conditioner.embedders.0.model.")
    found |= _clip(parts["text_encoder_1"], "conditioner.embedders.0.transformer.")
    return found | _open_clip(parts["text_encoder_2"], "conditioner.embedders.1.model.")


def _unet_name(name: str, layers: int, unet: nn.Module) -> str:
    stem, kind = name.rsplit(".", 1)
    if stem in _UNET:
        return f"{_UNET[stem]}.{kind}"
    if name.startswith("mid_block."):
        _, which, number, rest = name.split(".", 3)
        return f"middle_block.{_MIDDLE[f'{which}.{number}']}.{_inner(which, rest)}"
    side, block, which, number, rest = re.fullmatch(
        r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.*)", name
    ).groups()  # type: ignore[union-attr]
    if side == "down":
        first = 1 + int(block) * (layers + 1)
        if which == "downsamplers":
            return f"input_blocks.{first + layers}.0.op.{rest.removeprefix('conv.')}"
        place = "0" if which == "resnets" else "1"
        return f"input_blocks.{first + int(number)}.{place}.{_inner(which, rest)}"
    first = int(block) * (layers + 1)
    if which == "upsamplers":
        attention = hasattr(unet.get_submodule(f"up_blocks.{block}"), "attentions")
        return f"output_blocks.{first + layers}.{2 if attention else 1}.{rest}"
    place = "0" if which == "resnets" else "1"
    return f"output_blocks.{first + int(number)}.{place}.{_inner(which, rest)}"


def _inner(which: str, rest: str) -> str:
    stem, kind = rest.rsplit(".", 1)
    return f"{_RESNET[stem]}.{kind}" if which == "resnets" else rest


def _autoencoder(vae: nn.Module) -> dict[str, Tensor]:
    levels = len(vae.config["block_out_channels"])  # type: ignore[index]
    found = {}
    for name, value in vae.state_dict().items():
        attention = re.search(r"attentions\.0\.(to_q|to_k|to_v|to_out\.0|group_norm)\.", name)
        if attention and attention[1] != "group_norm" and name.endswith("weight"):
            value = value[:, :, None, None]
        name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
        name = re.sub(r"down_blocks\.(\d+)\.resnets\.", r"down.\1.block.", name)
        name = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0\.", r"down.\1.downsample.", name)
        name = re.sub(
            r"up_blocks\.(\d+)\.(resnets|upsamplers\.0)\.",
            lambda m: (
                f"up.{levels - 1 - int(m[1])}." + ("block." if m[2] == "resnets" else "upsample.")
            ),
            name,
        )
        name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
        name = name.replace("mid_block.attentions.0.", "mid.attn_1.")
        for ours, theirs in (("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "proj_out"),
                             ("group_norm", "norm")):  # fmt: skip
            name = name.replace(f"attn_1.{ours}.", f"attn_1.{theirs}.")
        found[name] = value.contiguous()
    return found


def _clip(encoder: nn.Module, prefix: str) -> dict[str, Tensor]:
    bare = {n.removeprefix("text_model."): v for n, v in encoder.state_dict().items()}
    return {f"{prefix}text_model.{n}": v for n, v in bare.items()}


def _open_clip(encoder: nn.Module, prefix: str) -> dict[str, Tensor]:
    weights = {n.removeprefix("text_model."): v for n, v in encoder.state_dict().items()}
    found = {
        "positional_embedding": weights["embeddings.position_embedding.weight"],
        "token_embedding.weight": weights["embeddings.token_embedding.weight"],
        "text_projection": weights["text_projection.weight"].T.contiguous(),
        "ln_final.weight": weights["final_layer_norm.weight"],
        "ln_final.bias": weights["final_layer_norm.bias"],
    }
    names = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc",
             "mlp.fc2": "mlp.c_proj", "self_attn.out_proj": "attn.out_proj"}  # fmt: skip
    count = 1 + max(int(n.split(".")[2]) for n in weights if n.startswith("encoder.layers."))
    for layer in range(count):
        ours, theirs = f"encoder.layers.{layer}.", f"transformer.resblocks.{layer}."
        for kind in ("weight", "bias"):
            found |= {f"{theirs}{b}.{kind}": weights[f"{ours}{a}.{kind}"] for a, b in names.items()}
            rows = [weights[f"{ours}self_attn.{x}_proj.{kind}"] for x in "qkv"]
            found[f"{theirs}attn.in_proj_{kind}"] = torch.cat(rows)
    return {prefix + name: value for name, value in found.items()}
