"""What the cache steps of a run left: latents, their bytes, their buckets."""

from collections.abc import Mapping
from dataclasses import dataclass

from tastemaker.report import words
from tastemaker.report.read import RunFacts, StepFacts

_MOST_BUCKETS = 12


@dataclass(frozen=True)
class Bucket:
    """One size with the share of the fullest one."""

    size: str
    latents: str
    share: float


@dataclass(frozen=True)
class Cached:
    """One finished cache step."""

    step: StepFacts
    figures: tuple[tuple[str, str], ...]
    buckets: tuple[Bucket, ...]
    further: int


def cached(run: RunFacts) -> list[Cached]:
    """All finished caches that say how many latents they have."""
    return [
        found
        for step in run.of_stage("cache", "import_latents")
        if step.manifest is not None and (found := _cached(step, step.manifest.results))
    ]


def _cached(step: StepFacts, results: Mapping[str, object]) -> Cached | None:
    assert step.manifest is not None
    latents, each, sizes = (results.get(n) for n in ("latents", "bytes_per_latent", "buckets"))
    if not isinstance(latents, int) or not isinstance(sizes, Mapping):
        return None
    figures = [("latents", words.counted(latents))]
    if isinstance(each, int | float):
        figures.append(("bytes each", words.counted(round(each))))
        figures.append(("together", _size(each * latents)))
    figures.append(("buckets used", str(len(sizes))))
    left = sum(n for name, n in step.manifest.counts.items() if name.startswith("left out"))
    if left:
        figures.append(("left out", words.counted(left)))
    encoded = step.manifest.counts.get("encoded", 0)
    if encoded and step.manifest.seconds >= 0.5:
        figures.append(("latents a second", f"{encoded / step.manifest.seconds:.1f}"))
    ordered = sorted(sizes.items(), key=lambda item: (-item[1], item[0]))
    most = ordered[0][1] if ordered else 1
    return Cached(
        step,
        tuple(figures),
        tuple(
            Bucket(str(size).replace("x", " × "), words.counted(n), 100 * n / most)
            for size, n in ordered[:_MOST_BUCKETS]
        ),
        max(0, len(ordered) - _MOST_BUCKETS),
    )


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g}\u202f{unit}"
        count /= 1000
    return f"{count:.3g}\u202fTB"
