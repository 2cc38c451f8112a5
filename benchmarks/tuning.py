"""Tune: measure a bundle on this machine and keep the result, so that `runtime="auto"` chooses by it."""

from __future__ import annotations

from pathlib import Path

from edgekit import choice, profile
from edgekit.benchmarks.measurement import measure
from edgekit.benchmarks.options import MeasureOptions
from edgekit.benchmarks.records import Report
from edgekit.bundle import Bundle
from edgekit.choice import Choice


def tune(
    bundle: str | Path | Bundle,
    *,
    options: MeasureOptions = MeasureOptions(rounds=3, seconds=0.5),  # noqa: B008  (frozen)
) -> Choice:
    """Measure every engine × precision, remember it for this machine, and return what `auto` takes now.

    Raises:
        BundleError, DeviceUnavailable.
    """
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    return remember(opened, measure(opened, options=options))


def remember(bundle: Bundle, report: Report) -> Choice:
    """Keep a report's medians of the whole task as this machine's profile of the bundle; returns what `auto` takes now."""
    rows = [
        profile.Row(bundle.main, r.case.runtime, r.case.device, r.case.precision, r.case.threads, r.percentile(50))
        for r in report.rows
        if r.model_ms and not r.error
    ]
    profile.save(bundle, rows, report.input)
    return choice.pick(bundle, bundle.main, "auto", "cpu", "auto", {})
