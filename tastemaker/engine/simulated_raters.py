"""Voters without eyes: they choose by a number that is known of each side, with stated noise.

For tests, for recipes that run without people, and to see what a study of some size can show. They
say nothing about pictures, and everything that they leave is marked `simulated`.
"""

from collections.abc import Callable
from typing import Literal

import numpy as np
from pydantic import Field

from tastemaker.engine.ballot import Ballot, next_pairs
from tastemaker.records.ballot import Shown
from tastemaker.records.config import Config
from tastemaker.records.vote import Choice
from tastemaker.store.people import People

SIMULATED = "simulated"

Taste = Callable[[Shown, Literal["a", "b"]], float]
"""How much a side of a pair is liked, in standard deviations of all sides."""


class Noise(Config):
    """How a simulated rater departs from the number that he judges by."""

    raters: int = Field(default=5, ge=1)
    """How many raters."""
    strength: float = Field(default=2.0, ge=0)
    """Logits that one standard deviation of the number is worth: P(a) = logistic(strength *
    difference); 0 is a coin (ours)."""
    lapses: float = Field(default=0.05, ge=0, le=1)
    """Share of answers given without looking (ours)."""
    left_logits: float = 0.0
    """Added to whatever stands on the left: a bias for one side."""
    ties: float = Field(default=0.1, ge=0, lt=1)
    """Share of ties where both sides are alike; it falls as they differ. None where a study forbids
    ties (ours)."""


def simulate_votes(
    people: People, ballot: Ballot, taste: Taste, noise: Noise, *, votes: int | None, seed: int
) -> int:
    """Let simulated raters answer in turn; returns how many answers they gave.

    Args:
        people: an empty file of votes, or one of an earlier attempt, which is gone on with.
        ballot: what they vote on.
        taste: what they judge by.
        noise: how well.
        votes: when to stop; None when there is nothing left.
        seed: of all answers: each depends on the seed, the rater and the number of the answer.
    """
    raters = [f"{SIMULATED}-{number}" for number in range(noise.raters)]
    counts = {rater: len(people.votes(ballot.study, rater)) for rater in raters}
    active = list(raters)
    while active and (votes is None or sum(counts.values()) < votes):
        rater = min(active, key=lambda one: (counts[one], one))
        moment = float(sum(counts.values()))
        found = next_pairs(people, ballot, rater, 1, now=moment)
        if not found:
            active.remove(rater)
            continue
        number = raters.index(rater)
        random = np.random.default_rng([seed, number, counts[rater]])
        choice = _answer(found[0], ballot, taste, noise, random)
        # Invented, as all of it.
        people.answer(found[0].vote_id, rater, choice, now=moment, seconds=3.0, viewport=SIMULATED)
        counts[rater] += 1
    return sum(counts.values())


def _answer(
    shown: Shown, ballot: Ballot, taste: Taste, noise: Noise, random: np.random.Generator
) -> Choice:
    point, lapse, tie = random.random(3)
    difference = noise.strength * (taste(shown, "a") - taste(shown, "b"))
    difference += noise.left_logits if shown.left == "a" else -noise.left_logits
    chance = 1 / (1 + np.exp(-difference))
    if lapse < noise.lapses:
        chance = 0.5
    elif "tie" in ballot.choices and tie < noise.ties * 4 * chance * (1 - chance):
        return "tie"
    return "a" if point < chance else "b"
