"""A real HTTP server that speaks as much of OpenAI's protocol as captions need."""

import base64
import io
import json
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
from PIL import Image

from tastemaker.scorers.caption import Caption
from tastemaker.scorers.caption_endpoint import CaptionServer
from tastemaker.scorers.operation import Subject


@dataclass
class Reply:
    """What the server says: JSON or raw bytes; `drop` closes the connection without a word."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    drop: bool = False


def chat(content: Any = "a caption", finish: str | None = "stop", usage: Any = (17, 5)) -> Reply:
    """A chat completion."""
    body: dict[str, Any] = {
        "object": "chat.completion",
        "choices": [
            {
                "index": 0,
                "finish_reason": finish,
                "message": {"role": "assistant", "content": content},
            }
        ],
    }
    if usage is not None:
        body["usage"] = {"prompt_tokens": usage[0], "completion_tokens": usage[1]}
    return Reply(body=body)


@dataclass(frozen=True)
class Request:
    """One request as it came."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def text(self) -> str:
        return self.body["messages"][0]["content"][1]["text"]

    @property
    def address(self) -> str:
        return self.body["messages"][0]["content"][0]["image_url"]["url"]

    @property
    def picture(self) -> Image.Image:
        return Image.open(io.BytesIO(base64.b64decode(self.address.split(",", 1)[1])))

    @property
    def is_test_picture(self) -> bool:
        return len(np.unique(np.asarray(self.picture))) == 1


class Server:
    """Answers every request with what `reply` gives, and remembers it."""

    def __init__(self, reply: Callable[[Request], Reply]) -> None:
        self.reply, self.lock = reply, threading.Lock()
        self.requests: list[Request] = []
        self.models: list[str] = ["llava"]

    def asked(self) -> list[Request]:
        """Requests for captions, without the test picture."""
        return [request for request in self.requests if not request.is_test_picture]


@contextmanager
def serving(reply: Callable[[Request], Reply]) -> Iterator[tuple[Server, str]]:
    """The server and its address, up to and with `/v1`."""
    server = Server(reply)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # head and body in one packet, or the client waits 40 ms for the second

        def do_GET(self) -> None:
            models = {"data": [{"id": name} for name in server.models]}
            self._send(Reply(body=models) if self.path == "/v1/models" else Reply(404))

        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"])
            body = json.loads(self.rfile.read(length))
            headers = {key.lower(): value for key, value in self.headers.items()}
            request = Request(self.path, headers, body)
            with server.lock:
                server.requests.append(request)
            self._send(server.reply(request))

        def _send(self, reply: Reply) -> None:
            if reply.drop:
                self.close_connection = True
                return
            raw = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
            try:
                self.send_response(reply.status)
                for name, value in {"Content-Length": str(len(raw)), **reply.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(raw)
            except OSError:
                self.close_connection = True  # the client has given up

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing on the terminal."""

    class Http(ThreadingHTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            """A client that has given up is none; without this it fills the terminal."""
            if not isinstance(sys.exception(), OSError):
                super().handle_error(request, client_address)

    http = Http(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    http.block_on_close = False
    thread = threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server, f"http://127.0.0.1:{http.server_port}/v1"
    finally:
        http.shutdown()
        http.server_close()
        thread.join()


def pixels(seed: int = 0, h: int = 30, w: int = 50) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (h, w, 3), np.uint8)


def subject(name: str = "a", *captions: str, **options: Any) -> Subject:
    seed = sum(name.encode())
    return Subject(name, pixels(seed, **options), captions)


def config(address: str, **options: Any) -> Caption:
    return Caption(endpoint=address, model_name="llava", **options)


def captions(address: str, subjects: list[Subject], **options: Any) -> list[dict[str, Any]]:
    server = CaptionServer.connect(config(address, **options), wait=lambda stop, seconds: None)
    try:
        return server(subjects)
    finally:
        server.close()
