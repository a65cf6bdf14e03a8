"""Slow features of pictures, kept in a step's folder so that a killed step goes on."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from tastemaker.store.atomic import atomic_file

_CHUNK = 64


class FeatureCache:
    """Rows of features by key; each chunk of new ones becomes one `.npz` file, whole or not at all.

    Args:
        folder: where the files lie.
        tag: what made the features (model, weights, preprocessing); others are not read.
    """

    def __init__(self, folder: Path | str, tag: str) -> None:
        self._folder, self._tag = Path(folder), tag
        self._rows: dict[str, np.ndarray] = {}
        for file in sorted(self._folder.glob("features-*.npz")):
            with np.load(file, allow_pickle=False) as stored:
                if str(stored["tag"]) == tag:
                    self._rows.update(zip(stored["keys"].tolist(), stored["rows"], strict=True))

    def __len__(self) -> int:
        """How many rows there are."""
        return len(self._rows)

    def get(
        self,
        keys: Sequence[str],
        compute: Callable[[Sequence[str]], np.ndarray],
        on_done: Callable[[int], None] = lambda count: None,
    ) -> np.ndarray:
        """Rows for the keys, in their order; what is missing is computed and kept, chunk by chunk.

        No keys give `[0, 0]`: how wide a row is, is not known then.

        Args:
            keys: names of pictures, unique for their content.
            compute: some keys -> float32 `[n, D]`.
            on_done: told how many more keys are done.
        """
        missing = [key for key in dict.fromkeys(keys) if key not in self._rows]
        on_done(len(keys) - len(missing))
        for start in range(0, len(missing), _CHUNK):
            some = missing[start : start + _CHUNK]
            rows = np.asarray(compute(some), np.float32)
            self._rows.update(zip(some, rows, strict=True))
            number = len(list(self._folder.glob("features-*.npz")))
            with atomic_file(self._folder / f"features-{number:04d}.npz") as temporary:
                np.savez(temporary, tag=np.array(self._tag), keys=np.array(some), rows=rows)
            on_done(len(some))
        return np.stack([self._rows[key] for key in keys]) if keys else np.empty((0, 0), np.float32)
