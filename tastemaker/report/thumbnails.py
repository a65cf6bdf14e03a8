"""Small pictures of a collection by id, of which only what is shown is read."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tastemaker.errors import TastemakerError
from tastemaker.records.image import ImageRecord
from tastemaker.report.pictures import embedded
from tastemaker.store.catalogue import Catalogue

if TYPE_CHECKING:
    import pyarrow as pa

SIDE_PX = 144
"""Longer side, at most (ours): sharp at one and a half times the width of a card."""


def picture_rows(
    catalogue: Catalogue, ids: Iterable[str], names: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Columns of the base table for some pictures, by id; pictures that are not there are left out.

    Args:
        catalogue: the collection.
        ids: a few hundred of them.
        names: columns beside `id`.

    Raises:
        TastemakerError: the collection is damaged.
    """
    table = catalogue.base_table(list(dict.fromkeys(["id", *names])))
    table = rows_with(table, "id", ids)
    # Of rows with one id the first is the picture, the others are its copies.
    return {row["id"]: row for row in reversed(table.to_pylist())}


def rows_with(table: "pa.Table", column: str, values: Iterable[str]) -> "pa.Table":
    """The rows whose text in a column is one of the values."""
    import pyarrow as pa
    from pyarrow import compute

    among = compute.SetLookupOptions(value_set=pa.array(dict.fromkeys(values), pa.string()))
    return table.filter(compute.call_function("is_in", [table[column]], among))


def by_lot(table: "pa.Table", count: int) -> "pa.Table":
    """Some rows by `id`, always the same ones: ids are hashes, so that their order is a lot."""
    from pyarrow import compute

    options = compute.SelectKOptions(k=min(count, len(table)), sort_keys=[("id", "ascending")])
    return table.take(compute.call_function("select_k_unstable", [table], options))


class Thumbnails:
    """Data addresses of some pictures of a collection; every file is read once.

    Args:
        collection: its folder; None or a folder without a catalogue: no picture is known.
        ids: the pictures that may be asked for.
        side_px: longer side, at most.
    """

    def __init__(self, collection: Path | None, ids: Iterable[str], side_px: int = SIDE_PX) -> None:
        self._side_px = side_px
        self._catalogue = Catalogue(collection) if collection is not None else None
        self._paths: Mapping[str, dict[str, Any]] = {}
        self._made: dict[str, str | None] = {}
        if self._catalogue is not None:
            try:
                self._paths = picture_rows(self._catalogue, ids, ["path"])
            except TastemakerError:
                self._catalogue = None

    def address(self, id_: str) -> str | None:
        """The data address of one picture, or None when it is gone or cannot be read."""
        if id_ not in self._made:
            self._made[id_] = self._make(id_)
        return self._made[id_]

    def _make(self, id_: str) -> str | None:
        row = self._paths.get(id_)
        if self._catalogue is None or row is None:
            return None
        try:
            path = self._catalogue.picture_path(ImageRecord(id_, row["path"], "", "", None))
        except TastemakerError:
            return None
        return embedded(path, self._side_px)
