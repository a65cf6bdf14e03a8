"""One set of pictures by several processes or machines, and after kills: the same bytes."""

import json
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from tastemaker.errors import InputError
from tastemaker.records.generation import Prompt
from tastemaker.records.run import Artefact
from tastemaker.stages import generate
from tastemaker.store import jsonl
from tastemaker.store.generated_latents import GeneratedLatents, generated_key
from tastemaker.store.hashing import hash_file
from tastemaker.store.prompt_sets import make_prompt_set, write_prompt_set
from tastemaker.store.samples import load_sample_set, manifest_files, read_samples
from tests.tiny_models import saved_sdxl
from tests.tiny_run import run_step, step_dir

# diffusers turns torch tensors into arrays the way numpy 2 calls old.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)

PROMPTS = [Prompt(f"p{number}", f"a {word} apple") for number, word in enumerate("abcdefg")]
FIELDS: dict[str, Any] = {
    "sampler": "euler_a", "steps": 2, "samples_per_prompt": 2, "batch": 3, "guidance": 3.0,
    "keep_latents": True, "grid_pictures": 0,
}  # fmt: skip


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artefact]:
    root = tmp_path_factory.mktemp("given")
    write_prompt_set(root / "prompts.jsonl", make_prompt_set("seven", PROMPTS))
    return {
        "model": Artefact("model", saved_sdxl(tmp_path_factory.getbasetemp()), "m"),
        "prompts": Artefact("prompts", root / "prompts.jsonl", "p"),
    }


@pytest.fixture(scope="module")
def alone(given: dict[str, Artefact], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one undisturbed process leaves, and how long it draws."""
    root = tmp_path_factory.mktemp("alone")
    process = start(root, given)
    wait_until_it_begins(root, process)
    begun = time.monotonic()
    assert process.wait(timeout=120) == 0
    return {"left": left_by(root), "seconds": time.monotonic() - begun}


def start(root: Path, given: dict[str, Artefact], **more: Any) -> "subprocess.Popen[bytes]":
    job = {
        "step": str(root / "step"),
        "inputs": [(name, (one.kind, str(one.path), one.key)) for name, one in given.items()],
        "fields": {**FIELDS, **more.pop("fields", {})},
        **more,
    }
    place = root / f"job{more.get('rank', 0)}.json"
    place.write_text(json.dumps(job))
    script = [sys.executable, str(Path(__file__).with_name("shared_drawing.py")), str(place)]
    (root / "begun").unlink(missing_ok=True)
    log = (root / "log").open("ab")
    with log:
        return subprocess.Popen(script, cwd=Path(__file__).parents[1], stderr=log)


def wait_until_it_begins(root: Path, process: "subprocess.Popen[bytes]") -> None:
    """Past the imports, which take longer than the pictures."""
    while not (root / "begun").exists() and process.poll() is None:
        time.sleep(0.01)


def start_two(root: Path, given: dict[str, Artefact]) -> "list[subprocess.Popen[bytes]]":
    store = str(root / f"store{time.monotonic_ns()}")
    return [start(root, given, store=store, rank=rank, world=2) for rank in range(2)]


def left_by(root: Path) -> dict[str, Any]:
    """Everything but who wrote which line when."""
    folder = root / "step" / "samples"
    rows = [row for file in manifest_files(folder) for row in jsonl.read(file)]
    return {
        "pictures": {path.name: hash_file(path) for path in folder.glob("*.png")},
        "rows": sorted({json.dumps(row, sort_keys=True) for row in rows}),
        "latents": kept_latents(folder),
        "run": (folder / "run.json").read_text(),
    }


def kept_latents(folder: Path) -> dict[str, bytes]:
    """By key; of the files themselves, the order of the head is safetensors' to choose."""
    kept = GeneratedLatents(folder)
    if not kept.path.exists():
        return {}
    keys = map(generated_key, read_samples(folder))
    return {key: kept.read(key).mean.view(torch.int16).numpy().tobytes() for key in keys}


def test_two_processes_draw_the_same_bytes(given, alone, tmp_path):
    for process in start_two(tmp_path, given):
        assert process.wait(timeout=120) == 0
    assert left_by(tmp_path) == alone["left"]
    files = manifest_files(tmp_path / "step" / "samples")
    assert [file.name for file in files] == ["samples.jsonl", "samples-1.jsonl"]
    # 14 pictures in batches of 3: the first process draws batches 0, 2 and 4.
    assert [sum(1 for _ in jsonl.read(file)) for file in files] == [8, 6]
    found = load_sample_set(tmp_path / "step" / "samples", [p.id for p in PROMPTS])
    assert (len(found.samples), found.missing) == (14, ())


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_ten_kills_leave_no_trace(given, alone, tmp_path):
    """Each at a random moment of one process or of two, which go on where the others were."""
    chance, killed = random.Random(0), 0
    for number in range(10):
        many = number % 3 == 2
        processes = start_two(tmp_path, given) if many else [start(tmp_path, given)]
        if not many:
            wait_until_it_begins(tmp_path, processes[0])
        pause = chance.uniform(0.2, 0.9) * alone["seconds"]
        time.sleep(pause + (chance.uniform(0, 8) if many else 0))
        for process in chance.sample(processes, len(processes)):
            killed += process.poll() is None
            process.kill()
            process.wait()
        if number % 4 == 3:  # a whole set again: later kills find something to interrupt
            samples = sorted((tmp_path / "step" / "samples").glob("p*.png"))
            for path in chance.sample(samples, len(samples) // 2):
                path.unlink()
    assert killed >= 5
    assert start(tmp_path, given).wait(timeout=120) == 0
    assert left_by(tmp_path) == alone["left"]


@pytest.mark.parametrize("after", range(1, 11))
def test_ten_kills_at_any_write_leave_no_trace(given, alone, tmp_path, monkeypatch, after):
    """The writing stops before the n-th file or line, wherever that is; the rest comes later."""
    from tastemaker.engine import picture_files

    class Killed(BaseException):
        pass

    left, chance = random.Random(after).randint(1, 14), random.Random(after)
    real = picture_files.hash_file

    def dies(path: Path) -> str:
        nonlocal left
        left -= 1
        if left == 0:
            # As a kill in the midst of a line does.
            with (path.parent / "samples.jsonl").open("ab") as file:
                file.write(b'{"model": "sam'[: chance.randrange(15)])
            raise Killed
        return real(path)

    step = step_dir(tmp_path, "generate", "x")
    with monkeypatch.context() as patch:
        patch.setattr(picture_files, "hash_file", dies)
        with pytest.raises(Killed):
            run_step(generate, step, given, **FIELDS)
    manifest, _ = run_step(generate, step, given, **FIELDS)
    assert manifest.counts["pictures"] == 14
    (tmp_path / "step").symlink_to(step.path)
    assert left_by(tmp_path) == alone["left"]


def test_shares_of_machines_without_a_launcher_become_one_set(given, alone, tmp_path):
    parts, counts = [], []
    fields = {**FIELDS, "keep_latents": False}
    for number in (1, 2):
        step = step_dir(tmp_path, "generate", f"{number}")
        manifest, made = run_step(generate, step, given, **fields, share=f"{number}/2")
        parts.append(made["samples"])
        counts.append((manifest.counts["pictures"], manifest.counts["left to other shares"]))
    assert counts == [(8, 6), (6, 8)]
    inputs = dict(given)
    config = generate.Config(model="m", prompts="p", parts=("a", "b"), **fields)
    inputs |= {f"parts.{number}": part for number, part in enumerate(parts)}
    step = step_dir(tmp_path, "generate", "whole")
    manifest = generate.run(config, inputs, step)
    assert manifest.counts == {"pictures": 14, "prompts": 7, "kept from before": 14}
    (tmp_path / "step").symlink_to(step.path)
    whole = left_by(tmp_path)
    assert (whole["pictures"], whole["rows"]) == (alone["left"]["pictures"], alone["left"]["rows"])
    other = generate.Config(model="m", prompts="p", parts=("a", "b"), **{**fields, "steps": 3})
    with pytest.raises(InputError, match=r"parts.0 \(a\): got no picture that this run would draw"):
        generate.run(other, inputs, step_dir(tmp_path, "generate", "other"))


def test_pictures_of_other_versions_are_not_mixed(given, tmp_path):
    step = step_dir(tmp_path, "generate", "x")
    fields = {**FIELDS, "keep_latents": False}
    run_step(generate, step, given, **fields)
    file = step.path / "samples" / "run.json"
    told = json.loads(file.read_text())
    assert told["scheduler"]["class"] == "EulerAncestralDiscreteScheduler"
    assert set(told["versions"]) >= {"torch", "diffusers", "tastemaker"}
    told["versions"]["torch"] = "1.0"
    file.write_text(json.dumps(told))
    # Nothing is drawn, so nothing is mixed.
    assert run_step(generate, step, given, **fields)[0].counts["kept from before"] == 14
    (step.path / "samples" / "p0_00.png").unlink()
    with pytest.raises(InputError, match=r"drawn with versions .*torch 1\.0"):
        run_step(generate, step, given, **fields)


def test_a_folder_of_several_ways_is_refused(given, tmp_path):
    step = step_dir(tmp_path, "generate", "x")
    run_step(generate, step, given, **{**FIELDS, "keep_latents": False})
    file = step.path / "samples" / "samples.jsonl"
    row = next(iter(jsonl.read(file)))
    jsonl.append(step.path / "samples" / "samples-3.jsonl", {**row, "settings": "other"})
    with pytest.raises(InputError, match="pictures of 2 different settings"):
        load_sample_set(step.path / "samples", [p.id for p in PROMPTS])
