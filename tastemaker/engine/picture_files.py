"""A folder of generated pictures while it is filled: by one process or several, after kills too.

```
samples/
  run.json            how the pictures are drawn, with which versions
  ID_00.png           a picture
  samples.jsonl       a line a picture, by the first process
  samples-1.jsonl     by the second one, and so on
  latents/            final latents, where they are kept
```
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tastemaker.engine.picture_jobs import Job
from tastemaker.errors import CorruptFile, InputError
from tastemaker.records.codec import to_json
from tastemaker.records.generation import Sample
from tastemaker.store.hashing import hash_file
from tastemaker.store.samples import manifest_files, manifest_name

if TYPE_CHECKING:
    from tastemaker.store.generated_latents import GeneratedLatents

RUN = "run.json"
PACKAGES = ("torch", "diffusers", "transformers", "peft", "numpy", "pillow", "tastemaker")
"""Those whose version may change the bytes of a picture."""

_SAME = ("device", "versions", "scheduler")


@dataclass(frozen=True)
class Made:
    """One finished picture.

    Attributes:
        job: what it is of.
        pixels: uint8 [H, W, 3].
        latent: fp32 tensor [c, h, w] on the CPU, as the sampler ended with it.
        facts: further columns of its line, such as hashes of noise and latent.
    """

    job: Job
    pixels: Any
    latent: Any
    facts: Mapping[str, str]


class PictureFolder:
    """The pictures of one set of settings.

    Args:
        folder: where they are.
        name: the model's name in reports.
        settings: hash of what determines the pictures, by `settings_hash`.
        number: which of several processes writes here; each has a manifest of its own.
        latents: keeps the final latents too.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        settings: str,
        number: int = 0,
        latents: "GeneratedLatents | None" = None,
    ) -> None:
        self.folder, self.name, self.settings = folder, name, settings
        self.manifest = folder / manifest_name(number)
        self.latents = latents

    def begin(self, told: Mapping[str, Any], jobs: Sequence[Job]) -> None:
        """Write `run.json`; lines of other settings are dropped, their pictures drawn again.

        One process does this before the others look. Where all pictures are there, nothing changes.

        Args:
            told: how the pictures are drawn; `device`, `versions` and `scheduler` must be what they
                were when an earlier attempt began, or bytes would depend on who drew what.
            jobs: of the whole set.

        Raises:
            InputError: some of the pictures are there, and were drawn by other versions or on
                another kind of device.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        before = self._before()
        if before is None or before.get("settings") != self.settings:
            for file in manifest_files(self.folder):
                file.unlink()
        else:
            lacking = len(self.lacking(jobs))
            if not lacking:
                return
            if lacking < len(jobs):
                self._refuse_mixing(before, told)
        from tastemaker.store.atomic import write_json

        write_json(self.folder / RUN, {"settings": self.settings, **told})

    def lacking(self, jobs: Iterable[Job]) -> set[Job]:
        """The pictures whose line, file or kept latent is missing, or is of other settings."""
        rows = self.rows()
        without = {job for job in jobs if not self._is_done(job, rows)}
        if self.latents is not None:
            there = {self._sample(job): job for job in jobs if job not in without}
            without |= {there[sample] for sample in self.latents.lacking(there)}
        return without

    def rows(self) -> dict[tuple[str, int], dict[str, Any]]:
        """The lines of all processes by prompt and number."""
        from tastemaker.store import jsonl

        return {
            (row["prompt_id"], row["sample_index"]): row
            for file in manifest_files(self.folder)
            for row in jsonl.read(file)
        }

    def save(self, made: Sequence[Made], todo: set[Job], vae_hash: str = "") -> int:
        """Write those of a batch that are to be written; how many they are.

        First the latents of the whole batch, in one file that has the same name each time, then
        each picture and its line: a line always has a whole file, and its latent.
        """
        from PIL import Image

        from tastemaker.store.atomic import atomic_file

        new = [one for one in made if one.job in todo]
        if self.latents is not None and new:
            import torch

            samples = [self._sample(one.job) for one in made]
            size = made[0].job.size
            self.latents.keep(samples, torch.stack([one.latent for one in made]), size, vae_hash)
        for one in new:
            with atomic_file(self.folder / one.job.file()) as temporary:
                Image.fromarray(one.pixels).save(temporary, "PNG")
            self._write_line(one.job, one.facts)
        return len(new)

    def take_over(self, other: Path, jobs: Iterable[Job], todo: set[Job]) -> int:
        """Copy from another folder what is to be drawn and has been there; how many they are."""
        from tastemaker.store.atomic import atomic_file

        source = PictureFolder(other, self.name, self.settings)
        rows, count = source.rows(), 0
        for job in jobs:
            if job not in todo or not source._is_done(job, rows):
                continue
            with atomic_file(self.folder / job.file()) as temporary:
                temporary.write_bytes((other / job.file()).read_bytes())
            row = rows[job.prompt.id, job.index]
            known = {*Sample.__dataclass_fields__, "file_hash"}
            self._write_line(job, {k: v for k, v in row.items() if k not in known})
            count += 1
        return count

    def _write_line(self, job: Job, facts: Mapping[str, str]) -> None:
        from tastemaker.store import jsonl

        file_hash = hash_file(self.folder / job.file())
        line = {**to_json(self._sample(job)), "file_hash": file_hash, **facts}
        jsonl.append(self.manifest, line)

    def _sample(self, job: Job) -> Sample:
        return Sample(
            model=self.name,
            prompt_id=job.prompt.id,
            prompt=job.prompt.text,
            sample_index=job.index,
            seed=job.seed(),
            settings=self.settings,
            file=job.file(),
        )

    def _is_done(self, job: Job, rows: Mapping[tuple[str, int], Mapping[str, Any]]) -> bool:
        row = rows.get((job.prompt.id, job.index), {})
        file = self.folder / job.file()
        same = (row.get("settings"), row.get("seed")) == (self.settings, job.seed())
        same = same and row.get("prompt") == job.prompt.text
        return same and file.is_file() and hash_file(file) == row.get("file_hash")

    def _before(self) -> dict[str, Any] | None:
        return read_run(self.folder)

    def _refuse_mixing(self, before: Mapping[str, Any], told: Mapping[str, Any]) -> None:
        for name in _SAME:
            if before.get(name) != told.get(name):
                raise InputError(
                    self.folder,
                    f"some of the pictures, drawn with {name} {_short(before.get(name))}",
                    f"all by the same; here it is {_short(told.get(name))}",
                    "Go on where they were begun, or delete this folder to draw all anew.",
                )


def read_run(folder: Path) -> dict[str, Any] | None:
    """What `run.json` of a folder of samples says; None where there is none.

    Raises:
        CorruptFile: it is no such file.
    """
    path = folder / RUN
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise CorruptFile(f"{path}: not JSON ({error})") from error
    if not isinstance(found, dict):
        raise CorruptFile(f"{path}: not a JSON object")
    return found


def versions() -> dict[str, str | None]:
    """Versions of what draws the pictures."""
    return {name: _version(name) for name in PACKAGES}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _short(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {part}" for key, part in sorted(value.items()))[:300]
    return str(value)
