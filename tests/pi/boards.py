"""Boards whose processor QEMU emulates, and programs run on them: what they answer, and how many instructions it took."""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ARMV8 = ("fp", "asimd", "evtstrm")


@dataclass(frozen=True)
class Board:
    """A board: QEMU's name of its processor, and what Linux shows of it there."""

    name: str
    processor: str
    part: str
    features: tuple[str, ...]

    @property
    def title(self) -> str:
        return f"Raspberry {self.name} Model B Rev 1.1"

    @property
    def has_dot_product(self) -> bool:
        return "asimddp" in self.features

    def shown(self) -> dict[str, str]:
        """Files of /proc and /sys there: a board that is warm, and was slowed down once."""
        return {
            "proc/cpuinfo": self.cpuinfo(),
            "proc/device-tree/model": f"{self.title}\0",
            "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
            "sys/class/thermal/thermal_zone0/temp": "61000\n",
            "sys/devices/platform/soc/soc:firmware/get_throttled": "50000\n",
        }

    def cpuinfo(self) -> str:
        """What /proc/cpuinfo says there: engines choose their kernels by it, and ONNX Runtime crashes without it."""
        facts = {
            "BogoMIPS": "108.00",
            "Features": " ".join(self.features),
            "CPU implementer": "0x41",
            "CPU architecture": "8",
            "CPU variant": "0x0",
            "CPU part": self.part,
            "CPU revision": "3",
        }
        lines = [f"{key}\t: {value}" for key, value in facts.items()]
        cores = ["\n".join([f"processor\t: {core}", *lines, ""]) for core in range(4)]
        return "\n".join([*cores, f"Model\t\t: {self.title}", ""])


BOARDS = (
    Board("Pi 4", "cortex-a72", "0xd08", (*ARMV8, "crc32", "cpuid")),
    Board(
        "Pi 5",
        "cortex-a76",
        "0xd0b",
        (*ARMV8, "aes", "pmull", "sha1", "sha2", "crc32", "atomics", "fphp", "asimdhp", "cpuid", "asimdrdm", "lrcpc",
         "dcpop", "asimddp"),
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Emulator:
    """Runs the guest's Python as one board, with packages and, where it counts, the plugin."""

    board: Board
    guest: Path
    emulator: Path
    python: Path
    packages: tuple[Path, ...]
    scratch: Path
    plugin: Path | None = None

    def start(self, *arguments: object, counts: Path | None = None) -> subprocess.Popen[str]:
        """Start Python with these arguments; `counts` is where the plugin writes a line for each mark."""
        return subprocess.Popen(
            [*self._command(counts), *(str(argument) for argument in arguments)],
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=_modestly,
        )

    def run(self, *arguments: object, counts: Path | None = None) -> str:
        """What Python prints with these arguments."""
        return finished(self.start(*arguments, counts=counts))

    def version(self) -> str:
        """The emulator's, such as "qemu-aarch64 version 7.2.22 (Debian …)"."""
        return subprocess.run(
            [*self._emulator(), "--version"], capture_output=True, text=True, check=True
        ).stdout.splitlines()[0]

    def _command(self, counts: Path | None) -> Sequence[str]:
        plugin = ["-plugin", f"{self.plugin},out={counts}"] if self.plugin and counts else []
        return [*self._emulator(), "-cpu", self.board.processor, "-L", str(self._root()), *plugin, str(self.python)]

    def _emulator(self) -> Sequence[str]:
        """QEMU by its own loader and libraries, so that this machine needs none of them."""
        own = self.emulator
        loader, *_ = sorted(own.glob("**/x86_64-linux-gnu/ld-linux-x86-64.so.2"))
        libraries = ":".join(str(own / part / "x86_64-linux-gnu") for part in ("lib", "usr/lib"))
        return [str(loader), "--library-path", libraries, str(own / "usr/bin/qemu-aarch64")]

    def _root(self) -> Path:
        """What the guest sees at its root before it sees this machine's: its system, and what Linux shows of the board."""
        root = self.scratch / self.board.processor
        if not root.exists():
            for path, text in self.board.shown().items():
                (root / path).parent.mkdir(parents=True, exist_ok=True)
                (root / path).write_text(text)
            for part in ("lib", "usr", "etc"):
                (root / part).symlink_to(self.guest / part)
        return root

    def _environment(self) -> dict[str, str]:
        return {
            "HOME": str(self.scratch),
            "PATH": "/usr/bin:/bin",
            "LC_ALL": "C.UTF-8",
            "COLUMNS": "200",
            "PYTHONHOME": str(self.guest / "usr"),
            "PYTHONPATH": ":".join(str(place) for place in self.packages),
            "EDGEKIT_CACHE": str(self.scratch / "cache"),
        }


def finished(process: subprocess.Popen[str], limit_s: float = 1500) -> str:
    """What it printed, when it is done.

    Raises:
        AssertionError: it failed, with what it said.
    """
    try:
        out, said = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        process.kill()
        out, said = process.communicate()
        said += f"\nkilled after {limit_s:.0f} s"
    assert process.returncode == 0, f"exit status {process.returncode}\n{out[-2000:]}\n{said[-2000:]}"
    return out


def _modestly() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.nice(5)
