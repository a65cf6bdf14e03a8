"""The reader of training: the cache's own latents, from open files and small columns."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tastemaker.errors import CorruptFile, InputError
from tastemaker.records.size import ImageSizes, Size
from tastemaker.store import latent_columns
from tastemaker.store.latent_columns import LatentColumns
from tastemaker.store.latent_formats import LatentFormat
from tastemaker.store.latent_index import read_index
from tastemaker.store.latent_reader import LatentReader
from tastemaker.store.latents import LatentCache, LatentEntry

BUCKET, WIDE = Size(64, 96), Size(32, 128)


def entries(
    count: int, bucket: Size = BUCKET, *, logvar: bool = True, name: str = "p"
) -> list[LatentEntry]:
    generator = torch.Generator().manual_seed(count)
    made = []
    for n in range(count):
        shape = (4, bucket.h // 8, bucket.w // 8)
        mean, spread = (torch.randn(shape, generator=generator) for _ in range(2))
        sizes = ImageSizes(Size(300 + n, 200), n, 2 * n, bucket)
        key = f"key of {name}{n} in {bucket}"
        made.append(LatentEntry(f"{name}{n}", key, mean, sizes, spread if logvar else None))
    return made


def filled(path: Path, form: LatentFormat, *, logvar: bool = True) -> list[str]:
    """Three shards, of two buckets; all keys."""
    cache = LatentCache(path)
    shards = [(BUCKET, entries(5, logvar=logvar)), (WIDE, entries(3, WIDE, logvar=logvar))]
    shards.append((BUCKET, entries(4, logvar=logvar, name="q")))
    for bucket, some in shards:
        cache.write_shard(bucket, some, form)
    return [entry.key for _, some in shards for entry in some]


@pytest.mark.parametrize("logvar", [True, False])
@pytest.mark.parametrize("codec", ["shuffle-zstd", "none"])
@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp32", "u12"])
def test_it_reads_what_the_cache_reads_bit_for_bit(tmp_path, dtype, codec, logvar):
    keys = filled(tmp_path, LatentFormat("vae", dtype, codec), logvar=logvar)
    cache = LatentCache(tmp_path)
    columns = LatentColumns(tmp_path)
    reader = LatentReader(columns)
    numbers = columns.find(keys)
    assert sorted(numbers) == list(range(len(columns))) == list(range(12))
    for key, number in zip(keys, numbers.tolist(), strict=True):
        expected, found = cache.read(key), reader.read_one(number)
        assert found.mean.dtype == expected.mean.dtype
        assert torch.equal(found.mean, expected.mean)
        assert found.sizes == expected.sizes
        assert (found.logvar is None) == (expected.logvar is None) == (not logvar)
        if found.logvar is not None and expected.logvar is not None:
            assert torch.equal(found.logvar, expected.logvar)


def test_a_batch_is_its_latents_in_the_asked_order_across_shards(tmp_path):
    keys = filled(tmp_path, LatentFormat("vae"))
    columns = LatentColumns(tmp_path)
    wanted = [keys[9], keys[0], keys[9], keys[4]]
    batch = LatentReader(columns).read(columns.find(wanted).tolist())
    ones = [LatentCache(tmp_path).read(key) for key in wanted]
    assert torch.equal(batch.mean, torch.stack([one.mean for one in ones]))
    assert batch.sizes == tuple(one.sizes for one in ones)
    assert batch.logvar is not None
    assert torch.equal(batch.logvar, torch.stack([o.logvar for o in ones if o.logvar is not None]))


def test_it_reads_into_the_memory_that_it_is_given(tmp_path):
    keys = filled(tmp_path, LatentFormat("vae"))
    columns = LatentColumns(tmp_path)
    reader, numbers = LatentReader(columns), columns.find(keys[:2]).tolist()
    mean, logvar = (torch.full((2, 4, 8, 12), torch.nan, dtype=torch.bfloat16) for _ in range(2))
    batch = reader.read(numbers, (mean, logvar))
    assert batch.mean.data_ptr() == mean.data_ptr()
    assert torch.equal(mean, reader.read(numbers).mean)
    for wrong in (mean[:1], mean.float(), torch.zeros(2, 4, 12, 8, dtype=mean.dtype).mT):
        with pytest.raises(InputError, match="contiguous"):
            reader.read(numbers, (wrong, logvar))
    with pytest.raises(InputError, match="contiguous"):
        reader.read(numbers, (mean, None))


def test_a_batch_is_of_one_shape(tmp_path):
    keys = filled(tmp_path, LatentFormat("vae"))
    columns = LatentColumns(tmp_path)
    with pytest.raises(InputError, match="2 kinds.*one bucket"):
        LatentReader(columns).read(columns.find([keys[0], keys[5]]).tolist())


@pytest.mark.parametrize("open_shards", [1, 64])
def test_threads_get_what_one_gets(tmp_path, open_shards):
    keys = filled(tmp_path, LatentFormat("vae"))
    columns = LatentColumns(tmp_path)
    reader = LatentReader(columns, open_shards=open_shards)
    numbers = np.random.default_rng(0).integers(0, 12, 400).tolist()
    expected = [LatentCache(tmp_path).read(key).mean for key in keys]
    at = {int(n): one for n, one in zip(columns.find(keys), expected, strict=True)}
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda n: reader.read_one(n).mean, numbers))
    assert all(torch.equal(one, at[n]) for n, one in zip(numbers, found, strict=True))
    reader.close()
    assert torch.equal(reader.read_one(0).mean, at[0])


def open_files(folder: Path) -> int:
    links = [file for file in Path("/proc/self/fd").iterdir() if file.is_symlink()]
    return sum(str(file.resolve()).startswith(str(folder)) for file in links)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="no /proc here")
def test_few_shards_stay_open(tmp_path):
    cache = LatentCache(tmp_path)
    for n in range(8):
        cache.write_shard(BUCKET, entries(1, name=f"n{n}"), LatentFormat("vae"))
    columns = LatentColumns(tmp_path)
    del cache
    reader = LatentReader(columns, open_shards=3)
    for number in [*range(8), *range(8)]:
        reader.read_one(number)
    assert open_files(tmp_path) == 3
    reader.close()
    assert open_files(tmp_path) == 0


def test_keys_that_are_not_there_have_no_number(tmp_path):
    assert LatentColumns(tmp_path).find(["x"]).tolist() == [-1]
    keys = filled(tmp_path, LatentFormat("vae"))
    columns = LatentColumns(tmp_path)
    assert columns.find([]).tolist() == []
    assert (columns.find([f"x{n}" for n in range(100)]) == -1).all()
    assert columns.find(["x", keys[3]])[0] == -1
    assert columns.find(["x", keys[3]])[1] >= 0


def test_keys_that_begin_alike_are_told_apart(tmp_path, monkeypatch):
    """Real digests agree in 64 bits by chance only, so they are made to."""
    honest = latent_columns._digests

    def alike(keys):
        digests = honest(keys).copy()
        digests["high"] = 7
        return digests

    monkeypatch.setattr(latent_columns, "_digests", alike)
    keys = filled(tmp_path, LatentFormat("vae"))
    columns = LatentColumns(tmp_path)
    assert len(set(columns.find(keys).tolist())) == 12
    assert columns.find(["x"]).tolist() == [-1]
    reader = LatentReader(columns)
    for key in keys:
        (number,) = columns.find([key]).tolist()
        assert torch.equal(reader.read_one(number).mean, LatentCache(tmp_path).read(key).mean)


def test_new_shards_are_found_and_old_numbers_stay(tmp_path):
    keys = filled(tmp_path, LatentFormat("vae"))
    columns = LatentColumns(tmp_path)
    reader, before = LatentReader(columns), columns.find(keys)
    columns.refresh()
    assert len(columns) == 12
    more = entries(3, name="a")
    LatentCache(tmp_path).write_shard(BUCKET, more, LatentFormat("other"))
    assert columns.find([more[0].key]).tolist() == [-1]
    columns.refresh()
    assert len(columns) == 15
    assert (columns.find(keys) == before).all()
    number = int(columns.find([more[1].key])[0])
    assert columns.kind(number).format.vae_hash == "other"
    assert torch.equal(reader.read_one(number).mean, more[1].mean.bfloat16())


def test_a_latent_that_was_encoded_again_is_the_new_one(tmp_path):
    (first,) = entries(1)
    form = LatentFormat("vae", "fp32")
    cache = LatentCache(tmp_path)
    cache.write_shard(BUCKET, [first, *entries(2, name="q")], form)
    columns = LatentColumns(tmp_path)
    again = replace(first, mean=first.mean + 1)
    cache.write_shard(BUCKET, [again], form)
    columns.refresh()
    assert len(columns) == 3
    (number,) = columns.find([first.key]).tolist()
    assert torch.equal(LatentReader(columns).read_one(number).mean, again.mean)


@pytest.mark.parametrize("codec", ["shuffle-zstd", "none"])
def test_damage_is_found_when_it_is_read_first(tmp_path, codec):
    cache = LatentCache(tmp_path)
    name = cache.write_shard(BUCKET, entries(2), LatentFormat("vae", "bf16", codec))
    columns = LatentColumns(tmp_path)
    file = tmp_path / "shards" / f"{name}.safetensors"
    whole = file.read_bytes()
    for spoilt in (
        whole[:-1], whole[:50], whole[:4], b"", b"\xff" * 8 + whole[8:],
        whole[:8] + b"[1]" + whole[11:], whole[:-40] + bytes([whole[-40] ^ 0x55]) + whole[-39:],
    ):  # fmt: skip
        file.write_bytes(spoilt)
        reader = LatentReader(columns)
        with pytest.raises(CorruptFile, match="cache step again"):
            reader.read([0, 1])
    file.unlink()
    with pytest.raises(CorruptFile, match="cache step again"):
        LatentReader(columns).read_one(0)
    file.write_bytes(whole)
    assert LatentReader(columns).read_one(1).mean.shape == (4, 8, 12)


@pytest.mark.parametrize("byte", range(16))
def test_no_byte_at_the_head_of_a_frame_can_spoil_memory(tmp_path, byte):
    """blosc2 writes as much as the frame says, past the end of what it was given."""
    cache = LatentCache(tmp_path)
    name = cache.write_shard(BUCKET, entries(1, logvar=False), LatentFormat("vae"))
    file = tmp_path / "shards" / f"{name}.safetensors"
    data = bytearray(file.read_bytes())
    head = 8 + int.from_bytes(data[:8], "little")
    columns = LatentColumns(tmp_path)
    frame = data.index(int(4 * 8 * 12 * 2).to_bytes(4, "little"), head) - 4
    right, memory = LatentReader(columns).read_one(0).mean, torch.full((100_000,), 7.0).bfloat16()
    part = memory[50_000 : 50_000 + right.numel()].view(1, *right.shape)
    refused = 0
    for value in (0, 1, 0x7F, 0xFF):
        spoilt = data.copy()
        spoilt[frame + byte] = value
        file.write_bytes(spoilt)
        try:
            LatentReader(columns).read([0], (part, None))
        except CorruptFile:
            refused += 1
        else:
            assert torch.equal(part[0], right)  # a byte that means nothing, or was this one
        assert (memory[:50_000] == 7).all()
        assert (memory[50_000 + right.numel() :] == 7).all()
    assert refused >= 3 or byte in (0, 1, 8, 9, 10, 11)  # the versions, the length of a block


def test_a_checksum_is_compared_once_or_never(tmp_path):
    cache = LatentCache(tmp_path)
    name = cache.write_shard(BUCKET, entries(1), LatentFormat("vae", "fp32", "none"))
    columns = LatentColumns(tmp_path)
    file = tmp_path / "shards" / f"{name}.safetensors"
    data = bytearray(file.read_bytes())
    checked, trusting = LatentReader(columns), LatentReader(columns, check=False)
    checked.read_one(0)
    data[-1] ^= 1
    with file.open("r+b") as same:  # the same file, which both have open
        same.write(data)
    checked.read_one(0)
    trusting.read_one(0)
    with pytest.raises(CorruptFile, match="checksum"):
        LatentReader(columns).read_one(0)


def test_a_damaged_index_is_named(tmp_path):
    filled(tmp_path, LatentFormat("vae"))
    index = sorted((tmp_path / "index").iterdir())[1]
    index.write_bytes(index.read_bytes()[:100])
    with pytest.raises(CorruptFile, match=index.name):
        LatentColumns(tmp_path)


def test_the_columns_are_the_index_by_key(tmp_path):
    keys = filled(tmp_path, LatentFormat("vae"))
    columns = LatentColumns(tmp_path)
    rows = {r.key: r for f in sorted((tmp_path / "index").iterdir()) for r in read_index(f)}
    assert dict(columns) == rows
    assert list(columns) == list(rows)
    assert [columns.row(n) for n in columns.numbers().tolist()] == list(rows.values())
    assert keys[4] in columns
    assert "x" not in columns
    with pytest.raises(KeyError):
        columns["x"]


@pytest.mark.parametrize("recent", [0, 4096])
def test_latents_that_are_dropped_are_gone_and_may_come_back(tmp_path, recent, monkeypatch):
    monkeypatch.setattr(latent_columns, "_MOST_RECENT", recent)
    keys = filled(tmp_path, LatentFormat("vae"))
    columns = LatentColumns(tmp_path)
    columns.drop([keys[2], "x"])
    assert [key in columns for key in keys] == [n != 2 for n in range(12)]
    assert len(columns) == len(list(columns)) == 11
    (again,) = (e for e in entries(5) if e.key == keys[2])
    LatentCache(tmp_path).write_shard(BUCKET, [again], LatentFormat("vae"))
    columns.refresh()
    assert keys[2] in columns
    columns.drop(keys)
    assert len(columns) == 0
    assert (columns.find(keys) == -1).all()


@pytest.mark.parametrize("recent", [0, 3, 4096])
def test_a_cache_that_grows_always_knows_all_of_its_latents(tmp_path, recent, monkeypatch):
    monkeypatch.setattr(latent_columns, "_MOST_RECENT", recent)
    cache, known = LatentCache(tmp_path), []
    for n in range(12):
        some = entries(2, name=f"n{n}")
        cache.write_shard(BUCKET, some, LatentFormat("vae"))
        known += [entry.key for entry in some]
        assert cache.missing([*known, "x"]) == ["x"]
        assert len(cache.columns) == len(known)


def test_numbers_in_order_of_place_go_through_each_shard_once(tmp_path):
    filled(tmp_path, LatentFormat("vae"))
    columns = LatentColumns(tmp_path)
    mixed = np.random.default_rng(0).permutation(12)
    places = [columns.place(n)[:2] for n in columns.in_order_of_place(mixed).tolist()]
    assert places == sorted(places)
    assert len(places) == 12
