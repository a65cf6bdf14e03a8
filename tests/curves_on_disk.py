"""What TensorBoard shows of a training log."""

import re
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def curves_on_disk(folder: Path) -> list[tuple[str, int, float]]:
    """(name, images, value) of every point, by name, then in order."""
    # A name ends with a count without leading zeros, so that the tenth file of a process, begun in
    # the same second, sorts before the ninth. Only tests resume as quickly as that.
    paths = sorted(
        folder.iterdir(), key=lambda path: [int(n) for n in re.findall(r"\d+", path.name)]
    )
    for number, path in enumerate(paths):
        path.rename(folder / f"{number:04}.tfevents")
    board = EventAccumulator(str(folder))
    board.Reload()
    tags = sorted(board.Tags()["scalars"])
    return [(tag, event.step, event.value) for tag in tags for event in board.Scalars(tag)]
