"""The base of every stage's configuration."""

from typing import ClassVar

from pydantic import BaseModel, ConfigDict


class Config(BaseModel):
    """A strict, frozen configuration: an unknown key is an error, nothing changes after loading.

    A field's docstring says what it means and whether its default is a source's or ours.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, protected_namespaces=()
    )

    inputs: ClassVar[dict[str, str]] = {}
    """Field name -> kind of artefact that it names (an earlier step, a path, a model reference)."""


def as_tuple(value: object) -> object:
    """A text or a list as a tuple, anything else as it is; for `before` validators.

    Behind such a validator pydantic's strict mode takes a list, all that YAML and JSON have, for no
    tuple.
    """
    if isinstance(value, str):
        return (value,)
    return tuple(value) if isinstance(value, list) else value
