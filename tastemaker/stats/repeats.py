"""How often raters give the same answer to the same pair again, and the right one to gold pairs."""

from collections.abc import Collection, Iterable

from tastemaker.records.vote import Reason, Vote


def repeat_agreement(
    votes: Iterable[Vote], of: Collection[Reason] = ("random", "active")
) -> dict[str, tuple[int, int]]:
    """Rater -> (same answers, repeats), over pairs where both answers chose a side.

    A repeat is compared with the rater's first answer to that pair. Its sides were swapped, so a
    rater who always takes the left one agrees with himself never.

    Args:
        votes: that count, in the order in which they came.
        of: only pairs that were first shown for one of these reasons. Beside the accuracy on blind
            pairs belong repeats of blind pairs: of pairs that were chosen for being close, nobody
            agrees with himself as often.
    """
    first: dict[tuple[str, str, str, frozenset[str]], str] = {}
    found: dict[str, tuple[int, int]] = {}
    for vote in votes:
        if vote.choice not in ("a", "b"):
            continue
        winner = vote.a if vote.choice == "a" else vote.b
        key = (vote.rater, vote.question, vote.prompt, frozenset((vote.a, vote.b)))
        if vote.reason != "repeat":
            if vote.reason not in of:
                continue
            first.setdefault(key, winner)
        elif key in first:
            same, total = found.get(vote.rater, (0, 0))
            found[vote.rater] = (same + (first[key] == winner), total + 1)
    return found


def gold_accuracy(votes: Iterable[Vote]) -> dict[str, tuple[int, int]]:
    """Rater -> (right answers, gold pairs); a is the right side of every gold pair, ties are wrong.

    Skipped ones are not counted.
    """
    found: dict[str, tuple[int, int]] = {}
    for vote in votes:
        if vote.reason == "gold" and vote.choice != "skip":
            right, total = found.get(vote.rater, (0, 0))
            found[vote.rater] = (right + (vote.choice == "a"), total + 1)
    return found
