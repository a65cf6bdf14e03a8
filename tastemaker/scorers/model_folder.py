"""Load models from transformers folders: safetensors only, every weight present, frozen.

Nothing here reads a network; a hub id has become a folder before.
"""

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tastemaker.errors import InputError, MissingExtra

if TYPE_CHECKING:
    from torch import Tensor

Precision = Literal["float32", "bfloat16", "float16"]


def read_json(folder: Path, name: str, expected: str) -> dict[str, Any]:
    """An object in a JSON file of a model's folder.

    Args:
        folder: the model's folder.
        name: the file in it.
        expected: what kind of folder it should be, for the error.

    Raises:
        InputError: there is no such file, or it holds something else.
    """
    path = folder / name
    todo = f"Give the folder of {expected}."
    if not path.is_file():
        raise InputError(folder, f"no {name} ({_contents(folder)})", expected, todo)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(path, f"no JSON ({error})", "a JSON object", todo) from error
    if not isinstance(found, dict):
        raise InputError(path, type(found).__name__, "a JSON object", todo)
    return found


def load_model(
    folder: Path, class_name: str, *, device: str, precision: Precision, reason: str
) -> Any:
    """A transformers model, frozen, in evaluation mode and on its device.

    Args:
        folder: with `config.json` and safetensors.
        class_name: the class in transformers.
        device: `cpu`, `cuda:1`, ...
        precision: of the weights and of the arithmetic.
        reason: what the model is for, for errors.

    Raises:
        InputError: weights are missing, of other shapes, or only there as a pickle; or half
            precision is asked for on a CPU.
    """
    import torch
    import transformers

    if device == "cpu" and precision != "float32":
        raise InputError(
            f"{reason}: precision",
            f"{precision} on a CPU",
            "float32",
            "Leave `precision` out, or run it on an accelerator.",
        )
    expected = f"a transformers folder of a {class_name} with safetensors"
    try:
        with silent():
            model, report = getattr(transformers, class_name).from_pretrained(
                folder,
                local_files_only=True,
                use_safetensors=True,
                dtype=getattr(torch, precision),
                output_loading_info=True,
            )
    # transformers raises nearly anything for a folder that does not fit.
    except Exception as error:
        got = f"{_first_line(error)} ({_contents(folder)})"
        raise InputError(folder, got, expected, "Download the model's folder again.") from error
    # What a file lacks is made up at random by transformers, with a remark at most.
    made_up = sorted(report["missing_keys"]) + sorted(str(k) for k in report["mismatched_keys"])
    if made_up:
        got = f"no weights for {', '.join(made_up[:3])}{' ...' if len(made_up) > 3 else ''}"
        raise InputError(folder, got, expected, "Give the folder of the whole model.")
    # Views of a file are not aligned, and unaligned rows are summed in another order.
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.clone()
    return model.eval().requires_grad_(False).to(device)


def load_tokenizer(folder: Path, reason: str) -> Any:
    """The tokenizer of a model's folder, of the class that its files name.

    Raises:
        InputError: there is none.
        MissingExtra: it needs a package that is not installed (sentencepiece for SigLIP).
    """
    import transformers

    try:
        with silent():
            return transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except ImportError as error:
        raise MissingExtra(
            reason,
            f"no package for this tokenizer ({_first_line(error)})",
            "sentencepiece and protobuf",
            'Run pip install "tastemaker[siglip]".',
        ) from error
    except Exception as error:
        got = f"{_first_line(error)} ({_contents(folder)})"
        todo = "Put the tokenizer's files beside the weights."
        raise InputError(folder, got, "a tokenizer that transformers can load", todo) from error


def run_rows(
    forward: "Callable[..., Tensor]",
    inputs: Sequence[tuple[np.ndarray, ...]],
    device: str,
    batch: int,
) -> list[np.ndarray]:
    """Each input through a network such that no output depends on the others.

    A CPU takes them one by one, which costs it nothing. An accelerator takes batches of always the
    same size, the last one filled up: its kernels, and so the order of their sums, are chosen by
    the size.

    Args:
        forward: one or more `[B, ...]` on the device to one `[B, ...]`.
        inputs: what `forward` takes for each row; the same shapes in every row.
        device: where the network is.
        batch: rows at once on an accelerator.

    Returns:
        One float32 output for each row.
    """
    import torch

    size = 1 if device == "cpu" else batch
    found: list[np.ndarray] = []
    with torch.inference_mode():
        for start in range(0, len(inputs), size):
            rows = list(inputs[start : start + size])
            filled = rows + [rows[-1]] * (size - len(rows))
            columns = [np.stack(each) for each in zip(*filled, strict=True)]
            tensors = [torch.from_numpy(column).to(device) for column in columns]
            found += list(forward(*tensors).float().cpu().numpy()[: len(rows)])
    return found


def described(config: Mapping[str, Any]) -> str:
    """A network in short, from the fields of its configuration: kind, width, depth, activation."""
    parts = [str(config.get("model_type", "model"))]
    for letter, key in (("d", "hidden_size"), ("l", "num_hidden_layers"), ("p", "patch_size")):
        if isinstance(config.get(key), int):
            parts.append(f"{letter}{config[key]}")
    if isinstance(config.get("image_size"), int):
        parts.append(str(config["image_size"]))
    if config.get("hidden_act"):
        parts.append(str(config["hidden_act"]))
    return "-".join(parts)


@contextmanager
def silent() -> Iterator[None]:
    """Keep bars and remarks of transformers off the terminal while a model is loaded."""
    from transformers.utils import logging as remarks

    logger = logging.getLogger("transformers")
    level, bars = logger.level, remarks.is_progress_bar_enabled()
    logger.setLevel(logging.ERROR)
    remarks.disable_progress_bar()
    try:
        yield
    finally:
        logger.setLevel(level)
        if bars:
            remarks.enable_progress_bar()


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


def _contents(folder: Path) -> str:
    if not folder.is_dir():
        return "a single file"
    names = sorted(path.name for path in folder.iterdir())
    listed = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
    return f"it holds {listed}" if names else "it is empty"
