"""Stage: take over latents that other programs have made, kohya's `.npz` files and bigASP's."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from tastemaker.engine.progress import Progress
from tastemaker.errors import InputError, PictureError, StorageError, TastemakerError
from tastemaker.records.config import Config as BaseConfig
from tastemaker.records.image import ImageRecord
from tastemaker.records.run import Artefact, Manifest
from tastemaker.records.size import Size
from tastemaker.store.catalogue import Catalogue
from tastemaker.store.foreign_latents import (
    CELL,
    ForeignLatent,
    find_kohya,
    is_bigasp,
    read_bigasp_latent,
    read_kohya,
)
from tastemaker.store.hashing import hash_json
from tastemaker.store.rundir import StepDir
from tastemaker.store.selections import read_selection

if TYPE_CHECKING:
    from tastemaker.models.latent_scale import LatentScale
    from tastemaker.store.latents import LatentCache, LatentEntry

VERSION = 1
OUTPUTS = ("cache",)

_FAMILIES = {
    "kohya:sdxl": ("sdxl",),
    "kohya:sd": ("sd15", "pixart"),  # PixArt-alpha has SD1.5's autoencoder
    "bigasp-v1": ("sdxl",),
    "bigasp-v2": ("sdxl",),
}
"""Origin -> architectures whose latents these are; of others the file does not tell it."""

_MOST_EVENTS = 100
_SHARDS_IN_MEMORY = 4


class Config(BaseConfig):
    """Latents of the selected pictures from other programs' caches.

    They are samples of the posterior, with nothing to sample from again, made by an autoencoder
    that cannot be compared with any other: the index says where they come from, and a fit takes
    them without asking. Pictures without a usable latent are left out, and counted.
    """

    inputs: ClassVar[dict[str, str]] = {
        "collection": "collection",
        "selection": "selection",
        "model": "model",
    }
    collection: str
    """The pictures with `.npz` files beside them, or bigASP's latents themselves."""
    selection: str
    """Which of them."""
    model: str
    """The model that will be trained; its config says how latents are scaled."""
    sizes: tuple[str, ...] = ()
    """Only latents of these sizes, `HxW` in pixels; all by default. Else the largest of a file."""
    allow_older: bool = False
    """Take latents whose file is older than its picture's; copying may have changed the times."""
    dtype: Literal["fp16", "bf16", "fp32"] = "fp16"
    """How latents are stored (ours: fp16 loses nothing of bigASP's)."""
    codec: Literal["shuffle-zstd", "none"] = "shuffle-zstd"
    """How shards are packed."""
    shard_images: int = Field(default=256, gt=0)
    """Latents per shard."""


def run(config: Config, inputs: Mapping[str, Artefact], step: StepDir) -> Manifest:
    """Write the latents that can be used into shards, and `latents.json`.

    What is wrong with the others is counted in the summary, said in the events, and kept in
    `latents.json`. Nothing is replaced by zeros.

    Raises:
        InputError: there is no latent at all that can be used, or none can be of this model.
    """
    from tastemaker.models.latent_scale import read_latent_scale
    from tastemaker.store.latent_sets import write_latent_set
    from tastemaker.store.latents import LatentCache

    chosen = read_selection(Path(inputs["selection"].path))
    catalogue = Catalogue(Path(inputs["collection"].path))
    records = {record.id: record for record in catalogue.records()}
    scale = read_latent_scale(Path(inputs["model"].path))
    if scale.cell != CELL:
        raise InputError(
            inputs["model"].path,
            f"an autoencoder of {scale.cell} pixels for each latent cell",
            f"one of {CELL}, as those of SD1.5, SDXL and PixArt-alpha",
            "Use the cache step for this model.",
        )
    work = _Import(config, LatentCache(step.path.parent / "latents"), scale)
    with Progress(step, len(chosen.ids), "latents", step.name) as progress:
        for picture_id in chosen.ids:
            record = records.get(picture_id)
            try:
                if record is None:
                    raise _unusable(picture_id, "not in the collection")
                work.add(record, catalogue.picture_path(record))
            except StorageError:
                raise
            except TastemakerError as error:
                work.refuse(picture_id, error)
            progress.advance(1)
        work.flush()
    for picture_id, reason in list(work.left_out.items())[:_MOST_EVENTS]:
        step.event("left out", picture=picture_id, reason=reason)
    reasons = Counter(f"left out: {_short(reason)}" for reason in work.left_out.values())
    if not work.keys:
        listed = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common(5))
        raise InputError(
            inputs["collection"].path,
            f"no latent that can be used ({listed or 'an empty selection'})",
            "NAME_WWWWxHHHH_sdxl.npz beside NAME.jpg, or a collection of bigASP latents",
            "Look at the files that are named in events.jsonl, or use the cache step.",
        )
    # No autoencoder is named: which one it was is not in these files, and a fit asks for its own.
    write_latent_set(step.path / "latents.json", "../latents", work.keys, left_out=work.left_out)
    return Manifest(
        stage="import_latents",
        key=step.key,
        outputs={"cache": "latents.json"},
        counts={
            "imported": work.written,
            "already there": len(work.keys) - work.written,
            **dict(sorted(reasons.items())),
        },
        results={"origins": dict(sorted(work.origins.items())), "buckets": work.buckets()},
    )


class _Import:
    """The work so far: entries that are not yet written, and what became of each picture."""

    def __init__(self, config: Config, cache: "LatentCache", scale: "LatentScale") -> None:
        self.config, self.cache, self.scale = config, cache, scale
        self.sizes = frozenset(_size(text) for text in config.sizes)
        self.keys: dict[str, tuple[str, ...]] = {}
        self.left_out: dict[str, str] = {}
        self.origins: Counter[str] = Counter()
        self.written = 0
        self._of_bucket: Counter[Size] = Counter()
        self._pending: dict[tuple[Size, str], list[LatentEntry]] = {}

    def add(self, record: ImageRecord, path: Path) -> None:
        """Read one picture's latent, and write a shard when enough of a kind have come together.

        Raises:
            TastemakerError: it cannot be used; nothing of it is kept.
        """
        import torch

        from tastemaker.store.latents import LatentEntry

        found = self._find(record, path)
        self._check(path, found)
        latent = self.scale(torch.from_numpy(found.latent), found.factor)
        kept = latent.to({"fp16": torch.float16, "bf16": torch.bfloat16}.get(self.config.dtype))
        if not bool(torch.isfinite(kept).all()):
            raise _unusable(path, f"no finite values (in {self.config.dtype})")
        bucket = found.sizes.target
        # The picture's own hash does not tell what was made of it: the file's does.
        key = hash_json(
            ["imported", record.id, found.digest, list(bucket), found.origin, self.config.dtype]
            + [self.scale.factor.tolist(), self.scale.shift.tolist()]
        )
        self.keys[record.id] = (key,)
        self.origins[found.origin] += 1
        self._of_bucket[bucket] += 1
        if self.cache.missing([key]):
            entry = LatentEntry(record.id, key, latent, found.sizes)
            self._pending.setdefault((bucket, found.origin), []).append(entry)
            self.written += 1
            self._write_full()

    def refuse(self, picture_id: str, error: TastemakerError) -> None:
        """Note why a picture has no latent."""
        self.left_out[picture_id] = str(getattr(error, "got", error))

    def flush(self) -> None:
        """Write what is left."""
        for kind in list(self._pending):
            self._write(kind)

    def buckets(self) -> dict[str, int]:
        """Latents of each size."""
        return {str(bucket): count for bucket, count in sorted(self._of_bucket.items())}

    def _find(self, record: ImageRecord, path: Path) -> ForeignLatent:
        if is_bigasp(record):
            return read_bigasp_latent(record, path)
        if record.size is None:
            raise _unusable(path, "a picture that cannot be read")
        file = find_kohya(path, record.size)
        if file is None:
            raise _unusable(path, "no latent beside the picture")
        found = [one for one in read_kohya(file, record.size) if self._is_wanted(one)]
        if not found:
            raise _unusable(file, f"of another bucket (wanted {', '.join(self.config.sizes)})")
        if not self.config.allow_older and file.stat().st_mtime_ns < path.stat().st_mtime_ns:
            raise _unusable(file, "older than the picture (allow_older takes it all the same)")
        return found[0]

    def _is_wanted(self, latent: ForeignLatent) -> bool:
        return not self.sizes or latent.sizes.target in self.sizes

    def _check(self, path: Path, found: ForeignLatent) -> None:
        families = _FAMILIES.get(found.origin)
        if families is not None and self.scale.family not in families:
            raise _unusable(path, f"of another model ({found.origin} for {self.scale.family})")
        if found.latent.shape[0] != self.scale.channels:
            got = f"{found.latent.shape[0]} channels, the model {self.scale.channels}"
            raise _unusable(path, f"of another model ({got})")
        if not self._is_wanted(found):
            raise _unusable(path, f"of another bucket ({found.sizes.target})")

    def _write_full(self) -> None:
        most = self.config.shard_images
        kind = max(self._pending, key=lambda one: len(self._pending[one]))
        in_memory = sum(map(len, self._pending.values()))
        if len(self._pending[kind]) >= most or in_memory >= _SHARDS_IN_MEMORY * most:
            self._write(kind)

    def _write(self, kind: tuple[Size, str]) -> None:
        from tastemaker.store.latents import LatentFormat

        bucket, origin = kind
        stored = LatentFormat(origin, self.config.dtype, self.config.codec)
        self.cache.write_shard(bucket, self._pending.pop(kind), stored)


def _size(text: str) -> Size:
    sides = text.lower().split("x")
    if len(sides) != 2 or not all(side.isdecimal() and int(side) for side in sides):
        raise InputError("sizes", text, "HxW in pixels, such as 1024x1024", "Correct it.")
    return Size(int(sides[0]), int(sides[1]))


def _unusable(where: object, got: str) -> PictureError:
    return PictureError(where, got, "a latent of this picture", "Cache this picture again.")


def _short(reason: str) -> str:
    return reason.split(" (", 1)[0]
