"""Where everything in a report comes from: versions, hashes, sources of pictures."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tastemaker.report.read import RunFacts

_KNOWN = {
    "demo:twemoji": {
        "name": "Twemoji",
        "licence": "CC BY 4.0",
        "attribution": "Twitter, Inc, jdecked and other contributors",
        "url": "https://github.com/jdecked/twemoji",
    },
    "demo:openmoji": {
        "name": "OpenMoji",
        "licence": "CC BY-SA 4.0",
        "attribution": "OpenMoji, the open-source emoji and icon project",
        "url": "https://openmoji.org",
    },
}
"""For runs whose collection says nothing itself."""


@dataclass(frozen=True)
class PictureSource:
    """One source of pictures, with what its licence asks to be said."""

    name: str
    licence: str
    attribution: str
    url: str
    version: str


@dataclass(frozen=True)
class Fact:
    """One line of a table: a name and its value."""

    name: str
    value: str


def picture_sources(run: RunFacts) -> list[PictureSource]:
    """The sources of all collections that the run made, each once."""
    found: dict[str, PictureSource] = {}
    for step in run.of_stage("collect"):
        listed = step.manifest.results.get("sources") if step.manifest else None
        specs = step.config.get("sources", [])
        told = listed if isinstance(listed, list) else [{"spec": spec} for spec in specs]
        for facts in told:
            spec = str(facts.get("spec", ""))
            facts = {**_KNOWN.get(spec, {}), **{k: v for k, v in facts.items() if v}}
            found[spec] = PictureSource(
                str(facts.get("name", spec)),
                str(facts.get("licence", "")),
                str(facts.get("attribution", "")),
                _web(facts.get("url")),
                str(facts.get("version", "")),
            )
    return list(found.values())


def command(run: RunFacts) -> str:
    """The command that made the run, as it can be typed again."""
    words = run.facts.get("command")
    if isinstance(words, list) and words:
        return " ".join(str(word) for word in words)
    pairs = [shlex.quote(str(pair)) for pair in run.facts.get("overrides", [])]
    recipe = run.facts.get("recipe", "RECIPE")
    return " ".join(["tastemaker run", str(recipe), *pairs, "-o", shlex.quote(run.path.name)])


def run_facts(run: RunFacts) -> list[Fact]:
    """What the run was made with, short."""
    facts, machine = run.facts, run.facts.get("machine", {})
    rows = [
        Fact("Recipe", str(facts.get("recipe", "")) + _hash(facts.get("recipe_hash"))),
        Fact("Seed", str(facts.get("seed", ""))),
        Fact("Started", str(facts.get("started", "")).replace("T", " ")),
        Fact("Device", str(machine.get("device") or "")),
        Fact("Machine", _joined(machine.get("platform"), machine.get("cpus"), "processors")),
    ]
    return [row for row in rows if row.value]


def version_facts(run: RunFacts) -> list[Fact]:
    """Versions of Python and of the packages that can change a result."""
    versions: Mapping[str, Any] = run.facts.get("versions", {})
    return [Fact(name, str(version)) for name, version in versions.items() if version]


def scorer_facts(scores: list[Mapping[str, Any]]) -> list[Fact]:
    """What each score was computed with."""
    return [
        Fact(
            line["name"],
            f"{line['scorer']} version {line['version']}, {line['backbone']}, "
            f"preprocessing {line['preprocessing']}",
        )
        for line in scores
    ]


def _hash(value: object) -> str:
    return f" ({str(value)[:12]})" if value else ""


def _joined(first: object, count: object, unit: str) -> str:
    return ", ".join([*([str(first)] if first else []), *([f"{count} {unit}"] if count else [])])


def _web(value: object) -> str:
    """An address that is safe to link to; anything else is left out."""
    text = str(value or "")
    return text if text.startswith(("https://", "http://")) else ""
