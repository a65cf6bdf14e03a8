"""`tastemaker rate`."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tastemaker.cli.options import DryRun, FromRecipe, Json, Out
from tastemaker.cli.rate_training import train as train_model
from tastemaker.cli.serving import (
    Browser,
    Host,
    HostNames,
    MinView,
    Port,
    Token,
    collection_in,
    open_page,
)
from tastemaker.cli.session import session as get_session
from tastemaker.errors import InputError

if TYPE_CHECKING:
    from tastemaker.web.rooms import Rooms

_PAGE = {
    "pool": "--pool", "gold": "--gold", "rater": "--rater", "port": "--port", "host": "--host",
    "token": "--token", "names": "--name", "min_view_ms": "--min-view-ms", "is_opened": "--open",
}  # fmt: skip
_STAGE = {"out": "--out", "recipe": "--recipe", "dry_run": "--dry-run", "as_json": "--json"}
"""Parameter -> option that only the page has, or only the training."""


def rate(
    context: typer.Context,
    collection: Annotated[
        str, typer.Argument(metavar="COLLECTION", help="A collection, or the run that made it.")
    ],
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="With --train: values of the stage."),
    ] = None,
    train: Annotated[
        bool, typer.Option("--train", help="Fit the quality model to the votes instead.")
    ] = False,
    selection: Annotated[
        Path | None, typer.Option("--selection", help="Rate the pictures of a selection only.")
    ] = None,
    pool: Annotated[
        int, typer.Option("--pool", min=2, help="At most so many pictures, by lot.")
    ] = 2000,
    seed: Annotated[int, typer.Option("--seed", help="Of the lot, the pairs and the sides.")] = 0,
    column: Annotated[
        str | None, typer.Option("--column", help="Embeddings that tell kinds of content apart.")
    ] = None,
    gold: Annotated[
        Path | None, typer.Option("--gold", help="JSONL or CSV of known pairs: better, worse.")
    ] = None,
    rater: Annotated[
        str | None, typer.Option("--rater", help="Go straight to this rater's page.")
    ] = None,
    port: Port = None,
    host: Host = "127.0.0.1",
    token: Token = None,
    names: HostNames = None,
    min_view_ms: MinView = 300,
    is_opened: Browser = False,
    out: Out = None,
    recipe: FromRecipe = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Rate a collection's pictures head to head, with the keyboard, alone or with others.

    Votes are kept in the collection's people.sqlite. With --train the quality model learns from
    them, and every picture gets a score and a rank.
    """
    _refuse_idle(context, train, words or ())
    place = collection_in(Path(collection).expanduser())
    if train:
        given = {"selection": selection, "column": column, "seed": seed}
        train_model(
            context,
            place,
            [*(words or ()), *(f"{n}={given[n]}" for n in given if _is_given(context, n))],
            out=out,
            recipe=recipe,
            dry_run=dry_run,
            as_json=as_json,
        )
        return
    rating: dict[str, Any] = {
        "selection": selection, "pool": pool, "seed": seed, "column": column, "gold": gold,
    }  # fmt: skip

    def started(rooms: "Rooms", address: Callable[[str], str]) -> list[str]:
        room = rooms.open(place, "collection")
        path = room.link(room.enter(rater)) if rater else f"/rate/{room.thing.id}"
        return [f"Rate: {address(path)}"]

    open_page(
        get_session(context),
        root=place,
        port=port,
        host=host,
        token=token,
        names=names,
        is_opened=is_opened,
        started=started,
        min_view_ms=min_view_ms,
        rating=rating,
    )


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _refuse_idle(context: typer.Context, train: bool, words: Sequence[str]) -> None:
    """What is typed and would be without effect is a mistake of whoever typed it.

    Raises:
        InputError: options of the page with `--train`, or the other way round.
    """
    idle = [o for n, o in (_PAGE if train else _STAGE).items() if _is_given(context, n)]
    idle += [] if train else list(words)
    if idle:
        raise InputError(
            "rate" + (" --train" if train else ""),
            " ".join(idle),
            "options of the training" if train else "options of the page",
            f"Leave it out, or {'leave out' if train else 'add'} --train.",
        )
