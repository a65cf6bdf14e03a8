"""Pair sets on disk: read as written, by row and by id, refused when changed; kept latents."""

from pathlib import Path

import pytest
import torch

from tastemaker.errors import CorruptFile, InputError, TastemakerError
from tastemaker.records.pair import DroppedComparison, Pair, PairPicture
from tastemaker.records.size import Size
from tastemaker.store.generated_latents import GeneratedLatents, generated_key
from tastemaker.store.pair_sets import PairSet, PairSetFacts, write_pair_set
from tests.pairs_made import sample

A, B = "a" * 64, "b" * 64
FACTS = PairSetFacts("mine", {"scorer": "taste", "rules": {"ties": "half"}}, {"pairs": 2})
PICTURES = {
    A: PairPicture(A, "x/a.png", Size(32, 64), "folder:a", "runs/samples", "key"),
    B: PairPicture(B, "x/b.png", Size(64, 32)),
    "unused": PairPicture("unused", "", Size(1, 1)),
}
PAIRS = (
    Pair("1", "a cat\n\u00e9", A, B, 1.0, 0.25, "test", (("winner_model", "m"),), "heldout"),
    Pair("2", "a dog", B, A, 0.5, None, "test"),
)
DROPPED = (DroppedComparison("k", "test", "tie", "0", "half", A, B),)


def write(path: Path, pairs=PAIRS, pictures=PICTURES) -> str:
    return write_pair_set(path / "pairs", pairs, pictures, DROPPED, FACTS)


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    digest = write(tmp_path)
    found = PairSet(tmp_path / "pairs")
    assert tuple(found.pairs()) == PAIRS
    assert (found.pair("2"), len(found), found.hash) == (PAIRS[1], 2, digest)
    assert (found.ids(), found.ids("train"), found.ids("heldout")) == (("1", "2"), ("2",), ("1",))
    assert tuple(found.pairs("heldout")) == PAIRS[:1]
    assert found.pictures() == {A: PICTURES[A], B: PICTURES[B]}
    assert (tuple(found.dropped()), found.facts) == (DROPPED, FACTS)
    with pytest.raises(InputError, match="no pair 3; expected one of its 2 pairs"):
        found.pair("3")


def test_the_same_set_gives_the_same_bytes_and_another_one_another_hash(tmp_path: Path) -> None:
    first, second = write(tmp_path / "one"), write(tmp_path / "two")
    assert first == second
    for name in ("pairs.parquet", "pictures.parquet", "dropped.parquet", "pairs.json"):
        assert (tmp_path / "one/pairs" / name).read_bytes() == (
            tmp_path / "two/pairs" / name
        ).read_bytes()
    # Where the pictures lie is no part of what is learned.
    moved = {i: PairPicture(i, "elsewhere", p.size) for i, p in PICTURES.items()}
    assert write(tmp_path / "moved", pictures=moved) == first
    turned = (PAIRS[0], Pair("2", "a dog", A, B, 0.5, None, "test"))
    assert write(tmp_path / "turned", turned) != first


@pytest.mark.parametrize("name", ["pairs.parquet", "pictures.parquet", "dropped.parquet"])
def test_a_changed_or_lost_file_is_told(tmp_path: Path, name: str) -> None:
    write(tmp_path)
    file = tmp_path / "pairs" / name
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(CorruptFile, match=f"{name}: gone, or changed"):
        PairSet(tmp_path / "pairs")
    file.unlink()
    with pytest.raises(CorruptFile, match="run the pairs step again"):
        PairSet(tmp_path / "pairs")


def test_what_is_no_pair_set(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no pairs.json; expected a pair set"):
        PairSet(tmp_path / "nowhere")
    for content in ("{", "[]", "{}", '{"hash": 1}'):
        (tmp_path / "pairs.json").write_text(content)
        with pytest.raises(CorruptFile, match="not a pair set"):
            PairSet(tmp_path)
    with pytest.raises(InputError, match="the picture bbbbbbbbbbbb nowhere"):
        write(tmp_path, pictures={A: PICTURES[A]})
    with pytest.raises(InputError, match="two pairs with one id"):
        write(tmp_path, (PAIRS[0], PAIRS[0]))
    assert not (tmp_path / "pairs").exists()


def test_kept_latents_are_what_the_sampler_gave(tmp_path: Path) -> None:
    samples = [sample("a cat", n) for n in range(3)]
    latents = torch.randn(3, 4, 8, 16, generator=torch.Generator().manual_seed(0))
    kept = GeneratedLatents(tmp_path)
    assert kept.lacking(samples) == samples
    assert not kept.has(samples[0])
    kept.keep(samples[:2], latents[:2], Size(64, 128), "vae", "fp32")
    kept.keep(samples[2:], latents[2:], Size(64, 128), "vae", "fp32")
    # The same batch again, as after a kill, adds nothing.
    kept.keep(samples[:2], latents[:2], Size(64, 128), "vae", "fp32")
    again = GeneratedLatents(tmp_path)
    assert again.lacking(samples) == []
    assert len(again.cache.columns) == 3
    for one, latent in zip(samples, latents, strict=True):
        found = again.read(generated_key(one))
        assert torch.equal(found.mean, latent)
        assert found.logvar is None
        assert found.sizes.time_ids() == (64, 128, 0, 0, 64, 128)
        assert again.made_by(generated_key(one)) == "vae"


def test_a_latents_key_is_model_prompt_and_seed(tmp_path: Path) -> None:
    one = sample("a cat")
    assert generated_key(one) == generated_key(sample("a cat"))
    others = [
        sample("a dog"), sample("a cat", 1), sample("a cat", seed=1), sample("a cat", model="new"),
    ]  # fmt: skip
    assert len({generated_key(o) for o in [one, *others]}) == 5


def test_hostile_latents(tmp_path: Path) -> None:
    one = sample("a cat")
    kept = GeneratedLatents(tmp_path)
    bad = torch.full((1, 4, 8, 8), float("nan"))
    with pytest.raises(TastemakerError, match="not numbers"):
        kept.keep([one], bad, Size(64, 64), "vae")
    with pytest.raises(ValueError, match="1 samples and 2 latents"):
        kept.keep([one], torch.zeros(2, 4, 8, 8), Size(64, 64), "vae")
    kept.keep([one], torch.zeros(1, 4, 8, 8), Size(64, 64), "vae")
    (shard,) = (tmp_path / "latents" / "shards").iterdir()
    shard.write_bytes(shard.read_bytes()[:-3])
    assert GeneratedLatents(tmp_path).made_by(generated_key(one)) == ""
    (index,) = (tmp_path / "latents" / "index").iterdir()
    index.write_bytes(b"no parquet")
    assert not GeneratedLatents(tmp_path).has(one)
