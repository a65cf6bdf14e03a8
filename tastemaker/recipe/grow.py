"""A run folder that grows step by step, one command after the other."""

from typing import Any, TypeVar

from tastemaker.recipe.yaml_text import dump_yaml, parse_yaml
from tastemaker.store.rundir import RunDir, StepEntry

T = TypeVar("T")


def grown(run: RunDir, text: str, entries: list[StepEntry]) -> tuple[str, list[StepEntry]]:
    """The folder's recipe and plan with new steps added; a step of the same name is replaced.

    Args:
        run: the folder.
        text: the resolved recipe of the new steps.
        entries: their plan.
    """
    if not run.recipe_path.exists():
        return text, entries
    new = {entry.name for entry in entries}
    plan = _replaced({entry.name: entry for entry in run.plan()}, {e.name: e for e in entries})
    old = parse_yaml(run.recipe_path.read_text(encoding="utf-8"), str(run.recipe_path)).value
    fresh = parse_yaml(text, "recipe").value
    return dump_yaml(_joined(old, fresh, new)), plan


def _replaced(old: dict[str, T], new: dict[str, T]) -> list[T]:
    """The old ones in their places, changed where there is a new one, then those that are new."""
    return list({**old, **new}.values())


def _joined(old: dict[str, Any], fresh: dict[str, Any], new: set[str]) -> dict[str, Any]:
    steps = _replaced(
        {step["name"]: step for step in old["steps"]},
        {step["name"]: step for step in fresh["steps"]},
    )
    stated = {
        path: citation
        for path, citation in old.get("stated", {}).items()
        if path.partition(".")[0] not in new
    }
    return {**old, "seed": fresh["seed"], "steps": steps, "stated": {**stated, **fresh["stated"]}}
