"""Does the side on which a picture is shown sway the voters?"""

from collections.abc import Iterable
from dataclasses import dataclass

from tastemaker.records.vote import Vote
from tastemaker.stats.interval import Interval
from tastemaker.stats.winrate import wilson

_DECIDED = ("a", "b")


@dataclass(frozen=True)
class SideBias:
    """How often the left picture was chosen.

    Attributes:
        left: P(left) over votes that chose a side; 0.5 is no bias.
        shown_left: share of those votes in which side a was on the left; a balanced study has 0.5.
        if_left: P(a is chosen) where a was on the left.
        if_right: P(a is chosen) where a was on the right; the difference is the bias's effect.
    """

    left: Interval
    shown_left: float
    if_left: float | None
    if_right: float | None


def side_bias(votes: Iterable[Vote], level: float = 0.95) -> SideBias:
    """P(left) with Wilson's interval, over the votes that chose a side.

    The side is drawn anew for every vote, so under no bias the votes are independent draws with
    probability 1/2 whatever the prompts are: here, and only here, the unit is the vote. A new model
    always on the left makes a preference of 4 points for the left look like a better model in 89 %
    of studies of 1,632 prompts; balanced sides take that away.

    Raises:
        ValueError: no vote chose a side.
    """
    decided = [vote for vote in votes if vote.choice in _DECIDED]
    if not decided:
        raise ValueError("a side bias needs at least one vote that chose a side")
    chose_left = sum(vote.choice == vote.left for vote in decided)
    a_left = [vote.choice == "a" for vote in decided if vote.left == "a"]
    a_right = [vote.choice == "a" for vote in decided if vote.left == "b"]
    return SideBias(
        left=wilson(chose_left, len(decided), level),
        shown_left=len(a_left) / len(decided),
        if_left=sum(a_left) / len(a_left) if a_left else None,
        if_right=sum(a_right) / len(a_right) if a_right else None,
    )
