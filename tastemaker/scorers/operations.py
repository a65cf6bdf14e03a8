"""Every operation that a recipe may name, as one type; models are loaded when one is opened."""

from typing import Annotated, TypeAlias

from pydantic import Field

from tastemaker.scorers.aesthetic import Aesthetic
from tastemaker.scorers.caption import Caption
from tastemaker.scorers.embedding import Embedding
from tastemaker.scorers.image_text import ImageText
from tastemaker.scorers.nouns import Nouns
from tastemaker.scorers.nsfw import Nsfw
from tastemaker.scorers.pixel_facts import Pixels
from tastemaker.scorers.quality import Quality
from tastemaker.scorers.tags import Tags
from tastemaker.scorers.text_area import TextArea
from tastemaker.scorers.watermark import Watermark

AnyOperation: TypeAlias = Annotated[
    Pixels
    | TextArea
    | Nsfw
    | Nouns
    | Embedding
    | ImageText
    | Aesthetic
    | Quality
    | Tags
    | Watermark
    | Caption,
    Field(discriminator="kind"),
]
"""What stands among the `columns` of a curate step; `kind` says which one it is."""
