"""The one protocol that every architecture answers, and the table of architectures.

Axes: B batch, L text positions, D width of a text position, P width of the pooled text, c h w
latent.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from tastemaker.errors import InputError
from tastemaker.models.locate import locate
from tastemaker.records.size import ImageSizes

if TYPE_CHECKING:
    from tastemaker.diffusion.schedule import DiscreteSchedule
    from tastemaker.models.sdxl import SDXLFamily

Precision = Literal["fp32", "bf16", "fp16"]

DTYPES: dict[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


@dataclass(frozen=True)
class TextStates:
    """What the text encoders say of a batch of prompts."""

    context: Float[Tensor, "B L D"]
    pooled: Float[Tensor, "B P"]

    def __len__(self) -> int:
        """Number of prompts."""
        return self.context.shape[0]

    @staticmethod
    def join(states: Sequence["TextStates"]) -> "TextStates":
        """Several batches as one; all must have the same number of text positions.

        Raises:
            ValueError: the lengths differ; encode with one number of windows then.
        """
        lengths = {each.context.shape[1] for each in states}
        if len(lengths) > 1:
            raise ValueError(
                f"texts of different lengths {sorted(lengths)}: encode them with the same `windows`"
            )
        return TextStates(
            torch.cat([s.context for s in states]), torch.cat([s.pooled for s in states])
        )

    def __getitem__(self, rows: slice | Sequence[int] | Tensor) -> "TextStates":
        """The chosen rows, as a batch."""
        index = rows if isinstance(rows, slice | Tensor) else list(rows)
        return TextStates(self.context[index], self.pooled[index])

    def to(self, *args: Any, **kwargs: Any) -> "TextStates":
        """Move or convert, like `Tensor.to`."""
        return TextStates(self.context.to(*args, **kwargs), self.pooled.to(*args, **kwargs))


@dataclass(frozen=True)
class Conditioning:
    """Text and sizes, ready for `denoise`; the time ids stay in fp32: bf16 cannot hold 1025."""

    context: Float[Tensor, "B L D"]
    pooled: Float[Tensor, "B P"]
    time_ids: Float[Tensor, "B 6"]

    def __len__(self) -> int:
        """Number of rows."""
        return self.context.shape[0]

    def __getitem__(self, rows: slice | Sequence[int] | Tensor) -> "Conditioning":
        """The chosen rows, as a batch."""
        index = rows if isinstance(rows, slice | Tensor) else list(rows)
        return Conditioning(self.context[index], self.pooled[index], self.time_ids[index])

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> "Conditioning":
        """Move everything; convert the text alone."""
        return Conditioning(
            self.context.to(device=device, dtype=dtype),
            self.pooled.to(device=device, dtype=dtype),
            self.time_ids.to(device=device),
        )


class Family(Protocol):
    """One architecture: text, latents and denoiser, over real diffusers modules.

    Pixels are uint8 or floats in [0, 1]; latents are scaled as the denoiser sees them, in fp32.
    """

    name: str
    precision: Precision

    @property
    def parts(self) -> Mapping[str, nn.Module]:
        """The networks by name, for example `unet`, `text_encoder_1`, `text_encoder_2`, `vae`."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the denoiser is."""
        ...

    @property
    def latent_factor(self) -> int:
        """Pixels per latent cell along one side."""
        ...

    @property
    def latent_channels(self) -> int:
        """Channels of a latent."""
        ...

    @property
    def lora_targets(self) -> Mapping[str, tuple[str, ...]]:
        """Named groups of layers for LoRA; `attention` and `attention+ff` always exist."""
        ...

    def windows(self, prompts: Sequence[str]) -> int:
        """Text windows that the longest prompt needs."""
        ...

    def token_counts(self, prompts: Sequence[str]) -> list[int]:
        """Tokens of each prompt, start and end not counted."""
        ...

    def encode_text(self, prompts: Sequence[str], windows: int | None = None) -> TextStates:
        """Text states; with `windows` given, a prompt's do not depend on its neighbours."""
        ...

    def conditioning(self, text: TextStates, sizes: Sequence[ImageSizes]) -> Conditioning:
        """Text states joined with the sizes of the pictures they belong to."""
        ...

    def encode_image(
        self, pixels: Shaped[Tensor, "B 3 H W"]
    ) -> tuple[Float[Tensor, "B c h w"], Float[Tensor, "B c h w"]]:
        """Mean and log-variance of the latents."""
        ...

    def decode(self, latents: Float[Tensor, "B c h w"]) -> Float[Tensor, "B 3 H W"]:
        """Pixels in [0, 1]."""
        ...

    def denoise(
        self, x_t: Float[Tensor, "B c h w"], t: Int[Tensor, " B"], cond: Conditioning
    ) -> Float[Tensor, "B c h w"]:
        """The denoiser's raw prediction (noise, v or x0, as `schedule` says), in fp32."""
        ...

    def schedule(self) -> "DiscreteSchedule":
        """The noise schedule that the denoiser was trained with."""
        ...

    def trainable(self, parts: Sequence[str]) -> list[nn.Parameter]:
        """Unfreeze these parts and freeze the others; the parameters that now learn."""
        ...

    def to(self, device: torch.device | str) -> "Family":
        """Move every part."""
        ...

    def channels_last(self) -> "Family":
        """Store convolution weights channels last: faster on CPUs and tensor cores."""
        ...

    def pipeline(self) -> Any:
        """A diffusers pipeline over the same modules."""
        ...

    def save(self, folder: Path, *, precision: Precision | None = None) -> None:
        """Write a diffusers folder."""
        ...


FAMILIES: dict[str, str] = {"sdxl": "tastemaker.models.sdxl:SDXLFamily"}
"""Name -> class, loaded when it is asked for."""

_PIPELINES = {"StableDiffusionXLPipeline": "sdxl", "StableDiffusionXLImg2ImgPipeline": "sdxl"}


def family_class(name: str) -> Any:
    """The class of one architecture.

    Raises:
        InputError: the architecture is not known.
    """
    if name not in FAMILIES:
        raise InputError(
            "family", name, f"one of {', '.join(FAMILIES)}", "Choose a supported architecture."
        )
    module, cls = FAMILIES[name].split(":")
    return getattr(import_module(module), cls)


def load_family(reference: str | Path, *, precision: Precision = "fp32") -> Family:
    """Load a model: a packaged name, a diffusers folder, a single `.safetensors` file or a hub id.

    Raises:
        MissingModel: it is nowhere to be found.
        InputError: it is not a model of a supported architecture.
    """
    path = locate(str(reference), "model")
    return family_class(_family_name(path)).load(path, precision=precision)


def build_sdxl(
    config: Mapping[str, Any],
    tokenizers: Path,
    *,
    vae: Any = None,
    seed: int = 0,
    precision: Precision = "fp32",
) -> "SDXLFamily":
    """A new SDXL with untrained weights; see `SDXLFamily.build`."""
    return family_class("sdxl").build(config, tokenizers, vae=vae, seed=seed, precision=precision)


def _family_name(path: Path) -> str:
    if path.is_file():
        return _family_of_single_file(path)
    index = path / "model_index.json"
    if not index.is_file():
        raise InputError(
            path,
            "no model_index.json",
            "a diffusers folder",
            "Give the top folder of a saved diffusers pipeline.",
        )
    pipeline = json.loads(index.read_text(encoding="utf-8")).get("_class_name")
    if pipeline not in _PIPELINES:
        known = ", ".join(_PIPELINES)
        raise InputError(
            index,
            f"pipeline {pipeline}",
            f"one of {known}",
            "Choose a model of a supported architecture.",
        )
    return _PIPELINES[pipeline]


def _family_of_single_file(path: Path) -> str:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            names = set(file.keys())
    except SafetensorError as error:
        raise InputError(
            path, f"an unreadable file ({error})", "a safetensors checkpoint", "Download it again."
        ) from error
    if any(name.startswith("conditioner.embedders.1.model.") for name in names):
        return "sdxl"
    raise InputError(
        path,
        "no SDXL text encoder among its tensors",
        "an SDXL checkpoint",
        "Choose a model of a supported architecture.",
    )
