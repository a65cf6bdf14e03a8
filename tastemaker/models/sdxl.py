"""Stable Diffusion XL (Podell et al. 2023) over diffusers modules.

Axes: B batch, L text positions, D = D1 + D2 widths of the two text encoders, P pooled width, c h w
latent.
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
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from tastemaker.errors import InputError
from tastemaker.models import autoencoder, loading
from tastemaker.models.checkpoints import inspect_single_file, read_index
from tastemaker.models.conditioning import Conditioning, TextStates
from tastemaker.models.networks import UNET_LORA_TARGETS, Networks
from tastemaker.models.precision import DTYPES, Precision
from tastemaker.models.quiet import quiet
from tastemaker.models.schedulers import load_scheduler
from tastemaker.models.tag_tokens import TagTokens
from tastemaker.models.text import (
    TokenReport,
    clip_reports,
    longest_reports,
    text_fields,
    token_counts,
    token_windows,
    windows_needed,
)
from tastemaker.models.tokenizer import load_tokenizer, save_tokenizer
from tastemaker.models.weights import convert_weights, forget_paths
from tastemaker.records.size import ImageSizes

if TYPE_CHECKING:
    from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import (
        StableDiffusionXLPipeline,
    )
    from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl_img2img import (
        StableDiffusionXLImg2ImgPipeline,
    )

    Pipeline = StableDiffusionXLPipeline | StableDiffusionXLImg2ImgPipeline

AESTHETIC_SCORE, NEGATIVE_AESTHETIC_SCORE = 6.0, 2.5
"""What the refiner is told of the picture wanted and of the one to move away from (the defaults of
its pipeline)."""

Encoders = tuple[CLIPTextModel | None, CLIPTextModelWithProjection]
Tokenizers = tuple[CLIPTokenizer | None, CLIPTokenizer]


class SDXLFamily(Networks):
    """SDXL: a UNet, two CLIP text encoders and an autoencoder; or the refiner, with one encoder.

    The refiner is told an aesthetic score in place of the target size, and has the second text
    encoder alone. Which of the two a model is, its UNet's width of added numbers tells.
    """

    name = "sdxl"
    denoiser = "unet"

    def __init__(
        self,
        *,
        unet: UNet2DConditionModel,
        vae: AutoencoderKL,
        text_encoders: Encoders,
        tokenizers: Tokenizers,
        scheduler: SchedulerMixin,
        precision: Precision = "fp32",
    ) -> None:
        """Take over these modules, frozen and in evaluation mode; the refiner has None first."""
        self.precision: Precision = precision
        self.unet, self.vae, self.scheduler = unet, vae, cast(Any, scheduler)
        self.text_encoder_1, self.text_encoder_2 = text_encoders
        self.tokenizer_1, self.tokenizer_2 = tokenizers
        self._words = [None if each is None else TagTokens(each) for each in tokenizers]
        self.size_numbers = _size_numbers(unet, self.text_encoder_2)
        self._settle()

    @classmethod
    def load(cls, path: Path, *, precision: Precision = "fp32") -> "SDXLFamily":
        """Load a diffusers folder or a single-file checkpoint in the original layout.

        Raises:
            MissingModel: a part is missing or unreadable.
        """
        if path.is_file():
            return cls._load_single_file(path, precision)
        dtype = DTYPES[precision]
        # The refiner's index names the first encoder as [null, null].
        first = read_index(path).get("text_encoder", ["transformers"])[0] is not None
        needed = "unet, vae, text_encoder_2, tokenizer_2 and scheduler"
        if first:
            needed = "unet, vae, text_encoder, text_encoder_2, tokenizer, tokenizer_2 and scheduler"
        with loading.whole_folder(path, needed):
            return cls(
                unet=loading.load_part(UNet2DConditionModel, path / "unet", dtype),
                vae=loading.load_vae(path / "vae"),
                text_encoders=(
                    loading.load_part(CLIPTextModel, path / "text_encoder", dtype)
                    if first
                    else None,
                    loading.load_part(CLIPTextModelWithProjection, path / "text_encoder_2", dtype),
                ),
                tokenizers=(
                    load_tokenizer(path / "tokenizer") if first else None,
                    load_tokenizer(path / "tokenizer_2"),
                ),
                scheduler=load_scheduler(path / "scheduler"),
                precision=precision,
            )

    @classmethod
    def _load_single_file(cls, path: Path, precision: Precision) -> "SDXLFamily":
        file = inspect_single_file(path)
        whole = loading.load_single_file(
            _pipeline_class(refiner=file.kind == "sdxl-refiner"), file, precision
        )
        family = cls(
            unet=whole.unet,
            vae=whole.vae,
            text_encoders=(whole.text_encoder, whole.text_encoder_2),
            tokenizers=(whole.tokenizer, whole.tokenizer_2),
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
    ) -> "SDXLFamily":
        """A new model with untrained weights that depend on `seed` alone.

        What follows from the tokenizers and the encoders (vocabulary, window, special ids, width of
        the cross-attention, width of the added embedding) is filled in and need not be given.

        Args:
            config: `unet`, `text_encoder` (left out for a refiner), `text_encoder_2`, `scheduler`
                (of DDIMScheduler) and, unless `vae` is given, `vae`: the fields of the same-named
                config files.
            tokenizers: a folder with `tokenizer/` and `tokenizer_2/`.
            vae: a trained autoencoder, or its folder.
            seed: chooses the initial weights.
            precision: of everything but the autoencoder.
        """
        tokenizer, tokenizer_2 = (
            load_tokenizer(tokenizers / name) for name in ("tokenizer", "tokenizer_2")
        )
        # Without `text_encoder` it is a refiner.
        text_1 = None
        if "text_encoder" in config:
            text_1 = CLIPTextConfig(**{**text_fields(tokenizer), **config["text_encoder"]})
        text_2 = CLIPTextConfig(**{**text_fields(tokenizer_2), **config["text_encoder_2"]})
        unet: dict[str, Any] = {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "cross_attention_dim": (text_1.hidden_size if text_1 else 0) + text_2.hidden_size,
            **config["unet"],
        }
        numbers = 6 if text_1 else 5
        pooled_and_sizes = text_2.projection_dim + numbers * unet["addition_time_embed_dim"]
        unet.setdefault("projection_class_embeddings_input_dim", pooled_and_sizes)
        found = autoencoder.given_or_built(vae, config.get("vae"), seed=seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(
                unet=cast(UNet2DConditionModel, UNet2DConditionModel.from_config(unet)),
                vae=found,
                text_encoders=(
                    CLIPTextModel(text_1) if text_1 else None,
                    CLIPTextModelWithProjection(text_2),
                ),
                tokenizers=(tokenizer if text_1 else None, tokenizer_2),
                scheduler=cast(Any, DDIMScheduler.from_config(dict(config["scheduler"]))),
                precision=precision,
            )

    @property
    def parts(self) -> Mapping[str, nn.Module]:
        """The networks; the refiner has no `text_encoder_1`."""
        found: dict[str, nn.Module] = {"unet": self.unet}
        if self.text_encoder_1 is not None:
            found["text_encoder_1"] = self.text_encoder_1
        return {**found, "text_encoder_2": self.text_encoder_2, "vae": self.vae}

    @property
    def is_refiner(self) -> bool:
        """Whether the UNet is told an aesthetic score in place of the target size."""
        return self.size_numbers == 5

    @property
    def size_multiple(self) -> int:
        """Sides of pictures must be multiples of this many pixels: 32 in the published model."""
        return self._unet_multiple()

    @property
    def lora_targets(self) -> Mapping[str, tuple[str, ...]]:
        """Groups of UNet layers for LoRA."""
        return UNET_LORA_TARGETS

    @property
    def _text(self) -> list[tuple[TagTokens, CLIPTextModel | CLIPTextModelWithProjection]]:
        encoders = (self.text_encoder_1, self.text_encoder_2)
        pairs = zip(self._words, encoders, strict=True)
        return [(words, one) for words, one in pairs if words is not None and one is not None]

    def token_counts(self, prompts: Sequence[str]) -> list[int]:
        """Tokens of each prompt, start and end not counted."""
        return token_counts(self._text[0][0], prompts)

    def windows(self, prompts: Sequence[str]) -> int:
        """Text windows that the longest prompt needs, 1 to 3."""
        return max(windows_needed(tokenizer, prompts) for tokenizer, _ in self._text)

    def token_reports(self, prompts: Sequence[str]) -> list[TokenReport]:
        """Tokens, windows and lost tokens of each prompt; of two tokenizers, the longer count."""
        reports = [clip_reports(tokenizer, prompts) for tokenizer, _ in self._text]
        return reports[0] if len(reports) == 1 else longest_reports(*reports)

    def encode_text(self, prompts: Sequence[str], windows: int | None = None) -> TextStates:
        """Both encoders' last but one hidden states, side by side, and the pooled text.

        The pooled text is the second encoder's, of the first window. One window gives what
        `StableDiffusionXLPipeline.encode_prompt` gives, bit for bit. L = windows x window length.
        """
        windows = windows or self.windows(prompts)
        contexts, pooled = [], None
        for tokenizer, encoder in self._text:
            ids = token_windows(tokenizer, prompts, windows)
            states = encoder(ids.flatten(0, 1).to(encoder.device), output_hidden_states=True)
            hidden = states.hidden_states[-2]
            contexts.append(hidden.reshape(len(prompts), -1, hidden.shape[-1]))
            if encoder is self.text_encoder_2:
                pooled = states.text_embeds.view(len(prompts), windows, -1)[:, 0]
        assert pooled is not None
        return TextStates(torch.cat(contexts, dim=-1), pooled)

    def conditioning(
        self, text: TextStates, sizes: Sequence[ImageSizes], *, negative: bool = False
    ) -> Conditioning:
        """Text states with the six numbers of Podell et al. 2023, section 2.2, height first.

        The refiner is told five: original size, crop, and an aesthetic score.
        """
        if len(text) != len(sizes):
            raise ValueError(f"{len(text)} prompts, but sizes of {len(sizes)} pictures")
        rows: list[tuple[float, ...]] = [each.time_ids() for each in sizes]
        if self.is_refiner:
            score = NEGATIVE_AESTHETIC_SCORE if negative else AESTHETIC_SCORE
            rows = [(*row[:4], score) for row in rows]
        time_ids = torch.tensor(rows, dtype=torch.float32).to(text.context.device)
        return Conditioning(text.context, text.pooled, time_ids)

    def denoise(
        self, x_t: Float[Tensor, "B c h w"], t: Real[Tensor, " B"], cond: Conditioning
    ) -> Float[Tensor, "B c h w"]:
        """The UNet's prediction in fp32."""
        assert cond.pooled is not None, "text states of another architecture"
        dtype = self.unet.dtype
        prediction = self.unet(
            x_t.to(dtype),
            t,
            encoder_hidden_states=cond.context.to(dtype),
            added_cond_kwargs={"text_embeds": cond.pooled.to(dtype), "time_ids": cond.time_ids},
            return_dict=False,
        )[0]
        return prediction.float()

    def pipeline(self) -> "Pipeline":
        """A diffusers pipeline over the same modules; an empty prompt is never zeros.

        The refiner's takes a picture, because it was trained on low noise alone.
        """
        options: dict[str, Any] = {"requires_aesthetics_score": True} if self.is_refiner else {}
        return _pipeline_class(refiner=self.is_refiner)(
            vae=self.vae,
            text_encoder=cast(Any, self.text_encoder_1),
            text_encoder_2=self.text_encoder_2,
            tokenizer=cast(Any, self.tokenizer_1),
            tokenizer_2=self.tokenizer_2,
            unet=self.unet,
            scheduler=self.scheduler,
            force_zeros_for_empty_prompt=False,
            add_watermarker=False,
            **options,
        )

    def save(self, folder: Path, *, precision: Precision | None = None) -> None:
        """Write a diffusers folder that any tool can load.

        Args:
            folder: where to; made if missing.
            precision: of the weights on disk, the model's own by default; the live model is left.
        """
        with quiet():
            self.pipeline().save_pretrained(folder)
        if self.tokenizer_1 is not None:
            save_tokenizer(self.tokenizer_1, folder / "tokenizer")
        save_tokenizer(self.tokenizer_2, folder / "tokenizer_2")
        forget_paths(folder)
        if precision is not None:
            convert_weights(folder, DTYPES[precision])


def _size_numbers(unet: UNet2DConditionModel, encoder: CLIPTextModelWithProjection) -> int:
    """How many numbers on sizes the UNet is told: 6, or 5 for the refiner."""
    width = int(unet.config["projection_class_embeddings_input_dim"] or 0)
    pooled = int(encoder.config.projection_dim or 0)
    numbers, left = divmod(width - pooled, int(unet.config["addition_time_embed_dim"] or 1))
    if left or numbers not in (5, 6):
        raise InputError(
            "unet",
            f"projection_class_embeddings_input_dim {width}",
            "the width of the pooled text and of six numbers (SDXL) or five (its refiner)",
            "Use an SDXL UNet with the second text encoder that belongs to it.",
        )
    return numbers


def _pipeline_class(*, refiner: bool = False) -> "type[Pipeline]":
    # Imported late and quietly: transformers remarks on the absence of torchvision.
    with quiet():
        if refiner:
            from diffusers.pipelines.stable_diffusion_xl import (
                pipeline_stable_diffusion_xl_img2img,
            )

            return pipeline_stable_diffusion_xl_img2img.StableDiffusionXLImg2ImgPipeline
        from diffusers.pipelines.stable_diffusion_xl import pipeline_stable_diffusion_xl

        return pipeline_stable_diffusion_xl.StableDiffusionXLPipeline
