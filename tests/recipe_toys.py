"""Small stages for the tests of recipes: they write real files and take no time."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator

from tastemaker.errors import InputError
from tastemaker.recipe.stages import Stage
from tastemaker.records.config import Config
from tastemaker.records.finding import Finding
from tastemaker.records.run import Artefact, Manifest
from tastemaker.store.atomic import write_json
from tastemaker.store.rundir import StepDir


class CollectConfig(Config):
    """Read text files."""

    inputs: ClassVar[dict[str, str]] = {"sources": "words"}
    sources: tuple[str, ...]
    """Where they are."""
    where: dict[str, tuple[str, ...]] = {}
    """Which of them."""
    sizes: tuple[int, ...] = ()
    """A field with a validator of its own."""

    @field_validator("sizes", mode="before")
    @classmethod
    def _as_it_is(cls, value: object) -> object:
        return value


class Adam(Config):
    """One optimiser."""

    kind: Literal["adam"] = "adam"
    weight_decay: float = Field(default=0.01, ge=0)
    """Decay per step."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Momenta."""


class Sgd(Config):
    """Another optimiser."""

    kind: Literal["sgd"] = "sgd"
    momentum: float = 0.0
    """Momentum."""


class FitConfig(Config):
    """Count words."""

    inputs: ClassVar[dict[str, str]] = {"collection": "collection", "start": "checkpoint"}
    collection: str
    """The words."""
    start: str | None = None
    """Where to begin."""
    lr: float = Field(default=1e-4, gt=0, json_schema_extra={"stated": "a paper"})
    """How fast."""
    images_total: int = Field(default=10, gt=0)
    """How long."""
    schedule: Literal["constant", "cosine", "linear"] = "cosine"
    """Shape."""
    optimizer: Annotated[Adam | Sgd, Field(discriminator="kind")] = Adam()
    """Which."""
    inner: Adam = Adam()
    """A nested one without choice."""
    limit: float | None = None
    """Upper bound."""
    seed: int = 0
    """Seed."""
    workers: int = Field(default=0, json_schema_extra={"changes_result": False})
    """Never matters."""
    folder: Path = Path("x")
    """A path."""


def collect(config: CollectConfig, inputs: Mapping[str, Artefact], step: StepDir) -> Manifest:
    words = []
    for name in sorted(inputs):
        for file in sorted(Path(inputs[name].path).rglob("*.txt")):
            words += file.read_text().split()
    write_json(step.path / "collection" / "words.json", words)
    return Manifest("collect", step.key, {"collection": "collection"}, {"words": len(words)})


def fit(config: FitConfig, inputs: Mapping[str, Artefact], step: StepDir) -> Manifest:
    """Fails when a word says so, the first time only for `later` and `stop`."""
    words = json.loads((Path(inputs["collection"].path) / "words.json").read_text())
    half = step.path / "half.json"
    if not half.exists():
        write_json(half, len(words))
        for word, error in (
            ("stop", KeyboardInterrupt()),
            ("later", RuntimeError("fell over")),
            ("wrong", InputError("words", "a wrong word", "a right one", "Correct it.")),
        ):
            if word in words:
                raise error
    (step.path / "adapter").mkdir(exist_ok=True)
    write_json(step.path / "adapter" / "count.json", [len(words), config.seed, config.lr])
    results = {"loss": 0.5 * config.lr, "table": [1, 2]}
    return Manifest("fit", step.key, {"adapter": "adapter"}, {"images": len(words)}, results)


def check_fit(config: FitConfig, inputs: Mapping[str, Artefact]) -> list[Finding]:
    if config.images_total < 5:
        return [Finding("recipe.fit.images_total", "too few to learn", "Take 5.", fatal=False)]
    return []


class ShowConfig(Config):
    """Print a result."""

    inputs: ClassVar[dict[str, str]] = {"what": "adapter|model"}
    what: str
    """Which."""
    name: str = "nobody"
    """Gets the step's."""


def show(config: ShowConfig, inputs: Mapping[str, Artefact], step: StepDir) -> Manifest:
    step.path.joinpath("shown").write_text(f"{config.name} {inputs['what'].kind}")
    return Manifest("show", step.key, {"samples": "shown"})


class GatherConfig(Config):
    """Read pictures."""

    inputs: ClassVar[dict[str, str]] = {"folders": "pictures"}
    folders: tuple[str, ...]
    """Where they are."""


class LoadConfig(Config):
    """Load a model."""

    inputs: ClassVar[dict[str, str]] = {"model": "model"}
    model: str
    """Which."""


GATHER = Stage("gather", GatherConfig, 1, show)
LOAD = Stage("load", LoadConfig, 1, show)
TOYS = {
    "collect": Stage("collect", CollectConfig, 1, collect, outputs=("collection",)),
    "fit": Stage("fit", FitConfig, 1, fit, check_fit, outputs=("adapter", "model")),
    "show": Stage("show", ShowConfig, 1, show),
}

RECIPE = """\
name: toy/demo
about: Counts words.
seed: 7
arguments:
  pictures: {about: a folder of words}
  speed:
    default: 1e-4
    about: how fast
steps:
  - name: collect
    stage: collect
    sources: $pictures
  - name: fit
    stage: fit
    collection: collect
    lr: $speed
    schedule: linear
    optimizer:
      weight_decay: 1e-6
  - name: show
    stage: show
    what: fit
stated:
  fit.optimizer.weight_decay: "Paper, table 3: 1e-6"
  fit.lr: "Paper: 1e-4"
"""


def words_folder(folder: Path, text: str = "one two three") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "a.txt").write_text(text)
    return folder
