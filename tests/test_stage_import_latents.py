"""The step that takes over latents of other programs, and a fit on them."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tastemaker.errors import InputError
from tastemaker.models.autoencoder import build_autoencoder
from tastemaker.models.latent_scale import read_latent_scale
from tastemaker.records.run import Artefact, Manifest
from tastemaker.records.size import ImageSizes, Size
from tastemaker.stages import fit, import_latents
from tastemaker.store.bigasp_latents import BigaspLatent, write_bigasp
from tastemaker.store.catalogue import Catalogue
from tastemaker.store.latent_sets import LatentSet
from tests.kohya_files import numbers, write_kohya
from tests.tiny_models import CONFIG, tiny_sdxl
from tests.tiny_run import Artefacts, collected, run_step, step_dir, write_pictures

SIDE = Size(32, 32)
FACTOR = 0.13025
VAE = {
    **CONFIG["vae"],
    "block_out_channels": [8, 8, 8, 16],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "scaling_factor": FACTOR,
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SDXL whose latents have cells of 8 pixels and SDXL's factor."""
    family = tiny_sdxl()
    family.vae = build_autoencoder(VAE)
    folder = tmp_path_factory.mktemp("model") / "m"
    family.save(folder)
    return folder


def work(root: Path, given: Artefacts, key: str = "", **fields: Any) -> tuple[Manifest, LatentSet]:
    manifest, made = run_step(import_latents, step_dir(root, "import", key), given, **fields)
    return manifest, LatentSet(Path(made["cache"].path))


def with_latents(root: Path, model: Path, count: int = 5) -> tuple[dict[str, Artefact], dict]:
    """Pictures with their files beside them; id -> numbers."""
    folder = write_pictures(root / "pictures", count)
    made = {}
    for number in range(count):
        picture = folder / f"{number:02}.png"
        made[picture.name] = numbers(8, 8 + 4 * (number % 2), seed=number)
        write_kohya(picture, made[picture.name], SIDE)
    given = {**collected(root, folder), "model": Artefact("model", model, "m")}
    ids = {record.key: record.id for record in Catalogue(given["collection"].path).records()}
    return given, {ids[name]: latent for name, latent in made.items()}


def test_kohyas_latents_are_scaled_and_carry_their_sizes(tmp_path, model):
    given, made = with_latents(tmp_path, model)
    manifest, found = work(tmp_path, given, dtype="fp32")
    assert manifest.counts == {"imported": 5, "already there": 0}
    assert manifest.results == {
        "origins": {"kohya:sdxl": 5},
        "buckets": {"64x64": 3, "64x96": 2},
    }
    assert set(found.ids()) == set(made)
    for picture_id, latent in made.items():
        one, row = found.read(picture_id), found.row(picture_id)
        expected = (latent.astype(np.float64) * np.float32(FACTOR)).astype(np.float32)
        assert torch.equal(one.mean, torch.from_numpy(expected))
        assert one.logvar is None
        width = 8 * latent.shape[2]
        top = 16 if width == 96 else 0  # scaled to 96 x 96, cut at the centre
        assert one.sizes == ImageSizes(SIDE, top, 0, Size(64, width))
        assert row.format.vae_hash == "kohya:sdxl"
    assert found.verify() == 5


def test_the_second_run_does_nothing_and_a_changed_file_is_read_again(tmp_path, model):
    given, made = with_latents(tmp_path, model)
    work(tmp_path, given)
    manifest, _ = work(tmp_path, given, key="again")
    assert manifest.counts == {"imported": 0, "already there": 5}
    write_kohya(tmp_path / "pictures" / "02.png", numbers(8, 8, seed=99), SIDE)
    manifest, found = work(tmp_path, given, key="changed", dtype="fp16")
    assert manifest.counts == {"imported": 1, "already there": 4}
    name = {r.key: r.id for r in Catalogue(given["collection"].path).records()}["02.png"]
    expected = torch.from_numpy(numbers(8, 8, seed=99)) * FACTOR
    torch.testing.assert_close(found.read(name).mean.float(), expected, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(found.read(name).mean.float(), torch.from_numpy(made[name]) * FACTOR)


def test_what_cannot_be_used_is_left_out_and_said(tmp_path, model):
    given, _ = with_latents(tmp_path, model, 8)
    folder = tmp_path / "pictures"
    spoiled = numbers(8, 8)
    spoiled[0, 0, 0] = np.nan
    write_kohya(folder / "00.png", spoiled, SIDE)
    file = folder / "01_0032x0032_sdxl.npz"
    file.write_bytes(file.read_bytes()[:300])
    (folder / "02_0032x0032_sdxl.npz").unlink()
    write_kohya(folder / "03.png", numbers(8, 8, channels=16), SIDE)
    (folder / "04_0032x0032_sdxl.npz").unlink()
    write_kohya(folder / "04.png", numbers(8, 8), SIDE, "sd")
    os.utime(folder / "05_0032x0032_sdxl.npz", (1, 1))
    manifest, found = work(tmp_path, given)
    assert manifest.counts == {
        "imported": 2,
        "already there": 0,
        "left out: no finite values": 1,
        "left out: no latent beside the picture": 1,
        "left out: of another model": 2,
        "left out: older than the picture": 1,
        "left out: truncated or damaged": 1,
    }
    assert len(found.ids()) == 2
    assert len(found.left_out) == 6
    events = [e for e in step_dir(tmp_path, "import").events() if e["kind"] == "left out"]
    assert {event["picture"]: event["reason"] for event in events} == found.left_out
    manifest, _ = work(tmp_path, given, key="older", allow_older=True)
    assert len(manifest.counts) == 6
    assert "left out: older than the picture" not in manifest.counts


def test_nothing_to_import_says_where_latents_are_looked_for(tmp_path, model):
    folder = write_pictures(tmp_path / "pictures", 2)
    given = {**collected(tmp_path, folder), "model": Artefact("model", model, "m")}
    with pytest.raises(InputError, match=r"2 left out: no latent beside.*NAME_WWWWxHHHH_sdxl.npz"):
        work(tmp_path, given)


def test_only_some_sizes(tmp_path, model):
    given, _ = with_latents(tmp_path, model)
    manifest, _ = work(tmp_path, given, sizes=("64x96",))
    assert manifest.results["buckets"] == {"64x96": 2}
    assert manifest.counts["left out: of another bucket"] == 3
    with pytest.raises(InputError, match="HxW in pixels"):
        work(tmp_path, given, key="bad", sizes=("64",))


def test_shards_are_written_when_they_are_full(tmp_path, model):
    given, made = with_latents(tmp_path, model)
    _, found = work(tmp_path, given, shard_images=2)
    assert len(list((tmp_path / "import" / "latents" / "shards").iterdir())) == 3
    assert found.verify() == len(made)


def test_bigasps_latents_come_out_with_the_same_bits(tmp_path, model):
    """They are multiplied by SDXL's factor already."""
    made = {}
    for number in range(3):
        values = np.random.default_rng(number).standard_normal((4, 8, 8)).astype(np.float16)
        one = BigaspLatent(2, f"{number:032x}", Size(70, 200), 0, 5, Size(8, 8), values)
        made[write_bigasp(tmp_path / "vaes", one)] = values
    given = collected(tmp_path, tmp_path / "vaes")
    given["model"] = Artefact("model", model, "m")
    manifest, found = work(tmp_path, given)
    assert manifest.results["origins"] == {"bigasp-v2": 3}
    for record in Catalogue(given["collection"].path).records():
        one = found.read(record.id)
        assert one.mean.dtype == torch.float16
        assert np.array_equal(one.mean.numpy(), made[Path(record.path)])
        assert one.sizes == ImageSizes(Size(70, 200), 0, 5, Size(64, 64))


def test_a_model_with_other_cells_is_refused(tmp_path, model):
    given, _ = with_latents(tmp_path, model, 2)
    tiny_sdxl().save(tmp_path / "tiny")
    with pytest.raises(InputError, match=r"4 pixels for each latent cell.*Use the cache step"):
        work(tmp_path, {**given, "model": Artefact("model", tmp_path / "tiny", "t")})


def test_a_fit_trains_on_imported_latents(tmp_path, model):
    given, _ = with_latents(tmp_path, model)
    _, made = run_step(import_latents, step_dir(tmp_path, "import"), given)
    fields = {"images_total": 4, "batch": 2, "stable_images": 0, "optimizer": {"lr": 1e-3}}
    manifest, _ = run_step(fit, step_dir(tmp_path, "fit"), {**given, **made}, **fields)
    assert manifest.counts["pictures trained on"] == 5


def test_the_scale_is_the_models(tmp_path, model):
    scale = read_latent_scale(model)
    assert (scale.family, scale.channels, scale.cell) == ("sdxl", 4, 8)
    path = model / "vae" / "config.json"
    config = json.loads(path.read_text())
    other = tmp_path / "m"
    (other / "vae").mkdir(parents=True)
    (other / "model_index.json").write_text((model / "model_index.json").read_text())
    config |= {"latents_mean": [1.0, 2, 3, 4], "latents_std": [2.0, 2, 4, 4], "scaling_factor": 0.5}
    (other / "vae" / "config.json").write_text(json.dumps(config))
    found = read_latent_scale(other)(torch.full((4, 1, 1), 9.0), 3.0)
    assert found.flatten().tolist() == [0.5, 0.25, 0.0, -0.125]
    (other / "vae" / "config.json").write_text("{")
    with pytest.raises(InputError, match="an autoencoder's config"):
        read_latent_scale(other)
