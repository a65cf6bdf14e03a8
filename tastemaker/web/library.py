"""What lies under the studio's folder: collections, runs, studies, and generated pictures.

A page names a thing by a short hash of its path, so no path ever comes from a request.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from threading import Lock
from typing import Any, Literal

from tastemaker.errors import TastemakerError
from tastemaker.recipe.yaml_text import parse_yaml
from tastemaker.records.run import Manifest
from tastemaker.store.rundir import RunDir, StepDir
from tastemaker.store.samples import SAMPLES

Kind = Literal["collection", "run", "study", "samples"]

DEEPEST = 8
MOST_FOLDERS = 20_000
"""Where to stop looking (ours): nobody means the whole disk."""

_MARKS: Mapping[str, Kind] = {
    "steps.json": "run",
    "study.json": "study",
    SAMPLES: "samples",
}
_CLOSED = {"catalog", "checkpoints", "tensorboard", "files", "model", "images", "node_modules"}


@dataclass(frozen=True)
class Thing:
    """Something that a page can show.

    Attributes:
        id: what addresses call it.
        kind: what it is.
        path: its folder.
        name: its path as a person would say it.
    """

    id: str
    kind: Kind
    path: Path
    name: str


@dataclass(frozen=True)
class Step:
    """One step of a run, finished or not."""

    name: str
    stage: str
    path: Path
    config: Mapping[str, Any]
    manifest: Manifest | None

    def output(self, kind: str) -> Path | None:
        """Where an output lies, when it is there."""
        if self.manifest is None or kind not in self.manifest.outputs:
            return None
        path = self.path / self.manifest.outputs[kind]
        return path if path.exists() else None


@dataclass
class Library:
    """Finds things under a folder; looks again when it is asked for one that it does not know."""

    root: Path
    _things: dict[str, Thing] = field(default_factory=dict)
    _recipes: dict[Path, tuple[object, Mapping[str, Mapping[str, Any]]]] = field(
        default_factory=dict
    )
    _lock: Lock = field(default_factory=Lock)

    def all(self, *kinds: Kind) -> list[Thing]:
        """Everything of some kinds that is there now, by name."""
        found = {thing.id: thing for thing in _things_under(self.root)}
        with self._lock:
            self._things = {**self._things, **found}
        return sorted((t for t in found.values() if t.kind in kinds), key=lambda t: t.name)

    def find(self, id_: str, kind: Kind) -> Thing | None:
        """The thing that an address means."""
        if id_ not in self._things:
            self.all(kind)
        thing = self._things.get(id_)
        return thing if thing is not None and thing.kind == kind and thing.path.is_dir() else None

    def add(self, path: Path | str, kind: Kind) -> Thing:
        """A thing that may lie elsewhere."""
        thing = thing_at(Path(path).resolve(), kind, self.root)
        with self._lock:
            self._things[thing.id] = thing
        return thing

    def holds(self, file: Path | str) -> bool:
        """Whether a file really lies under the folder: a link may lead out of it."""
        try:
            return Path(file).resolve().is_relative_to(self.root.resolve())
        except (OSError, RuntimeError):
            return False

    def steps(self, run: Path) -> list[Step]:
        """The steps of a run's last plan; parts that are damaged are left out."""
        folder = RunDir(run)
        stamp = stamp_of(folder.recipe_path)
        known = self._recipes.get(run)
        if known is None or known[0] != stamp:
            # To read the YAML takes longer than all the rest of a request.
            known = self._recipes[run] = (stamp, _configs(folder.recipe_path))
        try:
            steps = folder.steps()
        except (OSError, ValueError, TastemakerError):
            return []
        told = known[1]
        return [Step(s.name, s.stage, s.path, told.get(s.name, {}), _finished(s)) for s in steps]

    def output_named(self, run: Path, value: object, *kinds: str) -> Path | None:
        """What a field of a step's configuration names: a step, another run, or a path."""
        if not isinstance(value, str):
            return None
        own = self.steps(run)
        for step in own:
            if step.name == value:
                return next((path for kind in kinds if (path := step.output(kind))), None)
        path = Path(value).expanduser()
        for place in (path, run.parent / path):
            if not place.exists():
                continue
            for step in reversed(own if place.resolve() == run.resolve() else self.steps(place)):
                for kind in kinds:
                    if (found := step.output(kind)) is not None:
                        return found
            if not (place / "steps.json").exists():
                return place
        return None


def thing_at(path: Path, kind: Kind, root: Path) -> Thing:
    """The thing in a folder."""
    name = path.as_posix()
    if path == root:
        # One that is served alone is called by its run, too.
        run, _, rest = name.partition("/steps/")
        name = f"{Path(run).name}/steps/{rest}" if rest else path.name
    elif path.is_relative_to(root):
        name = path.relative_to(root).as_posix()
    run, _, rest = name.partition("/steps/")
    if rest:
        # A step's output is known by the step; the hash in its path tells nobody anything.
        name = f"{run}: {rest.split('/')[0]}"
    text = f"{kind}:{path.as_posix()}"
    id_ = blake2b(text.encode(errors="surrogateescape"), digest_size=8).hexdigest()
    return Thing(id_, kind, path, name)


def steps_of(run: Path) -> list[Step]:
    """The steps of a run's last plan; parts that are damaged are left out."""
    return Library(run).steps(run)


def _configs(recipe: Path) -> Mapping[str, Mapping[str, Any]]:
    """Step -> what the recipe of a run's last plan says of it."""
    try:
        told = parse_yaml(recipe.read_text(encoding="utf-8"), "recipe.yaml").value
        planned = told.get("steps", []) if isinstance(told, dict) else []
    except (OSError, ValueError, TastemakerError):
        return {}
    return {step["name"]: step for step in planned if isinstance(step, dict) and "name" in step}


def stamp_of(file: Path | str) -> tuple[int, int] | None:
    """What changes when a file is written; None where there is none."""
    try:
        status = Path(file).stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def _finished(step: StepDir) -> Manifest | None:
    try:
        return step.finished()
    except TastemakerError:
        return None


def _things_under(root: Path) -> Iterator[Thing]:
    waiting, seen = [(root, 0)], 0
    while waiting and seen < MOST_FOLDERS:
        folder, depth = waiting.pop()
        seen += 1
        try:
            entries = list(os.scandir(folder))
        except OSError:
            continue
        names = {entry.name for entry in entries}
        for mark, kind in _MARKS.items():
            if mark in names:
                yield thing_at(folder, kind, root)
        if "catalog" in names and (folder / "catalog" / "base" / "manifest.json").is_file():
            yield thing_at(folder, "collection", root)
        if depth < DEEPEST:
            waiting += [
                (Path(entry.path), depth + 1)
                for entry in entries
                # A link may lead out, or round in a circle.
                if entry.is_dir(follow_symlinks=False)
                and not entry.name.startswith(".")
                and entry.name not in _CLOSED
            ]
