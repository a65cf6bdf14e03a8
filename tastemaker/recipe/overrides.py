"""`key=value` from the command line, laid over a recipe's values."""

from collections.abc import Iterable, Mapping
from typing import Any

from tastemaker.errors import RecipeError
from tastemaker.recipe.names import did_you_mean, one_of
from tastemaker.recipe.schema import STEP_KEYS, Origin
from tastemaker.recipe.yaml_text import parse_value


def split_pair(pair: str) -> tuple[str, Any]:
    """`fit.lr=1e-5` -> `("fit.lr", 1e-05)`; the value is YAML.

    Raises:
        RecipeError: there is no `=`, or the value is not YAML.
    """
    key, equals, text = pair.partition("=")
    if not equals or not key.strip():
        raise RecipeError(
            f"'{pair}'", "no '='", "key=value", "Write an argument, seed, or step.key and a value."
        )
    return key.strip(), parse_value(text, f"'{pair}'")


def override_step(
    steps: Mapping[str, dict[str, Any]],
    origins: Mapping[str, dict[str, Origin]],
    key: str,
    value: Any,
    arguments: Iterable[str],
) -> None:
    """Set `step.key[.key...]` in the steps' raw values; in a list the key is a number, from 0.

    Raises:
        RecipeError: no step has this name, or the path leads through a plain value.
    """
    step, *path = key.split(".")
    if step not in steps or not path:
        raise _unknown(key, steps, arguments)
    if path[0] in STEP_KEYS:
        raise RecipeError(
            f"'{key}'", f"the step's own {path[0]}", "a key of its stage", "Change it in the file."
        )
    holder: Any = steps[step]
    for number, part in enumerate(path):
        place = _place(holder, part)
        if place is None:
            got = f"{holder!r}"
            got = got if len(got) < 80 else f"{got[:77]}..."
            at = ".".join([step, *path[:number]])
            raise RecipeError(
                f"'{key}'", f"{got} at {at}", _inside(holder), "Set the value as a whole."
            )
        if number == len(path) - 1:
            holder[place] = value
        else:
            holder = holder[place] if isinstance(holder, list) else holder.setdefault(place, {})
    # What is below the new value came with it.
    dotted = ".".join(path)
    for known in [known for known in origins[step] if known.startswith(f"{dotted}.")]:
        del origins[step][known]
    origins[step][dotted] = Origin("command line")


def _place(holder: Any, part: str) -> Any:
    """What a part of a path means in keys and values, or in a list; None in anything else."""
    if isinstance(holder, dict):
        return part
    if isinstance(holder, list) and part.isdecimal() and int(part) < len(holder):
        return int(part)
    return None


def _inside(holder: Any) -> str:
    if not isinstance(holder, list) or not holder:
        return "keys and values there"
    return f"the number of one of its entries, 0 to {len(holder) - 1}"


def _unknown(
    key: str, steps: Mapping[str, dict[str, Any]], arguments: Iterable[str]
) -> RecipeError:
    first, _, rest = key.partition(".")
    if rest:
        near = [f"{name}.{rest}" for name in steps]
        expected = f"the name of a step, {one_of(steps)}"
    else:
        near = [*arguments, "seed"]
        near += [f"{name}.{field}" for name, values in steps.items() for field in values]
        expected = f"an argument ({', '.join([*arguments, 'seed'])}) or step.key"
    # A bare key that one step has is most likely meant for it.
    meant = [name for name in near if name.rpartition(".")[2] == key]
    todo = f"Did you mean {' or '.join(map(repr, meant))}?" if meant else ""
    return RecipeError(
        f"'{key}'",
        f"an unknown name '{first}'",
        expected,
        todo or did_you_mean(key, near, "See `tastemaker explain RECIPE` for all keys."),
    )
