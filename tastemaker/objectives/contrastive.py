"""Pictures and texts in one space: the symmetric contrastive loss, with several right answers.

Axes: B pairs of a picture and a text, D dimensions of the embedding.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from tastemaker.diffusion.precision import widen
from tastemaker.objectives.protocol import BatchKind, Terms

Embeddings = Float[Tensor, "B D"]


@dataclass(frozen=True)
class Contrastive:
    """Symmetric InfoNCE where pairs that show the same concept are all positives.

    With S_ij = exp(s) <u_i, w_j> on L2-normalised u (pictures) and w (texts), and P_i the pairs
    that share the concept of pair i:

        term_i = -1/2 * mean over j in P_i of [ log softmax(S_i.)_j + log softmax(S_.i)_j ]

    With one positive each this is CLIP (Radford et al. 2021, figure 3); with several it is UniCL
    (Yang et al. 2022, "Unified contrastive learning in image-text-label space", section 3.2).
    Its least value is then the mean log |P_i|, not 0.

    A term depends on the whole batch: micro-batches change the loss, so there is no accumulation.
    """

    name: ClassVar[str] = "contrastive"
    batch_kind: ClassVar[BatchKind] = "whole"

    def __call__(
        self,
        pictures: Embeddings,
        texts: Embeddings,
        logit_scale: Float[Tensor, ""],
        concepts: Sequence[Hashable],
    ) -> Terms:
        """Terms [B] and metric `accuracy`: how many of the two top-1 answers are right (0, 0.5, 1).

        Args:
            pictures: [B, D], any length above 0.
            texts: [B, D], the text of each picture in the same row.
            logit_scale: s, the *log* of the scale as CLIP stores it; the caller keeps the parameter
                at or below ln(100), as CLIP does.
            concepts: B ids; rows with equal ids are positives of one another.
        """
        u = functional.normalize(widen(pictures), dim=1)
        w = functional.normalize(widen(texts), dim=1)
        # Autocast would take this product in half precision and round the logits to two digits.
        with torch.autocast(u.device.type, enabled=False):
            logits = widen(logit_scale).exp() * (u @ w.T)
        positive = same_concept(concepts).to(logits.device)
        terms = 0.5 * (_cross_entropy(logits, positive) + _cross_entropy(logits.T, positive))
        right = 0.5 * (_top1(logits, positive) + _top1(logits.T, positive))
        return Terms(terms, {"accuracy": right.detach()})


def same_concept(concepts: Sequence[Hashable]) -> Bool[Tensor, "B B"]:
    """[i, j] is true where i and j share a concept; symmetric, with a true diagonal."""
    numbers: dict[Hashable, int] = {}
    ids = torch.tensor([numbers.setdefault(concept, len(numbers)) for concept in concepts])
    return ids[:, None] == ids[None, :]


def _cross_entropy(logits: Tensor, positive: Tensor) -> Tensor:
    """- mean over the positives of a row of its log softmax, [B]."""
    share = positive.to(logits.dtype) / positive.sum(dim=1, keepdim=True)
    return -(share * logits.log_softmax(dim=1)).sum(dim=1)


def _top1(logits: Tensor, positive: Tensor) -> Tensor:
    """1.0 where the highest logit of a row is a positive, [B]."""
    return positive.gather(1, logits.argmax(dim=1, keepdim=True)).squeeze(1).float()
