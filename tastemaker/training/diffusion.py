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
from tastemaker.records.size import ImageSizes

VALIDATION_TIMES = (0.05, 0.15, 0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85, 0.95)
"""Where the fixed grids look, as fractions of the schedule."""

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
        x0 = torch.stack(list(latents))
        texts = [
            choose_caption(self.records[i], self.captions, Draw(self.seed, "prompt", i, n))
            for i, n in draws
        ]
        noise = batch_noise([Draw(self.seed, "noise", i, n) for i, n in draws], tuple(x0.shape[1:]))
        t = timesteps([Draw(self.seed, "timestep", i, n) for i, n in draws], 0, len(self.schedule) - 1)
        batch = SingleBatch(x0=x0, noise=noise, t=t, cond=self._conditioning(texts, sizes))
        return self.objective(self.family.denoise, {}, batch, self.schedule)

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Plain MSE on both fixed grids of (picture, timestep, noise): the mean, and one per timestep."""
        figures: dict[str, float] = {}
        for grid, ids in self.grids.items():
            if ids:
                errors = [self._grid_errors(ids, fraction) for fraction in VALIDATION_TIMES]
                for fraction, error in zip(VALIDATION_TIMES, errors, strict=True):
                    figures[f"{grid}/mse_t{fraction:.2f}"] = float(error)
                figures[f"{grid}/mse"] = float(torch.stack(errors).mean())
        return figures

    def _grid_errors(self, ids: Sequence[str], fraction: float) -> Tensor:
        """Mean over pictures of the plain error at one timestep, in chunks of 64 pictures."""
        t_index = int(fraction * len(self.schedule))
        errors = []
        for start in range(0, len(ids), 64):
            chunk = ids[start : start + 64]
            latents, sizes = zip(*(self.latent_of(i, 0) for i in chunk), strict=True)
            x0 = torch.stack(list(latents))
            draws = [Draw(self.seed, f"validation-{t_index}", i) for i in chunk]
            noise = batch_noise(draws, tuple(x0.shape[1:]))
            t = torch.full((len(chunk),), t_index)
            cond = self._conditioning([(*self.records[i].captions, "")[0] for i in chunk], sizes)
            prediction = self.family.denoise(self.schedule.add_noise(x0, noise, t), t, cond)
            errors.append(per_image_mse(prediction, self.schedule.target(x0, noise, t)))
        return torch.cat(errors).mean()

    def _conditioning(self, texts: Sequence[str], sizes: Sequence[ImageSizes]) -> Conditioning:
        if self._text_is_trained:
            states = self.family.encode_text(texts, self._windows)
            return self.family.conditioning(states, sizes)
        return self.family.conditioning(self._remembered(texts), sizes)

    @torch.no_grad()
    def _remembered(self, texts: Sequence[str]) -> TextStates:
        """Text states of frozen encoders: each distinct text is encoded once."""
        for text in dict.fromkeys(texts):
            if text not in self._text_states:
                self._text_states[text] = self.family.encode_text([text], self._windows)
        states = [self._text_states[text] for text in texts]
        return TextStates(
            torch.cat([state.context for state in states]),
            torch.cat([state.pooled for state in states]),
        )
