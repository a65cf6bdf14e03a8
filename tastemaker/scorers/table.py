"""The judges, which are fitted on real pictures, by name; `scorings` has the scorers with models.

A name is looked up only when it is used, so that a list costs no import.
"""

from importlib import import_module
from typing import Any

from tastemaker.errors import RecipeError

SCORERS: dict[str, str] = {
    "concept": "tastemaker.scorers.judge:ConceptJudge",
    "style": "tastemaker.scorers.judge:StyleJudge",
    "distance": "tastemaker.scorers.likeness:Likeness",
}
"""Name -> `module:Class`."""


def scorer_class(name: str) -> Any:
    """The class behind a name.

    Raises:
        RecipeError: there is no such scorer.
    """
    if name not in SCORERS:
        raise RecipeError(
            "scorer", repr(name), f"one of {', '.join(sorted(SCORERS))}", "Correct the name."
        )
    module, attribute = SCORERS[name].split(":")
    return getattr(import_module(module), attribute)
