"""Workers and the driver killed at random moments: the catalogue is the same, byte for byte."""

import random
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from tastemaker.store.hashing import hash_file, hash_folder

PICTURES, BROKEN = 700, 5
RUNS = 20
WITH_MODEL = "{kind: pixels}, {kind: embedding, model: tiny-clip}"
"""Operations of the first runs; the others, without a model, are soon at work."""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """Small pictures, some the same, some broken; enough for several shards."""
    folder = tmp_path_factory.mktemp("pictures")
    noise = np.random.default_rng(0)
    for number in range(PICTURES):
        coarse = noise.integers(0, 256, (6, 7, 3), np.uint8)
        Image.fromarray(coarse).resize((70, 60)).save(folder / f"{number:04d}.png")
        (folder / f"{number:04d}.txt").write_text(f"picture {number}")
    for number in range(BROKEN):
        (folder / f"broken{number}.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes([number]))
    (folder / "copy.png").write_bytes((folder / "0003.png").read_bytes())
    return folder


@pytest.fixture(scope="module")
def undisturbed(pictures, tmp_path_factory) -> Callable[[str], tuple[dict[str, str], float]]:
    """What a run that nobody kills leaves, and how long it takes, by its operations."""

    @cache
    def run(operations: str) -> tuple[dict[str, str], float]:
        folder = tmp_path_factory.mktemp("run")
        start = time.monotonic()
        assert driver(pictures, folder, operations).wait(timeout=200) == 0
        return left_by(folder), time.monotonic() - start

    return run


def driver(pictures: Path, run: Path, operations: str) -> "subprocess.Popen[bytes]":
    script = Path(__file__).with_name("kill_driver.py")
    return subprocess.Popen(
        [sys.executable, str(script), str(pictures), str(run), operations],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def left_by(run: Path) -> dict[str, str]:
    """Hashes of all that may not depend on kills: the catalogue, verdicts, the selection."""
    (collect,) = (run / "steps" / "pictures").glob("*/collection")
    (curate,) = (run / "steps" / "chosen").glob("*/selection.json")
    names = ("selection.json", "verdicts.parquet", "curation.json")
    return {
        "base": hash_folder(collect / "catalog" / "base"),
        "columns": hash_folder(collect / "catalog" / "col"),
        **{name: hash_file(curate.parent / name) for name in names},
    }


def kill_someone(process: "subprocess.Popen[bytes]", chance: random.Random) -> str:
    """Kill a worker, when there is one and chance wants it, else the driver."""
    try:
        workers = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return "nobody"
    if workers and chance.random() < 0.6:
        victim = chance.choice(sorted(workers, key=lambda worker: worker.pid))
        try:
            victim.kill()
        except psutil.NoSuchProcess:
            return "nobody"
        return "a worker"
    process.kill()
    process.wait()
    return "the driver"


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("block", range(4))
def test_kills_leave_no_trace(pictures, undisturbed, tmp_path, block):
    operations = WITH_MODEL if block == 0 else "{kind: pixels}"
    expected, seconds = undisturbed(operations)
    killed = []
    for seed in range(block * RUNS // 4, (block + 1) * RUNS // 4):
        chance = random.Random(seed)
        run = tmp_path / f"run{seed}"
        process = driver(pictures, run, operations)
        for _ in range(chance.randint(1, 3)):
            time.sleep(chance.uniform(0.1, 0.6) * seconds)
            if process.poll() is not None:
                break
            killed.append(kill_someone(process, chance))
            if process.poll() is not None:
                process = driver(pictures, run, operations)
        assert process.wait(timeout=200) == 0, f"seed {seed}"
        assert left_by(run) == expected, f"seed {seed}"
    assert {"a worker", "the driver"} & set(killed)
