"""Bars and strips as inline SVG, and numbers as the page writes them."""

from __future__ import annotations

import math

from markupsafe import Markup


def bar(value: float, largest: float, kind: str = "") -> Markup:
    """A horizontal bar, its length the value's part of the largest; `kind` is its CSS class."""
    width = 0.0 if not largest > 0 else max(0.5, min(100.0, 100.0 * value / largest))
    return Markup(
        '<svg class="bar {}" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">'
        '<rect class="ground" width="100" height="10"/><rect class="value" width="{:.2f}" height="10"/></svg>'
    ).format(kind, width)


def strip(low: float, high: float, bounds: tuple[float, float]) -> Markup:
    """A range within the bounds of all, on a scale that shows small and large ones (asinh), with a mark at 0."""
    left, right = math.asinh(bounds[0]), math.asinh(bounds[1])
    span = (right - left) or 1.0
    start, end, zero = (100.0 * (math.asinh(v) - left) / span for v in (low, high, 0.0))
    return Markup(
        '<svg class="strip" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">'
        '<rect class="ground" y="4" width="100" height="2"/><rect class="value" x="{:.2f}" y="2" width="{:.2f}" '
        'height="6"/><rect class="zero" x="{:.2f}" width="0.6" height="10"/></svg>'
    ).format(start, max(0.5, end - start), min(max(zero, 0.0), 99.4))


def ms(value: float) -> str:
    """ "12.3 ms", with as many digits as tell two apart."""
    return f"{value:.1f} ms" if value >= 10 else f"{value:.2f} ms" if value >= 0.1 else f"{value:.3f} ms"


def kb(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"


def db(value: float | None) -> str:
    """A signal-to-noise ratio; 999 stands for equal."""
    return "–" if value is None else "equal" if value >= 999 else f"{value:.1f} dB"


def signed(value: float) -> str:
    return f"{value:+.3g}" if value else "0"
