"""Who may ask the studio what: hosts, origins, sizes, tokens, and paths that climb."""

import contextlib
import http.client
import json
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the studio's packages are not installed")

from tastemaker.errors import InputError
from tastemaker.web.app import Settings, make_app
from tastemaker.web.guard import MAX_BODY_BYTES, is_loopback, own_names
from tastemaker.web.serve import with_token
from tests.studio_place import make_collection
from tests.studio_server import Server, request

TOKEN = "a-token-of-the-test"


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_collection(tmp_path_factory.mktemp("guard") / "hills", count=6)


@pytest.fixture(scope="module")
def server(collection: Path):
    with Server("rate", collection) as running:
        yield running


@pytest.fixture(scope="module")
def closed(collection: Path):
    """A studio that asks for a token."""
    with Server("studio", collection.parents[3], "--token", TOKEN) as running:
        yield running


def _enter(server: Server) -> str:
    return "/" + server.links[0].split("/", 3)[3] + "/enter"


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:80",
        "127.0.0.1.evil.example",
        "",
        "[::1",
        "localhost.evil",
        "0x7f000001",
    ],
)
def test_a_foreign_host_name_is_refused(server: Server, host: str) -> None:
    assert server.get("/", host=host).status in (400, 421)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "LOCALHOST:{port}", "[::1]:{port}"])
def test_its_own_names_are_answered(server: Server, host: str) -> None:
    assert server.get("/", host=host.format(port=server.port)).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:1"},
        {"origin": "http://localhost.evil.example"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
def test_a_post_from_another_origin_is_refused(server: Server, headers: dict[str, str]) -> None:
    name = {"name": "Mallory"}
    assert server.post(_enter(server), name, **headers).status == 403
    own = {"origin": f"http://127.0.0.1:{server.port}", "sec-fetch-site": "same-origin"}
    assert server.post(_enter(server), {"name": "Ada"}, **own).status == 200
    assert b"Mallory" not in server.get(_enter(server).replace("enter", "state")).body


@pytest.mark.parametrize(
    "kind",
    ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""],
)
def test_what_a_plain_form_can_send_is_refused(server: Server, kind: str) -> None:
    assert server.post(_enter(server), {"name": "Mallory"}, content_type=kind).status == 415


def test_an_oversized_body_is_refused_before_it_is_read(server: Server) -> None:
    large = {"name": "x" * (MAX_BODY_BYTES + 1)}
    assert server.post(_enter(server), large).status == 413
    told = {"content-length": str(10**12)}
    assert request(server.port, "POST", _enter(server), b"", told).status == 413


def test_an_oversized_body_in_pieces_is_refused(server: Server) -> None:
    piece = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    body = piece * 2 + b"0\r\n\r\n"
    headers = {"transfer-encoding": "chunked"}
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.putrequest("POST", _enter(server))
    for name, value in {**headers, "content-type": "application/json"}.items():
        connection.putheader(name, value)
    connection.endheaders()
    # It hangs up as soon as it has had enough.
    with contextlib.suppress(OSError):
        connection.send(body)
    assert connection.getresponse().status == 413
    connection.close()


CLIMBING = [
    "/static/../guard.py",
    "/static/..%2fguard.py",
    "/static/%2e%2e/guard.py",
    "/static/%2e%2e%2fguard.py",
    "/static/..%5cguard.py",
    "/static/%00",
    "/static//" + "etc/passwd",
    "/static/",
    "/static",
    "/..%2f..%2f..%2f" + "etc/passwd",
    "/c/..%2f..",
    "/c/{id}/p/..%2f..%2fpeople.sqlite",
    "/c/{id}/t/" + "%2fetc%2fpasswd",
    "/run/..",
    "/gallery/{id}/p?m=0&i=0&p=../../people.sqlite",
    "/people.sqlite",
    "/openapi.json",
    "/docs",
]


@pytest.mark.parametrize("path", CLIMBING)
def test_paths_that_climb_or_list_lead_nowhere(closed: Server, path: str) -> None:
    page = closed.get("/", authorization=f"Bearer {TOKEN}").body.decode()
    id_ = page.split('href="/c/')[1].split('"')[0]
    answer = closed.get(path.format(id=id_), authorization=f"Bearer {TOKEN}")
    assert answer.status in (400, 404, 422)
    assert not any(word in answer.body for word in (b"class Guard", b"root:", b"SQLite format"))


def test_without_the_token_nothing_is_told(closed: Server) -> None:
    for path in ("/", "/runs", "/run/x", "/rate/x", "/c/x/rows", "/gallery/x/marks.csv"):
        assert closed.get(path).status == 401
        assert closed.get(path, cookie="tastemaker_token=wrong").status == 401
        assert closed.get(f"{path}?token=wrong").status == 401
    assert closed.post("/rate/x/enter", {"name": "Mallory"}).status == 401


def test_a_raters_link_carries_its_own_token(closed: Server) -> None:
    """It opens without the studio's; a wrong one opens nothing."""
    owner = {"authorization": f"Bearer {TOKEN}"}
    page = closed.get("/", **owner).body.decode()
    id_ = page.split('href="/rate/')[1].split('"')[0]
    link = closed.post(f"/rate/{id_}/enter", {"name": "Ada"}, **owner).json["link"]
    assert closed.get(link).status == 200
    assert closed.get(f"{link}/next").json["pairs"]
    assert closed.get(link[:-1] + ("A" if link[-1] != "A" else "B")).status == 404
    assert closed.get(f"/r/{id_}/x/next").status == 404


def test_the_token_of_a_link_becomes_a_cookie(closed: Server) -> None:
    answer = closed.get(f"/runs?token={TOKEN}&x=1")
    assert answer.status == 303
    assert answer.headers["location"] == "/runs?x=1"
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert closed.get("/runs", cookie=cookie.partition(";")[0]).status == 200
    assert closed.get(f"//evil.example?token={TOKEN}").headers["location"] == "/evil.example"


def test_only_get_and_post_are_answered(server: Server) -> None:
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"):
        assert request(server.port, method, "/").status == 405


def test_every_answer_forbids_what_no_page_needs(server: Server) -> None:
    for path in ("/", "/nothing", "/static/studio.css"):
        headers = server.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
    assert server.get("/").headers["cache-control"] == "no-store"


def test_an_address_for_others_needs_a_token(tmp_path: Path) -> None:
    for host in ("0.0.0.0", "192.168.1.5", "example.org", "::"):
        with pytest.raises(InputError, match="without a token"):
            make_app(Settings(tmp_path, host))
        made = with_token(Settings(tmp_path, host)).token
        assert made is not None
        assert len(made) >= 24
    assert with_token(Settings(tmp_path, "127.0.0.1")).token is None
    assert is_loopback("::1")
    assert not is_loopback("127.0.0.1.nip.example")
    assert "localhost" not in own_names("192.168.1.5")
    assert "studio.example" in own_names("0.0.0.0", ["Studio.Example"])


def test_a_wrong_body_is_told_and_changes_nothing(server: Server) -> None:
    for value in ({"name": 5}, {"nome": "x"}, [], {"name": "x" * 101}, {"name": " "}):
        answer = server.post(_enter(server), value)
        assert answer.status in (400, 422)
        assert json.loads(answer.body)["error"]
    assert request(server.port, "POST", _enter(server), b"{").status == 422
