"""Weights that lie in one file, as preference models are published: read safely, fitted whole."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tastemaker.errors import InputError
from tastemaker.scorers.model_folder import Precision, silent

if TYPE_CHECKING:
    from torch import Tensor

SUFFIXES = (".safetensors", ".pt", ".pth")
"""What a file of weights may be; pickled ones are opened with torch's restricted reader."""

_WRAPPERS = ("state_dict", "model")
"""Keys under which training code puts the weights beside its own state."""


def the_file(place: Path, names: Sequence[str], expected: str) -> Path:
    """The file itself, or the first of `names` that a folder holds, or its only file of weights.

    Raises:
        InputError: there is none, or several and none is called so.
    """
    if place.is_file():
        return place
    for name in names:
        if (place / name).is_file():
            return place / name
    found = sorted(path for path in place.glob("*") if path.suffix in SUFFIXES)
    if len(found) == 1:
        return found[0]
    listed = ", ".join(path.name for path in found) or "none"
    todo = f"Give the file itself, or a folder with {names[0]}."
    raise InputError(place, f"{len(found)} files of weights ({listed})", expected, todo)


def read_tensors(path: Path, expected: str) -> "dict[str, Tensor]":
    """All tensors of a file by name; nothing in it is ever run.

    What training code wraps weights into is taken off: `state_dict`, `model`, `module.`.

    Args:
        path: `.safetensors`, `.pt` or `.pth`.
        expected: what it should be, for errors.

    Raises:
        InputError: another kind of file, a damaged one, or one that would run code.
    """
    import torch

    todo = "Download the file again from where its authors put it."
    if path.suffix not in SUFFIXES:
        raise InputError(path, f"a {path.suffix or 'nameless'} file", expected, todo)
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            found: Any = load_file(path)
        else:
            # Only tensors and plain containers are built; anything else in a pickle is an error.
            found = torch.load(path, map_location="cpu", weights_only=True)
    # A damaged or hostile file fails in as many ways as there are readers.
    except Exception as error:
        lines = str(error).strip().splitlines()
        got = f"no weights ({type(error).__name__}: {lines[0][:160] if lines else ''})"
        raise InputError(path, got, expected, todo) from error
    for key in _WRAPPERS:
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
    if not isinstance(found, dict) or not found:
        raise InputError(path, f"a {type(found).__name__}", expected, todo)
    odd = [str(name) for name, value in found.items() if not torch.is_tensor(value)]
    if odd:
        raise InputError(path, f"{odd[0]}, which is no tensor", expected, todo)
    return {str(name).removeprefix("module."): value for name, value in found.items()}


def build(
    model_class: Any,
    config: Any,
    state: "Mapping[str, Tensor]",
    *,
    where: Path,
    expected: str,
    device: str,
    precision: Precision,
    **arguments: Any,
) -> Any:
    """A transformers model with exactly these weights, frozen, in evaluation mode, on its device.

    Args:
        model_class: of transformers.
        config: of that class.
        state: weights by the class's own names.
        where: the file, for errors.
        expected: what it should be, for errors.
        device: `cpu`, `cuda:1`, ...
        precision: of weights and arithmetic; `float32` on a CPU.
        arguments: for the class.

    Raises:
        InputError: a weight is missing, is left over, has another shape or is not finite.
    """
    import torch

    if device == "cpu" and precision != "float32":
        todo = "Leave `precision` out, or run it on an accelerator."
        raise InputError(f"{expected}: precision", f"{precision} on a CPU", "float32", todo)
    with silent(), torch.device("meta"):
        wanted = {k: v.shape for k, v in model_class(config, **arguments).state_dict().items()}
    missing, extra = sorted(set(wanted) - set(state)), sorted(set(state) - set(wanted))
    odd = [f"no weights for {name}" for name in missing] + [f"{name} in addition" for name in extra]
    odd += [
        f"{name} of shape {list(state[name].shape)} instead of {list(shape)}"
        for name, shape in wanted.items()
        if name in state and state[name].shape != shape
    ]
    odd += [
        f"{name} that is not finite"
        for name, value in state.items()
        if not torch.isfinite(value).all()
    ]
    if odd:
        got = f"{', '.join(odd[:3])}{' ...' if len(odd) > 3 else ''}"
        raise InputError(where, got, expected, "Download the file again, or give the right one.")
    with silent():
        model = model_class.from_pretrained(
            None,
            config=config,
            state_dict=dict(state),
            dtype=getattr(torch, precision),
            **arguments,
        )
    # Views of a file are not aligned, and unaligned rows are summed in another order.
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.clone()
    return model.eval().requires_grad_(False).to(device)
