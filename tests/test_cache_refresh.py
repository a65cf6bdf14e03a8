"""Two passes: a worker adds crops while another process reads."""

import os
import time
from pathlib import Path

import pytest

from tastemaker.engine.latent_encoder import LatentEncoder
from tastemaker.errors import CorruptFile, InputError
from tastemaker.records.run import Artefact
from tastemaker.stages import cache, fit
from tastemaker.stages.cache import refresh
from tastemaker.store.latent_sets import REFRESHED, LatentSet
from tastemaker.training.latent_source import VisitedLatents
from tests.latents_made import position_picture
from tests.tiny_models import saved_sdxl
from tests.tiny_run import collected, run_step, step_dir

RANDOM = {"size_px": 32, "crop": "random", "dtype": "fp32"}
FIT = {"images_total": 12, "batch": 2, "method": {"kind": "lora", "rank": 2}}


@pytest.fixture
def given(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artefact]:
    for number in range(4):
        position_picture(tmp_path / "pictures" / f"{number}.png", 32, 200 + number, number)
    made = collected(tmp_path, tmp_path / "pictures")
    made["model"] = Artefact("model", saved_sdxl(tmp_path_factory.getbasetemp()), "m")
    return made


def cached(root: Path, given: dict[str, Artefact], key: str = "", **fields: object) -> Path:
    _, made = run_step(cache, step_dir(root, "cache", key), given, **{**RANDOM, **fields})
    return Path(made["cache"].path)


def test_another_process_adds_crops_while_this_one_reads(tmp_path, given):
    path = cached(tmp_path, given)
    pinned, following = LatentSet(path), LatentSet(path)
    source = VisitedLatents(following, seed=0, follow=True)
    before = path.read_bytes()
    if (child := os.fork()) == 0:
        status = 1
        try:
            refresh(path.parent, 3)
            status = 0
        finally:
            os._exit(status)
    deadline, visit, most = time.monotonic() + 60, 0, []
    while following.generation < 3 and time.monotonic() < deadline:
        following.follow()
        for i in following.ids():
            latent, sizes = source(i, visit)
            assert latent.shape == (4, 8, 8)
            assert sizes.target == (32, 32)
            for variant in range(following.variants(i)):
                following.read(i, variant)  # with its checksum
        most.append(following.variants(following.ids()[0]))
        visit += 1
        time.sleep(0.01)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert following.generation == 3
    assert most[-1] == 4
    assert sorted(most) == most
    crops = {following.row(i, v).sizes.crop_left for i in following.ids() for v in range(4)}
    assert len(crops) > 8
    # Who did not ask for it sees nothing of it.
    assert path.read_bytes() == before
    assert {LatentSet(path).variants(i) for i in pinned.ids()} == {1}
    assert not following.follow()


def test_added_crops_are_those_that_a_larger_first_pass_has(tmp_path, given):
    path = cached(tmp_path, given)
    said: list[str] = []
    assert refresh(path.parent, 2, said.append) == {"rounds": 2, "added": 8}
    assert said[0] == "crop 1: 4 latents added, 0 pictures left out"
    whole = LatentSet(cached(tmp_path, given, "three", crops=3))
    found = LatentSet(path)
    assert found.follow()
    assert sorted(found.keys()) == sorted(whole.keys())


def test_a_killed_round_goes_on_where_it_stopped(tmp_path, given, monkeypatch):
    path = cached(tmp_path, given, shard_images=2)
    encode, calls = LatentEncoder.encode, []

    def dies(self, crops, vae_hash):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return encode(self, crops, vae_hash)

    monkeypatch.setattr(LatentEncoder, "encode", dies)
    with pytest.raises(KeyboardInterrupt):
        refresh(path.parent)
    monkeypatch.undo()
    assert refresh(path.parent) == {"rounds": 1, "added": 2}
    found = LatentSet(path)
    found.follow()
    assert found.generation == 1
    assert {found.variants(i) for i in found.ids()} == {2}


def test_a_run_that_follows_trains_on_the_added_crops(tmp_path, given):
    path = cached(tmp_path, given)
    made = {**given, "cache": Artefact("cache", path, "c")}
    logs = {}
    for name, follow in {"before": False, "pinned": False, "following": True}.items():
        if name == "pinned":
            refresh(path.parent, 3)
        step = step_dir(tmp_path, name)
        run_step(fit, step, made, **FIT, follow=follow)
        logs[name] = (step.path / "log" / "metrics.jsonl").read_text()
    assert logs["before"] == logs["pinned"]
    assert logs["before"] != logs["following"]


def test_what_cannot_be_refreshed_is_refused(tmp_path, given):
    path = cached(tmp_path, given, crop="centre")
    with pytest.raises(InputError, match="centre crops.*crop random"):
        refresh(path.parent)
    path = cached(tmp_path, given, "random")
    assert not LatentSet(path).follow()
    refresh(path.parent)
    file = path.parent / REFRESHED
    file.write_text(file.read_text().replace('"generation": 1', '"generation": 7'))
    with pytest.raises(CorruptFile, match="does not match its checksum"):
        LatentSet(path).follow()
