"""Find a model: packaged, a local folder or file, or on the hub."""

from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Literal

from tastemaker.errors import MissingModel

Kind = Literal["model", "image_text", "autoencoder", "adapter"]

_NEEDED = ["*.json", "*.txt", "*/*.json", "*/*.txt", "*/*.safetensors", "*/*.model"]
_TOP_LEVEL_WEIGHTS = ["model.safetensors", "pytorch_lora_weights.safetensors"]
# A hub folder may hold the same weights four times; only the plain safetensors are fetched.
_NOT_NEEDED = ["*.fp16.*", "*.non_ema.*", "*.msgpack", "*.onnx*", "*openvino*", "*.bin", "*.ckpt"]


def packaged(name: str) -> Path:
    """Where the package keeps a model of its own making, whether or not it is there."""
    return Path(str(files("tastemaker").joinpath("assets", name)))


def locate(reference: str, kind: Kind) -> Path:
    """The local folder or single file that a model reference stands for.

    Looked for in this order: a path, a packaged model (`tiny-sdxl`, `tiny-clip`), the hub's local
    cache, the hub.

    Args:
        reference: what the user wrote.
        kind: what sort of model is wanted; decides which files are fetched from a hub.

    Raises:
        MissingModel: it is in none of these places.
    """
    path = Path(reference).expanduser()
    if path.exists():
        _refuse_pickle(path)
        return path
    own = packaged(reference)
    if "/" not in reference and own.is_dir():
        return own
    # A hub id is `owner/name`; anything else can only have been meant as a path or a packaged name.
    if (
        reference.count("/") != 1
        or reference.startswith((".", "/", "~"))
        or path.suffix == ".safetensors"
    ):
        raise _missing(reference, "no such file or folder", kind)
    return _from_hub(reference, kind)


def _from_hub(reference: str, kind: Kind) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    single = kind in ("image_text", "adapter")
    allowed = _NEEDED + (_TOP_LEVEL_WEIGHTS if single else [])
    fetch = partial(snapshot_download, allow_patterns=allowed, ignore_patterns=_NOT_NEEDED)
    try:
        return Path(fetch(reference, local_files_only=True))
    except LocalEntryNotFoundError:
        pass
    except HFValidationError as error:
        raise _missing(reference, "neither a path nor a hub id", kind) from error
    try:
        return Path(fetch(reference))
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise _missing(
            reference,
            f"nothing in the local hub cache, and the hub did not give it ({reason})",
            kind,
        ) from error


def _refuse_pickle(path: Path) -> None:
    if path.is_file() and path.suffix != ".safetensors":
        raise MissingModel(
            path,
            f"a {path.suffix or 'nameless'} file",
            "a folder or a .safetensors file",
            "Pickled checkpoints can run code and are never opened: convert it to safetensors, "
            "or use its folder.",
        )


def _missing(reference: str, got: str, kind: Kind) -> MissingModel:
    shipped = (
        sorted(p.name for p in packaged("").iterdir() if p.is_dir())
        if packaged("").is_dir()
        else []
    )
    names = f" ({', '.join(shipped)})" if shipped else ""
    what = {
        "model": "a diffusers folder, a .safetensors checkpoint",
        "image_text": "a transformers CLIP folder",
        "autoencoder": "a diffusers AutoencoderKL folder",
        "adapter": "a LoRA folder or .safetensors file",
    }[kind]
    example = (
        reference
        if reference.count("/") == 1 and not reference.startswith((".", "/", "~"))
        else "OWNER/NAME"
    )
    return MissingModel(
        f"{kind} '{reference}'",
        got,
        f"{what}, a packaged name{names} or a hub id",
        f"Run `hf download {example}` on a machine with network access, "
        "or give the path of a local folder.",
    )
