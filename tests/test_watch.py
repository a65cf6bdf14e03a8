"""`tastemaker generate --watch`: pictures of a training while it trains."""

import json
import os
import re
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tastemaker.cli.app import main
from tastemaker.engine import watch as watching
from tastemaker.engine.picture_settings import PictureSettings
from tastemaker.engine.watch import read_prompts
from tastemaker.records.generation import Prompt
from tastemaker.records.run import Artefact
from tastemaker.report.page import write_report
from tastemaker.report.previews import preview_table
from tastemaker.stages import fit, generate
from tastemaker.stages.generate import watch
from tastemaker.store import jsonl
from tastemaker.store.checkpoints import CheckpointStore
from tastemaker.store.preview_sheet import read_previews, spread, write_preview_sheet
from tastemaker.store.prompt_sets import make_prompt_set, write_prompt_set
from tastemaker.store.retention import weight_folders
from tastemaker.store.rundir import RunDir, StepDir, StepEntry
from tastemaker.training.diffusion import DiffusionTask
from tests.tiny_run import prepared, run_step, step_dir

# diffusers turns torch tensors into arrays the way numpy 2 calls old.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)

FIT = {
    "images_total": 24,
    "batch": 4,
    "held_out": 2,
    "stable_images": 2,
    "log_every_images": 8,
    "validate_every_images": 8,
    "save_every_images": 8,
    "optimizer": {"lr": 1e-2},
    "keep_checkpoints": 1,
    "keep_weights_every_images": 8,
}
LORA = {"method": {"kind": "lora", "rank": 2, "alpha": 2.0}, "ema_decay": 0.9}
FULL = {"method": {"kind": "full", "parts": ("unet", "text_encoder_1")}}
QUICK = ("sampler=ddim", "steps=1", "guidance=1", "height_px=32", "width_px=32")
SETTINGS = PictureSettings(sampler="ddim", steps=1, guidance=1, height_px=32, width_px=32)


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artefact]:
    return prepared(tmp_path_factory.mktemp("run"), tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def finished(given: dict[str, Artefact], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA fit with checkpoints at 8 and 16 images as weights, and at 24 whole."""
    return work(step_dir(tmp_path_factory.mktemp("finished"), "fit"), given, **LORA)


def work(step: StepDir, given: dict[str, Artefact], **fields: object) -> Path:
    manifest, _ = run_step(fit, step, given, **{**FIT, **fields})
    step.finish(manifest)
    return step.path


def copied(fit_folder: Path, to: Path) -> Path:
    shutil.copytree(fit_folder, to / "fit", ignore=shutil.ignore_patterns("previews"))
    return to / "fit"


def told(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    capsys.readouterr()
    code = main(["generate", *words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def shown(folder: Path) -> list[int]:
    previews = read_previews(folder)
    assert previews is not None
    return [preview.images for preview in previews.shown]


def test_every_checkpoint_that_is_left_is_drawn_once(finished, tmp_path, capsys):
    place = copied(finished, tmp_path)
    code, out, _ = told(capsys, "--watch", str(place), "--limit", "2", *QUICK)
    assert code == 0
    assert out.splitlines()[-1] == f"drawn 4, kept from before 0: {place / 'previews'}"
    previews = read_previews(place / "previews")
    assert previews is not None
    assert [(p.images, p.step, p.averaged) for p in previews.shown] == [
        (0, 0, False), (8, 2, True), (16, 4, True), (24, 6, True),
    ]  # fmt: skip
    # Captions of the two pictures that are held out.
    assert len(previews.prompts) == 2
    assert all(" " in prompt for prompt in previews.prompts)
    for preview in previews.shown:
        rows = list(jsonl.read(place / "previews" / preview.folder / "samples.jsonl"))
        assert [row["file"] for row in rows] == list(preview.files)
        assert {row["model"] for row in rows} == {f"images-{preview.images:09d}"}
    noises = [
        [r["noise_hash"] for r in jsonl.read(place / "previews" / p.folder / "samples.jsonl")]
        for p in previews.shown
    ]
    assert all(noise == noises[0] for noise in noises)
    pictures = [pixels(place / "previews" / p.folder / p.files[0]) for p in previews.shown]
    assert len({picture.tobytes() for picture in pictures}) == 4
    assert pixels(place / "previews" / "sheet.png").shape[1] > 4 * 96
    code, out, _ = told(capsys, "--watch", str(place), "--limit", "2", "--json", *QUICK)
    assert json.loads(out) == {
        "previews": str(place / "previews"), "drawn": 0, "kept from before": 4,
    }  # fmt: skip


@pytest.mark.parametrize("way", [LORA, FULL], ids=["LoRA, averaged", "full"])
def test_the_last_preview_is_what_the_result_draws(way, given, tmp_path, capsys):
    place = work(step_dir(tmp_path, "fit"), given, **way)
    prompts = make_prompt_set("previews", [Prompt("00", "a red apple"), Prompt("01", "a tree")])
    write_prompt_set(tmp_path / "prompts.jsonl", prompts)
    (tmp_path / "prompts.txt").write_text("a red apple\n\na tree\n")
    code, *_ = told(
        capsys, "--watch", str(place), f"prompts={tmp_path / 'prompts.txt'}", *QUICK
    )  # fmt: skip
    assert code == 0
    kind = "adapter" if way is LORA else "model"
    inputs = {**given, "prompts": Artefact("prompts", tmp_path / "prompts.jsonl", "p")}
    inputs[kind] = Artefact(kind, place / kind, "r")
    config = SETTINGS.model_dump()
    run_step(generate, step_dir(tmp_path, "after"), inputs, **config)
    run_step(
        generate, step_dir(tmp_path, "before"), given | {"prompts": inputs["prompts"]}, **config
    )
    for name, images in (("after", 24), ("before", 0)):
        (folder,) = (tmp_path / name).glob("*/samples")
        for file in ("00_00.png", "01_00.png"):
            preview = place / "previews" / f"images-{images:09d}" / file
            assert preview.read_bytes() == (folder / file).read_bytes()


def test_it_follows_a_training_and_ends_with_it(given, tmp_path, capsys, monkeypatch):
    step = step_dir(tmp_path / "run" / "steps", "fit")
    run = RunDir(tmp_path / "run")
    with run:
        run.save_plan([StepEntry("fit", "fit", step.key, f"steps/fit/{step.path.name}")])
    if (child := os.fork()) == 0:
        status = 1
        try:
            terms = DiffusionTask.terms
            monkeypatch.setattr(DiffusionTask, "terms", lambda *a: (time.sleep(0.15), terms(*a))[1])
            work(step, given, **LORA)
            status = 0
        finally:
            os._exit(status)
    # The folder of the run; the fit has not begun, and its captions are not known yet.
    monkeypatch.setattr(watching.wait_for_start, "__defaults__", (0.05, time.sleep))
    code, out, err = told(capsys, "--watch", str(tmp_path / "run"), "--limit", "1", *QUICK)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert (code, err) == (0, "")
    assert shown(step.path / "previews") == [0, 8, 16, 24]
    assert out.splitlines()[0] == f"Watching {step.path}"
    assert step.finished() is not None
    page = write_report(tmp_path / "run").read_text()
    table = page.partition('<table class="previews">')[2].partition("</table>")[0]
    assert re.findall(r'<th scope="col">(.*?)</th>', table) == ["Prompt", "before", "8", "16", "24"]
    assert table.count("data:image/webp") == 4
    assert "Error by timestep" in page


def test_a_report_leaves_out_previews_that_are_damaged(finished, tmp_path):
    place = copied(finished, tmp_path)
    assert preview_table(place) is None
    drawn(place, place / "previews")
    (place / "previews" / "images-000000008" / "00_00.png").unlink()
    table = preview_table(place)
    assert table is not None
    assert (table.heads, table.count) == (("before", "8", "16", "24"), 4)
    assert [address is None for address in table.rows[0].pictures] == [False, True, False, False]
    (place / "previews" / "previews.json").write_text("{}")
    assert preview_table(place) is None


def drawn(place: Path, out: Path, said: list[str] | None = None, **options: Any) -> dict[str, int]:
    say = (said if said is not None else []).append
    return watch(place, SETTINGS, read_prompts(None, place, 1), out, say, **options)


def test_a_checkpoint_that_goes_while_it_is_read_is_passed_over(finished, tmp_path, monkeypatch):
    place, said = copied(finished, tmp_path), []
    real, gone = CheckpointStore.load, []

    def load(self, step, *args, **options):
        if step == 6 and not gone:
            gone.append(step)
            shutil.rmtree(self.folder / "step-000006")
        return real(self, step, *args, **options)

    monkeypatch.setattr(CheckpointStore, "load", load)
    assert drawn(place, tmp_path / "out", said) == {"drawn": 3, "kept from before": 0}
    assert shown(tmp_path / "out") == [0, 8, 16]
    assert not [line for line in said if "Warning" in line]


def test_a_checkpoint_that_is_thinned_while_it_is_read_is_drawn_all_the_same(
    finished, tmp_path, monkeypatch
):
    place = copied(finished, tmp_path)
    real, moved = CheckpointStore.load, []

    def load(self, step, *args, **options):
        if step == 6 and not moved:
            moved.append(step)
            (self.folder / "step-000006").rename(self.folder / "weights" / "step-000006")
        return real(self, step, *args, **options)

    monkeypatch.setattr(CheckpointStore, "load", load)
    assert drawn(place, tmp_path / "out")["drawn"] == 4
    assert moved == [6]


def test_a_damaged_checkpoint_is_told_once(finished, tmp_path):
    place, said = copied(finished, tmp_path), []
    file = weight_folders(place / "checkpoints")[4] / "average.safetensors"
    # Hard-linked or not, the copy of this test is its own.
    file.write_bytes(file.read_bytes()[:-4] + b"\xff\xff\xff\xff")
    assert drawn(place, tmp_path / "out", said)["drawn"] == 3
    assert [line for line in said if "checksum" in line and line.startswith("Warning")]
    assert shown(tmp_path / "out") == [0, 8, 24]


def test_stopped_in_the_middle_it_goes_on(finished, tmp_path, monkeypatch):
    place, out = copied(finished, tmp_path), tmp_path / "out"

    def interrupt(line: str) -> None:
        if "24 images" in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        watch(place, SETTINGS, read_prompts(None, place, 1), out, interrupt)
    assert shown(out) == [0, 24]
    first = (out / "images-000000024" / "00_00.png").stat().st_mtime_ns
    # A lost picture is drawn again, with the model that it was of.
    (out / "images-000000000" / "00_00.png").unlink()
    assert drawn(place, out) == {"drawn": 3, "kept from before": 1}
    assert (out / "images-000000024" / "00_00.png").stat().st_mtime_ns == first
    assert shown(out) == [0, 8, 16, 24]


def test_without_a_manifest_it_waits_and_once_does_not(finished, tmp_path):
    place, said, waits = copied(finished, tmp_path), [], []
    manifest = (place / "manifest.json").read_text()
    (place / "manifest.json").unlink()
    assert drawn(place, tmp_path / "out", said, once=True)["drawn"] == 4
    assert waits == []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            (place / "manifest.json").write_text(manifest)

    counts = drawn(place, tmp_path / "out", said, wait=wait)
    assert counts == {"drawn": 0, "kept from before": 4}
    assert waits == [5.0] * 3
    assert len([line for line in said if line.startswith("Waiting")]) == 1


def test_what_cannot_be_watched_is_refused(finished, tmp_path, capsys):
    place = copied(finished, tmp_path)
    assert told(capsys, "--watch", str(tmp_path / "none"), *QUICK)[::2] == (
        2,
        f"Error: {tmp_path / 'none'}: got no fit step; expected the run folder of a training, or "
        "the folder of its fit step. Start the training first; watch may begin while it runs.\n",
    )
    for words, said in (
        (["adapter=x"], "The model comes from the training that is watched"),
        (["a place"], "values such as steps=20"),
        (["stepps=2"], "Did you mean 'steps'"),
        (["prompts=nowhere.txt"], "no file"),
        (["model=nowhere"], "nowhere"),
    ):
        code, _, error = told(capsys, "--watch", str(place), *words)
        assert (code, said in error) == (2, True), error
    assert told(capsys, "--watch", str(place), "--limit", "1", *QUICK)[0] == 0
    code, _, error = told(capsys, "--watch", str(place), "--limit", "1", *QUICK[:-1])
    assert code == 2
    assert "drawn in another way" in error
    out = tmp_path / "elsewhere"
    out.mkdir()
    import fcntl

    with (out / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        code, _, error = told(capsys, "--watch", str(place), "-o", str(out), *QUICK)
    assert code == 2
    assert "one watch a folder" in error


def test_the_sheet_has_a_row_a_prompt_and_a_column_a_checkpoint(tmp_path):
    def plain(value: int) -> np.ndarray:
        return np.full((32, 32, 3), value, np.uint8)

    rows = [[plain(60 * r + 30 * c) for c in range(3)] for r in range(2)]
    write_preview_sheet(tmp_path / "a.png", rows, ["one", "two"], ["before", "8 images", "16"])
    sheet = pixels(tmp_path / "a.png").astype(int)
    # Enlarged by three; the centres of the cells have their pictures' colours.
    centre = [[sheet[28 + 102 * r + 48, 182 + 102 * c + 48, 0] for c in range(3)] for r in range(2)]
    assert centre == [[0, 30, 60], [60, 90, 120]]
    large = [[np.zeros((1024, 512, 3), np.uint8)]]
    write_preview_sheet(tmp_path / "b.png", large, ["a long prompt " * 40], ["before"])
    assert pixels(tmp_path / "b.png").shape == (28 + 256 + 6, 182 + 128 + 6, 3)


def test_many_checkpoints_are_thinned_on_the_sheet():
    assert spread(3, 24) == [0, 1, 2]
    assert spread(100, 4) == [0, 33, 66, 99]
    assert spread(5, 1) == [4]
