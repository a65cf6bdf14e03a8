"""What a stage takes and what it leaves."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Artefact:
    """An input of a stage: its kind, where it lies, and its key.

    Kinds are `collection`, `selection`, `model` and others. `path` is a plain string for a model on
    a hub.
    """

    kind: str
    path: Path | str
    key: str


@dataclass(frozen=True)
class Manifest:
    """The evidence that a stage is done.

    Attributes:
        stage: name of the stage.
        key: hash of everything that determines the outputs.
        outputs: artefact kind -> path relative to the step's folder.
        counts: how many were done, skipped, failed, by reason; what the summary shows.
        results: figures worth showing in a report.
        seconds: wall time of all attempts together.
    """

    stage: str
    key: str
    outputs: Mapping[str, str]
    counts: Mapping[str, int] = field(default_factory=dict)
    results: Mapping[str, object] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass(frozen=True)
class Visit:
    """One use of one sample in training: the n-th time (from 0) that the run sees it.

    Attributes:
        sample_id: the sample.
        visit: how often the run has seen it before.
        windows: text windows that all prompts of its step are padded to, which its own prompt does
            not tell; 0 where the step has no texts, or they are not known.
    """

    sample_id: str
    visit: int
    windows: int = 0
