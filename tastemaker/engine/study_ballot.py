"""The pairs of a study: every prompt, pair of models and question, as often as was planned."""

from itertools import combinations
from pathlib import Path

from tastemaker.engine.ballot import Ballot, Repeats, Sides, lot, show
from tastemaker.errors import InputError
from tastemaker.records.ballot import Shown, Side, Study
from tastemaker.records.vote import Choice
from tastemaker.store.people import People
from tastemaker.store.people_tables import pair_of
from tastemaker.store.studies import read_study

_FEW = 16

OTHER = "@"
"""`MODEL@PROMPT`: a gold pair's wrong side, the picture of another prompt."""


class StudyBallot(Ballot):
    """A study's pairs.

    A rater stays with one question until it has no more pairs; who begins with which is by lot. Of
    a question, prompts with the fewest votes come first, each rater's in an order of their own: a
    study that stops early has heard about as many prompts as possible.

    Args:
        study: the plan.
        folder: that paths are relative to.
    """

    def __init__(self, study: Study, folder: Path) -> None:
        super().__init__()
        self.plan = study
        self.study, self.questions, self.most = study.id, study.questions, study.votes
        self.instructions = study.instructions
        extra: tuple[Choice, ...] = (("tie",) if study.ties else ()) + (
            ("both_bad",) if study.both_bad else ()
        )
        self.choices = ("a", "b", *extra, "skip")
        self._folder = folder
        self._texts = {prompt.id: prompt.text for prompt in study.prompts}
        self._files = {one.name: one.files for one in study.contenders}
        names = [one.name for one in study.contenders]
        self._slots = [
            (prompt.id, pair) for prompt in study.prompts for pair in combinations(names, 2)
        ]

    def text(self, prompt: str) -> str:
        """The prompt's text, where the study shows it."""
        return self._texts.get(prompt, "") if self.plan.show_prompt else ""

    def picture(self, shown: Shown, side: Side) -> Path:
        """The picture of a model for the prompt; of a gold pair perhaps that of another prompt."""
        name, _, other = (shown.a if side == "a" else shown.b).partition(OTHER)
        file = self._files.get(name, {}).get(other or shown.prompt)
        if file is None:
            raise InputError(self._folder, f"no picture of {name}", "one", "Reload.")
        return Path(file) if Path(file).is_absolute() else self._folder / file

    def target(self, people: People, rater: str, now: float) -> int | None:
        """What the rater has done, and every pair that is still open to the rater."""
        shown = people.shown(self.study, rater)
        mine = {(s.question, s.prompt, pair_of(s.a, s.b)) for s in shown if _fills(s)}
        taken = people.taken(self.study, now=now)
        open_ = sum(
            key not in mine and taken[key] < self.most
            for question in self.questions
            for prompt, pair in self._slots
            for key in [(question.name, prompt, pair_of(*pair))]
        )
        done = people.progress(self.study, rater).done
        return done + len(people.held(self.study, rater, now=now)) + open_

    def propose(self, people: People, rater: str, now: float) -> list[Shown]:
        """The next few open pairs, with repeats and gold pairs among them."""
        votes = people.votes(self.study, rater)
        given = {v.vote.id for v in votes}
        waiting = {s.vote_id for s in people.held(self.study, rater, now=now)}
        # What was handed out and never answered may be handed out again.
        shown = [s for s in people.shown(self.study, rater) if s.vote_id in given | waiting]
        self.sides[rater] = Sides(shown, self.plan.seed, rater)
        repeats = Repeats(shown, {v.vote.id for v in votes if v.vote.choice != "skip"})
        gold = self._gold_left(shown, rater)
        found: list[Shown] = []
        number = len(shown)
        for question, prompt, pair in self._open(people, shown, rater, now):
            point = lot(self.plan.seed, rater, "reason", number)
            again = repeats.draw(point / self.plan.repeat) if point < self.plan.repeat else None
            if again is not None:
                found.append(again)
                number += 1
            elif gold and self.plan.repeat <= point < self.plan.repeat + self.plan.gold_share:
                model, text, other = gold.pop(0)
                sides_of = (model, f"{model}{OTHER}{other}")
                found.append(show(self, rater, question, sides_of, "gold", text, expected="a"))
                number += 1
            found.append(show(self, rater, question, pair, "random", prompt))
            number += 1
        return found

    def _open(
        self, people: People, shown: list[Shown], rater: str, now: float
    ) -> list[tuple[str, str, tuple[str, str]]]:
        """(question, prompt, pair) that the rater may answer: a few of one question."""
        mine = {(s.question, s.prompt, pair_of(s.a, s.b)) for s in shown if _fills(s)}
        taken = people.taken(self.study, now=now)
        seed = self.plan.seed
        names = [question.name for question in self.questions]
        first = int(lot(seed, rater, "question") * len(names))
        for question in names[first:] + names[:first]:
            ranked = []
            for prompt, pair in self._slots:
                key = (question, prompt, pair_of(*pair))
                if key not in mine and taken[key] < self.most:
                    ranked.append((taken[key], lot(seed, rater, *key), prompt, pair))
            if ranked:
                ranked.sort()
                return [(question, prompt, pair) for _, _, prompt, pair in ranked[:_FEW]]
        return []

    def _gold_left(self, shown: list[Shown], rater: str) -> list[tuple[str, str, str]]:
        """(model, prompt, other prompt) of the gold pairs that the rater has not seen, by lot."""
        seen = {(s.prompt, s.b) for s in shown if s.reason == "gold"}
        left = [
            (one.model, one.prompt, one.other)
            for one in self.plan.gold
            if (one.prompt, f"{one.model}{OTHER}{one.other}") not in seen
        ]
        return sorted(left, key=lambda one: lot(self.plan.seed, rater, *one))


def _fills(shown: Shown) -> bool:
    return shown.reason in ("random", "active")


def open_study(folder: Path | str) -> StudyBallot:
    """The ballot of a study's folder; its votes are in `people.sqlite` there.

    Raises:
        InputError: there is no study.
        CorruptFile: its plan was changed.
    """
    folder = Path(folder)
    return StudyBallot(read_study(folder), folder)
