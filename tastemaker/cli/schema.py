"""`tastemaker schema`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from tastemaker.cli.session import session as get_session


def schema(
    context: typer.Context,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="Write it to a file.")
    ] = None,
) -> None:
    """Print the JSON Schema of recipes, for editors that complete and check YAML."""
    from tastemaker.recipe.schema import json_schema
    from tastemaker.store.atomic import write_text

    session = get_session(context)
    value = json_schema(session.table())
    if out is None:
        session.result(value)
    else:
        write_text(out, json.dumps(value, indent=2, ensure_ascii=False) + "\n")
        session.say(str(out))
