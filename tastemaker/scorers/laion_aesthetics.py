"""The scorer `laion_aesthetics`: LAION-Aesthetics V2 of generated pictures.

`aesthetic` does the same to stored embeddings of a collection.

Axes: pictures are uint8 `[H, W, 3]`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar, Literal

import numpy as np

from tastemaker.errors import InputError
from tastemaker.scorers.aesthetic import LinearHead
from tastemaker.scorers.picture_input import PictureInput
from tastemaker.scorers.protocol import Needs, Scorer, checked
from tastemaker.scorers.scoring import About, Found, Scoring, finite
from tastemaker.scorers.square_input import CroppedSquare
from tastemaker.scorers.vision_text import VisionText

_PUBLISHED_WIDTH, _PUBLISHED_ACTIVATION = 768, "quick_gelu"


class AestheticsScorer:
    """An affine map of a picture's CLIP embedding (Schuhmann 2022).

    Args:
        embedder: the picture network.
        head: the map.
        name: of the scorer.
        backbone: names and hashes of network and head.
    """

    version = "V2/1"
    unit = "points"
    higher_is_better = True
    needs: Needs = "image"

    def __init__(self, embedder: VisionText, head: LinearHead, name: str, backbone: str) -> None:
        self._embedder, self._head = embedder, head
        self.name, self.backbone = name, backbone
        self.preprocessing = embedder.architecture.picture_input.hash
        length = float(np.linalg.norm(head.weights))
        self.range = (head.bias - length, head.bias + length)

    def score(self, pictures: Sequence[np.ndarray], texts: Sequence[str] | None) -> np.ndarray:
        """See `Scorer.score`; texts are not looked at."""
        checked(pictures, texts, self.needs)
        vectors = self._embedder.embed(pictures)
        return finite(np.array([self._head(vector) for vector in vectors]), self.name)


class LaionAesthetics(Scoring):
    """How much people like the look of a picture, mostly within 3..8, whatever its text says."""

    MODELS: ClassVar[Mapping[str, str]] = {"model": "vision", "head": "head"}
    ABOUT: ClassVar[About] = "aesthetics"

    kind: Literal["laion_aesthetics"] = "laion_aesthetics"
    """LAION-Aesthetics V2."""
    head: str
    """The head's file: `sac+logos+ava1-l14-linearMSE.pth`, or the same collapsed to `w` and `b`."""
    model: str = "openai/clip-vit-large-patch14"
    """A transformers folder or hub id of OpenAI's CLIP ViT-L/14, which the head was fitted on."""

    def open(self, models: Mapping[str, Found], device: str) -> Scorer:
        """Load the picture network and the head."""
        head = LinearHead.read(models["head"].path)
        embedder = VisionText.load(
            models["model"].path,
            device=device,
            precision=self.precision,
            part="pictures",
            batch=self.batch,
        )
        self._check(models, head, embedder)
        made = embedder.architecture.picture_input
        if isinstance(made, PictureInput) and made.crop is not None:
            # The head was fitted on pictures as torchvision crops them.
            square = CroppedSquare(made.crop[0], made.normalisation)
            architecture = replace(embedder.architecture, picture_input=square)
            embedder = replace(embedder, architecture=architecture)
        backbone = f"{models['model'].label} + {models['head'].label}"
        return AestheticsScorer(embedder, head, self.column, backbone)

    def _check(self, models: Mapping[str, Found], head: LinearHead, embedder: VisionText) -> None:
        if head.weights.size != embedder.width:
            raise InputError(
                models["head"].path,
                f"a head for embeddings of {head.weights.size} numbers",
                f"one for those of {models['model'].label}, of {embedder.width}",
                "Use the head with OpenAI's CLIP ViT-L/14.",
            )
        config = embedder.model.config
        activation = getattr(config, "vision_config", config).hidden_act
        if head.weights.size == _PUBLISHED_WIDTH and activation != _PUBLISHED_ACTIVATION:
            # The same shapes with another activation give other numbers, which look right.
            raise InputError(
                models["model"].path,
                f"a picture network with the activation {activation}",
                f"OpenAI's CLIP ViT-L/14, with {_PUBLISHED_ACTIVATION}",
                "Use openai/clip-vit-large-patch14.",
            )
