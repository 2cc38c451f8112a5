"""What a machine tells while it is measured, on faked /sys: heat, clocks, throttling, energy; pages; how calls are timed."""

from __future__ import annotations

import itertools
import time
from pathlib import Path

import pytest

from edgekit.benchmarks import pagecache
from edgekit.benchmarks.conditions import State, Watch, course, warnings
from edgekit.benchmarks.energy import Meter
from edgekit.benchmarks.sampling import Elsewhere, paced, peak_mb, per_second, rss_mb, timed
from edgekit.errors import InputError


def write(root: Path, path: str, text: object) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(f"{text}\n")


def test_a_board_that_slows_down_is_told(tmp_path: Path) -> None:
    firmware = "sys/devices/platform/soc/soc:firmware/get_throttled"
    cpufreq = "sys/devices/system/cpu/cpu0/cpufreq"
    write(tmp_path, firmware, "0")
    write(tmp_path, f"{cpufreq}/scaling_cur_freq", 2_400_000)
    write(tmp_path, f"{cpufreq}/cpuinfo_max_freq", 2_400_000)
    watch = Watch(tmp_path)
    assert warnings(watch.states) == []
    write(tmp_path, firmware, "4")
    write(tmp_path, f"{cpufreq}/scaling_cur_freq", 1_500_000)
    watch.look()
    slowed, clock = warnings(watch.states)
    assert "throttled" in slowed and "1500 and 2400 MHz" in clock
    assert course(watch.states) == "2400 → 1500 MHz" and course([]) == ""


def test_a_processor_that_was_too_hot_is_told(tmp_path: Path) -> None:
    for core, count in (("cpu0", 3), ("cpu1", 4)):
        write(tmp_path, f"sys/devices/system/cpu/{core}/thermal_throttle/core_throttle_count", count)
    watch = Watch(tmp_path)
    write(tmp_path, "sys/devices/system/cpu/cpu1/thermal_throttle/core_throttle_count", 9)
    watch.look()
    assert ["5 times" in line for line in warnings(watch.states)] == [True]


def test_others_at_work_are_told_and_a_machine_that_tells_nothing_is_quiet(tmp_path: Path) -> None:
    assert Watch(tmp_path).states[0].clock_mhz is None and warnings([State(0.0)], [0.1, 0.0]) == []
    assert "1.2 cores" in warnings([State(0.0)], [1.2, 1.2])[0]


def test_energy_by_rapl(tmp_path: Path) -> None:
    package, cores = "sys/class/powercap/intel-rapl:0", "sys/class/powercap/intel-rapl:0:0"
    for folder, name in ((package, "package-0"), (cores, "core")):
        write(tmp_path, f"{folder}/name", name)
        write(tmp_path, f"{folder}/energy_uj", 1_000_000)
        write(tmp_path, f"{folder}/max_energy_range_uj", 10_000_000)
    meter = Meter(tmp_path)
    meter.start()
    write(tmp_path, f"{package}/energy_uj", 3_500_000)
    assert meter.joules() == 2.5 and meter.source == "RAPL package-0"
    meter.start()
    write(tmp_path, f"{package}/energy_uj", 500_000)  # the counter began anew
    assert meter.joules() == 7.0


def test_energy_by_a_sensor(tmp_path: Path) -> None:
    write(tmp_path, "sys/class/hwmon/hwmon1/name", "ina226")
    write(tmp_path, "sys/class/hwmon/hwmon1/power1_input", 5_000_000)
    write(tmp_path, "sys/class/hwmon/hwmon2/name", "nvme")
    write(tmp_path, "sys/class/hwmon/hwmon2/power1_input", 9_000_000)
    meter = Meter(tmp_path)
    began = time.monotonic()
    meter.start()
    time.sleep(0.02)
    found = meter.joules()
    assert found is not None and 0.1 <= found <= 5 * (time.monotonic() - began) and meter.source == "INA ina226"


def test_no_energy_where_none_is_told(tmp_path: Path) -> None:
    meter = Meter(tmp_path)
    meter.start()
    assert meter.joules() is None and meter.source == ""


def test_pages_of_files_are_counted_and_put_out(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(1 << 20))
    (tmp_path / "empty").touch()
    assert pagecache.cached([path, tmp_path / "empty"]) == 1.0
    pagecache.drop([path])
    left = pagecache.cached([path])
    if left == 1.0:
        pytest.skip("this file system keeps its pages")
    assert left == 0.0
    path.read_bytes()
    assert pagecache.cached([path]) == 1.0 and pagecache.cached([]) is None


def test_calls_are_timed_twice_at_least_and_looked_at_between() -> None:
    looks: list[int] = []
    samples = timed(lambda: time.sleep(0.03), 0.6, lambda: looks.append(1))
    assert len(samples) >= 2 and min(samples) >= 30 and looks
    assert len(timed(lambda: None, 0.0)) == 2


def test_a_slow_call_drops_the_frames_that_it_covers() -> None:
    samples, late = paced(lambda: time.sleep(0.05), 0.4, 100)
    assert late == len(samples) and 2 <= len(samples) <= 8
    begun = time.monotonic()
    samples, _ = paced(lambda: None, 0.2, 50)
    assert 2 <= len(samples) <= 11 and time.monotonic() - begun >= 0.1


def test_a_stream_has_a_rate() -> None:
    assert per_second(itertools.repeat(0), 0.01) > 100


def test_the_process_tells_of_its_memory_and_of_others() -> None:
    assert 0 < (rss_mb() or 1) <= peak_mb() + 1 and (Elsewhere().cores() or 0.0) >= 0


def test_a_system_that_cannot_put_pages_out_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delattr("os.posix_fadvise")
    with pytest.raises(InputError, match="leave --drop-cache out"):
        pagecache.drop([tmp_path])
    assert pagecache.cached([tmp_path]) is None
