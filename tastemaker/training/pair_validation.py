"""Held-out pairs on a fixed grid of (pair, timestep, noise): what a preference run is watched by.

The training loss of DPO says little (it stays near ln 2 while the model gets better). These figures
compare the model with a fixed one on draws that never change: errors of winners and losers, the
margin, and how often it has the right sign.
Axes: P points of the grid.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from tastemaker.errors import Diverged
from tastemaker.objectives.pairs import accuracy
from tastemaker.training.validate import GridPoint

BothErrors = Float[Tensor, "2 P"]
"""Errors of winners in the first row, of losers in the second, float64 on the CPU."""


class Sharing(Protocol):
    """The processes that share a validation; a `Group` is one."""

    @property
    def rank(self) -> int:
        """Number of this process, from 0."""
        ...

    @property
    def world(self) -> int:
        """How many processes there are."""
        ...

    @property
    def lockstep(self) -> bool:
        """True when all must make the same passes."""
        ...

    def sums(self, values: Tensor) -> Tensor:
        """The sum of these values over all processes."""
        ...


def grid_errors(
    errors_of: Callable[[Sequence[GridPoint]], Tensor],
    points: Sequence[GridPoint],
    batch: int,
    bucket_of: Callable[[str], Hashable],
    sharing: Sharing | None = None,
) -> BothErrors:
    """Errors of both sides at every point, in the points' order, with one host sync.

    Args:
        errors_of: points of one bucket -> [2, b].
        points: of the grid; `sample_id` is the pair's.
        batch: most points in one call.
        bucket_of: pair id -> size.
        sharing: the processes that divide the calls; None for one.

    Raises:
        Diverged: an error is not finite; names the pairs.
    """
    alike: dict[Hashable, list[int]] = {}
    for number, point in enumerate(points):
        alike.setdefault(bucket_of(point.sample_id), []).append(number)
    calls = [some[i : i + batch] for some in alike.values() for i in range(0, len(some), batch)]
    parts: list[Tensor | None] = []
    with torch.no_grad():
        for number, some in enumerate(calls):
            if _own(sharing, number):
                parts.append(errors_of([points[n] for n in some]).detach().double())
            else:
                parts.append(None)
    device = next((p.device for p in parts if p is not None), torch.device("cpu"))
    # Adding nothing to another process's number leaves it as it is, bit for bit.
    every = torch.cat(
        [
            torch.zeros(2, len(some), dtype=torch.float64, device=device) if part is None else part
            for part, some in zip(parts, calls, strict=True)
        ],
        dim=1,
    )
    if sharing is not None and not sharing.lockstep:
        every = sharing.sums(every)
    found = torch.empty(2, len(points), dtype=torch.float64)
    found[:, [n for some in calls for n in some]] = every.cpu()
    bad = [
        p for p, good in zip(points, found.isfinite().all(dim=0).tolist(), strict=True) if not good
    ]
    if bad:
        names = ", ".join(f"{p.sample_id} at t={p.timestep}" for p in bad[:5])
        raise Diverged(f"validation: errors of {len(bad)} pairs are not finite ({names}).")
    return found


def pair_figures(
    points: Sequence[GridPoint],
    policy: BothErrors,
    base: BothErrors,
    labels: Float[Tensor, " P"],
    judged: Mapping[str, Float[Tensor, " P"]],
    prefix: str = "validation",
) -> dict[str, float]:
    """Named numbers for the log: means over the grid, and at each timestep.

    `loss`, `margin`, `logit` (where the objective has one), `winner_error`, `loser_error`,
    `accuracy` (ties, of people and of numbers, count half), and `winner_drift`, `loser_drift`: the
    mean error as a share above the base's. At each timestep, with `_t500` behind the name:
    `winner_error`, `loser_error`, `margin`, `accuracy`.

    Args:
        points: of the grid.
        policy: the model's errors.
        base: errors of the model that it is compared with.
        labels: 1, or 0.5 for a tie.
        judged: what the objective makes of these errors (`DPO.judged`).
        prefix: what the names begin with.
    """
    right = torch.where(
        labels == 0.5, torch.full_like(labels, 0.5), accuracy(policy_gain(policy, base))
    )
    values = {"winner_error": policy[0], "loser_error": policy[1], "accuracy": right}
    whole = {**judged, **values}
    figures = {f"{prefix}/{name}": float(each.mean()) for name, each in whole.items()}
    for row, side in enumerate(("winner", "loser")):
        drift = policy[row].mean() / base[row].mean() - 1.0
        figures[f"{prefix}/{side}_drift"] = float(drift)
    at: dict[int, list[int]] = {}
    for number, point in enumerate(points):
        at.setdefault(point.timestep, []).append(number)
    for t, numbers in sorted(at.items()):
        for name, each in {**values, "margin": judged["margin"]}.items():
            figures[f"{prefix}/{name}_t{t}"] = float(each[numbers].mean())
    return figures


def policy_gain(policy: BothErrors, base: BothErrors) -> Float[Tensor, " P"]:
    """The margin in the network's own space; of every space it has the sign."""
    gained = base - policy
    return gained[0] - gained[1]


def _own(sharing: Sharing | None, number: int) -> bool:
    return sharing is None or sharing.lockstep or number % sharing.world == sharing.rank
