"""Stable Diffusion XL (Podell et al. 2023) over diffusers modules.

Axes: B batch, L text positions, D = D1 + D2 widths of the two text encoders, P pooled width, c h w
latent.
"""

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from jaxtyping import Float, Int, Shaped
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from tastemaker.diffusion.schedule import DiscreteSchedule
from tastemaker.errors import InputError, MissingModel
from tastemaker.models import autoencoder
from tastemaker.models.family import DTYPES, Conditioning, Precision, TextStates
from tastemaker.models.quiet import quiet
from tastemaker.models.text import text_fields, token_counts, token_windows, windows_needed
from tastemaker.models.tokenizer import load_tokenizer, save_tokenizer
from tastemaker.models.weights import convert_weights, forget_paths, own_memory
from tastemaker.records.size import ImageSizes

if TYPE_CHECKING:
    from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import (
        StableDiffusionXLPipeline,
    )

_ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
_FEED_FORWARD = ("ff.net.0.proj", "ff.net.2")
_PROJECTIONS = ("proj_in", "proj_out")


class SDXLFamily:
    """SDXL: a UNet, two CLIP text encoders and an autoencoder.

    The autoencoder stays in fp32 at every precision: SDXL's overflows in fp16, and mixed
    autoencoder precisions cost the bigASP author a run.
    """

    name = "sdxl"

    def __init__(
        self,
        *,
        unet: UNet2DConditionModel,
        vae: AutoencoderKL,
        text_encoders: tuple[CLIPTextModel, CLIPTextModelWithProjection],
        tokenizers: tuple[CLIPTokenizer, CLIPTokenizer],
        scheduler: SchedulerMixin,
        precision: Precision = "fp32",
    ) -> None:
        """Take over these modules, frozen and in evaluation mode."""
        self.precision: Precision = precision
        self.unet, self.vae, self.scheduler = unet, vae, cast(Any, scheduler)
        self.text_encoder_1, self.text_encoder_2 = text_encoders
        self.tokenizer_1, self.tokenizer_2 = tokenizers
        with quiet():
            for name, part in self.parts.items():
                part.to(torch.float32 if name == "vae" else DTYPES[precision])
        self.trainable(())

    @classmethod
    def load(cls, path: Path, *, precision: Precision = "fp32") -> "SDXLFamily":
        """Load a diffusers folder or a single-file checkpoint in the original layout.

        Raises:
            MissingModel: a part is missing or unreadable.
        """
        if path.is_file():
            return cls._load_single_file(path, precision)
        dtype = DTYPES[precision]

        def part(kind: Any, name: str, **options: Any) -> Any:
            return own_memory(kind.from_pretrained(path / name, local_files_only=True, **options))

        try:
            with quiet():
                return cls(
                    unet=part(UNet2DConditionModel, "unet", dtype=dtype),
                    vae=part(AutoencoderKL, "vae", dtype=torch.float32),
                    text_encoders=(
                        part(CLIPTextModel, "text_encoder", dtype=dtype),
                        part(CLIPTextModelWithProjection, "text_encoder_2", dtype=dtype),
                    ),
                    tokenizers=(
                        load_tokenizer(path / "tokenizer"),
                        load_tokenizer(path / "tokenizer_2"),
                    ),
                    scheduler=_load_scheduler(path / "scheduler"),
                    precision=precision,
                )
        except (OSError, SafetensorError) as error:
            raise MissingModel(
                path,
                str(error).strip().splitlines()[0],
                "unet, vae, text_encoder, text_encoder_2, tokenizer, tokenizer_2 and scheduler",
                "Download or copy the whole folder again; the SDXL refiner alone cannot be used.",
            ) from error

    @classmethod
    def _load_single_file(cls, path: Path, precision: Precision) -> "SDXLFamily":
        try:
            with quiet():
                whole = _pipeline_class().from_single_file(
                    str(path), dtype=DTYPES[precision], add_watermarker=False
                )
        except OSError as error:
            raise MissingModel(
                path,
                "a checkpoint whose configuration and tokenizers are not in the local hub cache",
                "the configuration of stabilityai/stable-diffusion-xl-base-1.0 in the cache",
                "Run `hf download stabilityai/stable-diffusion-xl-base-1.0 "
                "--include '*.json' '*.txt'` once, or use a diffusers folder.",
            ) from error
        return cls(
            unet=own_memory(whole.unet),
            vae=own_memory(whole.vae),
            text_encoders=(own_memory(whole.text_encoder), own_memory(whole.text_encoder_2)),
            tokenizers=(whole.tokenizer, whole.tokenizer_2),
            scheduler=whole.scheduler,
            precision=precision,
        )

    @classmethod
    def build(
        cls,
        config: Mapping[str, Mapping[str, Any]],
        tokenizers: Path,
        *,
        vae: AutoencoderKL | Path | None = None,
        seed: int = 0,
        precision: Precision = "fp32",
    ) -> "SDXLFamily":
        """A new model with untrained weights that depend on `seed` alone.

        What follows from the tokenizers and the encoders (vocabulary, window, special ids, width of
        the cross-attention, width of the added embedding) is filled in and need not be given.

        Args:
            config: `unet`, `text_encoder`, `text_encoder_2`, `scheduler` (of DDIMScheduler) and,
                unless `vae` is given, `vae`: the fields of the same-named config files.
            tokenizers: a folder with `tokenizer/` and `tokenizer_2/`.
            vae: a trained autoencoder, or its folder.
            seed: chooses the initial weights.
            precision: of everything but the autoencoder.
        """
        tokenizer, tokenizer_2 = (
            load_tokenizer(tokenizers / name) for name in ("tokenizer", "tokenizer_2")
        )
        text_1 = CLIPTextConfig(**{**text_fields(tokenizer), **config["text_encoder"]})
        text_2 = CLIPTextConfig(**{**text_fields(tokenizer_2), **config["text_encoder_2"]})
        unet: dict[str, Any] = {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "cross_attention_dim": text_1.hidden_size + text_2.hidden_size,
            **config["unet"],
        }
        pooled_and_sizes = text_2.projection_dim + 6 * unet["addition_time_embed_dim"]
        unet.setdefault("projection_class_embeddings_input_dim", pooled_and_sizes)
        if vae is None:
            vae = autoencoder.build_autoencoder(config["vae"], seed=seed)
        elif isinstance(vae, Path):
            vae = autoencoder.load_autoencoder(vae)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(
                unet=cast(UNet2DConditionModel, UNet2DConditionModel.from_config(unet)),
                vae=vae,
                text_encoders=(CLIPTextModel(text_1), CLIPTextModelWithProjection(text_2)),
                tokenizers=(tokenizer, tokenizer_2),
                scheduler=cast(Any, DDIMScheduler.from_config(dict(config["scheduler"]))),
                precision=precision,
            )

    @property
    def parts(self) -> Mapping[str, nn.Module]:
        """The four networks."""
        return {
            "unet": self.unet,
            "text_encoder_1": self.text_encoder_1,
            "text_encoder_2": self.text_encoder_2,
            "vae": self.vae,
        }

    @property
    def device(self) -> torch.device:
        """Where the UNet is."""
        return next(self.unet.parameters()).device

    @property
    def latent_factor(self) -> int:
        """Pixels per latent cell along one side: 8 in the published model."""
        return autoencoder.latent_factor(self.vae)

    @property
    def latent_channels(self) -> int:
        """Channels of a latent: 4 in the published model."""
        return int(self.vae.config["latent_channels"])

    @property
    def lora_targets(self) -> Mapping[str, tuple[str, ...]]:
        """Groups of UNet layers for LoRA."""
        return {
            "attention": _ATTENTION,
            "attention+ff": _ATTENTION + _FEED_FORWARD,
            "transformer": _ATTENTION + _FEED_FORWARD + _PROJECTIONS,
        }

    def token_counts(self, prompts: Sequence[str]) -> list[int]:
        """Tokens of each prompt, start and end not counted."""
        return token_counts(self.tokenizer_1, prompts)

    def windows(self, prompts: Sequence[str]) -> int:
        """Text windows that the longest prompt needs, 1 to 3."""
        return max(
            windows_needed(tokenizer, prompts) for tokenizer in (self.tokenizer_1, self.tokenizer_2)
        )

    def encode_text(self, prompts: Sequence[str], windows: int | None = None) -> TextStates:
        """Both encoders' last but one hidden states, side by side, and the pooled text.

        The pooled text is the second encoder's, of the first window. One window gives what
        `StableDiffusionXLPipeline.encode_prompt` gives, bit for bit. L = windows x window length.
        """
        windows = windows or self.windows(prompts)
        contexts, pooled = [], None
        for tokenizer, encoder in (
            (self.tokenizer_1, self.text_encoder_1),
            (self.tokenizer_2, self.text_encoder_2),
        ):
            ids = token_windows(tokenizer, prompts, windows)
            states = encoder(ids.flatten(0, 1).to(encoder.device), output_hidden_states=True)
            hidden = states.hidden_states[-2]
            contexts.append(hidden.reshape(len(prompts), -1, hidden.shape[-1]))
            if encoder is self.text_encoder_2:
                pooled = states.text_embeds.view(len(prompts), windows, -1)[:, 0]
        assert pooled is not None
        return TextStates(torch.cat(contexts, dim=-1), pooled)

    def conditioning(self, text: TextStates, sizes: Sequence[ImageSizes]) -> Conditioning:
        """Text states with the six numbers of Podell et al. 2023, section 2.2, height first."""
        if len(text) != len(sizes):
            raise ValueError(f"{len(text)} prompts, but sizes of {len(sizes)} pictures")
        time_ids = torch.tensor([each.time_ids() for each in sizes], dtype=torch.float32)
        return Conditioning(text.context, text.pooled, time_ids.to(text.context.device))

    def encode_image(
        self, pixels: Shaped[Tensor, "B 3 H W"]
    ) -> tuple[Float[Tensor, "B c h w"], Float[Tensor, "B c h w"]]:
        """Mean and log-variance of the latents, scaled as the UNet sees them."""
        return autoencoder.posterior(self.vae, pixels)

    def decode(self, latents: Float[Tensor, "B c h w"]) -> Float[Tensor, "B 3 H W"]:
        """Pixels in [0, 1]."""
        return autoencoder.decode(self.vae, latents)

    def denoise(
        self, x_t: Float[Tensor, "B c h w"], t: Int[Tensor, " B"], cond: Conditioning
    ) -> Float[Tensor, "B c h w"]:
        """The UNet's prediction in fp32."""
        dtype = self.unet.dtype
        prediction = self.unet(
            x_t.to(dtype),
            t,
            encoder_hidden_states=cond.context.to(dtype),
            added_cond_kwargs={"text_embeds": cond.pooled.to(dtype), "time_ids": cond.time_ids},
            return_dict=False,
        )[0]
        return prediction.float()

    def schedule(self) -> DiscreteSchedule:
        """The noise schedule in the model's scheduler config."""
        return DiscreteSchedule.from_config(dict(self.scheduler.config))

    def trainable(self, parts: Sequence[str]) -> list[nn.Parameter]:
        """Unfreeze these parts and set them to training mode; freeze the others in evaluation mode.

        Raises:
            InputError: a part is not one of `parts`.
        """
        for name in parts:
            if name not in self.parts:
                raise InputError(
                    "trainable",
                    name,
                    f"one of {', '.join(self.parts)}",
                    "Name a part of the model.",
                )
        for name, part in self.parts.items():
            part.requires_grad_(name in parts)
            part.train(name in parts)
        return [p for name in parts for p in self.parts[name].parameters()]

    def to(self, device: torch.device | str) -> "SDXLFamily":
        """Move every part."""
        for part in self.parts.values():
            part.to(device)
        return self

    def channels_last(self) -> "SDXLFamily":
        """Store convolution weights channels last: faster on CPUs and tensor cores."""
        for part in (self.unet, self.vae):
            part.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        return self

    def pipeline(self) -> "StableDiffusionXLPipeline":
        """A diffusers pipeline over the same modules; an empty prompt is never zeros."""
        return _pipeline_class()(
            vae=self.vae,
            text_encoder=self.text_encoder_1,
            text_encoder_2=self.text_encoder_2,
            tokenizer=self.tokenizer_1,
            tokenizer_2=self.tokenizer_2,
            unet=self.unet,
            scheduler=self.scheduler,
            force_zeros_for_empty_prompt=False,
            add_watermarker=False,
        )

    def save(self, folder: Path, *, precision: Precision | None = None) -> None:
        """Write a diffusers folder that any tool can load.

        Args:
            folder: where to; made if missing.
            precision: of the weights on disk, the model's own by default; the live model is left.
        """
        with quiet():
            self.pipeline().save_pretrained(folder)
        save_tokenizer(self.tokenizer_1, folder / "tokenizer")
        save_tokenizer(self.tokenizer_2, folder / "tokenizer_2")
        forget_paths(folder)
        if precision is not None:
            convert_weights(folder, DTYPES[precision])


def _pipeline_class() -> "type[StableDiffusionXLPipeline]":
    # Imported late and quietly: transformers remarks on the absence of torchvision.
    with quiet():
        from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import (
            StableDiffusionXLPipeline,
        )
    return StableDiffusionXLPipeline


def _load_scheduler(folder: Path) -> Any:
    """The scheduler class that the folder names, with its settings."""
    config = cast(Any, DDIMScheduler.load_config(folder, local_files_only=True))
    name = config["_class_name"]
    return getattr(import_module("diffusers"), name).from_pretrained(folder, local_files_only=True)
