"""Gallery: one page with a live result of every bundle in fp32 and int8 side by side, with quality and latency."""

from __future__ import annotations

import base64
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

import edgekit
from edgekit import images, machine
from edgekit.benchmarks.measurement import sample_photo
from edgekit.bundle import Bundle, shipped
from edgekit.images import UInt8

PRECISIONS = ("fp32", "int8")
SHARE_S = 1.0  # for the timing of one task
SEED = 3
PROMPT = "ROMEO:\n"


@dataclass(frozen=True)
class Shown:
    """One bundle in one precision: its result as HTML, what ran it, and the median of the whole task."""

    precision: str
    html: str
    engine: str = ""
    task_ms: float | None = None
    of: str = ""
    quality: str = ""


def write_gallery(
    out: Path, names: Sequence[str] = (), runtime: str = "auto", progress: Callable[[str], None] = lambda step: None
) -> int:
    """Run every bundle that ships, or those named, and write one page that needs no other file.

    A bundle that fails is shown with its error. Returns how many failed.

    Raises:
        BundleNotFound: a name that is none. OSError: `out` cannot be written.
    """
    bundles = [Bundle.open(name) for name in names or shipped()]
    photo = images.read_image(sample_photo())[:, :, :3]
    sections, failed = [], 0
    for bundle in bundles:
        shown = []
        for precision in PRECISIONS:
            progress(f"{bundle.name} {precision}")
            try:
                shown.append(_shown(bundle, precision, runtime, photo))
            except Exception as error:  # whatever ends one bundle, the page shows the others
                failed += 1
                shown.append(Shown(precision, f'<p class="error">{escape(f"{type(error).__name__}: {error}")}</p>'))
        sections.append(_section(bundle, shown))
    partial = out.with_name(f".{out.name}.partial")
    partial.write_text(_page(sections), encoding="utf-8")
    partial.replace(out)
    return failed


def _shown(bundle: Bundle, precision: str, runtime: str, photo: UInt8) -> Shown:
    with edgekit.load(bundle, runtime, precision=precision) as task:
        html = SHOWS[task.name](task, photo)
        picture = _example(bundle, photo)
        median = _median_ms(lambda: task.once(picture))
        placement = task.placement()
        of = task.draws or f"{picture.shape[1]} × {picture.shape[0]} pixels"
        quality = str(task.variant.quality or "")
    return Shown(precision, html, f"{placement.runtime} {placement.device}", median, of, quality)


def _median_ms(call: Callable[[], Any]) -> float:
    """The median of some calls, the first left out."""
    call()
    samples: list[float] = []
    end = time.perf_counter() + SHARE_S
    while len(samples) < 3 or (time.perf_counter() < end and len(samples) < 200):
        start = time.perf_counter()
        call()
        samples.append((time.perf_counter() - start) * 1e3)
    return statistics.median(samples)


def _example(bundle: Bundle, photo: UInt8) -> UInt8:
    """What a bundle is shown: its golden image where that is small and of fixed size, as digits are; else the photo."""
    spec = bundle.component(bundle.main).inputs[0]
    if spec.layout != "NCHW" or any(isinstance(side, str) for side in spec.shape):
        return photo
    golden = bundle.golden(bundle.main)[spec.name]
    return images.as_uint8(images.from_tensor(golden, spec))


def _upscaled(task: Any, photo: UInt8) -> str:
    side = 128
    eye = np.ascontiguousarray(photo[90 : 90 + side, 170 : 170 + side])  # the face of the photo that ships
    low = images.resize_bicubic(eye, side // task.scale * 2, side // task.scale * 2)
    return f"<div class='pair'>{_img(low, side * 2, pixels=True)}{_img(task(low), side * 2)}</div>"


def _stylized(task: Any, photo: UInt8) -> str:
    return _img(task(photo), 384)


def _classified(task: Any, photo: UInt8) -> str:
    picture = _example(task.bundle, photo)
    rows = "".join(
        f"<tr><td>{escape(label.name)}</td><td><meter value='{label.probability:.3f}'></meter></td>"
        f"<td>{label.probability:.1%}</td></tr>"
        for label in task(picture, top_k=3)
    )
    return f"<div class='pair'>{_img(picture, 128, pixels=True)}<table>{rows}</table></div>"


def _autoencoded(task: Any, photo: UInt8) -> str:
    digit = _example(task.bundle, photo)
    score, strange = task.anomaly_score(digit), task.anomaly_score(photo)
    drawn = images.sheet(task.sample(10 * 2, seed=SEED), 10, enlarge=1)
    return (
        f"<div class='pair'>{_img(digit, 96, pixels=True)}{_img(task.reconstruct(digit), 96, pixels=True)}</div>"
        f"<p>anomaly score {score:.0f}; of a photo {strange:.0f}</p>{_img(drawn, 384, pixels=True)}"
    )


def _drawn(task: Any, photo: UInt8) -> str:
    return _img(images.sheet(task.sample(30, seed=SEED), 10, enlarge=1), 384, pixels=True)


def _diffused(task: Any, photo: UInt8) -> str:
    html = _img(images.sheet(task.sample(20, seed=SEED), 10, enlarge=1), 384, pixels=True)
    if "few-steps" in task.schedulers:
        few = images.sheet(task.sample(20, seed=SEED, scheduler="few-steps"), 10, enlarge=1)
        html += f"<p>in {task.settings.few_steps} steps</p>{_img(few, 384, pixels=True)}"
    return html


def _written(task: Any, photo: UInt8) -> str:
    if task.settings.view == "abc":
        return _tune(task.tune(seed=SEED))
    text = PROMPT + task.generate(PROMPT, max_tokens=500, seed=SEED)
    return f"<pre>{escape(text)}</pre>"


def _tune(tune: Any) -> str:
    """The notes as a piano roll, the sound, and the ABC."""
    sounds = tune.sounds()
    low, high = min(s.pitch for s in sounds), max(s.pitch for s in sounds)
    end = max(s.start + s.length for s in sounds)
    notes = "".join(
        f"<rect x='{s.start / end * 600:.1f}' y='{(high - s.pitch) * 5}' width='{s.length / end * 600 - 0.6:.1f}' "
        "height='4' rx='1.5'/>"
        for s in sounds
    )
    roll = f"<svg class='roll' viewBox='0 0 600 {(high - low + 1) * 5}'>{notes}</svg>"
    sound = base64.b64encode(tune.wav(rate=11_025)).decode()
    return f"{roll}<audio controls src='data:audio/wav;base64,{sound}'></audio><pre>{escape(tune.abc)}</pre>"


SHOWS: dict[str, Callable[[Any, UInt8], str]] = {
    "upscale": _upscaled,
    "stylize": _stylized,
    "classify": _classified,
    "autoencode": _autoencoded,
    "generate": _drawn,
    "diffuse": _diffused,
    "write": _written,
}


def _img(picture: UInt8, width: int, pixels: bool = False) -> str:
    """An image inside the page; `pixels` shows it enlarged without smoothing."""
    suffix = ".png" if pixels else ".jpg"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"image{suffix}")
        images.write_image(path, picture)
        data = base64.b64encode(path.read_bytes()).decode()
    kind = " class='pixels'" if pixels else ""
    return f"<img{kind} width='{width}' alt='' src='data:image/{'png' if pixels else 'jpeg'};base64,{data}'>"


def _section(bundle: Bundle, shown: Sequence[Shown]) -> str:
    fp32 = next((s.task_ms for s in shown if s.precision == "fp32"), None)
    columns = "".join(_column(s, fp32) for s in shown)
    sizes = ", ".join(f"{p} {_bytes(bundle, p) / 1e6:.2f} MB" for p in PRECISIONS)
    data = next((v.quality.data for v in bundle.component(bundle.main).variants if v.quality), "")
    return (
        f"<section id='{escape(bundle.name)}'><h2>{escape(bundle.name)}</h2><p>{escape(bundle.manifest.summary)} · ONNX {sizes}</p>"
        f"<div class='columns'>{columns}</div><p class='note'>quality: {escape(data)}</p></section>"
    )


def _column(shown: Shown, fp32_ms: float | None) -> str:
    facts = [escape(shown.quality), escape(shown.engine)]
    if shown.task_ms is not None:
        faster = f" ({fp32_ms / shown.task_ms:.1f}×)" if shown.precision != "fp32" and fp32_ms else ""
        facts.insert(1, f"<b>{shown.task_ms:.1f} ms</b>{faster} for {escape(shown.of)}")
    line = " · ".join(fact for fact in facts if fact)
    return f"<div><h3>{shown.precision}</h3><p>{line}</p>{shown.html}</div>"


def _bytes(bundle: Bundle, precision: str) -> int:
    components = bundle.manifest.components.values()
    return sum(v.bytes for c in components for v in c.variants if (v.format, v.precision) == ("onnx", precision))


def _page(sections: Sequence[str]) -> str:
    facts = machine.facts()
    where = f"{facts['processor']}, {facts['cores']} cores, {time.strftime('%Y-%m-%d')}"
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>edgekit gallery</title><style>{STYLE}</style></head><body>
<header><h1>edgekit gallery</h1>
<p>Every bundle that ships, run just now on this machine ({escape(where)}) without PyTorch. Latency is the median of
the whole task with the engine that auto takes, in one process; <code>edgekit bench NAME</code> measures with more
care. Quality was measured when the bundle was made.</p></header>
<main>{"".join(sections)}</main></body></html>
"""


STYLE = """
:root { color-scheme: light dark; --line: #8884; }
body { font: 15px/1.45 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { margin-bottom: .2rem } h2 { margin: 0 } h3 { margin: 0; font-size: 1rem } p { margin: .3rem 0 }
section { border-top: 1px solid var(--line); padding: 1.2rem 0 }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(18rem, 1fr)); gap: 1.5rem; margin: .8rem 0 }
.pair { display: flex; gap: .6rem; align-items: center } .pair img { max-width: 48% }
img { max-width: 100%; height: auto; border-radius: 3px } .pixels { image-rendering: pixelated }
pre { white-space: pre-wrap; overflow-wrap: anywhere; font: 13px/1.4 ui-monospace, monospace; max-height: 22rem; overflow: auto;
      border: 1px solid var(--line); border-radius: 4px; padding: .6rem }
audio, .roll { width: 100% } .roll { fill: #4a8; height: auto } .note { opacity: .7; font-size: .85rem } .error { color: #c33 }
"""
