"""Records to and from plain JSON values, checked on the way in."""

from functools import cache
from typing import Any, TypeVar

from pydantic import TypeAdapter

T = TypeVar("T")


@cache
def _adapter(cls: type) -> TypeAdapter[Any]:
    return TypeAdapter(cls)


def to_json(record: object) -> Any:
    """Plain lists, dicts, numbers and strings of a record."""
    return _adapter(type(record)).dump_python(record, mode="json")


def from_json(cls: type[T], value: Any) -> T:
    """A record from plain values.

    Raises:
        pydantic.ValidationError: a field is missing or has the wrong type.
    """
    return _adapter(cls).validate_python(value)
