"""A studio as a process of its own, which can be killed, and plain requests to it."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
ADDRESS = re.compile(r"http://\S+")


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Server:
    """One `tastemaker` command that serves pages; `with` ends it."""

    def __init__(self, *words: object, port: int | None = None) -> None:
        self.port = port or free_port()
        self._words = [*map(str, words), "--port", str(self.port)]
        self.lines: list[str] = []
        self.start()

    def start(self) -> None:
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONUNBUFFERED": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tastemaker", *self._words],
            cwd=REPOSITORY, env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert self._process.stdout
        self.lines = []
        for line in self._process.stdout:
            self.lines.append(line.rstrip())
            if line.startswith("Stop with"):
                break
        assert self._process.poll() is None, "\n".join(self.lines)
        self.wait()

    def wait(self) -> None:
        for _ in range(200):
            try:
                self.get("/static/none")
            except OSError:
                time.sleep(0.05)
            else:
                return
        raise AssertionError("the server does not answer")

    @property
    def links(self) -> list[str]:
        """The addresses that it printed."""
        return [found[0] for line in self.lines if (found := ADDRESS.search(line))]

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._end()

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
        self._end()

    def _end(self) -> None:
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()

    def get(self, path: str, **headers: str) -> "Answer":
        return request(self.port, "GET", path, headers=headers)

    def post(self, path: str, value: Any, **headers: str) -> "Answer":
        return request(self.port, "POST", path, json.dumps(value).encode(), headers)


class Answer:
    def __init__(self, answer: http.client.HTTPResponse) -> None:
        self.status, self.body = answer.status, answer.read()
        self.headers = {name.lower(): value for name, value in answer.getheaders()}

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def request(
    port: int,
    method: str,
    path: str,
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
) -> Answer:
    """One request as it is written here: no path is tidied, no header is made up."""
    given = {name.replace("_", "-"): value for name, value in (headers or {}).items()}
    if body is not None:
        given.setdefault("content-type", "application/json")
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.putrequest(method, path, skip_host="host" in given, skip_accept_encoding=True)
        for name, value in given.items():
            connection.putheader(name, value)
        if body is not None and "content-length" not in given:
            connection.putheader("content-length", str(len(body)))
        connection.endheaders(body)
        return Answer(connection.getresponse())
    finally:
        connection.close()
