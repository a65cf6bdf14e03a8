"""What strangers, broken files and hostile words can do to the studio: nothing, and it goes on."""

import json
import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import pytest

pytest.importorskip("fastapi", reason="the studio's packages are not installed")

from tastemaker.engine.judging import judge
from tastemaker.records.run import Artefact
from tastemaker.stages import curate
from tastemaker.store import jsonl
from tests.browser import chromium, page_of, ready, until
from tests.studio_place import make_collection, make_run, make_study, save_scene
from tests.studio_server import REPOSITORY, Server

HOSTILE = "<img src=x onerror=window.taken=1></script><script>window.taken=1</script>\"'&{{7*7}}"
FILE_NAME = "<img src=x onerror=window.taken=1>&\"'{{7*7}}"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Words of others wherever a page shows any."""
    root = tmp_path_factory.mktemp("attacks")
    run = make_run(root / "run", prompts=3)
    folders = [next(run.glob(f"steps/{n}_pictures/*")) / "samples" for n in ("before", "after")]
    for folder in folders:
        lines = list(jsonl.read(folder / "samples.jsonl"))
        for line in lines:
            line["prompt"], line["model"] = HOSTILE, f"{line['model']} {HOSTILE}"
        (folder / "samples.jsonl").write_text("".join(json.dumps(li) + "\n" for li in lines))
    with (run / "events.jsonl").open("a") as file:
        file.write(json.dumps({"time": 1.0, "step": HOSTILE, "kind": HOSTILE, "x": HOSTILE}) + "\n")
    make_study(root / f"study {FILE_NAME}", run, 3, instructions=HOSTILE)
    pictures = root / "words-pictures"
    save_scene(pictures / f"{FILE_NAME}.png", 99)
    (pictures / f"{FILE_NAME}.txt").write_text(HOSTILE)
    return {"root": root, "run": run, "collection": make_collection(root / "words", count=4)}


@pytest.fixture(scope="module")
def server(place: dict[str, Path]):
    with Server("studio", place["root"]) as running:
        yield running


def _links(server: Server, kind: str) -> list[str]:
    parts = server.get("/").body.decode().split(f'href="/{kind}/')[1:]
    return list(dict.fromkeys(f"/{kind}/{part.split(chr(34))[0]}" for part in parts))


def test_words_of_others_are_only_words(server: Server) -> None:
    """On every page, with everything open: nothing in them runs, and all of them can be read."""
    with chromium() as browser, page_of(browser, server) as page:
        halls = _links(server, "rate")
        link = server.post(f"{halls[-1]}/enter", {"name": HOSTILE[:90]}).json["link"]
        pages = ["/", "/runs", *halls, link]
        for address in pages:
            page.goto(f"http://127.0.0.1:{server.port}{address}")
            page.wait_for_timeout(100)
            assert page.evaluate("window.taken") is None
        page.goto(f"http://127.0.0.1:{server.port}{_links(server, 'c')[0]}")
        ready(page)
        page.fill("#q", "onerror")
        until(page, "document.querySelector('#told').textContent.startsWith('1 of 5')")
        page.focus("#scroller")
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Enter")
        page.wait_for_selector("#detail:not([hidden])")
        assert HOSTILE[:40] in page.inner_text("#detail")
        shown = ""
        for link in [*_links(server, "run"), *_links(server, "gallery")]:
            page.goto(f"http://127.0.0.1:{server.port}{link}")
            ready(page)
            page.wait_for_timeout(200)
            assert page.evaluate("window.taken") is None
            assert page.locator("[onerror]").count() == 0
            shown += page.inner_text("body")
        assert shown.count("{{7*7}}") >= 6


def test_another_site_can_neither_fetch_nor_embed_and_may_link(server: Server) -> None:
    other = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors", "sec-fetch-dest": "image"}
    (collection,) = _links(server, "c")
    rows = f"{collection}/rows?limit=1"
    picture = f"{collection}/t/{server.get(rows).json['rows'][0]['id']}"
    for path in ("/", rows, picture, "/static/grid.js"):
        assert server.get(path, **other).status == 403
        assert server.get(path, **{**other, "sec-fetch-dest": "iframe"}).status == 403
    linked = {**other, "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    assert server.get("/", **linked).status == 200
    assert server.get(picture, **{**other, "sec-fetch-site": "same-origin"}).status == 200


@pytest.mark.parametrize(
    "expression",
    [
        "(select count(*) from read_text('/etc/passwd')) > 0",
        "(select count(*) from read_csv('../../people.sqlite')) > 0",
        "(select count(*) from glob('/*')) > 0",
        "true; copy (select 1) to 'taken.csv'",
        "true) --",
        "getenv('HOME') is not null",
    ],
)
def test_sql_of_a_page_reads_the_collection_and_nothing_else(
    server: Server, expression: str
) -> None:
    answer = server.get(f"{_links(server, 'c')[0]}/rows?sql={quote(expression)}")
    assert answer.status == 400
    assert b"root:" not in answer.body


def test_a_link_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    """A picture that is a link to elsewhere, in samples and as a whole folder."""
    outside = tmp_path / "elsewhere"
    secret = save_scene(outside / "secret.png", 1)
    run = make_run(tmp_path / "place" / "run", prompts=2)
    folder = next(run.glob("steps/after_pictures/*")) / "samples"
    (folder / "images" / "p0000_00.png").unlink()
    (folder / "images" / "p0000_00.png").symlink_to(secret)
    (tmp_path / "place" / "linked").symlink_to(outside)
    with Server("studio", tmp_path / "place") as server:
        (gallery,) = _links(server, "gallery")
        (page,) = _links(server, "run")
        for kind in "tp":
            assert server.get(f"{gallery}/{kind}?m=1&i=0&p=p0000").status == 404
            assert server.get(f"{gallery}/{kind}?m=1&i=0&p=p0001").status == 200
        sets = server.get(f"{page}/state").json["samples"]
        keys = {one["name"]: one["key"] for one in sets}
        assert server.get(f"{page}/t/{keys['after_pictures']}/0").status == 404
        assert server.get(f"{page}/t/{keys['after_pictures']}/1").status == 200
        assert server.get(f"{page}/t/..%2f..%2fsecret.png/0").status == 404
        assert b"linked" not in server.get("/").body


def test_a_damaged_line_hides_itself_only_and_is_told(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", prompts=6)
    after = next(run.glob("steps/after_pictures/*")) / "samples" / "samples.jsonl"
    lines = after.read_text().splitlines()
    lines[1] = lines[1][:30]
    lines[3] = lines[3].replace('"file": "images', '"file": "../images')
    after.write_text("\n".join(lines) + "\n" + '{"being": "written')
    metrics = next(run.glob("steps/fit/*")) / "log" / "metrics.jsonl"
    metrics.write_text(metrics.read_text().replace("\n", "\nnonsense\n", 1))
    (run / "marks.jsonl").write_text('{"picture": "[]", "mark": "keep"}\nnot json\n')
    with Server("studio", run.parent) as server:
        (gallery,) = _links(server, "gallery")
        facts = server.get(f"{gallery}/facts").json
        assert facts["total"] == 6
        problems = " ".join(facts["problems"])
        assert "samples.jsonl: lines 2, 4 damaged" in problems
        assert "marks.jsonl: line 2 damaged" in problems
        rows = server.get(f"{gallery}/rows?marked=").json["rows"]
        assert [row["there"][1] for row in rows] == [True, False, True, False, True, True]
        assert server.get(f"{gallery}/marks.csv").body.count(b"\n") == 1
        (page,) = _links(server, "run")
        state = server.get(f"{page}/state").json
        assert {len(curve["x"]) for curve in state["curves"]} == {40}
        assert any("metrics.jsonl: line 2 damaged" in problem for problem in state["problems"])
        # Nothing was written since: nothing is told again.
        assert server.get(f"{page}/state?known={state['stamp']}").json == {"stamp": state["stamp"]}


def test_marks_by_hand_are_kept_and_a_later_curation_heeds_them(tmp_path: Path) -> None:
    collection = make_collection(tmp_path / "hills", count=8)
    with Server("studio", tmp_path) as server:
        (page,) = _links(server, "c")
        ids = [row["id"] for row in server.get(f"{page}/rows").json["rows"]]
        for id_, mark in ((ids[1], "reject"), (ids[2], "keep"), (ids[3], "keep"), (ids[2], None)):
            told = server.post(f"{page}/mark", {"picture": id_, "mark": mark})
            assert told.status == 200
        assert told.json == {"keep": 1, "reject": 1}
        assert server.post(f"{page}/mark", {"picture": "none", "mark": "keep"}).status == 404
        assert server.post(f"{page}/mark", {"picture": ids[0], "mark": "best"}).status == 422
        found = {m: server.get(f"{page}/rows?marked={m}").json for m in ("keep", "reject", "none")}
        assert {m: one["total"] for m, one in found.items()} == {"keep": 1, "reject": 1, "none": 6}
        assert found["reject"]["rows"][0]["mark"] == "reject"
    assert len((collection / "marks.jsonl").read_text().splitlines()) == 4
    marks = {"marks": Artefact("marks", collection / "marks.jsonl", "")}
    inputs = {"collection": Artefact("collection", collection, ""), **marks}
    sharp = {"rules": [{"rule": "range", "column": "short_side", "least": 48}]}
    config = curate.Config.model_validate({"collection": "x", "marks": "y", **sharp})
    verdicts = judge(curate.open_bench(config, inputs)[0])
    assert len(verdicts.kept) == 5
    assert ids[1] not in verdicts.kept
    reasons = {reason for stage in verdicts.funnel.stages for reason in stage.reasons}
    assert reasons == {"rejected by hand", "short_side too low"}
    assert _curate(tmp_path, collection, "only_kept=true") == [ids[3]]


def _curate(folder: Path, collection: Path, *more: str) -> list[str]:
    """The pictures that `tastemaker curate` selects."""
    words = ["curate", collection, f"marks={collection / 'marks.jsonl'}", *more, "-o"]
    done = subprocess.run(
        [sys.executable, "-m", "tastemaker", *map(str, words), str(folder / "out")],
        cwd=REPOSITORY, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (file,) = (folder / "out").glob("steps/*/*/selection.json")
    return json.loads(file.read_text())["ids"]
