"""Weights in memory and on disk."""

import json
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

Module = TypeVar("Module", bound=nn.Module)


def own_memory(module: Module) -> Module:
    """Copy weights that are views of a mapped file into memory of torch's own; the same module.

    In a file, tensors begin at any multiple of 4 bytes. CPU kernels sum unaligned rows in another
    order than aligned ones, so a model loaded from a file would not give the bits that it gave
    before it was saved. Torch's own memory is aligned to 64 bytes.
    """
    for tensor in (*module.parameters(), *module.buffers()):
        tensor.data = tensor.data.clone()
    return module


def convert_weights(folder: Path, dtype: torch.dtype) -> None:
    """Rewrite the safetensors files one level below a folder in another precision."""
    for path in sorted(folder.glob("*/*.safetensors")):
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
        weights = {
            name: value.to(dtype) if value.is_floating_point() else value
            for name, value in load_file(path).items()
        }
        save_file(weights, path, metadata=metadata)


def forget_paths(folder: Path) -> None:
    """Take the place that a part was loaded from out of its config: a path of this machine."""
    for path in folder.glob("**/config.json"):
        config = json.loads(path.read_text(encoding="utf-8"))
        if config.pop("_name_or_path", None) is not None:
            text = json.dumps(config, indent=2, sort_keys=True)
            path.write_text(text + "\n", encoding="utf-8")
