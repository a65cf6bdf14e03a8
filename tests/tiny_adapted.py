"""Networks for tests of adapters: one of two layers, and PixArt's transformer without memory."""

from typing import Any

import torch
from torch import nn

from tastemaker.models.networks import TRANSFORMER_LORA_TARGETS


class OneNetwork:
    """What the adapter functions need of a family, around any network."""

    def __init__(self, network: nn.Module, denoiser: str) -> None:
        self.denoiser, self.parts = denoiser, {denoiser: network}
        self.lora_targets = TRANSFORMER_LORA_TARGETS
        self.trainable(())

    def trainable(self, parts: tuple[str, ...]) -> list[nn.Parameter]:
        for name, part in self.parts.items():
            part.requires_grad_(name in parts).train(name in parts)
        return [p for name in parts for p in self.parts[name].parameters()]


class TwoLayers(nn.Module):
    """A linear layer and a convolution of known weights."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.linear, self.conv, self.norm = nn.Linear(6, 5), nn.Conv2d(3, 4, 2), nn.LayerNorm(5)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator)


def pixart_512_without_memory() -> Any:
    """The transformer of PixArt-XL-2-512x512 in shapes only."""
    from diffusers.models.transformers.pixart_transformer_2d import PixArtTransformer2DModel

    with torch.device("meta"):
        network = PixArtTransformer2DModel(sample_size=64, caption_channels=4096)
    return OneNetwork(network, "transformer")
