"""Every recipe of a source has a twin in `tiny/`, which runs to its end on a CPU and learns."""

import json
from functools import cache
from typing import Any

import pytest

from tastemaker.cli.app import main
from tastemaker.recipe.schema import Step
from tests.packaged import recipe

TWINS = (
    "bigasp_sdxl",
    "emu_sdxl",
    "slow_learner_trail1",
    "slow_learner_trail2",
    "slow_learner_low_noise",
    "pixart_lora_style",
    "sft_sd15",
)
OF_THE_SCALE = {
    *("images_total", "batch", "micro_batch", "held_out", "stable_images", "lr_course"),
    *("log_every_images", "validate_every_images", "save_every_images", "optimizer", "prompts"),
    *("keep_weights_every_images", "precision", "gradient_checkpointing", "measured", "objective"),
    *("collection", "selection", "model", "cache", "seed"),
}
"""What a twin may do otherwise: it is smaller, on a CPU, and finds its words elsewhere."""


def step(name: str, called: str) -> Step:
    return next(step for step in recipe(name).steps if step.name == called)


def fit_of(name: str) -> dict[str, Any]:
    return step(name, "fit").config.model_dump()


# --- what can be told without running -------------------------------------------------------------


@pytest.mark.parametrize("name", TWINS)
def test_a_twin_has_every_step_of_its_recipe(name: str) -> None:
    own = [(s.name, s.stage.name) for s in recipe(name).steps]
    twin = [(s.name, s.stage.name) for s in recipe(f"tiny/{name}").steps]
    assert [pair for pair in twin if pair in own] == own


@pytest.mark.parametrize("name", TWINS)
def test_a_twin_trains_as_its_recipe_does(name: str) -> None:
    """The same in everything but scale: method, objective, clipping, decay, the rate's course."""
    own, twin = fit_of(name), fit_of(f"tiny/{name}")
    assert {k: twin[k] for k in own.keys() - OF_THE_SCALE} == {
        k: own[k] for k in own.keys() - OF_THE_SCALE
    }
    assert twin["objective"] == own["objective"]
    assert twin["lr_course"]["shape"] == own["lr_course"]["shape"]
    for key in own["optimizer"].keys() - {"lr"}:
        assert twin["optimizer"][key] == own["optimizer"][key], key
    for key in ("kind", "empty", "priority", "alias_share"):
        assert twin["prompts"].get(key) == own["prompts"].get(key), key


@pytest.mark.parametrize("name", [*TWINS, *(f"tiny/{name}" for name in TWINS)])
def test_a_comparison_has_at_least_two_prompts(name: str) -> None:
    """Every interval is over prompts; with one, a run would fail in its last step but one."""
    prompts = step(name, "prompts").config.model_dump()
    assert len(prompts["texts"]) >= 2 or prompts["file"] or prompts["collection"]


def test_the_numbers_of_the_sources() -> None:
    """Copied anew from the sources, in steps where they count in steps."""
    bigasp = fit_of("bigasp_sdxl")
    assert (bigasp["images_total"], bigasp["batch"]) == (30_000_000, 2048)
    assert bigasp["method"] == {"kind": "full", "parts": ("denoiser", "text_encoder_1")}
    assert (bigasp["optimizer"]["lr"], bigasp["optimizer"]["weight_decay"]) == (1e-4, 0.1)
    assert bigasp["lr_course"] == {"shape": "cosine", "warmup_images": 100_000, "end": 0.0}
    assert (bigasp["objective"]["weighting"], bigasp["objective"]["gamma"]) == ("min_snr", 5.0)
    assert (bigasp["held_out"], bigasp["stable_images"], bigasp["precision"]) == (
        2048,
        2048,
        "fp16",
    )
    emu = fit_of("emu_sdxl")
    assert (emu["images_total"] / emu["batch"], emu["batch"]) == (15_000, 64)
    assert emu["objective"]["noise_offset"] == 0.1
    for name, epochs in (
        ("slow_learner_trail1", 10),
        ("slow_learner_trail2", 50),
        ("slow_learner_low_noise", 10),
    ):
        trail = fit_of(name)
        assert trail["images_total"] == epochs * 2000
        assert trail["lr_course"]["warmup_images"] == 200 * trail["batch"] == 200 * 64
        assert trail["micro_batch"] * 8 * 4 == trail["batch"]
        assert (trail["optimizer"]["lr"], trail["clip_norm"]) == (1e-6, 5.0)
        assert trail["objective"]["noise_offset"] == 0.0357
    assert fit_of("slow_learner_low_noise")["objective"]["timesteps"]["most"] == 799
    pixart = fit_of("pixart_lora_style")
    assert pixart["method"]["rank"] == 16
    assert pixart["optimizer"]["eps"] == 1e-10
    assert (pixart["optimizer"]["lr"], pixart["optimizer"]["weight_decay"]) == (3e-4, 0.03)
    assert recipe("pixart_lora_style").seed == 42
    sft = fit_of("sft_sd15")
    assert (sft["images_total"] / sft["batch"], sft["batch"]) == (2000, 512)
    assert sft["lr_course"]["warmup_images"] / sft["batch"] == 500
    assert sft["optimizer"]["lr"] == 1e-5


# --- end to end -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def curves(tmp_path_factory: pytest.TempPathFactory):
    """The figures of a twin's run by the images seen; each runs once."""

    @cache
    def run(name: str) -> dict[int, dict[str, float]]:
        folder = tmp_path_factory.mktemp(name)
        assert main(["run", f"tiny/{name}", "-o", str(folder)]) == 0
        assert (folder / "report.html").stat().st_size > 10_000
        assert list((folder / "steps/export").rglob("*.safetensors"))
        (log,) = (folder / "steps/fit").rglob("log/metrics.jsonl")
        found: dict[int, dict[str, float]] = {}
        for line in log.read_text().splitlines():
            figures = json.loads(line)
            found.setdefault(figures.pop("images"), {}).update(figures)
        return found

    return run


# DPM-Solver++ of diffusers turns a tensor into an array in a way that numpy 2 frowns upon.
LIBRARY = "ignore:__array__ implementation:DeprecationWarning"


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.filterwarnings(LIBRARY)
@pytest.mark.parametrize("name", TWINS)
def test_a_twin_runs_and_its_loss_falls(name: str, curves) -> None:
    """Plain errors on the same pictures, timesteps and noise, before the first step and after."""
    figures = curves(name)
    first, last = figures[0], figures[max(figures)]
    assert max(figures) >= fit_of(f"tiny/{name}")["images_total"]
    grids = [grid for grid in ("stable/loss", "validation/loss") if grid in first]
    assert "stable/loss" in grids
    for grid in grids:
        assert last[grid] < first[grid], grid


@pytest.mark.slow
@pytest.mark.timeout(800)
@pytest.mark.filterwarnings(LIBRARY)
def test_what_is_not_trained_on_hardly_changes(curves) -> None:
    """Without the high noise, the high timesteps keep their errors and the others improve."""
    whole, low = curves("slow_learner_trail1"), curves("slow_learner_low_noise")

    def fall(figures: dict[int, dict[str, float]], t: int) -> float:
        return 1 - figures[max(figures)][f"stable/loss_t{t}"] / figures[0][f"stable/loss_t{t}"]

    assert whole[0] == low[0]
    assert fall(low, 950) < fall(whole, 950) / 2
