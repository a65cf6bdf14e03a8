"""A study on disk: `study.json`, the plan, beside `people.sqlite`, the answers."""

import json
from pathlib import Path

from pydantic import ValidationError

from tastemaker.errors import CorruptFile, InputError
from tastemaker.records.ballot import Study
from tastemaker.records.codec import from_json, to_json
from tastemaker.store.atomic import write_json
from tastemaker.store.hashing import hash_json

FILE = "study.json"


def identified(study: Study) -> Study:
    """The study with an id made from all of its plan."""
    from dataclasses import replace

    digest = hash_json(to_json(replace(study, id="")))
    return replace(study, id=f"s-{digest[:12]}")


def write_study(folder: Path | str, study: Study) -> None:
    """Write the plan.

    Raises:
        InputError: another study is in the folder already.
    """
    path = Path(folder) / FILE
    if path.exists() and read_study(folder).id != study.id:
        raise InputError(
            folder, "another study", "a new folder", "Give another folder: votes belong to a plan."
        )
    write_json(path, to_json(study))


def read_study(folder: Path | str) -> Study:
    """Read the plan.

    Raises:
        InputError: there is none.
        CorruptFile: the file is no plan, or was changed.
    """
    path = Path(folder) / FILE
    if not path.is_file():
        raise InputError(folder, f"no {FILE}", "a study", "Make one: tastemaker study new.")
    try:
        study = from_json(Study, json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, ValidationError) as error:
        raise CorruptFile(f"{path}: not a study ({error}).") from error
    if identified(study).id != study.id:
        raise CorruptFile(f"{path}: was changed after it was made; make a new study instead.")
    return study
