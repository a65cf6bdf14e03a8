"""Find a model: packaged, a local folder or file, or on the hub."""

from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Literal

from tastemaker.errors import MissingModel

Kind = Literal[
    "model",
    "configuration",
    "image_text",
    "autoencoder",
    "adapter",
    "vision",
    "head",
    "quality",
    "tagger",
    "detector",
    "captioner",
    "tokenizer",
    "hps_v2.0",
    "hps_v2.1",
    "image_reward",
]
"""What sort of model: a diffusion model and its parts, or what operations on pictures need."""

HEAD_SUFFIXES = (".safetensors", ".npz", ".pth")
"""Single files that a head may be: its reader builds tensors only, so a pickle runs no code."""

_CHECKPOINT = (".safetensors", ".pt", ".pth")
_FILES: dict[Kind, tuple[str, ...]] = {
    "head": HEAD_SUFFIXES,
    "tokenizer": (".gz", ".txt"),
    # Published as pickles; what reads them builds tensors only.
    "hps_v2.0": _CHECKPOINT,
    "hps_v2.1": _CHECKPOINT,
    "image_reward": _CHECKPOINT,
}
"""Kind -> single files that it may be; `.safetensors` for the others."""

_NEEDED = ["*.json", "*.txt", "*/*.json", "*/*.txt", "*/*.safetensors", "*/*.model"]
_TOP_LEVEL_WEIGHTS = ["model.safetensors", "pytorch_lora_weights.safetensors"]
_DIFFUSERS_WEIGHTS = "diffusion_pytorch_model.safetensors"
# A large model lies in several files, and SigLIP's words in a sentencepiece model.
_TRANSFORMERS = [*_NEEDED, "model.safetensors", "model-*-of-*.safetensors", "*.model"]
# A hub folder may hold the same weights four times; only the plain safetensors are fetched.
_NOT_NEEDED = ["*.fp16.*", "*.non_ema.*", "*.msgpack", "*.onnx*", "*openvino*", "*.bin", "*.ckpt"]

_FETCHED: dict[Kind, tuple[list[str], list[str]]] = {
    # A gigabyte beside SD1.5 that no pipeline of ours runs.
    "model": (_NEEDED, [*_NOT_NEEDED, "safety_checker/*"]),
    "configuration": (["*.json", "*.txt", "*/*.json", "*/*.txt"], ["*/*.index.json"]),
    "image_text": (_NEEDED + _TOP_LEVEL_WEIGHTS, _NOT_NEEDED),
    # Alone in its folder, or inside a whole pipeline of which nothing else is needed.
    "autoencoder": (
        [f"{folder}{n}" for folder in ("", "vae/") for n in ("config.json", _DIFFUSERS_WEIGHTS)],
        [],
    ),
    "adapter": (_NEEDED + _TOP_LEVEL_WEIGHTS, _NOT_NEEDED),
    "vision": (_TRANSFORMERS, _NOT_NEEDED),
    "detector": (_TRANSFORMERS, _NOT_NEEDED),
    "captioner": ([*_TRANSFORMERS, "*.jinja"], _NOT_NEEDED),
    "head": (["*.json", *(f"*{suffix}" for suffix in HEAD_SUFFIXES)], []),
    "tokenizer": (["*.json", "*.txt", "*.model"], ["*/*"]),
    # Each version is a file of gigabytes.
    "hps_v2.0": (["HPS_v2_compressed.pt"], []),
    "hps_v2.1": (["HPS_v2.1_compressed.pt"], []),
    "image_reward": (["ImageReward.pt"], []),
    "tagger": (
        ["*.json", "*.txt", "selected_tags.csv", "model.onnx*", "model.safetensors"],
        ["*/*"],
    ),
}
"""Kind -> patterns of what is fetched from a hub and of what is not; `_NEEDED` for the others."""

_EXPECTED: dict[Kind, str] = {
    "model": "a diffusers folder, a .safetensors checkpoint",
    "configuration": "a diffusers folder, of which the weights are not needed",
    "image_text": "a transformers CLIP folder",
    "autoencoder": "a diffusers AutoencoderKL folder, a .safetensors file with one",
    "adapter": "a LoRA folder or .safetensors file",
    "vision": "a transformers CLIP or SigLIP folder",
    "head": "the file of an aesthetic head (.pth, .safetensors, .npz)",
    "quality": "a quality model's folder (quality.json, quality.safetensors)",
    "tagger": "a tagger's folder (model.onnx with selected_tags.csv or top_tags.txt, or a "
    "transformers classifier)",
    "detector": "a transformers OWLv2 folder",
    "captioner": "a transformers folder of a LLaVA-like model",
    "tokenizer": "a transformers folder with a tokenizer, or the file of CLIP's merges",
    "hps_v2.0": "the file HPS_v2_compressed.pt or a folder that holds it",
    "hps_v2.1": "the file HPS_v2.1_compressed.pt or a folder that holds it",
    "image_reward": "the file ImageReward.pt or a folder that holds it",
}


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
        _refuse_pickle(path, kind)
        return path
    own = packaged(reference)
    if "/" not in reference and own.is_dir():
        return own
    if not _may_be_on_a_hub(reference, kind):
        raise _missing(reference, "no such file or folder", kind)
    return _from_hub(reference, kind)


def _may_be_on_a_hub(reference: str, kind: Kind) -> bool:
    """A hub id is `owner/name`; anything else can only be meant as a path or a packaged name."""
    return (
        reference.count("/") == 1
        and not reference.startswith((".", "/", "~"))
        and Path(reference).suffix not in {*HEAD_SUFFIXES, *_FILES.get(kind, ())}
    )


def _from_hub(reference: str, kind: Kind) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    allowed, ignored = _FETCHED.get(kind, (_NEEDED, _NOT_NEEDED))
    fetch = partial(snapshot_download, allow_patterns=allowed, ignore_patterns=ignored)
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


def _refuse_pickle(path: Path, kind: Kind) -> None:
    allowed = _FILES.get(kind, (".safetensors",))
    if path.is_file() and path.suffix not in allowed:
        raise MissingModel(
            path,
            f"a {path.suffix or 'nameless'} file",
            f"a folder or a {' or '.join(allowed)} file",
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
    example, first = reference, ""
    if not _may_be_on_a_hub(reference, kind):
        example, first = (
            "OWNER/NAME",
            "Check the path, which is relative to this folder; or fetch it. ",
        )
    return MissingModel(
        f"{kind} '{reference}'",
        got,
        f"{_EXPECTED[kind]}, a packaged name{names} or a hub id",
        f"{first}Run `hf download {example}` where there is a network. Without a hub: "
        f"`hf download {example} --local-dir FOLDER` on another machine, copy FOLDER here and give "
        "the path of that local folder.",
    )
