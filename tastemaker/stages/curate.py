"""Stage: choose pictures by rules, and say of each one that is left out why."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, field_validator

from tastemaker.curation import rules
from tastemaker.curation.duplicates import Look, near_duplicates
from tastemaker.engine.progress import Progress
from tastemaker.engine.shards import run_shards
from tastemaker.errors import InputError, PictureError
from tastemaker.records.config import Config as BaseConfig
from tastemaker.records.config import as_tuple
from tastemaker.records.image import Drop, ImageRecord, Keep, Verdict
from tastemaker.records.run import Artefact, Manifest
from tastemaker.scorers import pixel_facts
from tastemaker.store.atomic import atomic_file
from tastemaker.store.catalogue import Catalogue, ColumnKey
from tastemaker.store.hashing import hash_bytes
from tastemaker.store.images import load_image, read_picture_file
from tastemaker.store.rundir import StepDir
from tastemaker.store.selections import make_selection, write_selection

VERSION = 1
OUTPUTS = ("selection", "verdicts")

PIXELS = ColumnKey(pixel_facts.NAME, pixel_facts.VERSION)
"""The column that needs the pixels; it stays in the collection, for every later choice."""

_TODO = {
    "no caption": "Write NAME.txt beside each picture NAME.jpg, or set require_caption to false.",
    "too small": "Lower least_side_px, or give larger pictures.",
    "too long": "Raise most_aspect.",
    "not wanted": "Correct `where`: see the attributes of the collection's pictures.",
    "blank": "Raise most_flat_share.",
    "blurred": "Lower least_sharpness.",
}


class Config(BaseConfig):
    """Rules in the order in which they are asked; the first that drops a picture is its reason."""

    inputs: ClassVar[dict[str, str]] = {"collection": "collection"}
    collection: str
    """The pictures."""
    name: str = "selection"
    """Name of the selection."""
    where: dict[str, tuple[str, ...]] = {}
    """Attribute -> wanted values, for example `style: [openmoji]` and `split: [tune]`."""
    keep_unlabelled: bool = False
    """Whether a picture that lacks an attribute of `where` stays."""
    require_caption: bool = True
    """Drop pictures without a caption."""
    least_side_px: int = Field(default=64, ge=1)
    """Drop pictures whose shorter side is smaller (ours)."""
    most_aspect: float = Field(default=4.0, ge=1)
    """Drop pictures whose sides differ by more than this factor (ours)."""
    most_flat_share: float = Field(default=0.99, gt=0, le=1)
    """Drop pictures of which a larger share is one colour (ours)."""
    least_sharpness: float = Field(default=0.0, ge=0)
    """Drop pictures with a smaller variance of the Laplacian; 0 keeps all (ours)."""
    near_duplicate_bits: int = Field(default=6, ge=-1, le=32)
    """Pictures may be the same when their hashes differ in so many of 64 bits; -1: never (ours)."""
    near_duplicate_levels: float = Field(default=4.0, ge=0)
    """... if their colours, too, differ by at most so many of 255 levels on average (ours)."""
    duplicates_within: str = "style"
    """Only pictures with the same value of this attribute are compared."""
    workers: int = Field(default=0, ge=0)
    """Processes that decode; 0 is this one. The result does not depend on it."""

    @field_validator("where", mode="before")
    @classmethod
    def _one_value_is_a_list(cls, value: object) -> object:
        if not isinstance(value, Mapping):
            return value
        return {name: as_tuple(wanted) for name, wanted in value.items()}


def run(config: Config, inputs: Mapping[str, Artefact], step: StepDir) -> Manifest:
    """Measure what is not measured yet, then write `verdicts.parquet` and `selection.json`."""
    catalogue = Catalogue(Path(inputs["collection"].path))
    records = list(catalogue.records())
    measure_pixels(catalogue, config.workers, step)
    verdicts = judge(records, catalogue.column(PIXELS), config)
    write_verdicts(step.path / "verdicts.parquet", records, verdicts)
    kept = [record for record in records if isinstance(verdicts[record.id], Keep)]
    drops = [verdict for verdict in verdicts.values() if isinstance(verdict, Drop)]
    reasons = Counter(verdict.reason for verdict in drops)
    if not kept:
        raise _nothing(catalogue, records, verdicts, reasons)
    selection = make_selection(config.name, (record.id for record in kept), describe(config))
    write_selection(step.path / "selection.json", selection)
    dropped = {f"dropped: {reason}": count for reason, count in sorted(reasons.items())}
    return Manifest(
        stage="curate",
        key=step.key,
        outputs={"selection": "selection.json", "verdicts": "verdicts.parquet"},
        counts={"pictures": len(records), "kept": len(kept), **dropped},
        results={"query": selection.query, "hash": selection.hash},
    )


def measure_pixels(catalogue: Catalogue, workers: int, step: StepDir) -> None:
    """Fill the pixel column, part by part; parts that are there already are not measured again."""
    parts = catalogue.missing_parts(PIXELS)
    if parts:
        rows = {part: [row.record for row in catalogue.rows(part)] for part in parts}
        shards = [(part, _files(catalogue, rows[part])) for part in parts]
        total = sum(len(files) for _, files in shards)
        with Progress(step, total, "pictures", f"{step.name}: pixels") as progress:
            for result in run_shards(measure_part, shards, workers=workers):
                part, files = result.shard
                catalogue.write_column_part(PIXELS, part, result.unwrap())
                progress.advance(len(files))
    catalogue.finish_column(PIXELS)


def measure_part(shard: tuple[str, Sequence[tuple[str, Path]]]) -> dict[str, dict[str, Any]]:
    """Pixel measurements of one part, by id; a picture that cannot be read gets status `error`."""
    return {id_: _measure(id_, path) for id_, path in shard[1]}


def judge(
    records: Sequence[ImageRecord], pixels: Mapping[str, Mapping[str, Any]], config: Config
) -> dict[str, Verdict]:
    """The verdict on each picture, by id."""
    verdicts = {record.id: _judge_alone(record, pixels[record.id], config) for record in records}
    rest = [record for record in records if isinstance(verdicts[record.id], Keep)]
    rest.sort(key=_best_first)
    looks = [_look(record, pixels[record.id], config.duplicates_within) for record in rest]
    most_bits, most_levels = config.near_duplicate_bits, config.near_duplicate_levels
    return {**verdicts, **near_duplicates(looks, most_bits, most_levels)}


def describe(config: Config) -> str:
    """The rules in words, for the selection."""
    said = ["readable", "no exact duplicates"]
    or_none = " or not given" if config.keep_unlabelled else ""
    said += [
        f"{name} is {' or '.join(values)}{or_none}" for name, values in sorted(config.where.items())
    ]
    if config.require_caption:
        said.append("has a caption")
    said += [
        f"shorter side at least {config.least_side_px} px",
        f"sides within 1:{config.most_aspect:g}",
        f"at most {config.most_flat_share:g} of one colour",
    ]
    if config.least_sharpness > 0:
        said.append(f"sharpness at least {config.least_sharpness:g}")
    if config.near_duplicate_bits >= 0:
        said.append(
            f"nothing else of its {config.duplicates_within} within {config.near_duplicate_bits} "
            f"bits and {config.near_duplicate_levels:g} levels"
        )
    return "; ".join(said)


def write_verdicts(
    path: Path, records: Sequence[ImageRecord], verdicts: Mapping[str, Verdict]
) -> None:
    """One row a picture: id, source, key, path, kept, reason, got, limit."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    found = [verdicts[record.id] for record in records]
    drops = [verdict if isinstance(verdict, Drop) else None for verdict in found]
    table = pa.table(
        {
            "id": [record.id for record in records],
            "source": [record.source for record in records],
            "key": [record.key for record in records],
            "path": [record.path for record in records],
            "kept": [drop is None for drop in drops],
            "reason": pa.array([drop.reason if drop else None for drop in drops], pa.string()),
            "got": pa.array([str(drop.got) if drop else None for drop in drops], pa.string()),
            "limit": pa.array([str(drop.limit) if drop else None for drop in drops], pa.string()),
        }
    )
    with atomic_file(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def _files(catalogue: Catalogue, records: Sequence[ImageRecord]) -> tuple[tuple[str, Path], ...]:
    return tuple(
        (record.id, catalogue.picture_path(record)) for record in records if record.status == "ok"
    )


def _measure(id_: str, path: Path) -> dict[str, Any]:
    try:
        data = read_picture_file(path)
        if hash_bytes(data) != id_:
            return {"status": "error", "error": "changed since it was collected"}
        return pixel_facts.measure(load_image(data, name=str(path)).pixels)
    except PictureError as error:
        return {"status": "error", "error": str(error.got)}


def _judge_alone(record: ImageRecord, pixels: Mapping[str, Any], config: Config) -> Verdict:
    wanted = rules.wanted(record, config.where, keep_unlabelled=config.keep_unlabelled)
    known = [rules.readable(record), wanted]
    if config.require_caption:
        known.append(rules.captioned(record))
    known.append(rules.large_enough(record, config.least_side_px))
    known.append(rules.not_too_long(record, config.most_aspect))
    verdict = rules.first_drop(known)
    if isinstance(verdict, Drop):
        return verdict
    if pixels["status"] != "ok":
        error = str(pixels["error"])
        return Drop(f"unreadable: {error.split(' (')[0]}", error, "a whole picture")
    return rules.first_drop(
        [
            rules.not_blank(pixels["flat_share"], config.most_flat_share),
            rules.sharp_enough(pixels["sharpness"], config.least_sharpness),
        ]
    )


def _best_first(record: ImageRecord) -> tuple[int, int, str, str]:
    area = record.size.h * record.size.w if record.size else 0
    return -area, -len(record.captions), record.source, record.key


def _look(record: ImageRecord, pixels: Mapping[str, Any], within: str) -> Look:
    return Look(
        id=record.id,
        name=f"{record.source} {record.key}",
        group=record.attribute(within) or "",
        phash=int(pixels["phash"], 16),
        colours=tuple(pixels["colours"]),
    )


def _nothing(
    catalogue: Catalogue,
    records: Sequence[ImageRecord],
    verdicts: Mapping[str, Verdict],
    reasons: Counter[str],
) -> InputError:
    listed = ", ".join(f"{count} by the rule '{reason}'" for reason, count in reasons.most_common())
    top = reasons.most_common(1)[0][0]
    first = next(
        (record, verdict)
        for record in records
        if isinstance(verdict := verdicts[record.id], Drop) and verdict.reason == top
    )
    example = f"for example {first[0].key}: {top}, got {first[1].got}, limit {first[1].limit}"
    todo = next(
        (todo for start, todo in _TODO.items() if top.startswith(start)),
        "Look at the files that are named, or give other pictures.",
    )
    return InputError(
        catalogue.path,
        f"0 of {len(records)} pictures left: {listed} ({example})",
        "at least one picture that passes all rules",
        todo,
    )
