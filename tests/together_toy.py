"""One process of a launch that runs a toy recipe: `together_toy.py RECIPE OUT`, with RANK etc.

The stage `meet` adds up the processes' numbers; `alone` counts the processes that do it.
"""

import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

import torch

from tastemaker.cli.app import main
from tastemaker.errors import InputError
from tastemaker.recipe.stages import Stage
from tastemaker.records.config import Config
from tastemaker.records.run import Artefact, Manifest
from tastemaker.store.rundir import StepDir
from tastemaker.training.parallel import present_group


class MeetConfig(Config):
    """What happens in process 1."""

    inputs: ClassVar[dict[str, str]] = {}
    fate: Literal["none", "refuses", "breaks", "killed", "all refuse", "stopped"] = "none"
    """How it ends."""


class AloneConfig(Config):
    """Nothing to choose."""

    inputs: ClassVar[dict[str, str]] = {}


def meet(config: MeetConfig, inputs: Mapping[str, Artefact], step: StepDir) -> Manifest:
    group = present_group()
    sums = group.sums(torch.tensor([1.0, group.rank + 1.0]))
    if config.fate == "all refuse" or (config.fate == "refuses" and group.rank == 1):
        raise InputError("toy", f"{group.world} processes", "peace", "Try again.")
    if config.fate == "breaks" and group.rank == 1:
        raise ZeroDivisionError("a defect")
    if config.fate == "killed" and group.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if config.fate == "stopped":
        # As Ctrl-C does, to all processes of a terminal.
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)
    assert group.texts(f"I am {group.rank}") == ["I am 0", "I am 1"]
    assert group.any(torch.tensor(group.rank == 1))
    assert not group.any(torch.tensor(data=False))
    return Manifest("meet", step.key, {}, {"processes": int(sums[0]), "sum": int(sums[1])})


def alone(config: AloneConfig, inputs: Mapping[str, Artefact], step: StepDir) -> Manifest:
    with (step.path / "who").open("a") as file:
        file.write(f"{os.environ['RANK']}\n")
    return Manifest("alone", step.key, {}, {"processes": present_group().world})


STAGES = {
    "meet": Stage("meet", MeetConfig, 1, meet, parallel=True),
    "alone": Stage("alone", AloneConfig, 1, alone),
}

if __name__ == "__main__":
    # A shell that puts the tests into the background makes them ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    torch.set_num_threads(1)
    recipe, out = map(Path, sys.argv[1:])
    sys.exit(main(["run", str(recipe), "-o", str(out)], stages=STAGES))
