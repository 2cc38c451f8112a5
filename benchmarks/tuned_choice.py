"""How good is what `edgekit tune` takes, and how long does it need? Its choice beside a sweep of every combination.

Run it with `python -m edgekit.benchmarks.tuned_choice`, or name bundles; exit code 1 where a choice is more than 5 % behind
the sweep's best, or tuning took more than a minute.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import click
import msgspec
import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from edgekit import machine, selection
from edgekit.benchmarks.candidates import thread_counts, tile_sizes
from edgekit.benchmarks.cases import cases_of, row_of
from edgekit.benchmarks.measurement import prepared
from edgekit.benchmarks.options import MeasureOptions
from edgekit.benchmarks.race import Race
from edgekit.benchmarks.records import Case, Row
from edgekit.benchmarks.statistics import noise_of
from edgekit.benchmarks.tuning import tune
from edgekit.bundle import Bundle

BUNDLES = ("sr-x2", "style-wave", "cifar-cnn", "digits-gan", "shakespeare-gpt", "digits-vae")
BEHIND = 0.05
LONGEST_S = 60.0
ANSWER_S = 300.0
WIDTH = 112  # columns that the table needs


class Verdict(msgspec.Struct, frozen=True):
    """What tuning took and the fastest of the sweep, medians of the whole task in ms of the sweep's interleaved rounds.

    `noise` is what the ratio of the two is uncertain by; `combinations` how many the sweep has; `load` what other
    programs had the machine do when it began.
    """

    bundle: str
    tuned: str
    tuned_ms: float
    best: str
    best_ms: float
    noise: float
    tune_s: float
    sweep_s: float
    combinations: int
    why: str
    load: float | None

    @property
    def behind(self) -> float:
        """By what part the choice is slower than the best."""
        return self.tuned_ms / self.best_ms - 1

    @property
    def kept(self) -> bool:
        """Whether it is within 5 % of the best, as far as the noise allows to tell, and was found within a minute."""
        return self.behind <= BEHIND + self.noise and self.tune_s <= LONGEST_S


def judge(bundle: Bundle, rounds: int, seconds: float) -> Verdict:
    """Tune as `edgekit tune` does, then sweep."""
    load = machine.facts()["load_1min"]
    tuned = tune(bundle)
    picked = tuned.choice
    own = Case(str(bundle.folder), picked.runtime, picked.device, picked.variant.precision, picked.threads)
    own = msgspec.structs.replace(own, tile=picked.tile)
    began = time.monotonic()
    rows = swept(bundle, own, rounds, seconds)
    ours = next(row for row in rows if row.case == own)
    best = min(rows, key=lambda row: float(np.median(medians(row))))
    return Verdict(
        bundle.name,
        named(ours),
        float(np.median(medians(ours))),
        named(best),
        float(np.median(medians(best))),
        noise_of(medians(ours), medians(best)),
        tuned.seconds,
        time.monotonic() - began,
        len(rows),
        picked.why,
        load,
    )


def swept(bundle: Bundle, own: Case, rounds: int, seconds: float) -> list[Row]:
    """Every engine × precision with every number of threads, and with every size of tiles, interleaved; `own` first."""
    options = MeasureOptions()
    counts = (None, *thread_counts(machine.cores()))
    cases = cases_of(bundle, threads=counts)
    sizes = tile_sizes(bundle, options.size)
    for case in cases_of(bundle):
        cases += [msgspec.structs.replace(case, tile=tile) for tile in sizes.get((case.runtime, case.precision), ())]
    with tempfile.TemporaryDirectory() as folder, Race(prepared(bundle, options, Path(folder))[0], ANSWER_S) as race:
        rows = [row_of(bundle, case) for case in [own, *(case for case in cases if case != own)]]
        seen = set()
        for row in rows:
            race.open(row)
            told = (row.case.runtime, row.case.precision, row.case.tile, row.placement.get("threads"))
            if told in seen and told[-1] is not None:
                race.drop(row)  # one number of threads, asked for or the engine's own: the same thing twice
            seen.add(told)
        for _ in range(rounds):
            race.round({"do": "round", "seconds": seconds, "alone": False})
    return [row for row in rows if medians(row) and not row.error]


def medians(row: Row) -> list[float]:
    """Of each round: of the task, or of the model where there is none."""
    return row.task_round_ms or row.round_ms


def named(row: Row) -> str:
    """ "openvino int8 2 threads", with the tile where it is not the task's own."""
    return row.label + (f" tiles {row.case.tile}" if row.case.tile else "")


def table(verdicts: Sequence[Verdict]) -> Table:
    result = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in (
        "bundle",
        "tune takes",
        "ms",
        "best of the sweep",
        "ms ",
        "behind",
        "±",
        "tune s",
        "sweep s",
        "of",
        "",
    ):
        left = name in ("bundle", "tune takes", "best of the sweep", "")
        result.add_column(name, justify="left" if left else "right", no_wrap=True)
    for v in verdicts:
        told = (selection.figure(v.tuned_ms), v.best, selection.figure(v.best_ms), f"{v.behind:.1%}", f"{v.noise:.0%}")
        took = (f"{v.tune_s:.0f}", f"{v.sweep_s:.0f}", str(v.combinations))
        result.add_row(v.bundle, v.tuned, *told, *took, "" if v.kept else "MISSED", style=None if v.kept else "red")
    return result


@click.command()
@click.argument("bundles", nargs=-1)
@click.option("--rounds", default=8, show_default=True)
@click.option("--seconds", default=0.5, show_default=True, help="For each combination and round.")
@click.option("--json", "path", type=click.Path(path_type=Path), help="Add the verdicts to this file.")
def main(bundles: tuple[str, ...], rounds: int, seconds: float, path: Path | None) -> None:
    """Tune bundles, and show the choice beside the best of all combinations."""
    console = Console(highlight=False, markup=False, width=max(WIDTH, Console().width))
    verdicts: list[Verdict] = []
    with tempfile.TemporaryDirectory() as cache:
        os.environ["EDGEKIT_CACHE"] = cache  # the user's own profiles stay as they are
        for name in bundles or BUNDLES:
            verdicts.append(judge(Bundle.open(name), rounds, seconds))
            console.print(f"{name}: {verdicts[-1].why}", style="dim", soft_wrap=True)
    console.print(table(verdicts))
    if path is not None:
        kept = msgspec.json.decode(path.read_bytes()) if path.exists() else []
        told = [
            {"measured_at": time.strftime("%Y-%m-%d"), "machine": machine.facts(), **msgspec.to_builtins(v)}
            for v in verdicts
        ]
        path.write_bytes(msgspec.json.format(msgspec.json.encode([*kept, *told]), indent=1))
    missed = [v.bundle for v in verdicts if not v.kept]
    console.print(f"missed: {', '.join(missed)}" if missed else f"no choice is more than {BEHIND:.0%} behind")
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
