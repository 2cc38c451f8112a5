"""Plots as inline SVG, without a script: distributions, a front of quality against latency, and lines over time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape

WIDTH, LEFT, RIGHT, TOP, BOTTOM = 420, 46, 12, 10, 30
COLOURS = 8  # that the page's style has: .s0 to .s7
BINS = 48
LOGARITHMIC = 6  # the largest by the smallest value, from which on an axis is logarithmic


@dataclass(frozen=True)
class Series:
    """One row's points or samples; `index` picks its colour and is its number in the legend, from 0."""

    index: int
    label: str
    points: Sequence[tuple[float, float]] = ()
    samples: Sequence[float] = ()
    marks: Sequence[tuple[float, str]] = ()


@dataclass(frozen=True)
class Point:
    """One row on the front: its latency with the ends of its interval, and what of the quality it lost."""

    index: int
    label: str
    x: float
    low: float
    high: float
    lost: float
    told: str = ""


@dataclass(frozen=True)
class Axis:
    """From values to pixels, linear or logarithmic."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False
    least: float = 0.0  # between two ticks: 1 for what is counted

    def __call__(self, value: float) -> float:
        scale: Callable[[float], float] = math.log if self.logarithmic else float
        span = scale(self.high) - scale(self.low) or 1.0
        part = (scale(min(max(value, self.low), self.high)) - scale(self.low)) / span
        return self.start + part * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Round numbers, some four to seven of them."""
        if self.logarithmic:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            found = [f * 10.0**p for p in powers for f in (1, 2, 5)]
            found = [t for t in found if self.low <= t <= self.high]
            return found if len(found) >= 2 else [self.low, self.high]
        step = max(_step(self.high - self.low), self.least)
        first = math.ceil(self.low / step - 1e-9)
        return [step * n for n in range(first, math.floor(self.high / step + 1e-9) + 1)]


def distributions(series: Sequence[Series], unit: str) -> Markup:
    """A strip a row: how often each latency was seen, with marks at its percentiles, on one axis for all."""
    values = [v for s in series for v in s.samples]
    row, top = 44, 4
    height = top + row * len(series) + BOTTOM
    low, high = min(values), max(values)
    axis = Axis(low * 0.97, high * 1.03, 8, WIDTH - RIGHT, high > LOGARITHMIC * low)
    parts = [_x_axis(axis, top, height - BOTTOM, unit)]
    for place, s in enumerate(series):
        base = top + row * place + 30
        parts.append(
            Markup('<text class="name" x="8" y="{:.0f}">{}  {}</text>').format(base - 17, s.index + 1, s.label)
        )
        parts.append(_strip(s, axis, base))
        for value, name in s.marks:
            parts.append(
                Markup(
                    '<line class="mark" x1="{0:.1f}" x2="{0:.1f}" y1="{1}" y2="{2}"><title>{3}</title></line>'
                ).format(axis(value), base - 11, base + 11, name)
            )
    return _svg(height, f"distribution of {unit} by row", parts)


def front(points: Sequence[Point], unit: str, lost: str) -> Markup:
    """Quality lost against latency; those that none beats in both are joined: the Pareto front."""
    height = 260
    xs = [v for p in points for v in (p.low, p.high)]
    x = Axis(min(xs) * 0.9, max(xs) * 1.1, LEFT, WIDTH - RIGHT, max(xs) > LOGARITHMIC * min(xs))
    most, least = max(p.lost for p in points), min(p.lost for p in points)
    room = (most - least) * 0.15 or max(abs(most), 0.01)
    y = Axis(least - room, most + room, TOP + 14, height - BOTTOM)  # nothing lost is at the top
    parts = [_x_axis(x, TOP, height - BOTTOM, unit), _y_axis(y, lost)]
    best = " ".join(f"{x(p.x):.1f},{y(p.lost):.1f}" for p in pareto(points))
    parts.append(Markup('<polyline class="front" points="{}"/>').format(best))
    for p in points:
        parts.append(
            Markup(
                '<g class="s{i}"><title>{t}</title><line class="whisker" x1="{a:.1f}" x2="{b:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
                '<circle cx="{x:.1f}" cy="{y:.1f}" r="5"/><text x="{x:.1f}" y="{u:.1f}">{n}</text></g>'
            ).format(
                i=p.index % COLOURS, t=p.told or p.label, a=x(p.low), b=x(p.high), x=x(p.x), y=y(p.lost),
                u=y(p.lost) - 9, n=p.index + 1,
            )
        )  # fmt: skip
    return _svg(height, f"quality lost ({lost}) against {unit}", parts)


def lines(series: Sequence[Series], x_unit: str, y_unit: str) -> Markup:
    """A line a row."""
    height = 220
    xs, ys = ([p[i] for s in series for p in s.points] for i in (0, 1))
    x = Axis(min(xs), max(xs), LEFT, WIDTH - RIGHT, least=float(x_unit == "round"))
    room = (max(ys) - min(ys)) * 0.08 or max(abs(max(ys)) * 0.05, 0.1)
    y = Axis(max(0.0, min(ys) - room), max(ys) + room, height - BOTTOM, TOP + 8)
    parts = [_x_axis(x, TOP, height - BOTTOM, x_unit), _y_axis(y, y_unit)]
    for s in series:
        path = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in s.points)
        end = s.points[-1]
        parts.append(
            Markup(
                '<g class="s{i}"><title>{l}</title><polyline class="line" points="{p}"/>'
                '<text class="end" x="{x:.1f}" y="{y:.1f}">{n}</text></g>'
            ).format(i=s.index % COLOURS, l=s.label, p=path, x=x(end[0]) - 2, y=y(end[1]) - 4, n=s.index + 1)
        )
    return _svg(height, f"{y_unit} over {x_unit}", parts)


def pareto(points: Sequence[Point]) -> list[Point]:
    """Those that no other beats in latency and quality, from the fastest on."""
    found: list[Point] = []
    for point in sorted(points, key=lambda p: (p.x, p.lost)):
        if not found or point.lost < found[-1].lost:
            found.append(point)
    return found


def _strip(series: Series, axis: Axis, base: float) -> Markup:
    """The mirrored histogram of one row's samples, in equal steps of the axis."""
    places = [axis(v) for v in series.samples]
    counts, edges = np.histogram(places, BINS, (axis.start, axis.end))
    heights = 11 * np.sqrt(counts / counts.max())  # by the root, so that a long tail is seen
    bars = Markup("").join(
        Markup('<rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"/>').format(
            edges[i], base - h, edges[i + 1] - edges[i] + 0.2, 2 * h
        )
        for i, h in enumerate(heights)
        if h > 0
    )
    told = f"{series.label}: {len(series.samples)} samples"
    return Markup('<g class="s{} filled"><title>{}</title>{}</g>').format(series.index % COLOURS, told, bars)


def _x_axis(axis: Axis, top: float, bottom: float, unit: str) -> Markup:
    ticks = _apart([(t, axis(t)) for t in axis.ticks()])
    return Markup("").join(
        [
            *(
                Markup(
                    '<line class="grid" x1="{0:.1f}" x2="{0:.1f}" y1="{1}" y2="{2}"/>'
                    '<text class="tick" x="{0:.1f}" y="{3}" text-anchor="middle">{4}</text>'
                ).format(place, top, bottom, bottom + 12, f"{value:g}")
                for value, place in ticks
            ),
            Markup('<text class="unit" x="{}" y="{}" text-anchor="end">{}</text>').format(
                WIDTH - RIGHT, bottom + 26, unit
            ),
        ]
    )


def _y_axis(axis: Axis, unit: str) -> Markup:
    ticks = Markup("").join(
        Markup(
            '<line class="grid" x1="{0}" x2="{1}" y1="{2:.1f}" y2="{2:.1f}"/>'
            '<text class="tick" x="{3}" y="{4:.1f}" text-anchor="end">{5}</text>'
        ).format(LEFT, WIDTH - RIGHT, axis(t), LEFT - 5, axis(t) + 4, f"{round(t, 10):g}")
        for t in axis.ticks()
    )
    return ticks + Markup('<text class="unit" x="2" y="{}">{}</text>').format(TOP, unit)


def _apart(ticks: Sequence[tuple[float, float]]) -> Iterator[tuple[float, float]]:
    """Those that do not write over each other."""
    last = -math.inf
    for value, place in ticks:
        if place - last >= 30:
            yield value, place
            last = place


def _step(span: float) -> float:
    """1, 2 or 5 times a power of ten, so that some five of them make the span."""
    raw = (span or 1.0) / 5
    power = 10.0 ** math.floor(math.log10(raw))
    return next(f * power for f in (1, 2, 5, 10) if f * power >= raw * 0.999)


def _svg(height: float, told: str, parts: Sequence[Markup]) -> Markup:
    return Markup('<svg class="plot" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        WIDTH, f"{height:.0f}", escape(told), Markup("").join(parts)
    )
