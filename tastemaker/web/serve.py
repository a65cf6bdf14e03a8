"""Start the studio: find a port, say where it is, and answer until it is stopped."""

import secrets
import socket
from collections.abc import Callable
from dataclasses import replace
from urllib.parse import quote

from tastemaker.errors import InputError
from tastemaker.web.app import Settings, make_app
from tastemaker.web.guard import is_loopback
from tastemaker.web.rooms import Rooms

PORT = 8321
"""Where the studio is found unless another port is given (ours)."""

_TRIES = 20


def with_token(settings: Settings) -> Settings:
    """A token for an address that others can reach, where none was given."""
    if settings.token or is_loopback(settings.host):
        return settings
    return replace(settings, token=secrets.token_urlsafe(24))


def serve(
    settings: Settings,
    port: int | None,
    started: Callable[[Rooms, Callable[[str], str]], None],
) -> None:
    """Serve until the process is stopped.

    Args:
        settings: what to serve.
        port: where; None takes 8321 or the next free one, 0 any free one.
        started: called before the first request with the rooms, and a function that makes the
            whole address of a path.

    Raises:
        InputError: the port is taken or the address is none of this machine.
    """
    import uvicorn

    settings = with_token(settings)
    app, rooms = make_app(settings)
    listener = _listener(settings.host, port)
    try:
        started(rooms, lambda path: address(settings, listener.getsockname()[1], path))
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, server_header=False, timeout_keep_alive=30
        )
        uvicorn.Server(config).run(sockets=[listener])
    finally:
        listener.close()
        rooms.close()


def address(settings: Settings, port: int, path: str) -> str:
    """The whole address of a path; a rater's own link needs no token."""
    host = settings.host
    if host in ("0.0.0.0", "::"):
        host = settings.names[0] if settings.names else socket.gethostname()
    elif ":" in host:
        host = f"[{host.strip('[]')}]"
    is_open = settings.token is None or path.startswith("/r/")
    token = "" if is_open else f"?token={quote(settings.token or '')}"
    return f"http://{host}:{port}{path}{token}"


def _listener(host: str, port: int | None) -> socket.socket:
    wanted = range(PORT, PORT + _TRIES) if port is None else (port,)
    bare = host.strip("[]")
    family = socket.AF_INET6 if ":" in bare else socket.AF_INET
    problem: OSError | None = None
    for number in wanted:
        # asyncio sends small answers at once only where it is told that this is TCP; else the end
        # of each waits 40 ms for the other side's acknowledgement.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        # A server that was killed a moment ago is no reason to wait.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((bare, number))
            listener.listen(256)
            return listener
        except OSError as error:
            listener.close()
            problem = error
    reason = problem.strerror if problem else "taken"
    raise InputError(
        "port",
        f"{host}, port {wanted[0]}: {reason}",
        "an address of this machine and a free port",
        "Give another with --port, or 0 for any free one.",
    )
