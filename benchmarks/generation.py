"""Pictures a second of the stage `generate` beside the bare diffusers pipeline, at the same batch.

Usage: python benchmarks/generation.py [ROUNDS]

The packaged tiny SDXL, ddim, one thread. Bare: the pipeline draws batch after batch of the same
prompts and noise into memory. Ours writes PNG files, lines with hashes, and can be killed. Both are
measured in turns, in random order; the figures are medians of ratios in one round.
"""

import random
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch

from tastemaker.diffusion.noise import batch_noise
from tastemaker.engine.drawing import Drawer
from tastemaker.engine.picture_files import PictureFolder
from tastemaker.engine.picture_jobs import batches, picture_jobs
from tastemaker.engine.picture_settings import PictureSettings, settings_hash, settle
from tastemaker.models.family import load_family
from tastemaker.models.locate import locate
from tastemaker.models.sampling import latent_shape, make_sampler
from tastemaker.records.generation import Prompt
from tastemaker.store.prompt_sets import make_prompt_set

PICTURES, BATCH, STEPS, GUIDANCE = 16, 8, 10, 3.0
ROUNDS = 9


def both() -> tuple[Callable[[], None], Callable[[], None]]:
    """Draw the set once: ours, and bare."""
    words = ["apple", "tree", "cat", "house"]
    prompts = [Prompt(f"p{n}", f"a drawing of a {words[n % 4]}") for n in range(PICTURES)]
    chosen = make_prompt_set("bench", prompts)
    config = PictureSettings(sampler="ddim", steps=STEPS, guidance=GUIDANCE, batch=BATCH)
    family = load_family(str(locate("tiny-sdxl", "model"))).channels_last()
    manner = settle(config, None, family.own_size)
    jobs = picture_jobs(config, chosen, manner.size, family)
    pipeline = family.pipeline()
    pipeline.scheduler = make_sampler("ddim", family.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)

    def ours() -> None:
        with tempfile.TemporaryDirectory() as place:
            folder = PictureFolder(Path(place), "x", settings_hash(config, manner, {}))
            drawer = Drawer(config, manner, family)
            folder.begin(drawer.told(), jobs)
            drawer.draw(jobs, folder)

    def bare() -> None:
        for group in batches(jobs, BATCH):
            noise = batch_noise([job.draw for job in group], latent_shape(family, manner.size))
            pipeline(
                [job.prompt.text for job in group], negative_prompt=[""] * len(group),
                latents=noise, num_inference_steps=STEPS, guidance_scale=GUIDANCE,
                height=manner.size.h, width=manner.size.w, output_type="pil",
            )  # fmt: skip

    return ours, bare


def seconds(work: Callable[[], None]) -> tuple[float, float]:
    """Wall time and CPU time."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def main(rounds: int) -> None:
    """Print pictures a second and the ratio."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", "__array__ implementation")
    ours, bare = both()
    works = {"ours": ours, "bare": bare, "bare again": bare}
    for work in works.values():
        work()
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in works}
    chance = random.Random(0)
    for _ in range(rounds):
        for name in chance.sample(sorted(works), len(works)):
            found[name].append(seconds(works[name]))
    for number, kind in enumerate(("wall", "CPU")):
        times = {name: [one[number] for one in every] for name, every in found.items()}
        for name in ("ours", "bare again"):
            ratios = sorted(b / o for b, o in zip(times["bare"], times[name], strict=True))
            low, middle, high = statistics.quantiles(ratios, n=4)
            rate = PICTURES / statistics.median(times[name])
            print(
                f"{kind}: {name} {rate:.2f} pictures a second, "
                f"{middle:.3f} of bare (quartiles {low:.3f} to {high:.3f})"
            )
        print(f"{kind}: bare {PICTURES / statistics.median(times['bare']):.2f} pictures a second")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS)
