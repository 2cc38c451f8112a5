"""A device has NumPy and an engine: nothing of the host's is imported there, and nothing before it is used."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from edgekit.opening import runtime as find_runtime

HOST = ("torch", "torchao", "onnx", "nncf", "litert_torch", "jax")
ENGINES = {"openvino": "openvino", "onnxruntime": "onnxruntime", "litert": "ai_edge_litert"}

BLOCKED = """
import json
import sys
import warnings


class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in HOST:
            raise ImportError(f"{name} is not on the device")


sys.meta_path.insert(0, Blocker())
warnings.simplefilter("error", RuntimeWarning)

import numpy as np

import edgekit
from edgekit.opening import runtime as find_runtime
from edgekit.bundle import Bundle, shipped
from edgekit.stated import readable
from edgekit.verify import verify

ran = []
image = np.random.default_rng(0).integers(0, 256, (48, 40, 3), np.uint8)
for name in shipped():
    bundle = Bundle.open(name)
    for engine in ENGINES:
        for precision in ("fp32", "int8"):
            if precision == "fp32" and not readable(engine, precision, bundle.component(bundle.main).variants):
                continue  # `edgekit build` makes it
            with edgekit.load(bundle, engine, precision=precision, threads=1) as task:
                result, placement = task.once(image), task.placement()
                ran.append([name, placement.runtime, placement.precision, len(result) > 0])
devices = {row.runtime: False for row in edgekit.devices()} | {r.runtime: True for r in edgekit.devices() if r.usable}
verdicts = [[v.runtime, v.ok] for v in verify(Bundle.open("sr-x2"))]
loaded = sorted({name.partition(".")[0] for name in sys.modules} & set(HOST))
print(json.dumps({"ran": ran, "devices": devices, "verdicts": verdicts, "loaded": loaded}))
"""

LOADED = """
import json, sys
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


def answer(code: str) -> Any:
    """What a fresh Python prints, as JSON."""
    preamble = f"HOST, ENGINES = {HOST!r}, {tuple(ENGINES)!r}\n"
    done = subprocess.run([sys.executable, "-c", preamble + code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.strip().splitlines()[-1])


def test_every_shipped_bundle_runs_on_every_engine_without_the_hosts_packages() -> None:
    from edgekit.bundle import shipped

    found = answer(BLOCKED)
    ran = {tuple(row[:3]) for row in found["ran"]}
    always = {(e, find_runtime(e).computes("int8")) for e in ENGINES} | {("onnxruntime", "fp32"), ("openvino", "fp32")}
    assert ran >= {(name, *form) for name in shipped() for form in always}
    assert all(right for *_, right in found["ran"])
    assert found["loaded"] == []


def test_devices_and_verify_do_without_the_hosts_packages() -> None:
    found = answer(BLOCKED)
    assert {engine: found["devices"][engine] for engine in ENGINES} == dict.fromkeys(ENGINES, True)
    assert found["devices"]["torch"] is False
    assert [v for v in found["verdicts"] if v[1] is False] == []
    assert {runtime for runtime, ok in found["verdicts"] if ok} == set(ENGINES)


def test_importing_edgekit_imports_no_engine() -> None:
    loaded = answer("import edgekit\n" + LOADED)
    assert not {"cv2", *ENGINES.values(), *HOST, "safetensors"} & set(loaded)


def test_importing_the_command_line_imports_no_engine() -> None:
    loaded = answer("import edgekit.cli.device\n" + LOADED)
    assert not {"cv2", *ENGINES.values(), *HOST, "safetensors"} & set(loaded)


def test_opening_one_engine_imports_no_other() -> None:
    for engine, package in ENGINES.items():
        loaded = set(answer(f"import edgekit\nwith edgekit.open_session('sr-x2', {engine!r}): pass\n" + LOADED))
        assert package in loaded
        assert not (set(ENGINES.values()) - {package}) & loaded
        assert "cv2" not in loaded
