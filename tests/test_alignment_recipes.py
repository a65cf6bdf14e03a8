"""The recipes of preference training: their numbers, and the small ones from end to end."""

import json
import math
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tastemaker.cli.app import main
from tastemaker.recipe.schema import Step
from tastemaker.store.hashing import hash_file, hash_folder
from tastemaker.store.pair_sets import PairSet
from tests.packaged import recipe

REAL = (
    "dpo_sd15",
    "dpo_sdxl",
    "dpo_sdxl_turbo",
    "slow_learner_trail3_dpo",
    "selfreward_sdxl",
    "spin_sd15",
)
METHODS = {"dpo": "dpo", "selfreward": "selfreward", "spin": "spin", "turbo_dpo": "turbo"}
"""Recipe in `tiny/` -> what its steps call the method."""

SHORT = ("prompts=8", "pairs=64", "tests=4", "judge=20")
LIBRARY = "ignore:__array__ implementation:DeprecationWarning"


def fits(name: str) -> dict[str, dict[str, Any]]:
    steps = recipe(name).steps
    return {s.name: s.config.model_dump() for s in steps if s.stage.name == "fit_pairs"}


def step(name: str, called: str) -> dict[str, Any]:
    return next(s for s in recipe(name).steps if s.name == called).config.model_dump()


# --- what can be told without running -------------------------------------------------------------


@pytest.mark.parametrize("name", [*REAL, *(f"tiny/{name}" for name in METHODS)])
def test_what_is_compared_is_never_trained_on(name: str) -> None:
    """Every pair set leaves out the prompts that are compared; both sides share their noise."""
    steps = {s.name: s for s in recipe(name).steps}
    asked = {
        s.config.model_dump()["prompts"]
        for s in steps.values()
        if s.stage.name == "evaluate" and s.config.model_dump()["before"]
    }
    assert len(asked) == 1
    for s in steps.values():
        if s.stage.name == "pairs":
            assert {s.config.model_dump()["evaluation"]} == asked, s.name
        if s.stage.name == "evaluate" and s.config.model_dump()["before"]:
            assert noise(steps, s, "before") == noise(steps, s, "after"), s.name


def noise(steps: dict[str, Step], evaluation: Step, side: str) -> dict[str, Any]:
    drawn = steps[evaluation.config.model_dump()[side]].config.model_dump()
    return {k: v for k, v in drawn.items() if k not in ("name", "model", "adapter")}


def test_the_numbers_of_the_sources() -> None:
    """Copied anew from the sources, in steps where they count in steps."""
    for name, kind, steps, warmup in (
        ("dpo_sd15", "adamw", 2000, 500),
        ("dpo_sdxl", "adafactor", 200, 200),
        ("dpo_sdxl_turbo", "adafactor", 200, 200),
    ):
        dpo = fits(name)["dpo"]
        assert (dpo["batch"], dpo["images_total"] / dpo["batch"]) == (2048, steps)
        assert dpo["lr_course"] == {"shape": "constant", "warmup_images": warmup * 2048, "end": 0.0}
        assert dpo["optimizer"]["kind"] == kind
        assert dpo["optimizer"]["lr"] == pytest.approx(1e-8 * 2048)
        assert dpo["optimizer"]["weight_decay"] == 0.01
        assert (dpo["objective"]["beta"], dpo["objective"]["convention"]) == (5000.0, "salesforce")
        assert dpo["objective"]["reference"]["kind"] == "frozen"
        assert (dpo["clip_norm"], dpo["precision"]) == (1.0, "fp16")
        assert dpo["empty_prompts"] == (0.0 if name == "dpo_sdxl_turbo" else 0.2)
    assert fits("dpo_sdxl_turbo")["dpo"]["preset"] == "sdxl-turbo"
    for name in ("before", "dpo-drawn"):
        drawn = step("dpo_sdxl_turbo", name)
        assert (drawn["steps"], drawn["guidance"], drawn["height_px"]) == (4, 0.0, 512)
    trail = fits("slow_learner_trail3_dpo")["fit"]
    assert trail["objective"]["reference"]["kind"] == "ema"
    assert trail["objective"]["noise_offset"] == 0.0357
    assert (trail["optimizer"]["lr"], trail["clip_norm"], trail["batch"]) == (1e-6, 5.0, 64)
    assert trail["lr_course"]["warmup_images"] == 200 * 64
    spin = fits("spin_sd15")
    for number, (lr, beta, steps) in enumerate(
        ((2e-5, 2000.0, 50), (2e-5, 5000.0, 500), (5e-8, 5000.0, 200)), 1
    ):
        one = spin[f"fit-{number}"]
        assert (one["optimizer"]["lr"], one["objective"]["beta"]) == (lr, beta)
        assert (one["batch"], one["images_total"]) == (2048, steps * 2048)
        assert one["lr_course"]["warmup_images"] == 200 * 2048
        assert one["lr_course"]["shape"] == "linear"
        drawn = step("spin_sd15", f"own-{number}")
        assert (drawn["guidance"], drawn["seed"]) == (7.5, 5775709)
    sft, dpo = spin["sft-fit"], spin["dpo-fit"]
    assert (sft["batch"], sft["images_total"] / 512, sft["optimizer"]["lr"]) == (512, 2000, 1e-5)
    assert sft["lr_course"]["warmup_images"] == 500 * 512
    assert (dpo["batch"], dpo["images_total"] / 2048) == (2048, 350)
    assert (dpo["optimizer"]["lr"], dpo["objective"]["beta"]) == (2e-5, 2000.0)


@pytest.mark.parametrize(("name", "rounds"), [("selfreward_sdxl", 3), ("spin_sd15", 3)])
def test_each_round_starts_from_the_last_one(name: str, rounds: int) -> None:
    first = "pool" if name == "selfreward_sdxl" else "own"
    for number in range(2, rounds + 1):
        last = f"fit-{number - 1}"
        assert step(name, f"{first}-{number}")["model"] == last
        assert fits(name)[f"fit-{number}"]["model"] == last
        assert fits(name)[f"fit-{number}"]["pairs"] == f"pairs-{number}"


@pytest.mark.parametrize("name", METHODS)
def test_the_baseline_has_the_same_budget(name: str) -> None:
    found = fits(f"tiny/{name}")
    seen = {"sft_winners": 0, "dpo": 0}
    for fit in found.values():
        seen[fit["objective"]["kind"]] += fit["images_total"]
    assert seen["sft_winners"] == seen["dpo"] > 0
    assert len({(fit["batch"], fit["precision"]) for fit in found.values()}) == 1


# --- end to end -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a shortened run; each runs once."""

    @cache
    def run(name: str) -> Path:
        folder = tmp_path_factory.mktemp(name)
        assert main(["run", f"tiny/{name}", *SHORT, *budget(name), "-o", str(folder)]) == 0
        return folder

    return run


def budget(name: str) -> tuple[str, ...]:
    return ("baseline=192",) if name == "spin" else ()


def output(run: Path, called: str, file: str) -> Path:
    (found,) = (run / "steps" / called).glob(f"*/{file}")
    return found


def log(run: Path, called: str) -> list[dict[str, float]]:
    text = output(run, called, "log/metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings(LIBRARY)
@pytest.mark.parametrize("name", METHODS)
def test_a_small_recipe_runs_from_end_to_end(name: str, ran: Callable[[str], Path]) -> None:
    run = ran(name)
    assert (run / "report.html").stat().st_size > 10_000
    for called, fit in fits(f"tiny/{name}").items():
        figures = log(run, called)
        assert figures[-1]["images"] >= 64
        if fit["objective"]["kind"] == "dpo":
            # Whatever the reference, it is the start model before the first step.
            assert figures[0]["stable/loss"] == pytest.approx(math.log(2), rel=1e-6)
            assert figures[0]["validation/accuracy"] == 0.5
            assert figures[-1]["stable/margin"] != 0.0
    for pattern in ("sft-to-base", "{}-to-base", "{}-to-sft"):
        place = output(run, pattern.format(METHODS[name]), "scores/summary.json")
        lines = {line["name"]: line for line in json.loads(place.read_text())["scores"]}
        for figure in ("style_share", "image_text"):
            difference = lines[figure]["against"]["after"]["difference"]
            assert difference["low"] <= difference["estimate"] <= difference["high"]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings(LIBRARY)
def test_losers_of_an_iteration_are_drawn_by_the_last_one(ran: Callable[[str], Path]) -> None:
    run = ran("spin")
    losers, winners = [], []
    for number in (1, 2, 3):
        pairs = PairSet(output(run, f"pairs-{number}", "pairs"))
        rows = output(run, f"own-{number}", "samples/samples.jsonl").read_text().splitlines()
        assert {pair.prompt for pair in pairs.pairs()} <= {json.loads(r)["prompt"] for r in rows}
        losers.append({pair.loser for pair in pairs.pairs()})
        winners.append({pair.winner for pair in pairs.pairs()})
    assert winners[0] == winners[1] == winners[2]
    assert not losers[0] & losers[1]
    assert not losers[1] & losers[2]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings(LIBRARY)
def test_turbo_trains_at_three_timesteps(ran: Callable[[str], Path]) -> None:
    first = log(ran("turbo_dpo"), "turbo")[0]
    named = {key.rpartition("_t")[2] for key in first if key.startswith("validation/margin_t")}
    assert named == {"249", "499", "749"}


# --- stopped and started again --------------------------------------------------------------------

STOPPABLE = (
    *("prompts=8", "pairs=96", "baseline=32", "tests=2", "judge=20"),
    *("own-2.batch=1", "fit-2.save_every_images=32", "fit-2.validate_every_images=64"),
)


def started(run: Path) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "tastemaker", "run", "tiny/spin", *STOPPABLE, "-o", str(run)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def killed_when(run: Path, begun: Callable[[], bool], done: Callable[[], bool]) -> bool:
    """Start the run and kill it as soon as something has begun; False where it was too quick."""
    process = started(run)
    while not begun():
        assert process.poll() is None, "it ended before"
        time.sleep(0.01)
    process.kill()
    process.wait()
    return not done()


def there(run: Path, pattern: str) -> int:
    return len(list((run / "steps").glob(pattern)))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_kill_inside_the_second_iteration_leaves_no_trace(tmp_path: Path) -> None:
    """Inside its generation and inside its training: every model and picture is the same bytes."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert started(whole).wait() == 0
    assert killed_when(
        broken,
        lambda: there(broken, "own-2/*/samples/*_00.png") >= 2,
        lambda: there(broken, "own-2/*/manifest.json") > 0,
    )
    drawn = there(broken, "own-2/*/samples/*_00.png")
    assert 2 <= drawn < 8
    assert killed_when(
        broken,
        lambda: there(broken, "fit-2/*/checkpoints/*/*") > 0,
        lambda: there(broken, "fit-2/*/manifest.json") > 0,
    )
    assert started(broken).wait() == 0
    for pattern in ("fit-*/*/model", "own-*/*/samples", "spin-drawn/*/samples"):
        places = sorted(place.relative_to(whole) for place in (whole / "steps").glob(pattern))
        assert places
        for place in places:
            assert contents(broken / place) == contents(whole / place), place


def contents(folder: Path) -> str | dict[str, str]:
    """Of weights all; of samples the pictures, whose lines may be in another order."""
    if folder.name == "model":
        return hash_folder(folder)
    return {path.name: hash_file(path) for path in folder.glob("*_[0-9][0-9].png")}
