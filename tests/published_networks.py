"""open_clip's and BLIP's networks, transcribed from their published layers: an independent oracle.

Plain functions of a dictionary of weights with the names of the authors' code; any precision.
"""

import gzip
import html
import math
import re
from pathlib import Path
from typing import Any

import regex
import torch
from torch import Tensor
from torch.nn import functional as F

Weights = dict[str, Tensor]


def _weights(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> Weights:
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name, shape in shapes.items():
        value = torch.randn(shape, generator=generator)
        norm = name.endswith((".bias",)) or value.ndim < 2
        fan = (
            shape[0] if name in ("text_projection", "visual.proj") else math.prod(shape[1:] or (1,))
        )
        found[name] = 0.1 * value if norm else value * fan**-0.5
        is_norm = any(part in name for part in ("ln_", "norm", "LayerNorm"))
        if is_norm and name.endswith(".weight"):
            found[name] = 1 + found[name]
    return found


# --- open_clip ---


def clip_shapes(
    *, joint: int, vision: dict[str, int], text: dict[str, int]
) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a CLIP, from the fields of a model config of open_clip."""
    wide, deep, patch = vision["width"], vision["layers"], vision["patch_size"]
    grid = vision["image_size"] // patch
    found: dict[str, tuple[int, ...]] = {
        "positional_embedding": (text["context_length"], text["width"]),
        "text_projection": (text["width"], joint),
        "logit_scale": (),
        "visual.class_embedding": (wide,),
        "visual.positional_embedding": (grid * grid + 1, wide),
        "visual.proj": (wide, joint),
        "visual.conv1.weight": (wide, 3, patch, patch),
        "token_embedding.weight": (text["vocab_size"], text["width"]),
    }
    for name, width in (
        ("visual.ln_pre", wide),
        ("visual.ln_post", wide),
        ("ln_final", text["width"]),
    ):
        found |= {f"{name}.weight": (width,), f"{name}.bias": (width,)}
    for side, width, layers in (("visual.", wide, deep), ("", text["width"], text["layers"])):
        for number in range(layers):
            block = f"{side}transformer.resblocks.{number}"
            for name, shape in {
                "ln_1": (width,),
                "ln_2": (width,),
                "attn.out_proj": (width, width),
                "mlp.c_fc": (4 * width, width),
                "mlp.c_proj": (width, 4 * width),
            }.items():
                found |= {f"{block}.{name}.weight": shape, f"{block}.{name}.bias": shape[:1]}
            found[f"{block}.attn.in_proj_weight"] = (3 * width, width)
            found[f"{block}.attn.in_proj_bias"] = (3 * width,)
    return found


def clip_weights(**config: Any) -> Weights:
    """A CLIP of random weights."""
    found = _weights(clip_shapes(**config))
    found["logit_scale"] = torch.tensor(4.6052)
    return found


def _norm(w: Weights, name: str, x: Tensor, eps: float = 1e-5) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    variance = (centred**2).mean(-1, keepdim=True)
    return centred / (variance + eps).sqrt() * w[f"{name}.weight"] + w[f"{name}.bias"]


def _linear(w: Weights, name: str, x: Tensor) -> Tensor:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def _attention(q: Tensor, k: Tensor, v: Tensor, heads: int, hidden: Tensor | None) -> Tensor:
    def apart(x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], heads, -1).transpose(0, 1)

    q, k, v = apart(q), apart(k), apart(v)
    scores = q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])
    if hidden is not None:
        scores = scores.masked_fill(hidden, -math.inf)
    return (scores.softmax(-1) @ v).transpose(0, 1).reshape(q.shape[1], -1)


def _gelu(x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def _clip_blocks(w: Weights, prefix: str, x: Tensor, heads: int, hidden: Tensor | None) -> Tensor:
    number = 0
    while f"{prefix}.{number}.ln_1.weight" in w:
        block = f"{prefix}.{number}"
        inner = _norm(w, f"{block}.ln_1", x)
        qkv = inner @ w[f"{block}.attn.in_proj_weight"].T + w[f"{block}.attn.in_proj_bias"]
        q, k, v = qkv.chunk(3, -1)
        x = x + _linear(w, f"{block}.attn.out_proj", _attention(q, k, v, heads, hidden))
        inner = _linear(w, f"{block}.mlp.c_fc", _norm(w, f"{block}.ln_2", x))
        x = x + _linear(w, f"{block}.mlp.c_proj", _gelu(inner))
        number += 1
    return x


def clip_picture(w: Weights, pixels: Tensor, heads: int) -> Tensor:
    """`[3, S, S]` to a unit vector."""
    kernel = w["visual.conv1.weight"]
    patches = F.conv2d(pixels[None], kernel, stride=kernel.shape[-1])[0].flatten(1).T
    x = torch.cat([w["visual.class_embedding"][None], patches]) + w["visual.positional_embedding"]
    x = _clip_blocks(w, "visual.transformer.resblocks", _norm(w, "visual.ln_pre", x), heads, None)
    found = _norm(w, "visual.ln_post", x[0]) @ w["visual.proj"]
    return found / found.norm()


def clip_text(w: Weights, ids: Tensor, heads: int) -> Tensor:
    """`[77]` token ids, filled with 0, to a unit vector."""
    x = w["token_embedding.weight"][ids] + w["positional_embedding"]
    later = torch.ones(len(ids), len(ids), dtype=torch.bool).triu(1)
    x = _norm(w, "ln_final", _clip_blocks(w, "transformer.resblocks", x, heads, later))
    found = x[ids.argmax()] @ w["text_projection"]
    return found / found.norm()


class OpenClipWords:
    """open_clip's tokenizer: byte pairs in the order of the file, words apart by one expression."""

    def __init__(self, path: Path) -> None:
        printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
        rest = [byte for byte in range(256) if byte not in printable]
        self.letters = {b: chr(b) for b in printable}
        self.letters |= {b: chr(256 + n) for n, b in enumerate(rest)}
        lines = gzip.decompress(path.read_bytes()).decode().split("\n")[1 : 49152 - 256 - 2 + 1]
        merges = [tuple(line.split()) for line in lines]
        words = [self.letters[b] for b in [*printable, *rest]]
        words += [word + "</w>" for word in words] + ["".join(pair) for pair in merges]
        self.ids = {word: number for number, word in enumerate([*words, "<start>", "<end>"])}
        self.ranks = {pair: rank for rank, pair in enumerate(merges)}
        self.words = regex.compile(
            r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+", regex.IGNORECASE
        )

    def _pieces(self, word: str) -> list[str]:
        parts = [*word[:-1], word[-1] + "</w>"]
        while len(parts) > 1:
            ranked = [
                self.ranks.get(pair, math.inf) for pair in zip(parts, parts[1:], strict=False)
            ]
            if min(ranked) == math.inf:
                break
            best = parts[ranked.index(min(ranked))], parts[ranked.index(min(ranked)) + 1]
            joined, place = [], 0
            while place < len(parts):
                if tuple(parts[place : place + 2]) == best:
                    joined.append("".join(best))
                    place += 2
                else:
                    joined.append(parts[place])
                    place += 1
            parts = joined
        return parts

    def __call__(self, text: str, fixed: Any = lambda text: text) -> list[int]:
        """The window of 77, filled with 0; `fixed` is ftfy's repair where it is installed."""
        text = html.unescape(html.unescape(fixed(text))).strip()
        text = re.sub(r"\s+", " ", text).strip().lower()
        ids = [self.ids["<start>"]]
        for word in self.words.findall(text):
            letters = "".join(self.letters[byte] for byte in word.encode())
            ids += [self.ids[piece] for piece in self._pieces(letters)]
        ids.append(self.ids["<end>"])
        if len(ids) > 77:
            ids = [*ids[:76], self.ids["<end>"]]
        return ids + [0] * (77 - len(ids))


# --- BLIP with the head of ImageReward ---


def reward_shapes(
    *, side: int, patch: int, wide: int, deep: int, width: int, layers: int, words: int, places: int
) -> dict[str, tuple[int, ...]]:
    """Names and shapes of ImageReward's checkpoint."""
    found: dict[str, tuple[int, ...]] = {
        "blip.visual_encoder.cls_token": (1, 1, wide),
        "blip.visual_encoder.pos_embed": (1, (side // patch) ** 2 + 1, wide),
        "blip.text_encoder.embeddings.word_embeddings.weight": (words, width),
        "blip.text_encoder.embeddings.position_embeddings.weight": (places, width),
    }
    linear: dict[str, tuple[int, ...]] = {
        "blip.visual_encoder.patch_embed.proj": (wide, 3, patch, patch),
        "blip.visual_encoder.norm": (wide,),
        "blip.text_encoder.embeddings.LayerNorm": (width,),
        "blip.vision_proj": (256, wide),
        "blip.text_proj": (256, width),
    }
    for number in range(deep):
        linear |= {
            f"blip.visual_encoder.blocks.{number}.{name}": shape
            for name, shape in {
                "norm1": (wide,),
                "norm2": (wide,),
                "attn.qkv": (3 * wide, wide),
                "attn.proj": (wide, wide),
                "mlp.fc1": (4 * wide, wide),
                "mlp.fc2": (wide, 4 * wide),
            }.items()
        }
    for number in range(layers):
        block = f"blip.text_encoder.encoder.layer.{number}"
        for side_, source in (("attention", width), ("crossattention", wide)):
            linear |= {
                f"{block}.{side_}.self.query": (width, width),
                f"{block}.{side_}.self.key": (width, source),
                f"{block}.{side_}.self.value": (width, source),
                f"{block}.{side_}.output.dense": (width, width),
                f"{block}.{side_}.output.LayerNorm": (width,),
            }
        linear |= {
            f"{block}.intermediate.dense": (4 * width, width),
            f"{block}.output.dense": (width, 4 * width),
            f"{block}.output.LayerNorm": (width,),
        }
    head = {0: (1024, width), 2: (128, 1024), 4: (64, 128), 6: (16, 64), 7: (1, 16)}
    linear |= {f"mlp.layers.{number}": shape for number, shape in head.items()}
    for name, shape in linear.items():
        found |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return found


def reward_weights(**sizes: int) -> Weights:
    """Random weights, with the row of positions that old checkpoints hold."""
    found = _weights(reward_shapes(**sizes))
    found["blip.text_encoder.embeddings.position_ids"] = torch.arange(sizes["places"])[None]
    return found


def reward(w: Weights, pixels: Tensor, ids: Tensor, mask: Tensor, heads: int) -> float:
    """The standardised reward of `[3, S, S]` and `[35]` token ids."""
    patches = _blip_picture(w, pixels, heads)
    start = "blip.text_encoder."
    x = w[f"{start}embeddings.word_embeddings.weight"][ids]
    x = x + w[f"{start}embeddings.position_embeddings.weight"][: len(ids)]
    x = _norm(w, f"{start}embeddings.LayerNorm", x, 1e-12)
    hidden = (mask == 0)[None, None, :]
    number = 0
    while f"{start}encoder.layer.{number}.output.dense.weight" in w:
        block = f"{start}encoder.layer.{number}"
        for side, source, unseen in (
            ("attention", None, hidden),
            ("crossattention", patches, None),
        ):
            name = f"{block}.{side}"
            seen = x if source is None else source
            q = _linear(w, f"{name}.self.query", x)
            k, v = (_linear(w, f"{name}.self.{part}", seen) for part in ("key", "value"))
            found = _linear(w, f"{name}.output.dense", _attention(q, k, v, heads, unseen))
            x = _norm(w, f"{name}.output.LayerNorm", found + x, 1e-12)
        inner = _gelu(_linear(w, f"{block}.intermediate.dense", x))
        inner = _linear(w, f"{block}.output.dense", inner)
        x = _norm(w, f"{block}.output.LayerNorm", inner + x, 1e-12)
        number += 1
    value = x[0]
    for number in (0, 2, 4, 6, 7):
        value = _linear(w, f"mlp.layers.{number}", value)
    return (float(value) - 0.16717362830052426) / 1.0333394966054072


def _blip_picture(w: Weights, pixels: Tensor, heads: int) -> Tensor:
    start = "blip.visual_encoder."
    kernel = w[f"{start}patch_embed.proj.weight"]
    bias = w[f"{start}patch_embed.proj.bias"]
    patches = F.conv2d(pixels[None], kernel, bias, stride=kernel.shape[-1])[0].flatten(1).T
    x = torch.cat([w[f"{start}cls_token"][0], patches]) + w[f"{start}pos_embed"][0]
    number = 0
    while f"{start}blocks.{number}.norm1.weight" in w:
        block = f"{start}blocks.{number}"
        q, k, v = _linear(w, f"{block}.attn.qkv", _norm(w, f"{block}.norm1", x, 1e-6)).chunk(3, -1)
        x = x + _linear(w, f"{block}.attn.proj", _attention(q, k, v, heads, None))
        inner = _gelu(_linear(w, f"{block}.mlp.fc1", _norm(w, f"{block}.norm2", x, 1e-6)))
        x = x + _linear(w, f"{block}.mlp.fc2", inner)
        number += 1
    return _norm(w, f"{start}norm", x, 1e-6)
