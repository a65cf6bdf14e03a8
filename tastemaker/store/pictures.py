"""The pictures of a selection, at one size, in memory."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np

from tastemaker.errors import InputError
from tastemaker.records.image import ImageRecord
from tastemaker.records.size import ImageSizes, Size
from tastemaker.store.catalogue import Catalogue
from tastemaker.store.images import load_image
from tastemaker.store.resize import resize_and_crop
from tastemaker.store.selections import read_selection


@dataclass(frozen=True)
class SizedPicture:
    """A picture at its bucket's size: uint8 [H, W, 3], with the sizes that SDXL is told."""

    pixels: np.ndarray
    sizes: ImageSizes


@dataclass(frozen=True)
class SelectedPictures:
    """The pictures of a selection, opened one by one.

    Attributes:
        ids: the selection's ids, sorted.
        files: where each lies.
        size: what each is resized to cover, then cropped to at its centre.
    """

    ids: tuple[str, ...]
    files: Mapping[str, Path]
    size: Size

    def load(self, picture_id: str) -> SizedPicture:
        """One picture at the bucket's size.

        Raises:
            PictureError: its file can no longer be read.
        """
        loaded = load_image(self.files[picture_id])
        return SizedPicture(*resize_and_crop(loaded.pixels, self.size))


def open_pictures(collection: Path, selection: Path, size: Size) -> SelectedPictures:
    """Find every picture of a selection in its collection.

    Raises:
        InputError: the selection names a picture that the collection does not have.
    """
    chosen = read_selection(selection)
    catalogue = Catalogue(collection)
    records = {record.id: record for record in catalogue.records()}
    missing = [i for i in chosen.ids if i not in records]
    if missing:
        raise InputError(
            selection,
            f"{len(missing)} pictures that are not in {collection}, first {missing[0][:12]}",
            "pictures of this collection",
            "Run curate again on this collection.",
        )
    files = {i: catalogue.picture_path(records[i]) for i in chosen.ids}
    return SelectedPictures(chosen.ids, files, size)


def load_pictures(collection: Path, selection: Path, size: Size) -> dict[str, SizedPicture]:
    """Every picture of a selection by id, in memory; for models small enough to train on that.

    Raises:
        InputError, PictureError: as `open_pictures` and `SelectedPictures.load`.
    """
    pictures = open_pictures(collection, selection, size)
    return {i: pictures.load(i) for i in pictures.ids}


def split_held_out(ids: Iterable[str], count: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(trained, held out): `count` ids chosen by hash, so new pictures move few of the others.

    Raises:
        InputError: nothing would be left to train on.
    """
    ordered = sorted(ids, key=lambda i: blake2b(f"held-out:{i}".encode()).digest())
    if count >= len(ordered):
        raise InputError(
            "held_out", count, f"fewer than the {len(ordered)} pictures selected", "Lower held_out."
        )
    return tuple(sorted(ordered[count:])), tuple(sorted(ordered[:count]))


def refuse_uncaptioned(records: Iterable[ImageRecord], selection: str) -> None:
    """Stop before a model is trained on pictures that nobody has described.

    Raises:
        InputError: a picture has no caption.
    """
    ids = [record.id for record in records if not record.captions]
    if ids:
        raise InputError(
            selection,
            f"{len(ids)} pictures without a caption, first {ids[0][:12]}",
            "a caption for every picture that is trained on",
            "Add captions beside the pictures, or the rule `captioned` to the curate step.",
        )
