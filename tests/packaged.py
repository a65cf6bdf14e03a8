"""Packaged recipes, loaded without running: what they require is filled with a word."""

from functools import cache

from tastemaker.recipe.find import packaged_recipes
from tastemaker.recipe.load import load_recipe
from tastemaker.recipe.schema import Recipe, RecipeFile
from tastemaker.recipe.yaml_text import parse_yaml


@cache
def recipe(name: str, *words: str) -> Recipe:
    path = packaged_recipes()[name]
    arguments = RecipeFile.model_validate(parse_yaml(path.read_text(), name).value).arguments
    given = [f"{a}=somewhere" for a, b in arguments.items() if b.required]
    return load_recipe(name, [*given, *words])
