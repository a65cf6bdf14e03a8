"""Recipes are read strictly; what is wrong is said with its place and the way out."""

from pathlib import Path

import pytest

from tastemaker.errors import RecipeError
from tastemaker.recipe.explain import explain
from tastemaker.recipe.find import find_recipe, packaged_recipes
from tastemaker.recipe.load import load_recipe, parse_recipe, resolved_text
from tastemaker.recipe.schema import Recipe, json_schema
from tastemaker.recipe.single import single_step
from tests.recipe_toys import RECIPE, TOYS


def parse(text: str = RECIPE, *overrides: str) -> Recipe:
    if not any(pair.startswith("pictures=") for pair in overrides):
        overrides = ("pictures=folder", *overrides)
    return parse_recipe(text, "toy.yaml", overrides, stages=TOYS)


def problem(text: str, *overrides: str) -> RecipeError:
    with pytest.raises(RecipeError) as caught:
        parse(text, *overrides)
    return caught.value


def test_a_recipe_resolves() -> None:
    recipe = parse()
    collect, fit, show = recipe.steps
    assert collect.config.model_dump()["sources"] == ("folder",)
    assert fit.config.model_dump(include={"lr", "seed", "schedule"}) == {
        "lr": 1e-4,
        "seed": 7,
        "schedule": "linear",
    }
    assert fit.config.model_dump()["optimizer"]["weight_decay"] == 1e-6
    assert show.config.model_dump()["name"] == "show"


def changed(old: str, new: str) -> str:
    assert old in RECIPE
    return RECIPE.replace(old, new, 1)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            "weight_decay: 1e-6",
            "wieght_decay: 1e-6",
            "recipe.fit.optimizer.wieght_decay (toy.yaml line 19): got an unknown key; expected "
            "one of betas, kind, weight_decay. Did you mean 'weight_decay'?",
        ),
        ("schedule: linear", "shedule: linear", "recipe.fit.shedule (toy.yaml line 17)"),
        ("schedule: linear", "schedule: liner", "got 'liner'; expected 'constant', 'cosine' or 'l"),
        ("schedule: linear", "schedule: liner", "Did you mean 'linear'?"),
        ("schedule: linear", "images_total: '5'", "got '5'; expected a valid integer. It means"),
        ("schedule: linear", "images_total: true", "got True; expected a valid integer"),
        ("schedule: linear", "images_total: 0", "got 0; expected a number greater than 0"),
        ("schedule: linear", "lr: 2", "toy.yaml line 17: got the key 'lr' a second time"),
        ("    collection: collect\n", "", "recipe.fit.collection (toy.yaml line 13): got nothing"),
        (
            "stage: fit",
            "stage: fti",
            "recipe.steps.1 (toy.yaml line 13).stage: got the stage 'fti'",
        ),
        ("stage: fit", "stage: fti", "Did you mean 'fit'?"),
        ("stage: fit", "stage: 3", "got stage: 3; expected a stage as text"),
        ("name: show", "name: fit", "got a second step 'fit'"),
        ("name: show", "name: Show it", "got the name 'Show it'"),
        ("sources: $pictures", "sources: $picture", "Did you mean '$pictures'?"),
        (
            "lr: $speed",
            "lr: 1e-4",
            "recipe.arguments.speed (toy.yaml line 6): got an argument that",
        ),
        ("what: fit", "what: show", "recipe.show.what: got the step itself"),
        ("collection: collect", "collection: show", "got the later step 'show'"),
        ("what: fit", "what: collect", "which leaves collection; expected one that leaves adapter"),
        ("fit.lr: ", "fit.lrr: ", "Did you mean 'fit.lr'?"),
        ("seed: 7", "seed: seven", "recipe.seed (toy.yaml line 3): got 'seven'"),
        ("seed: 7", "sead: 7", "Did you mean 'seed'?"),
        ("about: Counts words.", "about: [1]", "recipe.about (toy.yaml line 2)"),
        (
            "weight_decay: 1e-6",
            "kind: adan",
            "recipe.fit.optimizer (toy.yaml line 18)",
        ),
        ("weight_decay: 1e-6", "betas: [1]", "recipe.fit.optimizer.betas"),
    ],
)
def test_what_is_wrong_is_said(old: str, new: str, words: str) -> None:
    error = problem(changed(old, new))
    assert words in str(error)
    assert error.exit_code == 2


def test_all_problems_are_told_at_once() -> None:
    text = changed("schedule: linear", "shedule: linear").replace("what: fit", "wat: fit")
    error = problem(text)
    assert "shedule" in str(error)
    assert any("recipe.show.wat" in note for note in error.__notes__)
    assert any("recipe.show.what" in note for note in error.__notes__)


@pytest.mark.parametrize("text", ["", "- a", "just words", "name: x\nsteps: []"])
def test_no_recipe(text: str) -> None:
    with pytest.raises(RecipeError):
        parse_recipe(text, "toy.yaml", stages=TOYS)


def test_a_required_argument() -> None:
    with pytest.raises(RecipeError, match="'pictures': got nothing; expected a folder of words"):
        parse_recipe(RECIPE, "toy.yaml", stages=TOYS)


@pytest.mark.parametrize(
    ("pair", "step", "path", "value"),
    [
        ("fit.lr=1e-5", 1, "lr", 1e-5),
        ("speed=2e-3", 1, "lr", 2e-3),
        ("seed=3", 1, "seed", 3),
        ("fit.optimizer.weight_decay=0.5", 1, "optimizer.weight_decay", 0.5),
        ("fit.optimizer={kind: sgd}", 1, "optimizer.kind", "sgd"),
        ("fit.inner.weight_decay=0.5", 1, "inner.weight_decay", 0.5),
        ("fit.folder=~", None, "", None),
        ("pictures=[a, b]", 0, "sources", ["a", "b"]),
        ("collect.where={style: flat}", 0, "where", {"style": ["flat"]}),
        ("collect.sizes=[1, 2]", 0, "sizes", [1, 2]),
        ("collect.sizes=3", 0, "sizes", [3]),
        ("collect.where.style=flat", 0, "where.style", ["flat"]),
        ("fit.start=a=b", 1, "start", "a=b"),
    ],
)
def test_overrides(pair: str, step: int | None, path: str, value: object) -> None:
    if step is None:
        assert "(command line): got None" in str(problem(RECIPE, pair))
        return
    values = parse(RECIPE, pair).steps[step].config.model_dump(mode="json")
    for part in path.split("."):
        values = values[part]
    assert values == value


@pytest.mark.parametrize(
    ("pair", "words"),
    [
        ("picures=x", "Did you mean 'pictures'?"),
        ("lr=1e-5", "Did you mean 'fit.lr'?"),
        ("fti.lr=1e-5", "Did you mean 'fit.lr'?"),
        ("fit.lrr=1e-5", "recipe.fit.lrr (command line): got an unknown key"),
        ("fit.lr=fast", "recipe.fit.lr (command line): got 'fast'; expected a valid number"),
        ("fit.lr", "'fit.lr': got no '='; expected key=value"),
        ("fit.lr.x=1", "'fit.lr.x': got "),
        ("fit.stage=show", "the step's own stage"),
        ("collect.sizes=[1, x]", "recipe.collect.sizes.1 (command line): got 'x'"),
        ("seed=-1", "'seed': got -1"),
        ("fit.lr=[", "'fit.lr=['"),
    ],
)
def test_wrong_overrides(pair: str, words: str) -> None:
    assert words in str(problem(RECIPE, pair))


def test_the_resolved_text_resolves_to_the_same() -> None:
    recipe = parse(RECIPE, "fit.lr=1e-7", "fit.start=$$odd", "fit.limit=.inf")
    again = parse_recipe(resolved_text(recipe), "again.yaml", stages=TOYS)
    assert [s.config for s in again.steps] == [s.config for s in recipe.steps]
    assert (again.name, again.seed) == ("toy/demo", 7)
    # What the user has changed is not the source's any more.
    assert dict(again.stated) == {"fit.optimizer.weight_decay": "Paper, table 3: 1e-6"}


def test_explain_says_where_each_value_came_from() -> None:
    recipe = parse(RECIPE, "fit.images_total=20", "speed=2e-4")
    rows = {row.path: row for row in explain(recipe)}
    assert (rows["fit.images_total"].basis, rows["fit.images_total"].value) == ("set by you", 20)
    assert rows["fit.lr"].basis == "set by you"
    decay = rows["fit.optimizer.weight_decay"]
    assert (decay.basis, decay.citation) == ("stated", "Paper, table 3: 1e-6")
    assert rows["fit.schedule"].basis == "chosen by us"
    assert rows["fit.schedule"].origin == "recipe"
    assert rows["fit.inner.weight_decay"].origin == "stage default"
    assert rows["fit.optimizer.weight_decay"].origin == "recipe"
    assert rows["fit.optimizer.betas"].origin == "stage default"
    assert rows["fit.seed"].origin == "recipe seed"
    assert rows["fit.collection"].basis == "input"
    assert rows["fit.images_total"].about == "How long."
    assert {row.path: row for row in explain(parse())}["fit.lr"].citation == "Paper: 1e-4"


def test_a_default_can_be_stated_by_its_stage() -> None:
    recipe = parse(
        changed("lr: $speed", "inner: {betas: [0.1, $speed]}").replace("  fit.lr", "  #")
    )
    row = next(row for row in explain(recipe) if row.path == "fit.lr")
    assert (row.basis, row.citation) == ("stated", "a paper")


@pytest.mark.parametrize(
    ("sources", "wanted"), [("[a, b]", ("a", "b")), ("[a]", ("a",)), ("a", ("a",))]
)
def test_the_stages_take_lists_and_single_texts(sources: str, wanted: tuple[str, ...]) -> None:
    where = "where: {split: [tune, heldout], style: flat}"
    text = f"name: x\nsteps:\n- {{name: c, stage: collect, sources: {sources}, {where}}}\n"
    text += f"- {{name: s, stage: curate, collection: c, {where}}}\n"
    text += f"- {{name: p, stage: prompts, collection: c, {where}}}\n"
    collect, curate, prompts = (step.config.model_dump() for step in parse_recipe(text, "x").steps)
    assert collect["sources"] == wanted
    for values in (collect, curate, prompts):
        assert values["where"] == {"split": ("tune", "heldout"), "style": ("flat",)}


def test_unknown_recipe_gives_the_nearest_names(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="neither a file nor a packaged recipe"):
        find_recipe("no/such")
    for name in packaged_recipes():
        assert find_recipe(name).is_file()
        with pytest.raises(RecipeError, match="Did you mean"):
            find_recipe(f"{name}s")
    file = tmp_path / "own.yaml"
    file.write_text(RECIPE)
    assert load_recipe(str(file), ["pictures=x"], stages=TOYS).source == str(file)
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match="no UTF-8"):
        load_recipe(str(file), stages=TOYS)


def test_json_schema_allows_arguments_and_keeps_stages_apart() -> None:
    schema = json_schema(TOYS)
    steps = {
        v["properties"]["stage"]["const"]: v
        for v in schema["properties"]["steps"]["items"]["oneOf"]
    }
    assert set(steps) == set(TOYS)
    fit = steps["fit"]
    assert fit["required"] == ["name", "stage", "collection"]
    assert fit["additionalProperties"] is False
    assert {"type": "string", "pattern": r"^\$[^$]"} in fit["properties"]["lr"]["anyOf"]
    assert "fit.Adam" in schema["$defs"]


def test_single_step_fills_inputs_from_places() -> None:
    one = single_step("collect", ["a", "b"], stages=TOYS)
    assert one.steps[0].config.model_dump()["sources"] == ("a", "b")
    two = single_step("fit", ["runs/x", "lr=1e-3", "seed=4"], stages=TOYS)
    values = two.steps[0].config.model_dump()
    assert (values["collection"], values["lr"], values["seed"]) == ("runs/x", 1e-3, 4)
    three = single_step("fit", ["runs/x", "runs/y"], stages=TOYS)
    assert three.steps[0].config.model_dump()["start"] == "runs/y"
    with pytest.raises(RecipeError, match="3 places"):
        single_step("fit", ["x", "y", "z"], stages=TOYS)
    with pytest.raises(RecipeError, match=r"recipe.fit.collection .*got nothing"):
        single_step("fit", [], stages=TOYS)


def test_single_step_takes_values_from_a_recipe(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(RECIPE)
    one = single_step("fit", ["x", "speed=3e-4"], taken_from=str(file), stages=TOYS)
    values = one.steps[0].config.model_dump()
    assert (values["collection"], values["lr"], values["seed"]) == ("x", 3e-4, 7)
    assert values["optimizer"]["weight_decay"] == 1e-6
    assert values["schedule"] == "linear"
