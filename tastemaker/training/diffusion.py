"""Training a diffusion model of any family on cached latents.

Axes: B pictures, C latent channels, H and W latent rows and columns, L tokens, D context width.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from tastemaker.curation.prompts import CaptionChoice, choose_caption
from tastemaker.diffusion.errors import per_image_mse
from tastemaker.diffusion.noise import batch_noise
from tastemaker.diffusion.timesteps import timesteps
from tastemaker.models.family import Conditioning, Family, TextStates
from tastemaker.objectives.protocol import SingleBatch, Terms
from tastemaker.objectives.sft import SFT
from tastemaker.records.draws import Draw
from tastemaker.records.image import ImageRecord
from tastemaker.records.run import Visit
from tastemaker.records.size import ImageSizes, Size
from tastemaker.training.validate import GridPoint, even_timesteps, fixed_grid, validate

GRID_TIMESTEPS = 10
"""Timesteps of the fixed grids, evenly spaced (ours)."""

GRID_BATCH = 64
"""Points of a grid per forward pass (ours)."""

LatentOf = Callable[[str, int], tuple[Tensor, ImageSizes]]
"""(sample id, visit) -> latent [C, H, W], already scaled, and the sizes that belong to it."""


class DiffusionTask:
    """Supervised fine-tuning of a family's parts, or of adapters inside them."""

    whole_batch = False

    def __init__(
        self,
        family: Family,
        parts: Mapping[str, nn.Module],
        records: Mapping[str, ImageRecord],
        latent_of: LatentOf,
        objective: SFT,
        captions: CaptionChoice,
        *,
        seed: int,
        held_out: Sequence[str] = (),
        stable: Sequence[str] = (),
    ) -> None:
        """Args: parts: what is trained; held_out, stable: ids of the two fixed validation grids."""
        self.family, self.parts, self.records = family, parts, records
        self.latent_of, self.objective, self.captions = latent_of, objective, captions
        self.seed, self.grids = seed, {"validation": tuple(held_out), "stable": tuple(stable)}
        self.schedule = family.schedule()
        captions_of_all = [text for record in records.values() for text in record.captions]
        # The same number for every batch, so that a text's states do not depend on its neighbours.
        self._windows = family.windows(captions_of_all)
        self._text_is_trained = any(name.startswith("text_encoder") for name in parts)
        self._text_states: dict[str, TextStates] = {}

    def modules(self) -> Mapping[str, nn.Module]:
        """The trained parts."""
        return self.parts

    def terms(self, visits: Sequence[Visit]) -> Terms:
        """The objective's per-sample losses of these visits."""
        draws = [(v.sample_id, v.visit) for v in visits]
        latents, sizes = zip(*(self.latent_of(*draw) for draw in draws), strict=True)
        x0 = torch.stack(latents)
        texts = [
            choose_caption(self.records[i], self.captions, Draw(self.seed, "prompt", i, n))
            for i, n in draws
        ]
        noise = batch_noise([Draw(self.seed, "noise", i, n) for i, n in draws], x0.shape[1:])
        t = timesteps(
            [Draw(self.seed, "timestep", i, n) for i, n in draws], 0, len(self.schedule) - 1
        )
        batch = SingleBatch(x0=x0, noise=noise, t=t, cond=self._conditioning(texts, sizes))
        return self.objective(self.family.denoise, {}, batch, self.schedule)

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Plain MSE on both fixed grids of (picture, timestep, noise): mean, and per timestep."""
        figures: dict[str, float] = {}
        times = even_timesteps(GRID_TIMESTEPS, len(self.schedule))
        for name, ids in self.grids.items():
            if ids:
                points = fixed_grid(ids, times, self.seed, f"{name} noise")
                found = validate(self._errors, points, GRID_BATCH, self._bucket)
                figures |= found.figures(name)
        return figures

    def _errors(self, points: Sequence[GridPoint]) -> Tensor:
        """Plain errors [B] of some points of a grid, with each picture's first caption."""
        latents, sizes = zip(*(self.latent_of(p.sample_id, 0) for p in points), strict=True)
        x0 = torch.stack(latents)
        noise = batch_noise([point.draw for point in points], x0.shape[1:])
        t = torch.tensor([point.timestep for point in points])
        texts = [(*self.records[p.sample_id].captions, "")[0] for p in points]
        cond = self._conditioning(texts, sizes)
        prediction = self.family.denoise(self.schedule.add_noise(x0, noise, t), t, cond)
        return per_image_mse(prediction, self.schedule.target(x0, noise, t))

    def _bucket(self, sample_id: str) -> Size:
        return self.latent_of(sample_id, 0)[1].target

    def _conditioning(self, texts: Sequence[str], sizes: Sequence[ImageSizes]) -> Conditioning:
        if self._text_is_trained:
            states = self.family.encode_text(texts, self._windows)
            return self.family.conditioning(states, sizes)
        return self.family.conditioning(self._remembered(texts), sizes)

    @torch.no_grad()
    def _remembered(self, texts: Sequence[str]) -> TextStates:
        """Text states of frozen encoders: each distinct text is encoded once.

        Never under autocast, else a text would have other states when validation asked for it
        first, and a resumed run other ones than a run in one piece.
        """
        with torch.autocast(self.family.device.type, enabled=False):
            for text in dict.fromkeys(texts):
                if text not in self._text_states:
                    self._text_states[text] = self.family.encode_text([text], self._windows)
        states = [self._text_states[text] for text in texts]
        return TextStates.join(states)
