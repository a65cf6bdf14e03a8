"""Latents of pairs: one bucket, one crop, mirrored together; kept ones; reading them to train."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tastemaker.engine.latent_encoder import LatentEncoder
from tastemaker.errors import CorruptFile, InputError, StaleCache
from tastemaker.models.autoencoder import weights_hash
from tastemaker.models.family import load_family
from tastemaker.records.pair import Pair, PairPicture
from tastemaker.records.run import Artefact, Visit
from tastemaker.records.size import Size
from tastemaker.stages import cache_pairs
from tastemaker.store.generated_latents import GeneratedLatents
from tastemaker.store.hashing import hash_file
from tastemaker.store.latent_sets import LatentSet
from tastemaker.store.pair_sets import PairSet, PairSetFacts, write_pair_set
from tastemaker.training.kept_latents import FIXED
from tastemaker.training.order import DataOrder
from tastemaker.training.pair_source import CachedPairs, PairsAhead, check_pairs
from tests.latents_made import place_of, position_picture, shrinks
from tests.pairs_made import sample
from tests.tiny_models import saved_sdxl
from tests.tiny_run import run_step, step_dir

SHAPES = {
    "tall": (96, 48), "wide": (48, 96), "square": (64, 64), "big": (128, 128), "small": (20, 20),
}  # fmt: skip
SIDES = [("tall", "wide"), ("square", "big"), ("big", "tall"), ("square", "square2")]
OWN = {"sizes": ["48x48", "64x32", "32x64"]}


@pytest.fixture
def given(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artefact]:
    shapes = {**SHAPES, "square2": (64, 64)}
    for number, (name, (h, w)) in enumerate(shapes.items()):
        position_picture(tmp_path / "pictures" / f"{name}.png", h, w, number)
    write_set(tmp_path / "set", tmp_path / "pictures", shapes, SIDES)
    model = Artefact("model", saved_sdxl(tmp_path_factory.getbasetemp()), "m")
    return {"pairs": Artefact("pairs", tmp_path / "set", "p"), "model": model}


def write_set(path: Path, folder: Path, shapes, sides, kept=None) -> None:
    pictures, ids = {}, {}
    for name, size in shapes.items():
        file = folder / f"{name}.png"
        ids[name] = hash_file(file)
        one = PairPicture(ids[name], str(file), Size(*size), name, *(kept or {}).get(name, ()))
        pictures[one.id] = one
    pairs = [
        Pair(f"{n}", f"prompt {n}", ids[w], ids[l], 0.5 if n == 3 else 1.0, 0.1 * n, "test",
             split="heldout" if n == 2 else "train")
        for n, (w, l) in enumerate(sides)  # noqa: E741
    ]  # fmt: skip
    write_pair_set(path, pairs, pictures, (), PairSetFacts("s", {}, {}))


def work(root: Path, given, key: str = "", **fields):
    manifest, made = run_step(cache_pairs, step_dir(root, "cache_pairs", key), given, **fields)
    return manifest, LatentSet(Path(made["pair_cache"].path))


def reader(given, found: LatentSet, seed: int = 0) -> CachedPairs:
    return CachedPairs(PairSet(given["pairs"].path), found, seed)


def test_both_sides_are_cropped_to_the_bucket_that_loses_least(tmp_path, given, monkeypatch):
    monkeypatch.setattr(LatentEncoder, "encode", shrinks)
    manifest, found = work(tmp_path, given, buckets=OWN, dtype="fp32")
    assert {i: str(size) for i, size in found.buckets().items()} == {
        "0": "48x48",  # of 96x48 and 48x96 the square leaves half; any other bucket less of one
        "1": "48x48",
        "2": "48x48",
        "3": "48x48",
    }
    assert manifest.results["kept_area"] == pytest.approx((0.5 + 1 + 0.5 + 1) / 4)
    tall = reader(given, found).read("0", FIXED)
    # Each with its own true size; the crop is where its sizes say; nothing is squashed.
    assert tall.winner_sizes.time_ids() == (96, 48, 24, 0, 48, 48)
    assert tall.loser_sizes.time_ids() == (48, 96, 0, 24, 48, 48)
    assert place_of(tall.winner) == (24, 0)
    assert place_of(tall.loser) == (0, 24)
    assert tall.winner.shape == tall.loser.shape == (4, 12, 12)
    # A cell is 4 pixels in both directions: rows and columns were scaled alike.
    steps = [side.diff(dim=d)[c].unique() for side in (tall.winner, tall.loser)
             for c, d in ((0, 1), (1, 2))]  # fmt: skip
    assert all(step.tolist() == [4.0] for step in steps)
    assert [reader(given, found).read(i, 0).label for i in "0123"] == [1.0, 1.0, 1.0, 0.5]


def test_crops_are_drawn_by_the_pair_and_shared_by_its_sides(tmp_path, given, monkeypatch):
    monkeypatch.setattr(LatentEncoder, "encode", shrinks)
    fields = {"buckets": {"sizes": ["32x64"]}, "dtype": "fp32", "crop": "random", "crops": 4}
    _, found = work(tmp_path, given, **fields)
    pairs = reader(given, found)
    seen = set()
    for visit in range(40):
        sides = pairs.read("1", visit)
        # 64x64 and 128x128 have the same spare rows in a bucket of 32x64.
        assert sides.winner_sizes.crop_top == sides.loser_sizes.crop_top
        assert place_of(sides.winner)[0] == sides.winner_sizes.crop_top
        seen.add(sides.winner_sizes.crop_top)
    assert len(seen) == found.variants("1") // 2 > 2
    assert pairs.read("1", 5) is not None
    same = [pairs.read("3", visit) for visit in range(20)]
    assert all(torch.equal(s.winner[:2], s.loser[:2]) for s in same)
    assert {s.winner_sizes for s in same} == {s.loser_sizes for s in same}


def test_mirrored_together_or_not_at_all(tmp_path, given, monkeypatch):
    monkeypatch.setattr(LatentEncoder, "encode", shrinks)
    _, found = work(tmp_path, given, size_px=32, dtype="fp32", mirror=True)
    pairs = reader(given, found)
    mirrored = []
    for visit in range(200):
        sides = pairs.read("1", visit)
        left_to_right = [bool(s[1, 0, -1] > s[1, 0, 0]) for s in (sides.winner, sides.loser)]
        assert left_to_right[0] == left_to_right[1]
        mirrored.append(not left_to_right[0])
    # 4 standard errors of a half among 200.
    assert abs(np.mean(mirrored) - 0.5) < 4 * 0.5 / 200**0.5
    first = pairs.read("1", FIXED)
    assert first.winner[1, 0, -1] > first.winner[1, 0, 0]


def test_posterior_samples_share_their_draw(tmp_path, given):
    _, found = work(tmp_path, given, size_px=32, dtype="fp32", logvar=True)
    pairs, means = reader(given, found), reader(given, found).read("1", FIXED)
    rows = [found.read("1", n) for n in (0, 1)]
    sides = pairs.read("1", 7)
    drawn = [
        (side - mean) / torch.exp(row.logvar / 2)
        for side, mean, row in zip(
            (sides.winner, sides.loser), (means.winner, means.loser), rows, strict=True
        )
    ]
    torch.testing.assert_close(drawn[0], drawn[1], rtol=1e-3, atol=1e-3)
    assert abs(drawn[0].std() - 1) < 0.2
    assert not torch.equal(sides.winner, pairs.read("1", 8).winner)
    assert torch.equal(sides.winner, reader(given, found).read("1", 7).winner)


def test_the_second_time_nothing_is_encoded(tmp_path, given):
    manifest, found = work(tmp_path, given, size_px=32)
    assert (manifest.counts["encoded"], manifest.counts["pairs"]) == (5, 4)
    again, same = work(tmp_path, given, "again", size_px=32)
    assert (again.counts["encoded"], again.counts["already there"]) == (0, 5)
    assert same.keys() == found.keys()
    # One picture in two pairs is one latent; a lost byte costs one latent.
    (shard,) = (tmp_path / "cache_pairs" / "latents" / "shards").iterdir()
    data = bytearray(shard.read_bytes())
    data[-5] ^= 255
    shard.write_bytes(bytes(data))
    mended, _ = work(tmp_path, given, "mended", size_px=32)
    assert 0 < mended.counts["encoded"] < 5


def test_pairs_that_cannot_be_encoded_are_left_out_with_their_reason(tmp_path, given):
    shapes = {**SHAPES, "square2": (64, 64)}
    write_set(tmp_path / "set2", tmp_path / "pictures", shapes, [*SIDES, ("small", "big")])
    given = {**given, "pairs": Artefact("pairs", tmp_path / "set2", "p2")}
    (tmp_path / "pictures" / "wide.png").unlink()
    (tmp_path / "pictures" / "square2.png").write_bytes(b"")
    manifest, found = work(tmp_path, given, buckets=OWN)
    assert dict(found.left_out) == {
        "0": "loser: no such file",
        "3": "loser: changed since it was collected",
        "4": "smaller than every bucket",
    }
    assert manifest.counts["left out: smaller than every bucket"] == 1
    assert reader(given, found).ids() == ("1", "2")
    with pytest.raises(InputError, match="1 pairs smaller than every bucket.*20x20"):
        work(tmp_path, given, "stop", buckets={**OWN, "too_small": "error"})
    with pytest.raises(InputError, match="no pair with latents"):
        work(tmp_path, given, "none", buckets={"sizes": ["512x512"]})
    with pytest.raises(InputError, match="30x30.*multiples of 4"):
        work(tmp_path, given, "odd", buckets={"sizes": ["30x30"]})
    told = cache_pairs.preview(cache_pairs.Config(pairs="p", model="m", buckets=OWN), given)
    assert told == ["5 pairs in 1 buckets", "4 pairs at 48x48", "1 pairs smaller than every bucket"]


def test_a_changed_picture_is_left_out(tmp_path, given):
    position_picture(tmp_path / "pictures" / "wide.png", 48, 96, 200)
    _, found = work(tmp_path, given, size_px=32)
    assert found.left_out["0"].startswith("loser: changed since it was collected")


def test_kept_latents_are_taken_over_without_the_autoencoder(tmp_path, given):
    family = load_family(str(given["model"].path))
    names = ["square", "square2", "big"]
    samples = {name: sample(f"a {name}") for name in names}
    latents = {
        name: torch.randn(1, 4, SHAPES.get(name, (64, 64))[0] // 4, 16 if name != "big" else 32,
                          generator=torch.Generator().manual_seed(n))
        for n, name in enumerate(names)
    }  # fmt: skip
    kept = GeneratedLatents(tmp_path / "samples")
    for name, one in samples.items():
        maker = weights_hash(family.parts["vae"]) if name != "big" else "another"
        side = 128 if name == "big" else 64
        kept.keep([one], latents[name], Size(side, side), maker, "fp32")
    from tastemaker.store.generated_latents import generated_key

    places = {n: (str(tmp_path / "samples"), generated_key(s)) for n, s in samples.items()}
    shapes = {**SHAPES, "square2": (64, 64)}
    write_set(tmp_path / "set3", tmp_path / "pictures", shapes, SIDES, places)
    given = {**given, "pairs": Artefact("pairs", tmp_path / "set3", "p3")}
    manifest, found = work(tmp_path, given, size_px=64)
    assert manifest.counts["generated latents taken over"] == 2
    assert manifest.counts["generated latents that cannot be used"] == 1
    sides = reader(given, found).read("3", 0)
    # Bit for bit what the sampler ended with, whatever the other latents are stored in.
    assert torch.equal(sides.winner, latents["square"][0])
    assert torch.equal(sides.loser, latents["square2"][0])
    assert check_pairs(PairSet(given["pairs"].path), found, family, lambda: None) == {}
    again, _ = work(tmp_path, given, "again", size_px=64)
    assert again.counts["already there"] == manifest.results["latents"] == 5
    # In another bucket the picture itself is encoded.
    smaller, _ = work(tmp_path, given, "small", size_px=32)
    assert smaller.counts["generated latents taken over"] == 0
    encoded, other = work(tmp_path, given, "not", size_px=64, reuse_generated=False)
    assert encoded.results["generated"] == 0
    assert not torch.equal(reader(given, other).read("3", 0).winner, sides.winner)


def test_reading_ahead_gives_the_same_and_buckets_make_batches(tmp_path, given):
    _, found = work(tmp_path, given, buckets=OWN, crop="random", crops=3)
    pairs = reader(given, found)
    assert pairs.ids("train") == ("0", "1", "3")
    assert pairs.ids("heldout") == ("2",)
    assert pairs.prompts(["2"]) == {"2": "prompt 2"}
    order = DataOrder(pairs.buckets(pairs.ids("train")), batch=2, seed=0)
    visits = [visit for k in range(6) for visit in order.step(k)]
    with PairsAhead(pairs, most=4) as ahead:
        ahead.expect(visits)
        for visit in visits:
            got, plain = (
                one.read(visit.sample_id, visit.visit) for one in (ahead, reader(given, found))
            )
            assert torch.equal(got.winner, plain.winner)
            assert torch.equal(got.loser, plain.loser)
            assert got.winner_sizes == plain.winner_sizes
            got.check(visit.sample_id)
        ahead.expect([Visit("gone", 0)])
        with pytest.raises(StaleCache, match="no latents of pair gone"):
            ahead.read("gone", 0)


def test_latents_of_other_pairs_or_another_autoencoder_are_refused(tmp_path, given):
    _, found = work(tmp_path, given, size_px=32)
    family, pairs = load_family(str(given["model"].path)), PairSet(given["pairs"].path)
    read = []
    assert check_pairs(pairs, found, family, lambda: read.append(1)) == {}
    assert len(read) == 5
    shapes = {**SHAPES, "square2": (64, 64)}
    write_set(tmp_path / "other", tmp_path / "pictures", shapes, SIDES[:2])
    with pytest.raises(StaleCache, match="latents of the pairs"):
        check_pairs(PairSet(tmp_path / "other"), found, family, None)
    with torch.no_grad():
        next(family.parts["vae"].parameters()).add_(1)
    with pytest.raises(StaleCache, match="another autoencoder"):
        check_pairs(pairs, found, family, None)
    (shard,) = (tmp_path / "cache_pairs" / "latents" / "shards").iterdir()
    shard.write_bytes(shard.read_bytes()[:-40])
    with pytest.raises(CorruptFile):
        check_pairs(pairs, found, load_family(str(given["model"].path)), lambda: None)
