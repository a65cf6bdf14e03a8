"""`tastemaker studio`, `rate` and `study serve`: what they refuse, and what they print."""

import socket
from pathlib import Path

import pytest

from tastemaker.cli import serving
from tastemaker.cli.app import main
from tests.studio_place import make_collection
from tests.studio_server import Server


def _told(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    assert main([str(word) for word in words]) == 2
    return capsys.readouterr().err


def test_without_its_packages_the_studio_says_what_to_install(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "find_spec", lambda name: None if name == "uvicorn" else object())
    told = _told(capsys, "studio", tmp_path)
    assert "no package uvicorn" in told
    assert 'pip install "tastemaker[studio]"' in told


def test_what_is_not_there_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("fastapi", reason="the studio's packages are not installed")
    assert "no folder" in _told(capsys, "studio", tmp_path / "nowhere")
    assert "no collection there" in _told(capsys, "rate", tmp_path)
    assert "no study.json" in _told(capsys, "study", "serve", tmp_path)


def test_a_port_that_is_taken_is_told_and_the_default_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("fastapi", reason="the studio's packages are not installed")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"port {port}" in _told(capsys, "studio", tmp_path, "--port", port)


def test_each_command_prints_where_to_go(tmp_path: Path) -> None:
    pytest.importorskip("fastapi", reason="the studio's packages are not installed")
    make_collection(tmp_path / "hills", count=4)
    with Server("studio", tmp_path, "--host", "localhost") as server:
        assert server.links == [f"http://localhost:{server.port}/"]
    with Server("rate", tmp_path / "hills", "--rater", "Ada", "--token", "secret") as server:
        # The link of a rater needs no other token.
        assert "/r/" in server.links[0]
        assert "secret" not in server.links[0]
        assert server.get("/" + server.links[0].split("/", 3)[3]).status == 200
    with Server(
        "rate", tmp_path / "hills", "--host", "0.0.0.0", "--name", "here.example"
    ) as server:
        address = server.links[0]
        assert address.startswith(f"http://here.example:{server.port}/rate/")
        path, token = address.split("/", 3)[3].split("?token=")
        assert len(token) > 24
        assert server.get(f"/{path}").status == 401
        assert (
            server.get(f"/{path}", host="here.example", authorization=f"Bearer {token}").status
            == 200
        )
        assert server.get(f"/{path}", host="there.example").status == 421
