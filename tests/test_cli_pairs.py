"""`tastemaker pairs` as people type it: every source, hostile files, previews, a second run."""

import os
from pathlib import Path

import pytest

from tastemaker.store.latent_sets import LatentSet
from tests.pairs_made import dropped, lines, made, names, picture, sample_set
from tests.source_files import encoded, pick_a_pic
from tests.tiny_models import saved_sdxl
from tests.told import Told


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "fsync", lambda _descriptor: None)
    return tmp_path


@pytest.fixture
def tell(capsys: pytest.CaptureFixture[str], work: Path):
    return lambda *words: Told(capsys, words)


def kohya(folder: Path) -> None:
    for number, name in enumerate(("cat", "dog")):
        picture(folder / "w" / f"{name}.png", number)
        picture(folder / "l" / f"{name}.png", number + 10)
        (folder / "w" / f"{name}.txt").write_text(f"a {name}")
    picture(folder / "w" / "bare.png", 5)
    picture(folder / "l" / "bare.png", 6)
    (folder / "w" / "broken.png").write_bytes(b"no picture")
    picture(folder / "l" / "broken.png", 7)
    picture(folder / "w" / "alone.png", 8)
    (folder / "w" / "broken.txt").write_text("broken")


def test_kohyas_folders(tell, work: Path) -> None:
    kohya(work / "pictures")
    tell("collect", "pictures", "-o", "run")
    told = tell("pairs", "collection=run", "-o", "run", "--json")
    assert names(made(told)) == {
        "a cat": ("cat.png", "cat.png", 1.0),
        "a dog": ("dog.png", "dog.png", 1.0),
    }
    for pair in made(told).pairs():
        pictures = made(told).pictures()
        assert Path(pictures[pair.winner].path).parent.name == "w"
        assert Path(pictures[pair.loser].path).parent.name == "l"
    assert dropped(told) == {
        "no prompt": 1,
        "a picture that is not usable": 1,
        "no picture of this name in l/": 1,
    }
    assert (told.counts["comparisons"], told.counts["held out"]) == (5, 1)
    again = tell("pairs", "collection=run", "-o", "run", "--json")
    assert again.value["steps"][0]["status"] == "skipped"


def test_from_pictures_to_latents(tell, work: Path, tmp_path_factory) -> None:
    kohya(work / "pictures")
    tell("collect", "pictures", "-o", "run")
    tell("pairs", "collection=run", "-o", "run")
    model = saved_sdxl(tmp_path_factory.getbasetemp())
    words = ("cache-pairs", "run", f"model={model}", "size_px=32", "-o", "run")
    assert "2 pairs at 32x32" in tell(*words, "--dry-run").out
    told = tell(*words, "--json")
    assert (told.code, told.counts["pairs"], told.counts["encoded"]) == (0, 2, 4)
    found = LatentSet(Path(told.value["steps"][-1]["path"]))
    assert {found.variants(i) for i in found.ids()} == {2}
    assert tell(*words, "--json").value["steps"][0]["status"] == "skipped"


def test_from_pairs_to_a_model(tell, work: Path, tmp_path_factory) -> None:
    kohya(work / "pictures")
    tell("collect", "pictures", "-o", "run")
    tell("pairs", "collection=run", "-o", "run")
    model = saved_sdxl(tmp_path_factory.getbasetemp())
    tell("cache-pairs", "run", f"model={model}", "size_px=32", "-o", "run")
    words = ("fit-pairs", "run", f"model={model}", "images_total=4", "batch=2", "-o", "run")
    told = tell(*words, "objective.reference.kind=table", "--json")
    assert (told.code, told.counts["steps"], told.counts["pairs held out"]) == (0, 4, 1)
    found = Path(told.value["steps"][-1]["path"])
    assert (found / "adapter" / "pytorch_lora_weights.safetensors").is_file()
    assert (found / "reference.parquet").is_file()
    assert tell(*words, "objective.reference.kind=table", "--json").value["steps"][0][
        "status"
    ] == "skipped"  # fmt: skip
    # What is wrong is told before anything is loaded.
    wrong = tell(*words, "method.kind=full", "method.parts=[unet, text_encoder_1]")
    assert (wrong.code, "same text" in wrong.err) == (2, True)


def row(number: int, first: str, second: str, label: float, **more) -> dict:
    pictures = {"jpg_0": encoded(first), "jpg_1": encoded(second)}
    uids = {"image_0_uid": first, "image_1_uid": second}
    values = {"label_0": label, "label_1": 1 - label, "ranking_id": number}
    return {"caption": f"text {number}", **pictures, **uids, **values, **more}


def test_pick_a_pic(tell, work: Path) -> None:
    dream = {"model_0": "dreamlike", "model_1": "dreamlike"}
    rows = [
        row(1, "red", "blue", 1.0, **dream),
        row(2, "red", "green", 0.0, **dream),
        row(3, "navy", "lime", 0.5, **dream),
        row(4, "red", "white", 1.0),
        row(5, "red", "black", 0.0, has_label=False, **dream),
        # The same two pictures judged twice, for the same prompt.
        row(1, "blue", "red", 0.0, **dream),
    ]
    pick_a_pic(work / "train-0.parquet", rows)
    tell("collect", "train-0.parquet", "-o", "run")
    told = tell("pairs", "collection=run", "same_model=true", "-o", "run", "--json")
    found = made(told)
    sources = {i: one.source.rpartition(":")[2] for i, one in found.pictures().items()}
    shown = {p.prompt: (sources[p.winner], sources[p.loser], p.label) for p in found.pairs()}
    assert shown == {"text 1": ("red", "blue", 1.0), "text 2": ("green", "red", 1.0)}
    assert dropped(told) == {
        "tie": 1, "two models": 1, "no answer": 1, "merged with the same comparison": 1,
    }  # fmt: skip
    assert {p.fact("winner_model") for p in found.pairs()} == {"dreamlike"}
    half = made(tell("pairs", "collection=run", "ties=half", "-o", "run", "--json"))
    assert {p.prompt: p.label for p in half.pairs()}["text 3"] == 0.5
    assert half.facts.made_with["rules"]["ties"] == "half"


def test_pairs_of_one_kind_of_generator(tell, work: Path) -> None:
    """`dreamlike_pairs_only` of the DPO authors: "dream" in both names, whichever versions."""
    dream, diffusion = "dreamlike-art/dreamlike-photoreal-2.0", "dreamlike-diffusion-1.0"
    made_by = [(dream, dream), (dream, diffusion), ("sdxl-0.9", dream), ("sd21", "sd21")]
    pick_a_pic(
        work / "train-0.parquet",
        [
            row(n, colour, "white", 1.0, model_0=one, model_1=other)
            for n, (colour, (one, other)) in enumerate(
                zip(("red", "blue", "green", "navy"), made_by, strict=True)
            )
        ],
    )
    tell("collect", "train-0.parquet", "-o", "run")
    words = ("pairs", "collection=run", "-o", "run", "--json")
    for rules, expected in (
        (("model_contains=dream",), {"text 0", "text 1"}),
        (("model_contains=dream", "same_model=true"), {"text 0"}),
        (("same_model=true",), {"text 0", "text 3"}),
    ):
        assert {pair.prompt for pair in made(tell(*words, *rules)).pairs()} == expected


def test_a_file_with_everything_that_can_be_wrong(tell, work: Path) -> None:
    for number, name in enumerate(("a", "b", "c")):
        picture(work / "data" / f"{name}.png", number)
    (work / "data" / "copy.png").write_bytes((work / "data" / "a.png").read_bytes())
    (work / "data" / "cut.png").write_bytes((work / "data" / "b.png").read_bytes()[:60])
    (work / "data" / "empty.png").write_bytes(b"")
    good = {"prompt": "one", "winner": "a.png", "loser": "b.png", "margin": 2}
    rows = [
        good,
        {"prompt": "two", "first": "a.png", "second": "c.png", "label": 0, "by": "me"},
        {"prompt": "three", "chosen": "b.png", "rejected": "c.png", "label": "tie"},
        {"prompt": "p", "winner": "a.png", "loser": "gone.png"},
        {"prompt": "p", "winner": "a.png", "loser": "b\0.png"},
        {"prompt": "half a character \ud83d", "winner": "a.png", "loser": "b.png"},
        {"prompt": "p", "winner": "a.png", "loser": "b.png", "label": 10**400},
        {"prompt": "p", "winner": "a.png", "loser": "b.png", "margin": 10**400},
        {"prompt": "p", "winner": "a.png", "loser": "copy.png"},
        {"prompt": "p", "winner": "a.png", "loser": "cut.png"},
        {"prompt": "p", "winner": "a.png", "loser": "empty.png"},
        {"prompt": "p", "winner": "a.png", "loser": "f" * 64},
        {"prompt": "p", "winner": "a.png", "loser": "b.png", "label": 3},
        {"prompt": "p", "winner": "a.png", "loser": "b.png", "label": "yes"},
        '{"prompt": "p", "winner": "a.png", "loser": "b.png", "margin": NaN}',
        {"prompt": "p", "winner": "a.png", "loser": "b.png", "margin": "much"},
        {"prompt": "p", "first": "a.png", "second": "b.png"},
        {"prompt": "p", "winner": "a.png"},
        {"prompt": 7, "winner": "a.png", "loser": "b.png"},
        "{not json",
        "[1, 2]",
        "",
        # The last line has no newline, as people's files do.
        {"prompt": "four", "id": "mine", "winner": "c.png", "loser": "a.png"},
    ]
    lines(work / "data" / "pairs.jsonl", rows)
    words = ("pairs", "file=data/pairs.jsonl", "source.kind=file", "ties=half", "-o", "run")
    told = tell(*words, "--json")
    found = made(told)
    assert names(found) == {
        "one": ("a.png", "b.png", 1.0),
        "two": ("c.png", "a.png", 1.0),
        "three": names(found)["three"],
        "four": ("c.png", "a.png", 1.0),
    }
    assert {p.prompt: p.margin for p in found.pairs()} == {
        "one": 2.0, "two": None, "three": 0.0, "four": None,
    }  # fmt: skip
    assert dropped(told) == {
        "no such file": 2,
        "a picture with itself": 1,
        "truncated or damaged": 1,
        "zero bytes": 1,
        "unknown id": 1,
        "a label that is none": 3,
        "a margin that is none": 3,
        "no answer": 1,
        "no loser": 1,
        "no prompt": 1,
        "not JSON": 2,
        "not a JSON object": 1,
    }
    by_key = {one.key: one for one in found.dropped()}
    assert by_key["line 4"].got == "gone.png"
    assert by_key["line 13"].limit == "1, 0 or 0.5"
    # A dry run tells the same, and writes nothing.
    other = tell(*words, "held_out=0", "--dry-run")
    assert "22 comparisons: 4 pairs, of which 1 ties and 0 held out, of 4 prompts" in other.out
    assert "dropped: 3 a label that is none" in other.out
    assert "margins of all: count 1, min 2" in other.out
    assert len(list((work / "run" / "steps" / "pairs").glob("*/pairs"))) == 1


def test_ids_of_a_collection_may_be_named(tell, work: Path) -> None:
    kohya(work / "pictures")
    tell("collect", "pictures", "-o", "run")
    known = list(made(tell("pairs", "collection=run", "-o", "run", "--json")).pictures())
    lines(work / "p.jsonl", [{"prompt": "x", "winner": known[0], "loser": known[1]}])
    told = tell(
        "pairs", "file=p.jsonl", "collection=run", "source.kind=file", "-o", "two", "--json"
    )
    (pair,) = made(told).pairs()
    assert (pair.winner, pair.loser, pair.split) == (known[0], known[1], "train")


def test_votes_on_samples(tell, work: Path) -> None:
    sample_set(work / "old", ["a cat", "a dog", "a bird"], 1, "old")
    sample_set(work / "new", ["a cat", "a dog"], 1, "new", seed=1)
    sides = {"a": "old", "b": "new", "left": "a"}
    rows = [
        {**sides, "id": f"{prompt}{n}", "prompt": prompt, "rater": f"r{n}", "choice": choice}
        for prompt, choices in {"a-cat": "bba", "a-dog": "ab", "a-bird": "a"}.items()
        for n, choice in enumerate(choices)
    ]
    lines(work / "votes.jsonl", [*rows, {"id": "x"}, {**rows[0], "id": "y", "choice": "none"}])
    words = ("pairs", "old", "new", "file=votes.jsonl", "source.kind=votes", "-o", "run")
    told = tell(*words, "ties=half", "--json")
    found = made(told)
    shown = {p.prompt: (p.fact("winner_model"), p.label) for p in found.pairs()}
    assert shown["a cat"] == ("new", 1.0)
    assert shown["a dog"][1] == 0.5
    assert dropped(told) == {"no sample of the prompt": 1, "not a vote": 2}
    assert told.counts["votes"] == 8


def test_nothing_left_is_an_error_with_its_reasons(tell, work: Path) -> None:
    lines(work / "p.jsonl", [{"prompt": "x", "winner": "a.png", "loser": "b.png"}] * 2)
    told = tell("pairs", "file=p.jsonl", "source.kind=file", "-o", "run")
    assert told.code == 2
    assert "no pair (2 no such file)" in told.err


def test_self_play_with_a_selection(tell, work: Path) -> None:
    for number, prompt in enumerate(("a cat", "a dog", "a fish")):
        picture(work / "pictures" / f"{number}.png", number, 96, 96)
        (work / "pictures" / f"{number}.txt").write_text(prompt)
    tell("collect", "pictures", "-o", "run")
    tell("curate", "run", "-o", "run", "rules=[{rule: captioned}]")
    sample_set(work / "samples", ["a cat", "a dog", "a bird"], 1, "theta0")
    words = ("pairs", "samples", "collection=run", "selection=run", "source.kind=self_play")
    told = tell(*words, "-o", "run", "--json")
    assert names(made(told)) == {
        "a cat": ("0.png", "a-cat_00.png", 1.0),
        "a dog": ("1.png", "a-dog_00.png", 1.0),
    }
    assert dropped(told) == {"no sample of its caption": 1, "a sample of no real picture": 1}
    assert {p.fact("loser_model") for p in made(told).pairs()} == {"theta0"}
