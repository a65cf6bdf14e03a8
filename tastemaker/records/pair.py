"""Two pictures of one prompt with a preference, before and after the rules have looked at them."""

from dataclasses import dataclass
from typing import Literal

from tastemaker.records.size import Size

Split = Literal["train", "heldout"]


@dataclass(frozen=True)
class Comparison:
    """What a source says of two pictures; it may be no usable comparison at all.

    Attributes:
        key: the source's own name of it, for the list of what was dropped.
        prompt: the text that both were made for.
        first: id of the first picture; empty where there is none.
        second: id of the second picture.
        label: the first picture's share of the preference: 1, 0, or 0.5 for a tie; None when
            nobody answered.
        source: what it came from.
        margin: by how much the preferred one is better, in the source's unit, 0 for a tie; None
            where the source does not say.
        models: what made the first and the second picture; empty where that is unknown.
        facts: what else is known, as name-value pairs.
        problem: why it is no comparison; empty where it is one.
    """

    key: str
    prompt: str
    first: str
    second: str
    label: float | None
    source: str
    margin: float | None = None
    models: tuple[str, str] = ("", "")
    facts: tuple[tuple[str, str], ...] = ()
    problem: str = ""


@dataclass(frozen=True)
class Pair:
    """What preference training takes: a prompt, a winner, a loser; a tie is a tie.

    Attributes:
        id: hash of the prompt and the two pictures, in no order: turning the preference round
            changes none of the draws that are keyed by it.
        prompt: the text.
        winner: id of the preferred picture, the hash of its file.
        loser: id of the other one.
        label: 1 where the winner is preferred, 0.5 for a tie.
        margin: by how much, in the source's unit; None where unknown.
        source: what it came from.
        facts: `winner_model`, `loser_model` and what else was kept, as name-value pairs.
        split: `train` or `heldout`; pairs of one prompt are always on one side.
    """

    id: str
    prompt: str
    winner: str
    loser: str
    label: float
    margin: float | None
    source: str
    facts: tuple[tuple[str, str], ...] = ()
    split: Split = "train"

    def fact(self, name: str) -> str | None:
        """The value of one fact, or None."""
        return dict(self.facts).get(name)


@dataclass(frozen=True)
class PairPicture:
    """A picture of a pair, and where it is.

    Attributes:
        id: hash of the file's bytes.
        path: where the file lies.
        size: height and width, upright.
        source: what it is called where it comes from.
        latents: folder of the latents that were kept when it was generated; empty for none.
        latent: key of its own there.
    """

    id: str
    path: str
    size: Size
    source: str = ""
    latents: str = ""
    latent: str = ""


@dataclass(frozen=True)
class DroppedComparison:
    """A verdict: a comparison that became no pair, with what was found and what was asked.

    Attributes:
        key: the source's own name of the comparison, or of the picture that could not be used.
        source: what it came from.
        reason: in words that are the same for all of a kind.
        got: what was found.
        limit: what was asked for.
        first: id of the first picture.
        second: id of the second picture.
    """

    key: str
    source: str
    reason: str
    got: str = ""
    limit: str = ""
    first: str = ""
    second: str = ""
