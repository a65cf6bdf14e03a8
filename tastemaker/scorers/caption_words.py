"""What a captioning model is asked, and what is kept of its answer."""

import re
import unicodedata

OLD_CAPTION = "{caption}"
"""Stands in a prompt for the caption that the picture has already."""

PROMPTS = {
    "pixart": "Describe this image and its style in a very detailed manner",
    "pixart_old_caption": (
        "Give the caption of this image '{caption}', "
        "describe this image and its style in a very detailed manner"
    ),
}
"""Prompts by name. `pixart` is the one with which LLaVA captioned the training set of PixArt-alpha
(Chen et al. 2023, arXiv:2310.00426, section 2.4); `pixart_old_caption` is its variant in Oxen's
report on tuning that model with a LoRA, which shows the model the caption there was."""

_QUOTES = {'"': '"', "'": "'", "“": "”", "‘": "’", "«": "»", "`": "`"}
_REASONING = re.compile(r"^\s*<think>.*?(?:</think>|\Z)", re.DOTALL)
_REFUSAL = re.compile(
    r"(?:i['’]m sorry|i am sorry|sorry[,.]|i apologi[sz]e"
    r"|i (?:can['’]t|cannot|am unable to|am not able to) (?:assist|help|provide|describe|fulfil)"
    r"|i['’]m (?:unable|not able) to (?:assist|help|provide|describe|fulfil|view|see))",
    re.IGNORECASE,
)


def question(prompt: str, captions: tuple[str, ...], tags: tuple[str, ...]) -> str | None:
    """The prompt for one picture.

    Args:
        prompt: a name in `PROMPTS`, or a text; `{caption}` in it is replaced by the first caption,
            or by the tags where there is none.
        captions: of the picture, best first.
        tags: of the picture.

    Returns:
        The text; None when a caption is asked for and the picture has neither caption nor tags.
        `pixart_old_caption` is then the same as `pixart`.
    """
    text = PROMPTS.get(prompt, prompt)
    if OLD_CAPTION not in text:
        return text
    old = one_line(next((caption for caption in captions if caption.strip()), ", ".join(tags)))
    if not old:
        return PROMPTS["pixart"] if prompt == "pixart_old_caption" else None
    return text.replace(OLD_CAPTION, old)


def answer(text: str) -> str:
    """A model's answer as a caption: one line, without quotes around it or reasoning before it."""
    text = one_line(_REASONING.sub("", text))
    while len(text) > 1 and _QUOTES.get(text[0]) == text[-1] and text[0] not in text[1:-1]:
        text = text[1:-1].strip()
    return text


def is_refusal(caption: str) -> bool:
    """Whether an answer begins as models begin that will not describe a picture (ours)."""
    return _REFUSAL.match(caption) is not None


def one_line(text: str) -> str:
    """Spaces for all white space, no control characters, nothing that UTF-8 cannot hold."""
    whole = text.encode("utf-8", "replace").decode("utf-8")
    line = " ".join(whole.split())
    return "".join(sign for sign in line if unicodedata.category(sign) != "Cc")
