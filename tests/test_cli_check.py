"""`tastemaker check` as a user sees it, on real pictures and the tiny model."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tastemaker.cli.app import main
from tastemaker.errors import RecipeError
from tastemaker.recipe import check as recipe_check
from tastemaker.recipe.load import parse_recipe
from tests.tiny_run import write_pictures

RECIPE = """
name: small
arguments: {pictures: {about: "pictures"}, model: {default: tiny-sdxl}}
steps:
  - {name: pictures, stage: collect, sources: $pictures}
  - {name: chosen, stage: curate, collection: pictures, rules: []}
  - {name: cache, stage: cache, collection: pictures, selection: chosen, model: $model, size_px: 32}
  - name: fit
    stage: fit
    model: $model
    collection: pictures
    selection: chosen
    cache: cache
    images_total: 40
    batch: 4
    log_every_images: 4
    validate_every_images: 20
    save_every_images: 20
"""
MODEL = ", model: {default: tiny-sdxl}"
Tell = Callable[..., tuple[int, str]]


@pytest.fixture
def tell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Tell:
    monkeypatch.chdir(tmp_path)
    Path("small.yaml").write_text(RECIPE)
    write_pictures(tmp_path / "pics")

    def say(*words: str) -> tuple[int, str]:
        code = main(list(words))
        told = capsys.readouterr()
        assert told.out, told.err
        return code, told.out

    return say


def test_a_sound_recipe(tell: Tell) -> None:
    code, out = tell("check", "small.yaml", "pictures=pics")
    assert code == 0, out
    assert "licence of the base model: CC BY-SA 4.0 (model card)" in out
    assert "memory of LoRA of rank 16 in fp32, 4 pictures of 32x32 a pass:" in out
    assert "8, 12, 16, 24, 40, 80, 141 GB  fits" in out
    assert "disk: 2 checkpoints of" in out
    assert "Warning" not in out
    assert out.endswith("small is ready to run: 4 steps checked.\n")


def test_a_model_that_an_earlier_step_trains_is_looked_at_as_what_that_step_starts_from(
    tell: Tell,
) -> None:
    """Rounds of self-play and self-reward are."""
    first = RECIPE.replace("    images_total", "    method: {kind: full}\n    images_total")
    fit = first[first.index("  - name: fit") :]
    rounds = [
        fit.replace("name: fit", f"name: fit-{n}").replace("$model", before)
        for n, before in ((2, "fit"), (3, "fit-2"))
    ]
    Path("rounds.yaml").write_text(first + "".join(rounds))
    code, out = tell("check", "rounds.yaml", "pictures=pics")
    assert code == 0, out
    assert out.count("licence of the base model: CC BY-SA 4.0 (model card)") == 3
    assert out.count("memory of whole networks in fp32, 4 pictures of 32x32 a pass:") == 3
    assert "cannot be told" not in out


def test_everything_at_once_and_the_worst_first(tell: Tell, tmp_path: Path) -> None:
    (tmp_path / "pics" / "05.png").write_bytes(b"broken")
    (tmp_path / "pics" / "06.txt").unlink()
    words = ["pictures=pics", "model=no-such-model", "fit.save_every_images=50"]
    code, out = tell("check", "small.yaml", *words)
    assert code == 2
    lines = [line for line in out.splitlines() if line.startswith(("Error", "Warning"))]
    assert [line.partition(":")[0] for line in lines] == ["Error"] + ["Warning"] * 4
    # One model that is not there is told once, with all its places.
    assert "recipe.cache.model, recipe.fit.model: model 'no-such-model'" in lines[0]
    assert "1 of 10 pictures have no caption" in lines[1]
    assert "1 of 10 pictures that were read are unusable, first" in lines[2]
    assert "neither a model card nor our list" in lines[3]
    assert "recipe.fit: save_every_images: 50 in a run of 40" in lines[4]
    assert "memory: cannot be told (no-such-model" in out
    assert "small is not ready to run" in out


def test_for_programs(tell: Tell) -> None:
    code, out = tell("check", "small.yaml", "pictures=pics", "--json")
    value = json.loads(out)
    assert (code, value["ready"], value["findings"]) == (0, True, [])
    fit = value["forecasts"]["fit"]
    assert fit["devices"]["8 GB"] == {"fits": True, "with": None}
    assert fit["need"]["total"] >= fit["need"]["weights"] > 0


def test_after_the_first_steps_more_is_known(tell: Tell, tmp_path: Path) -> None:
    first = RECIPE[: RECIPE.index("  - {name: cache")].replace(MODEL, "")
    Path("first.yaml").write_text(first)
    assert tell("run", "first.yaml", "pictures=pics", "-o", "work")[0] == 0
    recipe = RECIPE.replace("collection: pictures", "collection: work")
    recipe = recipe.replace("selection: chosen", "selection: work")
    start, end = recipe.index("  - {name: pictures"), recipe.index("  - {name: cache")
    recipe = recipe[:start] + recipe[end:]
    recipe = recipe.replace('pictures: {about: "pictures"}, ', "")
    Path("later.yaml").write_text(recipe.replace("size_px: 32", "buckets: {sizes: [32x32, 32x64]}"))
    code, out = tell("check", "later.yaml")
    assert code == 0, out
    assert "10 pictures in 1 of 2 buckets" in out
    assert "32x32: 10" in out
    assert "of latents of 10 pictures" in out
    # Two captions of each picture: their states are kept.
    assert "kept texts" in out
    (tmp_path / "pics" / "03.png").unlink()
    words = ["fit.batch=64", "cache.buckets.sizes=[32x32]"]
    code, out = tell("check", "later.yaml", *words)
    assert code == 0
    assert "1 of 10 picture files are gone, first" in out
    assert "recipe.fit: batch: 64 images a step, but there are 10 pictures" in out
    code, out = tell("check", "later.yaml", "cache.buckets.sizes=[64x64]")
    assert code == 2
    assert "Error: recipe.cache: buckets: 10 of 10 pictures are smaller than every bucket" in out


def test_a_disk_that_is_too_small(tell: Tell, monkeypatch: pytest.MonkeyPatch) -> None:
    usage: Any = recipe_check.shutil._ntuple_diskusage  # type: ignore[attr-defined]  # noqa: SLF001
    monkeypatch.setattr(recipe_check, "_LEAST_FREE", 1)
    monkeypatch.setattr(recipe_check.shutil, "disk_usage", lambda path: usage(10, 9, 1))
    code, out = tell("check", "small.yaml", "pictures=pics")
    assert code == 2
    assert "Error: runs/small: the run may write" in out
    assert "fit: checkpoints" in out
    assert "GiB are free" in out


def test_no_usable_picture_is_fatal(tell: Tell, tmp_path: Path) -> None:
    for path in (tmp_path / "pics").glob("*.png"):
        path.write_bytes(b"broken")
    code, out = tell("check", "small.yaml", "pictures=pics")
    assert code == 2
    assert "10 of 10 pictures that were read are unusable" in out


WRONG = ["fit.lr=3", "cache.crop=middle", "fit.batch=many", "chosen.nonsense=1"]


def test_a_recipe_tells_all_its_errors(tell: Tell) -> None:
    """An argument that is not given hides neither an unknown step nor a wrong value."""
    code, out = tell("check", "small.yaml", *WRONG, "collct.limit=2", "--json")
    assert code == 2
    wheres = [finding["where"] for finding in json.loads(out)["findings"]]
    assert len(wheres) == 6
    for named in ("'pictures'", "'collct.limit'", "fit.lr", "cache.crop", "fit.batch", "nonsense"):
        assert any(named in where for where in wheres), named
    # What waits for the argument is not called wrong itself.
    assert not any("pictures.sources" in where for where in wheres)
    with pytest.raises(RecipeError) as caught:
        parse_recipe(RECIPE, "small.yaml", WRONG)
    assert len(caught.value.all()) == 5


def test_a_step_that_waits_for_an_argument_is_not_called_wrong() -> None:
    """`prompts` wants one of three fields: which it has is only known with the argument."""
    text = """
name: waits
arguments: {list: {about: "prompts"}, where: {default: {}}}
steps:
  - {name: prompts, stage: prompts, file: $list, limit: 0}
  - {name: pictures, stage: collect, sources: x, where: $where}
"""
    with pytest.raises(RecipeError) as caught:
        parse_recipe(text, "waits.yaml")
    assert [str(one.where).partition(" ")[0] for one in caught.value.all()] == [
        "'list'", "recipe.prompts.limit",
    ]  # fmt: skip
