"""The texts of pairs: one text for both sides, sometimes the empty one."""

from collections.abc import Mapping

from tastemaker.records.draws import Draw
from tastemaker.records.run import Visit

EMPTY = ""
"""The text of a dropped caption; never zeros in the place of its states."""


class PairPrompter:
    """The prompt of a pair, or the empty text, drawn by pair and visit: both sides have the same.

    A side of its own draw would teach that a prompt makes a picture better or worse, a known defect
    of another trainer.
    """

    few_texts = True
    """The same texts come again and again, so that their states are worth keeping."""

    def __init__(self, prompts: Mapping[str, str], seed: int, empty: float = 0.0) -> None:
        """Texts.

        Args:
            prompts: pair id -> prompt.
            seed: the run's.
            empty: probability of the empty text: 0.2 in the DPO authors' code, 0 there for Turbo.

        Raises:
            ValueError: `empty` is not a probability below 1.
        """
        if not 0.0 <= empty < 1.0:
            raise ValueError(f"share of empty texts must lie in [0, 1), got {empty}")
        self.prompts, self.seed, self.empty = prompts, seed, empty

    def text(self, visit: Visit) -> str:
        """The text of one visit of a pair (`sample_id` is the pair's)."""
        if self.empty:
            draw = Draw(self.seed, "caption dropout", visit.sample_id, visit.visit)
            if draw.uniform() < self.empty:
                return EMPTY
        return self.prompts[visit.sample_id]

    def plain(self, pair_id: str) -> str:
        """The text of a pair in every validation."""
        return self.prompts[pair_id]

    def longest(self) -> list[str]:
        """Texts that no text of the run is longer than."""
        return list(dict.fromkeys(self.prompts.values()))
