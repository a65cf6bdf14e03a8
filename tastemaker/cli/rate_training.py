"""`tastemaker rate COLLECTION --train`: from the votes on file to a quality model."""

from collections.abc import Sequence
from pathlib import Path

import typer

from tastemaker.cli.session import session as get_session
from tastemaker.cli.stage import run_stage


def train(
    context: typer.Context,
    collection: Path,
    words: Sequence[str],
    *,
    out: Path | None,
    recipe: str | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Write the votes that count to `votes.jsonl`, train on them, and write the report.

    The file is what the step depends on: the same votes are not trained on twice, new ones are.

    Raises:
        InputError: nobody has rated this collection.
    """
    session = get_session(context, as_json)
    given = list(words)
    if not any(word.startswith("votes=") for word in given):
        given.append(f"votes={_votes_of(collection)}")
    steps = run_stage(
        context,
        "quality_model",
        [f"collection={collection}", *given],
        out=out,
        recipe=recipe,
        dry_run=dry_run,
        as_json=as_json,
        tell=False,
    )
    if steps is None:
        return
    from tastemaker.report.quality_page import write_quality_page

    step = Path(steps[-1]["path"])
    page = write_quality_page(step)
    if as_json:
        session.result({"run": session.run, "steps": steps, "report": page})
        return
    session.say(str(page))
    session.say(str(step))


def _votes_of(collection: Path) -> Path:
    from tastemaker.errors import InputError
    from tastemaker.records.ballot import RATING
    from tastemaker.store.people import FILE, People
    from tastemaker.store.vote_files import write_votes

    votes = []
    if (collection / FILE).is_file():
        with People(collection / FILE) as people:
            votes = people.votes(RATING)
    if not votes:
        raise InputError(
            collection, "no votes", "some", f"Rate it first: tastemaker rate {collection}."
        )
    path = collection / "votes.jsonl"
    write_votes(path, votes)
    return path
