"""Stage: make a prompt set from the captions of a collection, or from a list."""

import csv
import json
import re
from collections.abc import Iterator, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from tastemaker.errors import InputError
from tastemaker.records.config import Config as BaseConfig
from tastemaker.records.generation import Prompt
from tastemaker.records.image import ImageRecord
from tastemaker.records.run import Artefact, Manifest
from tastemaker.store.prompt_sets import make_prompt_set, write_prompt_set
from tastemaker.store.rundir import StepDir

VERSION = 1
OUTPUTS = ("prompts",)

_FILE_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_TEXT_KEYS = ("prompt", "text", "caption")


class Config(BaseConfig):
    """Where the prompts come from: exactly one of `collection`, `file` and `texts`."""

    inputs: ClassVar[dict[str, str]] = {
        "collection": "collection",
        "selection": "selection",
        "file": "prompts",
    }
    name: str | None = Field(default=None, min_length=1)
    """Name of the set, which takes part in every seed; by default the benchmark's, or `prompts`."""
    version: str = "1"
    """Version of the set."""
    collection: str | None = None
    """Use captions of these pictures; pictures with one caption give one prompt."""
    selection: str | None = None
    """Only of these pictures of the collection."""
    where: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Only of pictures whose attributes have one of these values: `split: [heldout]`."""
    caption: int = Field(default=0, ge=0)
    """Which caption: 0 is the first."""
    file: str | None = None
    """A list: .txt (one a line), .json, .jsonl, .tsv or .csv (with a column `prompt`); or the
    published file or folder of `benchmark`."""
    benchmark: Literal["parti", "hpsv2", "drawbench", "geneval", "t2i_compbench"] | None = None
    """What `file` is: a benchmark, read in its own form and refused when prompts are missing."""
    texts: tuple[str, ...] = ()
    """The prompts themselves."""
    limit: int | None = Field(default=None, gt=0)
    """At most so many, chosen by the hash of their ids, so that a larger collection changes few."""
    licence: str = ""
    """Licence of the texts; that of the collection's sources is theirs to state."""

    @model_validator(mode="after")
    def _one_source(self) -> "Config":
        given = [n for n in ("collection", "file", "texts") if getattr(self, n)]
        if len(given) != 1:
            raise ValueError(
                f"give one of collection, file and texts; got {' and '.join(given) or 'none'}"
            )
        if self.benchmark and not self.file:
            raise ValueError(f"benchmark {self.benchmark}: give its published file as `file`")
        return self


def run(config: Config, inputs: Mapping[str, Artefact], step: StepDir) -> Manifest:
    """Write `prompts.jsonl`.

    Raises:
        InputError: the source has no text that fits.
    """
    counts: dict[str, int] = {}
    licence = config.licence
    if config.benchmark:
        from tastemaker.store.benchmarks import BENCHMARKS, read_benchmark

        prompts = read_benchmark(config.benchmark, Path(inputs["file"].path))
        licence = licence or BENCHMARKS[config.benchmark].licence
    elif config.collection:
        prompts = _from_collection(config, inputs, counts)
    elif config.file:
        prompts = _from_rows(_rows(Path(inputs["file"].path)))
    else:
        prompts = _from_rows((text, {}) for text in config.texts)
    if config.limit is not None:
        prompts = sorted(prompts, key=lambda prompt: _digest(prompt.id))[: config.limit]
    prompts.sort(key=lambda prompt: prompt.id)
    if not prompts:
        source = config.collection or config.file or "texts"
        raise InputError(
            f"prompts from {source}",
            "no prompt" + (f" where {dict(config.where)}" if config.where else ""),
            "at least one",
            "Loosen `where`, choose another caption, or name another source.",
        )
    name = config.name or config.benchmark or "prompts"
    made = make_prompt_set(name, prompts, version=config.version, licence=licence)
    write_prompt_set(step.path / "prompts.jsonl", made)
    return Manifest(
        stage="prompts",
        key=step.key,
        outputs={"prompts": "prompts.jsonl"},
        counts={"prompts": len(prompts), **counts},
        results={
            "name": made.name,
            "version": made.version,
            "hash": made.hash,
            "licence": made.licence,
        },
    )


def _from_collection(
    config: Config, inputs: Mapping[str, Artefact], counts: dict[str, int]
) -> list[Prompt]:
    """One prompt for each distinct caption, with the attributes that all of its pictures share."""
    from tastemaker.store.catalogue import Catalogue
    from tastemaker.store.selections import read_selection

    chosen = None
    if config.selection:
        chosen = set(read_selection(Path(inputs["selection"].path)).ids)
    by_text: dict[str, list[ImageRecord]] = {}
    for record in Catalogue(Path(inputs["collection"].path)).records():
        if record.status != "ok" or (chosen is not None and record.id not in chosen):
            continue
        if not all(record.attribute(name) in wanted for name, wanted in config.where.items()):
            continue
        if config.caption >= len(record.captions):
            counts["without such a caption"] = counts.get("without such a caption", 0) + 1
            continue
        by_text.setdefault(record.captions[config.caption].strip(), []).append(record)
    by_text.pop("", None)
    keys = [records[0].key for records in by_text.values()]
    return [
        Prompt(
            _id(text, records[0].key if keys.count(records[0].key) == 1 else None),
            text,
            tuple(
                (name, value)
                for name, value in records[0].attributes
                if all(other.attribute(name) == value for other in records)
            ),
        )
        for text, records in by_text.items()
    ]


def _from_rows(rows: Iterator[tuple[str, Mapping[str, str]]]) -> list[Prompt]:
    prompts: dict[str, Prompt] = {}
    for text, facts in rows:
        rest = tuple((name, value) for name, value in facts.items() if name != "id")
        prompt = Prompt(_id(text.strip(), facts.get("id")), text.strip(), rest)
        if not prompt.text:
            continue
        if prompts.setdefault(prompt.id, prompt).text != prompt.text:
            raise InputError(
                f"prompt {prompt.id}",
                f"two texts: {prompts[prompt.id].text!r} and {prompt.text!r}",
                "one text an id",
                "Give each row an id of its own.",
            )
    return list(prompts.values())


def _rows(path: Path) -> Iterator[tuple[str, Mapping[str, str]]]:
    """Text and facts of each row of a list file."""
    if not path.is_file():
        raise InputError(path, "no file", "a list of prompts", "Check the path.")
    readers = {
        ".txt": str.splitlines,
        ".csv": lambda text: csv.DictReader(text.splitlines(keepends=True)),
        ".tsv": lambda text: csv.DictReader(text.splitlines(keepends=True), delimiter="\t"),
        ".json": json.loads,
        ".jsonl": lambda text: [json.loads(line) for line in text.splitlines() if line.strip()],
    }
    if path.suffix not in readers:
        got = f"a list ending in {path.suffix!r}"
        raise InputError(path, got, " or ".join(readers), "Save it as one of these.")
    try:
        for row in readers[path.suffix](path.read_text(encoding="utf-8-sig")):
            # The first line of a prompt set of ours describes the set.
            if not (isinstance(row, dict) and "prompt_set" in row):
                yield _text_and_facts(path, row)
    except ValueError as error:
        raise InputError(path, f"unreadable text ({error})", "UTF-8", "Mend the file.") from error


def _text_and_facts(path: Path, row: object) -> tuple[str, dict[str, str]]:
    if isinstance(row, str):
        return row, {}
    facts = {str(k).lower(): v for k, v in row.items()} if isinstance(row, dict) else {}
    facts |= dict(facts.pop("attributes", None) or ())
    for name in _TEXT_KEYS:
        if isinstance(facts.get(name), str):
            return facts.pop(name), {k: str(v) for k, v in facts.items() if v is not None}
    raise InputError(
        path, f"a row without text: {str(row)[:80]}", f"a column {', '.join(_TEXT_KEYS)}", "Add it."
    )


def _id(text: str, wanted: str | None) -> str:
    """A stable name that fits into a file name: the one given, else one made from the text."""
    if wanted is not None and _FILE_SAFE.fullmatch(wanted):
        return wanted
    words = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:24].strip("-")
    return f"{words or 'prompt'}-{_digest(text)[:8]}"


def _digest(text: str) -> str:
    return blake2b(text.encode(), digest_size=32).hexdigest()
