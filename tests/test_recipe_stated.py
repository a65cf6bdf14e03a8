"""Recipes of a source say of which values it is, and these are values that they have."""

from typing import Any

import pytest

from tastemaker.recipe.find import packaged_recipes
from tests.packaged import recipe

OF_A_SOURCE = sorted(name for name in packaged_recipes() if "/" not in name)


@pytest.mark.parametrize("name", OF_A_SOURCE)
def test_every_stated_value_is_one_of_the_recipes(name: str) -> None:
    found = recipe(name)
    steps = {s.name: s.config.model_dump() for s in found.steps}
    assert found.stated
    for path, source in found.stated.items():
        value: Any = steps
        for part in path.split("."):
            value = value[int(part)] if isinstance(value, list | tuple) else value[part]
        assert len(source) > 5
