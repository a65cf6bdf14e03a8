"""Training a small image-text model (CLIP) on pictures held in memory and their captions."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from tastemaker.models.image_text import ImageText
from tastemaker.objectives.contrastive import Contrastive
from tastemaker.objectives.protocol import Terms
from tastemaker.records.draws import Draw
from tastemaker.records.run import Visit
from tastemaker.training.prompting import Prompter

MAX_LOGIT_SCALE = math.log(100.0)
"""CLIP's ceiling of the log scale (Radford et al. 2021, section 2.5, arXiv:2103.00020)."""


class ImageTextTask:
    """Symmetric contrastive training; pictures of one concept are each other's positives."""

    whole_batch = True

    def __init__(
        self,
        model: ImageText,
        prompter: Prompter,
        pictures: Mapping[str, Tensor],
        objective: Contrastive,
        *,
        seed: int,
        held_out: Sequence[str] = (),
    ) -> None:
        """Args: pictures: uint8 [3, H, W] by id; held_out: ids only validated on."""
        self.model, self.prompter, self.pictures = model, prompter, pictures
        self.objective, self.seed = objective, seed
        self.held_out = tuple(held_out)

    def modules(self) -> Mapping[str, nn.Module]:
        """The whole CLIP model."""
        return {"clip": self.model.model}

    def terms(self, visits: Sequence[Visit]) -> Terms:
        """Contrastive loss of each visit against the others of the batch."""
        texts = [self.prompter.text(visit) for visit in visits]
        pixels = torch.stack([self._augmented(v) for v in visits])
        return self._terms(pixels, texts, [v.sample_id for v in visits])

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Loss and top-1 accuracy among the held-out pictures, first captions."""
        if not self.held_out:
            return {}
        pixels = torch.stack([self.pictures[i] for i in self.held_out])
        texts = [self.prompter.plain(i) for i in self.held_out]
        terms = self._terms(pixels, texts, self.held_out)
        figures = {
            f"validation/{name}": float(value.mean()) for name, value in terms.metrics.items()
        }
        return {"validation/loss": float(terms.per_sample.mean()), **figures}

    def _terms(self, pixels: Tensor, texts: Sequence[str], ids: Sequence[str]) -> Terms:
        return self.objective(
            self.model.picture_features(pixels),
            self.model.text_features(texts),
            self.model.model.logit_scale.clamp(max=MAX_LOGIT_SCALE),
            [self.prompter.records[i].key for i in ids],
        )

    def _augmented(self, visit: Visit) -> Tensor:
        """Shift by up to 4 pixels and mirror half of the time, edges repeated."""
        picture = self.pictures[visit.sample_id]
        random = Draw(self.seed, "shift", visit.sample_id, visit.visit).generator()
        top, left, mirror = (int(random.integers(n)) for n in (9, 9, 2))
        height, width = picture.shape[1:]
        padded = nn.functional.pad(picture[None].float(), (4, 4, 4, 4), mode="replicate")[0]
        moved = padded[:, top : top + height, left : left + width].to(picture.dtype)
        return moved.flip(2) if mirror else moved
