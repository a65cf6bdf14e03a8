"""Encode pictures into a latent cache: threads decode and crop while the autoencoder works.

Axes: crops are uint8 `[H, W, 3]`, latents `[c, h, w]`.
"""

import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import groupby, islice
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

from tastemaker.errors import PictureError, TastemakerError
from tastemaker.records.size import Size
from tastemaker.store.images import reason_of
from tastemaker.store.pictures import SelectedPictures

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tastemaker.models.autoencoder import Autoencoder
    from tastemaker.store.latents import LatentCache, LatentEntry, LatentFormat, WantedLatent

VaePrecision = Literal["fp32", "bf16", "fp16", "fp16-weights"]
"""How an autoencoder computes; `fp16-weights`: weights rounded to fp16, computing in fp32."""

_AHEAD = 2
"""Batches whose pictures are decoded before they are needed."""

_FEW = 8
"""So many latents may be no numbers before it is the autoencoder that is blamed."""


OTHER = "other "
"""What stands before the precision in the name of an encoding by the second autoencoder."""


class LatentEncoder:
    """One or two autoencoders in one or several precisions, on the accelerator if there is one.

    Args:
        vae: the model's own.
        precisions: of it.
        other: a further one with latents of the same shape and scale.
        other_precisions: of that.

    Attributes:
        hashes: encoding -> hash of the autoencoder in it, which goes into the latents' keys; an
            encoding is a precision, with `OTHER` before it for the further autoencoder.
    """

    def __init__(
        self,
        vae: "nn.Module",
        precisions: Sequence[VaePrecision],
        other: "nn.Module | None" = None,
        other_precisions: Sequence[VaePrecision] = (),
    ) -> None:
        import torch

        from tastemaker.models.autoencoder import weights_hash

        device = "cuda" if torch.cuda.is_available() else "cpu"
        made: dict[str, nn.Module] = {p: _in_precision(vae, p) for p in dict.fromkeys(precisions)}
        if other is not None:
            made |= {OTHER + p: _in_precision(other, p) for p in dict.fromkeys(other_precisions)}
        self.hashes: dict[str, str] = {p: weights_hash(each) for p, each in made.items()}
        self._by_hash: dict[str, Any] = {
            self.hashes[p]: each.eval().to(device) for p, each in made.items()
        }

    def encode(
        self, crops: Sequence[np.ndarray], vae_hash: str
    ) -> tuple[Sequence["Tensor"], Sequence["Tensor"]]:
        """Means and log-variances `[c, h, w]` of crops of one size, on the CPU in fp32."""
        import torch

        from tastemaker.models.autoencoder import posterior

        vae = self._by_hash[vae_hash]
        device = next(vae.parameters()).device
        pixels = torch.from_numpy(np.stack(crops)).to(device).permute(0, 3, 1, 2)
        try:
            with torch.inference_mode():
                means, logvars = posterior(vae, pixels)
        except torch.OutOfMemoryError:
            if len(crops) == 1:
                raise
            half = len(crops) // 2
            parts = [self.encode(part, vae_hash) for part in (crops[:half], crops[half:])]
            return [m for part in parts for m in part[0]], [v for part in parts for v in part[1]]
        # Copies, so that a latent that is kept does not keep its whole batch.
        return [m.clone() for m in means.cpu()], [v.clone() for v in logvars.cpu()]


def open_encoder(
    vae: "nn.Module",
    precisions: Sequence[VaePrecision],
    other: str | None = None,
    other_precisions: Sequence[VaePrecision] = (),
) -> tuple[LatentEncoder, str]:
    """What encodes, and the hash of the second autoencoder, empty where there is none.

    Args:
        vae: the model's own autoencoder.
        precisions: of it.
        other: where a further one lies.
        other_precisions: of that.

    Raises:
        InputError: there is none, or its latents are of another shape or scale.
    """
    from tastemaker.models.autoencoder import weights_hash
    from tastemaker.models.second_autoencoder import load_second_autoencoder

    if other is None:
        return LatentEncoder(vae, precisions), ""
    further = load_second_autoencoder(other, cast("Autoencoder", vae))
    return LatentEncoder(vae, precisions, further, other_precisions), weights_hash(further)


@dataclass
class Encoded:
    """What became of the latents that were missing.

    Attributes:
        written: latents that are in the cache now.
        left_out: picture -> why it has no latent.
        shards: names of the shards that were written.
    """

    written: int = 0
    left_out: dict[str, str] = field(default_factory=dict)
    shards: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class EncodingSettings:
    """How the work is cut.

    Attributes:
        batch: pictures per forward pass.
        loaders: threads that decode pictures.
    """

    batch: int = 32
    loaders: int = 4


def encode_latents(
    encoder: LatentEncoder,
    pictures: SelectedPictures,
    shards: Iterable[Sequence["WantedLatent"]],
    cache: "LatentCache",
    settings: EncodingSettings,
    *,
    on_latents: Callable[[int], None] = lambda _: None,
    on_shard: Callable[[Sequence["WantedLatent"], Mapping[str, str]], None] = lambda *_: None,
) -> Encoded:
    """Encode latents and write them shard by shard; a killed run loses at most one shard.

    A picture that cannot be read, was changed since it was collected, or whose latent is not
    finite in its dtype is left out with the reason. Nothing is ever put in the place of a number
    that is none.

    Args:
        encoder: the autoencoder.
        pictures: where the pictures are.
        shards: what is missing in the cache, each of one bucket and one format (`in_shards`).
        cache: where it goes.
        settings: how the work is cut.
        on_latents: called with the number of latents that were dealt with.
        on_shard: called after each shard with what was wanted, and why pictures of it have none.

    Raises:
        TastemakerError: most latents are not finite: the autoencoder cannot work so.
        StorageError: the disk is full; what was written before is whole.
    """
    done = Encoded()
    refused = 0
    with warnings.catch_warnings():
        # The loader silences Pillow's warnings, but that is no matter of one thread alone.
        warnings.simplefilter("ignore")
        for shard in shards:
            entries, problems = _shard(encoder, pictures, shard, settings, on_latents)
            refused += sum(reason.startswith("latent") for reason in problems.values())
            done.left_out |= problems
            kept = [one for one in shard if one.key in entries]
            if kept:
                form = kept[0].format
                name = cache.write_shard(
                    kept[0].sizes.target, [entries[one.key] for one in kept], form
                )
                done.shards.append(name)
                done.written += len(kept)
            if refused >= _FEW and refused > done.written:
                raise _overflows(refused, done, shard[0].format)
            on_shard(shard, problems)
    return done


def _shard(
    encoder: LatentEncoder,
    pictures: SelectedPictures,
    shard: Sequence["WantedLatent"],
    settings: EncodingSettings,
    on_latents: Callable[[int], None],
) -> tuple[dict[str, "LatentEntry"], dict[str, str]]:
    """Entries by key, and why pictures have none."""
    entries: dict[str, LatentEntry] = {}
    problems: dict[str, str] = {}
    loaded = _loaded(pictures, shard, settings)
    while batch := list(islice(loaded, settings.batch)):
        good = []
        for one, crop in batch:
            if isinstance(crop, str):
                problems[one.id] = crop
            else:
                good.append((one, crop))
        if good:
            made, refused = _encoded(encoder, good)
            entries |= made
            problems |= refused
        on_latents(len(batch))
    # A picture without one of its crops has none: its variants would not be equally likely.
    kept = {key: entry for key, entry in entries.items() if entry.id not in problems}
    return kept, problems


def _encoded(
    encoder: LatentEncoder, batch: Sequence[tuple["WantedLatent", np.ndarray]]
) -> tuple[dict[str, "LatentEntry"], dict[str, str]]:
    from tastemaker.store.latent_formats import stored_value
    from tastemaker.store.latents import LatentEntry

    form = batch[0][0].format
    means, logvars = encoder.encode([crop for _, crop in batch], form.vae_hash)
    entries, problems = {}, {}
    for (one, _), mean, logvar in zip(batch, means, logvars, strict=True):
        parts = (mean, logvar) if one.logvar else (mean,)
        if any(stored_value(part, form.dtype) is None for part in parts):
            problems[one.id] = f"latent is not finite in {form.dtype}"
            continue
        entries[one.key] = LatentEntry(
            one.id,
            one.key,
            mean,
            one.sizes,
            logvar if one.logvar else None,
            source=one.source,
            loader=one.loader,
        )
    return entries, problems


def _loaded(
    pictures: SelectedPictures, shard: Sequence["WantedLatent"], settings: EncodingSettings
) -> Iterator[tuple["WantedLatent", np.ndarray | str]]:
    """Each wanted latent with its crop, or with the reason why there is none, in order."""
    tasks = [list(own) for _, own in groupby(shard, key=lambda one: one.id)]

    def load(own: Sequence["WantedLatent"]) -> Sequence[np.ndarray | str]:
        try:
            return pictures.crops(own[0].id, [one.sizes for one in own])
        except PictureError as error:
            return [reason_of(error)] * len(own)
        except ValueError as error:
            return [f"not the picture that was collected ({error})".split(" (")[0]] * len(own)

    with ThreadPoolExecutor(settings.loaders) as pool:
        waiting: deque[tuple[list[WantedLatent], Future[Sequence[np.ndarray | str]]]] = deque()
        try:
            for own in tasks:
                waiting.append((own, pool.submit(load, own)))
                if sum(len(each) for each, _ in waiting) > _AHEAD * settings.batch:
                    first, future = waiting.popleft()
                    yield from zip(first, future.result(), strict=True)
            while waiting:
                first, future = waiting.popleft()
                yield from zip(first, future.result(), strict=True)
        finally:
            for _, future in waiting:
                future.cancel()


def in_shards(wanted: Iterable["WantedLatent"], size: int) -> Iterator[Sequence["WantedLatent"]]:
    """Latents in shards of at most `size`, sorted by bucket, autoencoder and picture."""

    def order(one: "WantedLatent") -> tuple[Size, str, str]:
        return one.sizes.target, one.format.vae_hash, one.id

    for _, group in groupby(sorted(wanted, key=order), key=lambda one: order(one)[:2]):
        own = list(group)
        for start in range(0, len(own), size):
            yield own[start : start + size]


def _in_precision(vae: "nn.Module", precision: VaePrecision) -> "nn.Module":
    copy = deepcopy(vae)
    if precision == "bf16":
        return copy.bfloat16()
    if precision == "fp16":
        return copy.half()
    return copy.half().float() if precision == "fp16-weights" else copy.float()


def _overflows(refused: int, done: Encoded, form: "LatentFormat") -> TastemakerError:
    return TastemakerError(
        f"{refused} of {refused + done.written} latents are not finite in {form.dtype}, so it is "
        "not the pictures. SDXL's own autoencoder overflows in fp16: set precisions to fp32 or "
        "bf16, and dtype to bf16."
    )


def keys_of(
    plan: Mapping[str, Iterable["WantedLatent"]], left_out: Mapping[str, str]
) -> dict[str, list[str]]:
    """Picture -> keys of its variants, without the pictures that were left out."""
    return {i: [one.key for one in own] for i, own in plan.items() if i not in left_out}
