"""Fill one set of generated pictures, by one process or several, and look at what came of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from tastemaker.engine.drawing import Drawer, Share
from tastemaker.engine.picture_files import PictureFolder
from tastemaker.engine.picture_jobs import Job, batches
from tastemaker.engine.progress import Progress
from tastemaker.records.generation import PromptSet
from tastemaker.store.rundir import StepDir

if TYPE_CHECKING:
    from tastemaker.models.family import Family


class Together(Protocol):
    """The processes that draw together."""

    @property
    def rank(self) -> int:
        """Number of this process."""
        ...

    @property
    def world(self) -> int:
        """How many there are."""
        ...

    def barrier(self) -> None:
        """Wait for all."""
        ...


@dataclass(frozen=True)
class FilledSet:
    """One set after all have drawn.

    Attributes:
        jobs: all its pictures.
        before: how many were there before.
        lacking: what other shares have yet to draw.
    """

    jobs: Sequence[Job]
    before: int
    lacking: set[Job]

    @property
    def there(self) -> list[Job]:
        """What was drawn, in order."""
        return [job for job in self.jobs if job not in self.lacking]


def fill_set(
    drawer: Drawer,
    files: PictureFolder,
    jobs: Sequence[Job],
    step: StepDir,
    group: Together,
    part: Share,
    title: str,
) -> FilledSet:
    """Draw what is lacking; every picture is the same with any number of processes.

    Args:
        drawer: draws them.
        files: where they go.
        jobs: the whole set.
        step: told of the progress.
        group: the processes, which take a batch each in turn.
        part: of the set, that is drawn here.
        title: of the progress.

    Raises:
        TastemakerError: a picture is not finite.
    """
    # All must have looked before anyone draws: a share is of what is lacking.
    group.barrier()
    todo = files.lacking(jobs)
    group.barrier()
    # The share of a machine does not depend on what is done; within it, processes take turns.
    every = batches(jobs, drawer.config.batch)[part.number :: part.of]
    own = [batch for batch in every if todo & set(batch)][group.rank :: group.world]
    mine, unit, before = list(jobs), "pictures", len(jobs) - len(todo)
    if part.of > 1 or group.world > 1:
        mine = [job for batch in own for job in batch]
        before = len(mine) - len(todo & set(mine))
    if group.world > 1:
        unit = f"pictures (one of {group.world} processes)"
    with Progress(step, len(mine), unit, title, done=before) as progress:
        drawer.draw_batches(own, todo, files, progress.advance)
    group.barrier()
    lacking = files.lacking(jobs) if group.rank == 0 else set()
    return FilledSet(jobs, len(jobs) - len(todo), lacking)


def write_grid(folder: Path, jobs: Sequence[Job]) -> None:
    """`grid.png`: pictures with their prompts on one sheet."""
    from tastemaker.store.contact_sheet import write_contact_sheet
    from tastemaker.store.images import load_image

    pictures = [load_image(folder / job.file()).pixels for job in jobs]
    write_contact_sheet(folder / "grid.png", pictures, [job.prompt.text for job in jobs])


def cut_prompts(family: "Family", prompts: PromptSet) -> dict[str, int]:
    """How many prompts the model cannot read to their end, and by how much; nothing if it can."""
    from tastemaker.models.text import summarise

    told = summarise(family.token_reports([prompt.text for prompt in prompts.prompts]))
    if not told.cut_texts:
        return {}
    return {"prompts cut": told.cut_texts, "tokens cut": told.cut_tokens}
