"""Write into bundles how fast their small files are beside fp32 on this machine, and how alike the engines answer.

Run it on an idle machine with `python -m edgekit.benchmarks.mark_speed zoo/bundles/*`.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click
import msgspec
from rich.console import Console

from edgekit import manifest as manifests
from edgekit import registry
from edgekit.bundle import MANIFEST, Bundle
from edgekit.errors import BundleError, EdgekitError
from edgekit.manifest import Component, Manifest, Precision
from edgekit.opening import runtime

if TYPE_CHECKING:
    from edgekit.exporters.sources import Source

COMPARED = 8  # inputs that engines are compared on
UNLIKE = "how alike engines answer stays as it was: here these compute such files in another precision"


@dataclasses.dataclass(frozen=True)
class MarkOptions:
    """`inputs` are what engines are compared on, as `calibration.named` takes them: "zoo" is what ships with edgekit."""

    rounds: int = 25
    seconds: float = 0.2
    inputs: str = "zoo"
    progress: Callable[[str], None] = lambda step: None


def mark(folder: Path, options: MarkOptions = MarkOptions()) -> list[str]:
    """Measure every small precision of a bundle and write the figures into its bundle.json, in its place.

    Every other byte of bundle.json stays as it is. Slower files stay, marked. On a processor without VNNI how alike engines
    answer in int8 stays as it was, as OpenVINO computes in float there.

    Returns:
        A line for each engine and file, and what else is to be said.

    Raises:
        BundleError: bundle.json is not as edgekit writes it, so that more than the figures would change.
    """
    from edgekit.quantization.speed import GuardOptions, guard

    bundle = Bundle.open(folder)
    path = folder / MANIFEST
    written = msgspec.json.decode(path.read_bytes())
    if _formatted(written) != path.read_bytes():
        raise BundleError(f"'{path}' is not in the form that edgekit writes: export the bundle again, then mark it")
    guarding = GuardOptions(
        keep_slower=True,
        sources=_sources(bundle),
        rounds=options.rounds,
        seconds=options.seconds,
        progress=options.progress,
    )
    lines: list[str] = []
    found = bundle.manifest
    for precision in _precisions(bundle):
        guarded = guard(Bundle(folder, found), precision, guarding)
        lines += [str(row) for row in guarded.rows]
        found = guarded.manifest
        engines = [name for name in registry.device_runtimes() if runtime(name).computes(precision) != precision]
        if engines:
            lines.append(f"{precision}: {UNLIKE}: {', '.join(engines)}")
            continue
        found = _agreeing(bundle, found, precision, options.inputs)
        for name, component in found.components.items():
            pairs = [a for a in component.agreement if a.precision == precision]
            lines += [f"{name} {precision}: {' and '.join(a.engines)} {a.snr_db:g} dB {a.note}".rstrip() for a in pairs]
    _note(written, found)
    data = _formatted(written)
    manifests.decode(data, str(path))
    partial = path.with_name(f".{MANIFEST}.partial")
    partial.write_bytes(data)
    partial.replace(path)
    return lines


def _note(written: dict[str, Any], found: Manifest) -> None:
    """Put what was measured into the manifest's JSON, each field in its place."""
    for name, component in found.components.items():
        raw = written["components"][name]
        for described, variant in zip(raw.get("variants", []), component.variants, strict=True):
            if variant.speed:
                described["speed"] = msgspec.to_builtins(variant.speed)
        if component.agreement:
            raw["agreement"] = msgspec.to_builtins(component.agreement)
            ordered = {field: raw[field] for field in Component.__struct_fields__ if field in raw}
            raw.clear()
            raw.update(ordered)


def _formatted(written: dict[str, Any]) -> bytes:
    return msgspec.json.format(msgspec.json.encode(written), indent=1) + b"\n"


def _precisions(bundle: Bundle) -> list[Precision]:
    """The small precisions that the bundle has files of."""
    have = {v.precision for c in bundle.manifest.components.values() for v in c.variants}
    return [p for p in get_args(Precision) if p in have and p != "fp32"]


def _sources(bundle: Bundle) -> dict[str, Source | None]:
    """The networks that the bundle carries, to make the fp32 files that it leaves out."""
    from edgekit.exporters.sources import from_bundle

    found: dict[str, Source | None] = {}
    for name in bundle.manifest.components:
        try:
            found[name] = from_bundle(bundle, name)
        except EdgekitError:
            continue
    return found


def _agreeing(bundle: Bundle, manifest: Manifest, precision: Precision, inputs: str) -> Manifest:
    """The manifest with what engines agree to in this precision."""
    from edgekit.quantization.agreement import agreements
    from edgekit.quantization.calibration import named

    given = named(bundle, inputs)
    components = {}
    for name, component in manifest.components.items():
        others = [a for a in component.agreement if a.precision != precision]
        pairs = agreements(bundle, name, precision, given[name][:COMPARED])
        components[name] = msgspec.structs.replace(component, agreement=(*others, *pairs))
    return msgspec.structs.replace(manifest, components=components)


@click.command()
@click.argument("bundles", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--rounds", default=25, show_default=True, help="At most, for each file.")
@click.option("--seconds", default=0.2, show_default=True, help="For each file and round.")
@click.option("--inputs", default="zoo", show_default=True, help="What engines are compared on.")
def main(bundles: tuple[Path, ...], rounds: int, seconds: float, inputs: str) -> None:
    """Mark the speed and the agreement of every small file of these bundles, in their place."""
    console = Console(highlight=False, markup=False)
    failed = False
    for folder in bundles:
        console.print(folder.name, style="bold")
        try:
            for line in mark(folder, MarkOptions(rounds, seconds, inputs)):
                console.print(f"  {line}", soft_wrap=True)
        except EdgekitError as error:
            failed = True
            console.print(f"  {error}", style="red", soft_wrap=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
