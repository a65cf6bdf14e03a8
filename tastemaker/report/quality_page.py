"""The report of a quality model: how far to trust it, what it likes, and what it calls junk.

One HTML file that needs nothing else; of the collection only the pictures that it shows are read.
"""

import json
from pathlib import Path
from typing import Any

from tastemaker.errors import InputError
from tastemaker.report.templates import rendered
from tastemaker.report.thumbnails import Thumbnails
from tastemaker.store.atomic import write_text

PAGE = "quality.html"

_HIGHEST = 30

_NEEDED = {
    *("answers", "pictures", "raters", "ranks", "simulated", "method", "embedding", "collection"),
    *("accuracy_both_new", "accuracy_one_new", "repeat_consistency", "best_possible_accuracy"),
    *("gold", "groups", "junk", "highest"),
}


def write_quality_page(step: Path | str) -> Path:
    """Write `quality.html` into the folder of a finished quality_model step.

    Returns:
        The path of the page.

    Raises:
        InputError: it is no such step.
    """
    step = Path(step)
    found, collection = read_quality(step)
    groups = found["groups"]
    ids = [*found["junk"], *found["highest"][:_HIGHEST]]
    ids += [i for table in groups.values() for row in table["rows"] for i in row["examples"]]
    thumbnails = Thumbnails(collection, ids, side_px=96)
    tables = [
        {
            "name": name.removeprefix("attribute."),
            "explained": table["explained"],
            "rows": [
                {**row, "pictures_of": [thumbnails.address(i) for i in row["examples"]]}
                for row in table["rows"]
            ],
        }
        for name, table in groups.items()
    ]
    page = rendered(
        "quality.html.j2",
        ("page.css", "study.css"),
        found=found,
        tables=tables,
        most=max(found["ranks"]) or 1,
        junk=[thumbnails.address(i) for i in found["junk"]],
        highest=[thumbnails.address(i) for i in found["highest"][:_HIGHEST]],
    )
    write_text(step / PAGE, page)
    return step / PAGE


def read_quality(step: Path) -> tuple[dict[str, Any], Path]:
    """The figures of a finished quality_model step, and the folder of its collection.

    Raises:
        InputError: it is no such step, or one of another version.
    """
    file = step / "quality.json"
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        lacking = sorted(_NEEDED - found.keys())
        if lacking:
            raise ValueError(f"no {', '.join(lacking)}")
        return found, (step / found["collection"]).resolve()
    except (OSError, ValueError, AttributeError) as error:
        todo = "Train one: tastemaker rate COLLECTION --train."
        raise InputError(file, f"no figures ({error})", "a quality_model step", todo) from error
