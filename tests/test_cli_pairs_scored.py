"""`tastemaker pairs` on generated pictures: scores, scorers, kept latents."""

import json
import os
from pathlib import Path

import pytest
import torch
from PIL import Image

from tastemaker.diffusion.noise import batch_noise
from tastemaker.models.autoencoder import weights_hash
from tastemaker.models.family import load_family
from tastemaker.models.sampling import Sampling, latent_shape, prompt_states, sample_latents
from tastemaker.records.codec import to_json
from tastemaker.records.draws import Draw
from tastemaker.records.size import Size
from tastemaker.store import jsonl, picture_identities
from tastemaker.store.generated_latents import GeneratedLatents
from tastemaker.store.latent_sets import LatentSet
from tastemaker.training.kept_latents import FIXED
from tastemaker.training.pair_source import CachedPairs
from tests.pairs_made import dropped, lines, made, names, sample, sample_set, scores
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


TASTE = {
    ("base", "a-cat", 0): 1.0,
    ("base", "a-cat", 1): 3.0,
    ("base", "a-dog", 0): 2.0,
    ("base", "a-dog", 1): 2.0,
    ("base", "a-bird", 0): float("nan"),
    ("base", "a-bird", 1): 1.0,
    ("base", "a-cow", 0): 1.0,
    ("base", "a-cow", 1): 1.25,
    ("other", "a-cat", 0): 9.0,
}
SCORED = ("pairs", "samples", "source.kind=scored", "source.scorer=taste")


def scored_run(work: Path) -> None:
    sample_set(work / "samples", ["a cat", "a dog", "a bird", "a cow"])
    scores(work / "scores.parquet", TASTE)


def test_scores_of_an_evaluation(tell, work: Path) -> None:
    scored_run(work)
    words = (*SCORED, "scores=scores.parquet", "source.higher_is_better=true", "-o", "run")
    told = tell(*words, "least_margin=0.5", "source.held_out_scorer=judge", "--json")
    assert names(made(told)) == {"a cat": ("a-cat_01.png", "a-cat_00.png", 1.0)}
    assert dropped(told) == {
        "tie": 1, "margin too small": 1, "a score that is no number": 1, "alone with its prompt": 1,
    }  # fmt: skip
    results = told.value["steps"][-1]["results"]
    assert results["margins"]["all"]["count"] == 2
    assert results["margins"]["kept"]["max"] == 2.0
    assert told.counts["scores of other models"] == 1
    about = made(told).facts.made_with
    assert (about["scorer"], about["backbone"], about["held_out_scorer"]) == (
        "taste", "net", "judge",
    )  # fmt: skip
    lower = tell(*words, "source.higher_is_better=false", "held_out=0", "--json")
    assert names(made(lower))["a cat"] == ("a-cat_00.png", "a-cat_01.png", 1.0)
    every = tell(*words, "source.select=all", "ties=half", "--json")
    assert {p.prompt: p.label for p in made(every).pairs()} == {
        "a cat": 1.0, "a cow": 1.0, "a dog": 0.5,
    }  # fmt: skip


def test_two_sets_and_their_names_in_the_scores(tell, work: Path) -> None:
    sample_set(work / "one", ["a cat"], 1, "first")
    sample_set(work / "two", ["a cat"], 1, "second", seed=1)
    scores(work / "s.parquet", {("before", "a-cat", 0): 1.0, ("after", "a-cat", 0): 2.0})
    words = ("pairs", "one", "two", "scores=s.parquet", "source.kind=scored")
    words = (*words, "source.scorer=taste", "source.higher_is_better=true", "-o", "run")
    refused = tell(*words)
    assert refused.code == 2
    assert "none of the sample set 'first'" in refused.err
    assert "source.models={after: first}" in refused.err
    told = tell(*words, "source.models={before: first, after: second}", "--json")
    (pair,) = made(told).pairs()
    assert (pair.fact("winner_model"), pair.fact("loser_model")) == ("second", "first")
    alone = tell(*words, "source.models={before: first, after: second}", "same_model=true")
    assert "no pair (2 alone with its prompt)" in alone.err


@pytest.mark.parametrize("backbone", ["clip", "siglip"])
def test_a_judge_selects_nothing_and_its_backbone_is_looked_at(tell, work: Path, backbone) -> None:
    """The judge would turn the pair round; where it looks with the same eyes, this is told."""
    sample_set(work / "samples", ["a cat"])
    rows = [
        {"scorer": scorer, "value": value, "backbone": eyes, "file": f"a-cat_{n:02d}.png"}
        for scorer, eyes, values in (("taste", "clip", (1.0, 2.0)), ("judge", backbone, (9.0, 0.0)))
        for n, value in enumerate(values)
    ]
    rows.append({"scorer": "judge", "value": 10**400, "file": "larger_than_any_float.png"})
    lines(work / "s.jsonl", [{"model": "base", **row} for row in rows])
    words = (*SCORED, "scores=s.jsonl", "source.higher_is_better=true", "-o", "run", "--json")
    told = tell(*words, "source.held_out_scorer=judge")
    assert names(made(told)) == {"a cat": ("a-cat_01.png", "a-cat_00.png", 1.0)}
    notes = told.value["steps"][-1]["results"]["notes"]
    assert ["has the backbone of taste" in note for note in notes] == [True] * (backbone == "clip")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("source.held_out_scorer=taste",), "'taste' selects the pairs, so it cannot judge"),
        (("scores=scores.parquet",), "true or false for taste"),
        (("source.scorer=gone", "scores=scores.parquet"), "no scorer 'gone'; expected one of tas"),
        (("source.scorer=gone",), "a scorer in a file of scores, image_text, or one of pixels."),
        (("source.scorer=image_text",), "the model of the scorer image_text"),
        (("scores=nowhere.parquet",), "nowhere.parquet"),
        (("scores=bad.parquet",), "damaged"),
        (("scores=bad.jsonl",), "bad.jsonl, row 1"),
        (("source.scorer=pixels.phash",), "one of pixels.sharpness"),
        (("ties=first",), "ties"),
        (("source.kind=self_play",), "expected collection, which source.kind self_play needs"),
    ],
)
def test_what_does_not_fit_is_refused(tell, work: Path, words, said) -> None:
    scored_run(work)
    (work / "bad.parquet").write_bytes(b"PAR1 and no more")
    lines(work / "bad.jsonl", [{"scorer": "taste", "value": "high", "file": "x"}])
    if words[0] == "source.kind=self_play":
        told = tell("pairs", "samples", *words, "-o", "run")
    else:
        told = tell(*SCORED, *words, "-o", "run")
    assert told.code == 2
    assert said in told.err
    assert not list(work.glob("run/steps/pairs/*/pairs"))


def test_a_scorer_is_run_and_goes_on_after_a_stop(tell, work: Path, monkeypatch) -> None:
    sample_set(work / "samples", ["a cat", "a dog", "a bird"], 3)
    words = ("pairs", "samples", "source.kind=scored", "source.scorer=pixels.colourfulness")
    words = (*words, "source.select=all", "-o", "run")
    plan = tell(*words, "--dry-run").out
    assert "9 pictures to be scored by pixels.colourfulness" in plan
    looked: list[Path] = []
    real = picture_identities.check_picture

    def stops(data: bytes, *, name: str):
        looked.append(Path(name))
        if len(looked) == 5:
            raise KeyboardInterrupt
        return real(data, name=name)

    monkeypatch.setattr(picture_identities, "check_picture", stops)
    assert tell(*words).code == 130
    told = tell(*words, "--json")
    # The four that were looked at before are not looked at again.
    assert len(looked) == 5 + 5
    assert told.counts["pairs"] == 9
    whole = tell(*words[:-1], "whole", "--json")
    assert made(whole).hash == made(told).hash
    from tastemaker.scorers.pixel_facts import measure
    from tastemaker.store.images import load_image

    pictures = made(told).pictures()
    for pair in made(told).pairs():
        both = [load_image(Path(pictures[i].path)).pixels for i in (pair.winner, pair.loser)]
        first, second = (measure(pixels)["colourfulness"] for pixels in both)
        assert first - second == pytest.approx(pair.margin, rel=1e-5)
        assert first > second


def test_the_image_text_model_is_run(tell, work: Path) -> None:
    sample_set(work / "samples", ["a cat", "a dog"])
    words = ("pairs", "samples", "image_text=tiny-clip", "source.kind=scored")
    told = tell(*words, "source.scorer=image_text", "-o", "run", "--json")
    assert told.counts["pairs"] == 2
    assert made(told).facts.made_with["unit"] == "cosine"
    assert made(told).facts.made_with["higher_is_better"] is True


def test_prompts_of_an_evaluation_are_never_trained_on(tell, work: Path) -> None:
    scored_run(work)
    (work / "e.yaml").write_text(
        "name: e\nsteps:\n- {name: prompts, stage: prompts, texts: [A Cat]}\n"
    )
    assert tell("run", "e.yaml", "-o", "eval").code == 0
    words = (*SCORED, "scores=scores.parquet", "source.higher_is_better=true", "evaluation=eval")
    told = tell(*words, "-o", "run", "--json")
    assert "a cat" not in names(made(told))
    assert dropped(told)["prompt of the evaluation"] == 1


def test_the_report_of_a_run_with_pairs_is_written(tell, work: Path) -> None:
    scored_run(work)
    words = (*SCORED, "scores=scores.parquet", "source.higher_is_better=true", "-o", "run")
    assert tell(*words).code == 0
    assert tell("report", "run").code == 0
    events = [json.loads(line) for line in (work / "run" / "events.jsonl").read_text().splitlines()]
    told = {e["reason"]: e["count"] for e in events if e["kind"] == "dropped"}
    assert told["tie"] == 1


def test_latents_of_a_generation_are_what_is_trained_on(tell, work: Path, tmp_path_factory) -> None:
    """The sampler's last latents, through the pair set and the pair cache to the trainer."""
    model = saved_sdxl(tmp_path_factory.getbasetemp())
    family = load_family(str(model))
    size, prompts = Size(64, 64), ["a cat", "a dog"]
    samples = [sample(prompt, n) for prompt in prompts for n in range(2)]
    draws = [Draw(0, "generate", one.prompt_id, one.sample_index) for one in samples]
    noise = batch_noise(draws, latent_shape(family, size))
    texts = [one.prompt for one in samples]
    states = prompt_states(family, texts, "", family.windows([*texts, ""]))
    latents = sample_latents(family, *states, noise, Sampling("ddim", 2, 3.0, size))
    GeneratedLatents(work / "samples").keep(
        samples, latents, size, weights_hash(family.parts["vae"]), "fp32"
    )
    pixels = (family.decode(latents) * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
    for one, values in zip(samples, pixels, strict=True):
        Image.fromarray(values.numpy()).save(work / "samples" / one.file)
        jsonl.append(work / "samples" / "samples.jsonl", to_json(one))
    values = {("base", one.prompt_id, one.sample_index): float(n) for n, one in enumerate(samples)}
    scores(work / "scores.parquet", values)
    told = tell(*SCORED, "scores=scores.parquet", "source.higher_is_better=true", "--json")
    assert told.value["steps"][-1]["results"]["generated_latents"] == 4
    cached = tell("cache-pairs", "runs/pairs", f"model={model}", "size_px=64", "--json")
    assert cached.counts["generated latents taken over"] == 4
    assert cached.counts["encoded"] == 0
    latent_set = LatentSet(Path(cached.value["steps"][-1]["path"]))
    pairs = CachedPairs(made(told), latent_set, 0)
    by_prompt = {pair.prompt: pair.id for pair in made(told).pairs()}
    for n, prompt in enumerate(prompts):
        sides = pairs.read(by_prompt[prompt], FIXED)
        assert torch.equal(sides.winner, latents[2 * n + 1])
        assert torch.equal(sides.loser, latents[2 * n])
