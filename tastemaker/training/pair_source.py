"""Cached pairs as training reads them: of each visit one variant, the same for both sides.

Axes: C latent channels, H and W latent rows and columns.
"""

from collections.abc import Callable, Mapping, Sequence

from tastemaker.errors import StaleCache
from tastemaker.models.family import Family
from tastemaker.records.draws import Draw
from tastemaker.records.pair import Split
from tastemaker.records.size import Size
from tastemaker.store.latent_sets import LatentSet
from tastemaker.store.pair_sets import PairSet
from tastemaker.training.kept_latents import FIXED, KeptLatents, sampled
from tastemaker.training.latent_source import check_latents
from tastemaker.training.pair_latents import PairLatents
from tastemaker.training.read_ahead import ReadAhead

_REMEDY = "Run cache_pairs with these pairs."


class CachedPairs:
    """Both latents of a visit of a pair, with their sizes and the label. Several threads may ask.

    Crop and mirroring (the variant) and the sample of the autoencoder's posterior come from draws
    keyed by the pair and the visit, shared by both sides; so two equal pictures give two equal
    latents, and nothing depends on a resume, a batch or a process.

    Args:
        pairs: the pair set.
        latents: of `cache_pairs`; it should have been checked (`check_pairs`), as reading is not.
        seed: the run's.
    """

    def __init__(self, pairs: PairSet, latents: LatentSet, seed: int) -> None:
        self.pairs, self.latents, self.seed = pairs, latents, seed
        self._read = KeptLatents(latents)
        self._labels = {pair.id: pair.label for pair in pairs.pairs()}

    def read(self, pair_id: str, visit: int) -> PairLatents:
        """Both sides of one visit; `FIXED` gives the first variant's means.

        Raises:
            StaleCache: the set has no such pair.
            CorruptFile: a shard cannot be read.
        """
        label = self._labels.get(pair_id)
        reason = self.latents.left_out.get(pair_id)
        if label is None or reason is not None:
            why = f", which was left out: {reason}" if reason else ""
            raise StaleCache(
                self.latents.path,
                f"no latents of pair {pair_id[:12]}{why}",
                "one of its pairs",
                _REMEDY,
            )
        variants = self.latents.variants(pair_id) // 2
        variant = 0
        if visit != FIXED and variants > 1:
            variant = Draw(self.seed, "variant", pair_id, visit).integer(variants)
        winner, loser = (
            self._read(self.latents.number(pair_id, 2 * variant + side)) for side in (0, 1)
        )
        return PairLatents(
            sampled(winner, self.seed, pair_id, visit),
            sampled(loser, self.seed, pair_id, visit),
            winner.sizes,
            loser.sizes,
            label,
        )

    def __call__(self, pair_id: str, visit: int) -> PairLatents:
        """As `read`, for `ReadAhead`."""
        return self.read(pair_id, visit)

    def prompts(self, ids: Sequence[str] | None = None) -> dict[str, str]:
        """Pair -> its prompt, of these pairs or of all that have latents."""
        wanted = set(self.latents.ids() if ids is None else ids)
        return {pair.id: pair.prompt for pair in self.pairs.pairs() if pair.id in wanted}

    def ids(self, split: Split | None = None) -> tuple[str, ...]:
        """The pairs that have latents, of one side or of both, sorted."""
        there = set(self.latents.ids())
        return tuple(i for i in self.pairs.ids(split) if i in there)

    def buckets(self, ids: Sequence[str]) -> dict[Size, list[str]]:
        """Bucket -> these pairs, for `DataOrder`."""
        sizes = self.latents.buckets()
        found: dict[Size, list[str]] = {}
        for pair_id in ids:
            found.setdefault(sizes[pair_id], []).append(pair_id)
        return found


class PairsAhead(ReadAhead[PairLatents]):
    """Pairs that are read while the step before computes; `expect` announces them."""

    def read(self, pair_id: str, visit: int) -> PairLatents:
        """What `CachedPairs.read` gives."""
        return self(pair_id, visit)


def check_pairs(
    pairs: PairSet, latents: LatentSet, family: Family, on_read: Callable[[], None] | None
) -> Mapping[str, str]:
    """Read and check every latent before the first step; pair -> why it has none.

    Args:
        pairs: the pair set.
        latents: of `cache_pairs`.
        family: the model that will be trained.
        on_read: called after each latent, for progress; None: the index alone is checked.

    Raises:
        StaleCache: the latents are of other pairs or another autoencoder, or not of one shape.
        CorruptFile: a latent is lost or damaged.
    """
    made_for = latents.made_with.get("pairs_hash")
    if made_for != pairs.hash:
        raise StaleCache(
            latents.path,
            f"latents of the pairs {made_for[:12]}" if made_for else "latents of no pairs",
            f"those of {pairs.path} ({pairs.hash[:12]})",
            _REMEDY,
        )
    chosen = check_latents(latents, pairs.ids(), family, on_read)
    for pair_id in chosen:
        places = [latents.row(pair_id, n) for n in range(latents.variants(pair_id))]
        if len(places) % 2 or len({row.shape for row in places}) != 1:
            raise StaleCache(
                latents.path,
                f"{len(places)} latents of {len({row.shape for row in places})} shapes for the "
                f"pair {pair_id[:12]}",
                "two of one shape for each variant",
                _REMEDY,
            )
    return latents.left_out
