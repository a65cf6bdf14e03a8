"""What differs between checkpoints of one architecture: how they are sampled and trained.

A preset changes no code path of its family; it is a record of settings.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from tastemaker.diffusion.schedule import DiscreteSchedule
from tastemaker.errors import InputError
from tastemaker.models.checkpoints import family_name, inspect_single_file, read_index
from tastemaker.records.samplers import SamplerName
from tastemaker.records.size import Size

if TYPE_CHECKING:
    from tastemaker.models.family import Family

_TURBO_LATENT = 64
"""Side of Turbo's latents: 512 pixels; the base model's are of 128."""

Spacing = Literal["leading", "trailing", "linspace"]


@dataclass(frozen=True)
class Preset:
    """Settings of one kind of checkpoint.

    Attributes:
        name: what recipes call it.
        family: its architecture.
        size: of its pictures.
        steps: denoising steps.
        guidance: classifier-free guidance; 0 and 1 turn it off.
        spacing: how the steps lie in the schedule; None leaves the checkpoint's own.
        sampler: how it is sampled.
        timesteps: those that training draws from; None draws from all.
        zero_terminal: whether training rescales the schedule to zero terminal SNR; None leaves it.
        empty_captions: share of visits that train on the empty text.
    """

    name: str
    family: str
    size: Size
    steps: int
    guidance: float
    spacing: Spacing | None = None
    sampler: SamplerName = "dpmpp_2m_karras"
    timesteps: tuple[int, ...] | None = None
    zero_terminal: bool | None = None
    empty_captions: float = 0.1

    def schedule(self, own: DiscreteSchedule) -> DiscreteSchedule:
        """The schedule to train with: the checkpoint's own, rescaled where the preset says so."""
        if self.zero_terminal and own.alpha_bar[-1] > 0:
            return own.rescale_zero_terminal()
        return own

    def training_timesteps(
        self, own: DiscreteSchedule, *, informative: bool = False
    ) -> tuple[int, ...]:
        """The timesteps that training draws from, lowest first.

        Args:
            own: the checkpoint's own schedule.
            informative: leave out those where x_t says nothing of x0 (alpha_bar is 0). Pairs need
                it: both noisy latents are the same noise there, and the loss has no gradient.

        Raises:
            InputError: the schedule is shorter than the preset takes it to be.
        """
        schedule = self.schedule(own)
        last = schedule.last_informative if informative else len(schedule) - 1
        if self.timesteps is not None and self.timesteps[-1] >= len(schedule):
            raise InputError(
                "preset",
                f"'{self.name}' for a schedule of {len(schedule)} timesteps",
                f"one of at least {self.timesteps[-1] + 1}",
                "Choose another preset, or none.",
            )
        chosen = range(len(schedule)) if self.timesteps is None else self.timesteps
        return tuple(t for t in chosen if t <= last)

    def apply(self, family: "Family") -> None:
        """Give a loaded model the preset's schedule.

        Raises:
            InputError: the model is of another architecture.
        """
        self.refuse_other(family.name)
        if self.zero_terminal is not None:
            family.set_schedule(zero_terminal=self.zero_terminal)

    def refuse_other(self, family: str) -> None:
        """Check that a model is of the preset's architecture.

        Raises:
            InputError: it is of another one.
        """
        if family != self.family:
            raise InputError(
                "preset",
                f"a model of the architecture {family}",
                f"{self.family} for '{self.name}'",
                "Choose a preset of this architecture.",
            )


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        preset.name: preset
        for preset in (
            # Sampling: DPM-Solver++ is our choice; 5.0 is bigASP's and slow learner's guidance.
            Preset("sdxl", "sdxl", Size(1024, 1024), 30, 5.0),
            # Sauer et al. 2023, arXiv:2311.17042: 1 to 4 steps without guidance, 512 pixels.
            # Training settings of the Turbo run of Wallace et al. 2023, arXiv:2311.12908: the four
            # steps that are sampled, zero terminal SNR, and no empty texts.
            Preset(
                "sdxl-turbo",
                "sdxl",
                Size(512, 512),
                4,
                0.0,
                spacing="trailing",
                sampler="euler_a",
                timesteps=(249, 499, 749, 999),
                zero_terminal=True,
                empty_captions=0.0,
            ),
            # Podell et al. 2023, section 2.5: trained on the first 200 noise levels.
            Preset("sdxl-refiner", "sdxl", Size(1024, 1024), 30, 5.0, timesteps=tuple(range(200))),
            Preset("sd15", "sd15", Size(512, 512), 30, 7.5),
            Preset("pixart-512", "pixart", Size(512, 512), 20, 4.5),
            Preset("pixart-1024", "pixart", Size(1024, 1024), 20, 4.5),
        )
    }
)
"""Name -> settings. Guidance of sd15 and pixart, and steps of pixart, are diffusers' defaults."""


def preset(name: str) -> Preset:
    """The preset of this name.

    Raises:
        InputError: there is none.
    """
    if name not in PRESETS:
        raise InputError("preset", name, f"one of {', '.join(PRESETS)}", "Choose one of these.")
    return PRESETS[name]


def preset_of(model: Path) -> Preset | None:
    """The preset that a model's files call for; None where its own configuration says all.

    The refiner is a pipeline without a first text encoder. Turbo has the networks of the base
    model; its configuration alone tells it: an ancestral sampler with trailing steps over a UNet of
    64x64 latents. A single file does not tell Turbo from the base model.

    Args:
        model: a diffusers folder or a single-file checkpoint.

    Raises:
        InputError: it is no model of a supported architecture.
    """
    if model.is_file():
        kind = inspect_single_file(model).kind
        return PRESETS[kind] if kind == "sdxl-refiner" else None
    if family_name(model) != "sdxl":
        return None
    if (read_index(model).get("text_encoder") or [None])[0] is None:
        return PRESETS["sdxl-refiner"]
    scheduler = _config(model / "scheduler" / "scheduler_config.json")
    told = (scheduler.get("_class_name"), scheduler.get("timestep_spacing"))
    if told != ("EulerAncestralDiscreteScheduler", "trailing"):
        return None
    small = _config(model / "unet" / "config.json").get("sample_size") == _TURBO_LATENT
    return PRESETS["sdxl-turbo"] if small else None


def named_or_found(name: str, model: Path) -> Preset | None:
    """The preset that a recipe asks for.

    Args:
        name: of a preset, `auto` for the model's own, or `none`.
        model: a diffusers folder or a single-file checkpoint.

    Raises:
        InputError: there is no such preset, or the model is of another architecture.
    """
    if name == "none":
        return None
    if name == "auto":
        return preset_of(model)
    found = preset(name)
    found.refuse_other(family_name(model))
    return found


def _config(path: Path) -> dict[str, Any]:
    """A configuration; empty where there is none to read, which loading the model will say."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
