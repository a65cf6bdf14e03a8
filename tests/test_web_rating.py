"""Votes over HTTP: blind, exactly once, by many at a time, through a killed server."""

import io
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the studio's packages are not installed")

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tastemaker.store.people import FILE, People
from tastemaker.web.browser_pictures import for_browser
from tests.studio_place import make_collection, make_run, make_study, scene
from tests.studio_server import Server

RATERS, VOTES = 20, 50


@pytest.fixture
def study(tmp_path: Path) -> Path:
    run = make_run(tmp_path / "paintings")
    make_study(tmp_path / "study", run, repeat=0.2)
    return tmp_path / "study"


def _path(link: str) -> str:
    return "/" + link.split("/", 3)[3]


def _entry(pair: dict, answer: str | None = "left", again: int = 0, key: str = "") -> dict:
    return {
        "key": key or f"{pair['id']}{again}",
        "id": pair["id"],
        "again": again,
        "answer": answer,
    }


def test_a_rater_sees_nothing_but_pictures_and_words(study: Path) -> None:
    with Server("study", "serve", study, "--rater", "Ada") as server:
        page = _path(server.links[1])
        pairs = server.get(f"{page}/next?count=6").json["pairs"]
        assert len(pairs) == 6
        seen = server.get(page).body.decode() + str(pairs)
        seen = seen.replace(page, "")
        for secret in ("before", "after", "p00", "images/", ".png", str(study)):
            assert secret not in seen
        for pair in pairs:
            assert set(pair) == {"id", "question", "prompt", "left", "right"}
            assert "hills" in pair["prompt"]
        left = server.get(pairs[0]["left"])
        assert left.status == 200
        assert left.headers["content-type"] == "image/png"
        assert "content-disposition" not in left.headers
        assert left.body != server.get(pairs[0]["right"]).body
        # Nothing else is served: the gallery would tell which is which.
        for other in ("/", "/runs", f"/gallery/{page.split('/')[2]}", f"/c/{page.split('/')[2]}"):
            assert server.get(other).status == 404


def test_sides_are_what_the_server_says_and_answers_are_meant_as_seen(study: Path) -> None:
    with Server("study", "serve", study, "--rater", "Ada") as server:
        page = _path(server.links[1])
        pairs = server.get(f"{page}/next?count=12").json["pairs"]
        shown = {}
        for pair in pairs:
            noisy = [_is_noisy(server.get(pair[place]).body) for place in ("left", "right")]
            shown[pair["id"]] = noisy
            # Always the clean one, which is that of the model `after`.
            choice = "right" if noisy[0] else "left"
            server.post(f"{page}/votes", {"entries": [_entry(pair, choice)]})
        assert all(noisy[0] != noisy[1] for noisy in shown.values())
        lefts = Counter(noisy[0] for noisy in shown.values())
        assert abs(lefts[True] - lefts[False]) <= 2
    with People(study / FILE) as people:
        votes = [one.vote for one in people.votes()]
    assert len(votes) == len(pairs)
    assert {vote.a if vote.choice == "a" else vote.b for vote in votes} == {"after"}


def _is_noisy(data: bytes) -> bool:
    pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), float)
    return float(np.abs(np.diff(pixels, axis=1)).mean()) > 12


def test_a_vote_arrives_once_whatever_is_sent(study: Path) -> None:
    with Server("study", "serve", study, "--rater", "Ada", "--rater", "Bob") as server:
        ada, bob = (_path(link) for link in server.links[1:])
        first, second = server.get(f"{ada}/next?count=2").json["pairs"]
        told = [server.post(f"{ada}/votes", {"entries": [_entry(first)] * 2}).json["results"]
                for _ in range(3)]  # fmt: skip
        assert [result["new"] for results in told for result in results] == [True] + 5 * [False]
        # Another answer to the same pair changes nothing, nor does one from somebody else.
        server.post(f"{ada}/votes", {"entries": [_entry(first, "right")]})
        stranger = server.post(f"{bob}/votes", {"entries": [_entry(second)]}).json["results"][0]
        assert "Reload" in stranger["error"]
        wrong = server.post(f"{ada}/votes", {"entries": [_entry({"id": "v-none"}), _entry(second)]})
        assert ["error" in one for one in wrong.json["results"]] == [True, False]
        for bad in ("both", 3):
            entry = {**_entry(second), "answer": bad}
            assert server.post(f"{ada}/votes", {"entries": [entry]}).status == 422
        assert server.get(second["left"].replace(ada, bob)).status == 404
    with People(study / FILE) as people:
        assert len(people.votes()) == 2


def test_an_answer_is_taken_back_and_given_again_however_often_it_is_sent(study: Path) -> None:
    with Server("study", "serve", study, "--rater", "Ada") as server:
        page = _path(server.links[1])
        pair = server.get(f"{page}/next?count=1").json["pairs"][0]

        def send(*entries: dict) -> list[dict]:
            return server.post(f"{page}/votes", {"entries": entries}).json["results"]

        send(_entry(pair, "left"))
        for _ in range(2):
            taken = send(_entry(pair, None, again=1))
            given = send(_entry(pair, "right", again=1))
        assert taken[0]["id"] == given[0]["id"] != pair["id"]
        third = send(_entry(pair, "tie", again=2))
        assert third[0]["new"]
        assert server.get(pair["left"]).status == 200
    with People(study / FILE) as people:
        assert [one.vote.choice for one in people.votes()] == ["tie"]
        assert len(people.votes(superseded=True)) == 3


def test_a_page_that_comes_back_goes_on_where_it_was(study: Path) -> None:
    with Server("study", "serve", study, "--rater", "Ada") as server:
        page = _path(server.links[1])
        pairs = server.get(f"{page}/next?count=4").json["pairs"]
        server.post(f"{page}/votes", {"entries": [_entry(pairs[0])]})
        server.kill()
        server.start()
        # Its pictures are there at once, and the three that wait come first.
        assert server.get(pairs[1]["right"]).status == 200
        again = server.get(f"{page}/next?count=4").json
        assert [pair["id"] for pair in again["pairs"][:3]] == [pair["id"] for pair in pairs[1:]]
        assert again["progress"]["done"] == 1
        known = ",".join(pair["id"] for pair in again["pairs"])
        more = server.get(f"{page}/next?count=4&known={known}").json["pairs"]
        assert not {pair["id"] for pair in more} & {pair["id"] for pair in again["pairs"]}


def test_names_are_taken_once_and_everybody_is_listed(tmp_path: Path) -> None:
    collection = make_collection(tmp_path / "hills", count=8)
    with Server("rate", tmp_path / "hills") as server:
        hall = _path(server.links[0])
        links = [server.post(f"{hall}/enter", {"name": name}).json["link"]
                 for name in ("Ada", "Bob", " Ada ")]  # fmt: skip
        assert links[0] == links[2] != links[1]
        pair = server.get(f"{links[1]}/next?count=1").json["pairs"][0]
        server.post(f"{links[1]}/votes", {"entries": [_entry(pair, "skip")]})
        state = server.get(f"{hall}/state").json
        assert [(r["name"], r["done"], r["skipped"]) for r in state["raters"]] == [
            ("Ada", 0, 0),
            ("Bob", 0, 1),
        ]
        assert server.get(hall).status == 200
    assert (collection / FILE).exists()


class _Rater(threading.Thread):
    """Votes as a page does: keeps what was not acknowledged, and sends it again."""

    def __init__(self, server: Server, page: str, name: str) -> None:
        super().__init__(name=name)
        self.server, self.page = server, page
        self.sent: dict[str, str] = {}
        self.acknowledged: set[str] = set()
        self.new = 0

    def run(self) -> None:
        waiting: list[dict] = []
        while len(self.sent) < VOTES or waiting:
            try:
                if len(self.sent) < VOTES:
                    waiting += self._more(waiting)
                results = self.server.post(f"{self.page}/votes", {"entries": waiting}).json[
                    "results"
                ]
            except (OSError, ValueError):
                time.sleep(0.05)
                continue
            done = {one["key"] for one in results if "error" not in one}
            self.new += sum(one["new"] for one in results)
            self.acknowledged |= done
            waiting = [entry for entry in waiting if entry["key"] not in done]

    def _more(self, waiting: list[dict]) -> list[dict]:
        count = min(3, VOTES - len(self.sent))
        known = ",".join(entry["id"] for entry in waiting)
        pairs = self.server.get(f"{self.page}/next?count={count}&known={known}").json["pairs"]
        fresh = [pair for pair in pairs if pair["id"] not in self.sent]
        for number, pair in enumerate(fresh):
            self.sent[pair["id"]] = ("left", "right", "tie")[(len(self.sent) + number) % 3]
        return [_entry(pair, self.sent[pair["id"]]) for pair in fresh]


def test_twenty_at_a_time_and_a_killed_server_lose_nothing(tmp_path: Path) -> None:
    make_collection(tmp_path / "hills", count=60, side=24)
    with Server("rate", tmp_path / "hills") as server:
        hall = _path(server.links[0])
        raters = []
        for number in range(RATERS):
            link = server.post(f"{hall}/enter", {"name": f"rater {number}"}).json["link"]
            raters.append(_Rater(server, link, f"rater {number}"))
        for rater in raters:
            rater.start()
        half = RATERS * VOTES // 2
        until = time.monotonic() + 60
        while sum(len(rater.acknowledged) for rater in raters) < half and time.monotonic() < until:
            time.sleep(0.01)
        server.kill()
        time.sleep(0.2)
        server.start()
        for rater in raters:
            rater.join(60)
    assert not any(rater.is_alive() for rater in raters)
    sent = {id_: choice for rater in raters for id_, choice in rater.sent.items()}
    assert len(sent) == RATERS * VOTES
    with People(next(tmp_path.rglob(FILE))) as people:
        stored = people.votes()
        given = {one.vote_id: one for one in people.shown("rating")}
    assert len(stored) == len({one.vote.id for one in stored}) == RATERS * VOTES
    for one in stored:
        answer = sent[one.vote.id]
        shown = given[one.vote.id]
        assert one.vote.choice == (answer if answer == "tie" else shown.chosen(answer))
    # What was stored just before the kill was sent again, and is not there twice.
    assert sum(rater.new for rater in raters) <= RATERS * VOTES


def test_a_picture_loses_its_words_and_keeps_its_pixels(tmp_path: Path) -> None:
    pixels = scene(3, 64)
    info = PngInfo()
    info.add_text("parameters", "secret model, seed 7")
    exif = Image.Exif()
    exif[0x010E] = "secret"
    rotated = Image.Exif()
    rotated[0x0112] = 6
    image = Image.fromarray(pixels)
    image.save(tmp_path / "a.png", pnginfo=info)
    image.save(tmp_path / "b.jpg", exif=exif, comment=b"secret", quality=95)
    image.save(tmp_path / "c.webp", exif=exif, lossless=True)
    for name, kind in (("a.png", "png"), ("b.jpg", "jpeg"), ("c.webp", "webp")):
        data, told = for_browser(tmp_path / name)
        whole = (tmp_path / name).read_bytes()
        assert b"secret" in whole
        assert b"secret" not in data
        assert told in (f"image/{kind}", "image/png")
        before, after = (
            np.asarray(Image.open(io.BytesIO(d)).convert("RGB")) for d in (whole, data)
        )
        assert (before == after).all()
    image.save(tmp_path / "d.jpg", exif=rotated, quality=95)
    data, told = for_browser(tmp_path / "d.jpg")
    assert told == "image/png"
    assert Image.open(io.BytesIO(data)).size == (64, 64)
    Image.fromarray(pixels.repeat(3, 1)).save(tmp_path / "e.png")
    data, _ = for_browser(tmp_path / "e.png", max_side_px=96)
    assert Image.open(io.BytesIO(data)).size == (96, 32)
    clear = Image.fromarray(np.dstack([pixels, np.full((64, 64), 0, np.uint8)]))
    clear.save(tmp_path / "f.png")
    data, _ = for_browser(tmp_path / "f.png")
    assert (np.asarray(Image.open(io.BytesIO(data))) == 255).all()
