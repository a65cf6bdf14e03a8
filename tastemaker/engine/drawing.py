"""Draw the pictures of a prompt set with a model, each with noise of its own; again after a kill.

Axes: B pictures, C latent channels, H and W rows and columns.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from math import isfinite
from typing import TYPE_CHECKING, Any, NamedTuple

from tastemaker.engine.picture_files import Made, PictureFolder, versions
from tastemaker.engine.picture_jobs import Job, batches
from tastemaker.engine.picture_settings import Manner, PictureSettings
from tastemaker.engine.picture_starts import LayoutStart, Start
from tastemaker.store.hashing import hash_bytes

if TYPE_CHECKING:
    from tastemaker.models.family import Family
    from tastemaker.models.sampling import Drawn


class Refiner(NamedTuple):
    """A second model that does the last steps of every picture.

    Attributes:
        family: the model.
        start: share of the denoising that is done before it.
    """

    family: "Family"
    start: float


class Share(NamedTuple):
    """Which part of the batches is drawn: every `of`-th, from the one of this number on."""

    number: int = 0
    of: int = 1


def device() -> str:
    """The accelerator, where there is one."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


class Drawer:
    """Draws batches with one model.

    Args:
        config: how to draw.
        manner: the same with nothing left open.
        family: the model, on its device; with a refiner it may be anywhere.
        refiner: does the last steps; one of the two models is on the device at a time.
        start: what pictures begin from; by default the layout of the configuration, if any.

    Raises:
        InputError: the size does not fit the model, or the sampler does not.
    """

    def __init__(
        self,
        config: PictureSettings,
        manner: Manner,
        family: "Family",
        refiner: Refiner | None = None,
        start: Start | None = None,
    ) -> None:
        from tastemaker.models.sampling import latent_shape, make_sampler

        self.config, self.manner, self.family, self.refiner = config, manner, family, refiner
        self.start = start or (LayoutStart(config.layout) if config.layout else None)
        self.shape = latent_shape(family, manner.size)
        self.scheduler = make_sampler(manner.sampler, family.scheduler.config, manner.spacing)
        self._too_many: float = float("inf")

    def told(self, **more: Any) -> dict[str, Any]:
        """What `run.json` says of how pictures are drawn."""
        manner = self.manner
        return {
            **more,
            "sampler": manner.text(),
            "size": list(manner.size),
            "preset": manner.preset,
            "batch": self.config.batch,
            "precision": self.config.precision,
            "scheduler": {
                "class": type(self.scheduler).__name__,
                **{
                    # Minus infinity is a setting of some samplers, and no number of JSON.
                    name: value if not isinstance(value, float) or isfinite(value) else str(value)
                    for name, value in sorted(self.scheduler.config.items())
                    if not name.startswith("_") and isinstance(value, str | int | float | None)
                },
            },
            "device": device(),
            "versions": versions(),
        }

    def draw(self, jobs: Sequence[Job], folder: PictureFolder) -> None:
        """Write what is not done, as one process alone.

        Raises:
            TastemakerError: a picture is not finite.
        """
        todo = folder.lacking(jobs)
        every = batches(jobs, self.config.batch)
        self.draw_batches([group for group in every if todo & set(group)], todo, folder)

    def draw_batches(
        self,
        groups: Sequence[list[Job]],
        todo: set[Job],
        folder: PictureFolder,
        advance: Callable[[int], None] = lambda count: None,
    ) -> None:
        """Draw whole batches, and write those of their pictures that are lacking.

        A batch is written while the next one is drawn.

        Args:
            groups: by `picture_jobs.batches`.
            todo: what is lacking.
            folder: where they go.
            advance: told how many more are written.

        Raises:
            TastemakerError: a picture is not finite.
        """
        vae_hash = ""
        if folder.latents is not None and groups:
            from tastemaker.models.autoencoder import weights_hash

            vae_hash = weights_hash(self.family.parts["vae"])
        waiting: Future[int] | None = None
        with ThreadPoolExecutor(1, "write pictures") as writer:
            for group in groups:
                for part in self._made(group):
                    if waiting is not None:
                        advance(waiting.result())
                    waiting = writer.submit(folder.save, part, todo, vae_hash)
            if waiting is not None:
                advance(waiting.result())

    def _made(self, jobs: list[Job]) -> Iterator[list[Made]]:
        """The pictures of one batch; in halves when the device's memory does not hold it."""
        import torch

        if len(jobs) == 1 or len(jobs) < self._too_many:
            try:
                made = self._make(jobs)
            except torch.OutOfMemoryError:
                if len(jobs) == 1:
                    raise
                self._too_many = len(jobs)
            else:
                yield made
                return
        # Here and not in the handler: there, the error would hold on to all that has filled memory.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        half = len(jobs) // 2
        yield from self._made(jobs[:half])
        yield from self._made(jobs[half:])

    def _make(self, jobs: list[Job]) -> list[Made]:
        import torch

        from tastemaker.diffusion.noise import batch_noise

        # Drawn on the CPU in fp32 for every picture alone: the same on any device, in any batch.
        noise = batch_noise([job.draw for job in jobs], self.shape)
        start, facts = self._starts(jobs)
        latents, pictures = self._draw(jobs, noise, start)
        pixels = (pictures * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
        latents = latents.float().cpu()
        for fact, own, final in zip(facts, noise, latents, strict=True):
            fact["noise_hash"] = hash_bytes(own.numpy().tobytes())
            fact["latent_hash"] = hash_bytes(final.contiguous().numpy().tobytes())
        return [Made(*one) for one in zip(jobs, pixels, latents, facts, strict=True)]

    def _draw(self, jobs: list[Job], noise: Any, start: Any) -> "Drawn":
        import torch

        from tastemaker.models.refining import draw_refined
        from tastemaker.models.sampling import draw

        texts = [job.prompt.text for job in jobs]
        generators = [torch.Generator().manual_seed(job.seed_of_steps()) for job in jobs]
        what = (texts, self.config.negative, noise, self.manner.sampling())
        how = {"start": start, "strength": self.config.strength, "generators": generators}
        if self.refiner is None:
            return draw(self.family, *what, **how)
        place = {"handover": self.refiner.start, "device": device()}
        return draw_refined(self.family, self.refiner.family, *what, **place, **how)

    def _starts(self, jobs: list[Job]) -> tuple[Any, list[dict[str, str]]]:
        """Latents [B, C, h, w] of what the pictures begin from, and hashes of its pixels."""
        import numpy as np
        import torch

        if self.start is None:
            return None, [{} for _ in jobs]
        pixels = [self.start.pixels(job.names(), job.size) for job in jobs]
        facts = [{"start_hash": hash_bytes(each.tobytes())} for each in pixels]
        batch = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous()
        if self.refiner is not None:
            self.family.parts["vae"].to(device())
        with torch.no_grad():
            return self.family.encode_image(batch)[0], facts
