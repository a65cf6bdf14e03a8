"""What a person is shown, who the person is, and how far they have come."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from tastemaker.records.generation import Prompt
from tastemaker.records.vote import Choice, Reason

Side = Literal["a", "b"]


@dataclass(frozen=True)
class Shown:
    """One comparison as it is put before one rater; on file before the rater sees it.

    Attributes:
        vote_id: made by the server together with the pair; all that a browser sends back.
        study: the study, or `rating` for the head-to-head rating of a collection.
        rater: id of the rater it is for.
        question: name of the question.
        prompt: id of the prompt; empty in a rating.
        a: the first side: a model in a study, a picture in a rating.
        b: the second side.
        left: which of the two stands on the left.
        reason: why this pair was chosen.
        expected: the side that must win; only of gold pairs.
        repeat_of: the vote that this one repeats with sides swapped; only of repeats.
    """

    vote_id: str
    study: str
    rater: str
    question: str
    prompt: str
    a: str
    b: str
    left: Side
    reason: Reason
    expected: Side | None = None
    repeat_of: str | None = None

    @property
    def sides(self) -> tuple[str, str]:
        """What stands on the left, and what on the right."""
        return (self.a, self.b) if self.left == "a" else (self.b, self.a)

    def chosen(self, place: Literal["left", "right"]) -> Choice:
        """The choice that a click on the left or right picture means."""
        other: Side = "b" if self.left == "a" else "a"
        return self.left if place == "left" else other


@dataclass(frozen=True)
class Rater:
    """A person, or what stands in for one.

    Attributes:
        id: in every vote; never the name.
        name: as the owner of the study wrote it; not exported.
        token: opens the rater's page; not exported.
    """

    id: str
    name: str
    token: str


@dataclass(frozen=True)
class Progress:
    """How far a rater has come.

    Attributes:
        done: answers that count, skipped ones and undone ones left out.
        skipped: pairs that were skipped.
        today: answers since a given moment.
        target: answers that are wanted of this rater; None where there is no end.
        seconds: median time of an answer; None before the first.
    """

    done: int
    skipped: int
    today: int
    target: int | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class Question:
    """What is asked about a pair; a changed text is another version.

    Attributes:
        name: short, as in `Vote.question`.
        text: as the rater reads it.
        version: raised when the text changes.
    """

    name: str
    text: str
    version: int = 1


GENERAL = Question("general", "Which image do you prefer?")
"""The wording of the Diffusion-DPO study (Wallace et al. 2023, section 5)."""
APPEAL = Question("appeal", "Which image is more visually appealing, whatever the text says?")
ALIGNMENT = Question("alignment", "Which image fits the text better?")
QUESTIONS: Mapping[str, Question] = {q.name: q for q in (GENERAL, APPEAL, ALIGNMENT)}
"""The three questions of the same study; the wording of the last two is ours."""

RATING = "rating"
"""Name of the study that the votes of a collection's rating belong to."""


@dataclass(frozen=True)
class Contender:
    """One model of a study, or whatever else made the pictures.

    Attributes:
        name: its id in votes; raters never see it.
        about: where the pictures come from.
        files: prompt id -> path of the picture, relative to the study's folder, or absolute.
        hashes: prompt id -> hash of the picture's bytes when the study was made.
    """

    name: str
    about: str
    files: Mapping[str, str]
    hashes: Mapping[str, str]


@dataclass(frozen=True)
class GoldPair:
    """A pair with a known answer: two pictures of one prompt, one of which belongs to another.

    Attributes:
        prompt: id of the prompt that is shown.
        model: whose pictures.
        other: id of the prompt that the wrong picture was made for.
    """

    prompt: str
    model: str
    other: str


@dataclass(frozen=True)
class Study:
    """A planned set of blind comparisons.

    Attributes:
        id: short and made from the plan, so that another plan is another study.
        name: for people.
        contenders: two or more models.
        prompts: what was asked of them.
        questions: what is asked about each pair.
        votes: wanted for each prompt, pair of models and question.
        ties: whether "as good as each other" is an answer.
        both_bad: whether "neither is acceptable" is an answer.
        repeat: share of pairs that a rater sees again with sides swapped.
        gold: pairs with a known answer, each shown at most once to a rater.
        gold_share: share of pairs that are gold.
        show_prompt: whether the text stands above the pictures.
        instructions: page that a rater reads first, plain text.
        seed: of the order and the sides.
    """

    id: str
    name: str
    contenders: tuple[Contender, ...]
    prompts: tuple[Prompt, ...]
    questions: tuple[Question, ...]
    votes: int = 5
    ties: bool = True
    both_bad: bool = True
    repeat: float = 0.05
    gold: tuple[GoldPair, ...] = ()
    gold_share: float = 0.05
    show_prompt: bool = True
    instructions: str = ""
    seed: int = 0
