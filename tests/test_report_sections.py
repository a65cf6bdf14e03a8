"""Sections of the report: cache, cost, pictures without scores."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tastemaker.records.run import Manifest
from tastemaker.store.rundir import StepDir
from tests.page_reader import parsed
from tests.report_run import PROMPTS, Run


@pytest.fixture
def whole(tmp_path: Path) -> Run:
    return Run(tmp_path / "run").whole()


def test_the_cache_shows_its_latents_and_buckets(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    step = run.step("cache", "cache")
    results = {"latents": 1300, "bytes_per_latent": 1473.4, "buckets": {"64x64": 900, "48x96": 400}}
    counts = {"encoded": 1300, "left out: too small": 7}
    step.finish(Manifest("cache", step.key, {}, counts, results, 10.0))
    page = run.page()
    parsed(page)
    figures = dict(re.findall(r"<div><dt>(.*?)</dt><dd>(.*?)</dd>", page))
    assert figures["latents"] == "1\u202f300"
    assert (figures["bytes each"], figures["together"]) == ("1\u202f473", "1.92\u202fMB")
    assert (figures["buckets used"], figures["left out"]) == ("2", "7")
    assert figures["latents a second"] == "130.0"
    assert page.index("64 × 64") < page.index("48 × 96")


def test_energy_is_shown_only_where_it_was_measured(whole: Run) -> None:
    assert "energy" not in whole.page()
    for joules in ({"GPU": 3.6e6}, {"GPU": 3.6e6, "processors": 1.8e6}):
        whole.run.steps()[0].event("energy", joules=joules)
    StepDir(whole.folder / "other", name="gone", events=whole.folder / "events.jsonl").event(
        "energy", joules={"GPU": 9e9}
    )
    page = whole.page()
    parsed(page)
    assert "2.5\u202fkWh (GPU 2\u202fkWh, processors 0.5\u202fkWh)" in page


def test_pictures_without_an_evaluation_are_shown(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    run.generate("first")
    run.generate("second")
    page = run.page()
    found = parsed(page)
    assert "Pictures of 30 prompts, made in 2 ways from the same noise." in page
    assert found.images == 2 * (6 + 30)
    assert "Nothing was scored." in page
    assert (run.folder / "before_after.png").exists()


def test_a_large_photograph_is_reduced(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    run.generate("first")
    noise = np.random.default_rng(0).integers(0, 256, (900, 1400, 3), dtype=np.uint8)
    for prompt in list(PROMPTS)[:4]:
        path = next(run.folder.glob(f"steps/first/*/samples/{prompt}_00.png"))
        Image.fromarray(noise).save(path)
    page = run.page()
    largest = max(len(address) for address in parsed(page).loads)
    assert largest < 120_000  # the file has 3.8 MB
