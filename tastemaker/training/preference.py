"""Preference training of a diffusion model of any family on pairs of cached latents.

Axes: B pairs, C latent channels, H and W latent rows and columns. Batches for the network have 2B
rows, winners first.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from tastemaker.diffusion.noise import batch_noise
from tastemaker.diffusion.pair_timesteps import EvenDraws, TimestepDraws, informative
from tastemaker.diffusion.schedule import DiscreteSchedule
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
from tastemaker.store.reference_tables import ReferenceTable
from tastemaker.training.pair_checks import refuse_silent_choice, refuse_text
from tastemaker.training.pair_grid import PairGrid, PairProbe
from tastemaker.training.pair_latents import PairLatents, PairReader
from tastemaker.training.pair_prompting import PairPrompter
from tastemaker.training.pair_validation import Sharing
from tastemaker.training.prompting import padded
from tastemaker.training.reference import Reference
from tastemaker.training.text_states import FrozenTexts


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
        stable: Sequence[str] = (),
        schedule: DiscreteSchedule | None = None,
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
            held_out: ids of the pairs of the `validation` grid.
            stable: ids of the trained pairs of the `stable` grid.
            schedule: of a preset; None for the model's own.
            timesteps: how timesteps are drawn; None for all that have a signal, equally often.
            sharing: the processes that train together; None for one.

        Raises:
            InputError: text encoders among the parts, a timestep without signal, or not exactly one
                of `reference` and `table` for DPO.
        """
        refuse_text(family, parts)
        self.family, self.parts = family, parts
        self.reader, self.prompter, self.objective = reader, prompter, objective
        self.seed = seed
        self.reference, self.table = reference, table
        self._device, self.sharing = family.device, sharing
        self.plain_schedule = schedule or family.schedule()
        self.schedule = self.plain_schedule.to(self._device)
        self.timesteps = timesteps or EvenDraws(informative(self.plain_schedule))
        refuse_silent_choice(self.timesteps, self.plain_schedule.last_informative)
        if isinstance(objective, DPO) and (reference is None) == (table is None):
            got = "neither" if reference is None else "both"
            raise InputError(
                "reference", got, "a reference or a table of its errors", "Give one of the two."
            )
        self.draws = draws if table is None else table.draws
        self._texts = FrozenTexts(family, keep=prompter.few_texts)
        self._average = MarginAverage.empty(self._device)
        grids = {"validation": held_out, "stable": stable}
        self.grids = {name: PairGrid(self, name, ids) for name, ids in grids.items() if ids}
        self.probe = PairProbe(self, held_out or stable)

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
        return padded(visits, self.prompter.text, self.family.windows)

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
        sides = [self.read(v.sample_id, v.visit) for v in visits]
        draws = [(v.sample_id, v.visit) for v in visits]
        shape = sides[0].winner.shape
        t = self.drawn_timesteps(visits)
        refuse_silent(t, self.plain_schedule)
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
            cond=self.conditioning([self.prompter.text(v) for v in visits], sides, windows),
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

    def prepare(self, trained: Mapping[str, Tensor]) -> None:
        """Told what the optimiser moves, by `part.name`, before a checkpoint is read."""
        if self.reference is not None:
            self.reference.prepare(trained)

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
            total, count = sums if self.sharing is None else self.sharing.sums(sums)
            self._average = self.objective.auto_beta.updated(self._average, total, count)

    def state(self) -> dict[str, Any]:
        """JSON values that a resumed run needs; reads the device."""
        state: dict[str, Any] = {"average": self._average.state()}
        if self.reference is not None:
            state["reference"] = self._fingerprint
        return state

    def tensors(self) -> dict[str, Tensor]:
        """Tensors that a resumed run needs; not copies."""
        bases = {f"{name}.base": grid.base for name, grid in self.grids.items()}
        bases["probe.base"] = self.probe.base
        found = {name: base for name, base in bases.items() if base is not None}
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
        for name, grid in self.grids.items():
            if f"{name}.base" in tensors:
                grid.base = tensors[f"{name}.base"].to("cpu", torch.float64, copy=True)
        if "probe.base" in tensors:
            self.probe.base = tensors["probe.base"].to("cpu", torch.float32, copy=True)
        own = {} if self.reference is None else self.reference.tensors()
        with torch.no_grad():
            for name, tensor in own.items():
                if f"reference.{name}" not in tensors:
                    raise CorruptFile(f"checkpoint: it lacks the reference's {name}.")
                tensor.copy_(tensors[f"reference.{name}"])

    def validate(self) -> dict[str, float]:
        """Figures of held-out pairs, of some trained ones, and of the probe; see `pair_grid`."""
        looked = [*self.grids.values(), self.probe]
        return {name: value for each in looked for name, value in each.figures().items()}

    def read(self, pair_id: str, visit: int) -> PairLatents:
        """Both sides of a visit, checked.

        Raises:
            InputError: they are no pair.
        """
        sides = self.reader.read(pair_id, visit)
        sides.check(pair_id)
        return sides

    def _normals(
        self, purpose: str, draws: Sequence[tuple[str, int]], shape: Sequence[int]
    ) -> Tensor:
        drawn = batch_noise([Draw(self.seed, purpose, i, n) for i, n in draws], shape)
        return drawn.to(self._device)

    def conditioning(
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
