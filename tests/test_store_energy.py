"""Counters of energy: differences of what is there, nothing where nothing is."""

import ctypes
from pathlib import Path

import pytest

from tastemaker.store import energy
from tastemaker.store.energy import Reading, joules_between, read_energy

ONE = frozenset({"GPU-1"})


def _zone(folder: Path, name: str, microjoules: int, around: int = 1_000_000_000) -> None:
    zone = folder / name
    zone.mkdir(parents=True, exist_ok=True)
    (zone / "energy_uj").write_text(f"{microjoules}\n")
    (zone / "max_energy_range_uj").write_text(f"{around}\n")


def test_a_machine_without_counters_measures_nothing(tmp_path: Path) -> None:
    assert read_energy(tmp_path).packages == {}
    assert joules_between(Reading(0.0), Reading(9.0), ONE) == {}


def test_packages_are_added_and_their_parts_are_not(tmp_path: Path) -> None:
    for name in ("intel-rapl:0", "intel-rapl:1", "intel-rapl:0:0"):
        _zone(tmp_path, name, 5_000_000)
    before = read_energy(tmp_path)
    for name in ("intel-rapl:0", "intel-rapl:1", "intel-rapl:0:0"):
        _zone(tmp_path, name, 8_500_000)
    assert set(before.packages) == {"intel-rapl:0", "intel-rapl:1"}
    found = joules_between(before, read_energy(tmp_path), ONE)
    assert found.get("processors") == pytest.approx(7.0)


def test_a_counter_that_starts_again_counts_once_and_not_after_long() -> None:
    before = Reading(0.0, {}, {"0": (990.0, 1000.0)})
    assert joules_between(before, Reading(1.0, {}, {"0": (10.0, 1000.0)}), ONE) == {
        "processors": 20.0
    }
    assert joules_between(before, Reading(60.0, {}, {"0": (10.0, 1000.0)}), ONE) == {}


def test_only_accelerators_in_use_are_counted() -> None:
    before = Reading(0.0, {"GPU-1": 100.0, "GPU-2": 100.0})
    after = Reading(1.0, {"GPU-1": 250.0, "GPU-2": 900.0})
    assert joules_between(before, after, ONE) == {"GPU": 150.0}
    assert joules_between(before, after, frozenset()) == {}
    # The driver was loaded anew: the counter fell.
    assert joules_between(after, before, ONE) == {}


class Driver:
    """The functions of NVML that are used, for two devices of which one has no counter."""

    def __init__(self, started: int = 0) -> None:
        self.started, self.stopped = started, False

    def nvmlInit_v2(self) -> int:
        return self.started

    def nvmlShutdown(self) -> int:
        self.stopped = True
        return 0

    def nvmlDeviceGetCount_v2(self, count: ctypes._Pointer) -> int:
        count._obj.value = 2
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index: int, device: ctypes._Pointer) -> int:
        device._obj.value = index + 7
        return 0

    def nvmlDeviceGetUUID(self, device: ctypes.c_void_p, name: ctypes.Array, size: int) -> int:
        name.value = f"GPU-{device.value}".encode()
        return 0 if size == 96 else 7

    def nvmlDeviceGetTotalEnergyConsumption(
        self, device: ctypes.c_void_p, found: ctypes._Pointer
    ) -> int:
        found._obj.value = 12_500
        return 0 if device.value == 7 else 3


def test_accelerators_are_read_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    driver = Driver()
    monkeypatch.setattr(energy.ctypes, "CDLL", lambda name: driver)
    assert read_energy(tmp_path).gpus == {"GPU-7": 12.5}
    assert driver.stopped
    driver.started = 999
    assert read_energy(tmp_path).gpus == {}
