"""Pages from templates: everything that they show is escaped unless the template says otherwise."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tastemaker import __version__
from tastemaker.report import words

_FOLDER = Path(__file__).parent


def rendered(template: str, sheets: Sequence[str], **context: Any) -> str:
    """One page, whole in itself.

    Args:
        template: name of its file.
        sheets: names of style sheets, which are put into the page.
        context: what it shows.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "lasting": words.lasting,
        "counted": words.counted,
        "figure": words.figure,
        "percent": words.percent,
        "several": words.several,
    }
    style_sheet = "\n".join((_FOLDER / sheet).read_text(encoding="utf-8") for sheet in sheets)
    page = environment.get_template(template)
    return page.render(style_sheet=style_sheet, version=__version__, **context)
