"""Other weights behind a family's `denoise`, without a second family: what references are made of.

A twin shares text encoders, autoencoder and schedule with its family; its denoiser is another
network, or the same network with some tensors put in for the length of a pass.
"""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from tastemaker.errors import InputError

if TYPE_CHECKING:
    from tastemaker.models.family import Family

_NORMS = (
    nn.LayerNorm, nn.GroupNorm, nn.RMSNorm,
    nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d,
)  # fmt: skip
_PRODUCTS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)

Rounding = Literal["none", "products", "weights"]
"""What of a frozen copy is kept in bf16: nothing; the weights of linear layers and convolutions,
which bf16 autocast rounds in any case; or all weights but those of norms and single numbers, as in
training with `bf16-weights`."""

Denoiser = TypeVar("Denoiser", bound=nn.Module)


def with_denoiser(family: "Family", network: Any) -> "Family":
    """The same family with another denoiser; the given family is left as it is."""
    twin = copy.copy(family)
    setattr(twin, family.denoiser, network)
    return twin


def frozen_copy(network: Denoiser, rounding: Rounding = "none") -> Denoiser:
    """A copy that learns nothing, in evaluation mode.

    Args:
        network: left as it is.
        rounding: see `Rounding`.
    """
    made = copy.deepcopy(network).eval().requires_grad_(False)
    for child in made.modules():
        if rounding == "none" or isinstance(child, _NORMS):
            continue
        if rounding == "products" and not isinstance(child, _PRODUCTS):
            continue
        for parameter in child.parameters(recurse=False):
            if parameter.is_floating_point() and parameter.ndim:
                parameter.data = parameter.data.to(torch.bfloat16)
    return made


class Substituted:
    """A network called with other tensors in the place of some of its parameters.

    The network itself is not changed: its own tensors are back when the call is over. Each tensor
    is cast to the precision of the parameter that it stands for.
    """

    def __init__(self, network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
        """Use `tensors` (name in the network -> values); they may change between calls."""
        self._network, self._tensors = network, tensors
        self._own = dict(network.named_parameters())
        if unknown := sorted(set(tensors) - set(self._own)):
            raise ValueError(f"the network has no parameter {unknown[0]!r}")

    @property
    def dtype(self) -> torch.dtype:
        """What the network calls its precision."""
        return getattr(self._network, "dtype", next(self._network.parameters()).dtype)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The network's answer with the other tensors."""
        tensors = {name: t.to(self._own[name].dtype) for name, t in self._tensors.items()}
        return torch.func.functional_call(self._network, tensors, args, kwargs)


@contextmanager
def adapters_off(network: nn.Module) -> Iterator[None]:
    """Inside, the network answers as if it had no adapters, bit for bit.

    Unlike PEFT's own switch it leaves alone which parameters learn.

    Raises:
        InputError: the network has no adapters, or they are merged into its weights.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [m for m in network.modules() if isinstance(m, BaseTunerLayer)]
    if not layers or any(layer.merged for layer in layers):
        got = "merged adapters" if layers else "no adapters"
        raise InputError(
            "reference", got, "adapters that can be turned off", "Use a frozen copy as reference."
        )
    before = [layer._disable_adapters for layer in layers]  # noqa: SLF001
    try:
        for layer in layers:
            layer._disable_adapters = True  # noqa: SLF001
        yield
    finally:
        for layer, was in zip(layers, before, strict=True):
            layer._disable_adapters = was  # noqa: SLF001


class Visiting:
    """Parameters that live in main memory and come to a device for the length of a pass.

    Nothing is copied back: the device's copies are dropped. Buffers are small and stay there.
    """

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        """Take the parameters to main memory, page-locked where `device` is CUDA."""
        self._network, self._device = network, device
        self._home: dict[nn.Parameter, Tensor] = {}
        for parameter in network.parameters():
            home = parameter.data.to("cpu")
            if device.type == "cuda":
                home = home.pin_memory()
            parameter.data = self._home[parameter] = home
        for child in network.modules():
            for name, buffer in child.named_buffers(recurse=False):
                child._buffers[name] = buffer.to(device)  # noqa: SLF001

    @contextmanager
    def all_here(self) -> Iterator[None]:
        """Inside, every parameter is on the device."""
        self._fetch(self._network, recurse=True)
        try:
            yield
        finally:
            self._leave(self._network, recurse=True)

    @contextmanager
    def streamed(self) -> Iterator[None]:
        """Inside, each module's own parameters are on the device only while it is computed."""
        hooks = []
        owners = [
            m for m in self._network.modules() if any(True for _ in m.parameters(recurse=False))
        ]
        for module in owners:
            hooks.append(module.register_forward_pre_hook(lambda m, _args: self._fetch(m)))
            hooks.append(module.register_forward_hook(self._after, always_call=True))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
            self._leave(self._network, recurse=True)

    def _after(self, module: nn.Module, _args: Any, _output: Any) -> None:
        self._leave(module)

    def _fetch(self, module: nn.Module, *, recurse: bool = False) -> None:
        for parameter in module.parameters(recurse=recurse):
            parameter.data = self._home[parameter].to(self._device, non_blocking=True)

    def _leave(self, module: nn.Module, *, recurse: bool = False) -> None:
        for parameter in module.parameters(recurse=recurse):
            parameter.data = self._home[parameter]
