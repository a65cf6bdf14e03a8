"""What a run was made with: versions, machine, command."""

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

PACKAGES = (
    "tastemaker",
    "torch",
    "diffusers",
    "transformers",
    "peft",
    "safetensors",
    "tokenizers",
    "numpy",
    "pillow",
    "pyarrow",
    "duckdb",
    "blosc2",
    "scipy",
    "matplotlib",
    "pydantic",
)


def package_version(name: str) -> str | None:
    """The installed version of a package, or None."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def versions() -> dict[str, str | None]:
    """Versions of Python and of the packages that can change a result."""
    return {"python": platform.python_version(), **{p: package_version(p) for p in PACKAGES}}


def machine() -> dict[str, Any]:
    """Platform and processors; the accelerator too once torch is loaded."""
    return {"platform": platform.platform(), "cpus": os.cpu_count(), "device": _device()}


def _device() -> str | None:
    # Asking torch would cost seconds when every step is already done.
    torch = sys.modules.get("torch")
    if torch is None:
        return None
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
