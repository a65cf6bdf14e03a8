"""What `tastemaker check` tells of a fit on pairs: memory with its reference, figures seldom meant.

Published runs of Diffusion-DPO have beta 2000 to 5000 and, at 2048 pairs a step, a learning rate of
2.05e-5 in the authors' code (1e-8 times the pairs); their paper says 2.05e-8 at beta 2000.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tastemaker.records.finding import Finding, Forecast
from tastemaker.records.run import Artefact
from tastemaker.records.size import Size
from tastemaker.training.fit_outlook import Material, outlook
from tastemaker.training.memory_estimate import Reference
from tastemaker.training.pair_objective import DpoObjective, EmaModel, ErrorTable, FrozenModel
from tastemaker.training.sanity import Data

FEW_PAIRS = 500
"""Fewer trained pairs teach their own pictures more than a taste (ours)."""

FEW_HELD_OUT = 20
"""With fewer held-out pairs the accuracy moves in steps of 5 % and more (ours)."""

BETAS = (100.0, 20_000.0)
"""Lowest and highest beta of `salesforce` convention in the wild; published are 2000 to 5000."""

_UNITS = {"salesforce": 1.0, "spin": 1.0, "diffusers_sd": 2.0}
"""Convention -> how many times as much a beta means there."""

MOST_PAIR_RATE = {"full": 2.05e-5, "lora": 2e-4}
"""Method -> highest learning rate that is not worth a word; the DPO authors' code, and ours."""


def pair_outlook(
    config: Any, inputs: Mapping[str, Artefact], coming: Mapping[str, Any]
) -> Forecast:
    """Look at everything that is known of a fit on pairs before it begins.

    Args:
        config: the fit's: `TrainingSettings` with `model`, `method`, `objective`, `stable_pairs`.
        inputs: what is there.
        coming: configurations of the steps that make the rest.
    """
    from tastemaker.training.pair_grid import GRID_TIMESTEPS, pair_grid_part

    data, sizes, texts = _pairs(inputs, coming)
    stable = min(config.stable_pairs, data.trained if data else config.stable_pairs)
    held_out = data.held_out if data else 0
    material = Material(
        data,
        sizes,
        texts=texts,
        long_texts=False,
        points=GRID_TIMESTEPS * max(stable, held_out),
        part=pair_grid_part,
        rows=2,
        reference=reference_kind(config),
        half=getattr(getattr(config.objective, "reference", None), "half", False),
    )
    found = outlook(config, inputs, material)
    return replace(found, findings=(*found.findings, *pair_findings(config, data)))


def reference_kind(config: Any) -> Reference:
    """What the reference of a configuration keeps in memory while it trains."""
    objective = config.objective
    if not isinstance(objective, DpoObjective) or isinstance(objective.reference, ErrorTable):
        return "none"
    if isinstance(objective.reference, EmaModel):
        return "ema"
    away = objective.reference.offload
    copied = objective.reference.how == "copy" or config.reference is not None
    if copied or (config.method.kind == "full" and away != "none"):
        return "copy" if away == "none" else away
    return "auto"


def pair_findings(config: Any, data: Data | None) -> Iterator[Finding]:
    """What is most likely not meant; none of it stops a run."""
    if data is not None:
        yield from _too_few(data)
    if isinstance(config.objective, DpoObjective):
        yield from _strengths(config, config.objective)
        yield from _references(config, config.objective, data)


def _too_few(data: Data) -> Iterator[Finding]:
    if data.trained < FEW_PAIRS:
        yield _warn(
            "pairs",
            f"{data.trained} pairs to train on",
            f"Make more, {FEW_PAIRS} at least; few pairs are learnt by heart.",
        )
    if data.held_out < FEW_HELD_OUT:
        told = "no held-out pairs, so that nobody sees it diverge" if not data.held_out else (
            f"{data.held_out} held-out pairs"
        )  # fmt: skip
        yield _warn("pairs", told, "Hold out more in the pairs step; the guard looks at these.")


def _strengths(config: Any, objective: DpoObjective) -> Iterator[Finding]:
    if objective.convention in _UNITS and objective.error_space == "native":
        beta = objective.beta * _UNITS[objective.convention]
        if not BETAS[0] <= beta <= BETAS[1]:
            yield _warn(
                "objective.beta",
                f"{objective.beta:g} in the convention {objective.convention}, where published "
                "runs have 2000 to 5000 of salesforce's",
                "Take 5000, or see objective.convention.",
            )
    lr, most = config.optimizer.lr, MOST_PAIR_RATE[config.method.kind]
    if lr > most:
        yield _warn(
            "optimizer.lr",
            f"{lr:g} on pairs: above {most:g} winners' errors mostly rise along with losers'",
            "Lower it, or set guard.action: stop.",
        )


def _references(config: Any, objective: DpoObjective, data: Data | None) -> Iterator[Finding]:
    reference = objective.reference
    if isinstance(reference, EmaModel) and objective.auto_beta is None:
        yield _warn(
            "objective.auto_beta",
            "none with a reference that follows: margins stay small, and the constant beta does "
            "not know",
            "Set objective.auto_beta: {}, or watch the logit.",
        )
    if isinstance(reference, ErrorTable) and data is not None:
        visits = config.images_total / max(1, data.trained)
        if visits <= reference.draws:
            yield _warn(
                "objective.reference.draws",
                f"{reference.draws} draws of each pair, of which {visits:.1f} are used",
                "Take fewer; a table pays where its draws are used again.",
            )
    if isinstance(reference, FrozenModel) and reference.offload == "cpu":
        yield _warn(
            "objective.reference.offload",
            "cpu: the reference is computed in main memory, often 50 times slower",
            "Take stream, step, or a table.",
        )


def _pairs(
    inputs: Mapping[str, Artefact], coming: Mapping[str, Any]
) -> tuple[Data | None, Mapping[Size, int] | None, int]:
    """Counts, pairs by bucket and number of prompts, as far as these are known yet."""
    from tastemaker.store.latent_sets import LatentSet
    from tastemaker.store.pair_sets import PairSet

    later = coming.get("cache")
    planned = None
    if later is not None and hasattr(later, "bucket_sizes"):
        planned = dict.fromkeys(later.bucket_sizes(), 0)
    if "pairs" not in inputs:
        return None, planned, 0
    pairs = list(PairSet(Path(inputs["pairs"].path)).pairs())
    counts: dict[Size, int] = {}
    if "cache" in inputs:
        sizes = LatentSet(Path(inputs["cache"].path)).buckets()
        pairs = [pair for pair in pairs if pair.id in sizes]
        for pair in pairs:
            if pair.split == "train":
                counts[sizes[pair.id]] = counts.get(sizes[pair.id], 0) + 1
    trained = sum(pair.split == "train" for pair in pairs)
    named = {str(size): n for size, n in counts.items()} or None
    data = Data(trained, len(pairs) - trained, named)
    return data, counts or planned, len({pair.prompt for pair in pairs})


def _warn(where: str, problem: str, todo: str) -> Finding:
    return Finding(where, problem, todo, fatal=False)
