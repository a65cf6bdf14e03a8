"""A recipe runs once: what is done is skipped, what has changed is done again."""

import json
import os
from pathlib import Path

import pytest
from PIL import Image

from tastemaker.errors import InputError, Interrupted, RecipeError
from tastemaker.recipe.check import check_recipe
from tastemaker.recipe.content import ContentKeys
from tastemaker.recipe.load import load_recipe, parse_recipe
from tastemaker.recipe.plan import make_plan
from tastemaker.recipe.runner import StepDone, StepEvent, StepSkipped, StepStarted, run_recipe
from tastemaker.recipe.schema import Recipe
from tastemaker.recipe.single import single_step
from tastemaker.records.run import Artefact
from tastemaker.store.rundir import RunDir
from tests.recipe_toys import GATHER, LOAD, RECIPE, TOYS, words_folder


def recipe(pictures: Path, *overrides: str) -> Recipe:
    return parse_recipe(RECIPE, "toy.yaml", [f"pictures={pictures}", *overrides], stages=TOYS)


def go(path: Path, what: Recipe, grow: bool = False) -> list[StepEvent]:
    with RunDir(path) as run:
        return list(run_recipe(what, run, command=["tastemaker", "run"], grow=grow))


def done(events: list[StepEvent]) -> list[str]:
    return [event.name for event in events if isinstance(event, StepDone)]


def result(path: Path) -> list:
    (step,) = [step for step in RunDir(path).steps() if step.name == "fit"]
    return json.loads((step.path / "adapter/count.json").read_text())


def test_all_steps_then_none(tmp_path: Path) -> None:
    words, run = words_folder(tmp_path / "words"), tmp_path / "run"
    events = go(run, recipe(words))
    assert [type(event) for event in events] == [StepStarted, StepDone] * 3
    assert [event.number for event in events] == [1, 1, 2, 2, 3, 3]
    assert result(run) == [3, 7, 1e-4]
    assert (RunDir(run).steps()[2].path / "shown").read_text() == "show adapter"
    again = go(run, recipe(words))
    assert [type(event) for event in again] == [StepSkipped] * 3
    assert [a.manifest for a in again] == [e.manifest for e in events if isinstance(e, StepDone)]


def test_the_run_folder_tells_what_was_done(tmp_path: Path) -> None:
    words, path = words_folder(tmp_path / "words"), tmp_path / "run"
    go(path, recipe(words, "fit.images_total=12"))
    run = RunDir(path)
    facts = run.facts()
    assert facts["seed"] == 7
    assert facts["command"] == ["tastemaker", "run"]
    assert facts["overrides"] == [f"pictures={words}", "fit.images_total=12"]
    assert facts["versions"]["torch"]
    assert len(facts["recipe_hash"]) == 64
    assert [entry.name for entry in run.plan()] == ["collect", "fit", "show"]
    saved = load_recipe(str(run.recipe_path), stages=TOYS)
    assert [s.config for s in saved.steps] == [
        s.config for s in recipe(words, "fit.images_total=12").steps
    ]
    kinds = [(event["step"], event["kind"]) for event in run.events()]
    assert kinds[:3] == [(None, "run"), ("collect", "started"), ("collect", "finished")]
    manifest = run.steps()[1].finished()
    assert manifest is not None
    assert manifest.results == {"loss": 5e-5, "table": [1, 2]}
    assert manifest.seconds >= 0


@pytest.mark.parametrize(
    ("change", "again"),
    [
        ("fit.lr=1e-3", ["fit", "show"]),
        ("seed=8", ["fit", "show"]),
        ("collect.where={a: b}", ["collect", "fit", "show"]),
        ("fit.workers=2", []),
    ],
)
def test_a_changed_value_does_its_step_and_the_later_ones(
    tmp_path: Path, change: str, again: list[str]
) -> None:
    words, run = words_folder(tmp_path / "words"), tmp_path / "run"
    go(run, recipe(words))
    assert done(go(run, recipe(words, change))) == again
    # What was done before is still there.
    assert done(go(run, recipe(words))) == []


def test_a_changed_input_is_never_served_stale(tmp_path: Path) -> None:
    words, run = words_folder(tmp_path / "words"), tmp_path / "run"
    go(run, recipe(words))
    (words / "b.txt").write_text("four")
    assert done(go(run, recipe(words))) == ["collect", "fit", "show"]
    assert result(run)[0] == 4
    (words / "b.txt").unlink()
    assert done(go(run, recipe(words))) == []
    assert result(run)[0] == 3
    # A copy with the same content is the same input.
    other = words_folder(tmp_path / "other")
    assert done(go(run, recipe(other))) == []


def test_a_lost_output_is_made_again(tmp_path: Path) -> None:
    words, run = words_folder(tmp_path / "words"), tmp_path / "run"
    go(run, recipe(words))
    (RunDir(run).steps()[2].path / "shown").unlink()
    assert done(go(run, recipe(words))) == ["show"]


def test_ctrl_c_keeps_what_is_done(tmp_path: Path) -> None:
    words, run = words_folder(tmp_path / "words", "stop"), tmp_path / "run"
    with pytest.raises(Interrupted, match=r"Stopped in step 'fit'.*goes on.*: tastemaker run"):
        go(run, recipe(words))
    events = go(run, recipe(words))
    assert isinstance(events[0], StepSkipped)
    assert isinstance(events[1], StepStarted)
    assert events[1].resumed
    assert "interrupted" in [event["kind"] for event in RunDir(run).events()]


def test_a_failed_step_says_which_and_can_go_on(tmp_path: Path) -> None:
    words, run = words_folder(tmp_path / "words", "later"), tmp_path / "run"
    with pytest.raises(RuntimeError) as caught:
        go(run, recipe(words))
    assert caught.value.__notes__ == ["This was in step 'fit' (fit)."]
    failed = [event for event in RunDir(run).events() if event["kind"] == "failed"]
    assert failed[0]["error"] == "RuntimeError: fell over"
    assert done(go(run, recipe(words))) == ["fit", "show"]


def test_missing_inputs_stop_before_anything_is_done(tmp_path: Path) -> None:
    text = RECIPE.replace("collection: collect", "collection: colect").replace(
        "what: fit", "what: f"
    )
    wrong = parse_recipe(text, "toy.yaml", [f"pictures={tmp_path / 'no'}"], stages=TOYS)
    with pytest.raises(RecipeError) as caught:
        go(tmp_path / "run", wrong)
    assert "recipe.collect.sources.0: got" in str(caught.value)
    assert "Did you mean 'collect'?" in caught.value.__notes__[0]
    assert not (tmp_path / "run/steps").exists()


def test_outputs_of_other_runs_are_inputs(tmp_path: Path) -> None:
    words, first = words_folder(tmp_path / "words"), tmp_path / "first"
    go(first, recipe(words))
    step = RunDir(first).steps()[0]
    collection = step.path / "collection"
    keys = set()
    for place in (first, step.path, collection):
        one = single_step("fit", [str(place)], stages=TOYS)
        go(tmp_path / "second", one)
        assert result(tmp_path / "second")[0] == 3
        keys.add(RunDir(tmp_path / "second").plan()[0].key)
    # Whichever way it is named, it is the same input.
    assert len(keys) == 1
    with pytest.raises(RecipeError, match="no finished step has left adapter or model"):
        go(tmp_path / "third", single_step("show", [str(step.path)], stages=TOYS))


def test_a_step_that_left_something_else(tmp_path: Path) -> None:
    text = RECIPE.replace("what: fit", "what: other").replace(
        "  - name: show\n", "  - {name: other, stage: show, what: fit}\n  - name: show\n"
    )
    odd = parse_recipe(text, "t.yaml", [f"pictures={words_folder(tmp_path / 'w')}"], stages=TOYS)
    with pytest.raises(RecipeError, match=r"show.what: got the step 'other', which left samples"):
        go(tmp_path / "run", odd)


def test_a_folder_grows_by_single_steps(tmp_path: Path) -> None:
    words, run = words_folder(tmp_path / "words"), tmp_path / "run"
    go(run, single_step("collect", [str(words)], stages=TOYS), grow=True)
    fit = single_step("fit", [str(run), "lr=1e-3"], stages=TOYS)
    go(run, fit, grow=True)
    assert [entry.name for entry in RunDir(run).plan()] == ["collect", "fit"]
    assert result(run) == [3, 0, 1e-3]
    assert done(go(run, fit, grow=True)) == []
    go(run, single_step("collect", [str(words), "where={a: b}"], stages=TOYS), grow=True)
    assert [entry.name for entry in RunDir(run).plan()] == ["collect", "fit"]
    saved = load_recipe(str(run / "recipe.yaml"), stages=TOYS)
    assert [step.name for step in saved.steps] == ["collect", "fit"]
    assert saved.steps[0].config.model_dump()["where"] == {"a": ("b",)}


def test_content_keys_read_a_file_again_only_when_it_changed(tmp_path: Path) -> None:
    folder, cache = words_folder(tmp_path / "words"), tmp_path / "cache.json"
    (folder / ".hidden").write_text("x")
    keys = ContentKeys(cache)
    key = keys.key(folder)
    keys.save()
    (folder / ".hidden").write_text("y")
    stat = (folder / "a.txt").stat()
    (folder / "a.txt").write_text("one two six!!")
    os.utime(folder / "a.txt", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert len("one two six!!") == stat.st_size
    assert ContentKeys(cache).key(folder) == key
    assert ContentKeys().key(folder) != key
    os.utime(folder / "a.txt", ns=(0, 0))
    assert ContentKeys(cache).key(folder) != key
    cache.write_text("broken")
    assert ContentKeys(cache).key(folder) == ContentKeys().key(folder)


def test_check_finds_everything_at_once(tmp_path: Path) -> None:
    text = RECIPE.replace("collection: collect", "collection: colect")
    wrong = parse_recipe(
        text, "toy.yaml", [f"pictures={tmp_path / 'no'}", "fit.images_total=3"], stages=TOYS
    )
    findings = check_recipe(wrong, RunDir(tmp_path / "run"))
    assert [(f.where, f.fatal) for f in findings] == [
        ("recipe.collect.sources.0", True),
        ("recipe.fit.collection", True),
        ("recipe.fit.images_total", False),
    ]
    assert findings[0].problem.startswith(f"got '{tmp_path}/no'; expected an earlier step")
    assert not (tmp_path / "run").exists()


def test_check_of_a_place_that_cannot_be_used(tmp_path: Path) -> None:
    words = words_folder(tmp_path / "words")
    assert check_recipe(recipe(words), RunDir(tmp_path / "run")) == []
    (finding,) = check_recipe(recipe(words), RunDir(words / "a.txt" / "run"))
    assert finding.fatal
    assert "-o" in finding.todo


def test_errors_of_a_stage_keep_their_words(tmp_path: Path) -> None:
    words = words_folder(tmp_path / "words", "wrong")
    with pytest.raises(InputError, match="words: got a wrong word; expected a right one"):
        go(tmp_path / "run", recipe(words))


def test_check_looks_into_folders_of_pictures(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    Image.new("RGB", (4, 4)).save(words_folder(tmp_path / "full") / "a.png")
    for name, count in (("nowhere", 1), ("empty", 1), ("full", 0)):
        one = single_step("gather", [str(tmp_path / name)], stages={"gather": GATHER})
        findings = check_recipe(one, RunDir(tmp_path / "run"))
        assert [f.where.partition(":")[0] for f in findings] == ["recipe.gather.folders.0"] * count
        assert all(str(tmp_path / name) in f"{f.where} {f.problem}" for f in findings)
    keys = [recipe_key(tmp_path / "full")]
    Image.new("RGB", (5, 5)).save(tmp_path / "full" / "b.png")
    assert recipe_key(tmp_path / "full") not in keys


def recipe_key(folder: Path) -> str:
    one = single_step("gather", [str(folder)], stages={"gather": GATHER})
    return make_plan(one, ContentKeys())[0][0].key


def test_a_model_is_located_and_counts_by_its_content(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    load = {"load": LOAD}
    first = make_plan(single_step("load", [str(model)], stages=load), ContentKeys())[0][0]
    assert isinstance(first.inputs["model"], Artefact)
    assert first.inputs["model"].path == model
    (model / "config.json").write_text("[]")
    again = make_plan(single_step("load", [str(model)], stages=load), ContentKeys())[0][0]
    assert again.key != first.key
    missing = single_step("load", ["no-such-model"], stages=load)
    (finding,) = check_recipe(missing, RunDir(tmp_path / "run"))
    assert finding.where == "recipe.load.model: model 'no-such-model'"
