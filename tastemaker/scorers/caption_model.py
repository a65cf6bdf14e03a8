"""Captions by a LLaVA-like model of transformers in this process, one picture at a time.

Axes: pixels are uint8 `[H, W, 3]`, RGB.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tastemaker.errors import InputError
from tastemaker.scorers.caption_picture import reduced
from tastemaker.scorers.caption_words import answer, is_refusal, one_line, question
from tastemaker.scorers.operation import Subject, Values

if TYPE_CHECKING:
    from tastemaker.scorers.caption import Caption


class CaptionModel:
    """Pictures in, captions out; the likeliest word each time, so that a run can be repeated."""

    def __init__(self, config: "Caption", model: Any, processor: Any) -> None:
        self._config, self._model, self._processor = config, model, processor
        ends = model.generation_config.eos_token_id
        self._ends = set(ends if isinstance(ends, list) else [ends])

    @classmethod
    def load(cls, config: "Caption", place: Path, device: str) -> "CaptionModel":
        """Load a model with its processor; only safetensors, and no code from the folder.

        Raises:
            InputError: the folder holds no model that answers questions about pictures, or it does
                not say how questions are put.
        """
        import torch

        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
        with _quiet():
            from transformers import AutoModelForImageTextToText, AutoProcessor

            try:
                # Not torchvision's image processors: no build of it fits a CPU torch.
                processor = AutoProcessor.from_pretrained(
                    place, local_files_only=True, backend="pil"
                )
                model = AutoModelForImageTextToText.from_pretrained(
                    place,
                    local_files_only=True,
                    use_safetensors=True,
                    dtype=dtype[config.precision],
                )
            except (OSError, ValueError, KeyError, ImportError) as error:
                first = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
                raise InputError(
                    f"captioner {place}",
                    first,
                    "a LLaVA-like model of transformers, with processor",
                    "Give another model, or serve this one and give endpoint.",
                ) from error
        if not getattr(processor, "chat_template", None):
            raise InputError(
                f"captioner {place}",
                "no chat template",
                "a model that says how questions are put (chat_template.jinja)",
                "Take a newer copy of the model, or serve it and give endpoint.",
            )
        model.eval().requires_grad_(False)
        model.to(device)  # pyright: ignore[reportArgumentType]
        return cls(config, model, processor)

    def __call__(self, subjects: Sequence[Subject]) -> list[Values]:
        """See `Measure`."""
        return [self._caption(subject) for subject in subjects]

    def _caption(self, subject: Subject) -> Values:
        import torch

        config = self._config
        text = question(config.prompt, subject.captions, subject.tags)
        if text is None:
            return {"error": "neither caption nor tags to put into the prompt"}
        assert subject.pixels is not None, "captions need pixels"
        picture = {"type": "image", "image": reduced(subject.pixels, config.side_px)}
        turn = {"role": "user", "content": [picture, {"type": "text", "text": text}]}
        with _quiet(), torch.inference_mode():
            try:
                inputs = self._processor.apply_chat_template(
                    [turn],
                    add_generation_prompt=True,
                    tokenize=True,
                    return_dict=True,
                    return_tensors="pt",
                ).to(self._model.device, self._model.dtype)
            # An old caption with a mark of the model's own in it, or a picture that is too narrow.
            except (ValueError, IndexError) as error:
                return {
                    "error": f"the model's processor takes it not ({one_line(str(error))[:120]})"
                }
            # What the model's own settings say of sampling would otherwise apply, with a warning.
            found = self._model.generate(
                **inputs,
                max_new_tokens=config.max_tokens,
                do_sample=False,
                num_beams=1,
                temperature=None,
                top_p=None,
                top_k=None,
            )
        sent = int(inputs["input_ids"].shape[1])
        tokens = found[0, sent:]
        caption = answer(self._processor.decode(tokens, skip_special_tokens=True))
        finish = "stop" if len(tokens) and int(tokens[-1]) in self._ends else "length"
        if not caption:
            return {"error": f"empty answer (finish: {finish})"}
        if is_refusal(caption):
            return {"error": f"the model refuses ({caption[:60]})"}
        return {
            "caption": caption,
            "prompt_tokens": sent,
            "completion_tokens": len(tokens),
            "finish": finish,
        }


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the library's bars and remarks off the terminal."""
    from transformers.utils import logging as library

    logger, bars = logging.getLogger("transformers"), library.is_progress_bar_enabled()
    level = logger.level
    logger.setLevel(logging.ERROR)
    library.disable_progress_bar()
    try:
        yield
    finally:
        logger.setLevel(level)
        if bars:
            library.enable_progress_bar()
