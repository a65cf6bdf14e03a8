"""Pairs of made-up latents, and tasks on the tiny families."""

import copy
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch

from tastemaker.diffusion.noise import noise
from tastemaker.models.adapters import add_lora
from tastemaker.objectives.dpo import DPO
from tastemaker.records.draws import Draw
from tastemaker.records.run import Visit
from tastemaker.records.size import ImageSizes, Size
from tastemaker.training.pair_latents import PairLatents
from tastemaker.training.pair_prompting import PairPrompter
from tastemaker.training.preference import PairTask
from tastemaker.training.reference import AdaptersOff, EmaReference, FrozenReference
from tests.tiny_models import WORDS, tiny_family

PAIRS = tuple(f"p{n}" for n in range(8))
HELD_OUT = ("h0", "h1", "h2")
TIED = ("p3", "h2")
WIDE = ("p6", "p7")
VISITS = [Visit(pair, n) for n, pair in enumerate(PAIRS[:6])]
ARCHITECTURES = ("sd15", "sdxl", "pixart-512")


@cache
def _family(architecture: str) -> Any:
    """One model for all tests: a T5 tokenizer is not learnt the same way twice."""
    return tiny_family(architecture)


class MadePairs:
    """Latents drawn from the pair's id, one pair a tie, two of another size."""

    def __init__(self, swap: bool = False) -> None:
        self.swap, self.asked = swap, list[tuple[str, int]]()

    def read(self, pair_id: str, visit: int) -> PairLatents:
        self.asked.append((pair_id, visit))
        target = Size(16, 32) if pair_id in WIDE else Size(32, 32)
        shape = (4, target.h // 4, target.w // 4)
        sides = [noise(Draw(1, side, pair_id), shape) for side in ("winner", "loser")]
        sizes = [
            ImageSizes(Size(32, 32), 0, 0, target),
            ImageSizes(Size(64, 48), 8, 0, target),
        ]
        if self.swap:
            sides, sizes = sides[::-1], sizes[::-1]
        label = 0.5 if pair_id in TIED else 1.0
        return PairLatents(sides[0], sides[1], sizes[0], sizes[1], label)


def made_task(
    architecture: str = "sdxl",
    objective: Any = None,
    *,
    reference: str = "copy",
    lora: bool = False,
    empty: float = 0.3,
    swap: bool = False,
    decay: float = 0.5,
    held_out: Sequence[str] = HELD_OUT,
    **options: Any,
) -> PairTask:
    """A task; `reference` is copy, step, stream, cpu, off, ema or none."""
    family = copy.deepcopy(_family(architecture))
    network = family.parts[family.denoiser]
    if lora:
        add_lora(family, rank=2, alpha=2.0, seed=3)
    else:
        family.trainable((family.denoiser,))
    made: Any = None
    if reference == "off":
        made = AdaptersOff(family)
    elif reference == "ema":
        made = EmaReference(family, decay)
    elif reference != "none":
        made = FrozenReference(family, offload="none" if reference == "copy" else reference)  # type: ignore[arg-type]
    prompts = dict(zip((*PAIRS, *HELD_OUT), WORDS, strict=False))
    return PairTask(
        family,
        {family.denoiser: network},
        MadePairs(swap),
        PairPrompter(prompts, 0, empty),
        objective or DPO(beta=5.0),
        seed=0,
        reference=made,
        held_out=held_out,
        **options,
    )


def learned(task: PairTask) -> dict[str, torch.nn.Parameter]:
    """The parameters that learn."""
    (network,) = task.modules().values()
    return {name: p for name, p in network.named_parameters() if p.requires_grad}


@torch.no_grad()
def nudge(task: PairTask, size: float = 0.02, seed: int = 5) -> None:
    """Move the policy somewhere else, the same way every time."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in learned(task).values():
        parameter.add_(size * torch.randn(parameter.shape, generator=generator))
