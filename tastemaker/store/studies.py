"""A study on disk: `study.json`, the plan, beside `people.sqlite`, the answers."""

import json
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

from pydantic import ValidationError

from tastemaker.errors import CorruptFile, InputError
from tastemaker.records.ballot import RATING, Study
from tastemaker.records.codec import from_json, to_json
from tastemaker.store.atomic import write_json
from tastemaker.store.hashing import hash_json
from tastemaker.store.people_tables import StoredVote

FILE = "study.json"


def identified(study: Study) -> Study:
    """The study with an id made from all of its plan."""
    digest = hash_json(to_json(replace(study, id="")))
    return replace(study, id=f"s-{digest[:12]}")


def write_study(folder: Path | str, study: Study) -> None:
    """Write the plan.

    Raises:
        InputError: another study is in the folder already.
    """
    path = Path(folder) / FILE
    if path.exists() and read_study(folder).id != study.id:
        raise InputError(
            folder, "another study", "a new folder", "Give another folder: votes belong to a plan."
        )
    write_json(path, to_json(study))


def read_study(folder: Path | str) -> Study:
    """Read the plan.

    Raises:
        InputError: there is none.
        CorruptFile: the file is no plan, or was changed.
    """
    path = Path(folder) / FILE
    if not path.is_file():
        raise InputError(folder, f"no {FILE}", "a study", "Make one: tastemaker study new.")
    try:
        study = from_json(Study, json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, ValidationError) as error:
        raise CorruptFile(f"{path}: not a study ({error}).") from error
    if identified(study).id != study.id:
        raise CorruptFile(f"{path}: was changed after it was made; make a new study instead.")
    return study


def check_votes(study: Study, votes: Sequence[StoredVote], where: Path) -> list[StoredVote]:
    """The votes as those of a study: one that names none is taken as one of this.

    Raises:
        InputError: a vote of another study, or on what this one does not ask.
    """
    names = {one.name for one in study.contenders}
    prompts = {prompt.id for prompt in study.prompts}
    questions = {question.name for question in study.questions}
    answers = {"a", "b", "skip"} | ({"tie"} if study.ties else set())
    answers |= {"both_bad"} if study.both_bad else set()
    for stored in votes:
        vote = stored.vote
        sides = {vote.a, vote.b} if vote.reason != "gold" else {vote.a}
        wrong = {
            f"a vote of the study {stored.study}": stored.study not in ("", study.id),
            f"the prompt {vote.prompt!r:.60}": vote.prompt not in prompts,
            f"the sides {vote.a!r:.60} and {vote.b!r:.60}": not sides <= names,
            f"the question {vote.question!r:.60}": vote.question not in questions,
            f"the answer {vote.choice}": vote.choice not in answers,
        }
        problem = next((what for what, is_wrong in wrong.items() if is_wrong), None)
        if problem is not None:
            raise InputError(
                f"{where}, vote {vote.id}",
                problem,
                f"votes of the study {study.id} ({study.name})",
                "Nothing was added: name the study that these votes belong to.",
            )
    return [one if one.study else replace(one, study=study.id) for one in votes]


def check_rating_votes(
    pictures: Collection[str], votes: Sequence[StoredVote], where: Path
) -> list[StoredVote]:
    """The votes as those of a collection's rating: one that names no study is taken as one of it.

    Args:
        pictures: ids of the collection's.
        votes: from a file.
        where: that file, for the message.

    Raises:
        InputError: a vote of a study, or on a picture that the collection does not have.
    """
    for stored in votes:
        vote = stored.vote
        unknown = next((id_ for id_ in (vote.a, vote.b) if id_ not in pictures), None)
        is_own = stored.study in ("", RATING)
        if is_own and unknown is None:
            continue
        raise InputError(
            f"{where}, vote {vote.id}",
            f"the picture {unknown!r:.60}" if is_own else f"a vote of the study {stored.study}",
            "votes on pictures of this collection",
            "Nothing was added: name the collection that these votes belong to.",
        )
    return [one if one.study else replace(one, study=RATING) for one in votes]
