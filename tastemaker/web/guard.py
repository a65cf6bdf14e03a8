"""What every request must pass before a page sees it.

A web server on one's own machine can be reached by every page that the same browser has open. So a
request is refused unless it names this server as its host (a foreign name that was pointed at this
machine does not), comes from a page of ours when it changes something, is small, and carries the
token when there is one.
"""

import hmac
import ipaddress
import socket
from collections.abc import Iterable
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

MAX_BODY_BYTES = 64 * 1024
"""Larger requests are refused (ours): a full queue of votes has 20 kB."""

LOOPBACK = ("localhost", "127.0.0.1", "::1")
COOKIE = "tastemaker_token"

_SAFE = ("GET", "HEAD")
_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; img-src 'self' data: blob:; style-src 'self'; script-src 'self'; "
        "connect-src 'self'; font-src 'self'; base-uri 'none'; form-action 'self'; "
        "frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    # A rater's link is a secret, so no other server may learn it.
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}
_OPEN = ("/r/", "/static/")
"""Asked for without the token: a rater's link carries its own, and the files hold nothing."""


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def own_names(host: str, more: Iterable[str] = ()) -> frozenset[str]:
    """The host names that a server answers to.

    Args:
        host: the address that it listens on.
        more: further names, for example of a proxy before it.
    """
    names = {host.strip("[]").lower(), *(name.lower() for name in more)}
    if is_loopback(host) or host in ("0.0.0.0", "::"):
        names |= set(LOOPBACK)
    if not is_loopback(host):
        names.add(socket.gethostname().lower())
    return frozenset(names)


class Guard:
    """ASGI middleware: host, origin, size, token, and the headers of every answer.

    Args:
        app: the application behind it.
        names: host names that it answers to.
        token: what a request must carry as cookie, `?token=` or bearer; None asks for none.
        any_address: whether a numeric address is one of its names, too: a name that someone
            pointed here is the attack, and an address is no name.
        max_body_bytes: of a request.
    """

    def __init__(
        self,
        app: Any,
        names: frozenset[str],
        token: str | None = None,
        any_address: bool = False,
        max_body_bytes: int = MAX_BODY_BYTES,
    ) -> None:
        self._app, self._names, self._token = app, names, token
        self._any_address, self._most = any_address, max_body_bytes

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            # There are no web sockets here.
            return
        headers = _headers(scope)
        send = _with_headers(send)
        refusal = self._refusal(scope, headers)
        if refusal is not None:
            await _answer(send, *refusal)
            return
        if self._token is not None and not scope["path"].startswith(_OPEN):
            given = _given_tokens(scope, headers)
            if not any(hmac.compare_digest(one.encode(), self._token.encode()) for one in given):
                told = "This server asks for its token: open the link that it printed.\n"
                await _answer(send, 401, told)
                return
            if scope["method"] == "GET" and "token" in _query(scope):
                await _keep_token(scope, send, self._token)
                return
        body = await _body(receive, headers, self._most) if scope["method"] not in _SAFE else b""
        if body is None:
            await _answer(send, 413, f"A request has at most {self._most} bytes.\n")
            return
        await self._app(scope, _replay(body, receive), send)

    def _refusal(self, scope: Any, headers: dict[str, list[str]]) -> tuple[int, str] | None:
        host = headers.get("host", [""])
        if len(host) != 1 or not self._is_own(host[0]):
            return 421, "This server does not go by that name.\n"
        if scope["method"] not in (*_SAFE, "POST"):
            return 405, "Only GET and POST are answered.\n"
        site = headers.get("sec-fetch-site", ["same-origin"])
        if scope["method"] in _SAFE and site[-1] not in ("same-origin", "none"):
            # A link elsewhere may open a page; to embed or fetch what is here, it may not.
            mode, aim = headers.get("sec-fetch-mode", [""]), headers.get("sec-fetch-dest", [""])
            if (mode[-1], aim[-1]) != ("navigate", "document"):
                return 403, "Only a page of this server may ask for that.\n"
        if scope["method"] == "POST":
            origin = headers.get("origin", [])
            if site[-1] not in ("same-origin", "none") or not _is_same(origin, host[0]):
                return 403, "Only a page of this server may send that.\n"
            # A form of another page can send no JSON without asking first.
            kind = headers.get("content-type", [""])[-1].partition(";")[0].strip().lower()
            if kind != "application/json":
                return 415, "Send JSON.\n"
        return None

    def _is_own(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if name in self._names:
            return True
        return self._any_address and _is_address(name)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_same(origin: list[str], host: str) -> bool:
    """Whether a request that says where it is from is from a page of this server."""
    if not origin:
        return True
    try:
        parts = urlsplit(origin[-1])
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and parts.netloc.lower() == host.lower()


def _headers(scope: Any) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in scope["headers"]:
        found.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
    return found


def _query(scope: Any) -> dict[str, str]:
    return dict(parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True))


def _given_tokens(scope: Any, headers: dict[str, list[str]]) -> list[str]:
    given = [_query(scope).get("token", "")]
    for value in headers.get("authorization", []):
        kind, _, token = value.partition(" ")
        given += [token.strip()] if kind.lower() == "bearer" else []
    for text in headers.get("cookie", []):
        cookies = SimpleCookie()
        try:
            cookies.load(text)
        except CookieError:
            continue
        given += [cookies[COOKIE].value] if COOKIE in cookies else []
    return [one for one in given if one]


async def _keep_token(scope: Any, send: Any, token: str) -> None:
    """Put the token into a cookie and send the browser to the address without it."""
    rest = {name: value for name, value in _query(scope).items() if name != "token"}
    path = scope.get("raw_path") or scope["path"].encode()
    # Two slashes at the start would be another server's address.
    place = "/" + path.partition(b"?")[0].decode("latin-1").lstrip("/\\")
    place += "?" + urlencode(rest) if rest else ""
    cookie = f"{COOKIE}={token}; Path=/; HttpOnly; SameSite=Strict"
    extra = [(b"location", place.encode("latin-1")), (b"set-cookie", cookie.encode())]
    await _answer(send, 303, "", extra)


async def _body(receive: Any, headers: dict[str, list[str]], most: int) -> bytes | None:
    """The whole body, or None when it is too large; no more than `most` is ever held."""
    told = headers.get("content-length", ["0"])[-1]
    if not told.isdigit() or int(told) > most:
        return None
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return body
        body += message.get("body", b"")
        if len(body) > most:
            return None
        if not message.get("more_body"):
            return body


def _replay(body: bytes, receive: Any) -> Any:
    is_sent = False

    async def again() -> Any:
        nonlocal is_sent
        if is_sent:
            return await receive()
        is_sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def _with_headers(send: Any) -> Any:
    async def sending(message: Any) -> None:
        if message["type"] == "http.response.start":
            there = {name.lower() for name, _ in message["headers"]}
            given = {**_HEADERS, "cache-control": "no-store"}
            more = [(n.encode(), v.encode()) for n, v in given.items() if n.encode() not in there]
            message = {**message, "headers": [*message["headers"], *more]}
        await send(message)

    return sending


async def _answer(
    send: Any, status: int, text: str, extra: Iterable[tuple[bytes, bytes]] = ()
) -> None:
    body = text.encode()
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(body)).encode()),
        *extra,
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
