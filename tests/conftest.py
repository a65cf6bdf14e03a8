"""What every test starts from: one thread, no hub, no screen, reproducible examples."""

import os
import sys
from pathlib import Path

# Before torch, matplotlib or a hub client is imported by anything.
os.environ.update(
    OMP_NUM_THREADS="1",
    HF_HUB_OFFLINE="1",
    MPLBACKEND="Agg",
    TOKENIZERS_PARALLELISM="false",
    NO_COLOR="1",
    COLUMNS="120",
)

import pytest
from hypothesis import settings

REPOSITORY = Path(__file__).resolve().parents[1]

settings.register_profile("house", derandomize=True, deadline=None, database=None, max_examples=50)
settings.load_profile("house")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what this machine cannot or should not run, and say why."""
    if not os.environ.get("TASTEMAKER_SLOW"):
        for item in items:
            if item.get_closest_marker("slow"):
                item.add_marker(pytest.mark.skip(reason="slow: set TASTEMAKER_SLOW=1 to run it"))
    gpu = [item for item in items if item.get_closest_marker("gpu")]
    if gpu:
        import torch

        if not torch.cuda.is_available():
            for item in gpu:
                item.add_marker(pytest.mark.skip(reason="needs an accelerator"))


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Two threads slow tiny tensors down a hundred times, and sums depend on their number."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.get_num_threads() != 1:
        torch.set_num_threads(1)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def assets() -> Path:
    """Public data for tests (prompt lists, the aesthetic head, the CLIP vocabulary)."""
    folder = Path(os.environ.get("TASTEMAKER_ASSETS") or REPOSITORY / "../shared/assets").resolve()
    if not folder.is_dir():
        pytest.skip(f"no public test data in {folder}: set TASTEMAKER_ASSETS to its folder")
    return folder
