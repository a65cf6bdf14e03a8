"""Every scorer of generated pictures that a recipe may name; `open` loads its models."""

from typing import Annotated, TypeAlias

from pydantic import Field

from tastemaker.scorers.hps import Hps
from tastemaker.scorers.image_reward import ImageReward
from tastemaker.scorers.laion_aesthetics import LaionAesthetics
from tastemaker.scorers.match_scorers import Clip, PickScore, Siglip

AnyScoring: TypeAlias = Annotated[
    Clip | Siglip | PickScore | Hps | ImageReward | LaionAesthetics,
    Field(discriminator="kind"),
]
"""What stands among the `scorers` of an evaluate step; `kind` says which one it is."""
