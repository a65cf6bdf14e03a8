"""Pair sets on disk: what preference training is given, with everything that was left out.

```
PAIRS/
  pairs.parquet      a row a pair (`records.pair.Pair`), sorted by id
  pictures.parquet   a row a picture: id, path, h, w, source, and its kept latent, if there is one
  dropped.parquet    a row a comparison that is no pair, with its reason
  pairs.json         written last: hashes, number of pairs, `made_with`, counts
```
"""

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tastemaker.errors import CorruptFile, InputError
from tastemaker.records.pair import DroppedComparison, Pair, PairPicture, Split
from tastemaker.records.size import Size
from tastemaker.store.atomic import atomic_folder, write_json
from tastemaker.store.hashing import hash_file
from tastemaker.store.parquet_files import read_parquet, write_parquet

if TYPE_CHECKING:
    import pyarrow as pa

_FORMAT = 1
_PAIRS, _PICTURES, _DROPPED = "pairs.parquet", "pictures.parquet", "dropped.parquet"
_MANIFEST = "pairs.json"
_REMEDY = "Delete it and run the pairs step again."


@dataclass(frozen=True)
class PairSetFacts:
    """What a pair set was made with.

    Attributes:
        name: its name.
        made_with: source, scorer, prompts, seeds, tie policy: whatever determined it.
        counts: what became of the comparisons.
    """

    name: str
    made_with: Mapping[str, Any]
    counts: Mapping[str, int]


class PairSet:
    """A pair set, read row by row or by id; several threads may read.

    Args:
        path: its folder.

    Attributes:
        hash: of the pairs themselves; pictures count by their ids, wherever they lie.
        facts: what it was made with.

    Raises:
        InputError: there is none.
        CorruptFile: a file is not what was written.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        manifest = self.path / _MANIFEST
        try:
            content = json.loads(manifest.read_text(encoding="utf-8"))
            self.hash: str = content["hash"]
            self.facts = PairSetFacts(content["name"], content["made_with"], content["counts"])
            files = dict(content["files"])
        except (FileNotFoundError, NotADirectoryError) as error:
            raise InputError(
                self.path, f"no {_MANIFEST}", "a pair set", "Run the pairs step, and name its run."
            ) from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CorruptFile(f"{manifest}: not a pair set ({error}). {_REMEDY}") from error
        for name, digest in files.items():
            file = self.path / Path(name).name
            if not file.is_file() or hash_file(file) != digest:
                raise CorruptFile(f"{file}: gone, or changed since it was written. {_REMEDY}")

    def __len__(self) -> int:
        """How many pairs there are."""
        return len(self._table)

    def ids(self, split: Split | None = None) -> tuple[str, ...]:
        """Ids of all pairs, or of those of one side, sorted."""
        sides = self._table["split"].to_pylist() if split else []
        return tuple(i for n, i in enumerate(self._rows) if split is None or sides[n] == split)

    def pair(self, pair_id: str) -> Pair:
        """One pair.

        Raises:
            InputError: there is no such pair.
        """
        row = self._rows.get(pair_id)
        if row is None:
            raise InputError(
                self.path, f"no pair {pair_id[:12]}", f"one of its {len(self)} pairs",
                "Use the pair set that the ids come from.",
            )  # fmt: skip
        return _pair(self._table.slice(row, 1).to_pylist()[0])

    def pairs(self, split: Split | None = None) -> Iterator[Pair]:
        """All pairs, or those of one side, by id."""
        for batch in self._table.to_batches(max_chunksize=4096):
            for line in batch.to_pylist():
                if split is None or line["split"] == split:
                    yield _pair(line)

    def margins(self) -> list[float]:
        """The margins of all pairs that have one."""
        return self._table["margin"].drop_null().to_pylist()

    def pictures(self) -> dict[str, PairPicture]:
        """Every picture of a pair, by id."""
        table = read_parquet(self.path / _PICTURES)
        return {
            line["id"]: PairPicture(
                line["id"],
                line["path"],
                Size(line["h"], line["w"]),
                line["source"],
                line["latents"],
                line["latent"],
            )
            for line in table.to_pylist()
        }

    def dropped(self) -> Iterator[DroppedComparison]:
        """The verdicts on what is no pair."""
        for line in read_parquet(self.path / _DROPPED).to_pylist():
            yield DroppedComparison(**line)

    @cached_property
    def _table(self) -> "pa.Table":
        return read_parquet(self.path / _PAIRS)

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {i: n for n, i in enumerate(self._table["id"].to_pylist())}


def write_pair_set(
    path: Path,
    pairs: Sequence[Pair],
    pictures: Mapping[str, PairPicture],
    dropped: Iterable[DroppedComparison],
    facts: PairSetFacts,
) -> str:
    """Write a set, whole or not at all; its hash.

    Args:
        path: the folder.
        pairs: with ids of their own, sorted by id.
        pictures: id -> picture, of both sides of every pair.
        dropped: what became no pair.
        facts: what it was made with.

    Raises:
        InputError: two pairs have one id, or a picture is not among `pictures`.
        StorageError: the disk is full.
    """
    import pyarrow as pa

    _check(path, pairs, pictures)
    used = sorted({i for pair in pairs for i in (pair.winner, pair.loser)})
    # Columns: a dict for each of a million rows would take gigabytes.
    columns: dict[str, dict[str, list[Any]]] = {
        _PAIRS: _columns(_PAIRS, pairs),
        _PICTURES: _columns(_PICTURES, [pictures[i] for i in used]),
        _DROPPED: _columns(_DROPPED, list(dropped)),
    }
    digest = pairs_hash(pairs)
    with atomic_folder(path) as folder:
        for name, own in columns.items():
            schema = _schema(name)
            table = pa.Table.from_pydict(own, schema)
            repeated = [n for n in ("source", "reason", "split", "latents") if n in schema.names]
            write_parquet(folder / name, table, {"format": str(_FORMAT)}, repeated)
        content: dict[str, Any] = {
            "format": _FORMAT,
            "name": facts.name,
            "hash": digest,
            "pairs": len(pairs),
            "files": {name: hash_file(folder / name) for name in columns},
            "made_with": dict(facts.made_with),
            "counts": dict(facts.counts),
        }
        write_json(folder / _MANIFEST, content)
    return digest


def pairs_hash(pairs: Iterable[Pair]) -> str:
    """Hash of pairs: all that training can see of them, and their split."""
    digest = blake2b(digest_size=32)
    for pair in pairs:
        fields = [pair.id, pair.prompt, pair.winner, pair.loser, pair.label, pair.margin]
        digest.update(json.dumps([*fields, pair.split], allow_nan=False).encode())
    return digest.hexdigest()


def _check(path: Path, pairs: Sequence[Pair], pictures: Collection[str]) -> None:
    ids = {pair.id for pair in pairs}
    lost = [i for pair in pairs for i in (pair.winner, pair.loser) if i not in pictures]
    if len(ids) < len(pairs) or lost:
        got = f"the picture {lost[0][:12]} nowhere" if lost else "two pairs with one id"
        raise InputError(path, got, "a picture for every side, an id for every pair", "Mend it.")


def _columns(name: str, rows: Sequence[Any]) -> dict[str, list[Any]]:
    return {column: [_cell(row, column) for row in rows] for column in _schema(name).names}


def _cell(row: Any, column: str) -> Any:
    if column in ("h", "w"):
        return getattr(row.size, column)
    value = getattr(row, column)
    return [{"name": n, "value": v} for n, v in value] if column == "facts" else value


def _pair(line: Mapping[str, Any]) -> Pair:
    facts = tuple((fact["name"], fact["value"]) for fact in line["facts"])
    return Pair(**{**line, "facts": facts})


def _schema(name: str) -> "pa.Schema":
    import pyarrow as pa

    text, number = pa.string(), pa.float64()
    if name == _PICTURES:
        sides = [("h", pa.int32()), ("w", pa.int32())]
        own = [(column, text) for column in ("source", "latents", "latent")]
        return pa.schema([("id", text), ("path", text), *sides, *own])
    if name == _DROPPED:
        return pa.schema([(column, text) for column in DroppedComparison.__dataclass_fields__])
    return pa.schema(
        [
            *((column, text) for column in ("id", "prompt", "winner", "loser")),
            *((column, number) for column in ("label", "margin")),
            *((column, text) for column in ("source", "split")),
            ("facts", pa.list_(pa.struct([("name", text), ("value", text)]))),
        ]
    )
