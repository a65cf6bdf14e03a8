"""The base of every stage's configuration."""

from typing import ClassVar

from pydantic import BaseModel, ConfigDict


class Config(BaseModel):
    """A strict, frozen configuration: an unknown key is an error, and nothing changes after loading.

    A field's docstring says what it means and whether its default is a source's or ours.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, protected_namespaces=()
    )

    inputs: ClassVar[dict[str, str]] = {}
    """Field name -> kind of artefact that it names (an earlier step, a path, a model reference)."""
