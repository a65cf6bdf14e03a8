"""Stable Diffusion 1.5 (Rombach et al. 2022, arXiv:2112.10752) over diffusers modules.

Axes: B batch, L text positions, D width of a text position, c h w latent.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from jaxtyping import Float, Real
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from tastemaker.models import autoencoder, loading
from tastemaker.models.checkpoints import inspect_single_file
from tastemaker.models.conditioning import Conditioning, TextStates
from tastemaker.models.networks import UNET_LORA_TARGETS, Networks
from tastemaker.models.precision import DTYPES, Precision
from tastemaker.models.quiet import quiet
from tastemaker.models.schedulers import load_scheduler
from tastemaker.models.tag_tokens import TagTokens
from tastemaker.models.text import (
    TokenReport,
    clip_reports,
    text_fields,
    token_counts,
    token_windows,
    windows_needed,
)
from tastemaker.models.tokenizer import load_tokenizer, save_tokenizer
from tastemaker.models.weights import convert_weights, forget_paths
from tastemaker.records.size import ImageSizes

if TYPE_CHECKING:
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import (
        StableDiffusionPipeline,
    )


class SD15Family(Networks):
    """SD1.5: a UNet, one CLIP text encoder and an autoencoder; it is told no sizes."""

    name = "sd15"
    denoiser = "unet"

    def __init__(
        self,
        *,
        unet: UNet2DConditionModel,
        vae: AutoencoderKL,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        scheduler: SchedulerMixin,
        precision: Precision = "fp32",
    ) -> None:
        """Take over these modules, frozen and in evaluation mode."""
        self.precision: Precision = precision
        self.unet, self.vae, self.scheduler = unet, vae, cast(Any, scheduler)
        self.text_encoder, self.tokenizer = text_encoder, tokenizer
        self._words = TagTokens(tokenizer)
        self._settle()

    @classmethod
    def load(cls, path: Path, *, precision: Precision = "fp32") -> "SD15Family":
        """Load a diffusers folder or a single-file checkpoint in the original layout.

        Raises:
            MissingModel: a part is missing or unreadable.
        """
        if path.is_file():
            return cls._load_single_file(path, precision)
        dtype = DTYPES[precision]
        with loading.whole_folder(path, "unet, vae, text_encoder, tokenizer and scheduler"):
            return cls(
                unet=loading.load_part(UNet2DConditionModel, path / "unet", dtype),
                vae=loading.load_vae(path / "vae"),
                text_encoder=loading.load_part(CLIPTextModel, path / "text_encoder", dtype),
                tokenizer=load_tokenizer(path / "tokenizer"),
                scheduler=load_scheduler(path / "scheduler"),
                precision=precision,
            )

    @classmethod
    def _load_single_file(cls, path: Path, precision: Precision) -> "SD15Family":
        file = inspect_single_file(path)
        whole = loading.load_single_file(_pipeline_class(), file, precision)
        family = cls(
            unet=whole.unet,
            vae=whole.vae,
            text_encoder=whole.text_encoder,
            tokenizer=whole.tokenizer,
            scheduler=whole.scheduler,
            precision=precision,
        )
        loading.apply_marks(family, file)
        return family

    @classmethod
    def build(
        cls,
        config: Mapping[str, Mapping[str, Any]],
        tokenizers: Path,
        *,
        vae: AutoencoderKL | Path | None = None,
        seed: int = 0,
        precision: Precision = "fp32",
    ) -> "SD15Family":
        """A new model with untrained weights that depend on `seed` alone.

        Args:
            config: `unet`, `text_encoder`, `scheduler` (of DDIMScheduler) and, unless `vae` is
                given, `vae`: the fields of the same-named config files. What follows from the
                tokenizer and the encoder is filled in.
            tokenizers: a folder with `tokenizer/`.
            vae: a trained autoencoder, or its folder.
            seed: chooses the initial weights.
            precision: of everything but the autoencoder.
        """
        tokenizer = load_tokenizer(tokenizers / "tokenizer")
        text = CLIPTextConfig(**{**text_fields(tokenizer), **config["text_encoder"]})
        unet = {"cross_attention_dim": text.hidden_size, **config["unet"]}
        # What diffusers asks of a scheduler beside SD1.5, and warns of where it is not so.
        scheduler = {"steps_offset": 1, **config["scheduler"]}
        found = autoencoder.given_or_built(vae, config.get("vae"), seed=seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(
                unet=cast(UNet2DConditionModel, UNet2DConditionModel.from_config(unet)),
                vae=found,
                text_encoder=CLIPTextModel(text),
                tokenizer=tokenizer,
                scheduler=cast(Any, DDIMScheduler.from_config(scheduler)),
                precision=precision,
            )

    @property
    def parts(self) -> Mapping[str, nn.Module]:
        """The three networks."""
        return {"unet": self.unet, "text_encoder_1": self.text_encoder, "vae": self.vae}

    @property
    def size_multiple(self) -> int:
        """Sides of pictures must be multiples of this many pixels: 64 in the published model."""
        return self._unet_multiple()

    @property
    def lora_targets(self) -> Mapping[str, tuple[str, ...]]:
        """Groups of UNet layers for LoRA."""
        return UNET_LORA_TARGETS

    def token_counts(self, prompts: Sequence[str]) -> list[int]:
        """Tokens of each prompt, start and end not counted."""
        return token_counts(self._words, prompts)

    def windows(self, prompts: Sequence[str]) -> int:
        """Text windows that the longest prompt needs, 1 to 3."""
        return windows_needed(self._words, prompts)

    def token_reports(self, prompts: Sequence[str]) -> list[TokenReport]:
        """Tokens, windows and lost tokens of each prompt."""
        return clip_reports(self._words, prompts)

    def encode_text(self, prompts: Sequence[str], windows: int | None = None) -> TextStates:
        """The encoder's last hidden states, after its final normalisation.

        One window gives what `StableDiffusionPipeline.encode_prompt` gives, bit for bit; more are
        put one after the other. L = windows x window length.
        """
        windows = windows or self.windows(prompts)
        ids = token_windows(self._words, prompts, windows)
        hidden = self.text_encoder(ids.flatten(0, 1).to(self.text_encoder.device))[0]
        return TextStates(hidden.reshape(len(prompts), -1, hidden.shape[-1]))

    def conditioning(
        self, text: TextStates, sizes: Sequence[ImageSizes], *, negative: bool = False
    ) -> Conditioning:
        """Text states alone: this architecture is told no sizes."""
        if len(text) != len(sizes):
            raise ValueError(f"{len(text)} prompts, but sizes of {len(sizes)} pictures")
        return Conditioning(text.context)

    def denoise(
        self, x_t: Float[Tensor, "B c h w"], t: Real[Tensor, " B"], cond: Conditioning
    ) -> Float[Tensor, "B c h w"]:
        """The UNet's prediction in fp32."""
        dtype = self.unet.dtype
        prediction = self.unet(
            x_t.to(dtype), t, encoder_hidden_states=cond.context.to(dtype), return_dict=False
        )[0]
        return prediction.float()

    def pipeline(self) -> "StableDiffusionPipeline":
        """A diffusers pipeline over the same modules, without a safety checker."""
        made = _pipeline_class()(
            vae=self.vae,
            text_encoder=self.text_encoder,
            tokenizer=self.tokenizer,
            unet=self.unet,
            # The constructor changes the settings of a scheduler that are not those of 2022, in
            # place; ours is put in afterwards.
            scheduler=cast(Any, DDIMScheduler(steps_offset=1, clip_sample=False)),
            safety_checker=cast(Any, None),
            feature_extractor=cast(Any, None),
            requires_safety_checker=False,
        )
        made.register_modules(scheduler=self.scheduler)
        return made

    def save(self, folder: Path, *, precision: Precision | None = None) -> None:
        """Write a diffusers folder that any tool can load.

        Args:
            folder: where to; made if missing.
            precision: of the weights on disk, the model's own by default; the live model is left.
        """
        with quiet():
            self.pipeline().save_pretrained(folder)
        save_tokenizer(self.tokenizer, folder / "tokenizer")
        forget_paths(folder)
        if precision is not None:
            convert_weights(folder, DTYPES[precision])


def _pipeline_class() -> "type[StableDiffusionPipeline]":
    with quiet():
        from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import (
            StableDiffusionPipeline,
        )
    return StableDiffusionPipeline
