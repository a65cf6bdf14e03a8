"""Why latents must be encoded: new, of other settings, or damaged on the disk."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from tastemaker.engine.progress import Progress
from tastemaker.store.latent_index import WantedLatent
from tastemaker.store.rundir import StepDir

if TYPE_CHECKING:
    from tastemaker.store.latents import LatentCache

_TOLD = 20
"""Damaged latents that are told one by one (ours)."""


def why_needed(
    cache: "LatentCache",
    wanted: Sequence[WantedLatent],
    step: StepDir,
    copied: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Key -> why it must be made; damaged latents are taken out of the cache first.

    Args:
        cache: where they should be.
        wanted: what is to be encoded.
        step: for progress and events.
        copied: key -> reason of what is not encoded but copied from elsewhere, if it is not there.
    """
    copied = copied or {}
    lost = cache.drop_damaged_indexes()
    keys = [*(one.key for one in wanted), *copied]
    there = len(keys) - len(cache.missing(keys))
    damaged: dict[str, str] = {}
    if there:
        with Progress(step, there, "latents", f"{step.name}: checking") as progress:
            damaged = cache.damaged(keys, progress.advance)
    for what in list(damaged.values())[:_TOLD]:
        step.event("damaged latent", what=what)
    cache.forget(damaged)
    reasons = cache.why_missing(wanted)
    if lost:
        step.event("damaged index", shards=lost)
        unknown = "damaged index or new picture"
        reasons = {k: unknown if r == "new picture" else r for k, r in reasons.items()}
    reasons |= {key: copied[key] for key in cache.missing(list(copied))}
    return reasons | dict.fromkeys(damaged, "damaged latent")
