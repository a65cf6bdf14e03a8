"""Packaged recipes and recipe files by name."""

from importlib.resources import files
from pathlib import Path

from tastemaker.errors import RecipeError
from tastemaker.recipe.names import did_you_mean, one_of


def packaged_recipes() -> dict[str, Path]:
    """Name (`tiny/demo`) -> file of every recipe in the package."""
    root = Path(str(files("tastemaker").joinpath("recipes")))
    return {
        path.relative_to(root).with_suffix("").as_posix(): path
        for path in sorted(root.rglob("*.yaml"))
    }


def read_recipe(path: Path) -> str:
    """The text of a recipe's file.

    Raises:
        RecipeError: it cannot be read, or is no UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise RecipeError(
            path, f"{error.strerror}", "a file that can be read", "Check its permissions."
        ) from error
    except UnicodeDecodeError as error:
        raise RecipeError(
            path, "bytes that are no UTF-8", "a text file", "Save it again."
        ) from error


def find_recipe(reference: str) -> Path:
    """The file of a recipe: a path, or the name of a packaged one.

    Raises:
        RecipeError: there is no such recipe.
    """
    packaged = packaged_recipes()
    if reference in packaged:
        return packaged[reference]
    path = Path(reference).expanduser()
    if path.is_file():
        return path
    raise RecipeError(
        f"recipe '{reference}'",
        "a folder" if path.is_dir() else "neither a file nor a packaged recipe",
        f"a path, or {one_of(packaged)}",
        did_you_mean(reference, packaged, "Check the name; paths are relative to this folder."),
    )
