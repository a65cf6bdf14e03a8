"""From votes on a page to a model, a rank, a selection, score tags, and the report: as a user."""

import io
import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the studio's packages are not installed")

from PIL import Image

from tastemaker.cli.app import main
from tastemaker.curation.prompts import CaptionPrompt
from tastemaker.curation.tag_prompts import ScoreTags
from tastemaker.records.run import Visit
from tastemaker.report.page import write_report
from tastemaker.store.catalogue import Catalogue
from tastemaker.store.people import FILE, People
from tastemaker.store.rundir import RunDir
from tastemaker.training.measured_words import MeasuredWords
from tastemaker.training.prompting import Prompter
from tests.studio_server import Server
from tests.tiny_run import write_pictures

PICTURES, VOTES = 24, 90
EMBEDDING = "columns=[{kind: embedding, model: tiny-clip}]"


def done(*words: object) -> None:
    assert main([str(word) for word in words]) == 0


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    capsys.readouterr()
    assert main([str(word) for word in words]) == 2
    return capsys.readouterr().err


def redness(data: bytes) -> float:
    pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), float)
    return float((pixels[..., 0] - pixels[..., 1:].mean(-1)).mean())


def vote(run: Path, count: int) -> None:
    """Like the redder one; everything is sent twice, as by a page that was not answered."""
    with Server("rate", run, "--rater", "Ada", "--seed", "1") as server:
        page = "/" + server.links[0].split("/", 3)[3]
        done = 0
        while done < count:
            pairs = server.get(f"{page}/next?count={min(6, count - done)}").json["pairs"]
            entries = []
            for pair in pairs:
                left, right = (redness(server.get(pair[side]).body) for side in ("left", "right"))
                answer = "left" if left > right else "right"
                entries.append({"key": pair["id"], "id": pair["id"], "again": 0, "answer": answer})
            for is_new in (True, False):
                results = server.post(f"{page}/votes", {"entries": entries}).json["results"]
                assert {one["new"] for one in results} == {is_new}
            done += len(pairs)


def step_of(run: Path, stage: str) -> Path:
    return [step.path for step in RunDir(run).steps() if step.stage == stage][-1]


@pytest.fixture(scope="module")
def rated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a collection, its embeddings, and votes from the page."""
    folder = tmp_path_factory.mktemp("rated")
    write_pictures(folder / "pictures", PICTURES)
    done("collect", folder / "pictures", "-o", folder / "run")
    done("curate", folder / "run", "-o", folder / "run", EMBEDDING, "rules=[{rule: readable}]")
    return folder / "run"


def test_what_cannot_be_trained_on_is_told(rated: Path, capsys) -> None:
    """Before, with too few, and with options that would have no effect."""
    train = ("rate", rated, "--train", "-o", rated)
    assert "no votes" in refused(capsys, *train)
    vote(rated, 12)
    told = refused(capsys, *train)
    assert "12 answers" in told
    assert "at least 20" in told
    told = refused(capsys, *train, "--column", "style")
    assert "no column 'style' with vectors" in told
    assert "--port" in refused(capsys, *train, "--port", 1)
    assert "add --train" in refused(capsys, "rate", rated, "method=pairwise")
    assert "add --train" in refused(capsys, "rate", rated, "--dry-run")
    # The refused step is in nobody's way.
    vote(rated, VOTES - 12)


def test_reasons_sides_and_the_first_pass_are_on_file(rated: Path) -> None:
    with People(next(rated.rglob(FILE))) as people:
        votes = [one.vote for one in people.votes()]
    assert len(votes) == len({one.id for one in votes}) == VOTES
    fresh = [one for one in votes if one.reason != "repeat"]
    first = fresh[: PICTURES - 1]
    assert {one.reason for one in first} == {"random"}
    # The first pass joins all pictures.
    joined = {first[0].a}
    for _ in first:
        joined |= {i for one in first if {one.a, one.b} & joined for i in (one.a, one.b)}
    assert len(joined) == PICTURES
    later = Counter(one.reason for one in votes[len(first) :])
    assert later["active"] > later["random"] > 0
    assert later["repeat"] > 0
    sides = Counter(one.left for one in fresh)
    assert abs(sides["a"] - sides["b"]) <= 1
    blind = {frozenset((one.a, one.b)) for one in votes if one.reason == "random"}
    assert all(frozenset((one.a, one.b)) in blind for one in votes if one.reason == "repeat")


def test_votes_become_ranks_a_selection_score_tags_and_a_report(rated: Path, capsys) -> None:
    words = ("--seed", 3, "clusters=3", "worse_copies=6", "encoder=tiny-clip")
    done("rate", rated, "--train", "-o", rated, *words)
    page = Path(capsys.readouterr().out.split()[-2])
    assert page.name == "quality.html"
    found = json.loads((page.parent / "quality.json").read_text())
    assert (found["answers"], found["worse_copies"], found["pictures"]) == (VOTES, 6, PICTURES)
    blind = sum(n for told, n in found["votes"].items() if told.startswith("random"))
    # Each blind answer counts once, and so does each repeat, all of blind pairs.
    assert found["accuracy_one_new"]["n"] == blind
    assert found["accuracy_one_new"]["value"] > 0.6
    assert found["repeat_consistency"]["value"] == 1.0
    assert found["repeat_consistency"]["low"] < 1.0
    # The same votes are not trained on twice.
    done("rate", rated, "--train", "-o", rated, *words)
    assert "done before" in capsys.readouterr().out

    done(
        "curate", rated, "-o", rated, f"quality={page.parent}", EMBEDDING,
        "rules=[{rule: readable}, {rule: range, column: quality.rank, least: 3}]",
    )  # fmt: skip
    collection = next(rated.rglob("collection/catalog")).parent
    catalogue = Catalogue(collection)
    table = catalogue.query('select id, rank, score from "quality"').to_pylist()
    rank = {row["id"]: row["rank"] for row in table}
    assert all(row["score"] == f"score_{row['rank']}" for row in table)
    assert sorted(rank.values())[:3] == [0, 0, 1]
    chosen = json.loads((step_of(rated, "curate") / "selection.json").read_text())["ids"]
    assert sorted(chosen) == sorted(i for i in rank if rank[i] >= 3)
    redder = {r.id: redness(catalogue.picture_path(r).read_bytes()) for r in catalogue.records()}
    assert np.mean([redder[i] for i in chosen]) > np.mean(list(redder.values()))

    for id_, some in _prompts(catalogue, chosen).items():
        tags = set(re.findall(r"score[_ ](\d)([_ ]up)?", " ".join(some)))
        assert tags
        assert all(int(n) == rank[id_] if not up else int(n) <= rank[id_] for n, up in tags)

    report = write_report(rated).read_text()
    assert f'href="{page.relative_to(rated).as_posix()}"' in report
    assert "Rank 0, the worst first" in report
    assert "raters agree with themselves" in report
    (page.parent / "quality.json").write_text("{}")
    assert 'id="quality"' not in write_report(rated).read_text()


def _prompts(catalogue: Catalogue, chosen: list[str]) -> dict[str, list[str]]:
    """Texts of a fit on the selection, as its first visits have them."""
    rules = CaptionPrompt(scores=ScoreTags(attribute="score"), empty=0.0)
    words = MeasuredWords(attributes={"score": "quality.rank"})
    records = {r.id: r for r in catalogue.records() if r.id in chosen}
    prompter = Prompter(words.fill(catalogue, records), rules, seed=0)
    return {i: [prompter.text(Visit(i, n)) for n in range(6)] for i in chosen}
