"""Scorers that compare a picture with its text by two networks: CLIP, SigLIP and PickScore.

Axes: pictures are uint8 `[H, W, 3]`.
"""

from collections.abc import Callable, Mapping, Sequence
from math import exp
from typing import ClassVar, Literal

import numpy as np

from tastemaker.errors import InputError
from tastemaker.scorers.protocol import Needs, Scorer, checked
from tastemaker.scorers.scoring import About, Found, Scoring, finite
from tastemaker.scorers.vision_text import VisionText


class MatchScorer:
    """A constant times the cosine of picture and text.

    Args:
        embedder: both networks.
        name: of the scorer.
        version: of the scorer.
        backbone: the model's name and hash.
        unit: of the values.
        scale: what the cosine is multiplied by.
        cleaned: what is done to a text before the tokenizer.
    """

    higher_is_better = True
    needs: Needs = "image+text"

    def __init__(
        self,
        embedder: VisionText,
        *,
        name: str,
        version: str,
        backbone: str,
        unit: str = "cosine",
        scale: float = 1.0,
        cleaned: Callable[[str], str] = lambda text: text,
    ) -> None:
        self._embedder, self._scale, self._cleaned = embedder, scale, cleaned
        self.name, self.version, self.backbone, self.unit = name, version, backbone, unit
        self.preprocessing = embedder.architecture.picture_input.hash
        self.range = (-scale, scale)
        self.window = embedder.text_tokens

    def score(self, pictures: Sequence[np.ndarray], texts: Sequence[str] | None) -> np.ndarray:
        """See `Scorer.score`; texts are the prompts as the generator saw them."""
        texts = [self._cleaned(text) for text in checked(pictures, texts, self.needs)]
        if not len(pictures):
            return np.empty(0)
        # Pictures of one prompt stand together, and a text is embedded once.
        places = {text: place for place, text in enumerate(dict.fromkeys(texts))}
        words = self._embedder.embed_words(list(places)).astype(np.float64)
        images = self._embedder.embed(pictures).astype(np.float64)
        cosines = (images * words[[places[text] for text in texts]]).sum(axis=1)
        # Two unit vectors of float32 may be longer than 1 by a rounding.
        return finite(cosines.clip(-1.0, 1.0) * self._scale, self.name)

    def truncated(self, texts: Sequence[str]) -> list[bool]:
        """See `ReadsTexts.truncated`."""
        return self._embedder.truncated([self._cleaned(text) for text in texts])


def open_match(model: Found, name: str, device: str) -> MatchScorer:
    """The cosine of any CLIP or SigLIP, under a name of one's own.

    Raises:
        InputError: the folder holds no such model.
    """
    embedder = VisionText.load(model.path, device=device)
    return MatchScorer(embedder, name=name, version="2", backbone=model.label)


class _Match(Scoring):
    """What CLIP, SigLIP and PickScore have in common."""

    MODELS: ClassVar[Mapping[str, str]] = {"model": "vision"}
    TYPES: ClassVar[str]
    """How the `model_type` of a fitting `config.json` begins."""

    model: str
    """A transformers folder or hub id."""

    def _load(self, models: Mapping[str, Found], device: str) -> VisionText:
        embedder = VisionText.load(
            models["model"].path, device=device, precision=self.precision, batch=self.batch
        )
        kind = embedder.architecture.model_type
        if not kind.startswith(self.TYPES):
            raise InputError(
                models["model"].path,
                f"a model of type {kind}",
                f"one of type {self.TYPES} for the scorer {self.kind}",
                "Correct `kind` or `model`.",
            )
        return embedder

    def _scorer(self, models: Mapping[str, Found], device: str) -> Scorer:
        return MatchScorer(
            self._load(models, device),
            name=self.column,
            version="1",
            backbone=models["model"].label,
        )


class Clip(_Match):
    """Cosine of picture and prompt by a CLIP, in -1..1; not clipped, not multiplied.

    Score packages multiply it by 100 (logits) or clip it at zero and multiply by 2.5 (Hessel et
    al. 2021, "CLIPScore", equation 1).
    """

    ABOUT: ClassVar[About] = "text"
    TYPES: ClassVar[str] = "clip"

    kind: Literal["clip"] = "clip"
    """How well a picture fits its prompt."""
    model: str = "tiny-clip"
    """A transformers folder or hub id of a CLIP, such as `openai/clip-vit-large-patch14`."""

    def open(self, models: Mapping[str, Found], device: str) -> Scorer:
        """Load both networks."""
        return self._scorer(models, device)


class Siglip(_Match):
    """Cosine of picture and prompt by a SigLIP or SigLIP 2, in -1..1 (Zhai et al. 2023).

    Its probability, `ImageText.probability`, is the same order within one model and near 0 or 1 for
    most pictures, so the cosine is compared.
    """

    ABOUT: ClassVar[About] = "text"
    TYPES: ClassVar[str] = "siglip"

    kind: Literal["siglip"] = "siglip"
    """How well a picture fits its prompt."""

    def open(self, models: Mapping[str, Found], device: str) -> Scorer:
        """Load both networks."""
        return self._scorer(models, device)


class PickScore(_Match):
    """PickScore v1 (Kirstain et al. 2023, equation 1): a CLIP ViT-H/14 tuned on people's choices.

    `exp(logit_scale) * cosine`; the softmax of two such logits is the probability that one is
    preferred. Levels differ from prompt to prompt: only pictures of one prompt are compared.
    """

    ABOUT: ClassVar[About] = "preference"
    TYPES: ClassVar[str] = "clip"

    kind: Literal["pick_score"] = "pick_score"
    """Which picture people prefer for a prompt."""
    model: str = "yuvalkirstain/PickScore_v1"
    """A transformers folder or hub id."""
    unit: Literal["logit", "cosine"] = "logit"
    """`logit` is the published score, mostly within 18..24; `cosine` leaves the scale out."""

    def open(self, models: Mapping[str, Found], device: str) -> Scorer:
        """Load both networks."""
        embedder = self._load(models, device)
        scale = exp(float(embedder.model.logit_scale)) if self.unit == "logit" else 1.0
        return MatchScorer(
            embedder,
            name=self.column,
            version="v1/1",
            backbone=models["model"].label,
            unit=self.unit,
            scale=scale,
        )
