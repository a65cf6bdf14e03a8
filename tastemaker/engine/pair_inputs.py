"""What pairs are made from: pictures of a collection, and generated pictures with their latents."""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from tastemaker.errors import InputError
from tastemaker.records.generation import Sample
from tastemaker.records.image import ImageRecord
from tastemaker.records.pair import Comparison, PairPicture
from tastemaker.records.run import Artefact
from tastemaker.records.size import Size
from tastemaker.store.catalogue import Catalogue
from tastemaker.store.picture_identities import PictureIdentities
from tastemaker.store.samples import read_samples

OnPicture = Callable[[int], None]
"""Told how many more pictures were looked at."""


@dataclass
class Gathered:
    """Everything that a source has said.

    Attributes:
        comparisons: usable or not.
        pictures: id -> picture, of all that comparisons name.
        made_with: what determined them, for the pair set.
        counts: what is no comparison, but should be known.
        notes: whole sentences for the reader.
    """

    comparisons: list[Comparison] = field(default_factory=list)
    pictures: dict[str, PairPicture] = field(default_factory=dict)
    made_with: dict[str, Any] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class DrawnPicture:
    """A generated picture.

    Attributes:
        sample: as the generation wrote it.
        id: hash of its file; empty where it cannot be used.
        picture: where it is, with its kept latent.
        set_name: short name of the model.
        problem: why it cannot be used; empty where it can.
    """

    sample: Sample
    id: str
    picture: PairPicture
    set_name: str
    problem: str = ""


class PairInputs:
    """The inputs of a pairs step, opened when they are asked for.

    Args:
        inputs: the step's artefacts by field.
        memory: a file that keeps what was found of loose pictures; None for none.
    """

    def __init__(self, inputs: Mapping[str, Artefact], memory: Path | None = None) -> None:
        self.inputs = inputs
        self.identities = PictureIdentities(memory)

    def path(self, name: str, needed_by: str) -> Path:
        """Where an input lies.

        Raises:
            InputError: it was not given.
        """
        if name not in self.inputs:
            raise InputError(
                name, "nothing", f"{name}, which source.kind {needed_by} needs",
                f"Write {name}=PLACE, or choose another source.kind.",
            )  # fmt: skip
        return Path(self.inputs[name].path)

    def sample_folders(self) -> list[Path]:
        """The folders of generated pictures, in their order."""
        names = [name for name in self.inputs if name.split(".")[0] == "samples"]
        return [Path(self.inputs[name].path) for name in names]

    def has(self, name: str) -> bool:
        """Whether an input was given."""
        return name in self.inputs

    @cached_property
    def catalogue(self) -> Catalogue | None:
        """The collection, if one was given."""
        if "collection" not in self.inputs:
            return None
        return Catalogue(Path(self.inputs["collection"].path))

    def records(self, wanted: Collection[str]) -> dict[str, ImageRecord]:
        """The usable pictures among some ids of the collection; none without a collection."""
        if self.catalogue is None or not wanted:
            return {}
        wanted = set(wanted)
        return {
            record.id: record
            for record in self.catalogue.records()
            if record.id in wanted and record.status == "ok" and record.size is not None
        }

    def picture(self, record: ImageRecord) -> PairPicture:
        """A picture of the collection."""
        assert self.catalogue is not None
        path = str(self.catalogue.picture_path(record))
        source = f"{record.source}:{record.key}"
        return PairPicture(record.id, path, record.size or Size(0, 0), source)

    def loose(self, path: Path) -> tuple[PairPicture, str]:
        """A picture file that is in no collection, and why it cannot be used, if so."""
        found = self.identities.of(path)
        return PairPicture(found.id, str(path), found.size, path.name), found.problem

    def drawn(self, on_picture: OnPicture = lambda count: None) -> list[DrawnPicture]:
        """Every generated picture, each decoded once; those that are gone have a problem.

        Raises:
            InputError: a folder has no `samples.jsonl`, or none was given.
        """
        folders = self.sample_folders()
        if not folders:
            raise InputError(
                "samples",
                "nothing",
                "generated pictures",
                "Name the run, or the folder, of a generate step: samples=RUN.",
            )
        return [one for folder in folders for one in self._drawn(folder, on_picture)]

    def _drawn(self, folder: Path, on_picture: OnPicture) -> Iterable[DrawnPicture]:
        from tastemaker.store.generated_latents import GeneratedLatents, generated_key

        latents = GeneratedLatents(folder)
        for sample in read_samples(folder):
            found = self.identities.of(folder / sample.file)
            kept = latents.has(sample)
            picture = PairPicture(
                found.id,
                str(folder / sample.file),
                found.size,
                f"{sample.model}:{sample.file}",
                str(latents.path.parent) if kept else "",
                generated_key(sample) if kept else "",
            )
            on_picture(1)
            yield DrawnPicture(sample, found.id, picture, sample.model, found.problem)

    def sample_count(self) -> int:
        """How many generated pictures there are, by their lines alone."""
        return sum(len(read_samples(folder)) for folder in self.sample_folders())


def attribute(record: ImageRecord | None, name: str) -> str:
    """An attribute of a picture; empty where there is none."""
    return (record.attribute(name) if record is not None else None) or ""
