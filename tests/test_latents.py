import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tastemaker.errors import CorruptFile, InputError, StorageError, TastemakerError
from tastemaker.records.size import ImageSizes, Size
from tastemaker.store.latents import LatentCache, LatentEntry, LatentFormat, latent_key

BUCKET = Size(64, 96)


def _entries(
    count: int, form: LatentFormat, *, logvar: bool = True, bucket: Size = BUCKET
) -> list[LatentEntry]:
    generator = torch.Generator().manual_seed(count)
    made = []
    for n in range(count):
        picture = f"{n:064x}"
        shape = (4, bucket.h // 8, bucket.w // 8)
        mean, spread = (torch.randn(shape, generator=generator) for _ in range(2))
        sizes = ImageSizes(Size(300 + n, 200), n, 2 * n, bucket)
        key = latent_key(picture, sizes, form, logvar=logvar)
        made.append(LatentEntry(picture, key, mean, sizes, spread if logvar else None))
    return made


@pytest.mark.parametrize("codec", ["shuffle-zstd", "none"])
@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp32"])
def test_what_is_written_is_read(tmp_path: Path, dtype: str, codec: str) -> None:
    form = LatentFormat("vae", dtype, codec)  # type: ignore[arg-type]
    entries = _entries(3, form)
    cache = LatentCache(tmp_path)
    assert cache.missing(e.key for e in entries) == [e.key for e in entries]
    cache.write_shard(BUCKET, entries, form)
    torch_dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[dtype]
    for reader in (cache, LatentCache(tmp_path)):
        assert reader.missing(e.key for e in entries) == []
        assert reader.verify() == 3
        for entry in entries:
            found = reader.read(entry.id)
            assert entry.logvar is not None
            assert found.logvar is not None
            assert found.mean.dtype == torch_dtype
            assert torch.equal(found.mean, entry.mean.to(torch_dtype))
            assert torch.equal(found.logvar, entry.logvar.to(torch_dtype))
            assert found.sizes == entry.sizes
    row = LatentCache(tmp_path).index()[entries[1].key]
    assert (row.row, row.bucket, row.shape, row.format) == (1, BUCKET, (4, 8, 12), form)


def test_several_shards_and_buckets(tmp_path: Path) -> None:
    form = LatentFormat("vae")
    other = Size(96, 64)
    cache = LatentCache(tmp_path)
    first = _entries(2, form, logvar=False)
    names = {cache.write_shard(BUCKET, first, form)}
    moved = [replace(e, id=f"x{e.id}", key=f"x{e.key}") for e in _entries(2, form, bucket=other)]
    names.add(cache.write_shard(other, moved, form))
    assert {name.split("-")[0] for name in names} == {"64x96", "96x64"}
    assert len(cache.index()) == 4
    assert cache.read(first[0].id).logvar is None
    assert cache.read(moved[0].id).mean.shape == (4, 12, 8)
    assert cache.ids() == {e.id for e in (*first, *moved)}


def test_key_depends_on_everything_that_determines_a_latent() -> None:
    form = LatentFormat("vae")
    sizes = ImageSizes(Size(300, 200), 3, 4, BUCKET)
    same = latent_key("a", sizes, form)
    others = {
        latent_key("b", sizes, form),
        latent_key("a", replace(sizes, original=Size(200, 300)), form),
        latent_key("a", replace(sizes, crop_top=4, crop_left=3), form),
        latent_key("a", replace(sizes, target=Size(BUCKET.w, BUCKET.h)), form),
        latent_key("a", sizes, replace(form, vae_hash="other")),
        latent_key("a", sizes, replace(form, dtype="fp32")),
        latent_key("a", sizes, form, logvar=True),
        latent_key("a", sizes, form, loader="exif ignore, lanczos 1"),
    }
    assert len(others | {same}) == 9
    # The packing loses nothing, so a repacked cache still serves.
    assert latent_key("a", sizes, replace(form, codec="none")) == same


@pytest.mark.parametrize(("value", "dtype"), [(float("nan"), "bf16"), (1e6, "fp16")])
def test_numbers_that_are_none_are_refused_by_picture(
    tmp_path: Path, value: float, dtype: str
) -> None:
    form = LatentFormat("vae", dtype)  # type: ignore[arg-type]
    entries = _entries(2, form)
    entries[1].mean[0, 0, 0] = value
    with pytest.raises(TastemakerError, match=entries[1].id):
        LatentCache(tmp_path).write_shard(BUCKET, entries, form)
    assert not LatentCache(tmp_path).index()


def test_a_shard_holds_one_bucket_and_one_kind(tmp_path: Path) -> None:
    form = LatentFormat("vae")
    cache = LatentCache(tmp_path)
    mixed = [_entries(1, form)[0], _entries(2, form, logvar=False)[1]]
    for wrong, bucket in ((mixed, BUCKET), (_entries(1, form), Size(96, 64)), ([], BUCKET)):
        with pytest.raises(InputError):
            cache.write_shard(bucket, wrong, form)
    with pytest.raises(InputError, match="bf16"):
        LatentFormat("vae", "fp8")  # type: ignore[arg-type]


def test_a_picture_with_two_latents_is_read_by_key(tmp_path: Path) -> None:
    form = LatentFormat("vae")
    cache = LatentCache(tmp_path)
    entries = _entries(1, form)
    cache.write_shard(BUCKET, entries, form)
    assert cache.read(entries[0].id).sizes == entries[0].sizes
    again = replace(entries[0], key="another crop", mean=entries[0].mean + 1)
    cache.write_shard(BUCKET, [again], form)
    with pytest.raises(InputError, match="2 latents"):
        cache.read(again.id)
    assert torch.equal(cache.read("another crop").mean, again.mean.bfloat16())
    with pytest.raises(InputError, match="0 latents"):
        cache.read("unknown")


@pytest.mark.parametrize("codec", ["shuffle-zstd", "none"])
def test_damage_is_found(tmp_path: Path, codec: str) -> None:
    form = LatentFormat("vae", "bf16", codec)  # type: ignore[arg-type]
    cache = LatentCache(tmp_path)
    file = tmp_path / "shards" / f"{cache.write_shard(BUCKET, _entries(2, form), form)}.safetensors"
    data = bytearray(file.read_bytes())
    data[-40] ^= 0x55
    file.write_bytes(data)
    with pytest.raises(CorruptFile, match="cache step again"):
        LatentCache(tmp_path).verify()
    file.write_bytes(data[:50])
    with pytest.raises(CorruptFile):
        LatentCache(tmp_path).verify()
    file.unlink()
    with pytest.raises(CorruptFile):
        LatentCache(tmp_path).verify()


def test_a_damaged_index_is_named(tmp_path: Path) -> None:
    form = LatentFormat("vae")
    LatentCache(tmp_path).write_shard(BUCKET, _entries(1, form), form)
    (index,) = (tmp_path / "index").iterdir()
    index.write_bytes(index.read_bytes()[:100])
    with pytest.raises(CorruptFile, match=index.name):
        LatentCache(tmp_path).index()


def test_a_kill_between_shard_and_index_leaves_no_latent(tmp_path: Path) -> None:
    form = LatentFormat("vae")
    entries = _entries(1, form)
    LatentCache(tmp_path).write_shard(BUCKET, entries, form)
    (index,) = (tmp_path / "index").iterdir()
    index.unlink()
    cache = LatentCache(tmp_path)
    assert cache.missing([entries[0].key]) == [entries[0].key]
    cache.write_shard(BUCKET, entries, form)
    assert cache.verify() == 1
    assert len(list((tmp_path / "shards").iterdir())) == 1


def test_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    form = LatentFormat("vae")
    with pytest.raises(StorageError):
        LatentCache(tmp_path).write_shard(BUCKET, _entries(1, form), form)
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_packing_makes_smooth_latents_smaller(tmp_path: Path) -> None:
    form = LatentFormat("vae")
    coarse = torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.interpolate(coarse[None], size=(64, 64), mode="bicubic")[0]
    bucket = Size(512, 512)
    entry = LatentEntry("a", "k", smooth, ImageSizes(bucket, 0, 0, bucket))
    sizes = {}
    for codec in ("none", "shuffle-zstd"):
        folder = tmp_path / codec
        LatentCache(folder).write_shard(bucket, [entry], replace(form, codec=codec))
        sizes[codec] = next((folder / "shards").iterdir()).stat().st_size
    assert sizes["shuffle-zstd"] < 0.85 * sizes["none"]
