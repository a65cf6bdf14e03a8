"""Captions by a vision-language model: of a server that speaks OpenAI's protocol, or in process.

The server is the way for many pictures: vLLM, llama.cpp, SGLang or a hosted model batch and serve
better than a loop can. In process there is one picture at a time, so that no caption depends on its
neighbours.

Axes: pixels are uint8 `[H, W, 3]`, RGB.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from tastemaker.scorers.caption_words import OLD_CAPTION, PROMPTS
from tastemaker.scorers.operation import Measure, Operation

_OF_ENDPOINT = ("model_name", "picture_format", "jpeg_quality", "request")
_OF_MODEL = ("precision",)
_FREE: dict[str, Any] = {"changes_result": False}


class Caption(Operation):
    """A caption of every picture, with the number of tokens that it took.

    `finish` is why the model stopped: `stop`, or `length` when the caption is cut off.
    """

    VERSION: ClassVar[int] = 1
    FIELDS: ClassVar[Mapping[str, str]] = {
        "caption": "string",
        "prompt_tokens": "int32",
        "completion_tokens": "int32",
        "finish": "string",
    }
    MODELS: ClassVar[Mapping[str, str]] = {"model": "captioner"}
    BATCH: ClassVar[int] = 32

    kind: Literal["caption"] = "caption"
    """Which operation."""
    endpoint: str | None = Field(default=None, json_schema_extra=_FREE)
    """Address of a server with OpenAI's protocol, up to and with `/v1`:
    `http://127.0.0.1:8000/v1`."""
    model_name: str | None = None
    """What the server calls its model."""
    model: str | None = None
    """Instead of an endpoint: a transformers folder or hub id of a LLaVA-like model."""
    prompt: str = Field(default="pixart", min_length=1)
    """`pixart`, `pixart_old_caption`, or a text of your own, in which `{caption}` stands for the
    caption (or else the tags) that the picture has. The default is PixArt-alpha's."""
    max_tokens: int = Field(default=300, ge=1)
    """Longest answer (ours: PixArt reads 120 tokens, three windows of CLIP 225)."""
    temperature: float = Field(default=0.0, ge=0, le=2)
    """0 gives the likeliest words; above 0 a server gives other words each time."""
    side_px: int = Field(default=1024, ge=28, le=8192)
    """Longest side of what the model is shown; larger pictures are reduced (ours)."""
    picture_format: Literal["jpeg", "png"] = "jpeg"
    """How pictures are sent; PNG without any loss, and several times as large."""
    jpeg_quality: int = Field(default=90, ge=1, le=100)
    """Quality of JPEG (ours)."""
    request: dict[str, Any] = {}
    """More fields for the server's request (`top_p`, `seed`, ...); null takes a field away, as
    `{max_tokens: null, max_completion_tokens: 300}` for models that want it so."""
    precision: Literal["fp32", "bf16", "fp16"] = "bf16"
    """Of a model in process (ours: 7 billion weights then take 14 GB)."""
    key_file: Path | None = Field(default=None, json_schema_extra=_FREE)
    """A file with the server's key, which is read when work starts and stored nowhere. Servers of
    your own need none."""
    proxy: str | None = Field(default=None, json_schema_extra=_FREE)
    """Address of an HTTP proxy on the way to the server; those in the environment are not used."""
    concurrency: int = Field(default=8, ge=1, le=32, json_schema_extra=_FREE)
    """Requests in flight, of every worker (ours)."""
    retries: int = Field(default=5, ge=0, le=20, json_schema_extra=_FREE)
    """How often a failed request is sent again, after 0.5, 1, 2, ... seconds or when the server
    says (ours)."""
    timeout_s: float = Field(default=120.0, gt=0, json_schema_extra=_FREE)
    """Longest wait for an answer, in seconds (ours)."""
    prompt_price: float | None = Field(default=None, ge=0, json_schema_extra=_FREE)
    """Price of a million tokens that are sent, in any currency."""
    completion_price: float | None = Field(default=None, ge=0, json_schema_extra=_FREE)
    """Price of a million tokens that are answered."""

    @model_validator(mode="after")
    def _fits(self) -> "Caption":
        if (self.endpoint is None) == (self.model is None):
            raise ValueError("give exactly one of endpoint and model")
        if self.prompt not in PROMPTS and " " not in self.prompt.strip():
            known = ", ".join(PROMPTS)
            raise ValueError(f"prompt {self.prompt!r} is neither {known} nor a sentence")
        if self.endpoint is None:
            if self.temperature > 0:
                raise ValueError("a model in process is deterministic: temperature must be 0")
            return self
        if self.model_name is None:
            raise ValueError("an endpoint needs model_name: what the server calls its model")
        _check_address("endpoint", self.endpoint)
        if self.proxy is not None:
            _check_address("proxy", self.proxy)
        return self

    @property
    def needs_words(self) -> bool:
        """Whether the prompt shows the old caption."""
        return OLD_CAPTION in PROMPTS.get(self.prompt, self.prompt)

    def params(self, places: Mapping[str, Path], hashes: Mapping[str, str]) -> dict[str, Any]:
        """The prompt's text, the model, and how the picture is shown; see `Operation.params`."""
        unused = _OF_MODEL if self.model is None else _OF_ENDPOINT
        kept = {k: v for k, v in super().params(places, hashes).items() if k not in unused}
        return {**kept, "prompt": PROMPTS.get(self.prompt, self.prompt)}

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float | None:
        """What so many tokens cost; None without prices.

        Tokens of answers that were thrown away (refusals, broken connections) are in no column.
        """
        if self.prompt_price is None and self.completion_price is None:
            return None
        sent = prompt_tokens * (self.prompt_price or 0.0)
        return (sent + completion_tokens * (self.completion_price or 0.0)) / 1e6

    def open(self, places: Mapping[str, Path], device: str) -> Measure:
        """Load the model, or show the server one test picture; see `Operation.open`.

        Raises:
            MissingExtra: the package for the server's protocol is not installed.
            InputError: the server cannot be reached, does not know the model or the key, or takes
                no pictures; the folder holds no model of this kind.
        """
        if self.endpoint is None:
            from tastemaker.scorers.caption_model import CaptionModel

            return CaptionModel.load(self, places["model"], device)
        from tastemaker.scorers.caption_endpoint import CaptionServer

        return CaptionServer.connect(self)


def _check_address(field: str, address: str) -> None:
    try:
        parts = urlsplit(address)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid:
        raise ValueError(f"{field} {address!r} is no address such as http://127.0.0.1:8000/v1")
    if field == "endpoint" and ("@" in parts.netloc or parts.query):
        raise ValueError("no key or password in the endpoint's address: give key_file")
