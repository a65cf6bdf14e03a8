"""From what is known of a picture to the text that training sees."""

from collections.abc import Sequence
from dataclasses import dataclass

from tastemaker.records.draws import Draw
from tastemaker.records.image import ImageRecord


@dataclass(frozen=True)
class CaptionChoice:
    """How one of a picture's captions is drawn at each visit.

    Attributes:
        weights: relative frequency of the first, second, ... caption; captions past the list are
            never drawn, and a picture with fewer captions draws among those that it has.
        empty: share of visits that train with the empty text "", which generation passes as the
            negative prompt (Ho & Salimans 2022, arXiv:2207.12598).
    """

    weights: tuple[float, ...] = (1.0,)
    empty: float = 0.0

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not self.weights or min(self.weights) < 0 or self.weights[0] <= 0:
            raise ValueError(f"caption weights must be >= 0 and start with one > 0: {self.weights}")
        if not 0 <= self.empty < 1:
            raise ValueError(f"the share of empty texts must be in [0, 1): {self.empty}")


def choose_caption(record: ImageRecord, choice: CaptionChoice, draw: Draw) -> str:
    """The text of one visit: empty with probability `choice.empty`, else a caption by weight."""
    random = draw.generator()
    if random.random() < choice.empty or not record.captions:
        return ""
    return record.captions[_weighted_index(choice.weights[: len(record.captions)], random.random())]


def _weighted_index(weights: Sequence[float], uniform: float) -> int:
    """The index whose share of the summed weights holds the point `uniform` in [0, 1)."""
    point = uniform * sum(weights)
    for index, weight in enumerate(weights):
        point -= weight
        if point < 0:
            return index
    return len(weights) - 1
