"""Stage: measure pictures, judge them by rules, and freeze a selection that one can defend."""

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar, Literal, get_args

from pydantic import Field, field_validator

from tastemaker.curation.buckets import Assignment
from tastemaker.curation.by_hand import KEPT_BY_HAND, REJECTED_BY_HAND, ByHand
from tastemaker.curation.chosen import Chosen
from tastemaker.curation.facts import near_columns
from tastemaker.curation.judgement import Rule
from tastemaker.curation.rules import (
    AnyRule,
    Captioned,
    Duplicates,
    OneOf,
    Range,
    Readable,
    Sql,
    check_rules,
    describe_rules,
    needed_measures,
)
from tastemaker.engine.columns import Column, find_models, pictures_to_do, resolve
from tastemaker.engine.config import Engine
from tastemaker.engine.curation_summary import shown_addresses, summarise
from tastemaker.engine.judging import Bench, Measuring, Verdicts, judge
from tastemaker.errors import InputError
from tastemaker.records.config import Config as BaseConfig
from tastemaker.records.config import as_tuple
from tastemaker.records.finding import Finding
from tastemaker.records.run import Artefact, Manifest
from tastemaker.scorers.operation import Operation
from tastemaker.scorers.operations import AnyOperation
from tastemaker.scorers.pixel_facts import Pixels
from tastemaker.scorers.quality import Quality, QualityModel
from tastemaker.store.atomic import write_json
from tastemaker.store.catalogue import Catalogue
from tastemaker.store.catalogue_queries import check_expression
from tastemaker.store.facts import known_addresses
from tastemaker.store.hashing import hash_json
from tastemaker.store.marks import read_marks
from tastemaker.store.rundir import StepDir
from tastemaker.store.selections import make_selection, read_selection, write_selection
from tastemaker.store.verdicts import write_verdicts

VERSION = 2
OUTPUTS = ("selection", "verdicts", "curation")

DEFAULT_RULES: tuple[Rule, ...] = (
    Captioned(),
    Range(column="short_side", least=64),
    Range(column="aspect", most=4),
    Range(column="pixels.flat_share", most=0.99),
    Duplicates(within="attribute.style"),
)
"""What a small collection needs (ours)."""


class Buckets(BaseConfig):
    """What the report's preview of buckets assumes; it changes no selection."""

    side_px: int = Field(default=1024, ge=64)
    """Side of the square bucket: 1024 is SDXL's list, any other one is that list, scaled."""
    assignment: Assignment = "cover"
    """`cover` never upscales a picture; `nearest` takes the nearest aspect ratio."""
    batch: int = Field(default=8, ge=1)
    """Pictures of a batch (ours): a bucket with fewer is never trained on whole."""


class Config(BaseConfig):
    """Rules in the order in which they are asked; the first that drops a picture is its verdict."""

    inputs: ClassVar[dict[str, str]] = {
        "collection": "collection",
        "within": "selection",
        "quality": "quality",
        "marks": "marks",
    }
    collection: str
    """The pictures."""
    within: str | None = None
    """An earlier selection: only its pictures are measured and judged."""
    quality: str | None = None
    """A quality model: its column `quality` is filled, so that rules can ask for `quality.rank`.
    The operation that made its embeddings must stand among `columns`."""
    marks: str | None = None
    """A collection's `marks.jsonl`, written in the studio: what was rejected there is dropped."""
    only_kept: bool = False
    """With `marks`: drop those without a mark, too."""
    name: str = "selection"
    """Name of the selection."""
    where: dict[str, tuple[str, ...]] = {}
    """Attribute -> wanted values, for example `style: [openmoji]` and `split: [tune]`."""
    keep_unlabelled: bool = False
    """Whether a picture that lacks an attribute of `where` stays."""
    limit: int | None = Field(default=None, ge=1)
    """Only the first so many pictures of the collection; for a trial."""
    columns: tuple[AnyOperation, ...] = ()
    """What is measured, see [Collections](curation.md#operations); it stays in the collection.
    `pixels` is added when a rule needs it."""
    measure: Measuring = "all"
    """`all` pictures in question, or `survivors`: a column only for the pictures that are left
    when a rule first asks for it, so that dear columns cost little (ours)."""
    retry_errors: bool = False
    """Measure again where a column holds an error, such as that a server did not answer."""
    rules: tuple[AnyRule, ...] = DEFAULT_RULES  # type: ignore[assignment]
    """The rules, see [Collections](curation.md#rules). Given ones stand instead of the defaults,
    which ask for a caption, a shorter side of 64 px, sides within 1:4, more than one colour, and
    no near duplicate (ours)."""
    buckets: Buckets = Buckets()
    """For the report's preview of training buckets."""
    engine: Engine = Field(default=Engine(), json_schema_extra={"changes_result": False})
    """Where pictures are measured; the result does not depend on it."""

    @field_validator("columns", "rules", mode="before")
    @classmethod
    def _list(cls, value: object) -> object:
        return as_tuple(value)

    @field_validator("where", mode="before")
    @classmethod
    def _one_value_is_a_list(cls, value: object) -> object:
        if not isinstance(value, Mapping):
            return value
        return {name: as_tuple(wanted) for name, wanted in value.items()}


def check(config: Config, inputs: Mapping[str, Artefact]) -> list[Finding]:
    """Models and packages that are nowhere, columns that no rule can ask for, wrong SQL."""
    place = inputs.get("collection")
    catalogue = None if place is None else Catalogue(Path(place.path))
    findings = [
        finding
        for one in operations(config, inputs)
        for finding in _findings(lambda one=one: _try(one))
    ]

    def whole() -> None:
        columns = resolve(operations(config, inputs))
        _check_rules(config, catalogue, columns)

    # Without its models an operation has no column, so rules can say nothing of it yet.
    return findings or _findings(whole)


def preview(config: Config, inputs: Mapping[str, Artefact]) -> list[str]:
    """What would be measured, for a collection that is there."""
    if "collection" not in inputs:
        return []
    bench, scope = open_bench(config, inputs)
    wanted = bench.kept_by(scope)
    to_do = pictures_to_do(bench.catalogue, bench.columns, wanted)
    said = [f"pictures in question: {len(wanted)}; rules: {len(config.rules)}"]
    said += [f"{name}: {count} pictures to measure" for name, count in to_do.items()]
    if config.measure == "survivors":
        said.append("fewer, where earlier rules drop some (measure: survivors)")
    return said


def _try(operation: Operation) -> None:
    places = find_models(operation)
    operation.params(places, dict.fromkeys(places, ""))


def _findings(attempt: Callable[[], None]) -> list[Finding]:
    try:
        attempt()
    except InputError as error:
        problem = f"got {error.got}; expected {error.expected}"
        return [Finding(str(error.where), problem, error.todo)]
    return []


def run(config: Config, inputs: Mapping[str, Artefact], step: StepDir) -> Manifest:
    """Measure what is not measured yet; write verdicts, selection and what the report shows."""
    bench, scope = open_bench(config, inputs)
    _check_rules(config, bench.catalogue, bench.columns)
    measured = bench.measure(
        step, config.engine, scope=scope, which=config.measure, again=config.retry_errors
    )
    verdicts = judge(bench, shown_addresses(bench))
    labels = [rule.label for rule in bench.rules]
    write_verdicts(step.path / "verdicts.parquet", bench.catalogue, verdicts.funnel, labels)
    if not verdicts.kept:
        raise _nothing(bench, verdicts)
    selection = make_selection(config.name, verdicts.kept, describe_rules(bench.rules))
    write_selection(step.path / "selection.json", selection)
    summary = summarise(bench, verdicts, config.buckets.model_dump())
    write_json(step.path / "curation.json", summary)
    dropped: Counter[str] = Counter()
    for stage in verdicts.funnel.stages:  # two rules may have one reason
        dropped.update({f"dropped: {reason}": n for reason, n in stage.reasons.items()})
    return Manifest(
        stage="curate",
        key=step.key,
        outputs={
            "selection": "selection.json",
            "verdicts": "verdicts.parquet",
            "curation": "curation.json",
        },
        counts={
            "pictures": verdicts.facts.count,
            "kept": len(verdicts.kept),
            **dropped,
            **dict(sorted(measured.items())),
        },
        results={
            "query": selection.query,
            "hash": selection.hash,
            # For reports: a run may be read from another folder than the one it was made in.
            "collection": os.path.relpath(bench.catalogue.path, step.path),
        },
    )


def open_bench(config: Config, inputs: Mapping[str, Artefact]) -> tuple[Bench, int]:
    """The collection with its rules, and how many of the first rules say what is judged at all."""
    catalogue = Catalogue(Path(inputs["collection"].path))
    if not catalogue.parts():
        next(catalogue.records())  # says what to do
    flags: dict[str, frozenset[str]] = {}
    scope: list[Rule] = [Readable()]
    if "within" in inputs:
        chosen = read_selection(Path(inputs["within"].path))
        flags["chosen:within"] = frozenset(chosen.ids)
        among = f"the selection '{chosen.name}' ({chosen.hash[:8]})"
        scope.append(Chosen(column="chosen:within", among=among))
    unknown: Literal["keep", "drop"] = "keep" if config.keep_unlabelled else "drop"
    for name, values in sorted(config.where.items()):
        scope.append(OneOf(column=f"attribute.{name}", values=values, unknown=unknown))
    if config.limit is not None:
        ids = catalogue.base_table(["id"])["id"].slice(0, config.limit).to_pylist()
        flags["chosen:first"] = frozenset(ids)
        scope.append(Chosen(column="chosen:first", among=f"the first {config.limit}"))
    columns = resolve(operations(config, inputs))
    _check_embeddings(columns)
    by_hand: list[Rule] = []
    if "marks" in inputs:
        by_hand.append(_by_hand(Path(inputs["marks"].path), config.only_kept, flags))
    return Bench(catalogue, columns, (*scope, *by_hand, *config.rules), flags), len(scope)


def _by_hand(place: Path, only_kept: bool, flags: dict[str, frozenset[str]]) -> Rule:
    marks = read_marks(place)
    for address, mark in ((KEPT_BY_HAND, "keep"), (REJECTED_BY_HAND, "reject")):
        flags[address] = frozenset(id_ for id_, given in marks.items() if given == mark)
    said = f"{len(flags[KEPT_BY_HAND])} kept, {len(flags[REJECTED_BY_HAND])} rejected"
    return ByHand(only_kept=only_kept, said=f"{said}, marks {hash_json(marks)[:8]}")


def operations(
    config: Config, inputs: Mapping[str, Artefact] = MappingProxyType({})
) -> list[Operation]:
    """What is measured: what the configuration names, and pixels when a rule needs them."""
    named: list[Operation] = list(config.columns)
    if "quality" in inputs:
        place = Path(inputs["quality"].path)
        column = str(QualityModel.read(place).facts.get("column", "embedding"))
        named.append(Quality(weights=str(place), embedding=column))
    if "pixels" in needed_measures(config.rules) and all(o.column != "pixels" for o in named):
        named.insert(0, Pixels())
    return named


def _check_embeddings(columns: Sequence[Column]) -> None:
    """Refuse to judge embeddings of one model by what was learnt on those of another.

    Raises:
        InputError: the quality model belongs to another column of embeddings.
    """
    folders = {column.operation.column: column.key.folder for column in columns}
    for column in columns:
        if isinstance(column.operation, Quality):
            wanted = QualityModel.read(column.places["weights"]).facts.get("embedding")
            got = folders[column.operation.embedding]
            if got != wanted:
                todo = "Name the model that made the embeddings of the rated pictures."
                raise InputError(f"columns.{column.operation.embedding}", got, wanted, todo)


def _fields(config: Config, columns: Sequence[Column]) -> dict[str, Mapping[str, str]]:
    """Column -> its fields; a quality model that is yet to be made has its fields already."""
    promised = {} if config.quality is None else {Quality(weights="").column: Quality.FIELDS}
    return promised | {c.operation.column: c.operation.FIELDS for c in columns}


def _known(catalogue: Catalogue | None, columns: Sequence[Column], config: Config) -> dict:
    fields = _fields(config, columns)
    # Pixels are measured whenever a rule asks for them.
    known = known_addresses(catalogue, {Pixels().column: Pixels.FIELDS} | fields)
    # Which attributes there are is not known before pictures are collected, and the default
    # rules are for collections with styles and without.
    rules = config.rules if catalogue is None else DEFAULT_RULES
    asked = (address for rule in rules for address in rule.columns())
    return {a: "text" for a in asked if a.startswith("attribute.")} | known


def _check_rules(config: Config, catalogue: Catalogue | None, columns: Sequence[Column]) -> None:
    """All that can be said of the rules before anything is measured.

    Raises:
        InputError: a rule asks for what nothing fills, or its SQL is wrong.
    """
    fields = _fields(config, columns)
    for rule in config.rules:
        if isinstance(rule, Sql):
            _check_sql(rule, fields)
            continue
        for name in set(rule.measured()) & set(_kinds()) - set(fields):
            raise InputError(
                f"rule '{rule.label}'",
                f"the column '{name}', which nothing fills",
                "an operation that fills it",
                f"Add {{kind: {name}}} to `columns`: one that is done already costs nothing.",
            )
        if isinstance(rule, Duplicates) and not _looked_at(rule) <= set(
            fields.get(rule.source, ())
        ):
            raise InputError(
                f"rule '{rule.label}'",
                f"the column '{rule.source}'",
                f"a column with {', '.join(sorted(_looked_at(rule)))}",
                "Name the column that `kind: "
                f"{'pixels' if rule.by == 'look' else 'embedding'}` fills.",
            )
    check_rules(config.rules, _known(catalogue, columns, config))


def _check_sql(rule: Sql, fields: Mapping[str, Mapping[str, str]]) -> None:
    try:
        Catalogue.check_boolean(rule.where, fields)
    except InputError as error:
        known = known_addresses(None, fields)
        asked = [name for name in check_expression(rule.where) if name not in known]
        near = near_columns(asked[0], known) if asked else error.todo
        raise InputError(f"rule sql '{rule.where}'", error.got, error.expected, near) from error


def _looked_at(rule: Duplicates) -> set[str]:
    """Fields that the search for duplicates reads."""
    return {"vector"} if rule.by == "embedding" else {"phash", "phash_mirror", "colours"}


def _kinds() -> list[str]:
    """Every kind of operation."""
    return [kind.model_fields["kind"].default for kind in get_args(get_args(AnyOperation)[0])]


def _nothing(bench: Bench, verdicts: Verdicts) -> InputError:
    funnel, facts = verdicts.funnel, verdicts.facts
    listed = ", ".join(
        f"{count} by '{reason}'"
        for stage in funnel.stages
        for reason, count in stage.reasons.items()
    )
    last = next(s for s in reversed(range(len(funnel.stages))) if funnel.stages[s].dropped)
    index = int((funnel.dropped_by == last).argmax())
    drop = funnel.judgements[last].drop(index)
    example = f"for example {facts.names()[index]}: {drop.reason}, got {drop.got}"
    todo = f"Loosen the rule '{funnel.stages[last].label}', or give other pictures."
    if drop.reason.endswith("unknown"):
        todo = "See what went wrong in that column; retry_errors=true measures it again."
    return InputError(
        bench.catalogue.path,
        f"0 of {facts.count} pictures left: {listed} ({example}, limit {drop.limit})",
        "at least one picture that passes all rules",
        todo,
    )
