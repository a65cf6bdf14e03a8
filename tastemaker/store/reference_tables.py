"""Errors of a reference on pairs, computed once: with them training needs no second model.

One Parquet file: `pair`, `draw` (0 to K - 1), `timestep`, `winner_error`, `loser_error` (float32,
mean squared errors in the network's own space). Its footer says what the errors were made with; a
table made with anything else than a run has is refused, never used.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tastemaker.errors import CorruptFile, InputError, StaleCache
from tastemaker.store.hashing import hash_json
from tastemaker.store.parquet_files import Footers, read_parquet, write_parquet

VERSION = "1"
_NAMES = ("pair", "draw", "timestep", "winner_error", "loser_error")
_REMEDY = "Compute the table again with the model, pairs and settings of this run."


@dataclass(frozen=True)
class ReferenceErrors:
    """What the reference said of one draw of one pair.

    Attributes:
        pair: id of the pair.
        draw: which of the pair's K draws of noise, timestep and text.
        timestep: t of the draw.
        winner_error: mean squared error, in the network's own space.
        loser_error: the same of the loser.
    """

    pair: str
    draw: int
    timestep: int
    winner_error: float
    loser_error: float


def write_reference_table(
    path: Path, rows: Iterable[ReferenceErrors], made_with: Mapping[str, str | int | float | bool]
) -> str:
    """Write a table; its key, a hash of what it was made with.

    Args:
        path: the file.
        rows: every draw of every pair, in any order.
        made_with: all that the errors depend on: hash of the reference, number format, key of the
            latents, seed, settings of texts, timesteps and noise, and K as `draws`.

    Raises:
        ValueError: `draws` is missing, a draw is missing or comes twice, an error is not finite.
        StorageError: the disk is full.
    """
    import numpy as np
    import pyarrow as pa

    ordered = sorted(rows, key=lambda row: (row.pair, row.draw))
    draws = int(made_with.get("draws", 0))
    if draws < 1:
        raise ValueError("made_with must say how many `draws` each pair has")
    if [row.draw for row in ordered] != list(range(draws)) * (len(ordered) // draws):
        raise ValueError(f"a table needs draws 0 to {draws - 1} of every pair, each once")
    if any(a.pair == b.pair for a, b in zip(ordered[::draws], ordered[draws::draws], strict=False)):
        raise ValueError("a pair comes twice")
    columns = {
        "pair": pa.array([row.pair for row in ordered], pa.string()),
        "draw": pa.array([row.draw for row in ordered], pa.int32()),
        "timestep": pa.array([row.timestep for row in ordered], pa.int32()),
    }
    for name in _NAMES[3:]:
        values = np.array([getattr(row, name) for row in ordered], dtype=np.float32)
        if not np.isfinite(values).all():
            raise ValueError(f"{name}: a value is not finite")
        columns[name] = pa.array(values)
    key = table_key(made_with)
    facts = {
        "version": VERSION,
        "key": key,
        "made_with": json.dumps(dict(made_with), sort_keys=True, allow_nan=False),
    }
    write_parquet(path, pa.table(columns), facts, ["pair"])
    return key


def table_key(made_with: Mapping[str, str | int | float | bool]) -> str:
    """Hash of everything that the errors depend on."""
    return hash_json({"version": VERSION, **made_with})


class ReferenceTable:
    """A table in memory: 12 bytes a draw, and the pairs' ids."""

    def __init__(
        self, path: Path, made_with: Mapping[str, str | int | float | bool] | None = None
    ) -> None:
        """Read a table.

        Args:
            path: the file.
            made_with: what this run has; None reads the table whatever it was made with.

        Raises:
            StaleCache: it was made with something else; names every difference.
            CorruptFile: it is no whole table.
        """
        facts = Footers().of(path).facts
        if facts.get("version") != VERSION or "made_with" not in facts:
            raise CorruptFile(f"{path}: not a table of reference errors of version {VERSION}.")
        self.path = path
        self.made_with: dict[str, str | int | float | bool] = json.loads(facts["made_with"])
        self.draws = int(self.made_with["draws"])
        if made_with is not None:
            self._refuse_stale(made_with)
        table = read_parquet(path, _NAMES)
        if len(table) % self.draws:
            raise CorruptFile(f"{path}: {len(table)} rows, which {self.draws} draws do not divide.")
        pairs = table["pair"].to_pylist()[:: self.draws]
        self._first = {pair: n * self.draws for n, pair in enumerate(pairs)}
        self._timestep = table["timestep"].to_numpy()
        self._errors = [table[name].to_numpy() for name in _NAMES[3:]]

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self._first)

    def of(self, pair: str, draw: int) -> ReferenceErrors:
        """One row.

        Raises:
            StaleCache: the table lacks the pair.
            ValueError: no such draw.
        """
        if not 0 <= draw < self.draws:
            raise ValueError(f"draw {draw} of a table with {self.draws}")
        if pair not in self._first:
            raise StaleCache(
                self.path, f"no errors of pair {pair}", "every pair that is trained on", _REMEDY
            )
        row = self._first[pair] + draw
        winner, loser = (float(errors[row]) for errors in self._errors)
        return ReferenceErrors(pair, draw, int(self._timestep[row]), winner, loser)

    def check(self, pairs: Iterable[str]) -> None:
        """Look before the first step whether every pair is there.

        Raises:
            InputError: some are missing.
        """
        absent = [pair for pair in pairs if pair not in self._first]
        if absent:
            raise InputError(
                self.path, f"no errors of {len(absent)} pairs, first {absent[0]}",
                "every pair that is trained on", _REMEDY,
            )  # fmt: skip

    def _refuse_stale(self, made_with: Mapping[str, str | int | float | bool]) -> None:
        names = sorted(self.made_with.keys() | made_with.keys())
        other = [n for n in names if self.made_with.get(n) != made_with.get(n)]
        if other:
            raise StaleCache(
                self.path,
                ", ".join(f"{n} {self.made_with.get(n)}" for n in other),
                ", ".join(f"{n} {made_with.get(n)}" for n in other),
                _REMEDY,
            )
