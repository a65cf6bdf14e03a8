"""Schedulers of diffusers: from a folder, and with some settings changed."""

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, cast

from diffusers.schedulers.scheduling_ddim import DDIMScheduler

from tastemaker.errors import InputError
from tastemaker.models.quiet import quiet

_DEFAULTED = "_use_default_values"


def load_scheduler(folder: Path) -> Any:
    """The scheduler class that the folder names, with its settings.

    Raises:
        InputError: diffusers has no such class.
    """
    config = cast(Any, DDIMScheduler.load_config(folder, local_files_only=True))
    name = config["_class_name"]
    kind = getattr(import_module("diffusers"), name, None)
    if kind is None:
        raise InputError(folder, f"scheduler {name}", "one of diffusers", "Use another model.")
    return kind.from_pretrained(folder, local_files_only=True)


def scheduler_with(kind: Any, config: Mapping[str, Any], changes: Mapping[str, Any]) -> Any:
    """A scheduler of a class, with another one's settings and some of our own.

    diffusers drops every setting that its config lists as left at its default, so that the new
    class's default holds; also one that was given anew. What we set is taken off that list.

    Args:
        kind: the class.
        config: of the other scheduler.
        changes: settings that must hold.
    """
    settings = {**dict(config), **changes}
    settings[_DEFAULTED] = [n for n in settings.get(_DEFAULTED) or [] if n not in changes]
    with quiet():
        return kind.from_config(settings)
