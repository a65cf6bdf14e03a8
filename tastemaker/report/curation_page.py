"""The report of one curation: what was kept, what fell to which rule, and at which border.

One HTML file that needs nothing else; of the collection only the pictures that it shows are read.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tastemaker.errors import InputError
from tastemaker.recipe.yaml_text import dump_yaml
from tastemaker.report import curation_sections as sections
from tastemaker.report import provenance
from tastemaker.report.curated_step import CuratedStep, read_curated, run_of_collection
from tastemaker.report.curation_plots import histogram_svg, rank_svg, sweep_svg
from tastemaker.report.svg import Chart
from tastemaker.report.templates import rendered
from tastemaker.report.thumbnails import Thumbnails, by_lot
from tastemaker.report.words import counted, figure, percent, several
from tastemaker.store.atomic import write_text

PAGE = "curation.html"
SWEEPS = "what_if_*.json"
"""Sweeps of a step are shown in its page; `what_if.write_what_if` makes them."""

_SHEETS = ("page.css", "curation.css")
_BY_LOT = 20
_WORDS = 12


def write_curation_page(step: Path) -> Path:
    """Write `curation.html` into the folder of a finished curate step.

    The same step gives the same bytes.

    Args:
        step: the folder, `RUN/steps/NAME/KEY`.

    Returns:
        The path of the page.

    Raises:
        InputError: it is no finished curate step, or one of an older version.
        StorageError: the page cannot be written.
    """
    curated = read_curated(Path(step))
    path = Path(step) / PAGE
    try:
        page = _page(curated)
    except (KeyError, TypeError) as error:
        raise InputError(
            path.with_name("curation.json"),
            f"figures that do not fit together ({type(error).__name__}: {error})",
            "what this version's curate writes",
            "Run `tastemaker curate` again.",
        ) from error
    write_text(path, page)
    return path


def written_pages(steps: Sequence[Path]) -> dict[Path, Path]:
    """Write the pages of several steps; those without figures have none. Step -> its page."""
    found = {}
    for step in steps:
        try:
            found[step] = write_curation_page(step)
        except InputError:
            continue
    return found


def _page(curated: CuratedStep) -> str:
    summary = curated.summary
    kept = _kept_by_lot(curated.step.path)
    pictures = Thumbnails(curated.collection, [*kept, *sections.shown_ids(summary)])
    cuts = sections.cuts(summary)
    columns, rows = sections.means(summary)
    sizes, scores, others = sections.histograms(summary)
    maker = run_of_collection(curated.collection)
    return rendered(
        "curation.html.j2",
        _SHEETS,
        name=str(curated.step.config.get("name") or curated.step.name),
        date=str(curated.run.facts.get("started", ""))[:10],
        hash=str(curated.manifest.results.get("hash", "")),
        total=summary["pictures"],
        kept=summary["kept"],
        details=_details(summary, cuts),
        hero=[address for id_ in kept if (address := pictures.address(id_))],
        cuts=cuts,
        mean_columns=columns,
        mean_rows=rows,
        strips=sections.border_strips(summary, pictures.address),
        charts=_charts(scores, "s"),
        more_charts=_charts(others, "o"),
        size_charts=_charts(sizes, "z", is_narrow=True),
        sweeps=_sweeps(curated.step.path),
        copies=sections.copy_rules(summary, pictures.address),
        concepts=_concepts(summary.get("concepts")),
        formats=summary.get("formats") or [],
        origins=summary.get("sources") or [],
        buckets=summary.get("buckets") or {},
        bucket_bars=sections.bucket_bars(summary),
        bucket_facts=sections.bucket_facts(summary),
        unusable=sections.unusable(summary),
        columns=summary.get("columns") or [],
        **_made(curated),
        credits=provenance.picture_sources(maker) if maker else [],
    )


def _details(summary: Mapping[str, Any], cuts: Sequence[sections.Cut]) -> list[str]:
    """What one should know before all figures."""
    said = []
    largest = max(cuts, key=lambda cut: cut.dropped, default=None)
    if largest is not None and largest.dropped:
        said.append(
            f"The largest cut is “{largest.label}”: {counted(largest.dropped)} of "
            f"{several(largest.before, 'picture')} ({percent(largest.dropped_share)})."
        )
    idle = [cut.label for cut in cuts[1:] if not cut.dropped]
    if idle:
        said.append(f"Dropped nothing: {', '.join(f'“{label}”' for label in idle)}.")
    copies = sum(found["dropped"] for found in summary.get("duplicates", []))
    if copies:
        said.append(f"Near duplicates of others: {several(copies, 'picture')}.")
    failed = [column for column in summary.get("columns", []) if column["errors"]]
    for column in failed:
        count = sum(column["errors"].values())
        said.append(f"Errors in the column “{column['name']}”: {several(count, 'picture')}.")
    small = [row for row in summary.get("buckets", {}).get("rows", []) if row["small"]]
    if small:
        rows, batch = len(summary["buckets"]["rows"]), summary["buckets"]["batch"]
        said.append(f"{len(small)} of {rows} buckets hold fewer pictures than a batch of {batch}.")
    return said


def _charts(
    entries: Sequence[Mapping[str, Any]], salt: str, *, is_narrow: bool = False
) -> list[Chart]:
    return [
        Chart(
            entry["column"],
            sections.histogram_note(entry),
            histogram_svg(entry, f"{salt}{number}", is_narrow=is_narrow),
        )
        for number, entry in enumerate(entries)
    ]


def _sweeps(step: Path) -> list[Chart]:
    """Sweeps of thresholds that were tried on this step; one that is damaged is left out."""
    charts = []
    for number, path in enumerate(sorted(step.glob(SWEEPS))):
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            points = found["points"]
            ends = [f"{figure(p['threshold'])} keeps {counted(p['kept'])}" for p in points]
            note = f"At {found['side']} {ends[0]}, {ends[-1]}. {found.get('note', '')}".strip()
            charts.append(Chart(found["column"], note, sweep_svg(found, f"w{number}")))
        except (OSError, ValueError, KeyError, TypeError, IndexError):
            continue
    return charts


def _concepts(found: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Figures, words and curve of the concepts; None without any."""
    if not found or not found["before"]["distinct"]:
        return None
    before, after, shifts = found["before"], found["after"], found["shifts"]
    words = "tags" if found["of"] == "tags" else "nouns"
    figures = [
        ("pictures", *(counted(side["pictures"]) for side in (before, after))),
        (f"different {words}", *(counted(side["distinct"]) for side in (before, after))),
        (
            f"valid {words}, more than {before['more_than']} times",
            *(counted(side["valid"]) for side in (before, after)),
        ),
        ("share of valid", *(percent(side["valid_share"]) for side in (before, after))),
        (f"all {words}", *(counted(side["total"]) for side in (before, after))),
        (f"{words} a picture", *(figure(side["per_picture"]) for side in (before, after))),
    ]
    return {
        "words": words,
        "of": found["of"],
        "figures": figures,
        "curve": rank_svg(before["curve"], after["curve"], "rank"),
        "over": shifts["over"][:_WORDS],
        "under": shifts["under"][:_WORDS],
        "lost": [noun for noun, _ in shifts["lost"]],
        "no_longer_valid": shifts["no_longer_valid"],
        "kept": shifts["kept"],
        "top": [(name, side["top"][:40]) for name, side in (("before", before), ("after", after))],
    }


def _made(curated: CuratedStep) -> dict[str, Any]:
    """How to get the same again."""
    run, step = curated.run, curated.step
    config = {key: value for key, value in step.config.items() if key != "stage"}
    return {
        "command": provenance.command(run) if run.facts else "",
        "config": dump_yaml(config) if config else "",
        "query": str(curated.manifest.results.get("query", "")),
        "facts": provenance.run_facts(run),
        "versions": provenance.version_facts(run),
        "key": curated.manifest.key,
        "seconds": curated.manifest.seconds,
    }


def _kept_by_lot(step: Path) -> list[str]:
    """Ids of some pictures that were kept; none when the verdicts are gone or damaged."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        table = parquet.read_table(step / "verdicts.parquet", columns=["id", "kept"])
    except (OSError, pa.ArrowException):
        return []
    return by_lot(table.filter(table["kept"]), _BY_LOT)["id"].to_pylist()
