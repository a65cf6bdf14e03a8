"""What a run trained on and what its curation left out, in short."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tastemaker.errors import TastemakerError
from tastemaker.report.curated_step import collection_of
from tastemaker.report.read import RunFacts, StepFacts
from tastemaker.report.thumbnails import Thumbnails, by_lot, picture_rows, rows_with
from tastemaker.store.catalogue import Catalogue
from tastemaker.store.selections import read_selection

if TYPE_CHECKING:
    import pyarrow as pa

_EXAMPLES, _TRIED = 6, 12
_MOST_REASONS = 20


@dataclass(frozen=True)
class Thumbnail:
    """A small picture with what to say of it."""

    address: str
    caption: str


@dataclass(frozen=True)
class Reason:
    """One reason for which pictures were dropped, with a few of them."""

    name: str
    count: int
    examples: tuple[Thumbnail, ...]


@dataclass(frozen=True)
class Curated:
    """One finished curate step; `page` is the address of its own page, relative to the run."""

    step: StepFacts
    total: int
    kept: int
    query: str
    reasons: tuple[Reason, ...]
    page: str


def curated(run: RunFacts, pages: Mapping[Path, Path]) -> list[Curated]:
    """All finished curations, with verdicts by reason, most frequent first.

    Args:
        run: the run.
        pages: folder of a step -> its own page.
    """
    from pyarrow import compute

    found = []
    for step in run.of_stage("curate"):
        assert step.manifest is not None
        query = str(step.manifest.results.get("query", ""))
        page = pages.get(step.path)
        link = page.relative_to(run.path).as_posix() if page is not None else ""
        table = _verdicts(step.output("verdicts"))
        if table is None:
            continue
        dropped = table.filter(compute.call_function("invert", [table["kept"]]))
        kept = len(table) - len(dropped)
        reasons = _reasons(dropped, collection_of(run, step))
        found.append(Curated(step, len(table), kept, query, reasons, link))
    return found


def training_pictures(run: RunFacts, count: int = 24) -> tuple[int, list[Thumbnail]]:
    """How many pictures the last fit was given, and some of them, chosen by hash."""
    for step in reversed(run.of_stage("fit", "fit_pairs", "fit_image_text", "fit_autoencoder")):
        selection = run.find(step.config.get("selection"), "selection")
        collection = collection_of(run, step)
        if selection is None or collection is None:
            continue
        try:
            ids = read_selection(selection).ids
            shown = sorted(ids, key=_digest)[:count]
            rows = picture_rows(Catalogue(collection), shown, ["key", "captions"])
        except TastemakerError:
            continue
        pictures = Thumbnails(collection, shown)
        return len(ids), [
            Thumbnail(address, row["captions"][0] if row["captions"] else row["key"])
            for id_ in shown
            if (row := rows.get(id_)) and (address := pictures.address(id_))
        ]
    return 0, []


def _verdicts(path: Path | None) -> "pa.Table | None":
    """What the page needs of the verdicts; None when they are gone or damaged."""
    import pyarrow as pa
    from pyarrow import parquet

    names = ["id", "key", "kept", "reason", "got", "limit"]
    try:
        return parquet.read_table(path, columns=names) if path is not None else None
    except (OSError, pa.ArrowException):
        return None


def _reasons(dropped: "pa.Table", collection: Path | None) -> tuple[Reason, ...]:
    counts = Counter(
        {entry["values"]: entry["counts"] for entry in dropped["reason"].value_counts().to_pylist()}
    )
    rows = {
        reason: by_lot(rows_with(dropped, "reason", [reason]), _TRIED).to_pylist()
        for reason, _ in counts.most_common(_MOST_REASONS)
    }
    pictures = Thumbnails(collection, (row["id"] for own in rows.values() for row in own))
    return tuple(
        Reason(reason, count, _examples(rows.get(reason, []), pictures))
        for reason, count in counts.most_common()
    )


def _examples(rows: list[dict[str, Any]], pictures: Thumbnails) -> tuple[Thumbnail, ...]:
    """The first that can be shown: why some cannot may be why they were dropped."""
    found = []
    for row in rows:
        address = pictures.address(row["id"]) if len(found) < _EXAMPLES else None
        if address:
            caption = f"{row['key']}: got {row['got']}, limit {row['limit']}"
            found.append(Thumbnail(address, caption))
    return tuple(found)


def _digest(text: str) -> bytes:
    return blake2b(text.encode(), digest_size=16).digest()
