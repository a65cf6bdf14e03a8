"""Values of a column in Arrow: the types of fields, and rows of plain values as tables."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tastemaker.store.catalogue_rows import array_of

if TYPE_CHECKING:
    import pyarrow as pa

VECTOR = "vector<float16>"
TYPES = (
    *("float32", "float64", "int32", "int64", "bool", "string"),
    *("list<float32>", "list<int32>", "list<string>", VECTOR),
)
"""What a field may be."""

_LARGEST = {kind: float(np.finfo(kind).max) for kind in ("float16", "float32", "float64")}

NO_LENGTHS: Mapping[str, int] = {}

OWN = ("id", "status", "error", "words_hash")
"""Columns that every column's file has; `words_hash` is that of the captions and tags that a value
was made from, null where it depends on the pixels alone."""


def column_schema(
    fields: Mapping[str, str], lengths: Mapping[str, int] = NO_LENGTHS
) -> "pa.Schema":
    """Columns of a column's file: id, the fields in their order, status, error, words_hash.

    Args:
        fields: name -> one of `TYPES`.
        lengths: numbers in a vector, by field; a field of which no row has one is absent.

    Raises:
        ValueError: a type is unknown, or a field has the name of one of our own.
    """
    import pyarrow as pa

    for name, kind in fields.items():
        if kind not in TYPES or name in OWN:
            raise ValueError(f"{name}: {kind}; a field is one of {TYPES} and not called {OWN}")
    own = {name: pa.field(name, pa.string()) for name in OWN}
    given = [pa.field(name, _arrow_type(kind, lengths.get(name))) for name, kind in fields.items()]
    return pa.schema([own.pop("id"), *given, *own.values()])


def table_of_values(
    rows: Mapping[str, Mapping[str, Any]],
    fields: Mapping[str, str],
    lengths: Mapping[str, int] = NO_LENGTHS,
) -> "pa.Table":
    """Rows of plain values as a table.

    Args:
        rows: id -> a value for every field (None for a null), or only `error` with the reason that
            there are none; and perhaps `words_hash`. Numbers that are not finite make it an error.
        fields: name -> one of `TYPES`.
        lengths: numbers in a vector, by field, where other rows have some already.

    Raises:
        ValueError: a row has other fields, or a vector has another length than the first one.
    """
    import pyarrow as pa

    lines = [_line(id_, values, fields) for id_, values in rows.items()]
    known = dict(lengths)
    for name in (name for name, kind in fields.items() if kind == VECTOR):
        given = [len(line[name]) for line in lines if line[name] is not None]
        known |= {name: known.get(name, given[0])} if given else {}
        if any(count != known[name] for count in given):
            raise ValueError(f"{name}: vectors of {known[name]} and of {set(given)} numbers")
    schema = column_schema(fields, known)
    arrays = [_array([line[field.name] for line in lines], field.type) for field in schema]
    return pa.Table.from_arrays(arrays, schema=schema)


def completed(table: "pa.Table", fields: Mapping[str, str]) -> "pa.Table":
    """Values that are Arrow already, with a status.

    Args:
        table: `id` and the fields; a vector is a fixed-size list.
        fields: name -> one of `TYPES`.

    Raises:
        ValueError: other columns, or a number that is not finite.
    """
    import pyarrow as pa
    from pyarrow import compute

    if set(table.column_names) != {"id", *fields}:
        raise ValueError(f"{table.column_names}: not id and {list(fields)}")
    schema = column_schema(fields, vector_lengths(table.schema))
    nulls = pa.nulls(len(table), pa.string())
    own = {"status": pa.array(["ok"] * len(table)), "error": nulls, "words_hash": nulls}
    arrays = [own[name] if name in own else table[name] for name in schema.names]
    found = pa.Table.from_arrays(arrays, names=schema.names).cast(schema)
    for name, kind in fields.items():
        numbers = found[name] if kind in _LARGEST else pa.nulls(0, pa.float32())
        if (
            compute.call_function("all", [compute.call_function("is_finite", [numbers])]).as_py()
            is False
        ):
            raise ValueError(f"{name}: a number is not finite")
    return found


def vector_lengths(schema: "pa.Schema") -> dict[str, int]:
    """Numbers in the vectors of a table, by field; a field of which no row has one is absent."""
    import pyarrow.types as types

    return {
        field.name: field.type.list_size for field in schema if types.is_fixed_size_list(field.type)
    }


def _line(id_: str, values: Mapping[str, Any], fields: Mapping[str, str]) -> dict[str, Any]:
    error, words = values.get("error"), values.get("words_hash")
    if error is None and values.get("status") == "error":
        error = "unknown"
    if error is None:
        other = (values.keys() - OWN) ^ fields.keys()
        if other:
            listed = ", ".join(sorted(other))
            raise ValueError(f"{id_}: its values and the fields differ in {listed}")
        bad = [name for name, kind in fields.items() if not _is_finite(values[name], kind)]
        if not bad:
            return {**values, "id": id_, "status": "ok", "error": None, "words_hash": words}
        error = f"{bad[0]} is not finite"
    none = dict.fromkeys(fields)
    return {"id": id_, **none, "status": "error", "error": str(error), "words_hash": words}


def _is_finite(value: Any, kind: str) -> bool:
    """Whether a number is one in the type of its field, too; in half precision 70000 is not."""
    if value is None or "float" not in kind:
        return True
    if kind in _LARGEST:
        return -_LARGEST[kind] <= value <= _LARGEST[kind]
    return bool((np.abs(np.asarray(value, np.float64)) <= _LARGEST[_inner(kind)]).all())


def _inner(kind: str) -> str:
    return kind.partition("<")[2].rstrip(">") or kind


def _array(values: Sequence[Any], kind: "pa.DataType") -> "pa.Array":
    import pyarrow as pa
    import pyarrow.types as types

    if not types.is_fixed_size_list(kind):
        return array_of(values, kind)
    flat = np.zeros((len(values), kind.list_size), np.float16)
    absent = np.array([value is None for value in values], bool)
    for place, value in enumerate(values):
        if value is not None:
            flat[place] = value
    return pa.FixedSizeListArray.from_arrays(
        pa.array(flat.reshape(-1)), type=kind, mask=pa.array(absent)
    )


def _arrow_type(kind: str, length: int | None) -> "pa.DataType":
    import pyarrow as pa

    if kind == VECTOR:
        # Where no row has a vector its length is unknown; readers see a list in either case.
        return pa.list_(pa.float16()) if length is None else pa.list_(pa.float16(), length)
    if kind.startswith("list<"):
        return pa.list_(_arrow_type(_inner(kind), None))
    plain = {"bool": pa.bool_(), "string": pa.string(), "int32": pa.int32(), "int64": pa.int64()}
    return {**plain, "float32": pa.float32(), "float64": pa.float64()}[kind]
