"""The model that a preference objective compares with: a frozen copy, adapters off, an EMA.

Every reference is a `Denoise` over the trained family: called like the policy, on the same inputs,
without gradients. All of them give the start model's errors bit for bit in float32 on one device,
as long as the policy has not moved.
"""

from collections.abc import Mapping
from contextlib import nullcontext
from hashlib import blake2b
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from tastemaker.diffusion.ema import ema_update
from tastemaker.models.family import Conditioning, Family
from tastemaker.models.twins import (
    Rounding,
    Substituted,
    Visiting,
    adapters_off,
    frozen_copy,
    with_denoiser,
)
from tastemaker.objectives.protocol import ReferenceKind

Offload = Literal["none", "step", "stream", "cpu"]
"""Where a frozen copy is: on the device; in main memory and moved whole for a pass, or module by
module; or in main memory and computed there."""


class Reference(Protocol):
    """A reference as the task sees it; one that never changes has only to predict."""

    kind: ReferenceKind
    stays: bool
    """True where it never changes and answers without autocast too, as a validation wants it."""
    separate: bool
    """True where it has weights of its own, so that the policy's may be spread over processes."""

    def __call__(self, x_t: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        """The prediction [B, C, H, W], without gradients."""
        ...

    def prepare(self, trained: Mapping[str, Tensor]) -> None:
        """Told what the optimiser moves, by `part.name`, before a checkpoint is read."""

    def after_step(self) -> None:
        """Called once after every optimiser step that moved the weights."""

    def tensors(self) -> Mapping[str, Tensor]:
        """What a checkpoint must hold of it, to be written into on a resume: by default nothing."""
        return {}

    def fingerprint(self) -> str:
        """Hash of the weights that never change; a resumed run must find the same ones."""
        ...


class FrozenReference(Reference):
    """A copy of a denoiser that never changes.

    Make it before training starts and before any checkpoint is read: a reference taken from
    half-trained weights on a resume is a known defect of other trainers.
    """

    separate = True

    def __init__(
        self,
        family: Family,
        source: nn.Module | None = None,
        *,
        rounding: Rounding = "none",
        offload: Offload = "none",
        kind: ReferenceKind = "frozen",
    ) -> None:
        """Copy the weights.

        Args:
            family: the trained model, which conditions and calls the copy.
            source: the denoiser to copy; None for the family's own, as it is now. Another one is
                SPIN's last iterate, or a base model below the checkpoint that training starts from.
            rounding: of the copy. It must suit the policy's precision, or the start does not cost
                ln 2: `weights` for bf16-weights, `products` (or none) for bf16, none for others.
            offload: where it is kept and computed.
            kind: `frozen`, or `iterate` of self-play.
        """
        self.kind: ReferenceKind = kind
        self.stays = rounding == "none"
        device = family.device
        network = frozen_copy(family.parts[family.denoiser] if source is None else source, rounding)
        self._network, self._offload = network, offload
        self._visiting = None
        if offload in ("step", "stream"):
            self._visiting = Visiting(network, device)
        else:
            network.to("cpu" if offload == "cpu" else device)
        self._twin = with_denoiser(family, network)

    @torch.no_grad()
    def __call__(self, x_t: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        """The prediction, on the device of `x_t`."""
        if self._offload == "cpu":
            device = x_t.device
            with _autocast_on_cpu(device):
                return self._twin.denoise(x_t.cpu(), t.cpu(), cond.to("cpu")).to(device)
        if self._visiting is None:
            return self._twin.denoise(x_t, t, cond)
        here = self._visiting
        with here.streamed() if self._offload == "stream" else here.all_here():
            return self._twin.denoise(x_t, t, cond)

    def fingerprint(self) -> str:
        """Hash of the copy."""
        return hash_weights(self._network.named_parameters())


class AdaptersOff(Reference):
    """The policy's own network without its adapters: no second model in memory."""

    kind: ReferenceKind = "frozen"
    stays = True
    separate = False

    def __init__(self, family: Family) -> None:
        """Use the family's denoiser, whose adapters alone are trained.

        Raises:
            InputError: it has none.
            ValueError: other weights learn too, so that without adapters it is no fixed model.
        """
        self._family, self._network = family, family.parts[family.denoiser]
        with adapters_off(self._network):
            pass
        learning = [n for n, p in self._base() if p.requires_grad]
        if learning:
            raise ValueError(f"{learning[0]} learns beside the adapters: use a frozen copy")

    @torch.no_grad()
    def __call__(self, x_t: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        """The prediction of the base model."""
        with adapters_off(self._network):
            return self._family.denoise(x_t, t, cond)

    def fingerprint(self) -> str:
        """Hash of the base weights."""
        return hash_weights(self._base())

    def _base(self) -> list[tuple[str, nn.Parameter]]:
        named = self._network.named_parameters()
        return [(name, p) for name, p in named if ".lora_" not in name]


class StartAdapters(Reference):
    """The policy's own network with the adapters that training started from: SPIN's last iterate.

    Where training goes on with adapters, the network without them would be a model of rounds ago.
    """

    kind: ReferenceKind = "frozen"
    stays = True
    separate = False

    def __init__(self, family: Family) -> None:
        """Remember the adapters of the family's denoiser, which alone are trained."""
        network = family.parts[family.denoiser]
        own = {name: p for name, p in network.named_parameters() if p.requires_grad}
        self._start = {n: p.detach().to(torch.float32, copy=True) for n, p in own.items()}
        self._frozen = [(n, p) for n, p in network.named_parameters() if n not in own]
        self._twin = with_denoiser(family, Substituted(network, self._start))

    @torch.no_grad()
    def __call__(self, x_t: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        """The prediction with the first adapters."""
        return self._twin.denoise(x_t, t, cond)

    def fingerprint(self) -> str:
        """Hash of the base weights and the first adapters."""
        return hash_weights([*self._frozen, *self._start.items()])


class EmaReference(Reference):
    """The policy's moving average as its reference: self-reward ("SDXL is a slow learner", fig. 1).

    After each step ref <- d ref + (1 - d) policy, in float32: in bf16 a step of 1 - d is lost in
    rounding. d = 1 is plain DPO with a frozen reference, d = 0 keeps every margin at 0. No warm-up
    of the decay, which would change both. Only what is trained is averaged; of LoRA these are the
    adapters, so that the average is a second adapter over the same base weights.
    """

    kind: ReferenceKind = "ema"
    stays = False
    separate = False

    def __init__(
        self, family: Family, decay: float, sources: Mapping[str, Tensor] | None = None
    ) -> None:
        """Start at the present weights.

        Args:
            family: the trained model; its denoiser alone may learn.
            decay: d in [0, 1], per optimiser step.
            sources: `part.name` -> what the optimiser moves, in float32, where the network itself
                holds rounded copies (`Precision.trained`); None for the network's own.

        Raises:
            ValueError: nothing is trained, or a bad decay.
        """
        if not 0.0 <= decay <= 1.0:
            raise ValueError(f"decay of the reference must lie in [0, 1], got {decay}")
        self.decay = decay
        network = family.parts[family.denoiser]
        own = {name: p for name, p in network.named_parameters() if p.requires_grad}
        if not own:
            raise ValueError("an EMA reference needs weights that learn")
        prefix = f"{family.denoiser}."
        self._sources = {n: p if sources is None else sources[prefix + n] for n, p in own.items()}
        self._prefix = prefix
        self._average = {
            n: source.detach().to(torch.float32, copy=True) for n, source in self._sources.items()
        }
        self._frozen = [(n, p) for n, p in network.named_parameters() if n not in own]
        self._twin = with_denoiser(family, Substituted(network, self._average))

    @torch.no_grad()
    def __call__(self, x_t: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        """The prediction with the average."""
        return self._twin.denoise(x_t, t, cond)

    def prepare(self, trained: Mapping[str, Tensor]) -> None:
        """Follow these from now on: the float32 weights, where the network holds rounded ones."""
        self._sources = {name: trained[self._prefix + name] for name in self._average}

    def after_step(self) -> None:
        """Follow the policy by one step."""
        ema_update(list(self._average.values()), list(self._sources.values()), self.decay)

    def tensors(self) -> Mapping[str, Tensor]:
        """The average itself; a resume copies into it."""
        return self._average

    def fingerprint(self) -> str:
        """Hash of the weights that are not trained."""
        return hash_weights(self._frozen)


def hash_weights(named: Any) -> str:
    """Hash of (name, tensor) pairs, of their bits, sorted by name.

    A layer has the name that it had before adapters were put into it.
    """
    digest = blake2b(digest_size=16)
    plain = ((name.replace(".base_layer.", "."), tensor) for name, tensor in named)
    for name, tensor in sorted(plain, key=lambda pair: pair[0]):
        values = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {values.dtype} {tuple(values.shape)}\n".encode())
        digest.update(values.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _autocast_on_cpu(device: torch.device) -> Any:
    """Autocast on the CPU too, where it is on for the device."""
    if device.type == "cpu" or not torch.is_autocast_enabled(device.type):
        return nullcontext()
    return torch.autocast("cpu", torch.get_autocast_dtype(device.type))
