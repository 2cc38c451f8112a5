"""Energy where the machine tells it: RAPL counters of x86-64 processors, INA sensors of boards."""

from __future__ import annotations

import time
from pathlib import Path

from edgekit.machine import SYSTEM

INA = ("ina219", "ina220", "ina226", "ina230", "ina231", "ina238", "ina3221")


class Meter:
    """Joules of the whole processor or board between `start` and `joules`, what idles and what others do included.

    RAPL (Intel and AMD, powercap in sysfs, readable by root alone since CVE-2020-8694) counts energy; an INA sensor
    (hwmon) tells power, which is summed over time from one `look` to the next. `source` says which, "" for neither.
    """

    def __init__(self, root: Path = SYSTEM) -> None:
        self._counters = [
            p.parent for p in sorted((root / "sys/class/powercap").glob("*rapl:*/energy_uj")) if _package(p)
        ]
        self._counters = [folder for folder in self._counters if _number(folder / "energy_uj") is not None]
        self._sensors = [] if self._counters else _sensors(root)
        names = [_text(f / "name") for f in (*self._counters, *dict.fromkeys(s.parent for s in self._sensors))]
        self.source = f"{'RAPL' if self._counters else 'INA'} {', '.join(names)}" if names else ""
        self._before: list[int] = []
        self._joules = self._moment = self._watts = 0.0

    def start(self) -> None:
        self._before = [_number(folder / "energy_uj") or 0 for folder in self._counters]
        self._joules, self._moment, self._watts = 0.0, time.monotonic(), self._power()

    def look(self) -> None:
        """Add what a sensor says was used since the last look (trapezoids); nothing to do for counters."""
        if self._sensors:
            now, watts = time.monotonic(), self._power()
            self._joules += (now - self._moment) * (watts + self._watts) / 2
            self._moment, self._watts = now, watts

    def joules(self) -> float | None:
        """Joules since `start`; None where the machine tells nothing."""
        if not self.source:
            return None
        self.look()
        for folder, before in zip(self._counters, self._before, strict=True):
            used = (_number(folder / "energy_uj") or 0) - before
            self._joules += (used if used >= 0 else used + (_number(folder / "max_energy_range_uj") or 0)) / 1e6
        return self._joules

    def _power(self) -> float:
        """Watts of all sensors now."""
        return sum((_number(path) or 0) / 1e6 for path in self._sensors)


def _package(counter: Path) -> bool:
    """Whether a counter is one of a whole processor: "intel-rapl:0", not its cores ("intel-rapl:0:0") or the platform."""
    return counter.parent.name.count(":") == 1 and _text(counter.parent / "name").startswith("package")


def _sensors(root: Path) -> list[Path]:
    """The power files, in µW, of INA sensors."""
    chips = [chip for chip in sorted((root / "sys/class/hwmon").glob("hwmon*")) if _text(chip / "name") in INA]
    return [path for chip in chips for path in sorted(chip.glob("power*_input"))]


def _number(path: Path) -> int | None:
    text = _text(path)
    return int(text) if text.isdecimal() else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:  # counters of RAPL are root's
        return ""
