"""The cache step's buckets, crops, formats: which latent each picture gets, and which gets none."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from tastemaker.curation.buckets import SDXL_BUCKETS
from tastemaker.engine.latent_encoder import LatentEncoder
from tastemaker.engine.latent_plan import Buckets, LatentSettings, choose_buckets
from tastemaker.errors import InputError, StaleCache
from tastemaker.models.family import load_family
from tastemaker.records.run import Artefact
from tastemaker.records.size import Size
from tastemaker.stages import cache
from tastemaker.store.latent_sets import LatentSet
from tests.latents_made import ids_of, place_of, position_picture, shrinks
from tests.tiny_models import saved_sdxl
from tests.tiny_run import collected, run_step, step_dir, write_picture

SHAPES = {"wide": (32, 64), "tall": (64, 32), "square": (48, 48), "small": (16, 16)}


@pytest.fixture
def given(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artefact]:
    for number, (name, (h, w)) in enumerate(SHAPES.items()):
        position_picture(tmp_path / "pictures" / f"{name}.png", h, w, number)
    made = collected(tmp_path, tmp_path / "pictures")
    made["model"] = Artefact("model", saved_sdxl(tmp_path_factory.getbasetemp()), "m")
    return made


def work(root: Path, given: dict[str, Artefact], key: str = "", **fields: object):
    manifest, made = run_step(cache, step_dir(root, "cache", key), given, **fields)
    return manifest, LatentSet(Path(made["cache"].path))


def names(found: LatentSet) -> dict[str, str]:
    return {Path(found.row(i).source.rpartition(":")[2]).stem: i for i in found.ids()}


OWN = {"sizes": ["32x64", "64x32", "32x32"]}


def test_pictures_go_to_their_buckets_and_small_ones_are_counted(tmp_path, given):
    manifest, found = work(tmp_path, given, buckets=OWN)
    by_name = names(found)
    assert {name: str(found.buckets()[i]) for name, i in by_name.items()} == {
        "wide": "32x64", "tall": "64x32", "square": "32x32",
    }  # fmt: skip
    assert manifest.counts == {
        "encoded": 3,
        "already there": 0,
        "encoded: new picture": 3,
        "left out: smaller than every bucket": 1,
    }
    assert manifest.results["buckets"] == {"32x64": 1, "32x32": 1, "64x32": 1}
    for i in found.ids():
        bucket = found.buckets()[i]
        assert found.read(i).mean.shape == (4, bucket.h // 4, bucket.w // 4)
    small = next(i for i in ids_of(given) if i not in found.ids())
    with pytest.raises(StaleCache, match="left out: smaller than every bucket"):
        found.read(small)
    event = next(e for e in step_dir(tmp_path, "cache").events() if e["kind"] == "left out")
    assert event["count"] == 1
    assert event["first"][0].endswith("small.png")


def test_nearest_enlarges_and_error_stops(tmp_path, given):
    _, found = work(tmp_path, given, buckets={**OWN, "assignment": "nearest"})
    assert len(found.ids()) == 4
    with pytest.raises(InputError, match=r"1 pictures that are smaller.*small\.png \(16x16\)"):
        work(tmp_path, given, "error", buckets={**OWN, "too_small": "error"})
    with pytest.raises(InputError, match=r"no picture with a latent \(smaller than every bucket\)"):
        work(tmp_path, given, "none", buckets={"sizes": ["1024x1024"]})
    with pytest.raises(InputError, match="30x30.*multiples of 4"):
        work(tmp_path, given, "odd", buckets={"sizes": ["30x30"]})
    _, upscaled = work(tmp_path, given, "twice", buckets={**OWN, "most_upscale": 2})
    assert len(upscaled.ids()) == 4


def test_sdxls_list_and_scaled_ones():
    assert Buckets().all() == SDXL_BUCKETS
    assert len(Buckets().all()) == 41
    assert max(Buckets(side_px=512).all()) == Size(1024, 256)
    assert Buckets(sizes=("64x96",)).all() == (Size(64, 96),)
    sizes = {"cover": Size(1536, 2048), "small": Size(700, 700), "unknown": Size(0, 0)}
    chosen = choose_buckets(sizes, LatentSettings(buckets=Buckets()))
    assert chosen == {"cover": Size(896, 1152), "small": None, "unknown": None}
    assert choose_buckets({"a": Size(9, 20)}, LatentSettings()) == {"a": Size(64, 64)}


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"size_px": 64, "buckets": {}}, "one of the two"),
        ({"crops": 2}, "needs crop random"),
        ({"precisions": []}, "at least one"),
        ({"buckets": {"sizes": ["64"]}}, "expected sizes like 1152x896"),
        ({"buckets": {"sizes": []}}, "expected sizes like 1152x896"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(fields, problem):
    with pytest.raises(ValidationError, match=problem):
        LatentSettings(**fields)


def test_random_crops_lie_where_their_sizes_say_and_equal_ones_are_one(
    tmp_path, given, monkeypatch
):
    monkeypatch.setattr(LatentEncoder, "encode", shrinks)
    fields = {"buckets": {"sizes": ["32x32"]}, "crop": "random", "dtype": "fp32"}
    manifest, found = work(tmp_path, given, **fields, crops=5)
    by_name = names(found)
    # 48x48 is shrunk to 32x32: there is one crop only, and one latent.
    assert found.variants(by_name["square"]) == 1
    for name, axis in (("tall", 0), ("wide", 1)):
        assert found.variants(by_name[name]) > 2
        places = []
        for variant in range(found.variants(by_name[name])):
            latent = found.read(by_name[name], variant)
            assert place_of(latent.mean) == (latent.sizes.crop_top, latent.sizes.crop_left)
            assert latent.sizes.original == Size(*SHAPES[name])
            places.append(place_of(latent.mean))
        assert len(set(places)) == len(places)
        assert {place[1 - axis] for place in places} == {0}
    counts = Counter(
        len({found.row(i, v).key for v in range(found.variants(i))}) for i in found.ids()
    )
    assert manifest.counts["encoded"] == sum(k * n for k, n in counts.items())
    # The same seed gives the same crops; more of them cost the new ones only.
    again, more = work(tmp_path, given, "more", **fields, crops=7)
    assert again.counts["already there"] == manifest.counts["encoded"]
    assert set(again.counts) - {"encoded", "already there"} == {
        "encoded: other crop",
        "left out: smaller than every bucket",
    }
    assert set(found.keys()) < set(more.keys())
    _, other = work(tmp_path, given, "seed", **fields, crops=5, seed=1)
    assert set(other.keys()) != set(found.keys())


def test_crops_are_uniform(tmp_path, given, monkeypatch):
    from tastemaker.engine.latent_plan import plan_latents
    from tastemaker.store.pictures import SelectedPictures

    ids = tuple(f"{n:064x}" for n in range(2000))
    sizes = dict.fromkeys(ids, Size(64, 132))
    pictures = SelectedPictures(ids, {}, sizes, dict.fromkeys(ids, ""))
    settings = LatentSettings(size_px=64, crop="random")
    plan, _ = plan_latents(pictures, settings, {"fp32": "v"}, range(1))
    lefts = np.array([own[0].sizes.crop_left for own in plan.values()])
    assert set(lefts) <= set(range(69))
    # 3 standard errors of the mean of a uniform draw.
    assert abs(lefts.mean() - 34) < 3 * 68 / np.sqrt(12 * 2000)
    assert abs((lefts < 17).mean() - 0.25) < 3 * np.sqrt(0.25 * 0.75 / 2000)


def test_mean_and_logvar_are_the_autoencoders(tmp_path, given):
    fields = {"size_px": 32, "dtype": "fp32", "logvar": True}
    _, found = work(tmp_path, given, **fields)
    family = load_family(str(given["model"].path))
    for i in ids_of(given):
        pixels = np.asarray(Image.open(_file(given, i)).convert("RGB"))
        if pixels.shape != (16, 16, 3):
            continue
        large = Image.fromarray(pixels).resize((32, 32), Image.Resampling.LANCZOS)
        batch = torch.from_numpy(np.asarray(large).copy()).permute(2, 0, 1)[None]
        with torch.no_grad():
            mean, logvar = family.encode_image(batch)
        latent = found.read(i)
        assert latent.logvar is not None
        torch.testing.assert_close(latent.mean, mean[0])
        torch.testing.assert_close(latent.logvar, logvar[0])
    again, _ = work(tmp_path, given, "mean", **{**fields, "logvar": False})
    assert again.counts["encoded: log-variance"] == 4


def _file(given, picture_id):
    from tastemaker.store.pictures import open_pictures

    places = Path(given["collection"].path), Path(given["selection"].path)
    return open_pictures(*places).files[picture_id]


def test_mixed_precisions_are_drawn_for_each_picture(tmp_path, given):
    mixed = ("fp32", "bf16", "fp16-weights")
    for number in range(8):
        write_picture(tmp_path / "pictures" / f"more {number}.png", number)
    given |= collected(tmp_path, tmp_path / "pictures", key="more")
    fields = {"size_px": 32, "dtype": "fp32"}
    manifest, found = work(tmp_path, given, **fields, precisions=mixed)
    used = {i: found.row(i).format.vae_hash for i in found.ids()}
    assert len(set(used.values())) == 3
    alone = {}
    for precision in mixed:
        _, one = work(tmp_path, given, precision, **fields, precisions=[precision])
        alone |= {one.row(i).format.vae_hash: one for i in one.ids()}
    for i, vae_hash in used.items():
        assert torch.equal(found.read(i).mean, alone[vae_hash].read(i).mean)
    values = [one.read(found.ids()[0]).mean for one in alone.values()]
    assert not torch.equal(values[0], values[1])
    assert (values[0] - values[1]).abs().max() < 0.1
    again, _ = work(tmp_path, given, "again", **fields, precisions=mixed)
    assert again.counts == {"encoded": 0, "already there": manifest.counts["encoded"]}


def test_u12_is_closer_than_bf16_and_within_half_a_step(tmp_path, given):
    exact = work(tmp_path, given, "fp32", size_px=32, dtype="fp32", logvar=True)[1]
    errors = {}
    for dtype in ("bf16", "u12"):
        found = work(tmp_path, given, dtype, size_px=32, dtype=dtype, logvar=True)[1]
        pairs = [(found.read(i), exact.read(i)) for i in found.ids()]
        assert all(a.logvar is not None and b.logvar is not None for a, b in pairs)
        errors[dtype] = max(
            (getattr(a, part).float() - getattr(b, part)).abs().max().item()
            for a, b in pairs
            for part in ("mean", "logvar")
        )
    assert errors["u12"] <= 0.5 / 256 + 1e-6
    assert errors["u12"] < errors["bf16"]


def test_no_batch_nor_thread_changes_a_latent(tmp_path, given):
    fields = {"size_px": 32, "dtype": "fp32"}
    one = work(tmp_path / "a", given, **fields, batch=1, loaders=1)[1]
    many = work(tmp_path / "b", given, **fields, batch=4, loaders=3, shard_images=3)[1]
    for i in one.ids():
        torch.testing.assert_close(one.read(i).mean, many.read(i).mean, rtol=1e-5, atol=1e-5)
        assert one.read(i).sizes == many.read(i).sizes


def test_a_batch_that_does_not_fit_the_memory_is_halved(tmp_path, given, monkeypatch):
    from tastemaker.models import autoencoder

    posterior, sizes = autoencoder.posterior, []

    def small(vae, pixels):
        sizes.append(len(pixels))
        if len(pixels) > 1:
            raise torch.OutOfMemoryError("too small")
        return posterior(vae, pixels)

    monkeypatch.setattr(autoencoder, "posterior", small)
    manifest, _ = work(tmp_path, given, size_px=32)
    assert manifest.counts["encoded"] == 4
    assert sizes == [4, 2, 1, 1, 2, 1, 1]
