"""The kinds of sources that pairs are made from, as recipes name them."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, model_validator

from tastemaker.curation.voted_pairs import BothBad
from tastemaker.records.config import Config


class CollectionPairs(Config):
    """Comparisons that the pictures of a collection came with."""

    kind: Literal["collection"] = "collection"
    """Pick-a-Pic's files, or kohya's folders `w/` and `l/`, as `collect` has read them."""


class FilePairs(Config):
    """Comparisons in a JSONL file."""

    kind: Literal["file"] = "file"
    """Lines with `prompt`, `winner` and `loser` (paths, or ids of a collection's pictures), perhaps
    `label` (1, 0, 0.5 or `tie`) and `margin`."""


class VotePairs(Config):
    """Votes of studies and rating pages: a file of them, or the folder of a study."""

    kind: Literal["votes"] = "votes"
    """The majority of each prompt and two pictures."""
    question: str = "general"
    """The question whose answers count; answers to different questions are never pooled."""
    both_bad: BothBad = "drop"
    """What a majority for both-bad means: `drop` it, or a `tie` (ours)."""
    least_votes: int = Field(default=1, ge=1)
    """Pictures with fewer votes give no pair."""


class ScoredPairs(Config):
    """Generated pictures of the same prompt, told apart by a score."""

    kind: Literal["scored"] = "scored"
    """Values of a `scores` file, or of a scorer that the step runs itself."""
    scorer: str
    """Its name in the file of scores; without one `image_text` or, for tests of a method with a
    taste that can be stated in a line, `pixels.NAME` (see `pixels` in Collections)."""
    higher_is_better: bool | None = None
    """The direction of good; by default what the scorer says of itself."""
    select: Literal["best_worst", "all"] = "best_worst"
    """`best_worst` makes one pair a prompt, `all` one of any two pictures of it. Equal scores are
    ties, whatever the order of the pictures."""
    models: dict[str, str] = Field(default_factory=dict)
    """Model as the scores call it -> name of the sample set, where the two differ."""
    held_out_scorer: str | None = None
    """A scorer that later judges the model: it must not be the one that selects here."""

    @model_validator(mode="after")
    def _judge_is_another(self) -> "ScoredPairs":
        if self.held_out_scorer == self.scorer:
            raise ValueError(
                f"held_out_scorer: '{self.scorer}' selects the pairs, so it cannot judge what is "
                "learned from them; name another one of the two"
            )
        return self


class SelfPlayPairs(Config):
    """Real pictures against the model's own ones of their captions (SPIN)."""

    kind: Literal["self_play"] = "self_play"
    """Winners are the pictures of a selection, losers are samples of the same prompt."""
    caption: int = Field(default=0, ge=0)
    """Which caption of a real picture: 0 is the first. The samples are made from the same."""
    losers: Literal["one", "all"] = "one"
    """`one` sample for each real picture; those that share a caption take turns."""


AnyPairSource = Annotated[
    CollectionPairs | FilePairs | VotePairs | ScoredPairs | SelfPlayPairs,
    Field(discriminator="kind"),
]
NEEDED: Mapping[str, tuple[str, ...]] = {
    "collection": ("collection",),
    "file": ("file",),
    "votes": ("file",),
    "scored": ("samples",),
    "self_play": ("collection", "selection", "samples"),
}
"""Kind of source -> inputs that it cannot do without."""
