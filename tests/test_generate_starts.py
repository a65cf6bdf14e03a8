"""Pictures that begin as colours or pictures, what a Turbo model asks for, and kept latents."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from tastemaker.diffusion.noise import batch_noise
from tastemaker.engine.picture_jobs import picture_jobs
from tastemaker.engine.picture_starts import FolderStart, LayoutStart
from tastemaker.errors import InputError
from tastemaker.models.family import load_family
from tastemaker.models.sampling import Sampling, sample_latents
from tastemaker.records.generation import Prompt
from tastemaker.records.run import Artefact
from tastemaker.records.size import Size
from tastemaker.stages import generate
from tastemaker.store import jsonl
from tastemaker.store.generated_latents import GeneratedLatents, generated_key
from tastemaker.store.hashing import hash_bytes
from tastemaker.store.prompt_sets import make_prompt_set, write_prompt_set
from tastemaker.store.samples import read_samples
from tests.tiny_models import saved_sdxl
from tests.tiny_run import run_step, step_dir

# diffusers turns torch tensors into arrays the way numpy 2 calls old.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)

SIZE = Size(64, 64)
SET = make_prompt_set("two", [Prompt("apple", "a red apple"), Prompt("tree", "a green tree")])
SHORT = {"sampler": "ddim", "steps": 4, "guidance": 3.0, "grid_pictures": 0, "batch": 2}
LAYOUT = (("skyblue", "skyblue"), ("#306020", "tan"))


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artefact]:
    root = tmp_path_factory.mktemp("given")
    write_prompt_set(root / "prompts.jsonl", SET)
    return {
        "model": Artefact("model", saved_sdxl(tmp_path_factory.getbasetemp()), "m"),
        "prompts": Artefact("prompts", root / "prompts.jsonl", "p"),
    }


def work(root: Path, given: dict[str, Artefact], **fields: object) -> tuple[Path, list[dict]]:
    step = step_dir(root, "generate", str(fields))
    _, made = run_step(generate, step, given, **{**SHORT, **fields})
    folder = Path(made["samples"].path)
    return folder, list(jsonl.read(folder / "samples.jsonl"))


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def test_a_layout_is_flat_areas_by_row() -> None:
    found = LayoutStart(LAYOUT).pixels((), Size(4, 6))
    assert found.dtype == np.uint8
    assert found.shape == (4, 6, 3)
    assert (found[:2] == (135, 206, 235)).all()
    assert (found[2:, :3] == (0x30, 0x60, 0x20)).all()
    assert (found[2:, 3:] == (210, 180, 140)).all()
    uneven = LayoutStart([["red", "lime", "blue"], ["white"]]).pixels((), Size(2, 3))
    assert uneven[0].tolist() == [[255, 0, 0], [0, 255, 0], [0, 0, 255]]
    assert (uneven[1] == 255).all()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"layout": (("sky",),)}, "'sky' is no colour"),
        ({"layout": (("#12",),)}, "'#12' is no colour"),
        ({"layout": ((),)}, "a row of the layout has no colour"),
        ({"layout": LAYOUT, "start_pictures": "x"}, "layout or start_pictures, not both"),
        ({"strength": 0.0}, "greater than 0"),
        ({"share": "3/2"}, "at most the second"),
        ({"share": "0/2"}, "pattern"),
    ],
)
def test_what_makes_no_sense_is_refused(fields: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        generate.Config(model="m", prompts="p", **fields)


def test_a_layout_is_sdedit_of_its_latents(given, tmp_path) -> None:
    """The latents equal those of the sampler begun from the encoded layout, and it is recorded."""
    folder, rows = work(tmp_path, given, layout=LAYOUT, strength=0.5)
    plain, _ = work(tmp_path, given)
    start = LayoutStart(LAYOUT).pixels((), SIZE)
    assert np.array_equal(pixels(folder / "layout.png"), start)
    assert {row["start_hash"] for row in rows} == {hash_bytes(start.tobytes())}
    family = load_family(str(given["model"].path)).channels_last()
    config = generate.Config(model="m", prompts="p")
    jobs = picture_jobs(config, SET, SIZE, family)
    with torch.no_grad():
        latent = family.encode_image(torch.from_numpy(np.stack([start] * 2)).permute(0, 3, 1, 2))[0]
    text = family.encode_text([prompt.text for prompt in SET.prompts])
    empty = family.encode_text([""])[[0, 0]]
    noise = batch_noise([job.draw for job in jobs], (4, 16, 16))
    sampling = Sampling("ddim", 4, 3.0, SIZE)
    expected = sample_latents(family, text, empty, noise, sampling, start=latent, strength=0.5)
    assert [row["latent_hash"] for row in rows] == [
        hash_bytes(one.contiguous().numpy().tobytes()) for one in expected
    ]
    assert not np.array_equal(pixels(folder / "apple_00.png"), pixels(plain / "apple_00.png"))
    # All of the strength: all steps, but from the layout under the noise.
    weak, other = work(tmp_path, given, layout=LAYOUT, strength=0.25)
    assert other[0]["settings"] != rows[0]["settings"]
    near = [
        np.abs(pixels(one / "tree_00.png") - family_view(family, latent)).mean()
        for one in (weak, folder, plain)
    ]
    assert near[0] < near[1] < near[2]


def family_view(family, latent: torch.Tensor) -> np.ndarray:
    """What the autoencoder makes of the layout; the tiny one is untrained."""
    with torch.no_grad():
        return (family.decode(latent)[0] * 255).permute(1, 2, 0).numpy()


def test_pictures_of_another_step_are_starts(given, tmp_path) -> None:
    first, _ = work(tmp_path, given)
    starts = {**given, "start_pictures": Artefact("samples", first, "s")}
    folder, rows = work(tmp_path, starts, strength=0.5)
    for row in rows:
        assert row["start_hash"] == hash_bytes(pixels(first / row["file"]).tobytes())
    assert not np.array_equal(pixels(folder / "apple_00.png"), pixels(first / "apple_00.png"))
    own = FolderStart(tmp_path / "own")
    own.folder.mkdir()
    Image.new("RGB", (40, 20), "red").save(own.folder / "apple.jpg")
    assert own.pixels(("apple_00", "apple"), Size(8, 8)).shape == (8, 8, 3)
    lacks = {**given, "start_pictures": Artefact("samples", own.folder, "t")}
    with pytest.raises(InputError, match="no start picture tree_00 or tree"):
        work(tmp_path / "lacks", lacks)
    # Refused before anything was drawn.
    assert not list((tmp_path / "lacks").rglob("*.png"))


def test_a_refiner_ends_what_began_as_a_layout(given, tmp_path) -> None:
    fields = {"layout": LAYOUT, "strength": 0.5, "steps": 10}
    whole, _ = work(tmp_path / "one", given, **fields)
    both = {**given, "refiner": given["model"]}
    halves, rows = work(tmp_path / "two", both, **fields)
    for row in rows:
        assert np.array_equal(pixels(whole / row["file"]), pixels(halves / row["file"]))


@pytest.fixture(scope="module")
def turbo(given, tmp_path_factory: pytest.TempPathFactory) -> Artefact:
    """The tiny model with what tells Turbo from the base model."""
    folder = tmp_path_factory.mktemp("turbo") / "model"
    load_family(str(given["model"].path)).save(folder)
    for name, fields in {
        "unet/config.json": {"sample_size": 64},
        "scheduler/scheduler_config.json": {
            "_class_name": "EulerAncestralDiscreteScheduler", "timestep_spacing": "trailing",
        },
    }.items():  # fmt: skip
        file = folder / name
        file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))
    return Artefact("model", folder, "turbo")


def test_a_turbo_model_is_drawn_as_it_wants_it(given, turbo, tmp_path) -> None:
    inputs = {**given, "model": turbo}
    config = generate.Config(model="m", prompts="p")
    lines = generate.preview(config, inputs)
    assert lines[0].startswith("euler_a, 4 steps, guidance 0, trailing, the model's own size")
    assert "as the preset sdxl-turbo says" in lines[0]
    assert lines[1] == "2 pictures of 2 prompts"
    named = generate.preview(config.model_copy(update={"preset": "sdxl-turbo"}), given)
    assert "512x512 px" in named[0]
    assert "30 steps, guidance 5," in generate.preview(config, given)[0]
    nothing = {"sampler": None, "steps": None, "guidance": None}
    step = step_dir(tmp_path, "generate", "turbo")
    small = {"height_px": 64, "width_px": 64}
    manifest, _ = run_step(generate, step, inputs, **{**SHORT, **nothing, **small})
    assert manifest.results["sampler"] == "euler_a, 4 steps, guidance 0, trailing"
    assert manifest.results["preset"] == "sdxl-turbo"
    told = json.loads((step.path / "samples" / "run.json").read_text())
    assert told["scheduler"]["class"] == "EulerAncestralDiscreteScheduler"
    # What is given holds.
    given_all, _ = run_step(generate, step_dir(tmp_path, "g", "x"), inputs, **SHORT, **small)
    assert given_all.results["sampler"] == "ddim, 4 steps, guidance 3, trailing"


def test_final_latents_are_kept_and_found_by_their_sample(given, tmp_path) -> None:
    folder, rows = work(tmp_path, given, keep_latents=True)
    kept = GeneratedLatents(folder)
    samples = read_samples(folder)
    assert kept.lacking(samples) == []
    family = load_family(str(given["model"].path)).channels_last()
    for sample in samples:
        latent = kept.read(generated_key(sample)).mean
        assert latent.shape == (4, 16, 16)
        with torch.no_grad():
            seen = (family.decode(latent.float()[None])[0] * 255).permute(1, 2, 0).numpy()
        # bf16 has 8 bits.
        assert np.abs(seen - pixels(folder / sample.file)).mean() < 1.5
    # A lost latent is made again, with the very same pictures.
    shards = sorted(p for p in kept.path.rglob("*") if p.is_file())
    before = {p.name: p.read_bytes() for p in folder.glob("*.png")}
    latents = [kept.read(generated_key(sample)).mean for sample in samples]
    for path in shards:
        path.unlink()
    again, _ = work(tmp_path, given, keep_latents=True)
    assert again == folder
    assert {p.name: p.read_bytes() for p in folder.glob("*.png")} == before
    found = GeneratedLatents(folder)
    assert sorted(p for p in found.path.rglob("*") if p.is_file()) == shards
    for sample, latent in zip(samples, latents, strict=True):
        assert torch.equal(found.read(generated_key(sample)).mean, latent)
    assert len(rows) == 2
