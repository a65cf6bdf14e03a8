"""Do DPO, self-reward, SPIN and Turbo's DPO teach the small model a taste, beside fine-tuning?

Runs the recipes `tiny/dpo`, `tiny/selfreward`, `tiny/spin` and `tiny/turbo_dpo` with several seeds.
A seed changes the pictures of the training prompts, and so the pairs, the order and the noise of
training, and the noise of the pictures that are compared. Each recipe compares on prompts that no
pair has, each with the same noise for all models:

    win rate     share of prompts whose pictures are further on the wanted side of the style judge
                 than the other model's, ties half, with Wilson's interval
    style        share of pictures on the wanted side
    text         tiny-clip's cosine of picture and prompt, which chose nothing: what the taste costs

One line a seed, then all seeds together: a prompt's margins are averaged over the seeds first, so
that it still counts once. A run that was killed goes on; a finished one is only read.

Run: OMP_NUM_THREADS=1 python benchmarks/alignment.py --full [--seeds 0 1 2] [--out runs/alignment]
Without --full a few minutes of a shortened form, which shows that it works and nothing else. With
--pictures FOLDER also METHOD.png, a dozen prompts of the first seed drawn by all models.
"""

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from pathlib import Path

import numpy as np

from tastemaker.cli.app import main as tastemaker
from tastemaker.report.grids import RowOfPictures, write_sheet
from tastemaker.stats.paired import mean_interval, paired_difference
from tastemaker.stats.winrate import wilson
from tastemaker.store.images import load_image
from tastemaker.store.rundir import RunDir
from tastemaker.store.samples import read_samples
from tastemaker.store.scores import read_scores

METHODS: Mapping[str, str] = {
    "dpo": "dpo",
    "selfreward": "selfreward",
    "spin": "spin",
    "turbo_dpo": "turbo",
}
"""Recipe in `tiny/` -> what its steps call the method."""

COMPARISONS = ("sft-to-base", "{}-to-base", "{}-to-sft")
SHORT = ("prompts=12", "pairs=64", "tests=6")

Values = dict[str, dict[str, list[float]]]
"""Side -> prompt -> values of its pictures."""


def main() -> None:
    """Run what is not yet run, then print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--full", action="store_true", help="the recipes as they are")
    parser.add_argument("--seeds", type=int, nargs="+", default=None)
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--out", type=Path, default=Path("runs/alignment"))
    parser.add_argument("--pictures", type=Path, default=None, help="a folder for sheets")
    options = parser.parse_args()
    seeds = options.seeds or ([0, 1, 2] if options.full else [0])
    out = options.out / ("full" if options.full else "short")
    arguments = () if options.full else SHORT
    runs = {
        method: [_run(method, seed, out / f"seed-{seed}", arguments) for seed in seeds]
        for method in options.methods
    }
    for method in options.methods if options.pictures else ():
        _sheet(runs[method][0], method, options.pictures)
    print("| method | comparison | seed | win rate | style before | style after | text |")
    print("|---|---|---|---|---|---|---|")
    for method in options.methods:
        for pattern in COMPARISONS:
            step = pattern.format(METHODS[method])
            style = [_values(places[step], "style") for places in runs[method]]
            text = [_values(places[step], "image_text") for places in runs[method]]
            for seed, margins, cosines in zip(seeds, style, text, strict=True):
                print(_line(method, step, str(seed), margins, cosines))
            if len(seeds) > 1:
                print(_line(method, step, "**all**", _together(style), _together(text)))


def _run(method: str, seed: int, place: Path, arguments: Sequence[str]) -> dict[str, Path]:
    """Step -> its folder. The methods of a seed share `place`, and so every step in common."""
    began = time.process_time()
    code = tastemaker(["run", f"tiny/{method}", *arguments, f"seed={seed}", "-o", str(place)])
    if code:
        sys.exit(code)
    spent = time.process_time() - began
    print(f"tiny/{method}, seed {seed}: {spent:.0f} CPU seconds", file=sys.stderr)
    return {step.name: step.path for step in RunDir(place).steps()}


def _sheet(places: Mapping[str, Path], method: str, folder: Path) -> None:
    """Twelve prompts by the hash of their ids, so by lot, each drawn from one noise."""
    called = METHODS[method]
    names = ("base", "sft-drawn", f"{called}-drawn")
    folders = [places[name] / "samples" for name in names]
    drawn = [[s for s in read_samples(place) if not s.sample_index] for place in folders]
    files = [
        {s.prompt_id: place / s.file for s in some}
        for place, some in zip(folders, drawn, strict=True)
    ]
    texts = {s.prompt_id: s.prompt for s in drawn[0]}
    chosen = sorted(texts, key=lambda i: blake2b(i.encode()).digest())[:12]
    rows = [
        RowOfPictures(texts[one], tuple(load_image(side[one]).pixels for side in files))
        for one in chosen
    ]
    folder.mkdir(parents=True, exist_ok=True)
    write_sheet(folder / f"{method}.png", ("base", "fine-tuned", called), rows, tiles=12)


def _values(place: Path, scorer: str) -> Values:
    values: Values = {"before": {}, "after": {}}
    for row in read_scores(place / "scores" / "scores.parquet"):
        if row["scorer"] == scorer:
            values[row["model"]].setdefault(row["prompt_id"], []).append(row["value"])
    return values


def _together(seeds: Sequence[Values]) -> Values:
    """The pictures of all seeds under their prompt."""
    return {
        side: {
            prompt: [value for values in seeds for value in values[side][prompt]]
            for prompt in seeds[0][side]
        }
        for side in seeds[0]
    }


def _line(method: str, step: str, seed: str, style: Values, text: Values) -> str:
    margins = paired_difference(style["before"], style["after"])
    won = margins.win_rate.rate
    cosine = paired_difference(text["before"], text["after"]).bootstrap
    cells = [
        f"{won.estimate:.0%} [{won.low:.0%}, {won.high:.0%}]",
        _share(style["before"]),
        _share(style["after"]),
        f"{cosine.estimate:+.3f} [{cosine.low:+.3f}, {cosine.high:+.3f}]",
    ]
    return f"| {method} | {step} | {seed} | {' | '.join(cells)} |"


def _share(values: Mapping[str, Sequence[float]]) -> str:
    """Share of pictures on the wanted side; the unit of the interval is the prompt."""
    shares = [float(np.mean([(v > 0) + 0.5 * (v == 0) for v in some])) for some in values.values()]
    single = all(len(some) == 1 for some in values.values())
    found = wilson(sum(shares), len(shares)) if single else mean_interval(shares)
    return f"{found.estimate:.0%} [{max(found.low, 0):.0%}, {min(found.high, 1):.0%}]"


if __name__ == "__main__":
    main()
