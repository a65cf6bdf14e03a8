"""Rules that no other tool checks: small files, plain names, nothing of one machine."""

import ast
import importlib.metadata
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGE = REPOSITORY / "tastemaker"
MODULES = sorted(PACKAGE.rglob("*.py"))
DRAWERS = {"utils", "util", "helpers", "helper", "common", "misc", "base", "core"}
LONGEST_FILE = 400
BINARY = {".safetensors", ".png", ".jpg", ".webp", ".parquet", ".npz", ".gz", ".ttf", ".woff2"}


def _name(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


def _tracked() -> list[Path]:
    """Files that are or would be committed."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=REPOSITORY, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if listed.returncode:
        pytest.skip("not a git checkout")
    paths = (REPOSITORY / name for name in listed.stdout.split("\0") if name)
    return [path for path in paths if path.is_file()]


def _texts() -> Iterator[tuple[Path, str]]:
    for path in _tracked():
        if path.suffix not in BINARY:
            yield path, path.read_text(encoding="utf-8", errors="replace")


def _public(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]:
    """Top-level public functions and classes, and the public methods of those classes."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    for node in tree.body:
        if isinstance(node, kinds) and not node.name.startswith("_"):
            yield node
            if isinstance(node, ast.ClassDef):
                yield from (
                    m for m in node.body if isinstance(m, kinds) and not m.name.startswith("_")
                )


def _calls(path: Path, *names: str) -> Iterator[ast.Call]:
    """Calls in one file, by their dotted name."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in names:
            yield node


def test_files_stay_small() -> None:
    files = [*MODULES, *sorted((REPOSITORY / "tests").rglob("*.py"))]
    lengths = {_name(path): len(path.read_text().splitlines()) for path in files}
    assert {name: n for name, n in lengths.items() if n > LONGEST_FILE} == {}


def test_depth_is_two() -> None:
    deep = [_name(path) for path in MODULES if len(path.relative_to(PACKAGE).parts) > 2]
    assert deep == []


def test_no_drawers() -> None:
    """A newcomer finds a thing by its folder's name; a drawer has none."""
    drawers = [_name(path) for path in MODULES if DRAWERS & {path.stem, path.parent.name}]
    assert drawers == []


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_public_names_have_docstrings(path: Path) -> None:
    tree = ast.parse(path.read_text())
    missing = [
        f"line {node.lineno}: {node.name}" for node in _public(tree) if not ast.get_docstring(node)
    ]
    if tree.body and not ast.get_docstring(tree):
        missing.insert(0, "the module")
    assert missing == []


def test_only_the_command_line_reads_the_environment() -> None:
    readers = [
        _name(path)
        for path in MODULES
        if path.relative_to(PACKAGE).parts[0] not in ("cli", "__main__.py")
        and re.search(
            r"\bos\.(environ|getenv)\b|\bfrom os import .*(environ|getenv)", path.read_text()
        )
    ]
    assert readers == []


def test_only_the_hardened_loader_opens_pictures() -> None:
    openers = [
        _name(path)
        for path in MODULES
        if path != PACKAGE / "store" / "images.py"
        and re.search(r"\bImage\.open\(", path.read_text())
    ]
    assert openers == []


def test_no_pickle_is_ever_executed() -> None:
    """A weights file from elsewhere must not be able to run code."""
    guilty = []
    for path in MODULES:
        text = path.read_text()
        if re.search(r"\bpickle\.load\(|\bUnpickler\b|\bjoblib\b|allow_pickle=True", text):
            guilty.append(_name(path))
        for call in _calls(path, "torch.load"):
            options = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
            if options.get("weights_only") != "True":
                guilty.append(f"{_name(path)}:{call.lineno} torch.load without weights_only=True")
    assert guilty == []


def test_no_module_level_state() -> None:
    """Module-level names are constants: nothing is rebound through `global`."""
    guilty = [
        _name(path)
        for path in MODULES
        if any(isinstance(node, ast.Global) for node in ast.walk(ast.parse(path.read_text())))
    ]
    assert guilty == []


def test_no_draw_from_a_global_generator() -> None:
    """Randomness is an argument (ruff's NPY002 watches numpy)."""
    draws = ("rand", "randn", "randint", "randperm", "normal", "bernoulli", "multinomial")
    guilty = []
    for path in MODULES:
        guilty += [
            f"{_name(path)}:{call.lineno} {ast.unparse(call.func)} without generator="
            for call in _calls(path, *(f"torch.{draw}" for draw in draws))
            if "generator" not in {keyword.arg for keyword in call.keywords}
        ]
        if re.search(r"^\s*(import random\b|from random import)", path.read_text(), re.MULTILINE):
            guilty.append(f"{_name(path)}: the module `random`")
    assert guilty == []


def test_nothing_of_one_machine() -> None:
    """No absolute path of somebody's machine and no package index in what is committed."""
    folders = "root|home|tmp|opt|mnt|work|farm|Users"
    path_of_a_machine = re.compile(rf"(?:^|[\s\"'=(:`])/(?:{folders})/[a-zA-Z.]", re.MULTILINE)
    package_index = re.compile(
        r"(?:extra-)?index-url\s*[= ]\s*\S+://|find-links\s*[= ]|//pypi\.|//files\.pythonhosted"
    )
    found = []
    for path, text in _texts():
        if path == Path(__file__):
            continue
        for pattern in (path_of_a_machine, package_index):
            found += [f"{_name(path)}: {match[0].strip()}" for match in pattern.finditer(text)]
    assert found == []


def test_nothing_big_by_accident() -> None:
    """Weights are committed once and are small; everything else is text or a picture."""
    limits = {".safetensors": 26_000_000, ".png": 1_500_000, ".jpg": 1_500_000, ".webp": 1_500_000}
    big = {
        _name(path): path.stat().st_size
        for path in _tracked()
        if path.stat().st_size > limits.get(path.suffix, 2_000_000)
    }
    assert big == {}


def test_torchvision_is_not_installed() -> None:
    """No build of it fits a CPU torch; the one that installs breaks diffusers and peft."""
    with pytest.raises(importlib.metadata.PackageNotFoundError):
        importlib.metadata.version("torchvision")


def _pins() -> dict[str, str]:
    lines = (REPOSITORY / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    return {_canonical(name): version for name, version in pins.items()}


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_constraints_pin_every_requirement() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    wanted = list(project["dependencies"])
    for extra in project["optional-dependencies"].values():
        wanted += extra
    names = {_canonical(re.split(r"[\[<>=~! ]", requirement)[0]) for requirement in wanted}
    pins = _pins()
    # An extra may name others of the project's own.
    assert names - set(pins) - {"tastemaker"} == set()
    assert pins["torch"] == "2.13.0"
    assert "torchvision" not in pins


def test_this_environment_is_the_pinned_one() -> None:
    """What the tests say holds for these versions."""
    different = {}
    for name, pin in _pins().items():
        try:
            installed = importlib.metadata.version(name).split("+")[0]
        except importlib.metadata.PackageNotFoundError:
            continue
        if installed != pin:
            different[name] = f"{installed} installed, {pin} pinned"
    assert different == {}


def test_shapes_at_the_borders_are_checked_while_testing() -> None:
    """The import hook of pyproject.toml is at work; without it the axis names would be prose."""
    import torch
    from jaxtyping import TypeCheckError

    from tastemaker.diffusion.errors import per_image_mse

    flat = torch.zeros(2, 3)
    with pytest.raises(TypeCheckError):
        per_image_mse(flat, flat)
