"""Stage: encode the pictures of a selection once, into latent shards."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from tastemaker.engine.progress import Progress
from tastemaker.records.config import Config as BaseConfig
from tastemaker.records.run import Artefact, Manifest
from tastemaker.records.size import Size
from tastemaker.store.latent_sets import write_latent_set
from tastemaker.store.pictures import SizedPicture, open_pictures
from tastemaker.store.rundir import StepDir

if TYPE_CHECKING:
    from tastemaker.models.family import Family
    from tastemaker.store.latents import LatentEntry

VERSION = 1
OUTPUTS = ("cache",)


class Config(BaseConfig):
    """Latents of every selected picture at one size; captions are not in the cache."""

    inputs: ClassVar[dict[str, str]] = {
        "collection": "collection",
        "selection": "selection",
        "model": "model",
    }
    collection: str
    """The pictures."""
    selection: str
    """Which of them."""
    model: str
    """The model whose autoencoder encodes them."""
    size_px: int = Field(default=64, gt=0)
    """Side of the square bucket."""
    dtype: Literal["bf16", "fp16", "fp32"] = "bf16"
    """How latents are stored (bf16: chosen by us, field figures in docs)."""
    codec: Literal["shuffle-zstd", "none"] = "shuffle-zstd"
    """How shards are packed."""
    batch: int = Field(default=32, gt=0)
    """Pictures per forward pass of the autoencoder."""
    shard_images: int = Field(default=256, gt=0)
    """Latents per shard; a killed run loses at most one."""


def run(config: Config, inputs: Mapping[str, Artefact], step: StepDir) -> Manifest:
    """Encode what the cache lacks, shard by shard, and write which latents the selection has.

    The shards lie beside the step's folders (`../latents`), addressed by content, and serve later
    runs.
    """
    from tastemaker.models.autoencoder import weights_hash
    from tastemaker.models.family import load_family
    from tastemaker.store.latents import LatentCache, LatentFormat, latent_key

    size = Size(config.size_px, config.size_px)
    family = load_family(str(inputs["model"].path))
    stored = LatentFormat(weights_hash(family.parts["vae"]), config.dtype, config.codec)
    cache = LatentCache(step.path.parent / "latents")
    pictures = open_pictures(Path(inputs["collection"].path), Path(inputs["selection"].path), size)
    keys = {picture_id: latent_key(picture_id, size, stored) for picture_id in pictures.ids}
    missing = set(cache.missing(keys.values()))
    wanted = [picture_id for picture_id, key in keys.items() if key in missing]
    with Progress(step, len(keys), "images", step.name, done=len(keys) - len(wanted)) as progress:
        for start in range(0, len(wanted), config.shard_images):
            entries: list[LatentEntry] = []
            shard = wanted[start : start + config.shard_images]
            for first in range(0, len(shard), config.batch):
                batch = {i: pictures.load(i) for i in shard[first : first + config.batch]}
                entries += _encode(family, batch, keys)
                progress.advance(len(batch))
            cache.write_shard(size, entries, stored)
    write_latent_set(step.path / "latents.json", "../latents", keys)
    counts = {"encoded": len(wanted), "already there": len(keys) - len(wanted)}
    return Manifest(stage="cache", key=step.key, outputs={"cache": "latents.json"}, counts=counts)


def _encode(
    family: "Family", pictures: Mapping[str, SizedPicture], keys: Mapping[str, str]
) -> list["LatentEntry"]:
    import torch

    from tastemaker.store.latents import LatentEntry

    pixels = torch.stack([torch.from_numpy(p.pixels).permute(2, 0, 1) for p in pictures.values()])
    with torch.no_grad():
        means, _ = family.encode_image(pixels.to(family.device))
    return [
        LatentEntry(picture_id, keys[picture_id], mean, picture.sizes)
        for (picture_id, picture), mean in zip(pictures.items(), means.cpu(), strict=True)
    ]
