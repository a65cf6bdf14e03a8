"""Generated pictures in the folder layouts that the benchmarks' own scripts read.

| benchmark | layout |
|---|---|
| hpsv2 | `STYLE/00000.jpg` ... `00799.jpg`, one picture a prompt |
| geneval | `00000/metadata.jsonl` and `00000/samples/0000.png` ... for each prompt |
| t2i_compbench | `CATEGORY/samples/PROMPT_000000.png` ...; its scripts read the prompt there |
"""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from tastemaker.errors import InputError
from tastemaker.records.generation import Prompt, PromptSet, Sample
from tastemaker.store.samples import SampleSet

_JPEG_QUALITY = 95
_MOST_NAME_BYTES = 255


def write_layout(name: str, prompts: PromptSet, samples: SampleSet, folder: Path) -> int:
    """Write every picture where a benchmark's script looks for it; how many there are.

    Args:
        name: in `LAYOUTS`.
        prompts: the whole benchmark, as `read_benchmark` reads it, or a part of it.
        samples: its pictures, complete.
        folder: empty; gets the layout.

    Raises:
        InputError: a picture is missing, the prompts are not of the benchmark, or one cannot be a
            file name.
    """
    if samples.missing:
        prompt, index = samples.missing[0]
        raise InputError(
            samples.folder,
            f"{len(samples.missing)} pictures are missing, first {prompt!r} number {index}",
            "a complete set",
            "Finish the generate step: the same command goes on where it stopped.",
        )
    by_id = {prompt.id: prompt for prompt in prompts.prompts}
    place = LAYOUTS[name]
    try:
        placed = {place(by_id[s.prompt_id], s): s for s in samples.samples}
    except KeyError as error:
        raise InputError(
            f"prompt set {prompts.name}",
            f"a prompt without {error}",
            f"prompts read with `benchmark: {name}`",
            "Make the prompt set from the benchmark's own file.",
        ) from error
    if len(placed) < len(samples.samples):
        raise InputError(
            samples.folder,
            "several pictures of a prompt",
            f"one, as the layout of {name} has places for one",
            "Generate with samples_per_prompt 1.",
        )
    for where, sample in placed.items():
        _write_picture(samples.path(sample), folder / where)
    if name == "geneval":
        for prompt in prompts.prompts:
            text = dict(prompt.attributes)["metadata"]
            (folder / prompt.id / "metadata.jsonl").write_text(text + "\n", "utf-8")
    return len(placed)


def _hps(prompt: Prompt, sample: Sample) -> Path:
    del sample
    return Path(_fact(prompt, "style")) / f"{_number(prompt)}.jpg"


def _geneval(prompt: Prompt, sample: Sample) -> Path:
    _fact(prompt, "metadata")
    return Path(prompt.id) / "samples" / f"{sample.sample_index:04d}.png"


def _compbench(prompt: Prompt, sample: Sample) -> Path:
    category = _fact(prompt, "category")
    # Numbers run through a category: the scripts take the last six digits as the question's id.
    number = int(_number(prompt)) * 10 + sample.sample_index
    file = f"{prompt.text}_{number:06d}.png"
    if "/" in file or "\0" in file or len(file.encode()) > _MOST_NAME_BYTES:
        raise InputError(
            f"prompt {prompt.id}",
            f"{prompt.text[:60]!r}, which no file can be named",
            "prompts of the benchmark, whose scripts read them from the file names",
            "Leave this prompt out.",
        )
    return Path(category) / "samples" / file


def _fact(prompt: Prompt, name: str) -> str:
    return dict(prompt.attributes)[name]


def _number(prompt: Prompt) -> str:
    return prompt.id.rpartition("-")[2]


def _write_picture(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.suffix == source.suffix:
        shutil.copyfile(source, target)
        return
    from PIL import Image

    from tastemaker.store.images import load_image

    pixels = load_image(source).pixels
    Image.fromarray(pixels).save(target, quality=_JPEG_QUALITY, subsampling=0)


LAYOUTS: Mapping[str, Callable[[Prompt, Sample], Path]] = MappingProxyType(
    {"hpsv2": _hps, "geneval": _geneval, "t2i_compbench": _compbench}
)
"""Benchmark -> where a picture lies in its layout."""
