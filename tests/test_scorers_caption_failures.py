"""Captions by a server that fails: what is tried again, and what ends the work."""

import threading
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from tastemaker.errors import InputError
from tastemaker.scorers.caption_endpoint import CaptionServer
from tests.caption_server import Reply, Request, captions, chat, config, serving, subject


def patient(reply: Reply) -> Any:
    """Answers the test picture well, all others with `reply`."""
    return lambda request: chat() if request.is_test_picture else reply


# --- when servers fail ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "failure",
    [
        Reply(500, {"error": {"message": "out of memory"}}),
        Reply(503, b"<html>busy</html>"),
        Reply(200, b'{"choices": ['),
        Reply(200, b"\xff\xfe"),
        Reply(200, {"choices": []}),
        Reply(200, ["no", "object"]),
        Reply(200, {"choices": [{"message": {"content": 5}}]}),
        Reply(200, b"plain", {"Content-Encoding": "gzip"}),
        Reply(drop=True),
    ],
)
def test_what_may_pass_is_tried_again(failure) -> None:
    seen: Counter[str] = Counter()

    def reply(request: Request) -> Reply:
        seen[request.address] += 1
        return failure if seen[request.address] < 3 else chat()

    with serving(reply) as (_, address):
        values = captions(address, [subject("a"), subject("b")], retries=2)
    assert [value.get("caption") for value in values] == ["a caption"] * 2
    assert set(seen.values()) == {3}, "the test picture is tried again too"
    with serving(patient(failure)) as (server, address):
        (values,) = captions(address, [subject("a")], retries=2)
    assert values["error"].endswith("(3 times)")
    assert len(server.asked()) == 3


def waits(reply: Any, **options: Any) -> tuple[list[float], list[dict[str, Any]]]:
    """Seconds that are waited between requests, without waiting."""
    waited: list[float] = []
    with serving(reply) as (_, address):
        server = CaptionServer.connect(
            config(address, **options), wait=lambda stop, seconds: waited.append(seconds)
        )
        values = server([subject("a")])
        server.close()
    return waited, values


def test_waits_double_or_are_what_the_server_says() -> None:
    waited, _ = waits(patient(Reply(500)), retries=4)
    assert len(waited) == 4
    for attempt, seconds in enumerate(waited):
        assert 0.75 * 0.5 * 2**attempt <= seconds <= 0.5 * 2**attempt
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    past = format_datetime(datetime.now(UTC) - timedelta(seconds=60), usegmt=True)
    for asked, low, high in [("7", 7, 7), ("0.25", 0.25, 0.25), (soon, 50, 60), (past, 0, 0)]:
        waited, _ = waits(patient(Reply(429, {}, {"Retry-After": asked})), retries=1)
        assert len(waited) == 1
        assert low <= waited[0] <= high
    waited, _ = waits(patient(Reply(429, {}, {"Retry-After": "soon"})), retries=1)
    assert 0.375 <= waited[0] <= 0.5
    waited, values = waits(patient(Reply(429, {}, {"Retry-After": "3600"})), retries=1)
    assert waited == []
    assert values == [{"error": "status 429: {} (1 times)"}]


def test_a_real_wait_is_as_long_as_the_server_says() -> None:
    seen: list[float] = []

    def reply(request: Request) -> Reply:
        if request.is_test_picture:
            return chat()
        seen.append(time.monotonic())
        return chat() if len(seen) == 2 else Reply(429, {}, {"Retry-After": "0.6"})

    with serving(reply) as (_, address):
        measure = config(address).open({}, "cpu")
        assert measure([subject()])[0]["caption"] == "a caption"
    assert seen[1] - seen[0] >= 0.6, "our own first wait is shorter"


def test_a_silent_server_is_given_up_after_the_timeout() -> None:
    release = threading.Event()

    def reply(request: Request) -> Reply:
        if request.picture.size == (20, 20):
            release.wait(5)
        return chat()

    with serving(reply) as (_, address):
        start = time.monotonic()
        values = captions(
            address, [subject("slow", h=20, w=20), subject("a")], timeout_s=0.4, retries=1
        )
        seconds = time.monotonic() - start
        release.set()
    assert values[0] == {"error": "no answer in 0.4 s (2 times)"}
    assert values[1]["caption"] == "a caption"
    assert 0.8 <= seconds < 4


@pytest.mark.parametrize("concurrency", [1, 3])
def test_as_many_requests_are_in_flight_as_wished(concurrency) -> None:
    state, full = {"now": 0, "most": 0}, threading.Event()
    lock = threading.Lock()

    def reply(request: Request) -> Reply:
        if request.is_test_picture:
            return chat()
        with lock:
            state["now"] += 1
            state["most"] = max(state["most"], state["now"])
            if state["now"] == concurrency:
                full.set()
        full.wait(2)  # until as many are here as should be
        time.sleep(0.01)  # time for one too many
        with lock:
            state["now"] -= 1
        return chat(request.address[-40:])

    subjects = [subject(str(i)) for i in range(9)]
    with serving(reply) as (server, address):
        values = captions(address, subjects, concurrency=concurrency, picture_format="png")
        alone = [captions(address, [one], picture_format="png")[0] for one in subjects[:2]]
    assert full.is_set()
    assert state["most"] == concurrency
    assert values[:2] == alone, "answers belong to their pictures"
    assert len({value["caption"] for value in values}) == 9


# --- when nothing can be done --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (Reply(401, {"error": {"message": "Incorrect API key: sk-123"}}), ("401", "key_file")),
        (Reply(402, {"error": "no money"}), ("402: no money", "nothing left")),
        (Reply(403, {}), ("403", "model_name")),
        (Reply(404, {"error": {"message": "no model llava"}}), ("no model llava", "has: vicuna")),
        (Reply(405, b""), ("405", "/v1")),
        (Reply(308, b"", {"Location": "/elsewhere"}), ("308",)),
        (Reply(429, {"error": {"code": "insufficient_quota", "message": "broke"}}), ("broke",)),
    ],
)
@pytest.mark.parametrize("at_once", [True, False])
def test_what_will_not_pass_ends_the_work(tmp_path, reply, words, at_once) -> None:
    key = tmp_path / "key"
    key.write_text("sk-123\n")
    with serving((lambda request: reply) if at_once else patient(reply)) as (server, address):
        server.models = ["vicuna"]
        with pytest.raises(InputError) as caught:
            captions(address, [subject(str(i)) for i in range(30)], key_file=key, concurrency=2)
    for word in words:
        assert word in str(caught.value)
    assert address in str(caught.value)
    assert "sk-123" not in str(caught.value)
    assert len(server.requests) < 10


def test_a_server_that_is_not_there_is_said_at_once() -> None:
    with serving(lambda request: chat()) as (_, address):
        pass
    start = time.monotonic()
    with pytest.raises(InputError, match=r"no connection.*expected a running server"):
        config(address).open({}, "cpu")
    assert time.monotonic() - start < 5, "no second try: it is not there"


def test_a_server_that_goes_away_ends_the_work() -> None:
    waited: list[float] = []
    last = chat()
    last.headers["Connection"] = "close"
    with serving(lambda request: last) as (_, address):
        server = CaptionServer.connect(
            config(address, retries=2), wait=lambda stop, seconds: waited.append(seconds)
        )
    with pytest.raises(InputError, match="captions that are written stay"):
        server([subject("a")])
    server.close()
    assert len(waited) == 2, "it may only have been restarted"


@pytest.mark.parametrize(
    "reply",
    [
        Reply(400, {"error": {"message": "llava is not a multimodal model"}}),
        Reply(500, {"error": {"message": "llava is not a multimodal model"}}),
    ],
)
def test_a_model_that_sees_no_pictures_is_found_before_the_work(reply) -> None:
    match = pytest.raises(InputError, match="not a multimodal model")
    with serving(lambda request: reply) as (_, address), match:
        captions(address, [subject()], retries=1)


def test_a_page_of_something_else_is_no_answer() -> None:
    match = pytest.raises(InputError, match="no chat completion")
    with serving(lambda request: Reply(200, b"<html>router</html>")) as (_, address), match:
        captions(address, [subject()], retries=0)
