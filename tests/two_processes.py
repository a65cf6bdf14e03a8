"""Jobs of `parallel_pair.py` in two processes that fit together."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def in_two_processes(root: Path, jobs: Sequence[dict[str, Any]]) -> list[int]:
    """Do the jobs one after another; the exit codes, and what was said in `told.RANK`."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "jobs.json").write_text(json.dumps(jobs))
    script = Path(__file__).with_name("parallel_pair.py")
    words = ["2", str(root / "store"), str(root / "jobs.json")]
    started = []
    for rank in range(2):
        with (root / f"told.{rank}").open("w") as told:
            started.append(
                subprocess.Popen(
                    [sys.executable, str(script), str(rank), *words],
                    cwd=Path(__file__).parents[1], stdout=told, stderr=subprocess.STDOUT,
                )
            )  # fmt: skip
    return [process.wait(timeout=250) for process in started]
