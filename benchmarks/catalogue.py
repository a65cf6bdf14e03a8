"""What a catalogue of a million pictures costs: CPU seconds of the process, and wall seconds.

Rows are synthetic (64-digit ids, paths, sizes, a caption, a style), and so are a column of six
scores and one of a number and a word. Each query is asked of a catalogue that was just opened.

Run: python benchmarks/catalogue.py [--rows 1000000] [--part-rows 4096] [--threads 1 2]
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tastemaker.store import base_table
from tastemaker.store.catalogue import Catalogue, ColumnKey
from tastemaker.store.catalogue_rows import base_schema, rows_of

SCORES, WORDS = ColumnKey("scores", 1), ColumnKey("words", 1)
SCORE_FIELDS = {f"s{number}": "float32" for number in range(6)}
WORD_FIELDS = {"count": "int32", "language": "string"}
SIX = " and ".join(f"scores_s{number} > 0.3" for number in range(6))
ALONE = SIX.replace("scores_", "")
FLUSHES = 100


def synthetic(rows: int) -> pa.Table:
    """A base table."""
    draws = np.random.default_rng(0)
    digits = draws.integers(0, 256, rows * 32, np.uint8).tobytes().hex()
    names = [f"{number:08d}.jpg" for number in range(rows)]
    pairs = [[{"name": "style", "value": value}] for value in ("photo", "drawing", "icon", "map")]
    values: dict[str, Any] = {
        "id": [digits[at : at + 64] for at in range(0, len(digits), 64)],
        "path": [f"/data/pictures/{name[:4]}/{name}" for name in names],
        "source": ["folder:/data/pictures"] * rows,
        "key": names,
        "h": draws.integers(256, 4000, rows),
        "w": draws.integers(256, 4000, rows),
        "format": ["JPEG"] * rows,
        "mode": ["RGB"] * rows,
        "frames": np.ones(rows, np.int32),
        "captions": [[f"a picture of number {name}"] for name in names],
        "tags": [[]] * rows,
        "attributes": [pairs[number % 4] for number in range(rows)],
        "status": ["ok"] * rows,
        "error": pa.nulls(rows, pa.string()),
        "bytes": draws.integers(10**4, 10**7, rows),
        "modified_ns": draws.integers(0, 2**60, rows),
    }
    return pa.table(values, schema=base_schema())


def scores(ids: pa.ChunkedArray) -> pa.Table:
    """Six scores a picture."""
    draws = np.random.default_rng(1)
    made = {name: pa.array(draws.random(len(ids)), pa.float32()) for name in SCORE_FIELDS}
    return pa.table({"id": ids, **made})


def words(ids: pa.ChunkedArray) -> pa.Table:
    """A number and a short text a picture."""
    draws = np.random.default_rng(2)
    language = pa.array(["en", "de", "zh"]).take(pa.array(draws.integers(0, 3, len(ids))))
    count = pa.array(draws.integers(0, 40, len(ids)), pa.int32())
    return pa.table({"id": ids, "count": count, "language": language})


def write(catalogue: Catalogue, key: ColumnKey, table: pa.Table, fields: dict[str, str]) -> None:
    """A whole column, part by part."""
    rows = base_table.PART_ROWS
    for number, part in enumerate(catalogue.parts()):
        catalogue.write_table(key, part, table.slice(number * rows, rows), fields)
    catalogue.finish_column(key, fields)


def measured(work: Callable[[], Any]) -> tuple[dict[str, float], Any]:
    """CPU and wall seconds of one call, and what it gave."""
    cpu, wall = time.process_time(), time.perf_counter()
    found = work()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return {"cpu_s": round(cpu, 3), "wall_s": round(wall, 3)}, found


def megabytes(folder: Path) -> float:
    """Size of a folder's files."""
    return round(sum(path.stat().st_size for path in folder.rglob("*.parquet")) / 1e6, 1)


def writing(folder: Path, base: pa.Table) -> dict[str, Any]:
    """Filling a catalogue."""
    catalogue, result = Catalogue(folder / "c"), {}
    result["write base"], _ = measured(lambda: catalogue.append_table(base))
    catalogue.close_base()
    ids = base["id"]
    six = scores(ids)
    result["add a column"], _ = measured(lambda: write(catalogue, SCORES, six, SCORE_FIELDS))
    write(catalogue, WORDS, words(ids), WORD_FIELDS)
    result["finish a column again"], _ = measured(
        lambda: Catalogue(folder / "c").finish_column(SCORES, SCORE_FIELDS)
    )
    result["look what is missing"], _ = measured(
        lambda: [catalogue.missing_rows(SCORES, part) for part in catalogue.parts()]
    )
    slow = Catalogue(folder / "slow")
    some = rows_of(base.slice(0, 256 * FLUSHES))
    took, _ = measured(
        lambda: [slow.append_base(some[at : at + 256]) for at in range(0, len(some), 256)]
    )
    result["write 256 rows to the open part"] = {k: v / FLUSHES for k, v in took.items()}
    lines = scores(ids.slice(0, len(some))).to_pylist()
    values = {line.pop("id"): line for line in lines}

    def by_rows() -> None:
        for part in slow.parts():
            own = slow.part_table(part, ["id"])["id"].to_pylist()
            slow.write_rows(SCORES, part, {id_: values[id_] for id_ in own}, SCORE_FIELDS)

    took, _ = measured(by_rows)
    result["write_rows, 100 rows"] = {k: 100 * v / len(some) for k, v in took.items()}
    changed = {row.record.id: row for row in some[:100]}
    result["update 100 rows of one part"], _ = measured(lambda: catalogue.update_base(changed))
    return result


def reading(folder: Path, threads: int) -> dict[str, Any]:
    """Queries with a number of threads; each on a catalogue that has just been opened."""
    pa.set_cpu_count(threads)

    def query(sql: str) -> tuple[dict[str, float], int]:
        took, table = measured(lambda: Catalogue(folder / "c").query(sql, threads=threads))
        return took, table.num_rows

    both = f"{SIX} and words_count > 20 and words_language <> 'de'"
    asked = {
        "six predicates, one column": f"select id from scores where {ALONE}",
        'six predicates, "all"': f'select id from "all" where {SIX}',
        "two columns": f'select id from "all" where {both}',
        "two columns and base": f'select id, path from "all" where {both} and short_side > 1000',
        "histogram": "select floor(s0 * 20) as bin, count(*) as n from scores group by bin",
    }
    result: dict[str, Any] = {}
    for name, sql in asked.items():
        took, count = query(sql)
        result[name] = {**took, "rows": count}
    took, truth = measured(
        lambda: Catalogue(folder / "c").boolean_column(f"{both} and h > 1000", threads=threads)
    )
    result["boolean_column"] = {**took, "rows": int(truth.values.sum())}
    names = ["s0", "s1"]
    result["column_table, two fields"], _ = measured(
        lambda: Catalogue(folder / "c").column_table(SCORES, names)
    )
    result["base_table, id and sides"], _ = measured(
        lambda: Catalogue(folder / "c").base_table(["id", "h", "w"])
    )
    return result


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--part-rows", type=int, default=base_table.PART_ROWS)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    options = parser.parse_args()
    base_table.PART_ROWS = options.part_rows
    pa.set_cpu_count(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        result: dict[str, Any] = {"rows": options.rows, "rows of a part": options.part_rows}
        result["writing, one thread"] = writing(folder, synthetic(options.rows))
        catalogue = folder / "c" / "catalog"
        result["parts"] = len(Catalogue(folder / "c").parts())
        result["MB"] = {
            path.name: megabytes(path)
            for path in (catalogue / "base", *(catalogue / "col").iterdir())
        }
        for threads in options.threads:
            result[f"reading, {threads} threads"] = reading(folder, threads)
        few = min(options.rows, 100_000) // options.part_rows
        took, records = measured(
            lambda: sum(
                len(Catalogue(folder / "c").rows(f"part-{n:05d}.parquet")) for n in range(few)
            )
        )
        result["rows() a CPU second"] = round(records / took["cpu_s"])
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
