"""Stage: encode both pictures of every pair once, into latents of one bucket."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import Field

from tastemaker.engine.latent_encoder import (
    EncodingSettings,
    encode_latents,
    in_shards,
    open_encoder,
)
from tastemaker.engine.latent_needs import why_needed
from tastemaker.engine.latent_plan import TOO_SMALL
from tastemaker.engine.pair_plan import (
    PairLatentSettings,
    PairPlan,
    open_pair_pictures,
    pair_buckets,
    plan_pairs,
)
from tastemaker.engine.progress import Progress
from tastemaker.errors import InputError
from tastemaker.records.pair import Pair, PairPicture
from tastemaker.records.run import Artefact, Manifest
from tastemaker.records.size import Size
from tastemaker.store.latent_index import counted
from tastemaker.store.rundir import StepDir

if TYPE_CHECKING:
    from torch import nn

    from tastemaker.store.latents import LatentCache

VERSION = 1
OUTPUTS = ("pair_cache",)

_GENERATED = "generated"
"""Before the precision in the name of an encoding whose latents a generation has kept."""


class Config(PairLatentSettings):
    """Latents of both sides of every pair; prompts are not in the cache."""

    inputs: ClassVar[dict[str, str]] = {
        "pairs": "pairs",
        "model": "model",
        "other_vae": "autoencoder|model",
    }
    pairs: str
    """The pair set."""
    model: str
    """The model whose autoencoder encodes them."""
    other_vae: str | None = None
    """A second autoencoder for some of the crops, as in `cache`; both sides of a pair get the
    same one."""
    batch: int = Field(default=32, gt=0)
    """Pictures per forward pass of the autoencoder; halved where the memory does not hold them."""
    shard_images: int = Field(default=256, gt=0)
    """Latents per shard; a killed run loses at most one."""
    loaders: int = Field(default=4, gt=0, json_schema_extra={"changes_result": False})
    """Threads that decode pictures while the autoencoder works (ours)."""


def preview(config: Config, inputs: Mapping[str, Artefact]) -> list[str]:
    """Which buckets the pairs would get, and how much of their pictures is cut off."""
    from tastemaker.store.pair_sets import PairSet

    if "pairs" not in inputs:
        return []
    found = PairSet(Path(inputs["pairs"].path))
    pairs, pictures = list(found.pairs()), found.pictures()
    chosen = Counter(pair_buckets(pairs, pictures, config))
    without = chosen.pop(None, 0)
    lines = [f"{len(pairs)} pairs in {len(chosen)} buckets"]
    known = {bucket: count for bucket, count in chosen.items() if bucket is not None}
    lines += [f"{count} pairs at {bucket}" for bucket, count in _by_shape(known)]
    return lines + ([f"{without} pairs {TOO_SMALL}"] if without else [])


def run(config: Config, inputs: Mapping[str, Artefact], step: StepDir) -> Manifest:
    """Encode what the cache lacks, copy what generations have kept, and write the pairs' latents.

    The shards lie beside the step's folders (`../latents`), addressed by content, and serve later
    runs. What is there already is checked first; what is damaged is encoded again.

    Raises:
        InputError: no pair has latents of both sides, or a bucket does not fit the autoencoder.
    """
    from tastemaker.models.autoencoder import weights_hash
    from tastemaker.models.family import load_family
    from tastemaker.store.latent_sets import write_latent_set
    from tastemaker.store.latents import LatentCache
    from tastemaker.store.pair_sets import PairSet

    places = {name: str(artefact.path) for name, artefact in inputs.items()}
    family = load_family(places["model"])
    _check_sides(config, family.latent_factor)
    vae = family.parts["vae"]
    encoder, other = open_encoder(
        vae, config.precisions, places.get("other_vae"), config.other_precisions
    )
    found = PairSet(Path(places["pairs"]))
    pairs, pictures = list(found.pairs()), found.pictures()
    spaces = _spaces(vae) if config.reuse_generated else {}
    usable, refused = _usable(pictures, spaces)
    plan = plan_pairs(pairs, pictures, config, encoder.hashes, usable)
    _check_left_out(config, plan, pairs, pictures)
    cache = LatentCache(step.path.parent / "latents")
    copies = dict.fromkeys(plan.kept, "generated")
    reasons = why_needed(cache, list(plan.wanted.values()), step, copies)
    missing = [one for key, one in plan.wanted.items() if key in reasons]
    total = len(plan.wanted) + len(plan.kept)
    copied = [key for key in plan.kept if key in reasons]
    there = total - len(missing) - len(copied)
    with Progress(step, total, "latents", step.name, done=there) as progress:
        copied = _copy(cache, plan, copied, config.shard_images, progress)
        done = encode_latents(
            encoder,
            open_pair_pictures(pictures.values()),
            in_shards(missing, config.shard_images),
            cache,
            EncodingSettings(config.batch, config.loaders),
            on_latents=progress.advance,
        )
    plan.lose(done.left_out)
    for reason, count in counted(plan.left_out.values()).items():
        own = [i for i, why in plan.left_out.items() if why == reason]
        step.event("left out", reason=reason, count=count, first=own[:20])
    if not plan.keys:
        raise InputError(
            inputs["pairs"].path,
            f"no pair with latents ({', '.join(counted(plan.left_out.values()))})",
            "at least one",
            "Choose smaller buckets, or make the pairs again.",
        )
    write_latent_set(
        step.path / "latents.json",
        "../latents",
        plan.keys,
        autoencoder=weights_hash(vae),
        other_autoencoder=other,
        encodings=encoder.hashes | spaces,
        left_out=plan.left_out,
        made_with={**places, "pairs_hash": found.hash, "config": config.model_dump(mode="json")},
    )
    counts = {
        "pairs": len(plan.keys),
        "encoded": done.written,
        "generated latents taken over": len(copied),
        "already there": there,
        **({"generated latents that cannot be used": refused} if refused else {}),
        **{f"left out: {reason}": n for reason, n in counted(plan.left_out.values()).items()},
    }
    return Manifest(
        stage="cache_pairs",
        key=step.key,
        outputs={"pair_cache": "latents.json"},
        counts=counts,
        results=_results(cache, plan),
    )


def _spaces(vae: "nn.Module") -> dict[str, str]:
    """Name -> hash of the autoencoders whose latents are this model's own.

    A generation decodes with the model's autoencoder as it is, whatever the networks compute in.
    """
    from tastemaker.models.autoencoder import weights_hash

    return {_GENERATED: weights_hash(vae)}


def _usable(
    pictures: Mapping[str, PairPicture], spaces: Mapping[str, str]
) -> tuple[dict[str, str], int]:
    """Key -> folder of the kept latents that can be taken over, and how many cannot.

    Those cannot that another autoencoder has made, or that are no longer what was written; their
    pictures are encoded instead.
    """
    from tastemaker.store.generated_latents import GeneratedLatents

    folders: dict[str, list[str]] = {}
    for one in pictures.values():
        if one.latent and spaces:
            folders.setdefault(one.latents, []).append(one.latent)
    usable, refused = {}, 0
    for folder, keys in folders.items():
        source = GeneratedLatents(folder)
        for key in keys:
            if source.made_by(key) in spaces.values():
                usable[key] = folder
            else:
                refused += 1
    return usable, refused


def _copy(
    cache: "LatentCache",
    plan: PairPlan,
    keys: Sequence[str],
    shard_images: int,
    progress: Progress,
) -> list[str]:
    """Copy kept latents, in their own format and bit for bit; their keys."""
    from tastemaker.store.generated_latents import GeneratedLatents
    from tastemaker.store.latents import LatentEntry

    sources = {plan.kept[key].folder: GeneratedLatents(plan.kept[key].folder) for key in keys}
    groups: dict[tuple[Size, Any], list[str]] = {}
    for key in keys:
        row = sources[plan.kept[key].folder].cache.columns[key]
        groups.setdefault((row.bucket, row.format), []).append(key)
    for (bucket, form), some in groups.items():
        for start in range(0, len(some), shard_images):
            entries = []
            for key in some[start : start + shard_images]:
                source = sources[plan.kept[key].folder]
                row, latent = source.cache.columns[key], source.read(key)
                entries.append(
                    LatentEntry(
                        row.id, key, latent.mean, latent.sizes, source=row.source, loader=row.loader
                    )
                )
            cache.write_shard(bucket, entries, form)
            progress.advance(len(entries))
    return list(keys)


def _check_sides(config: Config, factor: int) -> None:
    wrong = [b for b in config.bucket_sizes() if b.h % factor or b.w % factor]
    if wrong:
        raise InputError(
            "size_px" if config.buckets is None else "buckets",
            ", ".join(map(str, wrong[:5])),
            f"sides that are multiples of {factor}, as the autoencoder needs",
            "Choose other sides.",
        )


def _check_left_out(
    config: Config, plan: PairPlan, pairs: Sequence[Pair], pictures: Mapping[str, PairPicture]
) -> None:
    if not plan.left_out or config.buckets is None or config.buckets.too_small != "error":
        return
    first = next(pair for pair in pairs if pair.id in plan.left_out)
    sizes = f"{pictures[first.winner].size} and {pictures[first.loser].size}"
    raise InputError(
        "buckets",
        f"{len(plan.left_out)} pairs {TOO_SMALL}, first {first.id[:12]} ({sizes})",
        "pairs whose pictures need not be enlarged",
        "Choose smaller buckets, or too_small drop.",
    )


def _results(cache: "LatentCache", plan: PairPlan) -> dict[str, Any]:
    """Size on disk, pairs of each bucket, the widest first, and what the crops leave."""
    rows = [cache.index()[key] for keys in plan.keys.values() for key in keys]
    distinct = {row.key: row for row in rows}
    generated = sum(key in plan.kept for key in distinct)
    buckets = Counter(plan.buckets[pair_id] for pair_id in plan.keys)
    worse = [min(plan.kept_area[pair_id]) for pair_id in plan.keys]
    return {
        "latents": len(distinct),
        "generated": generated,
        "variants": max(len(keys) // 2 for keys in plan.keys.values()),
        "buckets": {str(bucket): count for bucket, count in _by_shape(buckets)},
        "kept_area": round(float(np.mean(worse)), 4),
        "kept_area_p5": round(float(np.quantile(worse, 0.05)), 4),
    }


def _by_shape(buckets: Mapping[Size, int]) -> list[tuple[Size, int]]:
    ordered = sorted(buckets, key=lambda bucket: (bucket.h / bucket.w, bucket))
    return [(bucket, buckets[bucket]) for bucket in ordered]
