"""The operation `image_text`: how well a picture fits its caption, by CLIP or SigLIP.

`match_scorers` does the same for pictures that were generated from a prompt.

Axes: pictures are uint8 `[H, W, 3]`; embeddings are `[B, D]`, L2-normalised.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from tastemaker.scorers.embedding import provenance, read_unit_vector, subject_pixels
from tastemaker.scorers.model_folder import Precision
from tastemaker.scorers.operation import Measure, Operation, Subject, Values
from tastemaker.scorers.vision_text import VisionText


class ImageText(Operation):
    """Cosine of each picture and its caption, by CLIP or SigLIP; with SigLIP a probability too."""

    NEEDS_WORDS: ClassVar[bool] = True
    FIELDS: ClassVar[Mapping[str, str]] = {
        "cosine": "float32",
        "probability": "float32",
        "caption": "int32",
        "truncated": "bool",
    }
    """`probability` is null with CLIP, which has none; `caption` is the number, from 0, of the
    caption that was scored; `truncated` says that the caption was longer than the model reads."""
    MODELS: ClassVar[Mapping[str, str]] = {"model": "vision"}

    kind: Literal["image_text"] = "image_text"
    """How well a picture fits its caption."""
    model: str
    """A transformers folder or hub id of a whole CLIP, SigLIP or SigLIP 2, or `tiny-clip`."""
    captions: Literal["first", "best"] = "first"
    """Score the first caption, or the one that fits best (ours)."""
    embedding: str | None = None
    """Column with the embeddings of the same model; without one (ours) the picture network runs
    here. Stored embeddings are rounded to float16, which moves a cosine by about 0.0001."""
    precision: Precision = "float32"
    """Of weights and arithmetic (ours). A CPU can only do `float32`."""

    @property
    def needs_pixels(self) -> bool:
        """See `Operation.needs_pixels`: not with stored embeddings."""
        return self.embedding is None

    @property
    def reads(self) -> tuple[str, ...]:
        """The embeddings, if they are stored."""
        return () if self.embedding is None else (self.embedding,)

    def params(self, places: Mapping[str, Path], hashes: Mapping[str, str]) -> dict[str, Any]:
        """See `Operation.params`; also what the network is and how pixels become its input."""
        return {**super().params(places, hashes), **provenance(places["model"])}

    def open(self, places: Mapping[str, Path], device: str) -> Measure:
        """Load the model, without its picture network if embeddings are stored."""
        embedder = VisionText.load(
            places["model"],
            device=device,
            precision=self.precision,
            part="texts" if self.embedding else "both",
            batch=self.BATCH,
        )

        def measure(subjects: Sequence[Subject]) -> list[Values]:
            pictures = self._pictures(embedder, subjects)
            captions = [self._captions(subject) for subject in subjects]
            # All texts at once: an accelerator takes them in batches.
            words = iter(embedder.embed_words([text for one in captions for text in one.values()]))
            return [
                self._fit(embedder, picture, texts, [next(words) for _ in texts])
                for picture, texts in zip(pictures, captions, strict=True)
            ]

        return measure

    def _pictures(
        self, embedder: VisionText, subjects: Sequence[Subject]
    ) -> Sequence[np.ndarray | str]:
        """The pictures' unit vectors, or in words why there is none."""
        if self.embedding is None:
            return list(embedder.embed([subject_pixels(subject) for subject in subjects]))
        found: list[np.ndarray | str] = []
        for subject in subjects:
            try:
                found.append(read_unit_vector(subject, self.embedding, embedder.width))
            except ValueError as error:
                found.append(str(error))
        return found

    def _captions(self, subject: Subject) -> dict[int, str]:
        """The captions to score, by number; those without words are left out."""
        captions = {n: text for n, text in enumerate(subject.captions) if text.strip()}
        return captions if self.captions == "best" else dict(list(captions.items())[:1])

    def _fit(
        self,
        embedder: VisionText,
        picture: np.ndarray | str,
        captions: Mapping[int, str],
        words: Sequence[np.ndarray],
    ) -> Values:
        """The values of one picture; `words` are the unit vectors of its captions."""
        if not captions:
            return {"error": "no caption"}
        if isinstance(picture, str):
            return {"error": picture}
        cosines = np.asarray(words, np.float64) @ np.asarray(picture, np.float64)
        if not np.isfinite(cosines).all():
            return {"error": "the network's output is not finite"}
        best = int(cosines.argmax())
        number, cosine = list(captions)[best], float(np.clip(cosines[best], -1.0, 1.0))
        return {
            "cosine": cosine,
            "probability": embedder.probability(cosine),
            "caption": number,
            "truncated": embedder.truncated([captions[number]])[0],
        }
