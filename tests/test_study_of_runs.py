"""A study of runs as the README makes one; what goes wrong leaves nothing behind."""

from pathlib import Path

import pytest

from tastemaker.cli.app import main
from tastemaker.store.studies import read_study
from tests.studio_place import make_run


def test_a_run_stands_for_the_pictures_that_it_generated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both = make_run(tmp_path / "both", prompts=3, models=("old", "new"), side=32)
    one = make_run(tmp_path / "one", prompts=3, models=("only",), side=32)
    study = tmp_path / "study"
    words = ["study", "new", str(study)]
    # Of one set there is no doubt; of several the step that is called as the model is meant.
    assert main([*words, f"base={one}", f"new_pictures={both}"]) == 0
    base, new = read_study(study).contenders
    assert "/only_pictures/" in base.files["p0000"]
    assert "/new_pictures/" in new.files["p0000"]
    capsys.readouterr()
    words[2] = str(tmp_path / "other")
    assert main([*words, f"base={one}", f"new={both}"]) == 2
    assert "the generate steps old_pictures, new_pictures" in capsys.readouterr().err
    (next(one.glob("steps/only_pictures/*")) / "manifest.json").unlink()
    assert main([*words, f"base={one}", f"new_pictures={both}"]) == 2
    assert "the step only_pictures, which is not finished" in capsys.readouterr().err
    assert main([*words, f"base={tmp_path / 'none'}", f"new_pictures={both}"]) == 2
    assert not (tmp_path / "other").exists()
