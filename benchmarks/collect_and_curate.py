"""What the whole stages collect and curate cost, beside a bare loop that only decodes.

    bare      Pillow: open, convert to RGB; nothing else
    collect   the stage: read, hash, decode, write the catalogue
    curate    the stage with its default rules: decode, measure all pixel facts, write the column,
              judge, freeze the selection
    again     collect a second time: nothing has changed

Pictures as in pixel_columns.py. CPU time of one thread, in process, random order in each round,
medians of paired ratios.

Run: OMP_NUM_THREADS=1 python benchmarks/collect_and_curate.py [--rounds 5] [--pictures 48]
"""

import argparse
import io
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stderr
from pathlib import Path

from pixel_columns import bare, photograph

from tastemaker.records.run import Artefact
from tastemaker.stages import collect, curate
from tastemaker.store.rundir import StepDir


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pictures", type=int, default=48)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        pictures = Path(folder) / "pictures"
        pictures.mkdir()
        for number in range(options.pictures):
            photograph(number).save(pictures / f"{number}.jpg", quality=90)
            (pictures / f"{number}.txt").write_text(f"photograph {number}")
        found = [one_round(pictures, Path(folder) / f"round{n}", n) for n in range(options.rounds)]
    ratios = {
        name: statistics.median(times[name] / times["bare"] for times in found)
        for name in ("collect", "curate", "again")
    }
    rates = {
        name: options.pictures / statistics.median(times[name] for times in found)
        for name in found[0]
    }
    json.dump(
        {
            "pictures": options.pictures,
            "rounds": options.rounds,
            "pictures_per_cpu_s": {name: round(rate, 1) for name, rate in rates.items()},
            "cost_beside_bare": {name: round(ratio, 3) for name, ratio in ratios.items()},
        },
        sys.stdout,
        indent=1,
    )


def one_round(pictures: Path, folder: Path, seed: int) -> dict[str, float]:
    """CPU seconds of each, in random order; curate and again follow their collect."""
    step = StepDir(folder / "collect", name="collect", key="k" * 64)
    chosen = StepDir(folder / "curate", name="curate", key="k" * 64)
    gather = collect.Config(sources=(str(pictures),))
    inputs = {"collection": Artefact("collection", step.path / "collection", "c")}

    def stages() -> dict[str, float]:
        return {
            "collect": seconds(lambda: collect.run(gather, {}, step)),
            "curate": seconds(lambda: curate.run(curate.Config(collection="c"), inputs, chosen)),
            "again": seconds(lambda: collect.run(gather, {}, step)),
        }

    def loop() -> dict[str, float]:
        return {"bare": seconds(lambda: [bare(path) for path in sorted(pictures.glob("*.jpg"))])}

    works = [stages, loop]
    random.Random(seed).shuffle(works)
    return {name: value for work in works for name, value in work().items()}


def seconds(work: Callable[[], object]) -> float:
    """CPU time of the process, not of the wall clock."""
    with redirect_stderr(io.StringIO()):
        start = time.process_time()
        work()
        return time.process_time() - start


if __name__ == "__main__":
    main()
