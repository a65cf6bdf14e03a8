"""Captions by a server: a real one is started, and behaves well and badly."""

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from tastemaker.errors import InputError, MissingExtra
from tastemaker.scorers.caption import Caption
from tastemaker.scorers.operation import Subject
from tests.caption_server import Reply, Request, captions, chat, config, pixels, serving, subject

PIXART = "Describe this image and its style in a very detailed manner"


# --- what is asked and what is kept --------------------------------------------------------------


def test_the_request_holds_picture_and_prompt() -> None:
    with serving(lambda request: chat(' "A red\n\nfox."\t', usage=(600, 40))) as (server, address):
        measure = config(address + "/", picture_format="png", max_tokens=77).open({}, "cpu")
        values = measure([subject("a")])
    assert values == [
        {"caption": "A red fox.", "prompt_tokens": 600, "completion_tokens": 40, "finish": "stop"}
    ]
    probe, request = server.requests
    assert probe.is_test_picture
    assert probe.body["max_tokens"] == 1
    assert request.path == "/v1/chat/completions"
    assert request.text == PIXART
    assert request.address.startswith("data:image/png;base64,")
    np.testing.assert_array_equal(np.asarray(request.picture), subject("a").pixels)
    assert {key: request.body[key] for key in ("model", "max_tokens", "temperature")} == {
        "model": "llava",
        "max_tokens": 77,
        "temperature": 0.0,
    }
    assert "authorization" not in request.headers


def test_pictures_are_sent_reduced_and_as_jpeg() -> None:
    flat = np.zeros((300, 600, 3), np.uint8)
    flat[:, 300:] = (200, 30, 90)
    with serving(lambda request: chat()) as (server, address):
        captions(address, [Subject("a", flat)], side_px=100)
    (request,) = server.asked()
    assert (request.picture.format, request.picture.size) == ("JPEG", (100, 50))
    sent = np.asarray(request.picture).astype(int)
    assert np.abs(sent[:, 60:] - (200, 30, 90)).max() < 4
    assert sent[:, :40].max() < 4


@pytest.mark.parametrize(
    ("prompt", "old", "expected"),
    [
        ("pixart", ("a fox",), PIXART),
        (
            "pixart_old_caption",
            ("a  red\nfox", "second"),
            "Give the caption of this image 'a red fox', "
            "describe this image and its style in a very detailed manner",
        ),
        ("pixart_old_caption", (), PIXART),
        ("pixart_old_caption", (" ",), PIXART),
        ("Improve: {caption}. Keep {this}.", ("{caption}",), "Improve: {caption}. Keep {this}."),
        ("What is it?", (), "What is it?"),
    ],
)
def test_the_prompt_shows_the_old_caption(prompt, old, expected) -> None:
    with serving(lambda request: chat()) as (server, address):
        captions(address, [subject("a", *old)], prompt=prompt)
    assert [request.text for request in server.asked()] == [expected]


def test_tags_stand_in_for_a_caption_and_nothing_is_an_error() -> None:
    tagged = Subject("t", pixels(), (), ("fox", "snow"))
    with serving(lambda request: chat()) as (server, address):
        values = captions(address, [tagged, subject("n")], prompt="More than {caption} please")
    assert [request.text for request in server.asked()] == ["More than fox, snow please"]
    assert values[0]["caption"] == "a caption"
    assert values[1] == {"error": "neither caption nor tags to put into the prompt"}


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("plain", "plain"),
        ("“quoted”", "quoted"),
        ('"one" and "two"', '"one" and "two"'),
        ("it's a dog's", "it's a dog's"),
        ("<think>hm, a fox?\n</think>\n\nA fox.", "A fox."),
        ("a\x00b\x1b[0m \u200d ok", "ab[0m \u200d ok"),
        ("half a sign \ud800", "half a sign ?"),
        ([{"type": "text", "text": "in "}, {"type": "text", "text": "parts"}], "in parts"),
    ],
)
def test_answers_become_one_clean_line(said, kept) -> None:
    with serving(lambda request: chat(said)) as (_, address):
        (values,) = captions(address, [subject()])
    assert values["caption"] == kept
    values["caption"].encode("utf-8")


def test_a_caption_that_is_cut_off_says_so_and_tokens_may_be_unknown() -> None:
    with serving(lambda request: chat("A long", "length", None)) as (_, address):
        (values,) = captions(address, [subject()])
    assert values == {
        "caption": "A long",
        "prompt_tokens": 0,
        "completion_tokens": 0,
        "finish": "length",
    }


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (chat("", "stop"), "empty answer (finish: stop)"),
        (chat(None, None), "empty answer (finish: unknown)"),
        (chat("<think>never ends", "length"), "empty answer (finish: length)"),
        (chat("half", "content_filter"), "the server's content filter"),
        (chat("I'm sorry, but I can't assist."), "the model refuses (I'm sorry"),
        (chat("I cannot describe people."), "the model refuses (I cannot"),
        (Reply(400, {"error": {"message": "picture too\nlarge"}}), "status 400: picture too large"),
        (Reply(422, {"detail": "?"}), 'status 422: {"detail": "?"}'),
    ],
)
def test_a_picture_without_answer_is_an_error_of_its_own(reply, reason) -> None:
    bad = subject("bad", h=20, w=20)

    def by_picture(request: Request) -> Reply:
        return reply if request.picture.size == (20, 20) else chat()

    with serving(by_picture) as (server, address):
        first, wrong, last = captions(address, [subject("a"), bad, subject("b")])
    assert first["caption"] == last["caption"] == "a caption"
    assert list(wrong) == ["error"]
    assert wrong["error"].startswith(reason)
    assert len(server.asked()) == 3, "none is repeated: it would be answered the same"


# --- keys, environment, configuration ------------------------------------------------------------


def test_the_key_is_sent_and_stored_nowhere(tmp_path) -> None:
    key = tmp_path / "key"
    key.write_text(" sk-secret\n")
    with serving(lambda request: chat()) as (server, address):
        operation = config(address, key_file=key)
        captions(address, [subject()], key_file=key)
    assert {request.headers["authorization"] for request in server.requests} == {"Bearer sk-secret"}
    assert "sk-secret" not in operation.model_dump_json() + str(operation.params({}, {}))
    assert "key" not in operation.params({}, {})


@pytest.mark.parametrize("content", [None, b"", b"two words", b"\xc3\xa4"])
def test_a_file_that_holds_no_key_is_refused(tmp_path, content) -> None:
    key = tmp_path / "key"
    if content is not None:
        key.write_bytes(content)
    with pytest.raises(InputError, match="nothing but the key") as caught:
        config("http://127.0.0.1:9/v1", key_file=key).open({}, "cpu")
    assert "two" not in str(caught.value)


def test_the_environment_is_not_read(monkeypatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("OPENAI_API_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.setenv(name, "leaked")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Token: leaked")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    with serving(lambda request: chat()) as (server, address):
        assert captions(address, [subject()])[0]["caption"] == "a caption"
    assert "leaked" not in str([request.headers for request in server.requests])


def test_a_proxy_is_used_when_it_is_named() -> None:
    with serving(lambda request: chat("by proxy")) as (server, proxy):
        values = captions("http://nowhere.invalid/v1", [subject()], proxy=proxy.removesuffix("/v1"))
    assert values[0]["caption"] == "by proxy"
    assert server.requests[0].path == "http://nowhere.invalid/v1/chat/completions"


def test_fields_of_the_request_can_be_added_and_taken_away() -> None:
    request = {"max_tokens": None, "max_completion_tokens": 50, "top_p": 0.9}
    with serving(lambda request: chat()) as (server, address):
        captions(address, [subject()], request=request)
    (asked,) = server.asked()
    assert "max_tokens" not in asked.body
    assert (asked.body["max_completion_tokens"], asked.body["top_p"]) == (50, 0.9)


def test_only_what_changes_captions_changes_the_column(tmp_path) -> None:
    def params(**options: Any) -> dict[str, Any]:
        return config("http://127.0.0.1:8000/v1").model_copy(update=options).params({}, {})

    base = params()
    assert base["prompt"] == PIXART
    for key, value in {
        "endpoint": "http://127.0.0.1:9/v1", "concurrency": 2, "retries": 0, "timeout_s": 3.0,
        "prompt_price": 1.0, "completion_price": 2.0, "key_file": tmp_path, "name": "again",
        "proxy": "http://127.0.0.1:9", "prompt": PIXART, "precision": "fp32",
    }.items():  # fmt: skip
        assert params(**{key: value}) == base, key
    for key, value in {
        "model_name": "other", "prompt": "pixart_old_caption", "max_tokens": 5, "side_px": 99,
        "temperature": 0.5, "picture_format": "png", "jpeg_quality": 80, "request": {"seed": 1},
    }.items():  # fmt: skip
        assert params(**{key: value}) != base, key


def test_cost_is_counted_from_tokens() -> None:
    address = "http://127.0.0.1:8000/v1"
    priced = config(address, prompt_price=0.5, completion_price=2.0)
    assert priced.cost(3_000_000, 250_000) == pytest.approx(2.0)
    assert config(address, completion_price=2.0).cost(10, 1_000_000) == pytest.approx(2.0)
    assert config(address).cost(1, 1) is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "exactly one"),
        ({"endpoint": "http://a/v1", "model": "m"}, "exactly one"),
        ({"endpoint": "http://a/v1"}, "model_name"),
        ({"endpoint": "a/v1", "model_name": "m"}, "no address"),
        ({"endpoint": "http://", "model_name": "m"}, "no address"),
        ({"endpoint": "http://a:99999/v1", "model_name": "m"}, "no address"),
        ({"endpoint": "http://u:p@a/v1", "model_name": "m"}, "key_file"),
        ({"endpoint": "http://a/v1?key=1", "model_name": "m"}, "key_file"),
        ({"endpoint": "http://a/v1", "model_name": "m", "proxy": "a"}, "proxy"),
        ({"endpoint": "http://a/v1", "model_name": "m", "prompt": "pixrt"}, "nor a sentence"),
        ({"model": "m", "temperature": 0.5}, "deterministic"),
    ],
)
def test_configurations_that_cannot_work_are_refused(options, words) -> None:
    with pytest.raises(ValidationError, match=words):
        Caption(**options)


def test_a_missing_package_is_named(monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "httpx2", None)
    with pytest.raises(MissingExtra, match=r"tastemaker\[captions\]"):
        config("http://127.0.0.1:9/v1").open({}, "cpu")
