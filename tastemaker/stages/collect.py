"""Stage: gather pictures and what is known of them into a collection."""

import contextlib
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import ClassVar

from pydantic import Field, field_validator

from tastemaker.engine.config import Engine
from tastemaker.engine.progress import Progress
from tastemaker.engine.rows import Outcome, run_rows
from tastemaker.errors import InputError, PictureError
from tastemaker.records.config import Config as BaseConfig
from tastemaker.records.config import as_tuple
from tastemaker.records.finding import Finding
from tastemaker.records.image import ImageRecord
from tastemaker.records.run import Artefact, Manifest
from tastemaker.store.atomic import write_bytes
from tastemaker.store.bigasp_latents import read_bigasp
from tastemaker.store.carry_over import carry_over
from tastemaker.store.catalogue import Catalogue, Stamp
from tastemaker.store.hashing import hash_bytes
from tastemaker.store.images import check_picture, read_picture_file
from tastemaker.store.ledger import Inspected, Ledger
from tastemaker.store.picture_check import spread
from tastemaker.store.preferences import write_preferences
from tastemaker.store.rundir import StepDir
from tastemaker.store.sources import Source, SourceItem, open_source

VERSION = 2
OUTPUTS = ("collection",)

_BATCH = 32
_MOST_EVENTS = 100
_MOST_CHECKED = 1000
_MOST_READ = 32


class Config(BaseConfig):
    """Read every picture once; nothing is copied but pictures that have no place of their own."""

    inputs: ClassVar[dict[str, str]] = {"sources": "pictures"}
    sources: tuple[str, ...] = Field(min_length=1)
    """Folders, Parquet files, webdataset tars, `demo:twemoji`, `demo:openmoji`; or a single one."""
    where: dict[str, tuple[str, ...]] = {}
    """Attribute -> wanted values, such as `split: [tune, heldout]`; nothing else is collected."""
    caption_column: str | None = None
    """The caption's column in a table of pictures; by default `text` or `caption`."""
    limit: int | None = Field(default=None, ge=1)
    """Only so many pictures of each source, the first ones; for a trial."""
    engine: Engine = Field(default=Engine(), json_schema_extra={"changes_result": False})
    """Where pictures are decoded; the result does not depend on it."""

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
    """Sources of which nothing passes `where`, pictures without captions (among 1000) or broken."""
    findings = []
    for source in _sources(config, inputs):
        items = list(islice(_items(source, config), _MOST_CHECKED))
        bare = sum(1 for item in items if not any(text.strip() for text in item.captions))
        place = f"sources: {source.spec}"
        if not items:
            problem = f"no picture passes where={config.where}" if config.where else "no picture"
            findings.append(Finding(place, problem, "Widen `where`, or leave the source out."))
        elif bare:
            problem = f"{bare} of {len(items)} pictures have no caption"
            todo = "Write NAME.txt beside each picture NAME.jpg."
            findings.append(Finding(place, problem, todo, fatal=False))
        findings += _broken(items, place)
    return findings


def _broken(items: Sequence[SourceItem], place: str) -> Iterator[Finding]:
    """What cannot be read of a few pictures, evenly spread."""
    looked = spread(items, _MOST_READ)
    seen = [(item, _inspect(item).error) for item in looked]
    wrong = [(item, error) for item, error in seen if error is not None]
    if wrong:
        item, error = wrong[0]
        yield Finding(
            place,
            f"{len(wrong)} of {len(looked)} pictures that were read are unusable, first "
            f"{item.path or item.key}: {error}",
            "Look at these files; unusable pictures are left out and counted.",
            fatal=len(wrong) == len(looked),
        )


def preview(config: Config, inputs: Mapping[str, Artefact]) -> list[str]:
    """How many pictures each source has."""
    return [
        f"{source.spec}: {_counted(source, config)} pictures" for source in _sources(config, inputs)
    ]


def run(config: Config, inputs: Mapping[str, Artefact], step: StepDir) -> Manifest:
    """Write `collection/`; what is there already and has not changed is not read again.

    When the sources have changed since an earlier run of the step, its collection is carried on:
    what is known of unchanged pictures stays known.
    """
    sources = _sources(config, inputs)
    collection = step.path / "collection"
    earlier = _earlier(step)
    if earlier is not None and carry_over(earlier, collection):
        step.event("carried on", collection=str(earlier))
    ledger = Ledger(Catalogue(collection))
    total = sum(_counted(source, config) for source in sources)
    with Progress(step, total, "pictures", step.name) as progress:
        for source in sources:
            with contextlib.closing(_inspected(source, ledger, config)) as batches:
                for batch, inspected in batches:
                    for item, seen in zip(batch, inspected, strict=True):
                        path = _place_file(collection, source, item, seen)
                        ledger.enter(source.spec, item, path, seen)
                    progress.advance(len(batch))
        ledger.close({s.spec for s in sources}, asked_all=not (config.where or config.limit))
    preferences = write_preferences(collection, sources, ledger.picture_id)
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
            **({"preferences": preferences} if preferences else {}),
            **dict(ledger.counts),
            **dict(sorted(reasons.items())),
        },
        results={"sources": [{"spec": s.spec, **s.describe()} for s in sources]},
    )


def _earlier(step: StepDir) -> Path | None:
    """The collection that an earlier run of this step left last, with other sources or values."""
    found = [
        (manifest.stat().st_mtime_ns, manifest)
        for manifest in step.path.parent.glob("*/collection/catalog/base/manifest.json")
        if not manifest.is_relative_to(step.path)
    ]
    return max(found)[1].parents[2] if found else None


def open_inspect(device: str) -> Callable[[Sequence[SourceItem]], list[Inspected]]:
    """What a worker does with a shard of items; it needs no model, so no device either."""
    del device
    return inspect


def inspect(items: Sequence[SourceItem]) -> list[Inspected]:
    """Read and decode some pictures; what is wrong with one is said in its result."""
    return [_inspect(item) for item in items]


def _inspect(item: SourceItem) -> Inspected:
    if item.problem is not None:
        return Inspected(error=item.problem)
    data, stamp = item.data, None if item.stamp is None else Stamp(*item.stamp)
    try:
        if data is None:
            if item.path is None:
                return Inspected(error="neither a file nor data")
            # The stamp before the bytes: a file that changes meanwhile will look changed.
            with contextlib.suppress(OSError):
                stamp = Stamp.of(item.path)
            data = read_picture_file(item.path)
        if item.kind == "latent" and item.path is not None:
            latent = read_bigasp(item.path)
            known = (latent.original, f"bigASP latent v{latent.version}", "latent", 1)
        else:
            facts = check_picture(data, name=item.key)
            known = (facts.size, facts.format, facts.mode, facts.frames)
    except PictureError as error:
        if data is None:
            # Permissions may be corrected without a new time: it is tried again every time.
            return Inspected(error=str(error.got))
        return Inspected(hash=hash_bytes(data), error=str(error.got), stamp=stamp)
    return Inspected(hash_bytes(data), *known, error=None, stamp=stamp)


def _sources(config: Config, inputs: Mapping[str, Artefact]) -> list[Source]:
    """What the configuration names, or what those names stand for, each once."""
    found = [inputs.get(f"sources.{index}") for index in range(len(config.sources))]
    places = [
        spec if artefact is None else str(artefact.path)
        for spec, artefact in zip(config.sources, found, strict=True)
    ]
    opened = [open_source(place, caption_column=config.caption_column) for place in places]
    return list({source.spec: source for source in opened}.values())


def _items(source: Source, config: Config) -> Iterator[SourceItem]:
    return islice(source.items(config.where), config.limit)


def _counted(source: Source, config: Config) -> int:
    count = source.count(config.where)
    return count if config.limit is None else min(count, config.limit)


def _inspected(
    source: Source, ledger: Ledger, config: Config
) -> Generator[tuple[list[SourceItem], list[Inspected | None]], None, None]:
    """Items in order, each with what reading it told, or None when it is known and unchanged."""
    sent: deque[list[SourceItem]] = deque()

    def shards() -> Iterator[tuple[SourceItem, ...]]:
        for batch in _chunks(_items(source, config)):
            sent.append(batch)
            yield tuple(item for item in batch if not ledger.is_known(source.spec, item))

    with contextlib.closing(run_rows(open_inspect, shards(), config.engine)) as results:
        for result in results:
            batch = sent.popleft()
            found = {
                item.key: _seen(outcome)
                for item, outcome in zip(result.rows, result.outcomes, strict=True)
            }
            yield batch, [found.get(item.key) for item in batch]


def _seen(outcome: Outcome[Inspected]) -> Inspected:
    if outcome.error is None and outcome.value is not None:
        return outcome.value
    return Inspected(error=f"not decoded ({outcome.error})")


def _chunks(items: Iterable[SourceItem]) -> Iterator[list[SourceItem]]:
    rest = iter(items)
    while batch := list(islice(rest, _BATCH)):
        yield batch


def _place_file(collection: Path, source: Source, item: SourceItem, seen: Inspected | None) -> str:
    """Where the picture lies: in place, or written into the collection when it has no file."""
    if item.path is not None or item.data is None:
        return str(item.path) if item.path is not None else ""
    if seen is None:
        return ""  # it lies where its row says
    # Pictures of a package have short names of their own; other sources are named by their place.
    if "/" not in source.spec and item.key.replace("-", "").isalnum():
        name = f"{source.spec.replace(':', '-')}/{item.key}"
    else:
        digest = seen.hash or hash_bytes(item.data)
        # A folder of a million files is slow on many systems.
        name = f"{digest[:2]}/{digest}"
    path = Path("files") / f"{name}{item.suffix}"
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
