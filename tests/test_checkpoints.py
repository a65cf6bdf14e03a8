"""Checkpoints are whole or absent, and damage is noticed."""

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch

from tastemaker.errors import CorruptFile, StorageError
from tastemaker.store.checkpoints import CheckpointStore

TENSORS = {
    "weights": {
        "a": torch.arange(6, dtype=torch.bfloat16).reshape(2, 3),
        "last": torch.ones(1, 2, 3, 3).to(memory_format=torch.channels_last),
    },
    "random": {"cpu": torch.tensor([1, 255], dtype=torch.uint8)},
    "empty": {},
}


def save(store: CheckpointStore, *steps: int) -> None:
    for step in steps:
        store.save(step, TENSORS, {"images": 8 * step})


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_what_is_saved_is_loaded(tmp_path):
    store = CheckpointStore(tmp_path / "c")
    assert store.latest() is None
    assert store.save(12, TENSORS, {"images": 96, "beta": 0.1}).name == "step-000012"
    found = store.load(12)
    assert (found.step, found.state) == (12, {"images": 96, "beta": 0.1})
    assert found.tensors.keys() == TENSORS.keys()
    for group, named in TENSORS.items():
        for name, value in named.items():
            loaded = found.tensors[group][name]
            assert loaded.dtype == value.dtype
            assert torch.equal(loaded, value)


def test_the_last_k_are_kept(tmp_path):
    store = CheckpointStore(tmp_path, keep=2)
    save(store, 1, 2, 999_999, 1_000_000)
    assert store.steps() == [999_999, 1_000_000]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-1000000", "step-999999"]


def test_saving_the_same_step_again_replaces_it(tmp_path):
    store = CheckpointStore(tmp_path)
    save(store, 1)
    store.save(1, TENSORS, {"images": 0})
    assert store.load(1).state == {"images": 0}


def test_going_back_removes_the_course_that_was_left(tmp_path):
    store = CheckpointStore(tmp_path, keep=2)
    save(store, 1, 2, 3)
    store.save(2, TENSORS, {"images": 0})
    assert store.steps() == [2]


@pytest.mark.parametrize("file", ["weights.safetensors", "state.json"])
@pytest.mark.parametrize("how", [damage, Path.unlink])
def test_a_damaged_one_is_passed_over_and_refused_when_asked_for(file, how, tmp_path):
    store = CheckpointStore(tmp_path)
    save(store, 1, 2)
    how(tmp_path / "step-000002" / file)
    found = store.latest()
    assert found is not None
    assert found.step == 1
    assert len(found.damaged) == 1
    assert file in found.damaged[0]
    with pytest.raises(CorruptFile, match=file):
        store.load(2)


def test_an_edited_state_is_noticed(tmp_path):
    store = CheckpointStore(tmp_path)
    save(store, 1)
    path = tmp_path / "step-000001" / "state.json"
    content = json.loads(path.read_text())
    content["state"]["images"] = 9
    path.write_text(json.dumps(content))
    with pytest.raises(CorruptFile, match="checksum"):
        store.load(1)
    assert store.latest() is None


def test_a_checkpoint_that_is_not_there_is_named(tmp_path):
    with pytest.raises(CorruptFile, match="step-000005"):
        CheckpointStore(tmp_path).load(5)


@pytest.mark.parametrize("at", ["safetensors.torch.save_file", "os.replace", "shutil.rmtree"])
def test_a_kill_at_any_moment_leaves_a_good_checkpoint(at, tmp_path, monkeypatch):
    store = CheckpointStore(tmp_path, keep=1)
    save(store, 1)
    child = os.fork()
    if child == 0:  # a real kill: no `finally` runs
        monkeypatch.setattr(at, lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
        save(store, 2)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    found = store.latest()
    assert found is not None
    assert found.step == (2 if at == "shutil.rmtree" else 1)
    assert found.damaged == ()
    save(store, 3)
    assert [p.name for p in tmp_path.iterdir()] == ["step-000003"]  # and the rubbish is gone


def test_a_full_disk_keeps_the_earlier_one(tmp_path, monkeypatch):
    store = CheckpointStore(tmp_path)
    save(store, 1)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(StorageError, match="No space left"):
        save(store, 2)
    assert [p.name for p in tmp_path.iterdir()] == ["step-000001"]
    assert store.load(1).step == 1


def test_other_things_in_the_folder_are_left_alone(tmp_path):
    (tmp_path / "step-notes").mkdir()
    (tmp_path / "read.me").write_text("mine")
    store = CheckpointStore(tmp_path, keep=1)
    save(store, 1, 2)
    assert (tmp_path / "step-notes").is_dir()
    assert (tmp_path / "read.me").read_text() == "mine"
    shutil.rmtree(tmp_path / "step-000002")
    assert store.latest() is None


def test_keeping_none_is_refused(tmp_path):
    with pytest.raises(ValueError, match="keep"):
        CheckpointStore(tmp_path, keep=0)
