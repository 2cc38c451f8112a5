"""Ctrl-C after a session went in another thread: an exception, and not the end of the process."""

from __future__ import annotations

import subprocess
import sys

import pytest

CODE = """
import gc, os, signal, sys, threading, time
import numpy as np
import edgekit

session = edgekit.open_session("digits-cnn", sys.argv[1], precision="int8", check=False)
feeds = {s.name: np.zeros([1 if isinstance(d, str) else d for d in s.shape], np.float32) for s in session.inputs}
session.run(feeds)

def end():
    global session
    session.close()
    session = None
    gc.collect()

thread = threading.Thread(target=end)
thread.start()
thread.join()
others = [np.ones(2**20, np.uint8) for _ in range(50)]  # where freed memory may lie
threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
try:
    time.sleep(20)
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.parametrize(
    ("runtime", "package"), [("openvino", "openvino"), ("onnxruntime", "onnxruntime"), ("litert", "ai_edge_litert")]
)
def test_it_interrupts(runtime: str, package: str) -> None:
    pytest.importorskip(package)
    done = subprocess.run([sys.executable, "-c", CODE, runtime], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.strip()) == (0, "interrupted"), done.stderr
