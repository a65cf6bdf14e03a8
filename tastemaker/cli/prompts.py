"""`tastemaker prompts`."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tastemaker.cli.options import Json
from tastemaker.cli.session import session as get_session

if TYPE_CHECKING:
    from tastemaker.store.benchmarks import Benchmark


def prompts(
    context: typer.Context,
    benchmark: Annotated[
        str | None, typer.Argument(metavar="BENCHMARK", help="Its name, such as parti.")
    ] = None,
    path: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="Its published file or folder.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List the prompt benchmarks, or check the file of one: counts, groups, licence, hash.

    Without arguments all are listed, with where to get each; none is shipped. For example:
    tastemaker prompts parti PartiPrompts.tsv. In a recipe: stage prompts, benchmark parti, file
    PartiPrompts.tsv. Exit code 2 when prompts are missing.
    """
    from tastemaker.store.benchmarks import BENCHMARKS

    session = get_session(context, as_json)
    if benchmark is None:
        rows = [_row(one) for one in BENCHMARKS.values()]
        if as_json:
            session.result({"benchmarks": rows})
            return
        for row in rows:
            session.say(f"{row['name']:<14}{row['prompts']:>6,} prompts  {row['about']}")
            session.say(f"{'':<14}from {row['source']}; licence: {row['licence']}")
        return
    found = _checked(benchmark, path)
    if as_json:
        session.result(found)
        return
    session.say(f"{found['name']}: {found['prompts']:,} prompts, as published")
    session.say(f"licence  {found['licence']}")
    session.say(f"hash     {found['hash']}")
    session.say(f"longest  {found['longest']} characters")
    for group, count in found["groups"].items():
        session.say(f"{count:>9,}  {group}")


def _row(one: "Benchmark") -> dict[str, Any]:
    facts = {name: getattr(one, name) for name in ("name", "about", "source", "licence", "images")}
    return {**facts, "prompts": one.size}


def _checked(name: str, path: Path | None) -> dict[str, Any]:
    from tastemaker.errors import InputError
    from tastemaker.store.benchmarks import BENCHMARKS, read_benchmark
    from tastemaker.store.prompt_sets import make_prompt_set

    if path is None:
        source = BENCHMARKS[name].source if name in BENCHMARKS else "its published file"
        raise InputError("FILE", "nothing", source, f"Run: tastemaker prompts {name} FILE")
    texts = read_benchmark(name, path)
    licence = BENCHMARKS[name].licence
    made = make_prompt_set(name, texts, licence=licence)
    groups = Counter(prompt.attribute(BENCHMARKS[name].group) or "" for prompt in texts)
    return {
        **_row(BENCHMARKS[name]),
        "hash": made.hash,
        "longest": max(len(prompt.text) for prompt in texts),
        "groups": dict(sorted(groups.items())),
    }
