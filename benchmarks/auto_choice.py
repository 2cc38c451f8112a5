"""Is what `auto` takes ever slower than fp32? Its choice beside every engine's fp32, interleaved, the whole task.

Run it with `python -m edgekit.benchmarks.auto_choice`, or name bundles; exit code 1 where a choice is slower.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import click
import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from edgekit import choice
from edgekit.benchmarks.measurement import measure
from edgekit.benchmarks.options import MeasureOptions
from edgekit.benchmarks.statistics import noise_of
from edgekit.bundle import Bundle, shipped

WIDTH = 104  # columns that the table needs


@dataclass(frozen=True)
class Verdict:
    """What auto takes of one bundle, and the fastest fp32 of any engine, medians in milliseconds.

    They are of the whole task, where there is one: engines may cut an image into other tiles. `noise` is what the ratio of the rounds is uncertain by; `why` is auto's own reason, `error` an engine's.
    """

    bundle: str
    auto: str
    auto_ms: float
    fp32: str
    fp32_ms: float
    noise: float
    why: str
    error: str = ""

    @property
    def slower(self) -> bool:
        return not self.auto_ms <= self.fp32_ms * (1 + self.noise)


def judge(bundle: Bundle, options: MeasureOptions) -> Verdict:
    """Measure auto's choice and every engine's fp32 of a bundle, in turns."""
    taken = choice.pick(bundle, bundle.main, "auto", "cpu", "auto", {})
    precision = taken.variant.precision
    rows = measure(bundle, precisions=tuple({"fp32", precision}), options=options).rows
    auto = next(r for r in rows if (r.case.runtime, r.case.precision) == (taken.runtime, precision))
    floats = [r for r in rows if r.case.precision == "fp32" and r.model_ms and not r.error]
    rounds = {id(r): r.task_round_ms or r.round_ms for r in (auto, *floats)}  # engines may cut an image otherwise
    best = min(floats, key=lambda r: float(np.median(rounds[id(r)])))
    ours, theirs = rounds[id(auto)], rounds[id(best)]
    return Verdict(
        bundle.name,
        f"{taken.runtime} {precision}",
        float(np.median(ours)) if ours and not auto.error else math.nan,
        f"{best.case.runtime} fp32",
        float(np.median(theirs)),
        noise_of(ours, theirs),
        taken.why,
        auto.error,
    )


def table(verdicts: Sequence[Verdict]) -> Table:
    result = Table(box=box.SIMPLE_HEAD, padding=(0, 2, 0, 0))
    for name in ("bundle", "auto takes", "ms", "best fp32", "ms ", "as fast", "±", ""):
        right = name.strip() in ("ms", "as fast", "±")
        result.add_column(name, justify="right" if right else "left", no_wrap=True)
    for v in verdicts:
        ratio = f"{v.fp32_ms / v.auto_ms:.2f}×"
        told = (f"{v.auto_ms:.3g}", v.fp32, f"{v.fp32_ms:.3g}", ratio, f"{v.noise:.0%}", "SLOWER" if v.slower else "")
        result.add_row(v.bundle, v.auto, *told, style="red" if v.slower else None)
    return result


@click.command()
@click.argument("bundles", nargs=-1)
@click.option("--rounds", default=10, show_default=True)
@click.option("--seconds", default=0.4, show_default=True, help="For each engine and round.")
def main(bundles: tuple[str, ...], rounds: int, seconds: float) -> None:
    """Show auto's choice beside the best fp32 of any engine, for every bundle that ships or those named."""
    console = Console(highlight=False, markup=False, width=max(WIDTH, Console().width))
    verdicts = []
    for name in bundles or shipped():
        verdicts.append(judge(Bundle.open(name), MeasureOptions(rounds=rounds, seconds=seconds)))
        console.print(
            f"{verdicts[-1].bundle}: {verdicts[-1].auto}, {verdicts[-1].why} {verdicts[-1].error}".rstrip(),
            style="dim",
            soft_wrap=True,
        )
    console.print(table(verdicts))
    slower = [v.bundle for v in verdicts if v.slower]
    console.print(f"slower than fp32: {', '.join(slower)}" if slower else "no choice is slower than fp32")
    sys.exit(1 if slower else 0)


if __name__ == "__main__":
    main()
