"""How the numbers of a latent are stored: their dtype, and the packing of each latent's bytes.

`u12` is a fixed point number: round(256 x) in 16 bits, of which the 12 lowest hold |x| < 8, that
is all that scaled latents have; larger ones, up to 127, cost space and nothing else. Its error is
half of bfloat16's at |x| = 1, and its bytes pack better.

Axes: values are `[c, h, w]`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from tastemaker.errors import InputError

LatentDtype = Literal["bf16", "fp16", "fp32", "u12"]
Codec = Literal["shuffle-zstd", "none"]

_DTYPES: dict[str, torch.dtype] = {
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp32": torch.float32,
    "u12": torch.int16,
}
_ZSTD_LEVEL = 5
_STEPS = 256
"""Steps of `u12` in 1, the standard deviation of scaled latents."""

_LARGEST_U12 = 32767 / _STEPS


@dataclass(frozen=True)
class LatentFormat:
    """How a shard is written.

    Attributes:
        vae_hash: hash of the autoencoder that made the latents.
        dtype: of the stored numbers.
        codec: packing of each latent.
    """

    vae_hash: str
    dtype: LatentDtype = "bf16"
    codec: Codec = "shuffle-zstd"

    def __post_init__(self) -> None:
        """Refuse names that are not in the tables."""
        for name, value, known in (
            ("dtype", self.dtype, get_args(LatentDtype)),
            ("codec", self.codec, get_args(Codec)),
        ):
            if value not in known:
                raise InputError(name, value, f"one of {', '.join(known)}", "Choose one of these.")


def stored_value(value: Tensor, dtype: LatentDtype) -> Tensor | None:
    """The numbers as they are stored; None where one is not finite, or too large for the dtype."""
    value = value.detach().cpu()
    if dtype == "u12":
        if not bool((value.float().abs() <= _LARGEST_U12).all()):
            return None
        return (value.float() * _STEPS).round().to(torch.int16).contiguous()
    stored = value.to(_DTYPES[dtype]).contiguous()
    return stored if bool(torch.isfinite(stored).all()) else None


def opened_value(stored: Tensor, dtype: LatentDtype) -> Tensor:
    """Numbers again: float32 of `u12`, else as they are stored."""
    return stored.float() / _STEPS if dtype == "u12" else stored


def bytes_of(value: Tensor) -> bytes:
    """The bytes of a tensor."""
    return value.contiguous().view(torch.uint8).numpy().tobytes()


def pack(name: str, values: Sequence[Tensor], codec: Codec) -> dict[str, Tensor]:
    """The tensors of a shard that hold these values, see `store.latents`."""
    if codec == "none":
        return {name: torch.stack(list(values))}
    blosc2 = _blosc2()
    frames = [
        blosc2.compress2(
            bytes_of(value),
            typesize=value.element_size(),
            codec=blosc2.Codec.ZSTD,
            clevel=_ZSTD_LEVEL,
            filters=[blosc2.Filter.SHUFFLE],
            nthreads=1,
        )
        for value in values
    ]
    ends = np.cumsum([0, *(len(frame) for frame in frames)])
    run = np.frombuffer(b"".join(frames), dtype=np.uint8).copy()
    return {name: torch.from_numpy(run), f"{name}_offsets": torch.from_numpy(ends)}


def unpack(
    shard: Any, name: str, number: int, shape: tuple[int, int, int], format: LatentFormat
) -> Tensor:
    """One value of an open shard, as it is stored.

    Raises:
        RuntimeError, ValueError: the bytes are no such value.
    """
    if format.codec == "none":
        # A copy: the slice is a window on the file, and changes or fails with it.
        return shard.get_slice(name)[number].clone()
    begin, end = shard.get_slice(f"{name}_offsets")[number : number + 2].tolist()
    # One thread: the library's own ones cost more than they save at this size.
    raw = _blosc2().decompress2(shard.get_slice(name)[begin:end].numpy().data, nthreads=1)
    return torch.frombuffer(bytearray(raw), dtype=_DTYPES[format.dtype]).view(shape)


def _blosc2() -> Any:
    # Its annotations name the type of the options' container where they mean that of an option.
    import blosc2

    return blosc2
