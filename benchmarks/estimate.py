"""What an Arm Ethos-U NPU would take for a bundle's int8 files, by Arm's own compiler: an estimate, never a latency.

Vela (https://pypi.org/project/ethos-u-vela) compiles a .tflite file for one NPU and counts the cycles of what it could
place there. The device is not needed, and what it leaves to the processor beside the NPU is not counted.
"""

from __future__ import annotations

import csv
import functools
import importlib.util
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from edgekit.buckets import listed
from edgekit.bundle import Bundle
from edgekit.errors import BundleNotFound, EngineError, InputError, NotInstalled
from edgekit.manifest import Variant

U55, U65, U85 = "Ethos_U55", "Ethos_U65", "Ethos_U85"
DEDICATED = "Dedicated_Sram_384KB"
NPUS = {  # → system configuration (clock and memories) and memory mode of Arm's vela.ini, stated with every estimate
    "ethos-u55-32": (f"{U55}_Deep_Embedded", "Shared_Sram"),
    "ethos-u55-64": (f"{U55}_Deep_Embedded", "Shared_Sram"),
    "ethos-u55-128": (f"{U55}_High_End_Embedded", "Shared_Sram"),
    "ethos-u55-256": (f"{U55}_High_End_Embedded", "Shared_Sram"),
    "ethos-u65-256": (f"{U65}_Mid_End", DEDICATED),
    "ethos-u65-512": (f"{U65}_High_End", DEDICATED),
    "ethos-u85-128": (f"{U85}_SYS_DRAM_Low", DEDICATED),
    "ethos-u85-256": (f"{U85}_SYS_DRAM_Low", DEDICATED),
    "ethos-u85-512": (f"{U85}_SYS_DRAM_Mid", DEDICATED),
    "ethos-u85-1024": (f"{U85}_SYS_DRAM_High", DEDICATED),
    "ethos-u85-2048": (f"{U85}_SYS_DRAM_High", DEDICATED),
}
REFUSED = re.compile(r"^Warning \(supported operators\) operator: (\w+), ofm: '(.*)'\nReason: (.+)", re.MULTILINE)
FREE = re.compile(r"^Tensor ('.*' has a dynamic signature in axis \d+)", re.MULTILINE)
MAIN = "import sys; from ethosu.vela.vela import main; sys.exit(main())"


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """What Vela says of one file. Bytes, cycles and inferences a second are of the NPU's part alone.

    `cpu_operators` counts by kind those left to the processor beside it, `reasons` says why, by the same kind.
    `sram_bytes` is what it needs: how much a chip has, Vela knows in the Dedicated_Sram_… modes alone, and keeps to it.
    """

    name: str
    component: str
    file: str
    npu: str
    system_config: str
    memory_mode: str
    clock_hz: float
    cycles: int
    inferences_per_second: float
    macs: int
    sram_bytes: int
    flash_bytes: int
    dram_bytes: int
    npu_operators: int
    cpu_operators: dict[str, int]
    reasons: dict[str, str]
    tool: str
    compiled: str = ""
    note: str = ""


@dataclass(frozen=True)
class EstimateOptions:
    """`system_config` and `memory_mode` are sections of Arm's vela.ini, None for those in NPUS. `sizes` picks the file
    where a bundle has several, the smallest where left out. `out` is the folder that keeps the compiled files.
    """

    system_config: str | None = None
    memory_mode: str | None = None
    sizes: Mapping[str, int] = field(default_factory=dict)
    out: Path | None = None


def estimate(
    source: Bundle | str | Path, npu: str = "ethos-u55-128", *, options: EstimateOptions | None = None
) -> list[Estimate]:
    """Compile the int8 .tflite file of each component for an NPU, and say what it would take there.

    Args:
        source: a bundle (also by name), or an int8 .tflite file.
        npu: a name in NPUS.

    Raises:
        InputError: an unknown NPU, no int8 .tflite file, none of these sizes, free dimensions, or nothing in it that
            the NPU could run. NotInstalled: Vela is missing. EngineError: Vela failed. BundleError.
    """
    options = options or EstimateOptions()
    if npu not in NPUS:
        raise InputError(f"no NPU '{npu}': expected one of {', '.join(NPUS)}")
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
    vela = _vela()
    if not isinstance(source, Bundle) and Path(source).suffix == ".tflite":
        path = Path(source)
        if not path.is_file():
            raise BundleNotFound(f"no model file at '{path}'")
        return [_estimated(vela, path, npu, options, name=path.stem, component="model")]
    bundle = source if isinstance(source, Bundle) else Bundle.open(source)
    found = {name: _pick(bundle, name, options.sizes) for name in bundle.manifest.components}
    estimates = []
    for component, (variant, note) in found.items():
        path = bundle.model_path(variant)
        estimates.append(_estimated(vela, path, npu, options, name=bundle.name, component=component, note=note))
    return estimates


def _pick(bundle: Bundle, component: str, sizes: Mapping[str, int]) -> tuple[Variant, str]:
    """The int8 .tflite file of these sizes, and what to say of others."""
    have = [v for v in bundle.component(component).variants if (v.format, v.precision) == ("tflite", "int8")]
    if not have:
        raise InputError(
            f"'{bundle.name}' has no int8 .tflite file of '{component}', which is what Ethos-U runs: "
            f"make one with `edgekit quantize {bundle.name}`"
        )
    fitting = [v for v in have if all(v.sizes.get(name) == size for name, size in sizes.items() if v.sizes)]
    if not fitting:
        asked = " × ".join(f"{name} {size}" for name, size in sizes.items())
        raise InputError(f"'{bundle.name}' has no int8 .tflite file of {asked}: it has {listed(have)}")
    variant = min(fitting, key=lambda v: _area(v.sizes))
    others = [v for v in have if v is not variant]
    note = f"of {listed([variant])}; there are also {listed(others)}" if others and not sizes else ""
    return variant, note


def _area(sizes: Mapping[str, int]) -> int:
    area = 1
    for size in sizes.values():
        area *= size
    return area


def _vela() -> list[str]:
    """The command that runs Vela: of this environment, else one on the path."""
    if importlib.util.find_spec("ethosu") is not None:
        return [sys.executable, "-c", MAIN]
    found = shutil.which("vela")
    if found is None:
        raise NotInstalled.named("edgekit estimate", "ethos-u-vela", "npu")
    return [found]


def _estimated(
    vela: list[str], path: Path, npu: str, options: EstimateOptions, *, name: str, component: str, note: str = ""
) -> Estimate:
    system, memory = NPUS[npu]
    system, memory = options.system_config or system, options.memory_mode or memory
    with tempfile.TemporaryDirectory(prefix="edgekit-vela-") as scratch:
        said = _run(vela, path, npu, system, memory, scratch)
        summary, layers = _tables(Path(scratch), path.name)
        placed = Counter(row["Target"] for row in layers)
        left = [row for row in layers if row["Target"] == "CPU"]
        if not placed["NPU"]:
            raise InputError(f"{npu} can run no operator of '{path.name}': {_why(left, said)}")
        compiled = _kept(Path(scratch), path, npu, options.out)
    return Estimate(
        name=name,
        component=component,
        file=path.name,
        npu=npu,
        system_config=system,
        memory_mode=memory,
        clock_hz=float(summary["core_clock"]),
        cycles=int(float(summary["cycles_total"])),
        inferences_per_second=float(summary["inferences_per_second"]),
        macs=int(float(summary["nn_macs"])),
        sram_bytes=_bytes(summary, "sram"),
        flash_bytes=_bytes(summary, "on_chip_flash") + _bytes(summary, "off_chip_flash"),
        dram_bytes=_bytes(summary, "dram"),
        npu_operators=placed["NPU"],
        cpu_operators=dict(Counter(row["Original Operator"] for row in left)),
        reasons=_reasons(left, said),
        tool=_version(*vela),
        compiled=compiled,
        note=note,
    )


def _run(vela: list[str], path: Path, npu: str, system: str, memory: str, scratch: str) -> str:
    """Compile a file; what Vela said.

    Raises:
        EngineError: it failed; names the file and its last words. InputError: the file has free dimensions.
    """
    config = ["--config", "Arm/vela.ini", "--system-config", system, "--memory-mode", memory]
    settings = ["--accelerator-config", npu, *config, "--verbose-performance", "--output-dir", scratch]
    done = subprocess.run([*vela, *settings, str(path.resolve())], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        words = (lines[-1] if lines else f"exit code {done.returncode}").removeprefix("ethosu.vela.errors.")
        raise EngineError(f"Vela cannot compile '{path.name}' for {npu} ({system}, {memory}): {words[:400]}")
    if match := FREE.search(done.stdout + done.stderr):  # it takes 1 for it
        raise InputError(f"'{path.name}' has free dimensions ({match[1]}): convert it with fixed ones for an NPU")
    return done.stdout + done.stderr


def _tables(folder: Path, file: str) -> tuple[dict[str, str], list[dict[str, str]]]:
    """The summary and the rows of operators that Vela wrote."""
    try:
        (summary,), (layers,) = list(folder.glob("*_summary_*.csv")), list(folder.glob("*_per-layer.csv"))
    except ValueError:
        raise EngineError(f"'{file}': Vela wrote no figures; edgekit reads those of ethos-u-vela 5") from None
    with open(summary, newline="", encoding="utf-8") as first, open(layers, newline="", encoding="utf-8") as second:
        return next(csv.DictReader(first)), list(csv.DictReader(second))


def _kept(scratch: Path, path: Path, npu: str, out: Path | None) -> str:
    if out is None:
        return ""
    target = out / f"{path.stem}-{npu}.tflite"
    shutil.copyfile(next(scratch.glob("*_vela.tflite")), target)
    return str(target)


def _bytes(summary: Mapping[str, str], memory: str) -> int:
    return int(float(summary[f"{memory}_memory_used"]) * 1024)


def _reasons(left: list[dict[str, str]], said: str) -> dict[str, str]:
    """Why operators stay on the processor, the first reason of each kind; Vela names operators by their output."""
    told = {output: _reason(text) for _, output, text in REFUSED.findall(said)}
    return {row["Original Operator"]: told[row["Name"]] for row in reversed(left) if row["Name"] in told}


def _reason(text: str) -> str:
    """Vela's words without the name of a tensor; float32 is what quantization left, and the most frequent."""
    plain = re.sub(r" ?\([^()]*;?[^()]*\)$", "", text)
    if plain == "Unsupported opType":
        return "not an operator of this NPU"
    kind = re.fullmatch(r"Operation has tensor with unsupported DataType (\w+)", plain)
    return f"works on {kind[1].lower()}" if kind else plain


def _why(left: list[dict[str, str]], said: str) -> str:
    if not left:
        return "there is none in it"
    kind, reason = next(iter(_reasons(left, said).items()), (left[0]["Original Operator"], "not supported"))
    return f"{kind} {reason}; the NPU runs int8 files, as `edgekit quantize` makes them"


@functools.cache
def _version(*vela: str) -> str:
    done = subprocess.run([*vela, "--version"], capture_output=True, text=True, check=False)
    return f"ethos-u-vela {done.stdout.strip() or 'of unknown version'}"
