"""Several sides, votes and a choice through the command line, and the report of it all."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tastemaker.records.codec import to_json
from tastemaker.records.generation import Prompt, Sample
from tastemaker.records.vote import Vote
from tastemaker.stages.evaluate import Config
from tastemaker.store import jsonl
from tastemaker.store.people_tables import StoredVote
from tastemaker.store.prompt_sets import make_prompt_set, write_prompt_set
from tastemaker.store.samples import SAMPLES
from tastemaker.store.vote_files import write_votes
from tests.page_reader import parsed
from tests.told import answer

PROMPTS = [
    Prompt(f"p{n:02d}", f"a {name}", (("category", "ab"[n % 2]), ("mood", "calm")))
    for n, name in enumerate(["cat", "dog", "sun", "moon", "tree", "ship"] * 4)
]
SIDES = ("base", "sft", "dpo")
Tell = Callable[..., tuple[int, str]]


def _samples(folder: Path, side: str, seed: int = 100) -> None:
    rng = np.random.default_rng(len(side))
    for n, prompt in enumerate(PROMPTS):
        file = f"{prompt.id}_00.png"
        folder.mkdir(exist_ok=True)
        pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / file)
        sample = Sample(side, prompt.id, prompt.text, 0, seed + n, "s", file)
        jsonl.append(folder / SAMPLES, to_json(sample))


def _votes(path: Path, a: str = "dpo", b: str = "base") -> None:
    write_votes(
        path,
        [
            StoredVote(
                Vote(
                    f"{p.id}-{r}",
                    p.id,
                    a,
                    b,
                    "ab"[(n + r) % 2],
                    f"r{r}",
                    "b" if n % 4 == r else "a",
                )
            )
            for n, p in enumerate(PROMPTS)
            for r in range(3)
        ],
    )


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_prompt_set(Path("prompts.jsonl"), make_prompt_set("some", PROMPTS))
    for side in SIDES:
        _samples(tmp_path / side, side)
    _votes(tmp_path / "votes.jsonl")
    return tmp_path


@pytest.fixture
def tell(capsys: pytest.CaptureFixture[str]) -> Tell:
    return lambda *words: answer(capsys, words)


WORDS = ("prompts=prompts.jsonl", "resamples=200", "-o", "run")
THREE = tuple(f"sides.{side}={side}" for side in SIDES)


def _summary(folder: Path) -> dict:
    (found,) = folder.glob("run/steps/evaluate/*/scores/summary.json")
    return json.loads(found.read_text())


def test_three_sides_with_votes_and_a_choice(folder: Path, tell: Tell) -> None:
    rule = "choose={score: image_text, images_seen: {base: 0, sft: 500, dpo: 900}}"
    code, said = tell("evaluate", *THREE, "votes=votes.jsonl", rule, *WORDS)
    assert code == 0, said
    summary = _summary(folder)
    assert (summary["sides"], summary["reference"]) == (list(SIDES), "base")
    (line,) = summary["scores"]
    assert set(line["against"]) == {"sft", "dpo"}
    (table,) = summary["groups"]
    assert (table["attribute"], table["comparisons"]) == ("category", 4)
    assert [row["prompts"] for row in table["rows"]] == [12, 12]
    best = summary["choice"]["best"]
    assert best in ("sft", "dpo")
    assert f"best {best}" in said
    (question,) = summary["votes"]["questions"]
    assert (question["side"], question["reference"]) == ("dpo", "base")
    assert question["verdict"]["majority"]["rate"]["estimate"] == 1.0
    assert summary["notes"] == ["No real pictures were given, so no judge was fitted."]

    assert tell("report", "run")[0] == 0
    page = (folder / "run" / "report.html").read_text(encoding="utf-8")
    parsed(page)
    for text in (
        *(f"Best checkpoint: {best}", "What people prefer", "72 of 72 votes count."),
        *("Do scorers see it as people do?", "By category: Fits its text", "Bonferroni"),
        *("General: dpo against base", "left to right: base, sft, dpo", "Krippendorff"),
    ):
        assert text in page, text
    assert page.count("<svg") == 1
    with Image.open(folder / "run" / "before_after.png") as sheet:
        assert sheet.width > 3 * 128


def test_the_short_form_says_the_same_as_two_sides(folder: Path, tell: Tell) -> None:
    found = []
    for words in (("before=base", "after=dpo"), ("sides.before=base", "sides.after=dpo")):
        code, said = tell("evaluate", *words, *WORDS[:-1], words[0].replace("=", "-"))
        assert code == 0, said
        (path,) = folder.glob(f"{words[0].replace('=', '-')}/steps/evaluate/*/scores/summary.json")
        found.append(json.loads(path.read_text()))
    assert found[0] == found[1]


def test_the_reference_can_be_any_side(folder: Path, tell: Tell) -> None:
    assert tell("evaluate", *THREE, "reference=sft", "by=mood", *WORDS)[0] == 0
    summary = _summary(folder)
    assert set(summary["scores"][0]["against"]) == {"base", "dpo"}
    assert summary["groups"] == []  # one mood is no comparison of moods


def test_an_incomplete_side_is_refused_or_counted(folder: Path, tell: Tell) -> None:
    (folder / "sft" / "p03_00.png").unlink()
    code, said = tell("evaluate", *THREE, *WORDS)
    assert code == 2
    assert "1 pictures missing, first 'p03' number 0" in said
    code, said = tell("evaluate", *THREE, "allow_missing=true", *WORDS)
    assert code == 0
    assert "prompts left out 1" in " ".join(said.split())
    summary = _summary(folder)
    assert (summary["prompts"], summary["missing"]["sft"]) == (23, 1)
    assert summary["scores"][0]["models"]["base"]["units"] == 23


def test_what_does_not_fit_is_refused(folder: Path, tell: Tell) -> None:
    _votes(folder / "other.jsonl", "x", "y")
    odd = StoredVote(Vote("1", "none", "dpo", "base", "a", "r", "a"))
    write_votes(folder / "odd.jsonl", [odd])
    cases: Mapping[tuple[str, ...], str] = {
        (*THREE, "reference=none"): "reference 'none' is none of base, sft, dpo",
        (*THREE, "after=base"): "give `sides`, or `after`",
        ("before=base",): "`before` needs `after`",
        (*THREE, "votes=other.jsonl"): "they are between x, y",
        (*THREE, "votes=odd.jsonl"): "votes on 1 prompts that some does not have, first 'none'",
        (*THREE, "by=weather"): "one of its attributes: category, mood",
        (*THREE, "choose.score=style_share"): "one that was measured: image_text",
        (
            *THREE,
            "choose.score=looks",
        ): "choose.score names looks; the scores are style_share, concept_top1",
        ("after=base", "choose.score=image_text"): "nothing to choose from",
        ("after=base", "votes=votes.jsonl"): "votes: they are between two sides",
    }
    for words, message in cases.items():
        code, said = tell("evaluate", *words, *WORDS)
        assert code == 2, (words, said)
        assert message in said.replace("\n", " "), (words, said)


def test_a_place_alone_still_means_the_pictures_in_question(folder: Path, tell: Tell) -> None:
    code, said = tell("evaluate", "dpo", *WORDS)
    assert code == 0, said
    assert _summary(folder)["sides"] == ["after"]


def test_names_of_sides_are_plain() -> None:
    with pytest.raises(ValueError, match="is no name of letters"):
        Config(sides={"<b>": "x"}, prompts="p")


def test_runs_are_compared_prompt_by_prompt(folder: Path, tell: Tell) -> None:
    assert tell("evaluate", "before=base", "after=sft", *WORDS[:-1], "one")[0] == 0
    assert tell("evaluate", "before=base", "after=dpo", *WORDS[:-1], "two")[0] == 0
    code, said = tell("report", "one", "two")
    assert code == 0
    assert said.split() == ["one/report.html", "two/report.html", "one/compared.html"]
    page = (folder / "one" / "compared.html").read_text(encoding="utf-8")
    found = parsed(page)
    assert found.images == 12 * 3
    assert "the paired difference from one" in page
    assert "two/report.html" in "".join(found.links)
    scores = {
        name: json.loads(next(folder.glob(f"{name}/steps/*/*/scores/summary.json")).read_text())
        for name in ("one", "two")
    }
    means = [scores[n]["scores"][0]["models"]["after"]["estimate"] for n in ("one", "two")]
    assert f"{abs(means[1] - means[0]):.3f}" in page

    _samples(folder / "other", "other", seed=7)
    assert tell("evaluate", "after=other", *WORDS[:-1], "three")[0] == 0
    assert tell("report", "one", "three", "-o", "page.html")[0] == 0
    page = (folder / "page.html").read_text(encoding="utf-8")
    parsed(page)
    assert "three has other noise or other prompts than one." in page
    assert "paired difference" not in page
    assert tell("report", "one", "-o", "page.html")[0] == 2
