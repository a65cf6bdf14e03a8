"""A base model begins the pictures, and a refiner ends them."""

from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from PIL import Image

from tastemaker.errors import InputError
from tastemaker.models.family import build_family, load_family
from tastemaker.models.refining import first_of_refiner, refined_pictures
from tastemaker.models.sampling import SamplerName, Sampling, make_sampler, sample_pictures
from tastemaker.records.generation import Prompt
from tastemaker.records.run import Artefact
from tastemaker.records.size import Size
from tastemaker.stages import generate
from tastemaker.store import jsonl
from tastemaker.store.prompt_sets import make_prompt_set, write_prompt_set
from tests.tiny_models import REFINER, saved_sdxl, tiny_family, tokenizers
from tests.tiny_run import run_step, step_dir

# diffusers turns torch tensors into arrays the way numpy 2 calls old.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)

SIZE = Size(64, 64)
PROMPTS = [Prompt("apple", "a red apple"), Prompt("tree", "a green tree in the rain")]
TEXTS = [prompt.text for prompt in PROMPTS]
SHORT = {"steps": 10, "samples_per_prompt": 2, "batch": 2, "sampler": "ddim", "grid_pictures": 0}


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artefact]:
    root = tmp_path_factory.mktemp("given")
    write_prompt_set(root / "prompts.jsonl", make_prompt_set("two", PROMPTS))
    tiny_family("refiner").save(root / "refiner")
    return {
        "model": Artefact("model", saved_sdxl(tmp_path_factory.getbasetemp()), "m"),
        "prompts": Artefact("prompts", root / "prompts.jsonl", "p"),
        "refiner": Artefact("model", root / "refiner", "r"),
    }


def work(root: Path, given: dict[str, Artefact], **fields: object):
    step = step_dir(root, "generate", str(fields))
    manifest, made = run_step(generate, step, given, **{**SHORT, **fields})
    folder = Path(made["samples"].path)
    pixels = {p.name: np.asarray(Image.open(p)) for p in folder.glob("*_0?.png")}
    return manifest, pixels, list(jsonl.read(folder / "samples.jsonl"))


def alone(given: dict[str, Artefact]) -> dict[str, Artefact]:
    return {name: value for name, value in given.items() if name != "refiner"}


def noise(count: int = 2) -> torch.Tensor:
    return torch.randn(count, 4, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", get_args(SamplerName))
@pytest.mark.parametrize("start", [0.3, 0.8])
def test_a_model_that_refines_itself_draws_the_same_picture(given, name: SamplerName, start):
    """Bit for bit, also with samplers that remember the step before."""
    one, other = (load_family(str(given["model"].path)) for _ in range(2))
    sampling = Sampling(name, 10, 4.0, SIZE)
    whole = sample_pictures(one, TEXTS, "", noise(), sampling)
    halves = refined_pictures(one, other, TEXTS, "", noise(), sampling, start=start, device="cpu")
    assert torch.equal(whole, halves)


def test_the_same_through_the_stage(given, tmp_path):
    _, whole, before = work(tmp_path / "one", alone(given))
    itself = {**given, "refiner": given["model"]}
    _, halves, after = work(tmp_path / "two", itself)
    assert whole.keys() == halves.keys()
    for name in whole:
        assert np.array_equal(whole[name], halves[name])
    assert {r["seed"] for r in before} == {r["seed"] for r in after}
    # They were made otherwise all the same.
    assert {r["settings"] for r in before}.isdisjoint({r["settings"] for r in after})


def test_the_refiner_changes_pictures_and_is_part_of_their_settings(given, tmp_path):
    _, plain, rows = work(tmp_path, alone(given))
    manifest, refined, refined_rows = work(tmp_path / "refined", given)
    assert manifest.results["refiner"] == "from 0.8 on"
    assert manifest.counts["pictures"] == 4
    assert all(not np.array_equal(plain[name], refined[name]) for name in plain)
    # What it does to a picture begins late: more of it is left than of one begun by another model.
    _, early, early_rows = work(tmp_path / "early", given, refiner_start=0.2)
    distance = [
        np.mean([np.abs(plain[n].astype(float) - found[n]).mean() for n in plain])
        for found in (refined, early)
    ]
    assert distance[0] < distance[1]
    other = {**given, "refiner": Artefact("model", given["refiner"].path, "other weights")}
    _, _, other_rows = work(tmp_path / "other", other)
    settings = [
        {r["settings"] for r in each} for each in (rows, refined_rows, early_rows, other_rows)
    ]
    assert len(set.union(*settings)) == 4
    assert len({r["noise_hash"] for each in (rows, refined_rows) for r in each}) == 4
    # And it is done once.
    again, _, _ = work(tmp_path / "refined", given)
    assert again.counts["kept from before"] == 4


def test_it_is_what_the_pipelines_of_diffusers_do(given):
    """Latents handed over with `denoising_end` and `denoising_start`, by a sampler that forgets."""
    base, refiner = (load_family(str(given[name].path)) for name in ("model", "refiner"))
    sampling = Sampling("ddim", 10, 4.0, SIZE)
    ours = refined_pictures(
        base, refiner, TEXTS[:1], "", noise(1), sampling, start=0.8, device="cpu"
    )
    settings: dict[str, Any] = {
        "prompt": TEXTS[0],
        "negative_prompt": "",
        "num_inference_steps": 10,
        "guidance_scale": 4.0,
    }
    first, second = base.pipeline(), refiner.pipeline()
    for pipeline in (first, second):
        pipeline.set_progress_bar_config(disable=True)
        pipeline.scheduler = make_sampler("ddim", base.scheduler.config)
    latents = first(**settings, latents=noise(1), denoising_end=0.8, output_type="latent").images
    options = {"denoising_start": 0.8, "aesthetic_score": 6.0, "negative_aesthetic_score": 2.5}
    theirs = second(**settings, image=latents, **options, output_type="pt").images
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


def test_each_is_told_its_own_and_is_alone_on_the_device(given, monkeypatch):
    base, refiner = (load_family(str(given[name].path)) for name in ("model", "refiner"))
    told: list[tuple[str, int, list[float]]] = []
    for name, family in {"base": base, "refiner": refiner}.items():
        real = family.denoise

        def sees(x, t, cond, name=name, real=real):
            told.append((name, int(t[0]), cond.time_ids[:, -1].tolist()))
            return real(x, t, cond)

        monkeypatch.setattr(family, "denoise", sees)
    moves: list[tuple[str, str]] = []
    for name, family in {"base": base, "refiner": refiner}.items():
        monkeypatch.setattr(
            family, "to", lambda device, name=name: moves.append((name, str(device)))
        )
    sampling = Sampling("euler", 10, 4.0, SIZE)
    device = torch.device("cpu", 0)  # another name than the place where the idle one waits
    refined_pictures(base, refiner, TEXTS[:1], "", noise(1), sampling, start=0.8, device=device)
    assert [name for name, _, _ in told] == ["base"] * 8 + ["refiner"] * 2
    assert min(t for name, t, _ in told if name == "base") >= 200
    assert max(t for name, t, _ in told if name == "refiner") < 200
    # Without and with the prompt: low and high aesthetic score; the base is told the width.
    assert {tuple(last) for name, _, last in told if name == "refiner"} == {(2.5, 6.0)}
    assert {tuple(last) for name, _, last in told if name == "base"} == {(64.0, 64.0)}
    assert moves == [
        ("refiner", "cpu"),
        ("base", "cpu:0"),
        ("base", "cpu"),
        ("refiner", "cpu:0"),
        ("refiner", "cpu"),
    ]


def test_the_handover_is_at_the_noise_level_that_is_left():
    steps = torch.arange(999, 0, -100)
    assert first_of_refiner(steps, 0.8, 1000) == 8
    assert first_of_refiner(torch.tensor([600, 200, 199.5]), 0.8, 1000) == 2
    with pytest.raises(InputError, match="0.95, which leaves 10 of 10 steps.*more steps"):
        first_of_refiner(steps, 0.95, 1000)
    with pytest.raises(InputError, match="leaves 0 of 10"):
        first_of_refiner(steps, 0.0001, 1000)


def test_a_refiner_of_another_prediction_goes_on_with_the_same_sampler(given, tmp_path):
    """The handover sets what the sampler takes predictions for; wrong, this would be noise."""
    one = load_family(str(given["model"].path))
    other: Any = load_family(str(given["model"].path))
    real = other.denoise
    schedule = one.schedule()

    def as_noise(x, t, cond):
        return schedule.eps_from(real(x, t, cond), x, t)

    other.denoise = as_noise
    other.set_schedule(prediction="epsilon")
    sampling = Sampling("dpmpp_2m", 10, 4.0, SIZE)
    whole = sample_pictures(one, TEXTS, "", noise(), sampling)
    mixed = refined_pictures(one, other, TEXTS, "", noise(), sampling, start=0.6, device="cpu")
    torch.testing.assert_close(whole, mixed, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("vae", {"scaling_factor": 0.3}, "another latents.*0.3"),
        ("scheduler", {"beta_schedule": "scaled_linear"}, "another noise schedule"),
    ],
)
def test_a_refiner_of_other_latents_or_noise_is_refused(given, tmp_path, part, change, message):
    config = {**REFINER, part: {**REFINER[part], **change}}
    folder = tmp_path / "odd"
    build_family("sdxl", config, tokenizers(tmp_path / "words")).save(folder)
    with pytest.raises(InputError, match=message):
        work(tmp_path, {**given, "refiner": Artefact("model", folder, "o")})


def test_out_of_memory_halves_the_batch_of_both(given, tmp_path, monkeypatch):
    from tastemaker.models import refining

    real, sizes = refining.denoised, []

    def small(family, text, *rest):
        sizes.append((family.is_refiner, len(text)))
        if family.is_refiner and len(text) > 1:
            raise torch.OutOfMemoryError("too much")
        return real(family, text, *rest)

    monkeypatch.setattr(refining, "denoised", small)
    manifest, _, _ = work(tmp_path, given)
    assert manifest.counts["pictures"] == 4
    assert sizes[:4] == [(False, 2), (True, 2), (False, 1), (True, 1)]
