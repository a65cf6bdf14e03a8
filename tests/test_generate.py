import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tastemaker.engine.picture_jobs import Job
from tastemaker.errors import InputError
from tastemaker.models.adapters import add_lora, save_lora
from tastemaker.models.family import load_family
from tastemaker.models.sampling import (
    Sampling,
    draw,
    latent_shape,
    make_sampler,
    sample_latents,
    sample_pictures,
)
from tastemaker.records.generation import Prompt
from tastemaker.records.run import Artefact
from tastemaker.records.size import Size
from tastemaker.stages.generate import Config, run
from tastemaker.store import jsonl
from tastemaker.store.prompt_sets import make_prompt_set, write_prompt_set
from tastemaker.store.rundir import StepDir
from tastemaker.store.samples import load_sample_set
from tests.tiny_models import saved_sdxl

# diffusers turns torch tensors into arrays the way numpy 2 calls old.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)

SIZE = Size(64, 64)
PROMPTS = [
    Prompt("apple", "a red apple"),
    Prompt("tree", "a green tree"),
    Prompt("../odd id", "the cat and the yellow banana and the blue car on a grey road, outlines"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved_sdxl(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    write_prompt_set(path, make_prompt_set("three", PROMPTS))
    return path


def _run(folder: Path, prompts: Path, step: Path, adapter: Path | None = None, **fields: object):
    config = Config(
        model="tiny",
        prompts="p",
        **{"sampler": "ddim", "steps": 2, "samples_per_prompt": 2, "batch": 4, **fields},  # type: ignore[arg-type]
    )
    inputs = {"model": Artefact("model", folder, "m"), "prompts": Artefact("prompts", prompts, "p")}
    if adapter is not None:
        inputs["adapter"] = Artefact("adapter", adapter, "a")
    return run(config, inputs, StepDir(step, name="generate", key="k" * 64))


def _rows(step: Path) -> dict[tuple[str, int], dict]:
    rows = jsonl.read(step / "samples" / "samples.jsonl")
    return {(r["prompt_id"], r["sample_index"]): r for r in rows}


def _pixels(step: Path) -> dict[str, np.ndarray]:
    return {p.name: np.asarray(Image.open(p)) for p in (step / "samples").glob("*_0?.png")}


def test_a_complete_set_with_grid(folder: Path, prompts: Path, tmp_path: Path) -> None:
    manifest = _run(folder, prompts, tmp_path, name="before")
    assert manifest.outputs == {"samples": "samples"}
    assert manifest.counts == {"pictures": 6, "prompts": 3, "kept from before": 0}
    found = load_sample_set(tmp_path / "samples", [p.id for p in PROMPTS])
    assert len(found.samples) == 6
    assert not found.missing
    assert {s.model for s in found.samples} == {"before"}
    assert {s.file for s in found.samples} >= {"apple_00.png", "apple_01.png", "tree_00.png"}
    # An id that is no file name never becomes one.
    assert all(found.path(s).parent == tmp_path / "samples" for s in found.samples)
    assert all(p.shape == (64, 64, 3) for p in _pixels(tmp_path).values())
    with Image.open(tmp_path / "samples" / "grid.png") as grid:
        assert grid.width > 6 * 144
        assert grid.height > 144


def test_noise_is_shared_by_models_and_not_by_prompts_or_seeds(
    folder: Path, prompts: Path, tmp_path: Path
) -> None:
    family = load_family(folder)
    parameters = add_lora(family, rank=2, alpha=8)
    for parameter in parameters:
        parameter.data += 0.3
    save_lora(family, tmp_path / "adapter")
    _run(folder, prompts, tmp_path / "before", name="before")
    _run(folder, prompts, tmp_path / "after", tmp_path / "adapter", name="after")
    _run(folder, prompts, tmp_path / "seed", seed=1)
    before, after, other = (_rows(tmp_path / name) for name in ("before", "after", "seed"))
    for key in before:
        assert before[key]["seed"] == after[key]["seed"] != other[key]["seed"]
        assert before[key]["noise_hash"] == after[key]["noise_hash"] != other[key]["noise_hash"]
        assert before[key]["settings"] != after[key]["settings"]
        assert before[key]["file_hash"] != after[key]["file_hash"]
    assert len({r["noise_hash"] for r in before.values()}) == 6


def test_the_batch_changes_no_picture(folder: Path, prompts: Path, tmp_path: Path) -> None:
    for batch in (1, 4):
        _run(folder, prompts, tmp_path / str(batch), batch=batch, steps=3, guidance=4.0)
    one, four = _pixels(tmp_path / "1"), _pixels(tmp_path / "4")
    assert one.keys() == four.keys()
    for name in one:
        difference = np.abs(one[name].astype(int) - four[name].astype(int))
        assert difference.max() <= 1
        assert difference.mean() < 0.01


def test_latents_are_independent_of_the_batch_to_rounding(folder: Path) -> None:
    family = load_family(folder)
    noise = torch.randn(3, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    text = family.encode_text(["a red apple", "a tree", "a car"])
    empty = family.encode_text([""])
    sampling = Sampling("dpmpp_2m", 4, 5.0, SIZE)
    whole = sample_latents(family, text, empty[[0] * 3], noise, sampling)
    alone = sample_latents(family, text[[1]], empty, noise[1:2], sampling)
    torch.testing.assert_close(whole[1:2], alone, atol=1e-4, rtol=1e-4)


def test_a_second_run_makes_nothing_and_a_lost_file_is_made_again(
    folder: Path, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _run(folder, prompts, tmp_path)
    before = {name: pixels.tobytes() for name, pixels in _pixels(tmp_path).items()}
    drawn: list[list[str]] = []
    real = draw

    def counting(family, texts, *rest, **options):
        drawn.append(list(texts))
        return real(family, texts, *rest, **options)

    monkeypatch.setattr("tastemaker.models.sampling.draw", counting)
    manifest = _run(folder, prompts, tmp_path)
    assert (drawn, manifest.counts["kept from before"]) == ([], 6)
    (tmp_path / "samples" / "apple_01.png").unlink()
    (tmp_path / "samples" / "tree_00.png").write_bytes(b"torn")
    # A line torn by a kill: its picture counts as missing.
    file = tmp_path / "samples" / "samples.jsonl"
    file.write_text(file.read_text()[:-30])
    _run(folder, prompts, tmp_path)
    # Whole batches, so that rounding is what it was.
    assert drawn == [["a red apple"] * 2 + ["a green tree"] * 2, [PROMPTS[2].text] * 2]
    after = {name: pixels.tobytes() for name, pixels in _pixels(tmp_path).items()}
    assert after == before
    assert len(_rows(tmp_path)) == 6
    assert not load_sample_set(tmp_path / "samples", [p.id for p in PROMPTS]).missing


def test_pictures_of_other_settings_are_not_kept(
    folder: Path, prompts: Path, tmp_path: Path
) -> None:
    _run(folder, prompts, tmp_path)
    assert _run(folder, prompts, tmp_path, guidance=2.0).counts["kept from before"] == 0


def test_out_of_memory_halves_the_batch(
    folder: Path, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, sizes = draw, []

    def small(family, texts, *rest, **options):
        sizes.append(len(texts))
        if len(texts) > 1:
            raise torch.OutOfMemoryError("too much")
        return real(family, texts, *rest, **options)

    monkeypatch.setattr("tastemaker.models.sampling.draw", small)
    assert _run(folder, prompts, tmp_path).counts["pictures"] == 6
    # What did not fit once is not tried again.
    assert sizes == [4, 2, 1, 1, 1, 1, 1, 1]


def test_negative_prompt_is_the_empty_text_and_not_zeros(folder: Path) -> None:
    """The same picture as the pipeline draws of the strings, with the empty text as negative."""
    family = load_family(folder)
    noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    ours = sample_pictures(family, ["a tree"], "", noise, Sampling("ddim", 2, 6.0, SIZE))
    pipeline = family.pipeline()
    pipeline.set_progress_bar_config(disable=True)
    settings = {"num_inference_steps": 2, "guidance_scale": 6.0, "output_type": "pt"}
    theirs = pipeline("a tree", negative_prompt="", latents=noise.clone(), **settings).images
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", ["ddim", "dpmpp_2m", "dpmpp_2m_karras", "euler"])
def test_samplers_find_the_mean_of_a_known_distribution(folder: Path, name: str) -> None:
    """With an exact v-predictor of data that is one point, every sampler must end at that point."""
    scheduler = make_sampler(name, load_family(folder).pipeline().scheduler.config)
    scheduler.set_timesteps(12)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(0)  # as pipelines do: Karras steps may share a rounded time
    point = torch.full((1, 4, 8, 8), 1.7)  # beyond 1: clipping would show
    x = torch.randn(point.shape, generator=torch.Generator().manual_seed(0))
    x = x * scheduler.init_noise_sigma
    alphas = scheduler.alphas_cumprod
    sigmas = ((1 - alphas) / alphas).sqrt()
    for n, t in enumerate(scheduler.timesteps):
        scaled = scheduler.scale_model_input(x, t)
        if hasattr(scheduler, "sigmas"):
            sigma = scheduler.sigmas[n]
            ab = 1 / (1 + sigma**2)
        else:
            ab = 1 / (1 + sigmas[int(t)] ** 2)
        noise = (scaled - ab.sqrt() * point) / (1 - ab).sqrt()
        v = ab.sqrt() * noise - (1 - ab).sqrt() * point
        x = scheduler.step(v, t, x, return_dict=False)[0]
    torch.testing.assert_close(x, point, atol=0.02, rtol=0.02)


def test_sizes(folder: Path, prompts: Path, tmp_path: Path) -> None:
    family = load_family(folder)
    assert latent_shape(family, Size(64, 32)) == (4, 16, 8)
    with pytest.raises(InputError, match="multiples of 8"):
        latent_shape(family, Size(64, 36))
    _run(folder, prompts, tmp_path, height_px=32, width_px=64, samples_per_prompt=1)
    assert {p.shape for p in _pixels(tmp_path).values()} == {(32, 64, 3)}


def test_seed_is_a_63_bit_number_of_names_alone() -> None:
    from tastemaker.records.draws import Draw

    job = Job(PROMPTS[0], 0, Draw(0, "generate", "5:three:apple", 0), 1)
    assert 0 <= job.seed() < 2**63
    assert job.seed() == Draw(0, "generate", "5:three:apple", 0).key() & (2**63 - 1)


def test_events_and_rows_are_plain_json(folder: Path, prompts: Path, tmp_path: Path) -> None:
    _run(folder, prompts, tmp_path, samples_per_prompt=1, grid_pictures=0)
    assert not (tmp_path / "samples" / "grid.png").exists()
    for line in (tmp_path / "samples" / "samples.jsonl").read_text().splitlines():
        assert json.loads(line)["prompt"]


def test_captions_of_the_sheet_are_wrapped_and_have_accents() -> None:
    from tastemaker.store.contact_sheet import load_font, wrapped

    font = load_font()
    lines = wrapped("a drawing of the cat and the yellow banana and the blue car " * 2, 144, font)
    assert len(lines) == 3
    assert lines[-1].endswith("…")
    assert all(font.getlength(line) <= 144 for line in lines)
    assert wrapped("", 144, font) == []
    (cut,) = wrapped("x" * 200, 144, font)
    assert font.getlength(cut) <= 144
    missing = bytes(font.getmask("\ufffe"))
    assert bytes(font.getmask("é")) != missing


def test_the_default_sampler_is_written_down(folder: Path, prompts: Path, tmp_path: Path) -> None:
    """DPM++ has a setting of minus infinity, which is no JSON."""
    _run(folder, prompts, tmp_path, sampler=None, samples_per_prompt=1)
    told = json.loads((tmp_path / "samples" / "run.json").read_text())
    assert told["scheduler"]["lambda_min_clipped"] == "-inf"
