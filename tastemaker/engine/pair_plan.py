"""Which latents the pairs need: one bucket for both sides, the same crops, mirrored together.

A side is never squashed: it is scaled until it covers the pair's bucket and cropped there, and each
has the sizes of its own picture.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tastemaker.curation.buckets import NO_BUCKET, kept_area
from tastemaker.curation.pair_buckets import assign_pairs
from tastemaker.engine.latent_encoder import OTHER
from tastemaker.engine.latent_plan import TOO_SMALL, LatentSettings
from tastemaker.records.draws import Draw
from tastemaker.records.pair import Pair, PairPicture
from tastemaker.records.size import ImageSizes, Size
from tastemaker.store.latent_formats import LatentFormat
from tastemaker.store.latent_index import WantedLatent
from tastemaker.store.pictures import SelectedPictures
from tastemaker.store.resize import CENTRE, crop_sizes

MIRRORED = "~mirrored"
"""Behind the id of a picture that is encoded from right to left."""


class PairLatentSettings(LatentSettings):
    """How both pictures of a pair become latents."""

    seed: int = 0
    """Chooses random crops and precisions, for each pair by its own draw."""
    mirror: bool = False
    """Also mirror each crop: half of the visits then show both sides mirrored, never one alone."""
    reuse_generated: bool = True
    """Take the latents that a generation has kept, where the picture has its pair's bucket: no way
    through the autoencoder and back."""


@dataclass(frozen=True)
class KeptLatent:
    """A latent that a generation has left: its key, and the folder of the samples."""

    key: str
    folder: str


@dataclass
class PairPlan:
    """What is needed.

    Attributes:
        keys: pair -> keys of its latents: winner and loser of the first variant, of the second,
            and so on.
        wanted: key -> latent to be encoded.
        kept: key -> latent that is there already, beside generated pictures.
        left_out: pair -> why it has no latents.
        buckets: pair -> bucket.
        kept_area: pair -> shares of the winner's and the loser's area that the crop leaves.
    """

    keys: dict[str, list[str]] = field(default_factory=dict)
    wanted: dict[str, WantedLatent] = field(default_factory=dict)
    kept: dict[str, KeptLatent] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    buckets: dict[str, Size] = field(default_factory=dict)
    kept_area: dict[str, tuple[float, float]] = field(default_factory=dict)

    def lose(self, problems: Mapping[str, str]) -> None:
        """Leave out the pairs with a picture that has no latent.

        Args:
            problems: id of a picture (mirrored or not) -> reason.
        """
        lost = {key: problems[one.id] for key, one in self.wanted.items() if one.id in problems}
        for pair_id, keys in list(self.keys.items()):
            for place, key in enumerate(keys):
                if key in lost:
                    side = "loser" if place % 2 else "winner"
                    self.left_out[pair_id] = f"{side}: {lost[key]}"
                    del self.keys[pair_id]
                    break


class PairPictures(SelectedPictures):
    """The pictures of pairs; an id that ends in `MIRRORED` is the picture from right to left."""

    def pixels(self, picture_id: str) -> np.ndarray:
        """One picture, uint8 `[H, W, 3]`.

        Raises:
            PictureError: its file can no longer be read, or was changed since the pairs were made.
        """
        plain = picture_id.removesuffix(MIRRORED)
        pixels = super().pixels(plain)
        return pixels if plain == picture_id else pixels[:, ::-1].copy()


def pair_buckets(
    pairs: Sequence[Pair], pictures: Mapping[str, PairPicture], settings: LatentSettings
) -> list[Size | None]:
    """The common bucket of each pair; None where none is allowed."""
    sides = [
        np.array([pictures[getattr(pair, side)].size for pair in pairs], np.int64).reshape(-1, 2)
        for side in ("winner", "loser")
    ]
    buckets = settings.bucket_sizes()
    rule, most = "nearest", 1.0
    if settings.buckets is not None:
        rule, most = settings.buckets.assignment, settings.buckets.most_upscale
    chosen = assign_pairs(sides[0], sides[1], buckets, rule, most)
    return [None if n == NO_BUCKET else buckets[n] for n in chosen.tolist()]


def plan_pairs(
    pairs: Sequence[Pair],
    pictures: Mapping[str, PairPicture],
    settings: PairLatentSettings,
    vae_hashes: Mapping[str, str],
    usable: Mapping[str, str],
) -> PairPlan:
    """The latents of every pair.

    Where a crop lies, whether it is mirrored and which precision encodes it are drawn by the pair,
    so that both sides have the same.

    Args:
        pairs: the set.
        pictures: id -> picture, of both sides.
        settings: buckets, crops, formats.
        vae_hashes: encoding -> hash of the autoencoder in it; see `LatentEncoder`.
        usable: key of a kept latent -> folder of its samples, for those that are of this
            autoencoder.
    """
    encodings = [
        *settings.precisions,
        *(name for p in settings.other_precisions if (name := OTHER + p) in vae_hashes),
    ]
    formats = {e: LatentFormat(vae_hashes[e], settings.dtype, settings.codec) for e in encodings}
    plan = PairPlan()
    for pair, bucket in zip(pairs, pair_buckets(pairs, pictures, settings), strict=True):
        if bucket is None:
            plan.left_out[pair.id] = TOO_SMALL
            continue
        sides = (pictures[pair.winner], pictures[pair.loser])
        shares = kept_area(np.array([p.size for p in sides]), np.array([bucket, bucket]))
        plan.buckets[pair.id] = bucket
        plan.kept_area[pair.id] = (float(shares[0]), float(shares[1]))
        variants: dict[tuple[str, ...], None] = {}
        for number in range(settings.crops):
            form = formats[_encoding(encodings, settings.seed, pair.id, number)]
            at = _crop_at(settings, pair.id, number)
            for mirrored in (False, True) if settings.mirror else (False,):
                both = [_latent(plan, p, bucket, at, mirrored, form, settings, usable)
                        for p in sides]  # fmt: skip
                variants[tuple(both)] = None
        plan.keys[pair.id] = [key for both in variants for key in both]
    return plan


def open_pair_pictures(pictures: Iterable[PairPicture]) -> PairPictures:
    """The pictures of pairs, opened one by one."""
    own = {one.id: one for one in pictures}
    return PairPictures(
        tuple(sorted(own)),
        {i: Path(one.path) for i, one in own.items()},
        {i: one.size for i, one in own.items()},
        {i: one.source for i, one in own.items()},
    )


def _latent(
    plan: PairPlan,
    picture: PairPicture,
    bucket: Size,
    at: tuple[float, float],
    mirrored: bool,
    form: LatentFormat,
    settings: PairLatentSettings,
    usable: Mapping[str, str],
) -> str:
    """The key of one side's latent, which is added to the plan."""
    if not mirrored and picture.size == bucket and picture.latent in usable:
        plan.kept[picture.latent] = KeptLatent(picture.latent, usable[picture.latent])
        return picture.latent
    sizes: ImageSizes = crop_sizes(picture.size, bucket, at)
    name = picture.id + (MIRRORED if mirrored else "")
    one = WantedLatent(name, sizes, form, settings.logvar, source=picture.source)
    plan.wanted[one.key] = one
    return one.key


def _crop_at(settings: LatentSettings, pair_id: str, number: int) -> tuple[float, float]:
    if settings.crop == "centre":
        return CENTRE
    top, left = Draw(settings.seed, "crop", pair_id, number).generator().random(2)
    return float(top), float(left)


def _encoding(encodings: Sequence[str], seed: int, pair_id: str, number: int) -> str:
    if len(encodings) == 1:
        return encodings[0]
    return encodings[Draw(seed, "vae precision", pair_id, number).integer(len(encodings))]
