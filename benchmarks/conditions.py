"""What a measurement ran under, looked at before it, after every round, and at its end: heat, clock, throttling."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from edgekit import machine

SLOWED = 0.9  # a clock below this part of its highest in the run is told
BUSY = 0.25  # cores that others used, from which on it is told


class State(msgspec.Struct):
    """The machine at a moment; `seconds` since the measurement began, None where the system does not tell.

    `throttled`: what slows a Raspberry Pi down now; `throttle_events`: how often any core of an x86-64 processor was
    slowed down for its heat since the start of the system; `load`: the load average of the last minute.
    """

    seconds: float
    temperature_c: float | None = None
    clock_mhz: int | None = None
    throttled: list[str] | None = None
    throttle_events: int | None = None
    load: float | None = None


class Watch:
    """Takes down the machine's state as the measurement goes on."""

    def __init__(self, root: Path = machine.SYSTEM) -> None:
        self._root = root
        self._began = time.monotonic()
        self.states: list[State] = []
        self.look()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    def look(self) -> None:
        clock, slowed = machine.clock_mhz(self._root), machine.throttled(self._root)
        self.states.append(
            State(
                round(self.seconds, 3),
                machine.temperature_c(self._root),
                clock["now"] if clock else None,
                slowed["now"] if slowed is not None else None,
                _throttle_events(self._root),
                round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
            )
        )


def warnings(states: Sequence[State], elsewhere: Sequence[float] = ()) -> list[str]:
    """What may have changed the figures, in words; `elsewhere`: cores that other programs used, round by round."""
    found = []
    slowed = dict.fromkeys(name for s in states for name in s.throttled or ())
    if slowed:
        found.append(f"the board was slowed down during the run ({', '.join(slowed)}): cool it, or feed it better")
    events = [s.throttle_events for s in states if s.throttle_events is not None]
    if events and events[-1] > events[0]:
        found.append(f"the processor was slowed down for its heat {events[-1] - events[0]} times during the run")
    clocks = [s.clock_mhz for s in states if s.clock_mhz]
    if clocks and min(clocks) < SLOWED * max(clocks):
        found.append(f"the clock moved between {min(clocks)} and {max(clocks)} MHz during the run")
    busy = sum(elsewhere) / len(elsewhere) if elsewhere else 0.0
    if busy > BUSY:
        found.append(f"other programs used {busy:.1f} cores while this was measured: believe ratios, not milliseconds")
    return found


def course(states: Sequence[State]) -> str:
    """ "54.4 → 61.0 °C, 2400 → 1500 MHz": from before to after; "" where the system tells neither."""
    if not states:
        return ""
    first, last = states[0], states[-1]
    found = [(first.temperature_c, last.temperature_c, "°C"), (first.clock_mhz, last.clock_mhz, "MHz")]
    return ", ".join(f"{before} → {after} {unit}" for before, after, unit in found if None not in (before, after))


def _throttle_events(root: Path) -> int | None:
    pattern = "sys/devices/system/cpu/cpu*/thermal_throttle/core_throttle_count"
    counts = [path.read_text().strip() for path in root.glob(pattern)]
    return sum(int(c) for c in counts if c.isdecimal()) if counts else None
