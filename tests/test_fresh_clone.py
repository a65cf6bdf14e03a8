"""The README's commands in a fresh clone with a fresh environment, as a new user meets them."""

import os
import re
import subprocess
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def _run(*command: str, cwd: Path) -> str:
    """Run as a new user would: no virtual environment, no settings of ours."""
    ours = ("VIRTUAL_ENV", "PYTHONPATH", "PIP_CONSTRAINT", "MAKEFLAGS", "MAKELEVEL", "MFLAGS")
    environment = {name: value for name, value in os.environ.items() if name not in ours}
    own = os.environ.get("VIRTUAL_ENV")
    places = environment["PATH"].split(os.pathsep)
    environment["PATH"] = os.pathsep.join(p for p in places if not own or not p.startswith(own))
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, check=False,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, (
        f"{' '.join(command)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    )
    return done.stdout


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone of what is committed."""
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=REPOSITORY, capture_output=True, check=False
    )
    if head.returncode:
        pytest.skip("nothing is committed here")
    folder = tmp_path_factory.mktemp("fresh") / "a clone"
    _run("git", "clone", "--quiet", str(REPOSITORY), str(folder), cwd=REPOSITORY)
    return folder


@pytest.fixture(scope="module")
def installed(clone: Path) -> Path:
    """The clone with the environment that `make demo` makes first."""
    _run("make", ".venv/.demo", cwd=clone)
    return clone


def test_the_readme_names_the_two_commands(clone: Path) -> None:
    first_block = re.search(r"```\n(.*?)```", (clone / "README.md").read_text(), re.DOTALL)
    assert first_block
    commands = [line.split("#")[0].strip() for line in first_block[1].strip().splitlines()]
    assert commands == ["make demo", "make test"]


@pytest.mark.parametrize("target", ["demo", "test", "check", "docs", "recipes"])
def test_make_knows_what_to_do(clone: Path, target: str) -> None:
    plan = _run("make", "-n", target, cwd=clone)
    assert "pip install" in plan


def test_the_environment_is_lean(installed: Path) -> None:
    packages = _run(".venv/bin/pip", "freeze", cwd=installed).lower()
    assert "torch==2.13.0" in packages
    assert "torchvision" not in packages
    assert not re.search(r"^nvidia-", packages, re.MULTILINE)


def test_a_second_setup_has_nothing_to_do(installed: Path) -> None:
    assert "pip install" not in _run("make", "-n", "demo", cwd=installed)


def test_doctor_and_the_smallest_recipe_work(installed: Path) -> None:
    assert "torch" in _run(".venv/bin/tastemaker", "doctor", cwd=installed)
    _run(".venv/bin/tastemaker", "check", "tiny/demo", cwd=installed)
    last = _run(".venv/bin/tastemaker", "run", "tiny/smoke", "-o", "runs/smoke", cwd=installed)
    report = installed / last.strip().splitlines()[-1].split()[-1]
    assert report.suffix == ".html"
    assert report.stat().st_size > 10_000
    _run("git", "diff", "--quiet", cwd=installed)


def test_the_wheel_carries_everything(installed: Path, tmp_path: Path) -> None:
    """An editable install would hide a forgotten data file."""
    _run(".venv/bin/pip", "wheel", "-q", "--no-deps", "-w", str(tmp_path), ".", cwd=installed)
    (wheel,) = tmp_path.glob("*.whl")
    inside = set(zipfile.ZipFile(wheel).namelist())
    tracked = _run("git", "ls-files", "tastemaker", cwd=installed).splitlines()
    assert [name for name in tracked if name not in inside] == []
    assert not any(name.startswith(("tests/", "docs/", "tools/")) for name in inside)
