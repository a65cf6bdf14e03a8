"""What a run trained on and what its curation left out."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from tastemaker.errors import TastemakerError
from tastemaker.report.pictures import embedded
from tastemaker.report.read import RunFacts, StepFacts
from tastemaker.store.catalogue import Catalogue
from tastemaker.store.selections import read_selection

_THUMBNAIL_PX = 144


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
    """One finished curate step."""

    step: StepFacts
    total: int
    kept: int
    query: str
    reasons: tuple[Reason, ...]


def curated(run: RunFacts, examples: int = 6) -> list[Curated]:
    """All finished curations, with verdicts by reason, most frequent first."""
    found = []
    for step in run.of_stage("curate"):
        rows = _verdicts(step.output("verdicts"))
        catalogue = _catalogue(run, step)
        dropped = [row for row in rows if not row["kept"]]
        reasons = tuple(
            Reason(name, count, _examples(catalogue, dropped, name, examples))
            for name, count in Counter(row["reason"] for row in dropped).most_common()
        )
        assert step.manifest is not None
        query = str(step.manifest.results.get("query", ""))
        found.append(Curated(step, len(rows), len(rows) - len(dropped), query, reasons))
    return found


def training_pictures(run: RunFacts, count: int = 24) -> tuple[int, list[Thumbnail]]:
    """How many pictures the last fit was given, and some of them, chosen by hash."""
    for step in reversed(run.of_stage("fit", "fit_image_text", "fit_autoencoder")):
        selection = run.find(step.config.get("selection"), "selection")
        catalogue = _catalogue(run, step)
        if selection is None or catalogue is None:
            continue
        try:
            ids = set(read_selection(selection).ids)
            records = [r for r in catalogue.records() if r.id in ids]
        except TastemakerError:
            continue
        records.sort(key=lambda record: _digest(record.id))
        shown = [
            Thumbnail(address, record.captions[0] if record.captions else record.key)
            for record in records[:count]
            if (address := _address(catalogue, record))
        ]
        return len(ids), shown
    return 0, []


def _catalogue(run: RunFacts, step: StepFacts) -> Catalogue | None:
    path = run.find(step.config.get("collection"), "collection")
    return Catalogue(path) if path is not None else None


def _verdicts(path: Path | None) -> list[dict[str, Any]]:
    from pyarrow import parquet

    return parquet.read_table(path).to_pylist() if path is not None else []


def _examples(
    catalogue: Catalogue | None, dropped: Sequence[dict[str, Any]], reason: str, count: int
) -> tuple[Thumbnail, ...]:
    if catalogue is None:
        return ()
    rows = sorted(
        (row for row in dropped if row["reason"] == reason), key=lambda r: _digest(r["id"])
    )
    found = []
    # Some cannot be shown, which may be why they were dropped.
    for row in rows[: 4 * count]:
        path = Path(row["path"])
        address = embedded(path if path.is_absolute() else catalogue.path / path, _THUMBNAIL_PX)
        if address and len(found) < count:
            found.append(
                Thumbnail(address, f"{row['key']}: got {row['got']}, limit {row['limit']}")
            )
    return tuple(found)


def _address(catalogue: Catalogue, record: Any) -> str | None:
    try:
        return embedded(catalogue.picture_path(record), _THUMBNAIL_PX)
    except TastemakerError:
        return None


def _digest(text: str) -> bytes:
    return blake2b(text.encode(), digest_size=16).digest()
