"""A user's folder: pictures, tars, Parquet files and latents anywhere below it, told by content.

Nothing outside the folder is ever read: links and names that lead out are refused. What cannot be
used is an item with a problem; files that are nothing of all this are counted for `describe`.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from tastemaker.errors import InputError
from tastemaker.records.preference import Preference
from tastemaker.store.bigasp_pictures import BigaspPictures
from tastemaker.store.folder_listing import FolderListing, Heads
from tastemaker.store.hashing import hash_json
from tastemaker.store.loose_pictures import LoosePictures
from tastemaker.store.parquet_pictures import ParquetPictures
from tastemaker.store.parquet_rows import kind_of_table
from tastemaker.store.pick_a_pic import PickAPic, refuse_without_pictures
from tastemaker.store.source_item import Source, SourceItem, Where
from tastemaker.store.tar_pictures import TarPictures, left_out_text


class FolderPictures:
    """Pictures below a folder; files are used in place.

    Items come in this order: picture files by relative path (`store.loose_pictures` has their
    attributes), then those of tars, of Parquet files, of Pick-a-Pic, and latents; archives by name.

    Raises:
        InputError: the folder is not there.
    """

    def __init__(self, folder: Path, *, caption_column: str | None = None) -> None:
        if not folder.exists():
            raise InputError(folder, "nothing there", "a folder of pictures", "Check the path.")
        if not folder.is_dir():
            raise InputError(
                folder, "a file", "a folder of pictures", f"Give its folder, {folder.parent}."
            )
        self.folder = folder.resolve()
        self.spec = f"folder:{self.folder}"
        self.caption_column = caption_column
        self._heads: Heads = {}
        self._tables: dict[tuple[str, int, int], str] = {}
        self._tars: dict[str, TarPictures] = {}
        self._left_out: Counter[str] | None = None

    def items(self, where: Where | None = None) -> Iterator[SourceItem]:
        """Everything that is or should be a picture; each problem is an item too.

        Raises:
            InputError: there is nothing of it at all, or a table has no usable columns.
        """
        loose, archives = self._parts()
        yield from loose.items(where)
        taken = loose.keys()
        for archive in archives:
            for item in archive.items(where):
                # A file may be called like a picture's uid; a key stands for one item only.
                yield replace(item, key=f"{item.key}#2") if item.key in taken else item

    def count(self, where: Where | None = None) -> int:
        """How many items there are; without `where` no text and no picture is read."""
        loose, archives = self._parts()
        return loose.count(where) + sum(archive.count(where) for archive in archives)

    def preferences(self) -> Iterator[Preference]:
        """Those of preference folders (`w/` and `l/`) and of Pick-a-Pic files."""
        loose, archives = self._parts()
        yield from loose.preferences()
        for archive in archives:
            yield from archive.preferences()

    def describe(self) -> dict[str, str]:
        """The folder, with a licence that only its owner knows, and what is no picture in it."""
        facts = {
            "name": self.folder.name,
            "licence": "the owner's",
            "attribution": "",
            "path": str(self.folder),
        }
        if self._left_out is None:
            self._parts()
        total = Counter(self._left_out)
        for tar in self._tars.values():
            total.update({f"{kind} in tars": count for kind, count in tar.left_out.items()})
        return facts | left_out_text(total)

    def fingerprint(self) -> str:
        """Hash of names, sizes and times of all files; no file is opened."""
        listing = FolderListing(self.folder, look=False)
        facts = [[name, *listing.size_and_time(name)] for name in sorted(listing.files)]
        return hash_json([str(self.folder), self.caption_column, facts])

    def _parts(self) -> tuple[LoosePictures, list[Source]]:
        """Picture files, and the archives in their order.

        Raises:
            InputError: there is nothing that is or should be a picture.
        """
        listing = FolderListing(self.folder, self._heads)
        by_kind = self._tables_by_kind(listing)
        loose = LoosePictures(listing, self.caption_column)
        own = {"caption_column": self.caption_column}
        files = listing.files
        # Those of an earlier look know how many members they have, and which they left out.
        self._tars = {
            name: self._tars.get(name) or TarPictures(files[name], name=name, **own)
            for name in sorted(listing.tars)
        }
        archives: list[Source] = [*self._tars.values()]
        for name in sorted(by_kind["pictures"]):
            archives.append(ParquetPictures(files[name], name=name, **own))
        if by_kind["pick-a-pic"]:
            archives.append(PickAPic(by_kind["pick-a-pic"], spec=self.spec))
        if listing.latents:
            latents = {name: files[name] for name in listing.latents}
            archives.append(BigaspPictures(latents, by_kind["latents"], **own))
        self._left_out = Counter(listing.left_out)
        unused = dict(by_kind["table"])
        unused |= {} if listing.latents else by_kind["latents"]
        if unused:
            self._left_out[".parquet without pictures"] += len(unused)
        if not loose.keys() and not archives:
            others = sum(self._left_out.values())
            raise InputError(
                self.folder,
                f"{others} other files" if others else "an empty folder",
                "pictures (.jpg, .png, .webp, .tif, .gif, .avif, ...), tars or Parquet files",
                "Put some there, or give another folder.",
            )
        return loose, archives

    def _tables_by_kind(self, listing: FolderListing) -> Mapping[str, dict[str, Path]]:
        """Parquet files by what they hold; those that cannot be used become problems."""
        kinds = ("pictures", "pick-a-pic", "latents", "table", "pick-a-pic without pictures")
        found: dict[str, dict[str, Path]] = {kind: {} for kind in kinds}
        for name in sorted(listing.parquets):
            place = (name, *listing.size_and_time(name))
            try:
                if place not in self._tables:
                    self._tables[place] = kind_of_table(listing.files[name])
                kind = self._tables[place]
                if kind == "pick-a-pic without pictures":
                    raise refuse_without_pictures(listing.files[name])
            except InputError as error:
                listing.problems[name] = str(error.got)
                continue
            found[kind][name] = listing.files[name]
        return found
