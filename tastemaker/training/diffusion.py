"""Training a diffusion model of any family on cached latents.

Axes: B pictures, C latent channels, H and W latent rows and columns, L tokens, D context width.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

import torch
from torch import Tensor, nn

from tastemaker.diffusion.errors import per_image_mse
from tastemaker.diffusion.noise import batch_noise
from tastemaker.diffusion.schedule import DiscreteSchedule
from tastemaker.diffusion.timesteps import TimestepChoice
from tastemaker.models.family import Conditioning, Family, TextStates
from tastemaker.objectives.protocol import SingleBatch, Terms
from tastemaker.objectives.sft import SFT
from tastemaker.records.draws import Draw
from tastemaker.records.run import Visit
from tastemaker.records.size import ImageSizes, Size
from tastemaker.store.loss_masks import LossMasks
from tastemaker.training.group import Group
from tastemaker.training.kept_latents import FIXED
from tastemaker.training.masking import batch_weight
from tastemaker.training.prompting import Prompter, padded
from tastemaker.training.validate import GridPoint, even_timesteps, fixed_grid, validate

GRID_TIMESTEPS = 10
"""Timesteps of the fixed grids, evenly spaced (ours)."""

GRID_BATCH, GRID_CELLS = 64, 2**16
"""Most points of a grid per forward pass, and most latent cells of all of them: 4 points at 1024
pixels, where 64 would take more memory than a step of training does (ours)."""

LatentOf = Callable[[str, int], tuple[Tensor, ImageSizes]]
"""(sample id, visit) -> latent [C, H, W], already scaled, and the sizes that belong to it.

Validation asks for the visit `FIXED`."""


def grid_part(cells: int) -> int:
    """Points of a grid per forward pass, of latents with so many cells."""
    return max(1, min(GRID_BATCH, GRID_CELLS // cells))


class DiffusionTask:
    """Supervised fine-tuning of a family's parts, or of adapters inside them."""

    whole_batch = False

    def __init__(
        self,
        family: Family,
        parts: Mapping[str, nn.Module],
        prompter: Prompter,
        latent_of: LatentOf,
        objective: SFT,
        *,
        seed: int,
        held_out: Sequence[str] = (),
        stable: Sequence[str] = (),
        masks: LossMasks | None = None,
        noise: tuple[DiscreteSchedule, Sequence[int]] | None = None,
        timesteps: TimestepChoice | None = None,
        group: Group | None = None,
    ) -> None:
        """A task.

        Args:
            family: the model, of which `parts` are trained.
            parts: what is trained.
            prompter: makes the texts.
            latent_of: reads the latents.
            objective: what a step minimises.
            seed: every draw depends on it.
            held_out: ids of the pictures of the `validation` grid.
            stable: ids of the pictures of the `stable` grid.
            masks: what counts in the loss; None for all of every picture.
            noise: the schedule of a preset and the timesteps that belong to it, lowest first; None
                for the model's own and all of them. The grids are on these.
            timesteps: how timesteps are drawn; None for each of them equally often.
            group: the processes that share a validation; by default one.
        """
        self._group = group
        self.family, self.parts, self.prompter = family, parts, prompter
        self.latent_of, self.objective, self.masks = latent_of, objective, masks
        self.seed, self.grids = seed, {"validation": tuple(held_out), "stable": tuple(stable)}
        own = family.schedule()
        schedule, self.times = noise or (own, range(len(own)))
        # Draws are made on the CPU, where they are the same on every machine.
        self._device = family.device
        self.schedule = schedule.to(self._device)
        self.timesteps = timesteps or TimestepChoice(self.times)
        self._text_is_trained = any(name.startswith("text_encoder") for name in parts)
        self._text_states: dict[tuple[str, int], TextStates] = {}

    def modules(self) -> Mapping[str, nn.Module]:
        """The trained parts."""
        return self.parts

    def padded(self, visits: Sequence[Visit]) -> tuple[Visit, ...]:
        """The visits of a whole step, with the windows that all their texts are padded to."""
        return padded(visits, self.prompter.text, self.family.windows)

    def terms(self, visits: Sequence[Visit]) -> Terms:
        """The objective's per-sample losses of these visits.

        All have the windows of the longest text of their step, which `padded` writes into them; of
        the longest text of the run where it did not.
        """
        draws = [(v.sample_id, v.visit) for v in visits]
        latents, sizes = zip(*(self.latent_of(*draw) for draw in draws), strict=True)
        x0 = torch.stack(latents).to(self._device)
        texts = [self.prompter.text(visit) for visit in visits]
        windows = max(visit.windows for visit in visits) or self._windows
        noise = batch_noise([Draw(self.seed, "noise", i, n) for i, n in draws], x0.shape[1:])
        noise = noise.to(self._device)
        t = self.timesteps([Draw(self.seed, "timestep", i, n) for i, n in draws]).to(self._device)
        cond = self._conditioning(texts, sizes, windows)
        weight = batch_weight(self.masks, [v.sample_id for v in visits], x0, sizes)
        batch = SingleBatch(
            x0=x0,
            noise=noise,
            t=t,
            cond=cond,
            offset=self._normals(self.objective.noise_offset, "offset", draws, x0.shape[1:2]),
            perturbation=self._normals(
                self.objective.input_perturbation, "perturbation", draws, x0.shape[1:]
            ),
            weight=weight,
        )
        return self.objective(self.family.denoise, {}, batch, self.schedule)

    def _normals(
        self, size: float, purpose: str, draws: Sequence[tuple[str, int]], shape: Sequence[int]
    ) -> Tensor | None:
        """Normal numbers of every visit, for a purpose of their own; None where the size is 0."""
        if not size:
            return None
        normals = batch_noise([Draw(self.seed, purpose, i, n) for i, n in draws], shape)
        return normals.to(self._device)

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Plain MSE on both fixed grids of (picture, timestep, noise): mean, and per timestep."""
        figures: dict[str, float] = {}
        count = min(GRID_TIMESTEPS, len(self.times))
        times = [self.times[n] for n in even_timesteps(count, len(self.times))]
        for name, ids in self.grids.items():
            if ids:
                points = fixed_grid(ids, times, self.seed, f"{name} noise")
                found = validate(self._errors, points, GRID_BATCH, self._bucket, self._group)
                figures |= found.figures(name)
        return figures

    def _errors(self, points: Sequence[GridPoint]) -> Tensor:
        """Plain errors [B] of some points of a grid and one bucket, a few at a time."""
        cells = self.latent_of(points[0].sample_id, FIXED)[0][0].numel()
        most = grid_part(cells)
        parts = [points[start : start + most] for start in range(0, len(points), most)]
        return torch.cat([self._errors_of(part) for part in parts])

    def _errors_of(self, points: Sequence[GridPoint]) -> Tensor:
        """Plain errors [B] of points of a grid, with each picture's first caption."""
        latents, sizes = zip(*(self.latent_of(p.sample_id, FIXED) for p in points), strict=True)
        x0 = torch.stack(latents).to(self._device)
        noise = batch_noise([point.draw for point in points], x0.shape[1:]).to(self._device)
        t = torch.tensor([point.timestep for point in points], device=self._device)
        texts = [self.prompter.plain(p.sample_id) for p in points]
        cond = self._conditioning(texts, sizes, self._grid_windows)
        prediction = self.family.denoise(self.schedule.add_noise(x0, noise, t), t, cond)
        return per_image_mse(prediction, self.schedule.target(x0, noise, t))

    def _bucket(self, sample_id: str) -> Size:
        return self.latent_of(sample_id, FIXED)[1].target

    @cached_property
    def _windows(self) -> int:
        """The same number for every batch, so that no text's states depend on its neighbours."""
        return self.family.windows(self.prompter.longest())

    @cached_property
    def _grid_windows(self) -> int:
        return self.family.windows(
            [self.prompter.plain(i) for ids in self.grids.values() for i in ids]
        )

    def _conditioning(
        self, texts: Sequence[str], sizes: Sequence[ImageSizes], windows: int
    ) -> Conditioning:
        if self._text_is_trained:
            return self.family.conditioning(self.family.encode_text(texts, windows), sizes)
        return self.family.conditioning(self._frozen_states(texts, windows), sizes)

    @torch.no_grad()
    def _frozen_states(self, texts: Sequence[str], windows: int) -> TextStates:
        """Text states of frozen encoders, kept where the same texts come again.

        Never under autocast, else a text would have other states when validation asked for it
        first, and a resumed run other ones than a run in one piece. Tags give new texts for ever:
        those are not kept, because the states of a long one are larger than a latent.
        """
        with torch.autocast(self.family.device.type, enabled=False):
            if not self.prompter.few_texts:
                return self.family.encode_text(texts, windows)
            for text in dict.fromkeys(texts):
                if (text, windows) not in self._text_states:
                    self._text_states[text, windows] = self.family.encode_text([text], windows)
        return TextStates.join([self._text_states[text, windows] for text in texts])
