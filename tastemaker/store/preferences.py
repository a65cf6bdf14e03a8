"""Comparisons that a collection's sources came with, as rows that name pictures by id.

```
COLLECTION/catalog/preferences/part-00000.parquet ...   one row a comparison
COLLECTION/catalog/preferences/manifest.json            written last: parts and rows
```

They are small and have no pixels, so they are written anew whenever pictures are collected.
"""

import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from tastemaker.errors import CorruptFile
from tastemaker.records.preference import Preference
from tastemaker.store.atomic import atomic_file, write_json
from tastemaker.store.catalogue_rows import array_of

if TYPE_CHECKING:
    import pyarrow as pa

_PART_ROWS = 65_536
_FOLDER = Path("catalog") / "preferences"


class HasPreferences(Protocol):
    """A source of pictures that may come with comparisons of them."""

    spec: str

    def preferences(self) -> Iterator[Preference]:
        """The comparisons, in a fixed order."""
        ...


@dataclass(frozen=True)
class StoredPreference:
    """A comparison of two pictures of a collection.

    Attributes:
        source: the source that had it.
        preference: what the source said, with its own keys of the pictures.
        first: id of the first picture; None when it is not usable.
        second: id of the second picture; None when it is not usable.
    """

    source: str
    preference: Preference
    first: str | None
    second: str | None


def write_preferences(
    collection: Path,
    sources: Iterable[HasPreferences],
    picture_id: Callable[[str, str], str | None],
) -> int:
    """Write the comparisons of all sources, instead of those that were there.

    Args:
        collection: the collection's folder.
        sources: where the comparisons come from.
        picture_id: source and key -> id of the usable picture there, or None.

    Returns:
        How many there are; no file is written for none.
    """
    folder = collection / _FOLDER
    rows = (
        StoredPreference(
            source.spec,
            found,
            picture_id(source.spec, found.first),
            picture_id(source.spec, found.second),
        )
        for source in sources
        for found in source.preferences()
    )
    parts = []
    while some := list(islice(rows, _PART_ROWS)):
        name = f"part-{len(parts):05d}.parquet"
        _write(folder / name, some)
        parts.append({"file": name, "rows": len(some)})
    if parts:
        write_json(folder / "manifest.json", {"format": 1, "parts": parts})
        named = {part["file"] for part in parts}
        for old in [path for path in folder.glob("part-*.parquet") if path.name not in named]:
            old.unlink()
    elif folder.exists():
        shutil.rmtree(folder)
    return sum(part["rows"] for part in parts)


def read_preferences(collection: Path) -> Iterator[StoredPreference]:
    """All comparisons of a collection, in the order of its sources; nothing when it has none.

    Raises:
        CorruptFile: a part that the manifest names is gone.
    """
    import pyarrow.parquet as pq

    manifest = collection / _FOLDER / "manifest.json"
    if not manifest.exists():
        return
    for part in json.loads(manifest.read_text())["parts"]:
        path = manifest.parent / part["file"]
        if not path.is_file():
            raise CorruptFile(f"{path}: gone. Collect the pictures again.")
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches():
                yield from (_stored(values) for values in batch.to_pylist())


def _write(path: Path, rows: list[StoredPreference]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    lines = [
        {
            "source": row.source,
            "key": row.preference.key,
            "prompt": row.preference.prompt,
            "first_key": row.preference.first,
            "second_key": row.preference.second,
            "first_id": row.first,
            "second_id": row.second,
            "label": row.preference.label,
            "facts": [{"name": name, "value": value} for name, value in row.preference.facts],
        }
        for row in rows
    ]
    schema = _schema()
    columns = [array_of([line[field.name] for line in lines], field.type) for field in schema]
    with atomic_file(path) as temporary:
        pq.write_table(pa.Table.from_arrays(columns, schema=schema), temporary, compression="zstd")


def _stored(values: dict) -> StoredPreference:
    facts = tuple((fact["name"], fact["value"]) for fact in values["facts"])
    preference = Preference(
        key=values["key"],
        prompt=values["prompt"],
        first=values["first_key"],
        second=values["second_key"],
        label=values["label"],
        facts=facts,
    )
    return StoredPreference(values["source"], preference, values["first_id"], values["second_id"])


def _schema() -> "pa.Schema":
    import pyarrow as pa

    text = pa.string()
    names = ("source", "key", "prompt", "first_key", "second_key", "first_id", "second_id")
    return pa.schema(
        [
            *((name, text) for name in names),
            ("label", pa.float64()),
            ("facts", pa.list_(pa.struct([("name", text), ("value", text)]))),
        ]
    )
