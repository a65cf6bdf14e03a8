"""What a collection knows of every place that pictures were seen at, and how a new look changes it.

A place is a source and the source's own key for a picture. Each place has one living row in the
catalogue: a picture, an unreadable file with the reason, or an exact copy of another place. Rows
are never removed: a file that has changed or gone leaves its row behind, marked as an error.
"""

from collections import Counter
from dataclasses import dataclass, replace

from tastemaker.curation.rules_alone import CHANGED, DUPLICATE, GONE, LEFT_OUT
from tastemaker.errors import PictureError
from tastemaker.records.image import ImageRecord
from tastemaker.records.size import Size
from tastemaker.store.catalogue import Catalogue, Row, Stamp
from tastemaker.store.hashing import hash_bytes, hash_json
from tastemaker.store.images import read_picture_file
from tastemaker.store.source_item import SourceItem

FLUSH_ROWS = 256
"""After so many new rows they are written (ours): what a kill can cost."""

_BARE = "bare"

Place = tuple[str, str]


@dataclass(frozen=True)
class Inspected:
    """What reading one file told.

    Attributes:
        hash: of its bytes; None when there were none to read.
        size: upright size; None when it cannot be decoded.
        format: Pillow's name of the format.
        mode: colour mode in the file.
        frames: number of frames.
        error: why it cannot be used, or None.
        stamp: the file's size and time before it was read.
    """

    hash: str | None = None
    size: Size | None = None
    format: str = ""
    mode: str = ""
    frames: int = 1
    error: str | None = None
    stamp: Stamp | None = None


class Ledger:
    """The places of one collection while pictures are collected into it.

    `counts` says what happened: `new`, `unchanged`, `new text`, `changed`, `back`, `gone`,
    `left out`.
    """

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue
        self.counts: Counter[str] = Counter()
        self._places: dict[Place, Row] = {}
        self._rows: dict[str, Row] = {}
        self._seen: set[Place] = set()
        self._added: list[Row] = []
        self._changed: dict[str, Row] = {}
        self._replaced: list[Row] = []
        for part in catalogue.parts():
            for row in catalogue.rows(part):
                self._rows[row.record.id] = row
                if _is_alive(row):
                    self._replace_at_place(row)

    def is_known(self, source: str, item: SourceItem) -> bool:
        """Whether a file, or data with a stamp, has the size and time that it was read with.

        Of data the collection has its own copy, which must still be there and as long.
        """
        row = self._places.get((source, item.key))
        if row is None or row.stamp is None:
            return False
        try:
            if item.path is not None:
                return row.stamp == Stamp.of(item.path) and row.record.path == str(item.path)
            if item.stamp is None or row.stamp != Stamp(*item.stamp):
                return False
            copy = self.catalogue.picture_path(row.record)
            return copy.is_file() and copy.stat().st_size == row.stamp.bytes
        except OSError:
            return False

    def enter(self, source: str, item: SourceItem, path: str, seen: Inspected | None) -> Row:
        """Record one picture as it is now; `seen` is None when `is_known` said so.

        Returns:
            Its row.
        """
        place = (source, item.key)
        self._seen.add(place)
        old = self._places.get(place)
        if seen is None:
            if old is None:
                raise ValueError(f"{place} was never read")
            texts = {"captions": item.captions, "tags": item.tags, "attributes": item.attributes}
            new = replace(old, record=replace(old.record, **texts))
        else:
            self._make_way(place, item, seen)
            new = self._new_row(source, item, path, seen)
        self._settle(place, old, new)
        if len(self._added) >= FLUSH_ROWS:
            self.flush()
        return new

    def close(self, sources: set[str], *, asked_all: bool = True) -> None:
        """Mark what was not seen as gone, or as not asked for, and write everything.

        An exact copy takes the place of a picture that has gone or changed.

        Args:
            sources: those that were looked at. What the collection has of others is gone, too: what
                a collection holds does not depend on what was collected into it before.
            asked_all: whether those were asked for all that they have.
        """
        for row in [row for place, row in self._places.items() if place not in self._seen]:
            source = row.record.source
            if source in sources and not asked_all:
                error = f"{LEFT_OUT}: not among those that were asked for"
            elif source in sources:
                error = f"{GONE}: no longer in {source}"
            else:
                error = f"{GONE}: {source} is no source now"
            self.counts[error.partition(":")[0]] += 1
            self._replaced.append(row)
            self._put(_dead(row, error))
        lost = [row for row in self._replaced if row.record.status == "ok"]
        copies = self._copies() if lost else {}
        for row in lost:
            copy = copies.get(row.record.id)
            if copy is not None and not _is_alive(self._rows[row.record.id]):
                self._promote(copy, row)
        self._replaced = []
        self.flush()
        # At the end, and all at once: a kill before this is healed by the next look.
        if self._changed:
            self.catalogue.update_base(self._changed)
            self._changed = {}
        self.catalogue.close_base()

    def flush(self) -> None:
        """Write new rows; rows that were there before are changed by `close`."""
        self.catalogue.append_base(self._added)
        self._added = []

    def picture_id(self, source: str, key: str) -> str | None:
        """The usable picture at a place; at an exact copy's, the one that it is a copy of.

        A copy may have been noted before the place that it names got other content, so the copy's
        bytes are read. None when there is no such picture.
        """
        row = self._places.get((source, key))
        if row is None or row.record.status == "ok":
            return None if row is None else row.record.id
        is_copy = (row.record.error or "").startswith(DUPLICATE)
        id_ = (self._named_by(row) or self._hash_of(row)) if is_copy else None
        picture = None if id_ is None else self._rows.get(id_)
        return id_ if picture is not None and picture.record.status == "ok" else None

    def usable(self) -> list[ImageRecord]:
        """The pictures that can be used."""
        return [row.record for row in self._places.values() if row.record.status == "ok"]

    def unusable(self) -> list[ImageRecord]:
        """Living rows that are no picture: unreadable files and exact copies."""
        return [row.record for row in self._places.values() if row.record.status != "ok"]

    def _promote(self, copy: Row, row: Row) -> None:
        """Give the id of a picture that is no more to a copy of it that still is."""
        here = copy.record
        self._put(_dead(copy, f"{GONE}: it took the place of {row.record.key}"))
        record = replace(
            row.record,
            path=here.path,
            source=here.source,
            key=here.key,
            captions=here.captions,
            tags=here.tags,
            attributes=here.attributes,
        )
        self._put(Row(record, copy.stamp))

    def _new_row(self, source: str, item: SourceItem, path: str, seen: Inspected) -> Row:
        error = seen.error
        id_ = seen.hash
        twin = self._rows.get(id_) if id_ is not None else None
        place = (source, item.key)
        if error is None and twin is not None and self._lives_elsewhere(twin, place):
            error = f"{DUPLICATE} of {twin.record.source} {twin.record.key}"
        if error is not None or id_ is None:
            # Many bad files have the same bytes (none, for example); each needs a row of its own.
            id_ = _unusable_id(source, item.key, seen.hash, error)
        record = ImageRecord(
            id=id_,
            path=path,
            source=source,
            key=item.key,
            size=seen.size,
            format=seen.format,
            mode=seen.mode,
            frames=seen.frames,
            captions=item.captions,
            tags=item.tags,
            attributes=item.attributes,
            status="ok" if error is None else "error",
            error=error,
        )
        return Row(record, seen.stamp)

    def _make_way(self, place: Place, item: SourceItem, seen: Inspected) -> None:
        """Let an exact copy that has words count instead of a picture that has none."""
        twin = self._rows.get(seen.hash or "")
        if twin is None or seen.error is not None or not self._lives_elsewhere(twin, place):
            return
        if item.captions and not twin.record.captions:
            bare = twin.record
            id_ = _unusable_id(bare.source, bare.key, bare.id, _BARE)
            error = f"{DUPLICATE} of {place[0]} {place[1]}"
            self._save(Row(replace(bare, id=id_, status="error", error=error), twin.stamp))

    def _lives_elsewhere(self, row: Row, place: Place) -> bool:
        return _is_alive(row) and _place(row) != place and self._places.get(_place(row)) is row

    def _save(self, row: Row) -> None:
        """Make this the living row of its place: a new one, or an old one with its id."""
        if row.record.id in self._rows:
            self._put(row)
        else:
            self._rows[row.record.id] = row
            self._added.append(row)
        self._places[_place(row)] = row

    def _settle(self, place: Place, old: Row | None, new: Row) -> None:
        id_ = new.record.id
        if old is not None and old.record.id == id_:
            self.counts["unchanged" if old.record == new.record else "new text"] += 1
            if old != new:
                self._put(new)
            return
        if old is not None:
            self.counts["changed"] += 1
            self._replaced.append(old)
            self._put(_dead(old, f"{CHANGED}: the file has other content now"))
        known = self._rows.get(id_)
        if known is not None and not _is_alive(known):
            self.counts["back"] += 1
        elif old is None:
            self.counts["new"] += 1
        self._save(new)

    def _put(self, row: Row) -> None:
        """Replace a row that the catalogue has, or will have with the next part."""
        id_ = row.record.id
        for index, added in enumerate(self._added):
            if added.record.id == id_:
                self._added[index] = row
                break
        else:
            self._changed[id_] = row
        self._rows[id_] = row
        if _is_alive(row):
            self._places[_place(row)] = row
        elif self._places.get(_place(row), row).record.id == id_:
            self._places.pop(_place(row), None)

    def _replace_at_place(self, row: Row) -> None:
        # After a kill between new and changed rows, the old row may still look alive.
        before = self._places.get(_place(row))
        if before is not None:
            self._put(_dead(before, f"{CHANGED}: the file has other content now"))
        self._places[_place(row)] = row

    def _copies(self) -> dict[str, Row]:
        """Living exact copies by the hash of their bytes; their files are read for it."""
        found: dict[str, Row] = {}
        for place, row in self._places.items():
            is_copy = (row.record.error or "").startswith(DUPLICATE) and place in self._seen
            id_ = self._hash_of(row) if is_copy else None
            if id_ is not None:
                found.setdefault(id_, row)
        return found

    def _hash_of(self, row: Row) -> str | None:
        try:
            return hash_bytes(read_picture_file(self.catalogue.picture_path(row.record)))
        except PictureError:
            return None

    def _named_by(self, copy: Row) -> str | None:
        """The picture that a copy's error names, if it is still the one that was meant."""
        record = copy.record
        words = (record.error or "").removeprefix(f"{DUPLICATE} of ").split(" ")
        for end in range(1, len(words)):
            twin = self._places.get((" ".join(words[:end]), " ".join(words[end:])))
            id_ = None if twin is None else twin.record.id
            # The copy's own id was made of the hash of its bytes, which is the twin's id.
            made = [_unusable_id(record.source, record.key, id_, w) for w in (record.error, _BARE)]
            if id_ is not None and record.id in made:
                return id_
        return None


def _unusable_id(source: str, key: str, hash_: str | None, why: str | None) -> str:
    return hash_json(["unusable", source, key, hash_, why])


def _place(row: Row) -> Place:
    return row.record.source, row.record.key


def _is_alive(row: Row) -> bool:
    error = row.record.error or ""
    return not (row.record.status == "error" and error.startswith((GONE, CHANGED, LEFT_OUT)))


def _dead(row: Row, error: str) -> Row:
    return Row(replace(row.record, status="error", error=error), None)
