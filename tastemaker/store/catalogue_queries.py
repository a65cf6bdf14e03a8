"""SQL over a catalogue's files, in a DuckDB that can read those files and nothing else.

What a user or a recipe writes as SQL is data, not code of ours: it may be one SELECT, it cannot
write, load an extension, change a setting, or open any other file of the machine.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tastemaker.errors import InputError
from tastemaker.store.catalogue_rows import base_schema, places_of
from tastemaker.store.column_values import OWN, VECTOR

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

MADE = {
    "short_side": "least(h, w)",
    "long_side": "greatest(h, w)",
    "aspect": "greatest(h, w) / least(h, w)",
    "megapixels": "h::BIGINT * w / 1e6",
}
"""What `images` has beside the base table; aspect is long side over short side."""

_CONFIG = {
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "allow_community_extensions": False,
    "python_enable_replacements": False,
    # Nothing is written anywhere; a query that needs more than the memory fails with that reason.
    "temp_directory": "",
}


_SQL_TYPES = {"float16": "FLOAT", "float32": "FLOAT", "float64": "DOUBLE", "int32": "INTEGER"} | {
    "int64": "BIGINT",
    "bool": "BOOLEAN",
    "string": "VARCHAR",
}


@dataclass(frozen=True)
class ColumnView:
    """One column as a query sees it.

    Attributes:
        name: the view's name.
        files: its Parquet files, in the order of the base table's parts.
        fields: name -> type.
        is_aligned: whether the files have the rows of the base table in its order.
    """

    name: str
    files: tuple[Path, ...]
    fields: Mapping[str, str]
    is_aligned: bool


@dataclass(frozen=True)
class Files:
    """What a query can see: files of the base table, in order, and columns."""

    base: tuple[Path, ...]
    columns: tuple[ColumnView, ...]


class BooleanColumn(NamedTuple):
    """One truth value a picture, in the order of the base table.

    Attributes:
        values: bool `[rows]`; False where the expression is NULL.
        unknown: bool `[rows]`; where it is NULL.
    """

    values: np.ndarray
    unknown: np.ndarray


def select(sql: str, files: Files, threads: int) -> "pa.Table":
    """Run one SELECT; with 0 threads DuckDB takes all cores.

    Raises:
        InputError: it is not one SELECT, or it is wrong; the message is DuckDB's.
    """
    with _told(_bad_query), _connection(files, threads) as connection:
        kinds = [part.type.name for part in connection.extract_statements(sql)]
        if kinds != ["SELECT"]:
            raise _bad_query(" and ".join(kinds) or "nothing")
        return connection.sql(sql).to_arrow_table()


def evaluate(expression: str, files: Files, ids: "pa.ChunkedArray", threads: int) -> BooleanColumn:
    """The truth of one boolean expression over the view `"all"`, for every id, in their order.

    Raises:
        InputError: it is no such expression, or it does not give one value a row.
    """
    import pyarrow as pa

    check_expression(expression)
    with _told(_bad_expression), _connection(files, threads) as connection:
        sql = _over_all(connection, expression, [column.name for column in files.columns])
        found = connection.sql(sql).to_arrow_table()
    kind = found.schema.field("verdict").type
    if kind not in (pa.bool_(), pa.null()) and not _is_all_null(found["verdict"]):
        raise _bad_expression(f"{expression!r}, which is of type {kind}")
    if len(found) != len(ids):
        raise _bad_expression(
            f"{expression!r}, which gives {len(found)} values for {len(ids)} rows"
        )
    verdicts = found["verdict"].cast(pa.bool_())
    if not found["id"].equals(ids):
        verdicts = verdicts.take(pa.array(places_of(ids, found["id"])))
    return BooleanColumn(verdicts.fill_null(False).to_numpy(), verdicts.is_null().to_numpy())


def check_expression(expression: str) -> tuple[str, ...]:
    """Check that a text is one SQL expression, whatever its brackets and comments look like.

    Returns:
        The names in it, sorted: `h`, `pixels.sharpness`. Those inside of a subquery do not count.

    Raises:
        InputError: it is none, or several, or goes on with FROM, WHERE, AS, ...
    """
    import duckdb

    with _told(_bad_expression), duckdb.connect(config=dict(_CONFIG)) as connection:
        bare = _parsed(connection, f"select {expression}\n")
        bracketed = _parsed(connection, f"select (\n{expression}\n)")
    # In brackets nothing but an expression can stand, and without them none can be closed early.
    if bare is None or bare != bracketed:
        raise _bad_expression(repr(expression))
    return tuple(sorted({".".join(node["column_names"]) for node in _references(bare)}))


@contextmanager
def _connection(files: Files, threads: int) -> "Iterator[duckdb.DuckDBPyConnection]":
    import duckdb

    with duckdb.connect(config=dict(_CONFIG)) as connection:
        if threads:
            connection.execute(f"set threads = {threads:d}")
        _make_views(connection, files)
        paths = [*files.base, *(path for column in files.columns for path in column.files)]
        # The name itself, and the pattern that means it: DuckDB asks for both.
        allowed = sorted({text for path in paths for text in (str(path), _pattern(path))})
        connection.execute(f"set allowed_paths = [{', '.join(map(_literal, allowed))}]")
        connection.execute("set enable_external_access = false")
        connection.execute("set lock_configuration = true")
        yield connection


@contextmanager
def _told(problem: Callable[[str], InputError]) -> Iterator[None]:
    """Turn what DuckDB says into an error of ours."""
    import duckdb

    try:
        yield
    except duckdb.Error as error:
        raise problem(str(error).splitlines()[0]) from error


def _make_views(connection: "duckdb.DuckDBPyConnection", files: Files) -> None:
    made = ", ".join(f"{value} as {name}" for name, value in MADE.items())
    if not files.base:
        connection.register("no images", base_schema().empty_table())
    source = _scan(files.base) if files.base else '"no images"'
    connection.execute(f"create view images as select *, {made} from {source}")
    selected, joins = ["images.*"], []
    # Aligned ones first: joining by position is only right while nothing was joined by id.
    for column in sorted(files.columns, key=lambda column: (not column.is_aligned, column.name)):
        name = _quoted(column.name)
        source = _scan(column.files) if column.files else _nothing(column.fields)
        connection.execute(f"create view {name} as select * from {source}")
        shown = [field for field, kind in column.fields.items() if kind != VECTOR]
        selected += [
            f"{name}.{_quoted(field)} as {_quoted(f'{column.name}_{field}')}"
            for field in (*shown, *OWN[1:])
        ]
        is_aligned = column.is_aligned and files.base
        by_id = f"left join {name} on images.id = {name}.id"
        joins.append(f"positional join {name}" if is_aligned else by_id)
    listed, joined = ", ".join(selected), " ".join(joins)
    connection.execute(f'create view "all" as select {listed} from images {joined}')


def _over_all(
    connection: "duckdb.DuckDBPyConnection", expression: str, columns: Sequence[str]
) -> str:
    """The query for one expression, in which `pixels.sharpness` means `pixels_sharpness`."""
    template = f'select id, (\n{expression}\n) as verdict from "all"'
    tree = json.loads(_serialised(connection, template))
    known = {name.lower() for name in columns}
    dotted = [
        node
        for node in _references(tree["statements"][0]["node"]["select_list"][1])
        if len(node["column_names"]) == 2 and node["column_names"][0].lower() in known
    ]
    if not dotted:
        return template
    for node in dotted:
        node["column_names"] = ["_".join(node["column_names"])]
    sql = _answer(connection, "select json_deserialize_sql(?)", json.dumps(tree))
    if _plain(json.loads(_serialised(connection, sql))) != _plain(tree):
        raise _bad_expression(repr(expression))
    return sql


def _parsed(connection: "duckdb.DuckDBPyConnection", sql: str) -> dict[str, Any] | None:
    """The one expression that a SELECT of one expression, and of nothing else, consists of."""
    tree = json.loads(_serialised(connection, sql))
    if tree["error"]:
        raise _bad_expression(tree.get("error_message", "a syntax error"))
    nodes = [statement["node"] for statement in tree["statements"]]
    if len(nodes) != 1 or nodes[0]["type"] != "SELECT_NODE" or len(nodes[0]["select_list"]) != 1:
        return None
    found = nodes[0]["select_list"][0]
    standard = json.loads(_serialised(connection, "select 1"))["statements"][0]["node"]
    rest = _plain({**nodes[0], "select_list": []})
    is_bare = rest == _plain({**standard, "select_list": []})
    return _plain(found) if is_bare and not found["alias"] and found["class"] != "STAR" else None


def _serialised(connection: "duckdb.DuckDBPyConnection", sql: str) -> str:
    return _answer(connection, "select json_serialize_sql(?)", sql)


def _answer(connection: "duckdb.DuckDBPyConnection", question: str, text: str) -> str:
    # All rows, though there is one: a result that is not read to its end stays in the way.
    return connection.execute(question, [text]).fetchall()[0][0]


def _references(node: Any) -> Iterator[dict[str, Any]]:
    """References to columns in a parsed expression, except those inside of a subquery."""
    if isinstance(node, list):
        for inner in node:
            yield from _references(inner)
    elif isinstance(node, dict) and node.get("class") == "COLUMN_REF":
        yield node
    elif isinstance(node, dict):
        for key, inner in node.items():
            if key != "subquery":
                yield from _references(inner)


def _is_all_null(column: "pa.ChunkedArray") -> bool:
    return 0 < column.null_count == len(column)


def _plain(node: Any) -> Any:
    """A parsed text without the places at which things stood in it."""
    if isinstance(node, dict):
        return {k: _plain(v) for k, v in node.items() if not k.startswith("query_location")}
    return [_plain(inner) for inner in node] if isinstance(node, list) else node


def _scan(files: Sequence[Path]) -> str:
    listed = ", ".join(_literal(_pattern(file)) for file in files)
    return f"read_parquet([{listed}], hive_partitioning = false)"


def _nothing(fields: Mapping[str, str]) -> str:
    """A column without files: no row, but types, by which functions are chosen."""
    kinds = {OWN[0]: "string", **fields, **dict.fromkeys(OWN[1:], "string")}
    listed = ", ".join(f"null::{_sql_type(kind)} as {_quoted(n)}" for n, kind in kinds.items())
    return f"(select {listed} where false)"


def _sql_type(kind: str) -> str:
    inner = kind.partition("<")[2].rstrip(">")
    return f"{_sql_type(inner)}[]" if inner else _SQL_TYPES[kind]


def _pattern(path: Path) -> str:
    """A path in which DuckDB sees no wildcard."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in str(path))


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _bad_query(got: str) -> InputError:
    return InputError(
        "query", got, 'one SELECT over the views images, "all" and each column', "Correct it."
    )


def _bad_expression(got: str) -> InputError:
    return InputError(
        "expression",
        got,
        "one boolean SQL expression over fields such as h or pixels.sharpness",
        "Correct it.",
    )
