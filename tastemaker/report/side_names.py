"""What `before` and `after` are called where a run compares several times."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tastemaker.report.comparison import Comparison
from tastemaker.report.read import RunFacts

_PLAIN = ("before", "after")


def with_names(run: RunFacts, found: list[Comparison]) -> list[Comparison]:
    """The same evaluations; several of `before` and `after` have sides named by their models."""
    if sum(one.is_paired for one in found) < 2:
        return found
    return [_named(run, one) if one.sides == _PLAIN else one for one in found]


def _named(run: RunFacts, one: Comparison) -> Comparison:
    steps = {side: one.step.config.get(side) for side in _PLAIN}
    names = {side: _model_of(run, name) or side for side, name in steps.items()}
    if len(set(names.values())) < len(names):
        names = {side: str(name) for side, name in steps.items()}
    if len(set(names.values())) < len(names):
        return one

    def own(values: Mapping[str, Any]) -> dict[str, Any]:
        return {names.get(side, side): value for side, value in values.items()}

    rows = tuple(
        replace(r, pictures=own(r.pictures), scores=own(r.scores), seeds=own(r.seeds))
        for r in one.rows
    )
    return replace(
        one,
        summary=_renamed(one.summary, names),
        sides=tuple(names[side] for side in one.sides),
        reference=names.get(one.reference or "", one.reference),
        focus=names[one.focus],
        rows=rows,
        settings=own(one.settings),
    )


def _model_of(run: RunFacts, name: object) -> str | None:
    """The step that made the model which a generate step drew with, else that step itself."""
    steps = {step.name: step for step in run.steps}
    if not isinstance(name, str) or name not in steps:
        return None
    config = steps[name].config
    return next((s for k in ("adapter", "model") if (s := config.get(k)) in steps), name)


def _renamed(value: Any, names: Mapping[str, str]) -> Any:
    """Sides by their names wherever a summary has them, as keys or as values."""
    if isinstance(value, Mapping):
        return {names.get(key, key): _renamed(part, names) for key, part in value.items()}
    if isinstance(value, list):
        return [_renamed(part, names) for part in value]
    return names.get(value, value) if isinstance(value, str) else value
