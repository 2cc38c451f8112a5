"""Sessions leave no memory: a short look at what `benchmarks/leaks.py` measures at length, and its arithmetic."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner

from edgekit.benchmarks import leaks
from edgekit.benchmarks.leaks import NOISE_KIB, Slope

SHORT = """
import sys, msgspec
from edgekit.benchmarks.leaks import measure_leaks
print(msgspec.json.encode(measure_leaks(sys.argv[1], sys.argv[2], count=int(sys.argv[3]))).decode())
"""
needs_proc = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from /proc")


@needs_proc
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino", "litert"])
@pytest.mark.parametrize(("kind", "count"), [("run", 2000), ("map", 1000), ("close", 40), ("collect", 40)])
def test_memory_does_not_grow(engine: str, kind: str, count: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SHORT, engine, kind, str(count)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    slope = msgspec.json.decode(done.stdout, type=Slope)
    # the network's file has 0.5 MB: of a session that was kept, each cycle would leave more than that
    assert not slope.grows or slope.kib_each - slope.plus_minus < (100 if kind in ("close", "collect") else 1), slope


def test_a_leak_is_seen_and_noise_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    for each, grows in [(0.0, False), (20.0, True)]:
        sizes = iter(60_000 + each * np.arange(2, 202, 2) + random.normal(0, 200, 100))
        monkeypatch.setattr(leaks, "resident_kib", lambda sizes=sizes: next(sizes))
        monkeypatch.setattr(leaks, "_cycles", lambda engine, bundle, kind: lambda times: None)
        slope = leaks.measure_leaks("onnxruntime", "close")
        assert slope.grows is grows
        assert abs(slope.kib_each - each) < 2 * slope.plus_minus


def test_neighbours_that_are_alike_widen_the_interval() -> None:
    x, random = np.arange(80.0), np.random.default_rng(0)
    rough, smooth = random.normal(0, 1, 80), np.repeat(random.normal(0, 1, 8), 10)
    assert leaks._line(x, smooth)[1] > 1.5 * leaks._line(x, rough)[1]


def test_the_figures_are_a_table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rows = {"run": (0.0, 0.1), "close": (NOISE_KIB / 10, 1.0)}
    monkeypatch.setattr(leaks, "_apart", lambda e, k, b: Slope(e, k, 200, 60.0, 61.0, *rows[k]))
    asked = ["--engine", "litert", "--kind", "run", "--kind", "close", "--json", str(tmp_path / "leaks.json")]
    done = CliRunner().invoke(leaks.main, asked)
    assert done.exit_code == 0, done.output
    assert "level" in done.output and "grows" in done.output and "60.0" in done.output
    assert len(msgspec.json.decode((tmp_path / "leaks.json").read_bytes())["rows"]) == 2
