"""What makes a latent stale or damaged, how that is found, and that nothing else is done again."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tastemaker.engine.latent_encoder import LatentEncoder
from tastemaker.errors import CorruptFile, InputError, StaleCache, TastemakerError
from tastemaker.models.autoencoder import build_autoencoder
from tastemaker.models.family import load_family
from tastemaker.records.run import Artefact
from tastemaker.records.size import ImageSizes, Size
from tastemaker.stages import cache, fit
from tastemaker.store.latent_sets import LatentSet, write_latent_set
from tastemaker.store.latents import LatentCache, LatentEntry, LatentFormat, latent_key
from tastemaker.training.latent_source import check_latents
from tests.latents_made import ids_of
from tests.tiny_models import CONFIG, saved_sdxl, tiny_sdxl
from tests.tiny_run import collected, run_step, step_dir, write_pictures

FIT = {"images_total": 4, "batch": 4, "method": {"kind": "lora", "rank": 2}}


@pytest.fixture
def given(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artefact]:
    made = collected(tmp_path, write_pictures(tmp_path / "pictures", 6))
    made["model"] = Artefact("model", saved_sdxl(tmp_path_factory.getbasetemp()), "m")
    return made


def work(root: Path, given: dict[str, Artefact], key: str = "", **fields: object):
    fields = {"size_px": 32, **fields} if "buckets" not in fields else fields
    manifest, made = run_step(cache, step_dir(root, "cache", key), given, **fields)
    return manifest.counts, made["cache"]


def train(root: Path, given: dict[str, Artefact], made: Artefact, **fields: object):
    step = step_dir(root, "fit")
    return run_step(fit, step, {**given, "cache": made}, **{**FIT, **fields})[0]


def only_shard(root: Path) -> Path:
    (shard,) = (root / "cache" / "latents" / "shards").iterdir()
    return shard


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 0x10
    path.write_bytes(data)


# What makes a latent another one.


def test_an_edited_orientation_makes_one_new_latent(tmp_path, given):
    """EXIF is part of the file, and so of the picture's id."""
    picture = tmp_path / "pictures" / "02.png"
    work(tmp_path, given)
    with Image.open(picture) as image:
        exif = image.getexif()
        exif[0x0112] = 6
        pixels = np.asarray(image).copy()
        image.load()
        image.save(picture, exif=exif)
    with Image.open(picture) as image:
        assert np.array_equal(np.asarray(image), pixels)
    edited = {**given, **collected(tmp_path, tmp_path / "pictures", key="edited")}
    counts, made = work(tmp_path, edited, "edited")
    assert counts == {"encoded": 1, "already there": 5, "encoded: edited picture": 1}
    (new,) = set(ids_of(edited)) - set(ids_of(given))
    (old,) = set(ids_of(given)) - set(ids_of(edited))
    turned = LatentSet(Path(made.path)).read(new).mean
    straight = LatentCache(tmp_path / "cache" / "latents").read(old).mean
    assert not torch.equal(turned, straight)


def test_another_bucket_list_makes_new_latents_of_the_pictures_it_moves(tmp_path, given):
    folder = tmp_path / "pictures"
    for number, size in enumerate([(64, 32), (64, 32), (32, 64)]):
        Image.new("RGB", size, (9 * number, 0, 0)).save(folder / f"shape {number}.png")
        (folder / f"shape {number}.txt").write_text("the cat")
    given |= collected(tmp_path, folder, key="shapes")
    work(tmp_path, given, buckets={"sizes": ["32x32", "32x64"]})
    counts, _ = work(tmp_path, given, "more", buckets={"sizes": ["32x32", "32x64", "64x32"]})
    assert counts == {"encoded": 1, "already there": 8, "encoded: other bucket": 1}


def test_another_autoencoder_or_dtype_makes_all_latents_new(tmp_path, given):
    work(tmp_path, given)
    other = tiny_sdxl()
    other.vae = build_autoencoder(CONFIG["vae"], seed=5)
    other.save(tmp_path / "other")
    counts, made = work(
        tmp_path, {**given, "model": Artefact("model", tmp_path / "other", "o")}, "vae"
    )
    assert counts == {"encoded": 6, "already there": 0, "encoded: other autoencoder": 6}
    with pytest.raises(StaleCache, match="another autoencoder.*Run the cache step with the model"):
        train(tmp_path, given, made)
    counts, _ = work(tmp_path, given, "fp16", dtype="fp16")
    assert counts["encoded: other dtype"] == 6
    counts, _ = work(tmp_path, given, "both", dtype="fp32", size_px=64)
    assert counts["encoded: other bucket and other dtype"] == 6
    counts, _ = work(tmp_path, given, "packing", codec="none")
    assert counts == {"encoded": 0, "already there": 6}


def test_a_picture_that_was_edited_after_it_was_collected_is_left_out(tmp_path, given):
    """Its latent would go under the id of a picture that is no more."""
    (tmp_path / "pictures" / "03.png").write_bytes(
        (tmp_path / "pictures" / "04.png").read_bytes() + b"\0"
    )
    (tmp_path / "pictures" / "05.png").unlink()
    counts, made = work(tmp_path, given)
    assert counts["left out: changed since it was collected"] == 1
    assert counts["left out: no such file"] == 1
    assert counts["encoded"] == 4
    assert train(tmp_path, given, made).counts["pictures without a latent"] == 2


# Damage.


@pytest.mark.parametrize("codec", ["shuffle-zstd", "none"])
def test_a_flipped_byte_is_found_before_the_first_step_and_mended(tmp_path, given, codec):
    _, made = work(tmp_path, given, codec=codec, logvar=True)
    whole = {i: LatentSet(Path(made.path)).read(i).mean for i in ids_of(given)}
    size = only_shard(tmp_path).stat().st_size
    flip(only_shard(tmp_path), size * 2 // 3)
    with pytest.raises(CorruptFile, match=r"1 of 6 latents are damaged.*Delete this one file"):
        train(tmp_path, given, made)
    assert not (step_dir(tmp_path, "fit").path / "log").exists()
    # What the message says: the step's own file goes, and the step runs again.
    Path(made.path).unlink()
    counts, made = work(tmp_path, given, codec=codec, logvar=True)
    assert counts == {"encoded": 1, "already there": 5, "encoded: damaged latent": 1}
    mended = LatentSet(Path(made.path))
    for i, mean in whole.items():
        # A batch of one rounds a little differently.
        torch.testing.assert_close(mended.read(i).mean, mean)
    train(tmp_path, given, made)
    assert work(tmp_path, given, codec=codec, logvar=True)[0]["already there"] == 6


def test_a_truncated_shard_is_found_before_the_first_step_and_mended(tmp_path, given):
    _, made = work(tmp_path, given, shard_images=4)
    shard = max(
        (tmp_path / "cache" / "latents" / "shards").iterdir(), key=lambda f: f.stat().st_size
    )
    shard.write_bytes(shard.read_bytes()[:-10])
    with pytest.raises(CorruptFile, match=r"4 of 6 latents are damaged, first .*safetensors"):
        train(tmp_path, given, made)
    counts, made = work(tmp_path, given, shard_images=4)
    assert counts == {"encoded": 4, "already there": 2, "encoded: damaged latent": 4}
    train(tmp_path, given, made)


def test_a_lost_shard_and_a_lost_index_are_found_and_mended(tmp_path, given):
    _, made = work(tmp_path, given)
    only_shard(tmp_path).unlink()
    with pytest.raises(CorruptFile, match="6 of 6 latents are damaged"):
        train(tmp_path, given, made)
    _, made = work(tmp_path, given)
    shutil.rmtree(tmp_path / "cache" / "latents" / "index")
    with pytest.raises(CorruptFile, match="has no latent"):
        train(tmp_path, given, made)
    assert work(tmp_path, given)[0]["encoded"] == 6


def test_no_flipped_byte_of_an_index_gives_a_latent_other_sizes(tmp_path, given):
    """A wrong crop would be as bad as a wrong latent; the bytes are tried one by one."""
    _, made = work(tmp_path, given)
    (index,) = (tmp_path / "cache" / "latents" / "index").iterdir()
    data = index.read_bytes()
    right = {i: LatentSet(Path(made.path)).read(i) for i in ids_of(given)}
    found = 0
    for place in range(4, len(data), 23):
        index.write_bytes(data[:place] + bytes([data[place] ^ 0x01]) + data[place + 1 :])
        try:
            latents = LatentSet(Path(made.path))
            for i, latent in right.items():
                read = latents.read(i)
                assert read.sizes == latent.sizes
                assert torch.equal(read.mean, latent.mean)
        except CorruptFile:
            found += 1
    assert found > len(data) // 23 // 3
    index.write_bytes(data[: len(data) // 2])
    with pytest.raises(CorruptFile, match="not an index of latents.*Delete this one file"):
        train(tmp_path, given, made)
    counts, made = work(tmp_path, given)
    assert counts["encoded: damaged index or new picture"] == 6
    train(tmp_path, given, made)


def test_a_changed_set_is_noticed(tmp_path, given):
    _, made = work(tmp_path, given)
    path = Path(made.path)
    content = json.loads(path.read_text())
    first, second = list(content["keys"])[:2]
    content["keys"][first] = content["keys"][second]
    path.write_text(json.dumps(content))
    with pytest.raises(CorruptFile, match="does not match its checksum"):
        LatentSet(path)
    path.write_text("{}")
    with pytest.raises(CorruptFile, match="not a latent set"):
        LatentSet(path)


def test_the_check_can_be_left_out(tmp_path, given):
    _, made = work(tmp_path, given, codec="none")
    flip(only_shard(tmp_path), only_shard(tmp_path).stat().st_size - 2)
    train(tmp_path, given, made, check_latents=False)


# Defects of others, see the notes on peers.


def test_v7_a_latent_of_another_resolution_is_never_taken_for_the_buckets(tmp_path, given):
    """A 96x96 latent (768 px) must not serve the buckets 1024x1024 and 1152x896."""
    form = LatentFormat("vae")
    for bucket in (Size(1024, 1024), Size(1152, 896)):
        sizes = ImageSizes(Size(2000, 2000), 0, 0, bucket)
        entry = LatentEntry("a", latent_key("a", sizes, form), torch.zeros(4, 96, 96), sizes)
        with pytest.raises(InputError, match="latents of 96x96"):
            LatentCache(tmp_path / "other").write_shard(bucket, [entry], form)
    # A latent of 8 px a cell, where this model has 4: its sides fit together, its factor does not.
    sizes = ImageSizes(Size(64, 64), 0, 0, Size(64, 64))
    entry = LatentEntry("a", latent_key("a", sizes, form), torch.zeros(4, 8, 8), sizes)
    LatentCache(tmp_path / "latents").write_shard(Size(64, 64), [entry], form)
    write_latent_set(tmp_path / "set" / "latents.json", "../latents", {"a": [entry.key]})
    family = load_family(str(given["model"].path))
    with pytest.raises(StaleCache, match="latent of 8x8 for the bucket 64x64.*expected 16x16"):
        check_latents(LatentSet(tmp_path / "set"), ["a"], family, lambda: None)
    # Another resolution in the recipe: no old latent is found.
    work(tmp_path, given, size_px=64)
    counts, made = work(tmp_path, given, "smaller", size_px=32)
    assert counts == {"encoded": 6, "already there": 0, "encoded: other bucket": 6}
    assert {LatentSet(Path(made.path)).read(i).mean.shape for i in ids_of(given)} == {(4, 8, 8)}


def _not_finite(sick: int):
    """The autoencoder gives NaN for so many pictures of every batch."""
    encode = LatentEncoder.encode

    def encoded(self, crops, vae_hash):
        means, logvars = encode(self, crops, vae_hash)
        for mean in means[:sick]:
            mean[0, 0, 0] = float("nan")
        return means, logvars

    return encoded


def test_v9_nan_is_refused_and_never_replaced_by_zeros(tmp_path, given, monkeypatch):
    monkeypatch.setattr(LatentEncoder, "encode", _not_finite(1))
    counts, made = work(tmp_path, given)
    assert counts["left out: latent is not finite in bf16"] == 1
    assert counts["encoded"] == 5
    found = LatentSet(Path(made.path))
    (sick,) = set(ids_of(given)) - set(found.ids())
    assert sick not in LatentCache(tmp_path / "cache" / "latents").ids()
    event = next(e for e in step_dir(tmp_path, "cache").events() if e["kind"] == "left out")
    assert (event["count"], len(event["first"])) == (1, 1)
    assert train(tmp_path, given, made).counts["pictures without a latent"] == 1
    monkeypatch.undo()
    # A better autoencoder run encodes that one, and no other.
    assert work(tmp_path, given)[0] == {
        "encoded": 1, "already there": 5, "encoded: new picture": 1,
    }  # fmt: skip


def test_v9_an_autoencoder_that_overflows_stops_the_step(tmp_path, given, monkeypatch):
    given |= collected(tmp_path, write_pictures(tmp_path / "more", 12), key="more")
    monkeypatch.setattr(LatentEncoder, "encode", _not_finite(12))
    with pytest.raises(TastemakerError, match="12 of 12 latents are not finite.*set precisions"):
        work(tmp_path, given)
