from pathlib import Path

import pytest

from tastemaker.errors import MissingModel
from tastemaker.models import locate as module
from tastemaker.models.locate import locate, packaged


def test_paths_come_first(tmp_path: Path) -> None:
    assert locate(str(tmp_path), "model") == tmp_path
    file = tmp_path / "weights.safetensors"
    file.touch()
    assert locate(str(file), "model") == file


def test_packaged_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "packaged", lambda name: tmp_path / name)
    (tmp_path / "tiny-sdxl").mkdir()
    assert locate("tiny-sdxl", "model") == tmp_path / "tiny-sdxl"
    assert packaged("tiny-sdxl").parts[-3:] == ("tastemaker", "assets", "tiny-sdxl")


@pytest.mark.parametrize("reference", ["nowhere", "./no/where", "a/b.safetensors", "a/b/c"])
def test_what_can_be_no_hub_id_is_missing_at_once(reference: str) -> None:
    with pytest.raises(MissingModel, match="no such file or folder") as caught:
        locate(reference, "model")
    assert "hub id" in str(caught.value)
    assert caught.value.exit_code == 2


def test_hub_without_network_says_what_to_do() -> None:
    with pytest.raises(MissingModel) as caught:
        locate("stabilityai/not-in-any-cache", "model")
    text = str(caught.value)
    assert "hf download stabilityai/not-in-any-cache" in text
    assert "local folder" in text


def test_local_cache_of_the_hub_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def fake(reference: str, **options: object) -> str:
        calls.append((reference, options))
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fake)
    assert locate("owner/name", "model") == tmp_path
    assert [options["local_files_only"] for _, options in calls] == [True]
    # Top-level single files of a whole model are gigabytes that nobody reads.
    assert "model.safetensors" not in calls[0][1]["allow_patterns"]


def test_pickles_are_never_opened(tmp_path: Path) -> None:
    file = tmp_path / "model.ckpt"
    file.touch()
    with pytest.raises(MissingModel, match="can run code"):
        locate(str(file), "model")
