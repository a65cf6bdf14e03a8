"""The fixed grid of some pairs, on which a preference run is compared with where it began.

Axes: P points of the grid.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from tastemaker.diffusion.noise import batch_noise
from tastemaker.objectives.dpo import native_errors, noised_pair
from tastemaker.objectives.protocol import PairBatch
from tastemaker.records.size import Size
from tastemaker.training.kept_latents import FIXED
from tastemaker.training.pair_validation import BothErrors, grid_errors, pair_figures
from tastemaker.training.validate import GridPoint, even_timesteps, fixed_grid

if TYPE_CHECKING:
    from tastemaker.training.preference import PairTask

GRID_TIMESTEPS = 10
"""Timesteps of the fixed grid, evenly spaced among those that may be drawn (ours)."""

GRID_PAIRS, GRID_CELLS = 32, 2**16
"""Most points of the grid per forward pass, and most latent cells of a side in them (ours)."""


def pair_grid_part(cells: int) -> int:
    """Points of the grid per forward pass, of latents with so many cells; each has two sides."""
    return max(1, min(GRID_PAIRS, GRID_CELLS // cells))


PROBE_PAIRS, PROBE_TIMESTEPS = 8, 4
"""How many pairs and timesteps tell how far a model has moved (ours)."""


class _Held(NamedTuple):
    bucket: Size
    label: float
    cells: int


class PairGrid:
    """Some pairs at some timesteps, with noise that never changes.

    Attributes:
        base: errors of the model that is compared with, once they are known.
    """

    def __init__(self, task: "PairTask", name: str, ids: Sequence[str]) -> None:
        """A grid of these pairs; `name` is what its figures' names begin with."""
        self.task, self.name, self.ids = task, name, tuple(ids)
        self.base: BothErrors | None = None

    @torch.no_grad()
    def figures(self) -> dict[str, float]:
        """See `pair_validation.pair_figures`.

        They compare with the reference where it is a model that stays, else with the model as the
        run began: against a reference that follows, no drift would show.
        """
        if not self.ids:
            return {}
        policy = self.errors(self.task.family.denoise)
        if self.base is None:
            reference = self.task.reference
            fixed = reference is not None and reference.stays
            self.base = self.errors(reference) if fixed else policy.clone()
        seen = [self._held[p.sample_id] for p in self.points]
        labels = torch.tensor([pair.label for pair in seen], dtype=torch.float64)
        t = torch.tensor([p.timestep for p in self.points])
        judged: dict[str, Tensor] = {}
        # Latents of another size have another unit in the conventions that sum.
        cells = torch.tensor([pair.cells for pair in seen])
        for count in cells.unique().tolist():
            chosen = cells == count
            values = self.task.objective.judged(
                policy[:, chosen], self.base[:, chosen], t[chosen], labels[chosen], count,
                self.task.plain_schedule,
            )  # fmt: skip
            for name, value in values.items():
                judged.setdefault(name, torch.empty_like(labels))[chosen] = value
        return pair_figures(self.points, policy, self.base, labels, judged, self.name)

    def errors(self, denoise: Any) -> BothErrors:
        """Errors of a model at every point."""
        return grid_errors(
            lambda points: self.errors_at(points, denoise), self.points, GRID_PAIRS, self.bucket,
            self.task.sharing,
        )  # fmt: skip

    def errors_at(self, points: Sequence[GridPoint], denoise: Any) -> Tensor:
        """Errors [2, b] of points of one bucket, a few at a time."""
        most = pair_grid_part(self.task.read(points[0].sample_id, FIXED).winner[0].numel())
        parts = [points[start : start + most] for start in range(0, len(points), most)]
        return torch.cat([self._errors_of(part, denoise) for part in parts], dim=1)

    def bucket(self, pair_id: str) -> Size:
        """Size of a pair's crops."""
        return self._held[pair_id].bucket

    @cached_property
    def points(self) -> tuple[GridPoint, ...]:
        """Pairs, timesteps and draws of noise."""
        among = self.task.timesteps.among
        places = even_timesteps(min(GRID_TIMESTEPS, len(among)), len(among))
        times = [among[place] for place in places]
        return fixed_grid(self.ids, times, self.task.seed, f"{self.name} noise")

    def _errors_of(self, points: Sequence[GridPoint], denoise: Any) -> Tensor:
        x_t, t, cond, target = self.noised(points)
        return native_errors(denoise(x_t, t, cond), target)

    def noised(self, points: Sequence[GridPoint]) -> tuple[Tensor, Tensor, Any, Tensor]:
        """What a model is given at points of one bucket, 2b rows, winners first; and the target."""
        task = self.task
        sides = [task.read(p.sample_id, FIXED) for p in points]
        device = task.family.device
        noise = batch_noise([p.draw for p in points], sides[0].winner.shape).to(device)
        texts = [task.prompter.plain(p.sample_id) for p in points]
        batch = PairBatch(
            winner=torch.stack([s.winner for s in sides]).to(device),
            loser=torch.stack([s.loser for s in sides]).to(device),
            noise=noise,
            t=torch.tensor([p.timestep for p in points], device=device),
            cond=task.conditioning(texts, sides, self._windows),
            label=torch.ones(len(points), device=device),
        )
        x_t, t, target = noised_pair(batch, task.schedule)
        return x_t, t, batch.cond, target

    @cached_property
    def _held(self) -> dict[str, _Held]:
        """What never changes of the pairs, read once."""
        found = {}
        for pair_id in self.ids:
            sides = self.task.read(pair_id, FIXED)
            found[pair_id] = _Held(sides.bucket, sides.label, sides.winner.numel())
        return found

    @cached_property
    def _windows(self) -> int:
        return self.task.family.windows([self.task.prompter.plain(i) for i in self.ids])


class PairProbe:
    """How far predictions have moved from where the run began, on a few prompts and their noise.

    Errors can stay the same while pictures change; this cannot.

    Attributes:
        base: predictions [N] of the model that is compared with, all in a row, once they are known.
    """

    def __init__(self, task: "PairTask", ids: Sequence[str]) -> None:
        """A probe with the first of these pairs; none of them, no figures."""
        self._grid = PairGrid(task, "probe", ids[:PROBE_PAIRS])
        self.base: Tensor | None = None

    @torch.no_grad()
    def figures(self) -> dict[str, float]:
        """`probe/moved`: mean over the points of |prediction - base| / |base|, in 2-norms."""
        task = self._grid.task
        if not self._grid.ids:
            return {}
        points = self._points
        policy = [self._predicted(point, task.family.denoise) for point in points]
        if self.base is None:
            reference = task.reference
            fixed = reference if reference is not None and reference.stays else None
            self.base = torch.cat([self._predicted(p, fixed) for p in points] if fixed else policy)
        base = self.base.split([len(each) for each in policy])
        moved = [(a - b).norm() / b.norm() for a, b in zip(policy, base, strict=True)]
        return {"probe/moved": float(torch.stack(moved).mean())}

    def _predicted(self, point: GridPoint, denoise: Any) -> Tensor:
        """Both sides' predictions at a point, fp32 [n] on the CPU."""
        x_t, t, cond, _ = self._grid.noised([point])
        return denoise(x_t, t, cond).float().flatten().cpu()

    @cached_property
    def _points(self) -> tuple[GridPoint, ...]:
        among = self._grid.task.timesteps.among
        places = even_timesteps(min(PROBE_TIMESTEPS, len(among)), len(among))
        times = [among[place] for place in places]
        return fixed_grid(self._grid.ids, times, self._grid.task.seed, "probe noise")
