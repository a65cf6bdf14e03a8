"""Every row of every table is whole: it imports, is documented, and does what its kind does."""

import importlib
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pydantic import BaseModel

from tastemaker.recipe.find import packaged_recipes
from tastemaker.recipe.load import load_recipe, parse_recipe, resolved_text
from tastemaker.recipe.schema import RecipeFile
from tastemaker.recipe.stages import STAGES, load_stage
from tastemaker.recipe.yaml_text import parse_yaml
from tastemaker.records.config import Config
from tools import reference_pages

REPOSITORY = Path(__file__).resolve().parents[1]
HEAVY = ("torch", "diffusers", "transformers", "peft", "matplotlib", "scipy", "duckdb", "pyarrow")


def _with_inner(model: type[BaseModel]) -> list[type[BaseModel]]:
    inner = [
        m for f in model.model_fields.values() for m in reference_pages.models_in(f.annotation)
    ]
    return [model, *(found for m in inner for found in _with_inner(m))]


@pytest.mark.parametrize("name", STAGES)
def test_stage_is_whole(name: str) -> None:
    stage = load_stage(name, STAGES)
    assert issubclass(stage.config, Config)
    assert stage.config.model_config["frozen"]
    assert stage.config.model_config["extra"] == "forbid"
    assert isinstance(stage.version, int)
    assert stage.version >= 1
    assert callable(stage.run)
    assert stage.run.__doc__
    unknown = {
        field: kind
        for field, kind in stage.config.inputs.items()
        if field not in stage.config.model_fields or not kind
    }
    assert unknown == {}


@pytest.mark.parametrize("name", STAGES)
def test_every_key_of_a_stage_says_what_it_means(name: str) -> None:
    silent = [
        f"{model.__name__}.{field}"
        for model in _with_inner(load_stage(name, STAGES).config)
        for field, info in model.model_fields.items()
        if field != "kind" and not info.description
    ]
    assert silent == []


def test_every_stage_file_is_in_the_table() -> None:
    files = {path.stem for path in (REPOSITORY / "tastemaker/stages").glob("*.py")} - {"__init__"}
    assert files == {module.rpartition(".")[2] for module in STAGES.values()}


def _given(path: Path) -> list[str]:
    """A value for every argument that must be given."""
    text = parse_yaml(path.read_text(), path.name).value
    arguments = RecipeFile.model_validate(text).arguments
    return [f"{name}=somewhere" for name, argument in arguments.items() if argument.required]


@pytest.mark.parametrize("name", packaged_recipes())
def test_packaged_recipe_resolves_and_its_resolved_text_resolves_to_the_same(name: str) -> None:
    recipe = load_recipe(name, _given(packaged_recipes()[name]))
    assert recipe.name == name
    assert recipe.about
    again = parse_recipe(resolved_text(recipe), "resolved.yaml")
    assert [step.config for step in again.steps] == [step.config for step in recipe.steps]


def test_the_recipes_of_the_readme_are_packaged() -> None:
    assert {
        "tiny/demo",
        "tiny/smoke",
        "tiny/vae",
        "tiny/clip",
        "tiny/base",
        "sdxl_lora_style",
    } <= set(packaged_recipes())


def test_the_recipe_in_the_docs_resolves() -> None:
    page = (REPOSITORY / "docs/recipes.md").read_text()
    example = re.search(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert example
    recipe = parse_recipe(example[1], "example.yaml", ["pictures=somewhere", "rank=4"])
    assert recipe.steps[-1].config.model_dump()["method"]["rank"] == 4


@pytest.mark.parametrize(
    ("module", "table"),
    [
        ("tastemaker.models.family", "FAMILIES"),
        ("tastemaker.scorers.table", "SCORERS"),
    ],
)
def test_every_row_of_a_table_imports(module: str, table: str) -> None:
    for name, target in getattr(importlib.import_module(module), table).items():
        path, attribute = target.split(":")
        found = getattr(importlib.import_module(path), attribute)
        assert found.__doc__, f"{name} has no docstring"


def test_every_command_has_help_and_every_option_too() -> None:
    silent = []
    for path, command in reference_pages.all_commands():
        if not command.help:
            silent.append(" ".join(path))
        for parameter in command.params:
            if not getattr(parameter, "help", None) and not getattr(parameter, "hidden", False):
                silent.append(f"{' '.join(path)} {parameter.name}")
    assert silent == []


@pytest.mark.parametrize("page", reference_pages.PAGES)
def test_generated_page_is_not_older_than_the_code(page: str) -> None:
    written = (REPOSITORY / "docs" / page).read_text()
    assert written.rstrip() == reference_pages.PAGES[page]().rstrip(), "run `make fmt`"


def test_help_answers_at_once() -> None:
    """Nothing heavy is imported before it is needed; CPU time, because a test machine is busy."""
    code = (
        "import resource, sys\n"
        "from tastemaker.cli.app import main\n"
        "code = main(['--help'])\n"
        "used = resource.getrusage(resource.RUSAGE_SELF)\n"
        f"heavy = [name for name in {HEAVY} if name in sys.modules]\n"
        "print(code, heavy, used.ru_utime + used.ru_stime, file=sys.stderr)\n"
    )
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=False
    )
    wall = time.perf_counter() - started
    code_, heavy, seconds = (
        done.stderr.strip().splitlines()[-1].replace("[]", "none").split(maxsplit=2)
    )
    assert code_ in ("0", "None")
    assert heavy == "none"
    assert float(seconds) < 1.0, f"{seconds} CPU seconds, {wall:.1f} s in all"
    assert "run" in done.stdout
