"""Which latents of a cache belong to one selection: a small JSON file of picture id -> latent key.

The cache itself is content-addressed and shared by every run of the step, so an edited picture
costs one new latent and nothing else.
"""

import json
from pathlib import Path

from tastemaker.errors import InputError, StaleCache
from tastemaker.store.atomic import write_json
from tastemaker.store.latents import CachedLatent, LatentCache


class LatentSet:
    """The latents of one selection, read by picture id.

    Args:
        path: the JSON file, or its folder.

    Raises:
        InputError: it is not there.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path) / "latents.json" if Path(path).is_dir() else Path(path)
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise InputError(
                self.path, "no such file", "a latent set", "Run the cache step."
            ) from error
        self._keys: dict[str, str] = content["keys"]
        self._cache = LatentCache(self.path.parent / content["cache"])

    def read(self, picture_id: str) -> CachedLatent:
        """The latent of a picture.

        Raises:
            StaleCache: the set was made for a selection without this picture.
            CorruptFile: the checksum does not match.
        """
        if picture_id not in self._keys:
            raise StaleCache(
                self.path,
                f"no latent of picture {picture_id[:12]}",
                "one for every selected picture",
                "Run the cache step with the same selection.",
            )
        return self._cache.read(self._keys[picture_id])


def write_latent_set(path: Path, cache: str, keys: dict[str, str]) -> None:
    """Write the set atomically; `cache` is the cache's folder relative to the file."""
    write_json(path, {"cache": cache, "keys": keys})
