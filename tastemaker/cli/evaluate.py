"""`tastemaker evaluate`."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tastemaker.cli.options import DryRun, FromRecipe, Json, Out, Words
from tastemaker.cli.session import Session
from tastemaker.cli.session import session as get_session
from tastemaker.cli.stage import run_stage

if TYPE_CHECKING:
    from tastemaker.scorers.selftest import Check

SelfTest = Annotated[
    bool,
    typer.Option(
        "--selftest",
        help="Only test the scorers on drawings and noise; exit code 1 when one fails.",
    ),
]


def evaluate(
    context: typer.Context,
    words: Words = None,
    out: Out = None,
    recipe: FromRecipe = None,
    dry_run: DryRun = False,
    selftest: SelfTest = False,
    as_json: Json = False,
) -> int:
    """Score generated pictures and compare models, with intervals.

    For example: tastemaker evaluate RUN -o RUN. Before a long run: tastemaker evaluate --selftest
    'scorers=[{kind: pick_score}]'.
    """
    if not selftest:
        run_stage(
            context, "evaluate", words, out=out, recipe=recipe, dry_run=dry_run, as_json=as_json
        )
        return 0
    return _test(get_session(context, as_json), words or [], recipe)


def _test(session: Session, words: list[str], recipe: str | None) -> int:
    """Check every scorer of a configuration; its pictures are not looked at."""
    from tastemaker.engine.picture_scores import try_scorers
    from tastemaker.recipe.single import single_step

    # What a scorer does depends on no sample set, but a configuration needs both.
    places = [f"{name}=." for name in ("after", "prompts")]
    given = {word.partition("=")[0] for word in words}
    words = [*words, *(word for word in places if word.partition("=")[0] not in given)]
    one = single_step("evaluate", words, taken_from=recipe, stages=session.table())
    config: Any = one.steps[-1].config
    checks = []
    for check in try_scorers(config.scorers, config.image_text):
        checks.append(check)
        session.say(_line(check))
    failed = sum(check.passed is False for check in checks)
    session.say(f"{len(checks)} checks, {failed} failed")
    if session.as_json:
        session.result({"failed": failed, "checks": [asdict(check) for check in checks]})
    return 1 if failed else 0


def _line(check: "Check") -> str:
    word = {True: "passed", False: "FAILED", None: "-"}[check.passed]
    return f"{check.scorer:<18} {word:<7} {check.check:<48} {check.detail}".rstrip()
