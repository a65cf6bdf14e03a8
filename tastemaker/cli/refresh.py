"""`tastemaker refresh`."""

from pathlib import Path
from typing import Annotated

import typer

from tastemaker.cli.options import Json
from tastemaker.cli.session import session as get_session


def refresh(
    context: typer.Context,
    place: Annotated[
        Path, typer.Argument(metavar="RUN", help="The run, or the folder of its cache step.")
    ],
    rounds: Annotated[
        int, typer.Option("--rounds", metavar="N", min=1, help="New crops of every picture.")
    ] = 1,
    as_json: Json = False,
) -> None:
    """Add new random crops to a finished latent cache, also while a training reads it.

    A training with `follow: true` takes them up as it goes on; every other one stays with the
    crops that it began with, so that it can be repeated. One worker at a time.
    """
    from tastemaker.stages.cache import refresh as add_crops

    session = get_session(context, as_json)
    counts = add_crops(_latent_set(place), rounds, session.say)
    if as_json:
        session.result(counts)
    else:
        session.say(", ".join(f"{name} {count}" for name, count in counts.items()))


def _latent_set(place: Path) -> Path:
    """The folder of the finished cache step that a place stands for: the newest one of a run."""
    from tastemaker.errors import InputError
    from tastemaker.store.rundir import RunDir

    if (place / "latents.json").is_file():
        return place
    steps = [step for step in RunDir(place).steps() if step.stage == "cache" and step.finished()]
    if not steps:
        raise InputError(
            place,
            "no finished cache step",
            "a run with one, or its folder",
            "Run `tastemaker cache` with `crop=random` first.",
        )
    return steps[-1].path
