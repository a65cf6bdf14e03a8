"""Ask a server with OpenAI's protocol (`POST /chat/completions`) for captions.

Not through the package `openai`: with any server it sends along what the environment says of
organisation, project and custom headers, so a key in a variable can end with a stranger (3.52).
What is left to do is one request and when to repeat it.

Axes: pixels are uint8 `[H, W, 3]`, RGB.
"""

import threading
import weakref
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tastemaker.errors import InputError, MissingExtra
from tastemaker.scorers.caption_picture import picture_address
from tastemaker.scorers.caption_words import answer, is_refusal, one_line, question
from tastemaker.scorers.operation import Subject, Values

if TYPE_CHECKING:
    import httpx2

    from tastemaker.scorers.caption import Caption

FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 120.0
"""Wait before the first repetition, which doubles; and the longest that a server may ask for."""

_CONNECT_S = 10.0
_AGAIN = {408, 409, 425, 429}
_HOPELESS = {
    401: "Give key_file: a file with the server's key.",
    402: "The account behind the key has nothing left.",
    403: "The key may not use this model: give another key_file or model_name.",
    404: "Give endpoint up to and with /v1, and model_name as the server calls it.",
    405: "Give endpoint up to and with /v1.",
}
_PROBE_PX = 256
_MOST = 2**31 - 1


class _NoCaption(Exception):  # noqa: N818 - not an error of the whole: one picture goes without
    """The reason why one picture has no caption."""


class _TryAgain(Exception):  # noqa: N818
    """A failure that may pass; `wait_s` is what the server asks for."""

    def __init__(self, reason: str, wait_s: float | None = None, *, reached: bool = True) -> None:
        super().__init__(reason)
        self.wait_s, self.reached = wait_s, reached


@dataclass(frozen=True)
class Answer:
    """What the server said.

    Attributes:
        text: as it came.
        finish: why the model stopped.
        prompt_tokens: tokens sent; 0 when the server does not count.
        completion_tokens: tokens answered; 0 when the server does not count.
    """

    text: str
    finish: str
    prompt_tokens: int
    completion_tokens: int


class CaptionServer:
    """Pictures in, captions out, with some requests in flight at once.

    Args:
        config: what is asked of whom.
        client: the connections.
        wait: waits so many seconds or until the event is set.
    """

    def __init__(
        self,
        config: "Caption",
        client: "httpx2.Client",
        key: str | None,
        wait: Callable[[threading.Event, float], object] = threading.Event.wait,
    ) -> None:
        self._config, self._client, self._key, self._wait = config, client, key, wait
        self._where = f"endpoint {config.endpoint}"
        # An open connection at the end of a program is a ResourceWarning.
        self.close = weakref.finalize(self, client.close)

    @classmethod
    def connect(
        cls,
        config: "Caption",
        wait: Callable[[threading.Event, float], object] = threading.Event.wait,
    ) -> "CaptionServer":
        """Open connections and show the server a grey picture.

        Raises:
            MissingExtra: the package `httpx2` is not installed.
            InputError: the server does not answer, or not as it should.
        """
        try:
            import httpx2
        except ImportError as error:
            raise MissingExtra(
                "captions by an endpoint",
                "no package httpx2",
                "httpx2",
                'Run pip install "tastemaker[captions]".',
            ) from error
        key = None if config.key_file is None else _key(config.key_file)
        client = httpx2.Client(
            base_url=str(config.endpoint).rstrip("/") + "/",
            headers={} if key is None else {"Authorization": f"Bearer {key}"},
            timeout=httpx2.Timeout(config.timeout_s, connect=min(_CONNECT_S, config.timeout_s)),
            limits=httpx2.Limits(
                max_connections=config.concurrency, max_keepalive_connections=config.concurrency
            ),
            proxy=config.proxy,
            trust_env=False,  # only the command line reads the environment
        )
        server = cls(config, client, key, wait)
        try:
            server._probe()
        except BaseException:
            server.close()
            raise
        return server

    def __call__(self, subjects: Sequence[Subject]) -> list[Values]:
        """See `Measure`.

        Raises:
            InputError: the server refuses the key or the model, or is gone.
        """
        stop = threading.Event()
        pool = ThreadPoolExecutor(self._config.concurrency, thread_name_prefix="caption")
        try:
            waiting = [pool.submit(self._one, subject, stop) for subject in subjects]
            return [future.result() for future in waiting]
        except InputError:
            pool.shutdown(cancel_futures=True)
            raise
        finally:
            # After Ctrl-C nothing more is sent, and nobody waits for what is under way.
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)

    def _one(self, subject: Subject, stop: threading.Event) -> Values:
        try:
            return self._caption(subject, stop)
        except BaseException:
            stop.set()  # here, since others may take the next picture before the caller knows
            raise

    def _caption(self, subject: Subject, stop: threading.Event) -> Values:
        config = self._config
        text = question(config.prompt, subject.captions, subject.tags)
        if text is None:
            return {"error": "neither caption nor tags to put into the prompt"}
        assert subject.pixels is not None, "captions need pixels"
        try:
            found = self._ask(self._body(text, subject.pixels), subject.id, stop)
            caption = answer(found.text)
            if found.finish == "content_filter":
                raise _NoCaption("the server's content filter")
            if not caption:
                raise _NoCaption(f"empty answer (finish: {found.finish})")
            if is_refusal(caption):
                raise _NoCaption(f"the model refuses ({caption[:60]})")
        except _NoCaption as failure:
            return {"error": str(failure)}
        return {
            "caption": caption,
            "prompt_tokens": found.prompt_tokens,
            "completion_tokens": found.completion_tokens,
            "finish": found.finish,
        }

    def _body(self, text: str, pixels: np.ndarray) -> dict[str, Any]:
        config = self._config
        address = picture_address(
            pixels, config.side_px, None if config.picture_format == "png" else config.jpeg_quality
        )
        picture = {"type": "image_url", "image_url": {"url": address}}
        # LLaVA was trained with the picture before the words.
        content = [picture, {"type": "text", "text": text}]
        body: dict[str, Any] = {
            "model": config.model_name,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": config.max_tokens,
            "temperature": config.temperature,
            **config.request,
        }
        return {field: value for field, value in body.items() if value is not None}

    def _probe(self) -> None:
        """One short answer; whatever is wrong with the whole is said before the work starts."""
        grey = np.full((_PROBE_PX, _PROBE_PX, 3), 128, np.uint8)
        body = self._body(question(self._config.prompt, ("a grey square",), ()) or "", grey)
        if "max_tokens" in body:
            body["max_tokens"] = 1
        try:
            self._ask(body, "test picture", threading.Event(), patient=False)
        except _NoCaption as failure:
            raise InputError(
                self._where,
                f"no answer to a test picture: {failure}",
                "an answer to a picture with a question",
                "See what the server's log says; its model must be one that sees pictures.",
            ) from failure

    def _ask(
        self, body: Mapping[str, Any], name: str, stop: threading.Event, *, patient: bool = True
    ) -> Answer:
        """Send a request until it is answered.

        Raises:
            _NoCaption: it is not answered, or the server says that it never will be.
            InputError: no request will be.
        """
        attempt = 0
        while not stop.is_set():
            try:
                return self._once(body)
            except _TryAgain as failure:
                tired = attempt == self._config.retries
                if not failure.reached and (tired or not patient):
                    raise self._gone(failure) from failure
                wait_s = _wait_s(attempt, name) if failure.wait_s is None else failure.wait_s
                if tired or wait_s > LONGEST_WAIT_S:
                    raise _NoCaption(f"{failure} ({attempt + 1} times)") from failure
                self._wait(stop, wait_s)
                attempt += 1
        raise _NoCaption("stopped")

    def _once(self, body: Mapping[str, Any]) -> Answer:
        import httpx2

        try:
            response = self._client.post("chat/completions", json=body)
        except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.ProxyError) as error:
            raise _TryAgain(f"no connection ({_said(error)})", reached=False) from error
        except httpx2.TimeoutException as error:
            raise _TryAgain(f"no answer in {self._config.timeout_s:g} s") from error
        except httpx2.TransportError as error:
            raise _TryAgain(f"connection lost ({_said(error)})") from error
        except httpx2.DecodingError as error:
            raise _TryAgain(f"garbled answer ({_said(error)})") from error
        status = response.status_code
        if status == 200:
            return _read(response)
        reason = f"status {status}{self._message(response)}"
        if status in _HOPELESS or 300 <= status < 400 or "insufficient_quota" in response.text:
            raise InputError(
                self._where,
                reason,
                f"an answer by '{self._config.model_name}'{self._offered(status)}",
                _HOPELESS.get(status, "Give the address to which requests are answered."),
            )
        if status in _AGAIN or status >= 500:
            raise _TryAgain(reason, _asked_s(response.headers))
        raise _NoCaption(reason)

    def _gone(self, failure: Exception) -> InputError:
        return InputError(
            self._where,
            failure,
            "a running server",
            "Start it or correct the address, and run again: captions that are written stay.",
        )

    def _message(self, response: "httpx2.Response") -> str:
        """The server's own words; servers quote keys that they refuse, so ours is cut out."""
        try:
            error = response.json()["error"]
            text = error if isinstance(error, str) else str(error["message"])
        except (ValueError, TypeError, KeyError):
            text = response.text
        text = text if self._key is None else text.replace(self._key, "[key]")
        return f": {one_line(text)[:200]}" if text.strip() else ""

    def _offered(self, status: int) -> str:
        """Names of the models that the server has, when ours may be wrong."""
        import httpx2

        if status != 404:
            return ""
        try:
            models = self._client.get("models").json()["data"]
            names = [one_line(str(model["id"])) for model in models[:10]]
        except (httpx2.HTTPError, ValueError, TypeError, KeyError):
            return ""
        return f" (the server has: {', '.join(names)})" if names else ""


def _read(response: "httpx2.Response") -> Answer:
    try:
        body = response.json()
        choice = body["choices"][0]
        message, usage = choice["message"], body.get("usage") or {}
        content = message.get("content") or ""
        if not isinstance(content, str):
            content = "".join(part.get("text") or "" for part in content)
        refusal = message.get("refusal")
        counts = [int(usage.get(name) or 0) for name in ("prompt_tokens", "completion_tokens")]
        finish = one_line(str(choice.get("finish_reason") or "unknown"))
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError) as error:
        raise _TryAgain("garbled answer (no chat completion)") from error
    if refusal:
        raise _NoCaption(f"the model refuses ({one_line(str(refusal))[:60]})")
    sent, answered = (min(max(count, 0), _MOST) for count in counts)
    return Answer(content, finish, sent, answered)


def _key(path: Path) -> str:
    what, todo = "a file with nothing but the key", "Give the file that holds the server's key."
    try:
        key = path.expanduser().read_text(encoding="ascii").strip()
    except OSError as error:
        raise InputError(path, error.strerror or "no readable file", what, todo) from error
    except UnicodeDecodeError as error:
        raise InputError(path, "no plain text", what, todo) from error
    if not key or any(sign.isspace() or not sign.isprintable() for sign in key):
        raise InputError(path, "not one word" if key else "an empty file", what, todo)
    return key


def _wait_s(attempt: int, name: str) -> float:
    """0.5, 1, 2, ... seconds, a little less by name, so that not all come back at once."""
    spread = 1 - zlib.crc32(f"{name} {attempt}".encode()) / 2**32 / 4
    return min(FIRST_WAIT_S * 2**attempt * spread, LONGEST_WAIT_S)


def _asked_s(headers: Mapping[str, str]) -> float | None:
    """How long `Retry-After` asks to wait, in seconds; it may be a number or a date."""
    from datetime import UTC, datetime

    asked = headers.get("retry-after")
    if asked is None:
        return None
    try:
        seconds = float(asked)
    except ValueError:
        try:
            when = parsedate_to_datetime(asked)
        except ValueError:
            return None
        seconds = (when.replace(tzinfo=when.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    return max(seconds, 0.0) if seconds == seconds else None


def _said(error: Exception) -> str:
    return one_line(str(error))[:120] or type(error).__name__
