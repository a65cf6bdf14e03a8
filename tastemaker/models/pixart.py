"""PixArt-alpha (Chen et al. 2023, arXiv:2310.00426) over diffusers modules.

Axes: B batch, L = 120 text positions, D width of a text position, c h w latent.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.transformers.pixart_transformer_2d import PixArtTransformer2DModel
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from jaxtyping import Float, Real
from torch import Tensor, nn
from transformers import T5Config, T5EncoderModel, T5Tokenizer

from tastemaker.errors import InputError
from tastemaker.models import autoencoder, loading
from tastemaker.models.conditioning import Conditioning, TextStates
from tastemaker.models.networks import TRANSFORMER_LORA_TARGETS, Networks
from tastemaker.models.precision import DTYPES, Precision
from tastemaker.models.quiet import quiet
from tastemaker.models.schedulers import load_scheduler
from tastemaker.models.text import TokenReport, token_reports
from tastemaker.models.tokenizer import load_t5_tokenizer
from tastemaker.models.weights import convert_weights, forget_paths
from tastemaker.records.size import ImageSizes

if TYPE_CHECKING:
    from diffusers.pipelines.pixart_alpha.pipeline_pixart_alpha import PixArtAlphaPipeline

TEXT_LENGTH = 120
"""Text positions, end token and padding included (section 3.1 of the paper)."""


class PixArtFamily(Networks):
    """PixArt-alpha: a transformer, a T5 encoder and an autoencoder.

    Models for 1024 pixels are told the size of the picture (`use_additional_conditions`); those for
    512 and 256 are not.
    """

    name = "pixart"
    denoiser = "transformer"

    def __init__(
        self,
        *,
        transformer: PixArtTransformer2DModel,
        vae: AutoencoderKL,
        text_encoder: T5EncoderModel,
        tokenizer: T5Tokenizer,
        scheduler: SchedulerMixin,
        precision: Precision = "fp32",
    ) -> None:
        """Take over these modules, frozen and in evaluation mode."""
        self.precision: Precision = precision
        self.transformer, self.vae, self.scheduler = transformer, vae, cast(Any, scheduler)
        self.text_encoder, self.tokenizer = text_encoder, tokenizer
        self._settle()
        if precision == "fp16":
            # T5 was trained in bf16: its feed-forward sums leave fp16's range. The layers that
            # transformers itself keeps in fp32 are these.
            for name, module in text_encoder.named_modules():
                if name.endswith(".wo"):
                    module.float()

    @classmethod
    def load(cls, path: Path, *, precision: Precision = "fp32") -> "PixArtFamily":
        """Load a diffusers folder.

        Raises:
            MissingModel: a part is missing or unreadable.
            MissingExtra: the tokenizer is a sentencepiece model and its reader is not installed.
            InputError: a single file, which holds the transformer alone.
        """
        if path.is_file():
            raise InputError(
                path,
                "a single file, which never holds PixArt's T5 encoder",
                "a diffusers folder",
                "Use the folder, for example PixArt-alpha/PixArt-XL-2-512x512.",
            )
        dtype = DTYPES[precision]
        with loading.whole_folder(path, "transformer, vae, text_encoder, tokenizer and scheduler"):
            return cls(
                transformer=loading.load_part(
                    PixArtTransformer2DModel, path / "transformer", dtype
                ),
                vae=loading.load_vae(path / "vae"),
                text_encoder=loading.load_part(T5EncoderModel, path / "text_encoder", dtype),
                tokenizer=load_t5_tokenizer(path / "tokenizer"),
                scheduler=load_scheduler(path / "scheduler"),
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
    ) -> "PixArtFamily":
        """A new model with untrained weights that depend on `seed` alone.

        Args:
            config: `transformer`, `text_encoder` (of T5), `scheduler` (of DDIMScheduler) and,
                unless `vae` is given, `vae`: the fields of the same-named config files. What
                follows from the tokenizer and the encoder is filled in.
            tokenizers: a folder with a T5 tokenizer in `tokenizer/`.
            vae: a trained autoencoder, or its folder.
            seed: chooses the initial weights.
            precision: of everything but the autoencoder.
        """
        tokenizer = load_t5_tokenizer(tokenizers / "tokenizer")
        text = T5Config(**{"vocab_size": len(tokenizer), **config["text_encoder"]})
        transformer = {"caption_channels": text.d_model, **config["transformer"]}
        found = autoencoder.given_or_built(vae, config.get("vae"), seed=seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(
                transformer=cast(Any, PixArtTransformer2DModel.from_config(transformer)),
                vae=found,
                text_encoder=T5EncoderModel(text),
                tokenizer=tokenizer,
                scheduler=cast(Any, DDIMScheduler.from_config(dict(config["scheduler"]))),
                precision=precision,
            )

    @property
    def parts(self) -> Mapping[str, nn.Module]:
        """The three networks."""
        return {
            "transformer": self.transformer,
            "text_encoder_1": self.text_encoder,
            "vae": self.vae,
        }

    @property
    def size_multiple(self) -> int:
        """Sides of pictures must be multiples of this many pixels: 16 in the published models."""
        return self.latent_factor * int(self._denoiser_config["patch_size"])

    @property
    def lora_targets(self) -> Mapping[str, tuple[str, ...]]:
        """Groups of transformer layers for LoRA."""
        return TRANSFORMER_LORA_TARGETS

    @property
    def is_told_sizes(self) -> bool:
        """Whether the transformer is told the picture's size and shape."""
        return bool(self.transformer.use_additional_conditions)

    def token_counts(self, prompts: Sequence[str]) -> list[int]:
        """Tokens of each prompt, the end not counted."""
        return [report.tokens for report in self.token_reports(prompts)]

    def windows(self, prompts: Sequence[str]) -> int:
        """Always 1: a longer prompt is cut at 119 tokens and the end."""
        return 1

    def token_reports(self, prompts: Sequence[str]) -> list[TokenReport]:
        """Tokens and lost tokens of each prompt."""
        texts = [_plain(prompt) for prompt in prompts]
        return token_reports(self.tokenizer, texts, TEXT_LENGTH - 1, most=1)

    def encode_text(self, prompts: Sequence[str], windows: int | None = None) -> TextStates:
        """The encoder's last hidden states of 120 positions, and the mask of those with a token.

        Prompts are put in lower case first, as `PixArtAlphaPipeline.encode_prompt` does, whose
        values these are bit for bit. The mask goes to the encoder and to the cross-attention.

        Args:
            prompts: the texts.
            windows: 1 or None; there are no more.
        """
        if windows not in (None, 1):
            raise ValueError(f"{windows} windows: PixArt has one")
        encoding: Any = self.tokenizer(
            [_plain(prompt) for prompt in prompts],
            padding="max_length",
            max_length=TEXT_LENGTH,
            truncation=True,
            return_tensors="pt",
        )
        device = self.text_encoder.device
        mask = encoding.attention_mask.to(device)
        context = self.text_encoder(encoding.input_ids.to(device), attention_mask=mask)[0]
        return TextStates(context.to(self.text_encoder.dtype), mask=mask)

    def conditioning(
        self, text: TextStates, sizes: Sequence[ImageSizes], *, negative: bool = False
    ) -> Conditioning:
        """Text states, and for models that are told sizes (height, width, height / width).

        Height and width are those of the picture before any resize, the ratio is the target's, as
        in the multi-scale training of PixArt's authors; pictures to be made have one size only.
        """
        if len(text) != len(sizes):
            raise ValueError(f"{len(text)} prompts, but sizes of {len(sizes)} pictures")
        time_ids = None
        if self.is_told_sizes:
            rows = [
                (float(s.original.h), float(s.original.w), s.target.h / s.target.w) for s in sizes
            ]
            time_ids = torch.tensor(rows, dtype=torch.float32).to(text.context.device)
        return Conditioning(text.context, time_ids=time_ids, mask=text.mask)

    def denoise(
        self, x_t: Float[Tensor, "B c h w"], t: Real[Tensor, " B"], cond: Conditioning
    ) -> Float[Tensor, "B c h w"]:
        """The transformer's prediction in fp32, without the variance that it predicts beside it."""
        dtype = self.transformer.dtype
        told: dict[str, Tensor | None] = {"resolution": None, "aspect_ratio": None}
        if cond.time_ids is not None:
            told = {"resolution": cond.time_ids[:, :2], "aspect_ratio": cond.time_ids[:, 2:]}
        prediction = self.transformer(
            x_t.to(dtype),
            encoder_hidden_states=cond.context.to(dtype),
            encoder_attention_mask=cond.mask,
            timestep=cast(Any, t),
            added_cond_kwargs=cast(Any, told),
            return_dict=False,
        )[0]
        return prediction[:, : self.latent_channels].float()

    def pipeline(self) -> "PixArtAlphaPipeline":
        """A diffusers pipeline over the same modules."""
        return _pipeline_class()(
            tokenizer=self.tokenizer,
            text_encoder=self.text_encoder,
            vae=self.vae,
            transformer=self.transformer,
            scheduler=self.scheduler,
        )

    def save(self, folder: Path, *, precision: Precision | None = None) -> None:
        """Write a diffusers folder that any tool can load.

        Args:
            folder: where to; made if missing.
            precision: of the weights on disk, the model's own by default; the live model is left.
        """
        with quiet():
            self.pipeline().save_pretrained(folder)
        forget_paths(folder)
        if precision is not None:
            convert_weights(folder, DTYPES[precision])


def _plain(prompt: str) -> str:
    return prompt.lower().strip()


def _pipeline_class() -> "type[PixArtAlphaPipeline]":
    with quiet():
        from diffusers.pipelines.pixart_alpha.pipeline_pixart_alpha import PixArtAlphaPipeline
    return PixArtAlphaPipeline
