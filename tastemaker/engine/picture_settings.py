"""How pictures are drawn: what a recipe says, and what holds where it says nothing."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator

from tastemaker.records.config import Config
from tastemaker.records.samplers import SamplerName
from tastemaker.records.size import Size
from tastemaker.store.hashing import hash_json

if TYPE_CHECKING:
    from tastemaker.models.presets import Preset
    from tastemaker.models.sampling import Sampling

VERSION = 3
"""Changes when the same settings give other pictures."""

SAMPLER: SamplerName = "dpmpp_2m_karras"
STEPS, GUIDANCE = 30, 5.0

_COLOUR = re.compile(r"#[0-9a-f]{6}|[a-z]+", re.IGNORECASE)


class PictureSettings(Config):
    """How pictures are drawn; noise depends on prompt and number alone, so models can be paired."""

    name: str = Field(default="samples", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Short name of the model in reports, for example `before` or `after`."""
    samples_per_prompt: int = Field(default=1, gt=0)
    """Pictures of every prompt."""
    preset: str = "auto"
    """Whose sampler, steps, guidance and spacing hold where none is given: a preset's name, `auto`
    for what the model's files tell (SDXL-Turbo: euler_a, 4 steps, no guidance), or `none`. A preset
    that is named also gives the size; a single file of SDXL-Turbo needs `sdxl-turbo`."""
    sampler: SamplerName | None = None
    """The sampler; when not given the preset's, else `dpmpp_2m_karras` (DPM++ Karras is stated in
    the source of the SDXL quality-tuning recipe). `euler_a`, `dpmpp_2m_sde_karras` and `lcm` add
    noise between the steps, each picture its own."""
    steps: int | None = Field(default=None, gt=0)
    """Denoising steps; when not given the preset's, else 30 (ours)."""
    guidance: float | None = Field(default=None, ge=0)
    """Classifier-free guidance; 1 and less turn it off, as SDXL-Turbo wants it; when not given the
    preset's, else 5.0 (stated in the same source)."""
    spacing: Literal["leading", "trailing", "linspace"] | None = None
    """How the steps lie in the noise schedule; when not given the preset's, else the model's own.
    Few steps need `trailing`, and so does a model of zero terminal SNR."""
    negative: str = ""
    """Negative prompt; the empty text is what captions are replaced with in training."""
    height_px: int | None = Field(default=None, gt=0)
    """Height of the pictures; the model's own size when not given."""
    width_px: int | None = Field(default=None, gt=0)
    """Width of the pictures; the model's own size when not given."""
    original_px: int | None = Field(default=None, gt=0)
    """Side of the square original that SDXL is told of; the pictures' own size when not given."""
    layout: tuple[tuple[str, ...], ...] = ()
    """Rows of colours, from the top: every picture begins as these flat areas (SDEdit, Meng et al.
    2021). `[[skyblue, skyblue], ["#306020", tan]]` is sky above two fields; names are those of
    CSS."""
    strength: float = Field(default=0.8, gt=0, le=1)
    """Share of the steps that are taken from the layout or the start pictures: small keeps more of
    them (0.8 is ours). No meaning without either."""
    seed: int = 0
    """Of the noise; models with the same seed share the noise of a prompt and number."""
    batch: int = Field(default=16, gt=0)
    """Pictures at a time; it changes no picture beyond rounding."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Of the networks."""

    @field_validator("layout")
    @classmethod
    def _colours(cls, rows: tuple[tuple[str, ...], ...]) -> tuple[tuple[str, ...], ...]:
        from PIL import ImageColor

        for row in rows:
            if not row:
                raise ValueError("a row of the layout has no colour")
            for colour in row:
                known = colour.lower() in ImageColor.colormap or colour.startswith("#")
                if not _COLOUR.fullmatch(colour) or not known:
                    raise ValueError(f"{colour!r} is no colour such as skyblue or '#306020'")
        return rows


@dataclass(frozen=True)
class Manner:
    """How pictures are drawn, with every value settled.

    Attributes:
        sampler: name of the sampler.
        steps: denoising steps.
        guidance: classifier-free guidance.
        spacing: of the steps; None is the model's own.
        size: of the pictures.
        original: the size that SDXL is told of.
        preset: whose values fill in; empty for none.
    """

    sampler: SamplerName
    steps: int
    guidance: float
    spacing: Literal["leading", "trailing", "linspace"] | None
    size: Size
    original: Size | None = None
    preset: str = ""

    def sampling(self) -> "Sampling":
        """The same for `models.sampling`."""
        from tastemaker.models.sampling import Sampling

        return Sampling(
            self.sampler, self.steps, self.guidance, self.size, self.original, self.spacing
        )

    def text(self) -> str:
        """In words: `euler_a, 4 steps, guidance 0, trailing`."""
        spacing = f", {self.spacing}" if self.spacing else ""
        return f"{self.sampler}, {self.steps} steps, guidance {self.guidance:g}{spacing}"


def settle(config: PictureSettings, preset: "Preset | None", own: Size) -> Manner:
    """Fill in what a recipe leaves open.

    Args:
        config: what it says.
        preset: of the model, by `models.presets.named_or_found`.
        own: the model's own size of picture.
    """
    named = preset is not None and config.preset == preset.name
    size = preset.size if preset is not None and named else own
    return Manner(
        sampler=config.sampler or (SAMPLER if preset is None else preset.sampler),
        steps=config.steps or (STEPS if preset is None else preset.steps),
        guidance=_first(config.guidance, GUIDANCE if preset is None else preset.guidance),
        spacing=config.spacing or (None if preset is None else preset.spacing),
        size=Size(config.height_px or size.h, config.width_px or size.w),
        original=Size(config.original_px, config.original_px) if config.original_px else None,
        preset="" if preset is None else preset.name,
    )


def settings_hash(config: PictureSettings, manner: Manner, keys: Mapping[str, str]) -> str:
    """Hash of all that determines a picture beside its prompt and noise.

    Args:
        config: how it is drawn.
        manner: the same with nothing left open.
        keys: what the weights are: hashes of `model` and `adapter`, or of a checkpoint; and what a
            refiner and start pictures are.
    """
    fields: dict[str, Any] = {
        "sampler": manner.sampler,
        "steps": manner.steps,
        "guidance": manner.guidance,
        "spacing": manner.spacing,
        "negative": config.negative,
        "original_px": config.original_px,
        "precision": config.precision,
    }
    if config.layout or "start_pictures" in keys:
        fields |= {"layout": config.layout, "strength": config.strength}
    return hash_json([VERSION, dict(keys), list(manner.size), fields])


def _first(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value
