"""Pages from templates, and the few files that they load: read once, found by name in a table."""

import json
import mimetypes
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

from fastapi import HTTPException, Request, Response
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from tastemaker import __version__

_HERE = Path(__file__).parent
_KINDS = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


class Pages:
    """Templates and static files. A request only ever names a key of a table, never a path.

    Args:
        menu: (name, address) of the parts of the studio that every page links to.
    """

    def __init__(self, menu: Mapping[str, str]) -> None:
        files = sorted((_HERE / "static").iterdir())
        self._files = {file.name: file.read_bytes() for file in files if file.suffix in _KINDS}
        self._environment = Environment(
            loader=FileSystemLoader(_HERE / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.globals |= {
            "static": self._address,
            "menu": dict(menu),
            "version": __version__,
        }
        self._environment.filters |= {"data": _as_data, "counted": lambda n: f"{n:,}"}

    def page(self, template: str, status: int = 200, /, **context: Any) -> HTMLResponse:
        """A page; everything that it shows is escaped."""
        text = self._environment.get_template(template).render(**context)
        return HTMLResponse(text, status)

    def file(self, name: str, is_versioned: bool) -> Response:
        """A static file.

        Args:
            name: which one.
            is_versioned: whether its address holds a hash of what is in it.

        Raises:
            HTTPException: 404, there is none of that name.
        """
        if name not in self._files:
            raise HTTPException(404, "no such file")
        kind = _KINDS.get(Path(name).suffix) or mimetypes.guess_type(name)[0]
        lasting = "public, max-age=31536000, immutable"
        headers = {"cache-control": lasting if is_versioned else "no-cache"}
        return Response(self._files[name], media_type=kind, headers=headers)

    def _address(self, name: str) -> str:
        return f"/static/{name}?{blake2b(self._files[name], digest_size=6).hexdigest()}"


def wants_page(request: Request) -> bool:
    """Whether an error is for a person's eyes."""
    return "text/html" in request.headers.get("accept", "")


def _as_data(value: Any) -> Markup:
    """A value inside a `<script type="application/json">`, which no text in it can end."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    for letter in "<>&\u2028\u2029":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return Markup(text)
