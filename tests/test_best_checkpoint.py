"""From a training to its best checkpoint, through the command line: drawn, compared, exported."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tastemaker.records.generation import Prompt
from tastemaker.store import jsonl
from tastemaker.store.checkpoints import CheckpointStore
from tastemaker.store.prompt_sets import make_prompt_set, write_prompt_set
from tastemaker.store.sample_sets import read_sets
from tastemaker.store.samples import read_samples
from tests.page_reader import parsed
from tests.pair_runs import fitted, prepared_pairs
from tests.tiny_run import step_dir
from tests.told import answer

# diffusers turns torch tensors into arrays the way numpy 2 calls old.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

Tell = Callable[..., tuple[int, str]]
SHORT = ("images=64", "every=32", "tests=4", "judge=20", "drawn.steps=2", "best.resamples=100")


@pytest.fixture(autouse=True)
def _fast_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _descriptor: None)


@pytest.fixture
def tell(capsys: pytest.CaptureFixture[str]) -> Tell:
    return lambda *words: answer(capsys, words)


def one(folder: Path, pattern: str) -> Path:
    (found,) = folder.glob(pattern)
    return found


def pixels(file: Path) -> np.ndarray:
    with Image.open(file) as picture:
        return np.asarray(picture).astype(int)


def results(folder: Path, step: str) -> dict[str, Any]:
    return json.loads(one(folder, f"steps/{step}/*/manifest.json").read_text())


@pytest.mark.slow
def test_the_recipe_draws_chooses_and_exports(tmp_path: Path, tell: Tell) -> None:
    pytest.importorskip("efficientnet_lite_pytorch")
    run = tmp_path / "run"
    code, said = tell("run", "tiny/best_checkpoint", *SHORT, "-o", str(run))
    assert code == 0, said
    drawn = one(run, "steps/drawn/*/sets")
    sets = read_sets(drawn)
    images = [s.images for s in sets]
    names = ["base", *(f"at-{n}" for n in images[1:])]
    assert [s.side for s in sets] == names
    # An epoch ends with a smaller batch, so the last step may go past the 64.
    assert images[:2] == [0, 32]
    assert 64 <= images[2] < 64 + 16
    pictures = [read_samples(drawn / s.side) for s in sets]
    seeds = [[(p.prompt_id, p.seed) for p in found] for found in pictures]
    assert seeds[0] == seeds[1] == seeds[2]
    assert len({found[0].settings for found in pictures}) == 3

    summary = json.loads(one(run, "steps/best/*/scores/summary.json").read_text())
    assert (summary["sides"], summary["reference"]) == (names, "base")
    curve = {p["side"]: p["images"] for p in summary["choice"]["curve"]}
    assert curve == dict(zip(names, images, strict=True))
    best = summary["choice"]["best"]
    place = one(run, "steps/best/*") / results(run, "best")["outputs"]["checkpoint"]
    step = int(place.name[5:])
    assert best == names[1 if step == 2 else 2]

    # What was exported is what was chosen.
    stored = CheckpointStore(place.resolve().parent).load(step).tensors["weights"]
    out = load_file(one(run, "steps/export/*/adapter/pytorch_lora_weights.safetensors"))
    values = [sorted(float(t.double().sum()) for t in group.values()) for group in (stored, out)]
    assert values[0] == pytest.approx(values[1], abs=1e-6)

    page = (run / "report.html").read_text(encoding="utf-8")
    parsed(page)
    for text in (f"Best checkpoint: {best}", "images seen", "tastemaker export checkpoint=run"):
        assert text in page, text
    assert "nothing to do" in tell("run", "tiny/best_checkpoint", *SHORT, "-o", str(run))[1]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return prepared_pairs(tmp_path_factory.mktemp("pairs"), tmp_path_factory.getbasetemp())


def fit_words(pairs: dict[str, Any], *more: str) -> list[str]:
    places = [f"{name}={pairs[name].path}" for name in ("model", "pairs", "cache")]
    figures = ("images_total=24", "batch=4", "stable_pairs=2", "method.kind=full")
    every = [f"{n}_every_images=4" for n in ("log", "validate", "save", "keep_weights")]
    return ["fit-pairs", *places, *figures, *every, *more]


def test_guard_stop_from_the_command_line_and_what_it_kept(
    pairs: dict[str, Any], tmp_path: Path, tell: Tell
) -> None:
    run = tmp_path / "run"
    wild = ("optimizer={lr: 5e-2}", "guard={warn_rise: 0.01, stop_rise: 0.02, patience: 1}")
    words = fit_words(pairs, *wild, "--guard", "stop", "-o", str(run))
    code, said = tell(*words)
    assert code == 0, said
    assert "stop:" in said
    told = results(run, "fit_pairs")
    assert told["counts"]["images"] < 24
    assert told["results"]["ended_early"]
    rows = list(jsonl.read(one(run, "steps/fit_pairs/*/log/metrics.jsonl")))
    assert rows[0]["probe/moved"] == 0.0
    assert max(row.get("probe/moved") or 0.0 for row in rows) > 0.1
    code, said = tell(*words)
    assert code == 0
    assert "nothing to do" in said
    assert tell("report", str(run))[0] == 0
    page = (run / "report.html").read_text(encoding="utf-8")
    parsed(page)
    for text in ("Ended early: ", "Pairs on the right side", "Errors against the start, by"):
        assert text in page, text


def test_checkpoints_of_a_fit_on_pairs_are_drawn_compared_and_exported(
    pairs: dict[str, Any], tmp_path: Path, tell: Tell
) -> None:
    """Whole networks, trained on from adapters: the base is the model with these."""

    def done(*words: str) -> str:
        code, said = tell(*words)
        assert code == 0, said
        return said

    first, run, asked = step_dir(tmp_path, "first"), tmp_path / "run", tmp_path / "prompts.jsonl"
    fitted(first, pairs, images_total=8)
    adapter, out = f"adapter={first.path / 'adapter'}", ("-o", str(run))
    done(*fit_words(pairs, adapter, *out))
    shutil.rmtree(one(run, "steps/fit_pairs/*/checkpoints/weights/step-000002"))
    two = [Prompt("apple", "a red apple"), Prompt("tree", "a green tree")]
    write_prompt_set(asked, make_prompt_set("two", two))
    how = (f"prompts={asked}", "sampler=ddim", "steps=2")
    draw = ("generate", f"checkpoints={run}", *how, *out)
    assert "of 2 prompts by each of 6 models: base, at-4, at-12" in done(*draw, "--dry-run")
    done(*draw)
    assert "nothing to do" in done(*draw)

    # The ends are what the model before and the result draw by themselves.
    sets = one(run, "steps/generate/*/sets")
    model = f"model={pairs['model'].path}"
    far = {}
    for name, words in {
        "base": (model, adapter), "at-24": (f"model={run}",), "without": (model,),
    }.items():  # fmt: skip
        done("generate", *words, *how, "-o", str(tmp_path / name))
        own = one(tmp_path / name, "steps/generate/*/samples")
        side = "base" if name == "without" else name
        both = [pixels(folder / "tree_00.png") for folder in (sets / side, own)]
        far[name] = abs(both[0] - both[1]).max()
    # Adapters that are merged round otherwise than those beside the weights.
    assert far["at-24"] == 0 <= far["base"] <= 2 < far["without"]

    # After a kill, what was drawn is kept.
    one(run, "steps/generate/*/manifest.json").unlink()
    lost = sets / "at-12" / "tree_00.png"
    before = lost.read_bytes()
    lost.unlink()
    done(*draw)
    assert lost.read_bytes() == before
    assert results(run, "generate")["counts"]["kept from before"] == 11

    words = ("evaluate", f"checkpoints={run}", f"prompts={asked}", "resamples=100")
    beside = ("-o", str(tmp_path / "beside"))
    done(*words, f"sides.other={own}", "choose={score: image_text, share: 1}", *beside)
    summary = json.loads(
        one(tmp_path / "beside", "steps/evaluate/*/scores/summary.json").read_text()
    )
    assert summary["sides"] == ["base", "other", "at-4", "at-12", "at-16", "at-20", "at-24"]
    curve = {p["side"]: p["images"] for p in summary["choice"]["curve"]}
    assert [curve[side] for side in ("base", "other", "at-4", "at-24")] == [0, None, 4, 24]
    code, said = tell(*words, "choose.score=looks", *beside)
    assert code == 2
    assert "choose.score names looks" in said.replace("\n", " ")
    code, said = tell(*words, f"sides.base={own}", *beside)
    assert code == 2
    assert "another name than base, at-4" in said.replace("\n", " ")

    # What was chosen can be exported by the name of the run.
    done(*words, "choose={score: image_text, share: 1, among: [at-12, at-16]}", *out)
    place = one(run, "steps/evaluate/*/manifest.json").parent
    chosen = (place / results(run, "evaluate")["outputs"]["checkpoint"]).resolve()
    assert chosen.name in ("step-000003", "step-000004")
    done("export", f"checkpoint={run}", model, "precision=fp32", *out)
    stored = CheckpointStore(chosen.parent).load(int(chosen.name[5:])).tensors["weights"]
    weights = load_file(one(run, "steps/export/*/model/unet/diffusion_pytorch_model.safetensors"))
    assert all(torch.equal(weights[n.partition(".")[2]], tensor) for n, tensor in stored.items())
    done("report", str(run))
    page = (run / "report.html").read_text(encoding="utf-8")
    parsed(page)
    for text in ("Best checkpoint: at-1", "images seen", "tastemaker export checkpoint=run"):
        assert text in page, text


def test_what_makes_no_sense_is_refused(tell: Tell) -> None:
    assert "give model, or checkpoints" in tell("generate", "prompts=.")[1].replace("\n", " ")
    words = ("generate", "prompts=.", "checkpoints=.", "adapter=.")
    assert "without adapter" in tell(*words)[1].replace("\n", " ")


def test_a_place_goes_to_the_prompts_of_generate(tmp_path: Path, tell: Tell) -> None:
    """As the help says: tastemaker generate RUN model=tiny-sdxl."""
    code, said = tell("generate", str(tmp_path), "model=tiny-sdxl", "--dry-run", "-o", "x")
    assert f"prompts={tmp_path}" in said or "prompts" in said.split("Error: ")[-1], (code, said)
    assert "got nothing" not in said
