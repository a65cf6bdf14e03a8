"""`tastemaker study new`, `report`, `export` and `import`: what needs no page."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tastemaker.cli.options import Json
from tastemaker.cli.session import session as get_session

if TYPE_CHECKING:
    from tastemaker.records.generation import PromptSet

Folder = Annotated[Path, typer.Argument(metavar="STUDY", help="The study's folder.")]


def new(
    context: typer.Context,
    folder: Folder,
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME=PICTURES...",
            help="A name and a folder: a run or its generated pictures, or files called by prompt "
            "id or number.",
        ),
    ],
    prompts: Annotated[
        Path | None,
        typer.Option("--prompts", help="A prompt set (.jsonl), or a text file, a prompt a line."),
    ] = None,
    question: Annotated[
        list[str] | None,
        typer.Option(
            "--question", help="general, appeal, alignment, or 'name: text'; may be repeated."
        ),
    ] = None,
    votes: Annotated[int, typer.Option("--votes", min=1, help="Votes a pair and question.")] = 5,
    ties: Annotated[
        bool, typer.Option("--ties/--no-ties", help="Whether neither may be better.")
    ] = True,
    both_bad: Annotated[
        bool, typer.Option("--both-bad/--no-both-bad", help="Whether both may be refused.")
    ] = True,
    subset: Annotated[
        int | None, typer.Option("--subset", min=2, help="Only so many prompts, by lot.")
    ] = None,
    gold: Annotated[
        int, typer.Option("--gold", min=0, help="Pairs with a known answer, to check raters.")
    ] = 0,
    repeat: Annotated[
        float, typer.Option("--repeat", min=0, max=0.5, help="Share of pairs shown again.")
    ] = 0.05,
    name: Annotated[str, typer.Option("--name", help="For people; default the folder's.")] = "",
    instructions: Annotated[
        Path | None, typer.Option("--instructions", help="A text that raters read first.")
    ] = None,
    sample: Annotated[
        int, typer.Option("--sample", min=0, help="Which of several pictures of a prompt.")
    ] = 0,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Leave out prompts that lack a picture.")
    ] = False,
    seed: Annotated[int, typer.Option("--seed", help="Of subset, order and sides.")] = 0,
    as_json: Json = False,
) -> None:
    """Plan a blind study of two models or more, and tell what a study of this size can show.

    For example: tastemaker study new STUDY before=RUN after=PICTURES --prompts prompts.jsonl. Then:
    tastemaker study serve STUDY.
    """
    from tastemaker.engine.study_making import make_study, plan_told, planned, read_pictures
    from tastemaker.store.studies import write_study

    session = get_session(context, as_json)
    asked = None if prompts is None else _prompts(prompts)
    found = [read_pictures(*_named(text), asked, sample) for text in models]
    study = make_study(
        folder,
        name or folder.resolve().name,
        found,
        asked,
        questions=question or ("general",),
        subset=subset,
        allow_missing=allow_missing,
        gold=gold,
        seed=seed,
        votes=votes,
        ties=ties,
        both_bad=both_bad,
        repeat=repeat,
        instructions="" if instructions is None else _text(instructions),
    )
    write_study(folder, study)
    plan = planned(study)
    if as_json:
        session.result({"study": folder, "id": study.id, "plan": plan})
        return
    session.say(
        f"{plan['prompts']} prompts, {plan['votes']} votes in all, about {plan['minutes']:.0f} "
        "minutes of people's time."
    )
    session.say(plan_told(plan))
    session.say(str(folder))


def report(
    context: typer.Context,
    folder: Folder,
    scores: Annotated[
        Path | None,
        typer.Option("--scores", help="Scores of an evaluate step, to compare people with."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for the report; default STUDY.")
    ] = None,
    with_names: Annotated[
        bool, typer.Option("--with-names", help="Show raters by name, not by number.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Report a study: win rates with intervals, raters, agreement, and where scorers differ.

    Writes study.html, which needs nothing else, and results.json. The models in the scores must
    have the study's names.
    """
    from tastemaker.engine.study_scores import read_study_scores
    from tastemaker.report.study_page import PAGE, write_study_report

    session = get_session(context, as_json)
    values = None if scores is None else read_study_scores(scores)
    found = write_study_report(folder, out, values, with_names=with_names)
    page = (folder if out is None else out) / PAGE
    if as_json:
        session.result({"report": page, **found})
        return
    for line in found["results"]:
        rate, share = line["verdict"]["majority"]["rate"], line["verdict"]["share"]
        session.say(
            f"{line['question']}: {line['side']} over {line['reference']} {rate['estimate']:.3f} "
            f"[{rate['low']:.3f}, {rate['high']:.3f}] of {rate['units']} prompts; "
            f"share of votes {share['estimate']:.3f} [{share['low']:.3f}, {share['high']:.3f}]"
        )
    if found["simulated"]:
        session.say("Simulated raters: no person has looked at these pictures.")
    session.say(str(page))


def export(
    context: typer.Context,
    folder: Annotated[
        Path, typer.Argument(metavar="STUDY|COLLECTION", help="Whose votes; or the run's.")
    ],
    file: Annotated[Path, typer.Argument(help="A .jsonl, .csv or .parquet file.")],
    as_json: Json = False,
) -> None:
    """Write all votes to a file, undone ones included; names and tokens stay here."""
    from tastemaker.errors import InputError
    from tastemaker.store.people import FILE, People
    from tastemaker.store.vote_files import write_votes

    folder = _voted(folder)
    if not (folder / FILE).is_file():
        raise InputError(folder, f"no {FILE}", "a study or collection with votes", "Check it.")
    with People(folder / FILE) as people:
        votes = people.votes(superseded=True)
    write_votes(file, votes)
    _tell(context, as_json, len(votes), file)


def import_(
    context: typer.Context,
    folder: Annotated[
        Path,
        typer.Argument(metavar="STUDY|COLLECTION", help="Where the votes belong; or its run."),
    ],
    file: Annotated[Path, typer.Argument(help="What export, or another program, has written.")],
    as_json: Json = False,
) -> None:
    """Add votes from a file, all or none; those that are there already count once.

    A vote that names no study is taken as one of this place.
    """
    from tastemaker.errors import InputError
    from tastemaker.store.catalogue import Catalogue
    from tastemaker.store.people import FILE, People
    from tastemaker.store.studies import FILE as PLAN
    from tastemaker.store.studies import check_rating_votes, check_votes, read_study
    from tastemaker.store.vote_files import read_votes

    folder, votes = _voted(folder), read_votes(file)
    if (folder / PLAN).is_file():
        votes = check_votes(read_study(folder), votes, file)
    elif (folder / "catalog").is_dir():
        pictures = Catalogue(folder).base_table(["id"])["id"].to_pylist()
        votes = check_rating_votes(frozenset(pictures), votes, file)
    else:
        raise InputError(folder, "neither", "a study or a collection", "Check the name.")
    with People(folder / FILE) as people:
        added = people.add_votes(votes)
    _tell(context, as_json, added, folder)


def _voted(folder: Path) -> Path:
    """What people vote on: a study or collection, or the last one that a run has made."""
    from tastemaker.store.studies import FILE as PLAN
    from tastemaker.web.library import steps_of

    if (folder / PLAN).is_file() or (folder / "catalog").is_dir():
        return folder
    made = (s.output(kind) for s in reversed(steps_of(folder)) for kind in ("study", "collection"))
    return next((place for place in made if place is not None), folder)


def _tell(context: typer.Context, as_json: bool, votes: int, place: Path) -> None:
    session = get_session(context, as_json)
    if as_json:
        session.result({"votes": votes, "path": place})
    else:
        session.say(f"{votes} votes")
        session.say(str(place))


def _named(text: str) -> tuple[str, Path]:
    """`before=PICTURES`; without a name, the folder's."""
    name, equals, place = text.partition("=")
    return (name, Path(place)) if equals else (Path(text).resolve().name, Path(text))


def _prompts(path: Path) -> "PromptSet":
    from tastemaker.records.generation import Prompt
    from tastemaker.store.prompt_sets import make_prompt_set, read_prompt_set

    if path.suffix != ".txt":
        return read_prompt_set(path)
    lines = [line.strip() for line in _text(path).splitlines()]
    rows = [Prompt(f"{number:05d}", text) for number, text in enumerate(lines) if text]
    return make_prompt_set(path.stem, rows)


def _text(path: Path) -> str:
    from tastemaker.errors import InputError

    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        got = f"not readable ({error.strerror})"
        raise InputError(path, got, "a text file", "Check the name.") from error
    except UnicodeDecodeError as error:
        raise InputError(
            path, "another encoding", "a text as UTF-8", "Save it as UTF-8."
        ) from error
