"""Stage: gather pictures and what is known of them into a collection."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import ClassVar

from pydantic import Field, field_validator

from tastemaker.engine.progress import Progress
from tastemaker.engine.shards import ShardResult, run_shards
from tastemaker.errors import InputError, PictureError
from tastemaker.records.config import Config as BaseConfig
from tastemaker.records.config import as_tuple
from tastemaker.records.finding import Finding
from tastemaker.records.image import ImageRecord
from tastemaker.records.run import Artefact, Manifest
from tastemaker.store.atomic import write_bytes
from tastemaker.store.catalogue import Catalogue, Stamp
from tastemaker.store.hashing import hash_bytes
from tastemaker.store.images import load_image, read_picture_file
from tastemaker.store.ledger import Inspected, Ledger
from tastemaker.store.rundir import StepDir
from tastemaker.store.sources import Source, SourceItem, open_source

VERSION = 1
OUTPUTS = ("collection",)

_BATCH = 32
_MOST_EVENTS = 100
_MOST_CHECKED = 1000


class Config(BaseConfig):
    """Read every picture once; nothing is copied but pictures that have no file of their own."""

    inputs: ClassVar[dict[str, str]] = {"sources": "pictures"}
    sources: tuple[str, ...] = Field(min_length=1)
    """Folders, `demo:twemoji`, `demo:openmoji`; one name may stand without a list."""
    where: dict[str, tuple[str, ...]] = {}
    """Attribute -> wanted values, such as `split: [tune, heldout]`; nothing else is collected."""
    caption_column: str | None = None
    """Caption's column in metadata.jsonl or metadata.csv; by default `text` or `caption`."""
    workers: int = Field(default=0, ge=0)
    """Processes that decode; 0 is this one. The result does not depend on it."""

    @field_validator("sources", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: object) -> object:
        return as_tuple(value)

    @field_validator("where", mode="before")
    @classmethod
    def _one_value_is_a_list(cls, value: object) -> object:
        if not isinstance(value, Mapping):
            return value
        return {name: as_tuple(wanted) for name, wanted in value.items()}


def check(config: Config, inputs: Mapping[str, Artefact]) -> list[Finding]:
    """Sources of which nothing passes `where`, and pictures without captions (among 1000)."""
    findings = []
    for source in _sources(config, inputs):
        items = list(islice(source.items(config.where), _MOST_CHECKED))
        bare = sum(1 for item in items if not item.captions)
        place = f"sources: {source.spec}"
        if not items:
            problem = f"no picture passes where={config.where}"
            findings.append(Finding(place, problem, "Widen `where`, or leave the source out."))
        elif bare:
            problem = f"{bare} of {len(items)} pictures have no caption"
            todo = "Write NAME.txt beside each picture NAME.jpg."
            findings.append(Finding(place, problem, todo, fatal=False))
    return findings


def run(config: Config, inputs: Mapping[str, Artefact], step: StepDir) -> Manifest:
    """Write `collection/`; what is there already and has not changed is not read again."""
    sources = _sources(config, inputs)
    collection = step.path / "collection"
    ledger = Ledger(Catalogue(collection))
    total = sum(source.count(config.where) for source in sources)
    with Progress(step, total, "pictures", step.name) as progress:
        for source in sources:
            for batch, inspected in _batches(source, ledger, config):
                for item, seen in zip(batch, inspected, strict=True):
                    path = _place_file(collection, source, item, seen)
                    ledger.enter(source.spec, item, path, seen)
                progress.advance(len(batch))
        ledger.close({source.spec for source in sources})
    usable, unusable = ledger.usable(), ledger.unusable()
    for record in unusable[:_MOST_EVENTS]:
        step.event("unusable", picture=record.key, path=record.path, error=record.error)
    if not usable:
        raise _nothing(config, unusable)
    reasons = Counter(f"unusable: {_reason(record)}" for record in unusable)
    return Manifest(
        stage="collect",
        key=step.key,
        outputs={"collection": "collection"},
        counts={
            "pictures": len(usable),
            "without caption": sum(1 for record in usable if not record.captions),
            **dict(ledger.counts),
            **dict(sorted(reasons.items())),
        },
        results={"sources": [{"spec": s.spec, **s.describe()} for s in sources]},
    )


def inspect(items: Sequence[SourceItem]) -> list[Inspected]:
    """Read and decode some pictures; what is wrong with one is said in its result."""
    return [_inspect(item) for item in items]


def _inspect(item: SourceItem) -> Inspected:
    if item.problem is not None:
        return Inspected(error=item.problem)
    data, stamp = item.data, None
    try:
        if data is None:
            if item.path is None:
                return Inspected(error="neither a file nor data")
            # The stamp before the bytes: a file that changes meanwhile will look changed.
            stamp = Stamp.of(item.path) if item.path.exists() else None
            data = read_picture_file(item.path)
        image = load_image(data, name=item.key)
    except PictureError as error:
        if data is None:
            # Permissions may be corrected without a new time: it is tried again every time.
            return Inspected(error=str(error.got))
        return Inspected(hash=hash_bytes(data), error=str(error.got), stamp=stamp)
    return Inspected(
        hash_bytes(data), image.size, image.format, image.mode, image.frames, None, stamp
    )


def _sources(config: Config, inputs: Mapping[str, Artefact]) -> list[Source]:
    """What the configuration names, or what those names stand for, each once."""
    found = [inputs.get(f"sources.{index}") for index in range(len(config.sources))]
    places = [
        spec if artefact is None else str(artefact.path)
        for spec, artefact in zip(config.sources, found, strict=True)
    ]
    opened = [open_source(place, caption_column=config.caption_column) for place in places]
    return list({source.spec: source for source in opened}.values())


def _batches(
    source: Source, ledger: Ledger, config: Config
) -> Iterator[tuple[list[SourceItem], list[Inspected | None]]]:
    """Items in order, each with what reading it told, or None when it is known and unchanged."""

    def unread(batch: list[SourceItem]) -> tuple[SourceItem, ...]:
        return tuple(item for item in batch if not ledger.is_known(source.spec, item))

    batches = _chunks(source.items(config.where))
    if config.workers == 0:
        for batch in batches:
            result = next(run_shards(inspect, [unread(batch)]))
            yield batch, _in_order(batch, result.shard, result.unwrap())
        return
    listed = list(batches)
    shards = [unread(batch) for batch in listed]
    results = run_shards(inspect, shards, workers=config.workers)
    for batch, result in zip(listed, results, strict=True):
        yield batch, _in_order(batch, result.shard, _values(result))


def _values(result: ShardResult[tuple[SourceItem, ...], list[Inspected]]) -> list[Inspected]:
    """The shard's values; when it killed its worker, its pictures are tried one by one."""
    if result.error is None:
        return result.unwrap()
    values = []
    for item in result.shard:
        alone = next(run_shards(inspect, [(item,)], workers=1, retries=0))
        failed = alone.error
        values += alone.unwrap() if failed is None else [Inspected(error=f"not decoded ({failed})")]
    return values


def _in_order(
    batch: Sequence[SourceItem], read: Sequence[SourceItem], values: Sequence[Inspected]
) -> list[Inspected | None]:
    found = {item.key: value for item, value in zip(read, values, strict=True)}
    return [found.get(item.key) for item in batch]


def _chunks(items: Iterable[SourceItem]) -> Iterator[list[SourceItem]]:
    rest = iter(items)
    while batch := list(islice(rest, _BATCH)):
        yield batch


def _place_file(collection: Path, source: Source, item: SourceItem, seen: Inspected | None) -> str:
    """Where the picture lies: in place, or written into the collection when it has no file."""
    if item.path is not None or item.data is None:
        return str(item.path) if item.path is not None else ""
    name = item.key if item.key.replace("-", "").isalnum() else (seen and seen.hash) or "unknown"
    path = Path("files") / source.spec.replace(":", "-") / f"{name}{item.suffix}"
    target = collection / path
    if not target.exists() or target.read_bytes() != item.data:
        write_bytes(target, item.data)
    return path.as_posix()


def _reason(record: ImageRecord) -> str:
    return (record.error or "unknown").split(" (")[0].split(" of ")[0]


def _nothing(config: Config, unusable: Sequence[ImageRecord]) -> InputError:
    got = "no pictures"
    if unusable:
        reasons = Counter(_reason(record) for record in unusable)
        listed = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common(5))
        got = f"no usable picture among {len(unusable)} ({listed}; first: {unusable[0].path})"
    elif config.where:
        got = f"no picture that passes where={config.where}"
    return InputError(
        ", ".join(config.sources),
        got,
        "at least one picture that can be read",
        "Look at the files that are named, or give another folder.",
    )
