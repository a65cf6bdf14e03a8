"""Stage: encode the pictures of a selection once, into latent shards."""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, ValidationError

from tastemaker.engine.latent_encoder import (
    OTHER,
    EncodingSettings,
    LatentEncoder,
    encode_latents,
    in_shards,
    keys_of,
    open_encoder,
)
from tastemaker.engine.latent_needs import why_needed
from tastemaker.engine.latent_plan import (
    TOO_SMALL,
    LatentSettings,
    plan_latents,
    shards_in_order,
    writing_order,
)
from tastemaker.engine.progress import Progress
from tastemaker.errors import InputError
from tastemaker.records.config import Config as BaseConfig
from tastemaker.records.finding import Finding, Forecast
from tastemaker.records.run import Artefact, Manifest
from tastemaker.store.latent_index import WantedLatent, counted
from tastemaker.store.pictures import SelectedPictures, open_pictures
from tastemaker.store.rundir import StepDir

if TYPE_CHECKING:
    from tastemaker.models.family import Family
    from tastemaker.store.latents import LatentCache

VERSION = 3
OUTPUTS = ("cache",)

_REFRESH_EVERY_S = 10.0
"""A worker tells of new variants this often (ours)."""


class Config(LatentSettings):
    """Latents of every selected picture; captions are not in the cache."""

    inputs: ClassVar[dict[str, str]] = {
        "collection": "collection",
        "selection": "selection",
        "model": "model",
        "other_vae": "autoencoder|model",
    }
    collection: str
    """The pictures."""
    selection: str
    """Which of them."""
    model: str
    """The model whose autoencoder encodes them."""
    other_vae: str | None = None
    """A second autoencoder for some of the crops, with latents of the same shape and scale: a
    diffusers folder, a hub id, or a `.safetensors` file. bigASP's first version mixed the model's
    own with `madebyollin/sdxl-vae-fp16-fix`."""
    batch: int = Field(default=32, gt=0)
    """Pictures per forward pass of the autoencoder; halved where the memory does not hold them."""
    shard_images: int = Field(default=256, gt=0)
    """Latents per shard; a killed run loses at most one."""
    loaders: int = Field(default=4, gt=0, json_schema_extra={"changes_result": False})
    """Threads that decode pictures while the autoencoder works (ours)."""


def check(config: Config, inputs: Mapping[str, Artefact]) -> list[Finding]:
    """Picture files that are gone or broken, and pictures that fit no bucket."""
    from tastemaker.engine.latent_outlook import picture_findings

    if not {"collection", "selection"} <= inputs.keys():
        return []
    places = (Path(inputs[name].path) for name in ("collection", "selection"))
    return picture_findings(open_pictures(*places), config)


def preview(config: Config, inputs: Mapping[str, Artefact]) -> list[str]:
    """How many pictures each bucket will get."""
    from tastemaker.engine.latent_outlook import bucket_lines

    if not {"collection", "selection"} <= inputs.keys():
        return []
    places = (Path(inputs[name].path) for name in ("collection", "selection"))
    return bucket_lines(open_pictures(*places), config)


def forecast(
    config: Config, inputs: Mapping[str, Artefact], coming: Mapping[str, BaseConfig]
) -> Forecast:
    """Space that the latents take on disk."""
    from tastemaker.engine.latent_outlook import latent_bytes
    from tastemaker.models.latent_shape import latent_shape_of
    from tastemaker.store.selections import read_selection

    del coming
    if "selection" not in inputs:
        return Forecast()
    pictures = len(read_selection(Path(inputs["selection"].path)).ids)
    path = Path(inputs["model"].path) if "model" in inputs else None
    size = latent_bytes(config, pictures, latent_shape_of(config.model, path))
    line = f"disk: about {size / 2**20:,.1f} MiB of latents of {pictures} pictures"
    return Forecast((line,), (), {"latents": size}, {"latent_bytes": size})


def run(config: Config, inputs: Mapping[str, Artefact], step: StepDir) -> Manifest:
    """Encode what the cache lacks, shard by shard, and write which latents the selection has.

    The shards lie beside the step's folders (`../latents`), addressed by content, and serve later
    runs. What is there already is checked first; what is damaged is encoded again.

    Before that it writes the plan of all latents, in the order in which they will be there. A fit
    whose `first_epoch` is `as_written` trains in that order, and may begin at once.
    """
    from tastemaker.models.autoencoder import weights_hash
    from tastemaker.models.family import load_family
    from tastemaker.store.growth_log import FINISHED, PLAN, GrowthWriter, at_work
    from tastemaker.store.hashing import hash_json
    from tastemaker.store.latent_sets import write_latent_set
    from tastemaker.store.latents import LatentCache

    places = {name: str(artefact.path) for name, artefact in inputs.items()}
    family = load_family(places["model"])
    _check_sides(config, family)
    vae = family.parts["vae"]
    encoder, other = open_encoder(
        vae, config.precisions, places.get("other_vae"), config.other_precisions
    )
    pictures = open_pictures(Path(places["collection"]), Path(places["selection"]))
    plan, left_out = plan_latents(pictures, config, encoder.hashes, range(config.crops))
    _check_left_out(config, left_out, pictures)
    about = {
        "autoencoder": weights_hash(vae),
        "other_autoencoder": other,
        "encodings": encoder.hashes,
        "made_with": {**places, "config": config.model_dump(mode="json")},
    }
    portions = writing_order(plan, config.shard_images)
    everything = keys_of(plan, {})
    write_latent_set(
        step.path / PLAN, "../latents", everything, left_out=left_out, portions=portions, **about
    )
    planned = hash_json([[[i, everything[i]] for i in portion.ids] for portion in portions])
    cache = LatentCache(step.path.parent / "latents")
    with at_work(step.path):
        wanted = [one for own in plan.values() for one in own]
        reasons = why_needed(cache, wanted, step)
        missing = [one for one in wanted if one.key in reasons]
        step.event("missing latents", reasons=counted(reasons.values()))
        sized = [(p.ids, sum(len(plan[i]) for i in p.ids)) for p in portions]
        growth = GrowthWriter(step.path, step.key, planned, sized, missing)
        total, there = len(wanted), len(wanted) - len(missing)
        with Progress(step, total, "latents", step.name, done=there) as progress:
            done = encode_latents(
                encoder,
                pictures,
                shards_in_order(portions, plan, reasons, config.shard_images),
                cache,
                EncodingSettings(config.batch, config.loaders),
                on_latents=progress.advance,
                on_shard=growth.dealt_with,
            )
        left_out |= done.left_out
        _tell_left_out(left_out, pictures, step)
        keys = keys_of(plan, left_out)
        if not keys:
            growth.forget()
            raise InputError(
                inputs["selection"].path,
                f"no picture with a latent ({', '.join(counted(left_out.values()))})",
                "at least one",
                "Choose smaller buckets, or other pictures.",
            )
        write_latent_set(step.path / FINISHED, "../latents", keys, left_out=left_out, **about)
    written = Counter(reasons[one.key] for one in missing if one.id not in left_out)
    counts = {"encoded": done.written, "already there": there}
    counts |= {f"encoded: {reason}": n for reason, n in written.most_common()}
    counts |= {f"left out: {reason}": n for reason, n in counted(left_out.values()).items()}
    results = _results(cache, keys, encoder)
    if other:
        by_other = sum(n for e, n in results["encodings"].items() if e.startswith(OTHER))
        by_own = results["latents"] - by_other
        counts |= {"by the model's autoencoder": by_own, "by other_vae": by_other}
    return Manifest(
        stage="cache",
        key=step.key,
        outputs={"cache": FINISHED},
        counts=counts,
        results=results,
    )


def refresh(
    folder: Path,
    rounds: int = 1,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, int]:
    """Add random crops to a finished set, one of every picture a round, while others train on it.

    The step's own file stays as it is, so that runs which read it alone are reproducible; the
    variants are in a second one, for those that follow. A round that was killed goes on where it
    stopped. One worker at a time: of two, the later one's file counts.

    Args:
        folder: the cache step's, with `latents.json`.
        rounds: how many crops every picture gets.
        say: called with a line after each round.

    Returns:
        Counts: `rounds`, `added` (latents), and `left out: REASON`.

    Raises:
        InputError: the set has centre crops, or its collection or model is gone.
    """
    from tastemaker.models.family import load_family
    from tastemaker.store.latent_sets import LatentSet, read_refreshed, write_refreshed

    latents = LatentSet(folder)
    folder = latents.path.parent
    config = _config_of(latents.made_with, latents.path)
    if config.crop != "random":
        raise InputError(
            latents.path, "centre crops", "random ones", "Run the cache step with crop random."
        )
    family = load_family(latents.made_with["model"])
    encoder, _ = open_encoder(
        family.parts["vae"],
        config.precisions,
        latents.made_with.get("other_vae"),
        config.other_precisions,
    )
    places = (Path(latents.made_with[name]) for name in ("collection", "selection"))
    pictures = open_pictures(*places)
    latents.follow()
    settings = EncodingSettings(config.batch, config.loaders)
    counts: Counter[str] = Counter()
    for _ in range(rounds):
        number = config.crops + latents.generation
        plan, _ = plan_latents(pictures, config, encoder.hashes, [number], latents.ids())
        wanted = [one for own in plan.values() for one in own]
        absent = set(latents.cache.missing([one.key for one in wanted]))
        added = {i: list(keys) for i, keys in read_refreshed(folder).items()}
        told = [time.monotonic()]

        def tell(
            shard: Sequence[WantedLatent],
            problems: Mapping[str, str],
            added: dict[str, list[str]] = added,
            told: list[float] = told,
        ) -> None:
            for one in shard:
                if one.id in problems:
                    continue
                own = added.setdefault(one.id, [])
                if one.key not in own:
                    own.append(one.key)
            if time.monotonic() - told[0] >= _REFRESH_EVERY_S:
                write_refreshed(folder, latents.generation, added)
                told[0] = time.monotonic()

        tell([one for one in wanted if one.key not in absent], {})
        missing = in_shards((o for o in wanted if o.key in absent), config.shard_images)
        done = encode_latents(encoder, pictures, missing, latents.cache, settings, on_shard=tell)
        write_refreshed(folder, latents.generation + 1, added)
        latents.follow()
        counts["rounds"] += 1
        counts["added"] += done.written
        counts.update(f"left out: {reason}" for reason in done.left_out.values())
        say(f"crop {number}: {done.written} latents added, {len(done.left_out)} pictures left out")
    return dict(counts)


def _check_sides(config: Config, family: "Family") -> None:
    wrong = [
        b for b in config.bucket_sizes() if b.h % family.latent_factor or b.w % family.latent_factor
    ]
    if wrong:
        raise InputError(
            "size_px" if config.buckets is None else "buckets",
            ", ".join(map(str, wrong[:5])),
            f"sides that are multiples of {family.latent_factor}, as the autoencoder needs",
            "Choose other sides.",
        )


def _check_left_out(
    config: Config, left_out: Mapping[str, str], pictures: SelectedPictures
) -> None:
    if left_out and config.buckets is not None and config.buckets.too_small == "error":
        first = next(iter(left_out))
        raise InputError(
            "buckets",
            f"{len(left_out)} pictures that are {TOO_SMALL}, first {pictures.files[first]} "
            f"({pictures.sizes[first]})",
            "pictures that need not be enlarged",
            "Choose smaller buckets, a rule for the shorter side in curate, or too_small drop.",
        )


def _tell_left_out(left_out: Mapping[str, str], pictures: SelectedPictures, step: StepDir) -> None:
    for reason, count in counted(left_out.values()).items():
        files = [str(pictures.files[i]) for i, why in left_out.items() if why == reason]
        step.event("left out", reason=reason, count=count, first=files[:20])


def _results(
    cache: "LatentCache", keys: Mapping[str, Sequence[str]], encoder: LatentEncoder
) -> dict[str, Any]:
    """Size on disk, how many pictures each bucket got, the widest first, and who encoded what."""
    rows = [cache.index()[key] for own in keys.values() for key in own]
    shards = {row.shard for row in rows}
    in_shards = sum(row.shard in shards for row in cache.index().values())
    size = sum(cache.shard_file(shard).stat().st_size for shard in shards)
    buckets = Counter(cache.index()[own[0]].bucket for own in keys.values())
    ordered = sorted(buckets, key=lambda bucket: (bucket.h / bucket.w, bucket))
    made = Counter(row.format.vae_hash for row in rows)
    encodings = {name: made[vae_hash] for name, vae_hash in encoder.hashes.items()}
    return {
        "latents": len(rows),
        "bytes_per_latent": round(size / in_shards, 1),
        "buckets": {str(bucket): buckets[bucket] for bucket in ordered},
        **({"encodings": encodings} if len(encodings) > 1 else {}),
    }


def _config_of(made_with: Mapping[str, Any], path: Path) -> Config:
    try:
        return Config.model_validate(made_with["config"])
    except (KeyError, ValidationError) as error:
        raise InputError(
            path,
            f"a set of another version ({type(error).__name__})",
            "one that this version of the cache step has made",
            "Run the cache step again.",
        ) from error
