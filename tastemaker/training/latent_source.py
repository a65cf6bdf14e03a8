"""Latents as training sees them: of each visit one crop and, with a log-variance, a fresh sample.

Axes: C latent channels, H and W latent rows and columns.
"""

from collections.abc import Callable, Sequence
from threading import Lock

from torch import Tensor

from tastemaker.errors import StaleCache
from tastemaker.models.autoencoder import weights_hash
from tastemaker.models.family import Family
from tastemaker.records.draws import Draw
from tastemaker.records.size import ImageSizes, Size
from tastemaker.store.latent_sets import LatentSet
from tastemaker.store.latents import IndexRow
from tastemaker.training.kept_latents import FIXED, KeptLatents, sampled

_LOOK_EVERY = 256
"""Visits after which a run that follows looks for new variants (ours)."""

_REMEDY = "Run the cache step with the model that is trained."


class VisitedLatents:
    """(sample id, visit) -> latent [C, H, W] in fp32, and the sizes that belong to it.

    Which crop a visit gets, and its sample of the autoencoder's posterior, come from draws keyed
    by the visit. So they are the same after a resume, in any batch and any process, and the sizes
    are always those of the crop that was taken. No picture is opened. Several threads may ask.

    Args:
        latents: the set; it should have been checked (`check_latents`), as reading is not.
        seed: the run's.
        follow: take in variants that a worker adds meanwhile; a run is not reproducible then.
    """

    def __init__(self, latents: LatentSet, seed: int, *, follow: bool = False) -> None:
        self.latents, self.seed, self.follow = latents, seed, follow
        self._read = KeptLatents(latents)
        self._lock = Lock()
        self._visits = 0

    def __call__(self, sample_id: str, visit: int) -> tuple[Tensor, ImageSizes]:
        """The latent of one visit; `FIXED` gives the first crop's mean.

        Raises:
            StaleCache: the set has no such picture.
            CorruptFile: the shard cannot be read.
        """
        with self._lock:
            if self.follow:
                if self._visits % _LOOK_EVERY == 0:
                    self.latents.follow()
                self._visits += 1
            variant = 0
            if visit != FIXED and (variants := self.latents.variants(sample_id)) > 1:
                variant = Draw(self.seed, "variant", sample_id, visit).integer(variants)
            number = self.latents.number(sample_id, variant)
        latent = self._read(number)
        return sampled(latent, self.seed, sample_id, visit), latent.sizes

    def bucket(self, sample_id: str) -> Size:
        """Height and width of a picture's crops, from the index alone."""
        return self.latents.row(sample_id).bucket

    def rows(self, sample_id: str) -> tuple[IndexRow, ...]:
        """What the index says of each of a picture's crops."""
        variants = range(self.latents.variants(sample_id))
        return tuple(self.latents.row(sample_id, variant) for variant in variants)


def check_latents(
    latents: LatentSet, ids: Sequence[str], family: Family, on_read: Callable[[], None] | None
) -> tuple[str, ...]:
    """Read and check every latent before the first step; the pictures that have one.

    Args:
        latents: the set.
        ids: the pictures of the selection.
        family: the model that will be trained.
        on_read: called after each latent, for progress; None: the index alone is checked.

    Raises:
        StaleCache: the set is of another selection or another autoencoder, or a latent has not the
            shape of its bucket.
        CorruptFile: a latent is lost or damaged.
    """
    chosen = []
    for picture_id in ids:
        if picture_id not in latents.left_out:
            latents.variants(picture_id)
            chosen.append(picture_id)
    check_rows(latents, chosen, family)
    check_autoencoder(latents, family)
    if on_read is not None:
        latents.verify(on_read)
    return tuple(chosen)


def check_rows(latents: LatentSet, ids: Sequence[str], family: Family) -> None:
    """What the index says of these pictures' latents fits the model and the set.

    Raises:
        StaleCache: a latent is by an autoencoder that the set does not name, or has not the
            model's channels, or not the shape of its bucket.
        CorruptFile: a latent is lost.
    """
    known = set(latents.encodings.values())
    for picture_id in ids:
        for variant in range(latents.variants(picture_id)):
            row = latents.row(picture_id, variant)
            if row.shape[0] != family.latent_channels:
                raise StaleCache(
                    latents.path,
                    f"latents of {row.shape[0]} channels",
                    f"{family.latent_channels} channels as this model has",
                    _REMEDY,
                )
            wanted = Size(*(side // family.latent_factor for side in row.bucket))
            if Size(*row.shape[1:]) != wanted:
                raise StaleCache(
                    latents.path,
                    f"a latent of {Size(*row.shape[1:])} for the bucket {row.bucket}, of picture "
                    f"{picture_id[:12]}",
                    f"{wanted}",
                    _REMEDY,
                )
            if known and row.format.vae_hash not in known:
                raise StaleCache(
                    latents.path,
                    f"a latent of picture {picture_id[:12]} by an autoencoder that the set does "
                    "not name",
                    f"one of {', '.join(latents.encodings)}",
                    _REMEDY,
                )


def check_autoencoder(latents: LatentSet, family: Family) -> None:
    """The model's own autoencoder is one of the set's.

    Raises:
        StaleCache: it is not.
    """
    declared = {latents.autoencoder, latents.other_autoencoder}
    if latents.autoencoder and weights_hash(family.parts["vae"]) not in declared:
        raise StaleCache(
            latents.path,
            "latents of another autoencoder",
            f"those of this model's ({family.name})",
            _REMEDY,
        )
