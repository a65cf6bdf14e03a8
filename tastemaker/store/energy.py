"""Counters of energy that the machine has: accelerators by NVML, processors by RAPL.

Only what is measured is reported; there is no estimate from times and nominal powers. A counter is
of a whole device: other work on it counts, too.
"""

import ctypes
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_POWERCAP = Path("/sys/class/powercap")
_MOST_WATTS = 500.0
"""No processor package draws more (ours): bounds how soon its small counter runs over."""


@dataclass(frozen=True)
class Reading:
    """Counters at one moment.

    Attributes:
        at: seconds of a clock that never goes back.
        gpus: UUID -> joules since the driver was loaded.
        packages: name -> joules, and at how many joules the counter starts again.
    """

    at: float
    gpus: Mapping[str, float] = field(default_factory=dict)
    packages: Mapping[str, tuple[float, float]] = field(default_factory=dict)


def read_energy(powercap: Path = _POWERCAP) -> Reading:
    """All counters that can be read; none of them is an error to lack."""
    return Reading(time.monotonic(), _gpus(), _packages(powercap))


def joules_between(before: Reading, after: Reading, gpus: frozenset[str]) -> dict[str, float]:
    """What was measured between two readings: `GPU`, `processors`.

    A counter that may have run over more than once is left out.

    Args:
        before: the first.
        after: the second.
        gpus: UUIDs of the accelerators that this process could use; others are not counted.
    """
    used = [
        after.gpus[name] - joules
        for name, joules in before.gpus.items()
        if name in gpus and after.gpus.get(name, -1.0) >= joules
    ]
    found = {"GPU": round(sum(used), 1)} if used else {}
    packages = []
    for name, (joules, around) in before.packages.items():
        if name in after.packages and (after.at - before.at) * _MOST_WATTS < around:
            packages.append((after.packages[name][0] - joules) % around)
    if packages and len(packages) == len(before.packages):
        found["processors"] = round(sum(packages), 1)
    return found


def visible_gpus() -> frozenset[str]:
    """UUIDs of the accelerators that torch sees; none before a step has loaded it."""
    torch: Any = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return frozenset()
    count = range(torch.cuda.device_count())
    found = (getattr(torch.cuda.get_device_properties(i), "uuid", None) for i in count)
    return frozenset(f"GPU-{uuid}" for uuid in found if uuid is not None)


def _packages(folder: Path) -> dict[str, tuple[float, float]]:
    found = {}
    for zone in sorted(folder.glob("intel-rapl:*")):
        # `intel-rapl:0:1` is a part of package 0.
        if zone.name.count(":") != 1:
            continue
        try:
            microjoules = int((zone / "energy_uj").read_text())
            around = int((zone / "max_energy_range_uj").read_text())
        except (OSError, ValueError):
            return {}
        found[zone.name] = (microjoules / 1e6, around / 1e6)
    return found


def _gpus() -> dict[str, float]:
    """UUID -> joules, by the driver's own library."""
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return {}
    if nvml.nvmlInit_v2() != 0:
        return {}
    try:
        return _counters(nvml)
    finally:
        nvml.nvmlShutdown()


def _counters(nvml: Any) -> dict[str, float]:
    found: dict[str, float] = {}
    count = ctypes.c_uint()
    if nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)) != 0:
        return found
    for index in range(count.value):
        device, name = ctypes.c_void_p(), ctypes.create_string_buffer(96)
        millijoules = ctypes.c_ulonglong()
        if (
            nvml.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(device)) == 0
            and nvml.nvmlDeviceGetUUID(device, name, 96) == 0
            and nvml.nvmlDeviceGetTotalEnergyConsumption(device, ctypes.byref(millijoules)) == 0
        ):
            found[name.value.decode()] = millijoules.value / 1000
    return found
