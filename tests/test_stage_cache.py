"""The cache step: each picture is encoded once, and what has changed is never served stale."""

from pathlib import Path

import pytest
import torch

from tastemaker.engine.latent_encoder import LatentEncoder
from tastemaker.errors import InputError, StaleCache
from tastemaker.models.family import load_family
from tastemaker.records.run import Artefact
from tastemaker.records.size import Size
from tastemaker.stages import cache
from tastemaker.store.latent_sets import LatentSet
from tastemaker.store.pictures import open_pictures
from tastemaker.store.selections import read_selection
from tests.tiny_models import saved_sdxl
from tests.tiny_run import collected, run_step, step_dir, write_picture, write_pictures


@pytest.fixture
def given(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artefact]:
    made = collected(tmp_path, write_pictures(tmp_path / "pictures", 6))
    made["model"] = Artefact("model", saved_sdxl(tmp_path_factory.getbasetemp()), "m")
    return made


def ids_of(given: dict[str, Artefact]) -> tuple[str, ...]:
    return read_selection(Path(given["selection"].path)).ids


def work(root: Path, given: dict[str, Artefact], key: str = "", **fields: object):
    manifest, made = run_step(cache, step_dir(root, "cache", key), given, size_px=32, **fields)
    return manifest.counts, LatentSet(Path(made["cache"].path))


def test_latents_are_the_autoencoders_and_carry_their_sizes(tmp_path, given):
    counts, found = work(tmp_path, given, dtype="fp32", batch=4)
    assert counts == {"encoded": 6, "already there": 0, "encoded: new picture": 6}
    family = load_family(str(given["model"].path))
    collection, selection = Path(given["collection"].path), Path(given["selection"].path)
    pictures = open_pictures(collection, selection)
    for picture_id in ids_of(given):
        latent, picture = found.read(picture_id), pictures.load(picture_id, Size(32, 32))
        with torch.no_grad():
            mean, _ = family.encode_image(torch.from_numpy(picture.pixels).permute(2, 0, 1)[None])
        torch.testing.assert_close(latent.mean, mean[0])
        assert latent.mean.shape == (4, 8, 8)
        assert latent.sizes == picture.sizes
        assert latent.sizes.target == Size(32, 32)


def test_editing_one_picture_costs_exactly_its_latent(tmp_path, given):
    _, before = work(tmp_path, given)
    write_picture(tmp_path / "pictures" / "03.png", seed=99)
    edited = {**given, **collected(tmp_path, tmp_path / "pictures", key="edited")}
    old, new = set(ids_of(given)), set(ids_of(edited))
    assert (len(old - new), len(new - old)) == (1, 1)
    counts, after = work(tmp_path, edited, key="edited")
    assert counts == {"encoded": 1, "already there": 5, "encoded: edited picture": 1}
    for picture_id in old & new:
        assert torch.equal(before.read(picture_id).mean, after.read(picture_id).mean)
    with pytest.raises(StaleCache, match=r"Run the cache step with the same selection"):
        before.read(*(new - old))


def test_other_sizes_and_formats_are_other_latents(tmp_path, given):
    work(tmp_path, given)
    for key, fields in {"again": {}, "fp16": {"dtype": "fp16"}}.items():
        counts, _ = work(tmp_path, given, key=key, **fields)
        assert counts["already there"] == (6 if key == "again" else 0)
    manifest, made = run_step(cache, step_dir(tmp_path, "cache", "16"), given, size_px=16)
    assert manifest.counts["encoded"] == 6
    assert LatentSet(Path(made["cache"].path)).read(ids_of(given)[0]).mean.shape == (4, 4, 4)


def test_a_killed_step_keeps_its_finished_shards(tmp_path, given, monkeypatch):
    encode, calls = LatentEncoder.encode, []

    def encode_or_die(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return encode(*arguments)

    monkeypatch.setattr(LatentEncoder, "encode", encode_or_die)
    with pytest.raises(KeyboardInterrupt):
        work(tmp_path, given, shard_images=2)
    monkeypatch.undo()
    counts, found = work(tmp_path, given, shard_images=2)
    assert counts == {"encoded": 2, "already there": 4, "encoded: new picture": 2}
    assert all(torch.isfinite(found.read(picture_id).mean).all() for picture_id in ids_of(given))


def test_a_selection_of_another_collection_is_refused(tmp_path, given):
    other = collected(tmp_path / "other", write_pictures(tmp_path / "more", 7))
    mixed = {**given, "selection": other["selection"]}
    with pytest.raises(InputError, match=r"1 pictures that are not in.*Run curate again"):
        work(tmp_path, mixed, key="mixed")


def test_no_set_says_which_step_makes_it(tmp_path):
    with pytest.raises(InputError, match="Run the cache step"):
        LatentSet(tmp_path / "latents.json")
