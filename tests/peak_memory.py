"""How much memory a piece of work takes at its highest, on the CPU."""

from collections.abc import Callable
from typing import Any

import torch


def peak_bytes(work: Callable[[], None]) -> int:
    """Bytes beyond what was held before, by torch's own account."""
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        work()
    events: Any = profile.profiler
    now = highest = 0
    for event in sorted(events.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            now += event.nbytes()
            highest = max(highest, now)
    return highest
