"""Rules of curation: each is a pure function of what is known of a picture, and gives a verdict."""

from collections.abc import Mapping, Sequence

from tastemaker.records.image import Drop, ImageRecord, Keep, Verdict

DUPLICATE, GONE, CHANGED = "duplicate", "gone", "changed"
"""How the error of a row begins: the same bytes as another, no longer there, other bytes now."""


def readable(record: ImageRecord) -> Verdict:
    """Drop what the collection holds only as a row: unreadable files, exact copies, files gone."""
    if record.status == "ok":
        return Keep()
    error = record.error or "unknown"
    if error.startswith(DUPLICATE):
        return Drop("exact duplicate", got=error, limit="one of each")
    if error.startswith((GONE, CHANGED)):
        return Drop("gone", got=error, limit="a file that is still there")
    return Drop(f"unreadable: {error.split(' (')[0]}", got=error, limit="a whole picture")


def wanted(
    record: ImageRecord, where: Mapping[str, Sequence[str]], *, keep_unlabelled: bool = False
) -> Verdict:
    """Keep pictures whose attributes have one of the wanted values each.

    A picture without the attribute is not wanted, or is with `keep_unlabelled`.
    """
    for name, values in where.items():
        got = record.attribute(name)
        if got is None and keep_unlabelled:
            continue
        if got not in values:
            limit = " or ".join(values)
            return Drop(f"not wanted: {name}", got="(none)" if got is None else got, limit=limit)
    return Keep()


def large_enough(record: ImageRecord, least_px: int) -> Verdict:
    """Drop pictures whose shorter side is below a limit."""
    side = min(record.size) if record.size else 0
    return Keep() if side >= least_px else Drop("too small", got=side, limit=least_px)


def not_too_long(record: ImageRecord, most: float) -> Verdict:
    """Drop pictures whose longer side is more than `most` times the shorter one."""
    if record.size is None or min(record.size) == 0:
        return Keep()
    ratio = max(record.size) / min(record.size)
    return Keep() if ratio <= most else Drop("too long", got=round(ratio, 3), limit=most)


def captioned(record: ImageRecord) -> Verdict:
    """Drop pictures that nobody has described."""
    return Keep() if record.captions else Drop("no caption", got=0, limit=1)


def not_blank(flat_share: float, most: float) -> Verdict:
    """Drop pictures that are one colour nearly everywhere."""
    return Keep() if flat_share <= most else Drop("blank", got=round(flat_share, 4), limit=most)


def sharp_enough(sharpness: float, least: float) -> Verdict:
    """Drop blurred pictures."""
    return Keep() if sharpness >= least else Drop("blurred", got=round(sharpness, 2), limit=least)


def first_drop(verdicts: Sequence[Verdict]) -> Verdict:
    """The first verdict that drops, or Keep."""
    return next((verdict for verdict in verdicts if isinstance(verdict, Drop)), Keep())
