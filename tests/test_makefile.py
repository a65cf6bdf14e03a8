"""The Makefile as a newcomer meets it: what there is, and clear words when it cannot go on."""

import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


def _make(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", *words], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )


def test_help_lists_every_target() -> None:
    listed = [line.split()[1] for line in _make("help").stdout.splitlines()]
    assert {"setup", "demo", "test", "check", "bench", "docs", "fmt", "recipes"} <= set(listed)


@pytest.mark.parametrize("python", ["", "no-such-python", "false"])
def test_a_missing_python_is_said_in_words(python: str, tmp_path: Path) -> None:
    done = _make(f"PYTHON={python}", f"VENV={tmp_path}/venv", "setup")
    assert done.returncode == 2
    assert f"needs Python 3.11 or newer; got: {python or 'none on PATH'}." in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_every_install_is_constrained() -> None:
    text = (REPOSITORY / "Makefile").read_text()
    assert "export PIP_CONSTRAINT := constraints.txt" in text
    assert "PIP_CONSTRAINT=constraints.txt" in (REPOSITORY / ".ci/run").read_text()
