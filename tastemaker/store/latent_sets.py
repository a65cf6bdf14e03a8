"""Which latents of a cache belong to one selection: a JSON file of picture id -> latent keys.

```
STEP/
  latents.json      picture -> keys of its variants (crops); what was left out, and why
  refreshed.json    further variants that a worker has added since
```

The cache itself is content-addressed and shared by every run of the step, so an edited picture
costs one new latent and nothing else. `latents.json` never changes once it is written: a run that
reads it alone is reproducible. What `refreshed.json` adds is read only by who asks for it.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from tastemaker.errors import CorruptFile, InputError, StaleCache
from tastemaker.records.size import Size
from tastemaker.store.atomic import write_json
from tastemaker.store.growth_log import FINISHED, GrowthLog
from tastemaker.store.hashing import hash_json
from tastemaker.store.latent_columns import LatentColumns
from tastemaker.store.latents import CachedLatent, IndexRow, LatentCache

REFRESHED = "refreshed.json"
_REMEDY = "Run the cache step with the same selection."


class Portion(NamedTuple):
    """Pictures of one bucket whose latents are written together."""

    bucket: Size
    ids: tuple[str, ...]


class LatentSet:
    """The latents of one selection, read by picture id.

    Args:
        path: the JSON file, or its folder.

    Attributes:
        left_out: picture -> why it has no latent.
        autoencoder: hash of the model's autoencoder; empty where it is not known.
        other_autoencoder: hash of the second one that made some of the latents, or empty.
        encodings: name -> hash in the latents' formats; empty where it is not known.
        made_with: what a worker needs that adds variants.
        portions: the pictures in the order in which a cache step writes them; empty in the set of a
            finished one.

    Raises:
        InputError: it is not there, or not yet.
        CorruptFile: it is no such file, or was changed.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path) / FINISHED if Path(path).is_dir() else Path(path)
        content = _read(self.path)
        if content is None:
            raise _not_there(self.path)
        try:
            self._keys = {i: tuple(keys) for i, keys in content["keys"].items()}
            self.left_out: Mapping[str, str] = content["left_out"]
            self.autoencoder: str = content["autoencoder"]
            self.other_autoencoder: str = content.get("other_autoencoder", "")
            self.encodings: Mapping[str, str] = content.get("encodings", {})
            self.made_with: Mapping[str, Any] = content["made_with"]
            self.portions = [
                Portion(Size(*one["bucket"]), tuple(one["ids"]))
                for one in content.get("portions", [])
            ]
            self.cache = LatentCache(self.path.parent / content["cache"])
        except (KeyError, AttributeError, TypeError) as error:
            raise self._changed(f"it lacks {error}") from error
        self.generation = 0
        self._stamp: tuple[int, int] | None = None

    def ids(self) -> tuple[str, ...]:
        """The pictures that have a latent, sorted."""
        return tuple(sorted(self._keys))

    def variants(self, picture_id: str) -> int:
        """How many latents the picture has: one a crop.

        Raises:
            StaleCache: the set was made for a selection without this picture.
        """
        return len(self._keys_of(picture_id))

    def keys(self) -> list[str]:
        """The keys of all latents, of every picture and variant."""
        return [key for keys in self._keys.values() for key in keys]

    def buckets(self) -> Mapping[str, Size]:
        """Picture -> height and width of its bucket in pixels; all its variants are of one."""
        ids = [i for i, keys in self._keys.items() if keys]
        numbers = self._rows.find(self._keys[i][0] for i in ids).tolist()
        if -1 in numbers:
            self.number(ids[numbers.index(-1)])
        return {i: self._rows.kind(n).bucket for i, n in zip(ids, numbers, strict=True)}

    def row(self, picture_id: str, variant: int = 0) -> IndexRow:
        """Where a latent lies, and what it is.

        Raises:
            StaleCache: the set was made for a selection without this picture.
            CorruptFile: the cache has lost the latent.
        """
        return self._rows.row(self.number(picture_id, variant))

    def number(self, picture_id: str, variant: int = 0) -> int:
        """The latent's number in the cache's columns.

        Raises:
            StaleCache: the set was made for a selection without this picture.
            CorruptFile: the cache has lost the latent.
        """
        key = self._keys_of(picture_id)[variant]
        number = int(self._rows.find([key])[0])
        if number < 0:
            raise self._broken(f"the cache has no latent {key[:12]} of picture {picture_id[:12]}")
        return number

    def read(self, picture_id: str, variant: int = 0, *, check: bool = True) -> CachedLatent:
        """One latent of a picture.

        Args:
            picture_id: the picture.
            variant: which of its crops, from 0.
            check: compare the checksum, see `LatentCache.read_row`.

        Raises:
            StaleCache: the set was made for a selection without this picture.
            CorruptFile: the latent cannot be read, or the checksum does not match.
        """
        return self.cache.read_row(self.row(picture_id, variant), check=check)

    def verify(
        self, on_read: Callable[[], None] = lambda: None, ids: Iterable[str] | None = None
    ) -> int:
        """Read every latent of the set and compare its checksum; how many there are.

        Args:
            on_read: called after each, for progress.
            ids: the latents of these pictures alone.

        Raises:
            CorruptFile: some are lost or not what was written; the message counts them.
        """
        every = self.keys() if ids is None else (key for i in ids for key in self._keys_of(i))
        keys = list(dict.fromkeys(every))
        lost = [k for k, n in zip(keys, self._rows.find(keys).tolist(), strict=True) if n < 0]
        if lost:
            raise self._broken(f"{len(lost)} of {len(keys)} latents are not in the cache")
        damaged = self.cache.damaged(keys, on_read)
        if damaged:
            first = next(iter(damaged.values())).rpartition(" Run the cache step")[0]
            raise self._broken(f"{len(damaged)} of {len(keys)} latents are damaged, first {first}")
        return len(keys)

    def follow(self) -> bool:
        """Take in the variants that a worker has added since; whether there were any.

        Raises:
            CorruptFile: the file of added variants is damaged.
        """
        file = self.path.parent / REFRESHED
        try:
            status = file.stat()
        except FileNotFoundError:
            return False
        stamp = (status.st_mtime_ns, status.st_ino)
        if stamp == self._stamp:
            return False
        content = _read(file) or {}
        self.cache.reread()
        before = len(self.keys())
        for picture_id, added in content.get("keys", {}).items():
            own = self._keys.get(picture_id)
            if own is not None:
                new = [key for key in added if key not in own and key in self._rows]
                self._keys[picture_id] = (*own, *new)
        self.generation = content.get("generation", self.generation)
        self._stamp = stamp
        return len(self.keys()) > before

    @cached_property
    def _rows(self) -> LatentColumns:
        try:
            return self.cache.columns
        except CorruptFile as error:
            raise self._broken(str(error)) from error

    def _keys_of(self, picture_id: str) -> tuple[str, ...]:
        keys = self._keys.get(picture_id)
        if keys is None:
            reason = self.left_out.get(picture_id)
            got = f"no latent of picture {picture_id[:12]}"
            got += f", which was left out: {reason}" if reason else ""
            raise StaleCache(self.path, got, "one for every selected picture", _REMEDY)
        return keys

    def _broken(self, what: str) -> CorruptFile:
        return CorruptFile(
            f"{self.path}: {what.rstrip('.')}. Delete this one file, {self.path.name}, and run "
            "the cache step again: it then encodes again what is damaged, and nothing else."
        )

    def _changed(self, what: str) -> CorruptFile:
        return CorruptFile(
            f"{self.path}: not a latent set ({what}). Delete it and run cache again."
        )


def write_latent_set(
    path: Path,
    cache: str,
    keys: Mapping[str, Sequence[str]],
    *,
    autoencoder: str = "",
    other_autoencoder: str = "",
    encodings: Mapping[str, str] | None = None,
    left_out: Mapping[str, str] | None = None,
    made_with: Mapping[str, Any] | None = None,
    portions: Sequence[Portion] = (),
) -> None:
    """Write a set atomically.

    Args:
        path: the JSON file.
        cache: the cache's folder relative to the file.
        keys: picture -> keys of its variants.
        autoencoder: hash of the model's autoencoder.
        other_autoencoder: hash of the second one that made some of the latents, if there is one.
        encodings: name -> hash in the latents' formats: which autoencoder, in which precision.
        left_out: picture -> why it has no latent.
        made_with: what a worker needs that adds variants: collection, model and configuration.
        portions: the order of writing, in the set of a cache step that has yet to write it.
    """
    content = {"cache": cache, "keys": {i: list(own) for i, own in keys.items()}}
    content |= {"left_out": dict(left_out or {}), "autoencoder": autoencoder}
    content |= {"other_autoencoder": other_autoencoder, "encodings": dict(encodings or {})}
    content["made_with"] = dict(made_with or {})
    if portions:
        content["portions"] = [{"bucket": list(p.bucket), "ids": list(p.ids)} for p in portions]
    _write(path, content)


def write_refreshed(folder: Path, generation: int, keys: Mapping[str, Sequence[str]]) -> None:
    """Replace the file of added variants atomically; the latents must be in the cache already."""
    content = {"generation": generation, "keys": {i: list(own) for i, own in keys.items()}}
    _write(folder / REFRESHED, content)


def read_refreshed(folder: Path) -> dict[str, list[str]]:
    """Picture -> keys of the variants that were added; empty when there are none.

    Raises:
        CorruptFile: the file was changed.
    """
    return (_read(folder / REFRESHED) or {}).get("keys", {})


def _not_there(path: Path) -> InputError:
    growth = GrowthLog(path.parent)
    if growth.key is None:
        return InputError(path, "no such file", "a latent set", "Run the cache step.")
    return InputError(
        path.parent,
        f"an unfinished cache step ({growth})",
        "a finished one, as first_epoch is shuffled",
        "Wait until it is finished, running its command again if it was stopped; or set "
        "first_epoch to as_written, which trains while it still writes.",
    )


def _write(path: Path, content: dict[str, Any]) -> None:
    write_json(path, {**content, "checksum": hash_json(content)})


def _read(path: Path) -> dict[str, Any] | None:
    """The content, or None when there is no such file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        checksum = content.pop("checksum")
        if checksum == hash_json(content):
            return content
        problem = "its content does not match its checksum"
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        problem = str(error)
    raise CorruptFile(
        f"{path}: not a latent set ({problem}). Delete it and run the same command again."
    )
