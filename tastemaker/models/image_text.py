"""A CLIP image-text model (Radford et al. 2021) over transformers: build, train, embed, save.

Axes: B batch, C = 3 colours, H and W pixels, L text positions, D width of the shared space.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn import functional
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from tastemaker.errors import InputError
from tastemaker.models.autoencoder import to_unit_range
from tastemaker.models.quiet import quiet
from tastemaker.models.text import text_fields, token_windows
from tastemaker.models.tokenizer import load_tokenizer, save_tokenizer
from tastemaker.models.weights import own_memory

_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Preprocessing:
    """CLIP's picture preparation: shorter side to `size_px` (bicubic), centre crop, normalise.

    The interpolation is torch's, antialiased, on floats; Pillow rounds to bytes between its two
    passes, so scores differ in the third digit from tools that resize with Pillow.
    """

    size_px: int
    mean: tuple[float, float, float] = _CLIP_MEAN
    std: tuple[float, float, float] = _CLIP_STD

    @property
    def hash(self) -> str:
        """Hash of all that changes an embedding before the network."""
        named = {**asdict(self), "resize": "torch bicubic antialias, shorter side, centre crop"}
        return blake2b(json.dumps(named, sort_keys=True).encode(), digest_size=32).hexdigest()

    def __call__(self, pixels: Shaped[Tensor, "B C H W"]) -> Float[Tensor, "B C S S"]:
        """Network input from pixels (uint8 or floats in [0, 1])."""
        values = to_unit_range(pixels).float()
        height, width = values.shape[-2:]
        if (height, width) != (self.size_px, self.size_px):
            scale = self.size_px / min(height, width)
            target = [max(self.size_px, round(side * scale)) for side in (height, width)]
            values = functional.interpolate(
                values, size=target, mode="bicubic", antialias=True
            ).clamp(0, 1)
            top, left = ((side - self.size_px) // 2 for side in target)
            values = values[..., top : top + self.size_px, left : left + self.size_px]
        mean, std = (values.new_tensor(each).view(1, 3, 1, 1) for each in (self.mean, self.std))
        return (values - mean) / std

    def to_config(self) -> dict[str, Any]:
        """The fields of a `preprocessor_config.json` of transformers' CLIPImageProcessor."""
        return {
            "image_processor_type": "CLIPImageProcessor",
            "do_resize": True,
            "size": {"shortest_edge": self.size_px},
            "resample": 3,
            "do_center_crop": True,
            "crop_size": {"height": self.size_px, "width": self.size_px},
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": list(self.mean),
            "image_std": list(self.std),
            "do_convert_rgb": True,
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any], size_px: int) -> "Preprocessing":
        """Read a `preprocessor_config.json`; `size_px` is the network's input side."""
        mean = tuple(float(v) for v in config.get("image_mean", _CLIP_MEAN))
        std = tuple(float(v) for v in config.get("image_std", _CLIP_STD))
        return cls(size_px, mean, std)  # pyright: ignore[reportArgumentType]


@dataclass(frozen=True)
class ImageText:
    """A CLIP model with its tokenizer and its picture preparation."""

    model: CLIPModel
    tokenizer: CLIPTokenizer
    preprocessing: Preprocessing

    @classmethod
    def build(cls, config: Mapping[str, Any], tokenizer: Path, *, seed: int = 0) -> "ImageText":
        """A new model with weights that depend on `seed` alone.

        Args:
            config: the fields of a CLIP `config.json` (`text_config`, `vision_config`,
                `projection_dim`); vocabulary, window and special ids follow from the tokenizer.
                `image_mean` and `image_std` are optional, CLIP's by default.
            tokenizer: a tokenizer's folder.
            seed: chooses the initial weights; the global generator is left as it was.
        """
        words = load_tokenizer(tokenizer)
        fields = {key: value for key, value in config.items() if not key.startswith("image_")}
        fields["text_config"] = {**text_fields(words), **fields.get("text_config", {})}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = CLIPModel(CLIPConfig(**fields))
        return cls(model.eval(), words, Preprocessing.from_config(config, _side(model)))

    @classmethod
    def load(cls, folder: Path) -> "ImageText":
        """Load a transformers CLIP folder, frozen and in evaluation mode.

        Raises:
            InputError: the folder holds no CLIP model.
        """
        config = folder / "config.json"
        if (
            not config.is_file()
            or json.loads(config.read_text(encoding="utf-8")).get("model_type") != "clip"
        ):
            raise InputError(
                folder,
                "no CLIP config.json",
                "a transformers CLIP folder",
                "Give the folder of a CLIP model.",
            )
        with quiet():
            loaded = CLIPModel.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
        model = own_memory(loaded)
        processor = folder / "preprocessor_config.json"
        fields = json.loads(processor.read_text(encoding="utf-8")) if processor.is_file() else {}
        preprocessing = Preprocessing.from_config(fields, _side(model))
        return cls(model.eval().requires_grad_(False), load_tokenizer(folder), preprocessing)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.device

    def picture_features(self, pixels: Shaped[Tensor, "B C H W"]) -> Float[Tensor, "B D"]:
        """Unit vectors of pictures (uint8 or floats in [0, 1]), with gradients."""
        inputs = self.preprocessing(pixels.to(self.device)).to(self.model.dtype)
        pooled = self.model.vision_model(pixel_values=inputs).pooler_output
        return functional.normalize(self.model.visual_projection(pooled).float(), dim=-1)

    def text_features(self, texts: Sequence[str]) -> Float[Tensor, "B D"]:
        """Unit vectors of texts, with gradients; what does not fit in the window is cut off."""
        ids = token_windows(self.tokenizer, texts, 1)[:, 0].to(self.device)
        pooled = self.model.text_model(input_ids=ids).pooler_output
        return functional.normalize(self.model.text_projection(pooled).float(), dim=-1)

    @torch.no_grad()
    def embed_pictures(self, pixels: Shaped[Tensor, "B C H W"]) -> Float[Tensor, "B D"]:
        """Unit vectors of pictures, on the CPU."""
        return self.picture_features(pixels).cpu()

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> Float[Tensor, "B D"]:
        """Unit vectors of texts, on the CPU."""
        return self.text_features(texts).cpu()

    def save(self, folder: Path, *, dtype: torch.dtype = torch.float32) -> None:
        """Write a transformers CLIP folder with weights of type `dtype`; the live model is left."""
        folder.mkdir(parents=True, exist_ok=True)
        weights = {
            name: value.detach().to(dtype) if value.is_floating_point() else value.detach()
            for name, value in self.model.state_dict().items()
        }
        with quiet():
            self.model.save_pretrained(folder, state_dict=weights)
        save_tokenizer(self.tokenizer, folder)
        processor = json.dumps(self.preprocessing.to_config(), indent=2)
        (folder / "preprocessor_config.json").write_text(processor + "\n", encoding="utf-8")


def _side(model: CLIPModel) -> int:
    """Side of the square picture that the network takes, in pixels."""
    return int(cast(Any, model.config.vision_config).image_size)
