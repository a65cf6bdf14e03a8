"""The pictures of a prompt set, and how they are put into batches."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tastemaker.engine.picture_settings import PictureSettings
from tastemaker.records.draws import Draw
from tastemaker.records.generation import Prompt, PromptSet
from tastemaker.records.size import Size
from tastemaker.store.hashing import hash_bytes

if TYPE_CHECKING:
    from tastemaker.models.family import Family

SAFE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class Job:
    """One picture to be made."""

    prompt: Prompt
    index: int
    draw: Draw
    windows: int
    size: Size = Size(0, 0)

    def names(self) -> tuple[str, str]:
        """Of this picture, and of its prompt; made of the prompt's id, never of its text.

        An id that is no file name is hashed.
        """
        name = self.prompt.id
        if not SAFE_ID.fullmatch(name):
            name = hash_bytes(name.encode())[:16]
        return f"{name}_{self.index:02d}", name

    def file(self) -> str:
        """Name of its file."""
        return f"{self.names()[0]}.png"

    def seed(self) -> int:
        """What the noise follows from: run seed, prompt set, prompt id and index."""
        return self.draw.key() & (2**63 - 1)

    def seed_of_steps(self) -> int:
        """What the noise between the steps of a sampler follows from: the same names."""
        draw = self.draw
        return Draw(draw.seed, "generate steps", draw.sample_id, draw.visit).key() & (2**63 - 1)


def picture_jobs(
    config: PictureSettings, prompts: PromptSet, size: Size, *families: "Family"
) -> list[Job]:
    """Every picture of a complete set, by prompt and number.

    Args:
        config: how they are drawn.
        prompts: what of.
        size: of the pictures.
        families: the models that read the prompts.
    """
    jobs = []
    for prompt in prompts.prompts:
        # Lengths before the names, so that no two pairs of names become one by joining.
        sample = f"{len(prompts.name)}:{prompts.name}:{prompt.id}"
        windows = max(each.windows([prompt.text, config.negative]) for each in families)
        for index in range(config.samples_per_prompt):
            draw = Draw(config.seed, "generate", sample, index)
            jobs.append(Job(prompt, index, draw, windows, size))
    return jobs


def batches(jobs: Sequence[Job], most: int) -> list[list[Job]]:
    """Batches of one size and one number of text windows, so that no picture depends on another.

    They follow from the whole set alone, not from what is done already or who does it: rounding
    depends on the batch, and a run that was killed, or shared out, must end with the same pictures.

    Args:
        jobs: the whole set.
        most: pictures of a batch.
    """
    found = []
    for kind in sorted({(job.size, job.windows) for job in jobs}):
        alike = [job for job in jobs if (job.size, job.windows) == kind]
        found += [alike[first : first + most] for first in range(0, len(alike), most)]
    return found
