"""edgekit estimate: Arm's compiler on the bundles that ship, and a double of it where something goes wrong."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from runtimes.foreign import Graph, Op, T, tflite, unary

from edgekit.benchmarks import estimate as module
from edgekit.benchmarks.estimate import NPUS, EstimateOptions, estimate
from edgekit.bundle import Bundle
from edgekit.cli import main
from edgekit.errors import EngineError, InputError, NotInstalled

SHIPPED = Path(Bundle.open("sr-x2").folder).parent


@pytest.fixture
def vela() -> None:
    if importlib.util.find_spec("ethosu") is None and shutil.which("vela") is None:
        pytest.skip("needs ethos-u-vela: pip install 'edgekit[npu]'")


def double(monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    """A Vela that does this; `sys.argv` has what it is told."""
    monkeypatch.setattr(module, "_vela", lambda: [sys.executable, "-c", f"import sys; {program}"])


def invoke(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(main, ["estimate", *arguments])
    assert result.exit_code == code, f"{result.output}\n{result.exception!r}"
    return result


@pytest.mark.parametrize("name", ["sr-x2", "cifar-cnn", "digits-gan", "style-wave", "digits-vae"])
def test_bundles_that_ship(vela: None, name: str) -> None:
    npu = "ethos-u85-256" if name in ("sr-x2", "digits-gan") else "ethos-u55-128"
    rows = estimate(name, npu)
    assert [row.component for row in rows] == list(Bundle.open(name).manifest.components)
    for row in rows:
        assert row.npu == npu and (row.system_config, row.memory_mode) == NPUS[npu]
        assert row.clock_hz == 500e6 and row.tool.startswith("ethos-u-vela ")
        assert row.inferences_per_second == pytest.approx(row.clock_hz / row.cycles, rel=1e-3)
        assert row.macs > 1e6 and row.sram_bytes > 0 and row.flash_bytes + row.dram_bytes > 0
        assert row.npu_operators > 5 and set(row.reasons) == set(row.cpu_operators)
        assert not {"Conv2D", "DepthwiseConv2D"} & set(row.cpu_operators)


@pytest.mark.parametrize("npu", NPUS)
def test_every_npu_is_known_to_vela_with_its_configuration(vela: None, npu: str) -> None:
    (row,) = estimate("digits-cnn", npu)
    assert row.cycles > 1000 and row.npu_operators >= 10


def test_a_larger_npu_takes_fewer_cycles(vela: None) -> None:
    cycles = [estimate("cifar-cnn", npu)[0].cycles for npu in ("ethos-u55-32", "ethos-u55-128", "ethos-u55-256")]
    assert cycles == sorted(cycles, reverse=True) and cycles[0] > 2 * cycles[2]


def test_sizes_pick_the_file_and_the_compiled_one_is_kept(vela: None, tmp_path: Path) -> None:
    (small,) = estimate("sr-x2")
    assert small.file == "model-int8-64x64.tflite" and "there are also height 256 × width 256" in small.note
    options = EstimateOptions(sizes={"height": 256, "width": 256}, out=tmp_path / "kept")
    (large,) = estimate("sr-x2", options=options)
    assert large.file == "model-int8-256x256.tflite" and large.macs == 16 * small.macs and not large.note
    kept = Path(large.compiled)
    assert kept.name == "model-int8-256x256-ethos-u55-128.tflite" and kept.read_bytes()[4:8] == b"TFL3"
    with pytest.raises(InputError, match="of height 65 × width 64: it has height 64 × width 64; height 256"):
        estimate("sr-x2", options=EstimateOptions(sizes={"height": 65, "width": 64}))


def test_a_lone_file(vela: None, tmp_path: Path) -> None:
    shutil.copyfile(SHIPPED / "digits-cnn/model-int8.tflite", tmp_path / "mine.tflite")
    (row,) = estimate(tmp_path / "mine.tflite")
    assert (row.name, row.file) == ("mine", "mine.tflite") and row.macs > 1e6


def test_what_the_npu_cannot_run_is_said(vela: None, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no operator of 'model-fp32.tflite': .* works on float32; .*quantize"):
        estimate(SHIPPED / "digits-cnn/model-fp32.tflite")
    with pytest.raises(InputError, match="free dimensions"):
        estimate(unary(tmp_path / "free.tflite", T("x", "int8", (-1, 4), 0.5), T("y", "int8", (-1, 4), 0.5), "RELU"))


def test_a_configuration_that_vela_does_not_know(vela: None) -> None:
    with pytest.raises(EngineError, match=r"ethos-u55-128 \(Ethos_U55_High_End_Embedded, Nope\).*Memory_Mode.Nope"):
        estimate("digits-cnn", options=EstimateOptions(memory_mode="Nope"))


def test_the_command_shows_an_estimate_and_never_a_latency(vela: None) -> None:
    shown = invoke("digits-vae", "--npu", "ethos-u55-128").output
    assert "an estimate, not a latency" in shown and "left to the processor" in shown
    assert " ms" not in shown and max(map(len, shown.splitlines())) <= 80
    rows = json.loads(invoke("digits-vae", "--json").output)
    assert [row["component"] for row in rows] == ["encoder", "decoder"] and rows[1]["cpu_operators"]["Sigmoid"] == 1


# Without Vela


def test_an_unknown_npu_lists_those_there_are() -> None:
    assert "no NPU 'ethos-u99': expected one of ethos-u55-32, " in invoke("sr-x2", "--npu", "ethos-u99", code=2).output


def test_vela_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(NotInstalled, match=r"'ethos-u-vela': pip install 'edgekit\[npu\]'"):
        estimate("sr-x2")


def test_a_bundle_without_int8_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    double(monkeypatch, "pass")
    from sdk.doubles import write_double

    from edgekit.runtimes.reference import Function
    from edgekit.tensors import TensorSpec

    image = TensorSpec("image", "float32", (1, 3, 4, 4))
    with pytest.raises(InputError, match="no int8 .tflite file of 'model'.*edgekit quantize"):
        estimate(write_double(tmp_path / "double", Function((image,), (image,))))


@pytest.mark.parametrize(
    ("program", "words"),
    [
        (
            "sys.exit('ethosu.vela.errors.VelaError: Error: operator X is broken')",
            "VelaError: Error: operator X is broken",
        ),
        ("import os; os.kill(os.getpid(), 11)", "exit code -11"),
        ("pass", "wrote no figures"),
    ],
)
def test_vela_that_fails_is_told_with_its_last_words(monkeypatch: pytest.MonkeyPatch, program: str, words: str) -> None:
    double(monkeypatch, program)
    with pytest.raises(EngineError, match=f"model-int8.tflite.*{words}"):
        estimate("cifar-cnn")


def test_a_custom_operator_stays_on_the_processor(vela: None, tmp_path: Path) -> None:
    tensors = tuple(T(name, "int8", (1, 4, 4, 8), 0.5) for name in "xyz")
    graph = Graph(tensors, (Op("RELU", (0,), (1,)), Op("CUSTOM", (1,), (2,), custom="MyGelu")), (0,), (2,))
    tflite(tmp_path / "odd.tflite", graph)
    (row,) = estimate(tmp_path / "odd.tflite")
    assert row.cpu_operators == {"Custom": 1} and row.reasons == {"Custom": "not an operator of this NPU"}
