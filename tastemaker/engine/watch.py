"""Beside a fit: pictures of every checkpoint while it trains, from a process of its own.

Not a step of a recipe: it makes nothing that another step needs. The training's memory stays free,
and neither of the two waits for the other.
"""

import fcntl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from tastemaker.engine.drawing import Drawer, device
from tastemaker.engine.picture_files import PictureFolder
from tastemaker.engine.picture_jobs import picture_jobs
from tastemaker.engine.picture_settings import PictureSettings, settings_hash, settle
from tastemaker.errors import CorruptFile, InputError, RunLocked
from tastemaker.records.generation import Prompt, PromptSet
from tastemaker.store.atomic import storage_errors
from tastemaker.store.fit_base import FILE, read_fit_base
from tastemaker.store.hashing import hash_json
from tastemaker.store.preview_sheet import (
    SHEET,
    Preview,
    Previews,
    read_previews,
    spread,
    write_preview_sheet,
    write_previews,
)
from tastemaker.store.prompt_sets import make_prompt_set, read_prompt_set
from tastemaker.store.retention import weight_folders, weights_hash
from tastemaker.store.rundir import MANIFEST, RunDir, read_manifest

if TYPE_CHECKING:
    from tastemaker.models.family import Family
    from tastemaker.models.presets import Preset

MOST_COLUMNS = 24
"""Checkpoints on the sheet: the first, the newest, and evenly between (ours)."""

POLL_S = 5.0
"""Seconds between looks for new checkpoints (ours)."""

_BASE = "base"


class Loaded(Protocol):
    """What a checkpoint says of itself when its weights are put into a model."""

    @property
    def images(self) -> int:
        """Images seen."""
        ...

    @property
    def averaged(self) -> bool:
        """Whether it is the running average."""
        ...


def find_fit(place: Path) -> Path:
    """The folder of a fit step: the place itself, or the last fit of a run.

    Raises:
        InputError: there is none.
    """
    if (place / "checkpoints").is_dir() or (place / MANIFEST).is_file():
        return place
    run = RunDir(place)
    fits = [place / entry.path for entry in run.plan() if entry.stage in ("fit", "fit_pairs")]
    if not fits:
        raise InputError(
            place,
            "no fit step",
            "the run folder of a training, or the folder of its fit step",
            "Start the training first; watch may begin while it runs.",
        )
    return fits[-1]


def wait_for_start(
    fit: Path,
    say: Callable[[str], None],
    poll_s: float = POLL_S,
    wait: Callable[[float], None] = time.sleep,
) -> None:
    """Until the fit has written what it starts from; earlier steps may take long."""
    if not _has_begun(fit):
        say("Waiting for the training to begin; Ctrl-C ends the watch.")
    while not _has_begun(fit):
        wait(poll_s)


def _has_begun(fit: Path) -> bool:
    return (fit / "checkpoints" / FILE).is_file() or (fit / MANIFEST).is_file()


def read_prompts(place: Path | None, fit: Path, most: int) -> PromptSet:
    """What is drawn: a prompt set, lines of a text file, a run's prompts, or the fit's captions.

    Args:
        place: where the prompts are; None for captions of pictures that the fit holds out, or
            trains on.
        fit: the fit step.
        most: how many are taken.

    Raises:
        InputError: there are none.
    """
    if place is None:
        texts = read_fit_base(fit).prompts
    elif place.is_dir():
        steps = [
            step
            for step in RunDir(place).steps()
            if (m := step.finished()) and "prompts" in m.outputs
        ]
        if not steps:
            raise InputError(place, "no finished prompts step", "a run with one", "Name a file.")
        texts = [p.text for p in read_prompt_set(Path(steps[-1].output("prompts").path)).prompts]
    elif place.suffix == ".jsonl":
        texts = [prompt.text for prompt in read_prompt_set(place).prompts]
    elif place.is_file():
        texts = [line.strip() for line in place.read_text("utf-8").splitlines() if line.strip()]
    else:
        raise InputError(
            place, "no file", "a prompt set, or a text file with a prompt a line", "Name one."
        )
    prompts = [Prompt(f"{number:02}", text) for number, text in enumerate(texts[:most])]
    return make_prompt_set("previews", prompts)


def watch(
    fit: Path,
    config: PictureSettings,
    prompts: PromptSet,
    out: Path,
    say: Callable[[str], None],
    *,
    base: Callable[[], "Family"],
    put: Callable[["Family", Path], Loaded],
    preset: "Preset | None" = None,
    on: str | None = None,
    once: bool = False,
    poll_s: float = POLL_S,
    wait: Callable[[float], None] = time.sleep,
) -> dict[str, int]:
    """Draw every checkpoint of a fit that is there or comes, the newest first, until the fit ends.

    The model before the training is drawn, too. What an earlier watch has drawn is kept. A
    checkpoint that is removed while it is read is passed over.

    Args:
        fit: the fit step's folder.
        config: how to draw.
        prompts: what to draw.
        out: where the pictures go.
        say: told a line for every checkpoint.
        base: loads the model that the fit started from.
        put: puts the weights of a checkpoint's folder into that model; again for the next one.
        preset: what holds where `config` says nothing.
        on: device to draw on; by default the accelerator, where there is one.
        once: do what there is and stop.
        poll_s: seconds between looks.
        wait: sleeps.

    Returns:
        How many checkpoints were drawn, and how many had been before.

    Raises:
        InputError: the pictures in `out` were drawn in another way.
        RunLocked: another process draws there.
    """
    with _alone(out):
        drawer = _Drawer(fit, (config, preset), prompts, out, (base, put), on or device())
        before, drawn, hopeless, told = len(drawer.previews.shown), 0, set(), False
        while True:
            # Looked at first: what is saved before the end is then seen in this round.
            ended = read_manifest(fit) is not None
            found = {s: p for s, p in drawer.todo().items() if p not in hopeless}
            if found:
                # The base, then the newest: what lies between may be removed before its turn.
                step = 0 if 0 in found else max(found)
                try:
                    preview = drawer.draw(step, found[step])
                except CorruptFile as error:
                    if found[step].is_dir():
                        hopeless.add(found[step])
                        say(f"Warning: {error}")
                    continue
                drawn, told = drawn + 1, False
                say(f"{preview.images:,} images: {out / preview.folder}")
                continue
            if ended or once:
                return {"drawn": drawn, "kept from before": before}
            if not told:
                say("Waiting for the next checkpoint; Ctrl-C ends the watch.")
                told = True
            wait(poll_s)


class _Drawer:
    """Draws one checkpoint after the other, with one model in memory."""

    def __init__(
        self,
        fit: Path,
        how: "tuple[PictureSettings, Preset | None]",
        prompts: PromptSet,
        out: Path,
        models: "tuple[Callable[[], Family], Callable[[Family, Path], Loaded]]",
        on: str,
    ) -> None:
        self.checkpoints, self.prompts = fit / "checkpoints", prompts
        config, self.preset = how
        self.config = config
        self.out, (self.base, self.put), self.device = out, models, on
        fields = PictureSettings.model_fields.keys() - {"batch", "name"}
        told = config.model_dump(mode="json", include=set(fields))
        settings = hash_json([told, self.preset and self.preset.name, prompts.hash])
        texts = tuple(prompt.text for prompt in prompts.prompts)
        there = read_previews(out)
        if there is not None and there.settings != settings:
            raise InputError(
                out,
                "previews that were drawn in another way or of other prompts",
                "previews like those that are asked for now",
                "Delete this folder, or choose another one with -o.",
            )
        whole = [p for p in there.shown if self._is_there(p)] if there else []
        self.previews = Previews(settings, texts, tuple(whole), there.sheet if there else "")
        self._family: Family | None = None
        self._is_base = False

    def todo(self) -> dict[int, Path]:
        """Step -> folder of what is not drawn yet; 0 is the model before the training."""
        if not (self.checkpoints / FILE).is_file():
            return {}
        done = {(preview.step, preview.weights) for preview in self.previews.shown}
        found = {0: self.checkpoints} if (0, _BASE) not in done else {}
        for step, folder in weight_folders(self.checkpoints).items():
            weights = weights_hash(folder)
            if weights is not None and (step, weights) not in done:
                found[step] = folder
        return found

    def draw(self, step: int, folder: Path) -> Preview:
        """Pictures, index and sheet of one checkpoint.

        Raises:
            CorruptFile: it is damaged, or was removed meanwhile.
        """
        family = self._base_family(step == 0)
        weights, images, averaged = _BASE, 0, False
        if step:
            weights = weights_hash(folder)
            if weights is None:
                raise CorruptFile(f"{folder}: removed before it was read")
            loaded = self.put(family, folder)
            self._is_base, images, averaged = False, loaded.images, loaded.averaged
        name = f"images-{images:09d}"
        manner = settle(self.config, self.preset, family.own_size)
        jobs = picture_jobs(self.config, self.prompts, manner.size, family)
        settings = settings_hash(self.config, manner, {"checkpoint": weights})
        pictures = PictureFolder(self.out / name, name, settings)
        family.to(self.device).channels_last()
        try:
            drawer = Drawer(self.config, manner, family)
            pictures.begin(drawer.told(checkpoint=weights), jobs)
            drawer.draw(jobs, pictures)
        finally:
            self._make_room(family)
        files = tuple(job.file() for job in jobs if job.index == 0)
        preview = Preview(step, images, averaged, name, weights, files)
        # A run that went back draws a step again, with other weights.
        others = [p for p in self.previews.shown if p.folder != name and p.step != step]
        shown = tuple(sorted([*others, preview], key=lambda p: p.images))
        self.previews = replace(self.previews, shown=shown, sheet=SHEET)
        self._write_sheet()
        write_previews(self.out, self.previews)
        return preview

    def _base_family(self, untrained: bool) -> "Family":
        if self._family is None or (untrained and not self._is_base):
            self._family = self.base()
            self._is_base = True
        return self._family

    def _make_room(self, family: "Family") -> None:
        """Between checkpoints the accelerator is the training's alone."""
        if self.device != "cpu":
            import torch

            family.to("cpu")
            torch.cuda.empty_cache()

    def _write_sheet(self) -> None:
        from tastemaker.store.images import load_image

        shown = self.previews.shown
        chosen = [shown[i] for i in spread(len(shown), MOST_COLUMNS)]
        rows = [
            [load_image(self.out / p.folder / p.files[row]).pixels for p in chosen]
            for row in range(len(self.previews.prompts))
        ]
        heads = [f"{p.images:,} images" if p.step else "before" for p in chosen]
        write_preview_sheet(self.out / SHEET, rows, self.previews.prompts, heads)

    def _is_there(self, preview: Preview) -> bool:
        return all((self.out / preview.folder / file).is_file() for file in preview.files)


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """One process at a time; the system drops the lock when its holder dies."""
    with storage_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        lock = (out / "lock").open("w")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunLocked(
                out,
                "another process that draws there",
                "one watch a folder",
                "Wait for it, stop it, or choose another folder with -o.",
            ) from None
        yield
