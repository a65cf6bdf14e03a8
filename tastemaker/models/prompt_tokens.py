"""Tokens of prompts without a model: its tokenizers alone, which load in a moment."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

from tastemaker.errors import MissingModel
from tastemaker.models.checkpoints import config_folder
from tastemaker.models.family import family_name
from tastemaker.models.locate import locate
from tastemaker.models.text import (
    MAX_WINDOWS,
    TokenReport,
    longest_reports,
    token_reports,
)
from tastemaker.models.tokenizer import load_t5_tokenizer, load_tokenizer


@dataclass(frozen=True)
class PromptTokens:
    """The tokenizers of one model, and the limits of its text encoders.

    Attributes:
        tokenizers: one or two.
        inside: tokens of a window, start and end not counted: 75 for CLIP, 119 for PixArt.
        most: windows that the model can be given.
        lower: whether prompts are put in small letters first (PixArt).
    """

    tokenizers: tuple[Any, ...]
    inside: int
    most: int = MAX_WINDOWS
    lower: bool = False

    def reports(self, prompts: Sequence[str]) -> list[TokenReport]:
        """Tokens, windows and lost tokens of each prompt; of two tokenizers, the longer count."""
        texts = self._texts(prompts)
        found = [token_reports(one, texts, self.inside, self.most) for one in self.tokenizers]
        return found[0] if len(found) == 1 else longest_reports(*found)

    def counts(self, prompts: Sequence[str]) -> list[int]:
        """Tokens of each prompt, start and end not counted."""
        return [report.tokens for report in self.reports(prompts)]

    def seen(self, prompt: str) -> list[str]:
        """The windows of one prompt as text, as far as the model sees them."""
        tokenizer = self.tokenizers[0]
        ids = tokenizer(self._texts([prompt]), add_special_tokens=False, verbose=False)
        row = ids["input_ids"][0]
        windows = min(max(1, ceil(len(row) / self.inside)), self.most)
        parts = [row[w * self.inside : (w + 1) * self.inside] for w in range(windows)]
        return [tokenizer.decode(part).strip() for part in parts]

    def _texts(self, prompts: Sequence[str]) -> list[str]:
        return [p.lower().strip() for p in prompts] if self.lower else list(prompts)


def load_prompt_tokens(reference: str | Path) -> PromptTokens:
    """The tokenizers of a packaged name, a diffusers folder, a hub id, or a single file.

    Those of a single file are looked for in the folder beside it that has its name.

    Raises:
        MissingModel: the model is nowhere to be found, or has no tokenizer.
        InputError: it is not a model of a supported architecture.
    """
    path = locate(str(reference), "model")
    name = family_name(path)
    folder = config_folder(path) if path.is_file() else path
    found = [folder / one for one in ("tokenizer", "tokenizer_2") if (folder / one).is_dir()]
    try:
        if name == "pixart" and found:
            from tastemaker.models.pixart import TEXT_LENGTH

            return PromptTokens((load_t5_tokenizer(found[0]),), TEXT_LENGTH - 1, 1, lower=True)
        if found:
            tokenizers = tuple(load_tokenizer(one) for one in found)
            return PromptTokens(tokenizers, tokenizers[0].model_max_length - 2)
    except OSError as error:
        reason = str(error).strip().splitlines()[0]
        raise MissingModel(path, reason, "a tokenizer", "Copy the whole folder again.") from error
    raise MissingModel(
        path,
        "no tokenizer",
        f"{folder}/tokenizer",
        "Use a whole diffusers folder, or put one there.",
    )
