"""A process that draws: `shared_drawing.py JOB`, JOB a JSON file; it can be killed at any moment.

A job has `step`, `inputs`, `fields`, and for several processes `store`, `rank` and `world`.
"""

import json
import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from tastemaker.records.run import Artefact
from tastemaker.stages import generate
from tastemaker.store.rundir import StepDir
from tastemaker.training.processes import Processes


def main(place: str) -> None:
    torch.set_num_threads(1)
    job = json.loads(Path(place).read_text())
    rank, world = job.get("rank", 0), job.get("world", 1)
    inputs = {name: Artefact(kind, Path(path), key) for name, (kind, path, key) in job["inputs"]}
    config = generate.Config(**{name: name for name in inputs}, **job["fields"])
    step = StepDir(job["step"], name="generate", key="k" * 64, silent=rank > 0)
    if world == 1:
        Path(place).with_name("begun").touch()
        generate.run(config, inputs, step)
        return
    keys = dist.FileStore(job["store"], world)
    keys.set_timeout(timedelta(seconds=60))
    with Processes(keys, rank, world, rank).joined():
        generate.run(config, inputs, step)


if __name__ == "__main__":
    main(sys.argv[1])
