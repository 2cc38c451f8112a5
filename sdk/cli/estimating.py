"""What is estimated without the device: edgekit estimate."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from edgekit.cli.show import command, json_option, new_table, out_console, parse_size, print_json

if TYPE_CHECKING:
    from edgekit.benchmarks.estimate import Estimate

FIGURES: dict[str, Callable[[Estimate], str]] = {
    "cycles": lambda row: f"{row.cycles:,}",
    "inferences/s": lambda row: f"{row.inferences_per_second:,.{0 if row.inferences_per_second >= 100 else 1}f}",
    "million MACs": lambda row: f"{row.macs / 1e6:,.1f}",
    "SRAM KiB": lambda row: f"{row.sram_bytes / 1024:,.0f}",
    "flash KiB": lambda row: f"{row.flash_bytes / 1024:,.0f}",
    "DRAM KiB": lambda row: f"{row.dram_bytes / 1024:,.0f}",
    "operators on the NPU": lambda row: f"{row.npu_operators} of {row.npu_operators + sum(row.cpu_operators.values())}",
}


@command("edgekit estimate cifar-cnn --npu ethos-u55-128")
@click.argument("bundle")
@click.option("--npu", default="ethos-u55-128", show_default=True, help="ethos-u55-32 … ethos-u85-2048.")
@click.option("--size", help="Width x height, where a bundle has files of several; the smallest if left out.")
@click.option("--system-config", help="Clock and memories: a section of Arm's vela.ini.")
@click.option("--memory-mode", help="What lies where: a section of Arm's vela.ini.")
@click.option("-o", "--out", type=click.Path(path_type=Path, file_okay=False), help="Keep the compiled files here.")
@json_option
def estimate(
    bundle: str, npu: str, size: str | None, system_config: str | None, memory_mode: str | None, out: Path | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Estimate what an Arm Ethos-U NPU would take.

    Compiles the int8 .tflite file of a bundle by Arm's Vela: cycles, memory, and what would stay on the processor.
    """
    from edgekit.benchmarks.estimate import EstimateOptions
    from edgekit.benchmarks.estimate import estimate as estimated

    sizes = dict(zip(("height", "width"), parse_size(size), strict=True)) if size else {}
    rows = estimated(bundle, npu, options=EstimateOptions(system_config, memory_mode, sizes, out))
    if as_json:
        print_json([msgspec.to_builtins(row) for row in rows])
        return
    _show(rows)


def _show(rows: list[Estimate]) -> None:
    first = rows[0]
    shown = new_table("", *(row.component for row in rows))
    for column in shown.columns[1:]:
        column.justify = "right"
    for label, figure in FIGURES.items():
        shown.add_row(label, *(figure(row) for row in rows))
    out_console.print(f"{first.name} on {first.npu} at {first.clock_hz / 1e6:.0f} MHz: an estimate, not a latency")
    out_console.print(shown)
    for row in rows:
        _notes(row)
    out_console.print(f"by {first.tool}: {first.system_config}, {first.memory_mode}", soft_wrap=True)


def _notes(row: Estimate) -> None:
    """What stays on the processor, by reason, and what else is to be known."""
    if row.cpu_operators:
        out_console.print(f"{row.component}: left to the processor, and not in these figures:", soft_wrap=True)
    by_reason: dict[str, list[str]] = {}
    for kind, count in row.cpu_operators.items():
        by_reason.setdefault(row.reasons.get(kind, "not placed"), []).append(f"{count} {kind}")
    for reason, kinds in by_reason.items():
        out_console.print(f"  {', '.join(kinds)}: {reason}", soft_wrap=True)
    for line in (row.note, f"kept as {row.compiled}" if row.compiled else ""):
        if line:
            out_console.print(f"{row.component}: {line}", soft_wrap=True)
