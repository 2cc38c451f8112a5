"""The suite of ratios: it says what became worse, within one processor, and no absolute time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from benchmarks.doubles import row
from click.testing import CliRunner

from edgekit.benchmarks import Report, regression
from edgekit.benchmarks.overhead import Overhead
from edgekit.benchmarks.regression import Ratio, Ratios, worse
from edgekit.errors import InputError


def ratios(*found: float, processor: str = "a") -> Ratios:
    names = ("openvino", "litert")
    return Ratios(
        "", processor, {}, [Ratio("int8/fp32", "sr-x2", n, r, 0.02) for n, r in zip(names, found, strict=False)]
    )


def test_what_became_worse_is_told() -> None:
    assert worse(ratios(0.5, 0.6), ratios(0.5, 0.55)) == []
    (told,) = worse(ratios(0.5, 0.9), ratios(0.5, 0.55))
    assert told == "sr-x2 litert: int8/fp32 0.900 ± 2%, was 0.550 ± 2%"
    with pytest.raises(InputError, match="not comparable"):
        worse(ratios(0.5), ratios(0.5, processor="b"))


def test_the_suite_keeps_ratios_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rows = [row("litert", "fp32", 20.0), row("litert", "int8", 10.0), row("openvino", "int8", 5.0, error="it died")]
    monkeypatch.setattr(regression, "measure", lambda *a, **o: Report("sr-x2", "", {}, "", rows))
    made: list[Any] = [Overhead("own", "run", 500.0, 5.0)]
    monkeypatch.setattr(regression, "measure_overhead", lambda *a, **o: made)
    out = tmp_path / "r.json"
    result = CliRunner().invoke(regression.main, ["-o", str(out)])
    assert result.exit_code == 1 and "failed: sr-x2 openvino int8: it died" in result.output
    kept = json.loads(out.read_text())
    assert {r["what"] for r in kept["ratios"]} == {"int8/fp32", "session.run/engine"} and "ms" not in out.read_text()
    assert next(r for r in kept["ratios"] if r["runtime"] == "litert")["ratio"] == pytest.approx(11 / 21, abs=0.03)
    better = msgspec.json.decode(out.read_bytes(), type=Ratios)
    halved = msgspec.structs.replace(
        better, ratios=[msgspec.structs.replace(r, ratio=r.ratio / 2) for r in better.ratios]
    )
    out.write_bytes(msgspec.json.encode(halved))
    result = CliRunner().invoke(regression.main, ["--against", str(out)])
    assert result.exit_code == 1 and "worse: sr-x2 litert: int8/fp32" in result.output


def test_what_cannot_be_read_or_written_is_refused_first(tmp_path: Path) -> None:
    for arguments in (["--against", str(tmp_path / "no.json")], ["-o", str(tmp_path / "nowhere" / "r.json")]):
        assert CliRunner().invoke(regression.main, arguments).exit_code == 2
