"""A CLIP or SigLIP model of the hub: pictures and texts to unit vectors of one space.

CLIP: Radford et al. 2021, arXiv:2103.00020. SigLIP: Zhai et al. 2023, arXiv:2303.15343.
SigLIP 2: Tschannen et al. 2025, arXiv:2502.14786.

Axes: pictures are uint8 `[H, W, 3]`; embeddings are float32 `[B, D]`, L2-normalised.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tastemaker.errors import InputError
from tastemaker.scorers.model_folder import (
    Precision,
    described,
    load_model,
    load_tokenizer,
    read_json,
    run_rows,
)
from tastemaker.scorers.patch_input import PatchInput
from tastemaker.scorers.picture_input import PictureInput
from tastemaker.scorers.square_input import CroppedSquare, PaddedSquare

if TYPE_CHECKING:
    from torch import Tensor

Part = Literal["pictures", "texts", "both"]

CLASSES: Mapping[str, str] = {
    "clip": "CLIPModel",
    "clip_vision_model": "CLIPVisionModelWithProjection",
    "siglip": "SiglipModel",
    "siglip_vision_model": "SiglipVisionModel",
    "siglip2": "Siglip2Model",
    "siglip2_vision_model": "Siglip2VisionModel",
}
"""`model_type` of a `config.json` -> the class in transformers."""

_EXPECTED = "a CLIP or SigLIP model"


@dataclass(frozen=True)
class Architecture:
    """What a folder says of its model, without loading it.

    Attributes:
        model_type: a key of `CLASSES`.
        backbone: the picture network in short, for example `clip_vision_model-d1024-l24-p14-224`.
        picture_input: from pixels to the network's input.
        has_text: whether there is a text network.
    """

    model_type: str
    backbone: str
    picture_input: PictureInput | PatchInput | CroppedSquare | PaddedSquare
    has_text: bool

    @classmethod
    def read(cls, folder: Path) -> "Architecture":
        """From `config.json` and `preprocessor_config.json`.

        Raises:
            InputError: it is no CLIP or SigLIP, or the picture processor does not fit.
        """
        config = read_json(folder, "config.json", _EXPECTED)
        model_type = str(config.get("model_type"))
        if model_type not in CLASSES:
            raise InputError(
                folder / "config.json",
                f"model_type {model_type}",
                f"one of {', '.join(CLASSES)}",
                f"Give the folder of {_EXPECTED}.",
            )
        has_text = not model_type.endswith("_vision_model")
        # Fields with the default value are left out of a config.json; transformers knows them.
        import transformers

        try:
            known = transformers.AutoConfig.for_model(
                **{key: value for key, value in config.items() if key != "dtype"}
            )
        # transformers raises whatever its field checks raise.
        except Exception as error:
            got = f"fields that do not fit together ({str(error).strip().splitlines()[0][:200]})"
            todo = "Download the model's folder again."
            raise InputError(folder / "config.json", got, _EXPECTED, todo) from error
        vision = known.vision_config if has_text else known
        if model_type.startswith("siglip2"):
            picture_input = PatchInput.read(folder, vision.patch_size, vision.num_patches)
        else:
            picture_input = PictureInput.read(folder, vision.image_size)
        return cls(model_type, described(vision.to_dict()), picture_input, has_text)


@dataclass(frozen=True)
class VisionText:
    """A CLIP or SigLIP model, frozen.

    Attributes:
        model: the transformers model.
        architecture: what it is.
        tokenizer: None without a text network.
        device: where it runs.
        batch: rows at once on an accelerator.
    """

    model: Any
    architecture: Architecture
    tokenizer: Any
    device: str
    batch: int = 16

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        device: str = "cpu",
        precision: Precision = "float32",
        part: Part = "both",
        batch: int = 16,
    ) -> "VisionText":
        """Load a transformers folder.

        Args:
            folder: the model's folder.
            device: `cpu`, `cuda:1`, ...
            precision: of weights and arithmetic; `float32` on a CPU.
            part: `pictures` or `texts` leaves the other network out of memory.
            batch: rows at once on an accelerator.

        Raises:
            InputError: the folder holds no such model, or texts are wanted of a picture network.
            MissingExtra: the tokenizer needs a package that is not installed.
        """
        architecture = Architecture.read(folder)
        if part != "pictures" and not architecture.has_text:
            raise InputError(
                folder,
                f"a {architecture.model_type}, which has no text network",
                "a whole CLIP or SigLIP model",
                "Give the folder of the whole model.",
            )
        model = load_model(
            folder,
            CLASSES[architecture.model_type],
            device=device,
            precision=precision,
            reason="embedding",
        )
        if architecture.has_text and part != "both":
            setattr(model, "text_model" if part == "pictures" else "vision_model", None)
        tokenizer = None if part == "pictures" else load_tokenizer(folder, "texts of this model")
        return cls(model, architecture, tokenizer, device, batch)

    @property
    def width(self) -> int:
        """Numbers of an embedding."""
        if self.architecture.model_type.startswith("clip"):
            return int(self.model.visual_projection.out_features)
        config = self.model.config
        return int(getattr(config, "vision_config", config).hidden_size)

    @property
    def text_tokens(self) -> int:
        """Tokens of the text network's window."""
        return int(self.model.config.text_config.max_position_embeddings)

    def embed(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """Unit vectors of pictures of any sizes; a row that is not finite is left so."""
        inputs = []
        for picture in pictures:
            made = self.architecture.picture_input(picture)
            inputs.append(made if isinstance(made, tuple) else (made,))
        return _unit(run_rows(self._pictures, inputs, self.device, self.batch), self.width)

    def embed_words(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors of texts; what does not fit into the window is cut off, see `truncated`.

        SigLIP has learned from lower-case texts that fill the window with padding, and reads its
        last position, without any mask.
        """
        if not texts:
            return np.empty((0, self.width), np.float32)
        encoded = self.tokenizer(
            [self._cased(text) for text in texts],
            padding="max_length",
            truncation=True,
            max_length=self.text_tokens,
            return_attention_mask=True,
        )
        ids = np.asarray(encoded["input_ids"], np.int64)
        masks = np.asarray(encoded["attention_mask"], np.int64)
        rows = list(zip(ids, masks, strict=True))
        return _unit(run_rows(self._texts, rows, self.device, self.batch), self.width)

    def truncated(self, texts: Sequence[str]) -> list[bool]:
        """Whether a text has more tokens than the window, its special ones included."""
        if not texts:
            return []
        ids = self.tokenizer([self._cased(text) for text in texts], verbose=False)["input_ids"]
        return [len(row) > self.text_tokens for row in ids]

    def probability(self, cosine: float) -> float | None:
        """SigLIP's probability that text and picture belong together; None for CLIP.

        `sigmoid(exp(logit_scale) * cosine + logit_bias)`, Zhai et al. 2023, equation 1.
        """
        if self.architecture.model_type.startswith("clip"):
            return None
        scale, bias = exp(float(self.model.logit_scale)), float(self.model.logit_bias)
        logit = scale * cosine + bias
        return 1 / (1 + exp(-logit)) if logit >= 0 else exp(logit) / (1 + exp(logit))

    def _cased(self, text: str) -> str:
        if self.architecture.model_type.startswith("clip"):
            return text
        # The checkpoints of SigLIP 2 name a tokenizer that keeps capitals, which none of them saw.
        return text.lower() if self.tokenizer.init_kwargs.get("do_lower_case", True) else text

    def _pictures(self, pixels: "Tensor", *patches: "Tensor") -> "Tensor":
        values = pixels.to(self.model.dtype)
        network = getattr(self.model, "vision_model", self.model)
        if patches:
            mask, shapes = patches
            if self.architecture.has_text:
                found = network(values, attention_mask=mask, spatial_shapes=shapes)
            else:
                found = network(values, pixel_attention_mask=mask, spatial_shapes=shapes)
            return found.pooler_output
        if self.architecture.model_type == "clip_vision_model":
            return self.model(pixel_values=values).image_embeds
        pooled = network(pixel_values=values).pooler_output
        if self.architecture.model_type == "clip":
            return self.model.visual_projection(pooled)
        return pooled

    def _texts(self, ids: "Tensor", mask: "Tensor") -> "Tensor":
        if self.architecture.model_type == "clip":
            pooled = self.model.text_model(input_ids=ids, attention_mask=mask).pooler_output
            return self.model.text_projection(pooled)
        return self.model.text_model(input_ids=ids).pooler_output


def _unit(rows: Sequence[np.ndarray], width: int) -> np.ndarray:
    values = np.asarray(rows, np.float64).reshape(-1, width)
    with np.errstate(invalid="ignore", divide="ignore"):
        values = values / np.linalg.norm(values, axis=1, keepdims=True)
    return values.astype(np.float32)
