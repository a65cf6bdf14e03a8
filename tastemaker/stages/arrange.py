"""Stage: copy generated pictures into the folder layout that a benchmark's own scripts read."""

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

from tastemaker.records.config import Config as BaseConfig
from tastemaker.records.run import Artefact, Manifest
from tastemaker.store.rundir import StepDir

VERSION = 1
OUTPUTS = ("pictures",)


class Config(BaseConfig):
    """HPSv2's, GenEval's or T2I-CompBench's layout."""

    inputs: ClassVar[dict[str, str]] = {"samples": "samples", "prompts": "prompts"}
    samples: str
    """The generated pictures."""
    prompts: str
    """The benchmark's prompts, read with `benchmark`."""
    layout: Literal["hpsv2", "geneval", "t2i_compbench"]
    """Whose scripts shall read them."""


def run(config: Config, inputs: Mapping[str, Artefact], step: StepDir) -> Manifest:
    """Write `pictures/`; appears whole.

    Raises:
        InputError: a picture is missing, or the prompts are not of the benchmark.
    """
    from tastemaker.store.atomic import atomic_folder
    from tastemaker.store.benchmark_layouts import write_layout
    from tastemaker.store.prompt_sets import read_prompt_set
    from tastemaker.store.samples import load_sample_set

    prompts = read_prompt_set(Path(inputs["prompts"].path))
    samples = load_sample_set(Path(inputs["samples"].path), [p.id for p in prompts.prompts])
    with atomic_folder(step.path / "pictures") as folder:
        count = write_layout(config.layout, prompts, samples, folder)
    return Manifest(
        stage="arrange",
        key=step.key,
        outputs={"pictures": "pictures"},
        counts={"pictures": count, "prompts": len(prompts.prompts)},
        results={"layout": config.layout},
    )
