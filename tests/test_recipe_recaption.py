"""The packaged recipe recaption from end to end, against a real HTTP server."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pyarrow import parquet

from tastemaker.cli.app import main
from tests.caption_server import Reply, Request, Server, chat, serving
from tests.page_reader import parsed

WORDS = {"apple": 90, "boat": 100, "cat": 110, "dog": 120, "egg": 130, "fox": 140}
CHOSEN = {"cat", "dog", "egg", "fox"}
USAGE = {word: (100 + side, side) for word, side in WORDS.items()}


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run with six pictures, of which a selection has four."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "pictures"
    folder.mkdir()
    for word, side in WORDS.items():
        pixels = np.random.default_rng(side).integers(0, 256, (side, side, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{word}.png")
        (folder / f"{word}.txt").write_text(f"old words of {word}")
    assert main(["collect", "pictures", "-o", "run"]) == 0
    least = "rules=[{rule: range, column: short_side, least: 105}]"
    assert main(["curate", "run", least, "-o", "run"]) == 0
    return tmp_path


def word_of(request: Request) -> str:
    (word,) = (word for word in WORDS if f"old words of {word}" in request.text)
    return word


def recaption(address: str, *more: str) -> int:
    places = ["collection=run", "selection=run", f"endpoint={address}", "model_name=llava"]
    return main(["run", "recaption", *places, *more, "-o", "new"])


def step_of(work: Path) -> Path:
    (name,) = (s["path"] for s in json.loads((work / "new/steps.json").read_text()))
    return work / "new" / name


def column_of(work: Path) -> dict[str, dict[str, Any]]:
    """The captions by word, from the files alone."""
    (catalog,) = (work / "run/steps/collect").glob("*/collection/catalog")
    (column,) = catalog.glob("col/caption@*")
    keys = parquet.read_table(catalog / "base/part-00000.parquet", columns=["id", "key"])
    rows = parquet.read_table(column / "part-00000.parquet").to_pylist()
    names = dict(zip(*(keys[name].to_pylist() for name in ("id", "key")), strict=True))
    return {names[row["id"]].removesuffix(".png"): row for row in rows}


def test_only_the_pictures_of_the_selection_are_captioned(work: Path) -> None:
    def reply(request: Request) -> Reply:
        if request.is_test_picture:
            return chat()
        word = word_of(request)
        return chat(f"new words of {word}", usage=USAGE[word])

    with serving(reply) as (server, address):
        assert recaption(address, "prompt_price=3", "completion_price=15") == 0
        assert sorted(word_of(one) for one in server.asked()) == sorted(CHOSEN)
        assert {one.picture.size[0] for one in server.asked()} == {WORDS[w] for w in CHOSEN}
        sent = len(server.requests)
        # A second run asks for nothing, not even whether the server is there.
        assert recaption(address, "prompt_price=3", "completion_price=15") == 0
        assert len(server.requests) == sent
    rows = column_of(work)
    assert {word for word, row in rows.items() if row["status"] == "ok"} == CHOSEN
    assert {rows[word]["status"] for word in set(WORDS) - CHOSEN} <= {"missing"}
    assert {word: rows[word]["caption"] for word in CHOSEN} == {
        word: f"new words of {word}" for word in CHOSEN
    }
    (told,) = json.loads((step_of(work) / "curation.json").read_text())["columns"]
    tokens = [sum(USAGE[word][side] for word in CHOSEN) for side in (0, 1)]
    assert [told["prompt_tokens"], told["completion_tokens"]] == tokens == [900, 500]
    assert told["cost"] == pytest.approx((900 * 3 + 500 * 15) / 1e6)
    assert (told["measured"], told["errors"]) == (4, {})
    page = (step_of(work) / "curation.html").read_text()
    assert "900 tokens read, 500 written, cost 0.01" in page
    assert all(address.startswith(("data:", "#")) for address in parsed(page).loads)


def test_only_what_failed_is_asked_again(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    healed: list[bool] = []

    def reply(request: Request) -> Reply:
        if not request.is_test_picture and word_of(request) == "dog" and not healed:
            return Reply(400, {"error": {"message": "this picture is odd"}})
        return chat("words", finish="length" if "egg" in request.text else "stop")

    with serving(reply) as (server, address):
        assert recaption(address) == 0
        told = capsys.readouterr().out
        assert "kept 2" in told
        assert "caption: status 400: this picture is odd 1" in told
        assert column_of(work)["dog"]["error"] == "status 400: this picture is odd"
        # What the model could not finish is no caption to train with.
        assert kept(work) == {"cat", "fox"}
        healed.append(True)
        server.requests.clear()
        assert recaption(address) == 0
        assert server.requests == []
        assert recaption(address, "captioned.retry_errors=true") == 0
        assert [word_of(one) for one in server.asked()] == ["dog"]
    assert column_of(work)["dog"]["caption"] == "words"
    assert kept(work) == {"cat", "dog", "fox"}


def test_a_server_that_dies_costs_no_caption_that_is_written(work: Path) -> None:
    lost: list[Server] = []

    def reply(request: Request) -> Reply:
        return Reply(401, {"error": "who are you?"}) if lost else chat("words")

    with serving(reply) as (server, address):
        assert recaption(address, "captioned.limit=5") == 0
        assert len(server.asked()) == 3
        lost.append(server)
        assert recaption(address) == 2
        lost.clear()
        server.requests.clear()
        assert recaption(address) == 0
        assert len(server.asked()) == 1


def kept(work: Path) -> set[str]:
    rows = parquet.read_table(step_of(work) / "verdicts.parquet").to_pylist()
    return {row["key"].removesuffix(".png") for row in rows if row["kept"]}


def test_the_recipe_is_checked_without_a_server(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["check", "recaption", "collection=run", "selection=run"]
    assert main([*words, "endpoint=http://127.0.0.1:9/v1"]) == 0
    assert main([*words, "endpoint=127.0.0.1:8000"]) == 2
    told = capsys.readouterr()
    assert "is no address such as http://127.0.0.1:8000/v1" in told.out
    assert main([*words[:2], "collection=run", "selection=pictures"]) == 2
