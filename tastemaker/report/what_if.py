"""What another threshold would keep: a table for the terminal, a plot, and figures beside it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tastemaker.curation.facts import Facts
from tastemaker.curation.judgement import FindCopies, Rule, number_text
from tastemaker.curation.what_if import Sweep, WhatIf, parse_sweep, survivors_along
from tastemaker.errors import InputError
from tastemaker.recipe.values import build_config
from tastemaker.records.run import Artefact
from tastemaker.report.curated_step import CuratedStep, collection_of, read_curated
from tastemaker.report.curation_plots import write_sweep
from tastemaker.report.words import counted, percent
from tastemaker.store.atomic import write_json
from tastemaker.store.facts import known_addresses

if TYPE_CHECKING:
    from tastemaker.engine.judging import Bench

_MINUS = "\N{MINUS SIGN}"
_SURVIVORS = (
    "Later columns were measured only for the pictures that reached their rules, so a looser limit "
    "may keep more than this."
)


@dataclass(frozen=True)
class Swept:
    """What a sweep found.

    Attributes:
        what_if: the figures.
        plot: a PNG of them.
        note: what limits them; empty when nothing does.
    """

    what_if: WhatIf
    plot: Path
    note: str = ""

    def figures(self) -> dict[str, Any]:
        """Ready for JSON: column, side, added, today, now, count, note, points."""
        return _figures(self.what_if, self.note)


def write_what_if(step: Path, text: str) -> Swept:
    """Try other limits on a finished curation and write the plot into the step's folder.

    Beside `what_if_COLUMN.png` lies `what_if_COLUMN.json`, which the step's page shows.

    Args:
        step: folder of a finished curate step.
        text: `sharpness=20:60`: column, first and last limit, and perhaps how many.

    Raises:
        InputError: the text is wrong, the column is not known, the step is not finished, or its
            collection is gone.
    """
    curated = read_curated(step)
    bench, note = _bench_of(curated)
    columns = {
        column.operation.column: column.operation.FIELDS
        for column in bench.columns
        if bench.catalogue.is_finished(column.key)
    }
    known = known_addresses(None, columns)
    sweep = parse_sweep(text, [address for address, kind in known.items() if kind == "number"])
    facts = bench.facts(more=[sweep.column])
    return write_swept(step, facts, bench.rules, bench.find_copies(facts), sweep, note)


def write_swept(
    step: Path,
    facts: Facts,
    rules: Sequence[Rule],
    find_copies: FindCopies | None,
    sweep: Sweep,
    note: str = "",
) -> Swept:
    """The same for facts and rules at hand.

    Args:
        step: the folder to write into.
        facts: what is known of the pictures, with the column of the sweep.
        rules: as they are now.
        find_copies: answers rules of duplicates.
        sweep: what to try.
        note: what limits the figures.

    Raises:
        InputError: a rule asks for what is not known, or the column holds no numbers.
    """
    found = survivors_along(facts, rules, sweep, find_copies)
    name = f"what_if_{re.sub(r'[^A-Za-z0-9._-]+', '_', sweep.column)}"
    swept = Swept(found, Path(step) / f"{name}.png", note)
    write_sweep(swept.plot, swept.figures())
    write_json(Path(step) / f"{name}.json", swept.figures())
    return swept


def sweep_table(swept: Swept) -> str:
    """The figures for a terminal: limit, kept, share, change; today's row is marked."""
    found = swept.what_if
    today = "no limit" if found.today is None else f"at {found.side} {number_text(found.today)}"
    head = (
        f"{found.sweep.column} (today: {today}): "
        f"{counted(found.now)} of {counted(found.count)} pictures are kept"
    )
    rows = [
        (
            f"at {found.side} {number_text(point.threshold)}",
            counted(point.kept),
            percent(point.share),
            _change(point.gained, point.lost),
            "today" if point.threshold == found.today else "",
        )
        for point in found.points
    ]
    if all(point.threshold != found.today for point in found.points):
        share = percent(found.now / found.count) if found.count else percent(0)
        place = sum(found.today is not None and p.threshold < found.today for p in found.points)
        rows.insert(place, (today, counted(found.now), share, "0", "today"))
    titles = ("limit", "kept", "share", "change", "")
    widths = [max(len(row[n]) for row in (titles, *rows)) for n in range(4)]
    lines = [
        f"  {row[0]:<{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]:>{widths[2]}}"
        f"  {row[3]:>{widths[3]}}  {row[4]}".rstrip()
        for row in (titles, *rows)
    ]
    return "\n".join([head, *lines, *([swept.note] if swept.note else [])])


def _change(gained: int, lost: int) -> str:
    """`+108`, or `+24 (+27 −3)` where duplicates or the best ones are others than now."""
    if not gained or not lost:
        return _signed(gained - lost)
    return f"{_signed(gained - lost)} ({_signed(gained)} {_signed(-lost)})"


def _signed(number: int) -> str:
    sign = "+" if number > 0 else _MINUS if number < 0 else ""
    return sign + counted(abs(number))


def _figures(found: WhatIf, note: str) -> dict[str, Any]:
    return {
        "column": found.sweep.column,
        "side": found.side,
        "added": found.added,
        "today": found.today,
        "now": found.now,
        "count": found.count,
        "note": note,
        "points": [asdict(point) for point in found.points],
    }


def _bench_of(curated: CuratedStep) -> "tuple[Bench, str]":
    """The collection and the rules of a finished step, and what limits a sweep of them."""
    from tastemaker.stages import curate

    config = _config(curated, curate.Config)
    inputs: dict[str, Artefact] = {}
    for name, kinds in curate.Config.inputs.items():
        value = curated.step.config.get(name)
        if value is None:
            continue
        if name == "collection":
            place = collection_of(curated.run, curated.step)
        else:
            place = curated.run.find(value, *kinds.split("|"))
        if place is None:
            raise InputError(
                curated.step.path,
                f"the {name} '{value}' of this step is gone",
                "what the step was made from",
                "Run `tastemaker curate` again where it lies now.",
            )
        inputs[name] = Artefact(kinds, place, "")
    bench, _ = curate.open_bench(config, inputs)
    return bench, _SURVIVORS if config.measure == "survivors" else ""


def _config(curated: CuratedStep, kind: Any) -> Any:
    """The step's configuration as the run's resolved recipe has it."""
    told: Mapping[str, Any] = curated.step.config
    wrong = "a step that its run's recipe does not have any more"
    if told:
        values = {key: value for key, value in told.items() if key in kind.model_fields}
        config, problems = build_config(kind, values, lambda path: ".".join(map(str, path)))
        if config is not None:
            return config
        wrong = f"{problems[0].where}: {problems[0].got}"
    raise InputError(
        curated.step.path,
        wrong,
        "a curate step of the run's last recipe",
        "Run `tastemaker curate` again.",
    )
