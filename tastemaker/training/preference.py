"""Preference training of a diffusion model of any family on pairs of cached latents.

Axes: B pairs, C latent channels, H and W latent rows and columns. Batches for the network have 2B
rows, winners first.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tastemaker.diffusion.noise import batch_noise
from tastemaker.diffusion.pair_timesteps import EvenDraws, TimestepDraws, informative
from tastemaker.errors import CorruptFile, InputError, StaleCache
from tastemaker.models.conditioning import TextStates
from tastemaker.models.family import Conditioning, Family
from tastemaker.objectives.auto_beta import MarginAverage
from tastemaker.objectives.dpo import (
    ANCHOR,
    DPO,
    WinnerSFT,
    native_errors,
    noised_pair,
    refuse_silent,
)
from tastemaker.objectives.protocol import PairBatch, Terms
from tastemaker.records.draws import Draw
from tastemaker.records.run import Visit
from tastemaker.records.size import Size
from tastemaker.store.reference_tables import ReferenceTable
from tastemaker.training.latent_source import FIXED
from tastemaker.training.pair_checks import refuse_silent_choice, refuse_text
from tastemaker.training.pair_latents import PairLatents, PairReader
from tastemaker.training.pair_prompting import PairPrompter
from tastemaker.training.pair_validation import Sharing, grid_errors, pair_figures
from tastemaker.training.reference import Reference
from tastemaker.training.text_states import FrozenTexts
from tastemaker.training.validate import GridPoint, even_timesteps, fixed_grid

GRID_TIMESTEPS = 10
"""Timesteps of the fixed grid, evenly spaced among those that may be drawn (ours)."""

GRID_PAIRS, GRID_CELLS = 32, 2**16
"""Most points of the grid per forward pass, and most latent numbers of a side in them (ours)."""


class _Held(NamedTuple):
    bucket: Size
    label: float
    cells: int


class PairTask:
    """DPO and its relatives, and SFT on winners, on a family's denoiser or adapters inside it.

    Noise, timestep, dropped caption, crop and text windows are drawn by the pair's id: both sides
    share them. Text encoders stay frozen, because the reference must hear the same text.
    """

    whole_batch = False

    def __init__(
        self,
        family: Family,
        parts: Mapping[str, nn.Module],
        reader: PairReader,
        prompter: PairPrompter,
        objective: DPO | WinnerSFT,
        *,
        seed: int,
        reference: Reference | None = None,
        table: ReferenceTable | None = None,
        draws: int | None = None,
        held_out: Sequence[str] = (),
        timesteps: TimestepDraws | None = None,
        sharing: Sharing | None = None,
    ) -> None:
        """A task.

        Args:
            family: the model, of which `parts` are trained.
            parts: its denoiser alone.
            reader: reads the latents of pairs.
            prompter: makes their texts.
            objective: what a step minimises.
            seed: every draw depends on it.
            reference: what DPO compares with.
            table: errors that a reference gave before, in its place.
            draws: noise, timestep and text of visit n are those of visit n mod `draws`; a table
                has its own number. None draws anew for ever.
            held_out: ids of the pairs of the validation grid.
            timesteps: how timesteps are drawn; None for all that have a signal, equally often.
            sharing: the processes that train together; None for one.

        Raises:
            InputError: text encoders among the parts, a timestep without signal, or not exactly one
                of `reference` and `table` for DPO.
        """
        refuse_text(family, parts)
        self.family, self.parts = family, parts
        self.reader, self.prompter, self.objective = reader, prompter, objective
        self.seed, self.held_out = seed, tuple(held_out)
        self.reference, self.table = reference, table
        self._device, self._sharing = family.device, sharing
        self._plain_schedule = family.schedule()
        self.schedule = self._plain_schedule.to(self._device)
        self.timesteps = timesteps or EvenDraws(informative(self._plain_schedule))
        refuse_silent_choice(self.timesteps, self._plain_schedule.last_informative)
        if isinstance(objective, DPO) and (reference is None) == (table is None):
            got = "neither" if reference is None else "both"
            raise InputError(
                "reference", got, "a reference or a table of its errors", "Give one of the two."
            )
        self.draws = draws if table is None else table.draws
        self._texts = FrozenTexts(family, keep=prompter.few_texts)
        self._average = MarginAverage.empty(self._device)
        self._base: Tensor | None = None

    def modules(self) -> Mapping[str, nn.Module]:
        """The trained parts."""
        return self.parts

    def padded(self, visits: Sequence[Visit]) -> tuple[Visit, ...]:
        """The visits of a whole step, with the windows that all their texts are padded to.

        Draws that come again are always padded to the longest text of the run: the reference's
        errors of a draw must not depend on the neighbours that it had.
        """
        if self.draws is not None:
            return tuple(replace(visit, windows=self._windows) for visit in visits)
        return self.prompter.padded(visits, self.family.windows)

    def drawn(self, visit: Visit) -> Visit:
        """The visit whose draws this one has."""
        if self.draws is None:
            return visit
        return replace(visit, visit=visit.visit % self.draws)

    def drawn_timesteps(self, visits: Sequence[Visit]) -> Tensor:
        """The timesteps of these visits, int64 [B] on the CPU."""
        keys = [self.drawn(visit) for visit in visits]
        return self.timesteps([Draw(self.seed, "timestep", v.sample_id, v.visit) for v in keys])

    def terms(self, visits: Sequence[Visit]) -> Terms:
        """The objective's per-pair losses of these visits; `sample_id` is the pair's.

        All have the windows of the longest text of their step, which `padded` writes into them; of
        the longest text of the run where it did not.
        """
        batch = self.batch([self.drawn(visit) for visit in visits])
        references = {} if self.reference is None else {ANCHOR: self.reference}
        return self.objective(self.family.denoise, references, batch, self.schedule)

    def batch(self, visits: Sequence[Visit]) -> PairBatch:
        """Everything that the objective needs for these visits."""
        sides = [self._read(v.sample_id, v.visit) for v in visits]
        draws = [(v.sample_id, v.visit) for v in visits]
        shape = sides[0].winner.shape
        t = self.drawn_timesteps(visits)
        refuse_silent(t, self._plain_schedule)
        offset = None
        if self.objective.noise_offset:
            offset = self._normals("offset", draws, shape[:1])
        windows = max(visit.windows for visit in visits) or self._windows
        automatic = isinstance(self.objective, DPO) and self.objective.auto_beta is not None
        return PairBatch(
            winner=torch.stack([s.winner for s in sides]).to(self._device),
            loser=torch.stack([s.loser for s in sides]).to(self._device),
            noise=self._normals("noise", draws, shape),
            t=t.to(self._device),
            cond=self._conditioning([self.prompter.text(v) for v in visits], sides, windows),
            label=torch.tensor([s.label for s in sides], device=self._device),
            offset=offset,
            reference_errors=self._looked_up(visits, t),
            beta=self.beta() if automatic else None,
        )

    def reference_errors(self, visits: Sequence[Visit]) -> Tensor:
        """Errors [2, B] of the reference on these visits, for a table; winners first."""
        assert self.reference is not None, "a table is made from a reference"
        batch = self.batch([self.drawn(visit) for visit in visits])
        x_t, t, target = noised_pair(batch, self.schedule, self.objective.noise_offset)
        with torch.no_grad():
            return native_errors(self.reference(x_t, t, batch.cond), target)

    def beta(self) -> Tensor:
        """Beta [] of the next step."""
        assert isinstance(self.objective, DPO)
        if self.objective.auto_beta is None:
            return torch.tensor(self.objective.beta, device=self._device)
        return self.objective.auto_beta.beta(self._average, self.objective.beta)

    def after_step(self, terms: Mapping[str, Tensor], *, moved: bool = True) -> None:
        """What follows an optimiser step: the reference and beta do.

        Args:
            terms: metrics of the step's pairs in this process, as `Step.terms` has them.
            moved: whether the step changed the weights; a skipped one changes nothing here either.
        """
        if not moved:
            return
        if self.reference is not None:
            self.reference.after_step()
        if isinstance(self.objective, DPO) and self.objective.auto_beta is not None:
            u = (terms["logit"] / terms["beta"]).abs().float()
            sums = torch.stack([u.sum(), torch.ones_like(u).sum()])
            # All processes have the same sums, and so the same beta, bit for bit.
            total, count = sums if self._sharing is None else self._sharing.sums(sums)
            self._average = self.objective.auto_beta.updated(self._average, total, count)

    def state(self) -> dict[str, Any]:
        """JSON values that a resumed run needs; reads the device."""
        state: dict[str, Any] = {"average": self._average.state()}
        if self.reference is not None:
            state["reference"] = self._fingerprint
        return state

    def tensors(self) -> dict[str, Tensor]:
        """Tensors that a resumed run needs; not copies."""
        found = {} if self._base is None else {"validation.base": self._base}
        if self.reference is not None:
            found |= {f"reference.{n}": t for n, t in self.reference.tensors().items()}
        return found

    def restore(self, state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Go on from what `state` and `tensors` gave.

        Raises:
            CorruptFile: it is of another reference; going on would train towards another model.
        """
        if state.get("reference") != (None if self.reference is None else self._fingerprint):
            raise CorruptFile(
                "checkpoint: it was trained against another reference than this run has. "
                "Go on with the base model that the run began with."
            )
        self._average = MarginAverage.restored(dict(state["average"]), self._device)
        if "validation.base" in tensors:
            self._base = tensors["validation.base"].to("cpu", torch.float64, copy=True)
        own = {} if self.reference is None else self.reference.tensors()
        with torch.no_grad():
            for name, tensor in own.items():
                if f"reference.{name}" not in tensors:
                    raise CorruptFile(f"checkpoint: it lacks the reference's {name}.")
                tensor.copy_(tensors[f"reference.{name}"])

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Figures of the held-out pairs; see `pair_validation.pair_figures`.

        They compare with the reference where it is a model that stays, else with the model as the
        run began: against a reference that follows, no drift would show.
        """
        if not self.held_out:
            return {}
        points = self._points
        policy = self._grid(self._policy_errors)
        if self._base is None:
            fixed = self.reference is not None and self.reference.stays
            self._base = self._grid(self._fixed_errors) if fixed else policy.clone()
        seen = [self._held[p.sample_id] for p in points]
        labels = torch.tensor([pair.label for pair in seen], dtype=torch.float64)
        t = torch.tensor([p.timestep for p in points])
        judged: dict[str, Tensor] = {}
        # Latents of another size have another unit in the conventions that sum.
        cells = torch.tensor([pair.cells for pair in seen])
        for count in cells.unique().tolist():
            chosen = cells == count
            values = self.objective.judged(
                policy[:, chosen], self._base[:, chosen], t[chosen], labels[chosen], count,
                self._plain_schedule,
            )  # fmt: skip
            for name, value in values.items():
                judged.setdefault(name, torch.empty_like(labels))[chosen] = value
        return pair_figures(points, policy, self._base, labels, judged)

    def _grid(self, errors_of: Any) -> Tensor:
        return grid_errors(errors_of, self._points, GRID_PAIRS, self._bucket, self._sharing)

    @cached_property
    def _points(self) -> tuple[GridPoint, ...]:
        among = self.timesteps.among
        places = even_timesteps(min(GRID_TIMESTEPS, len(among)), len(among))
        return fixed_grid(self.held_out, [among[place] for place in places], self.seed)

    def _policy_errors(self, points: Sequence[GridPoint]) -> Tensor:
        return self._errors(points, self.family.denoise)

    def _fixed_errors(self, points: Sequence[GridPoint]) -> Tensor:
        return self._errors(points, self.reference)

    def _errors(self, points: Sequence[GridPoint], denoise: Any) -> Tensor:
        """Errors [2, b] of points of one bucket, a few at a time."""
        cells = self._read(points[0].sample_id, FIXED).winner[0].numel()
        most = max(1, GRID_CELLS // cells)
        parts = [points[start : start + most] for start in range(0, len(points), most)]
        return torch.cat([self._errors_of(part, denoise) for part in parts], dim=1)

    def _errors_of(self, points: Sequence[GridPoint], denoise: Any) -> Tensor:
        sides = [self._read(p.sample_id, FIXED) for p in points]
        noise = batch_noise([p.draw for p in points], sides[0].winner.shape).to(self._device)
        texts = [self.prompter.plain(p.sample_id) for p in points]
        batch = PairBatch(
            winner=torch.stack([s.winner for s in sides]).to(self._device),
            loser=torch.stack([s.loser for s in sides]).to(self._device),
            noise=noise,
            t=torch.tensor([p.timestep for p in points], device=self._device),
            cond=self._conditioning(texts, sides, self._grid_windows),
            label=torch.ones(len(points), device=self._device),
        )
        x_t, t, target = noised_pair(batch, self.schedule)
        return native_errors(denoise(x_t, t, batch.cond), target)

    def _read(self, pair_id: str, visit: int) -> PairLatents:
        sides = self.reader.read(pair_id, visit)
        sides.check(pair_id)
        return sides

    def _bucket(self, pair_id: str) -> Size:
        return self._held[pair_id].bucket

    @cached_property
    def _held(self) -> dict[str, _Held]:
        """What never changes of the held-out pairs, read once."""
        found = {}
        for pair_id in self.held_out:
            sides = self._read(pair_id, FIXED)
            found[pair_id] = _Held(sides.bucket, sides.label, sides.winner.numel())
        return found

    def _normals(
        self, purpose: str, draws: Sequence[tuple[str, int]], shape: Sequence[int]
    ) -> Tensor:
        drawn = batch_noise([Draw(self.seed, purpose, i, n) for i, n in draws], shape)
        return drawn.to(self._device)

    def _conditioning(
        self, texts: Sequence[str], sides: Sequence[PairLatents], windows: int
    ) -> Conditioning:
        """Of 2B rows: the text of a pair twice, with the sizes of each side's own picture."""
        states = self._texts(texts, windows)
        sizes = [s.winner_sizes for s in sides] + [s.loser_sizes for s in sides]
        return self.family.conditioning(TextStates.join([states, states]), sizes)

    def _looked_up(self, visits: Sequence[Visit], t: Tensor) -> Tensor | None:
        if self.table is None:
            return None
        rows = [self.table.of(v.sample_id, v.visit) for v in visits]
        for row, drawn in zip(rows, t.tolist(), strict=True):
            if row.timestep != drawn:
                raise StaleCache(
                    self.table.path,
                    f"timestep {row.timestep} at draw {row.draw} of pair {row.pair}",
                    f"{drawn}, as this run draws it",
                    "Compute the table again with the seed and timesteps of this run.",
                )
        sides = [[row.winner_error for row in rows], [row.loser_error for row in rows]]
        return torch.tensor(sides, device=self._device)

    @cached_property
    def _fingerprint(self) -> str:
        assert self.reference is not None
        return self.reference.fingerprint()

    @cached_property
    def _windows(self) -> int:
        return self.family.windows(self.prompter.longest())

    @cached_property
    def _grid_windows(self) -> int:
        return self.family.windows([self.prompter.plain(i) for i in self.held_out])
