"""Stage: train a small CLIP-format tokenizer on the captions of a selection."""

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from tastemaker.errors import InputError
from tastemaker.records.config import Config as BaseConfig
from tastemaker.records.run import Artefact, Manifest
from tastemaker.store.rundir import StepDir

VERSION = 1
OUTPUTS = ("tokenizer",)


class Config(BaseConfig):
    """Byte-pair merges learned from captions; the same captions give the same files."""

    inputs: ClassVar[dict[str, str]] = {"collection": "collection", "selection": "selection"}
    collection: str
    """Where the captions are."""
    selection: str
    """Whose captions."""
    vocabulary: int = Field(default=2048, gt=514)
    """Tokens at most; 514 are the bytes, the same at the end of a word, begin and end."""
    max_tokens: int = Field(default=32, gt=2)
    """Window of the text models, begin and end token included."""


def run(config: Config, inputs: Mapping[str, Artefact], step: StepDir) -> Manifest:
    """Write `tokenizer/` with the two tokenizers of an SDXL."""
    from tastemaker.models.tokenizer import train_tokenizer
    from tastemaker.store.atomic import atomic_folder
    from tastemaker.store.catalogue import Catalogue
    from tastemaker.store.selections import read_selection

    chosen = set(read_selection(Path(inputs["selection"].path)).ids)
    records = [r for r in Catalogue(Path(inputs["collection"].path)).records() if r.id in chosen]
    captions = sorted({caption for record in records for caption in record.captions})
    if not captions:
        raise InputError(
            inputs["selection"].path,
            "no caption",
            "captions to learn words from",
            "Select pictures that have captions.",
        )
    with atomic_folder(step.path / "tokenizer") as folder:
        tokens = train_tokenizer(captions, config.vocabulary, config.max_tokens, folder)
    return Manifest(
        stage="fit_tokenizer",
        key=step.key,
        outputs={"tokenizer": "tokenizer"},
        counts={"captions": len(captions), "tokens": tokens},
    )
