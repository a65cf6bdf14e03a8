"""The loss masks of a training run: from a column of boxes, or from mask files.

Axes: weights are float32 `[h, w]`, a number a latent cell, 0 masked and 1 kept; boxes are `[N, 4]`
as in `curation.loss_masks`.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path

import numpy as np

from tastemaker.curation.loss_masks import weights_of_boxes, weights_of_mask
from tastemaker.errors import InputError
from tastemaker.records.image import ImageRecord
from tastemaker.records.size import ImageSizes
from tastemaker.store.catalogue import Catalogue
from tastemaker.store.mask_files import find_mask, read_alpha, read_mask


class LossMasks:
    """Weights of the latents of each picture that has a mask.

    Args:
        find: (picture, sizes) -> weights `[h, w]` of one of its latents.
        ids: the pictures that have a mask.
        least: weight of what is masked; between that and 1 of what is masked in part.
        keep: whether weights stay in memory once they were found, 4 bytes a latent cell.
    """

    def __init__(
        self,
        find: Callable[[str, ImageSizes], np.ndarray],
        ids: Collection[str],
        *,
        least: float = 0.0,
        keep: bool = False,
    ) -> None:
        self.ids = frozenset(ids)
        self._find, self._least, self._keep = find, least, keep
        self._found: dict[tuple[str, ImageSizes], np.ndarray | None] = {}

    def __call__(self, picture_id: str, sizes: ImageSizes) -> np.ndarray | None:
        """The weights of one latent of a picture; None when all of it counts.

        Raises:
            InputError: nothing of the latent counts; names the picture.
            PictureError: its mask file cannot be read.
        """
        if picture_id not in self.ids:
            return None
        key = (picture_id, sizes)
        if key in self._found:
            return self._found[key]
        kept = self._find(picture_id, sizes)
        weights = (self._least + (1.0 - self._least) * kept).astype(np.float32)
        if not weights.any():
            raise InputError(
                f"loss mask of picture {picture_id[:12]}",
                f"no cell that counts, in the crop {sizes}",
                "a mask that leaves something to learn from",
                "Drop the picture with a rule of the curate step, or correct its mask.",
            )
        found = None if (weights == 1).all() else weights
        if self._keep:
            self._found[key] = found
        return found


def box_masks(
    catalogue: Catalogue,
    column: str,
    ids: Iterable[str],
    factor: int,
    *,
    least_score: float = 0.0,
    least: float = 0.0,
) -> LossMasks:
    """Masks that leave out the boxes of a column, such as `watermark`.

    Args:
        catalogue: of the collection.
        column: its name; it has `boxes` and `scores`.
        ids: the pictures that are trained on.
        factor: pixels for each latent cell, along one side.
        least_score: boxes with a lower score do not count.
        least: weight inside of the boxes.

    Raises:
        InputError: there is no such finished column, or it has no values for some picture.
    """
    boxes = read_boxes(catalogue, column, ids, least_score)

    def find(picture_id: str, sizes: ImageSizes) -> np.ndarray:
        return weights_of_boxes(boxes[picture_id], sizes, factor)

    return LossMasks(find, [i for i, found in boxes.items() if len(found)], least=least)


def read_boxes(
    catalogue: Catalogue, column: str, ids: Iterable[str], least_score: float = 0.0
) -> dict[str, np.ndarray]:
    """Boxes float64 `[N, 4]` of each picture, from a finished column.

    Raises:
        InputError: there is no such finished column, or it has no values for some picture.
    """
    try:
        table = catalogue.query(f"select id, boxes, scores from \"{column}\" where status = 'ok'")
    except InputError as error:
        raise InputError(
            f"{catalogue.path}, loss_mask",
            f"no finished column '{column}' with boxes and scores",
            "a column that the curate step has measured",
            "Add `{kind: watermark, model: ...}` to the `columns` of the curate step.",
        ) from error
    wanted = list(ids)
    lines = {line["id"]: line for line in table.to_pylist()}
    without = [i for i in wanted if i not in lines]
    if without:
        raise InputError(
            f"{catalogue.path}, loss_mask",
            f"{len(without)} pictures without values of '{column}', first {without[0][:12]}",
            "values for every picture that is trained on",
            "Run curate again for what is missing, or drop these pictures.",
        )
    found = {}
    for picture_id in wanted:
        scores = np.asarray(lines[picture_id]["scores"], np.float64)
        boxes = np.asarray(lines[picture_id]["boxes"], np.float64).reshape(-1, 4)
        found[picture_id] = boxes[scores >= least_score]
    return found


def file_masks(
    catalogue: Catalogue,
    records: Mapping[str, ImageRecord],
    factor: int,
    *,
    folder: str = "masks",
    alpha: bool = False,
    least: float = 0.0,
) -> LossMasks:
    """Masks from files beside the pictures (`store.mask_files`), each read once for each crop.

    Args:
        catalogue: of the collection.
        records: the pictures that are trained on.
        factor: pixels for each latent cell, along one side.
        folder: name of the folder of masks beside the pictures.
        alpha: whether a picture without a mask file is masked where it is transparent.
        least: weight of what is masked.

    Raises:
        InputError: no picture has a mask file.
        PictureError: a picture cannot be read any more.
    """
    paths = {i: catalogue.picture_path(record) for i, record in records.items()}
    files = {i: mask for i, path in paths.items() if (mask := find_mask(path, folder)) is not None}
    if not files and not alpha:
        raise InputError(
            f"{catalogue.path}, loss_mask",
            f"no mask file for any of {len(records)} pictures",
            f"NAME-masklabel.png beside NAME.jpg, or {folder}/NAME.png",
            "Check the names of the masks, or leave out loss_mask.",
        )

    def find(picture_id: str, sizes: ImageSizes) -> np.ndarray:
        mask = _read(files.get(picture_id), paths[picture_id], sizes)
        return weights_of_mask(np.ones((1, 1)) if mask is None else mask, sizes, factor)

    return LossMasks(find, records if alpha else files, least=least, keep=True)


def _read(mask: Path | None, picture: Path, sizes: ImageSizes) -> np.ndarray | None:
    return read_alpha(picture) if mask is None else read_mask(mask, sizes.original)
