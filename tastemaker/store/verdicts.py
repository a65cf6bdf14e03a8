"""The verdict on every picture of a collection, in one Parquet file.

Columns: `id`, `source`, `key`, `path`; `kept`; for a dropped one `rule` (the first that did not
keep it), `reason`, `got` and `limit`; and `failed`: every rule that would drop it alone.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tastemaker.curation.funnel import Funnel
from tastemaker.store.atomic import atomic_file
from tastemaker.store.catalogue import Catalogue

_ROWS = 1 << 16


def write_verdicts(path: Path, catalogue: Catalogue, funnel: Funnel, labels: Sequence[str]) -> None:
    """Write the file, whole or not at all.

    Args:
        path: the file.
        catalogue: the collection that was judged.
        funnel: the verdicts, in the order of the collection.
        labels: name of each rule.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = catalogue.base_table(["id", "source", "key", "path"])
    drops = funnel.drops()
    rules = [labels[n] if n >= 0 else None for n in funnel.dropped_by]
    texts = {
        name: [
            None if (drop := drops.get(index)) is None else str(getattr(drop, name))
            for index in range(len(table))
        ]
        for name in ("reason", "got", "limit")
    }
    own = {
        "kept": pa.array(funnel.kept),
        "rule": pa.array(rules, pa.string()),
        **{name: pa.array(values, pa.string()) for name, values in texts.items()},
        "failed": _failed(funnel, labels),
    }
    for name, values in own.items():
        table = table.append_column(name, values)
    with atomic_file(path) as temporary:
        pq.write_table(table, temporary, compression="zstd", row_group_size=_ROWS)


def _failed(funnel: Funnel, labels: Sequence[str]) -> object:
    """For every picture the labels of the rules that would drop it alone."""
    import pyarrow as pa

    alone = [(label, mask) for label, mask in zip(labels, funnel.failed, strict=True)
             if mask is not None]  # fmt: skip
    count = len(funnel.dropped_by)
    if not alone:
        return pa.array([[]] * count, pa.list_(pa.string()))
    rows, numbers = np.nonzero(np.stack([mask for _, mask in alone], axis=1))
    offsets = np.zeros(count + 1, np.int32)
    offsets[1:] = np.cumsum(np.bincount(rows, minlength=count))
    names = pa.array([label for label, _ in alone])
    return pa.ListArray.from_arrays(pa.array(offsets), names.take(pa.array(numbers)))
