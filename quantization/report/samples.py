"""What a bundle makes, in fp32 and in a small precision side by side, on every engine here."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np

import edgekit
from edgekit import images, registry
from edgekit.bundle import Bundle
from edgekit.errors import EdgekitError
from edgekit.images import UInt8
from edgekit.opening import runtime as find_runtime
from edgekit.stated import readable
from edgekit.tensors import Array

AMPLIFIED = 8  # how many times a difference is enlarged to be seen
SIDE = 256  # pixels a side of a photo that is shown
SEED = 0
TOKENS = 160
SHOWN = 4  # images of a generator, inputs of a classifier

Pictures = list[UInt8]


@dataclass(frozen=True)
class Given:
    """Calibration inputs by component, the photo for tasks that take one, and who is told each step."""

    inputs: Mapping[str, Sequence[tuple[Array, ...]]] = field(default_factory=dict)
    image: str | Path | None = None
    progress: Callable[[str], None] = lambda step: None


@dataclass(frozen=True)
class Scored:
    """A label with its share in both precisions."""

    name: str
    fp32: float
    small: float


@dataclass(frozen=True)
class Sample:
    """One engine's answer in both precisions: pictures (data URIs), or texts, or scores.

    `beside` names the engine whose fp32 it is; `note` says in words how alike the two are; `error` why there is none.
    `same` is what two texts begin with in common.
    """

    runtime: str
    beside: str = ""
    pictures: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    same: str = ""
    inputs: tuple[str, ...] = ()
    scores: tuple[tuple[Scored, ...], ...] = ()
    note: str = ""
    error: str = ""
    pixelated: bool = False
    wide: bool = False


@dataclass(frozen=True)
class Samples:
    """What was asked of the bundle, in words, and each engine's answers."""

    what: str
    rows: tuple[Sample, ...]


def samples(bundle: Bundle, precision: str, given: Given) -> Samples | None:
    """What the bundle's task makes; None where it has no task, or no file of the precision."""
    task = bundle.manifest.task
    show = SHOWS.get(task.name) if task else None
    engines = _engines(bundle, precision)
    if show is None or not engines:
        return None
    what, shown = show(bundle, given)
    rows = []
    for runtime in engines:
        given.progress(f"{precision} beside fp32 on {runtime} …")
        fp32 = next((e for e in (runtime, *_engines(bundle, "fp32")) if e in _engines(bundle, "fp32")), runtime)
        try:
            with (
                edgekit.load(bundle, fp32, precision="fp32") as before,
                edgekit.load(bundle, runtime, precision=precision) as after,
            ):
                rows.append(shown(runtime, fp32, before, after))
        except EdgekitError as error:  # whatever ends one engine, the page shows the others
            rows.append(Sample(runtime, error=str(error)))
    return Samples(what, tuple(rows))


def _engines(bundle: Bundle, precision: str) -> list[str]:
    """The engines here that read every component in a precision, or in fp32 where it has no such files."""
    components = bundle.manifest.components.values()
    wanted = [(c, precision if any(v.precision == precision for v in c.variants) else "fp32") for c in components]
    if all(p != precision for _, p in wanted):
        return []
    return [
        name
        for name in registry.device_runtimes()
        if find_runtime(name).installed() and all(readable(name, p, c.variants) for c, p in wanted)
    ]


def _of_photo(bundle: Bundle, given: Given) -> tuple[str, Callable[..., Sample]]:
    """An upscaler's or a stylizer's work on the middle of a photo."""
    photo = images.read_image(given.image or _shipped_photo())[:, :, :3]
    assert bundle.manifest.task is not None
    side = SIDE // max(1, int(bundle.manifest.task.settings.get("scale", 1)))
    photo = np.ascontiguousarray(images.middle(photo, SIDE, SIDE) if side == SIDE else _cut(photo, side))
    what = f"{'a photo' if given.image else 'the photo that ships'}, {side} × {side}"
    return what, lambda runtime, fp32, before, after: _pictured(runtime, fp32, [before(photo)], [after(photo)])


def _of_seed(bundle: Bundle, given: Given) -> tuple[str, Callable[..., Sample]]:
    """A generator's images of the same seed."""
    assert bundle.manifest.task is not None
    prompted = "text_encoder" in bundle.manifest.components
    asked: dict[str, Any] = {"prompt": "a lighthouse by the sea", "steps": 4} if prompted else {}
    count = 1 if prompted else SHOWN

    def shown(runtime: str, fp32: str, before: Any, after: Any) -> Sample:
        return _pictured(
            runtime, fp32, before.sample(count, seed=SEED, **asked), after.sample(count, seed=SEED, **asked)
        )

    told = f", prompt “{asked['prompt']}”" if asked else ""
    return f"drawn with the seed {SEED} in both{told}", shown


def _of_inputs(bundle: Bundle, given: Given) -> tuple[str, Callable[..., Sample]]:
    """An autoencoder's reconstructions."""
    shown = _inputs(bundle, given)

    def reconstructed(runtime: str, fp32: str, before: Any, after: Any) -> Sample:
        return _pictured(runtime, fp32, [before(i) for i in shown], [after(i) for i in shown], shown)

    return f"reconstructions of {_source(given)}", reconstructed


def _of_labels(bundle: Bundle, given: Given) -> tuple[str, Callable[..., Sample]]:
    """A classifier's five best labels."""
    shown = _inputs(bundle, given)

    def scored(runtime: str, fp32: str, before: Any, after: Any) -> Sample:
        scores = tuple(_scores(before(image), after(image, top_k=1000)) for image in shown)
        same = sum(max(s, key=lambda x: x.fp32) == max(s, key=lambda x: x.small) for s in scores)
        note = f"the same first label for {same} of {len(scores)}"
        return Sample(runtime, fp32, inputs=tuple(map(_uri, shown)), scores=scores, note=note, pixelated=True)

    return f"the five likeliest labels of {_source(given)}", scored


def _of_text(bundle: Bundle, given: Given) -> tuple[str, Callable[..., Sample]]:
    """A text's beginning, drawn with the same seed."""

    def written(runtime: str, fp32: str, before: Any, after: Any) -> Sample:
        texts = tuple(task.generate("", TOKENS, seed=SEED) for task in (before, after))
        same = "".join(a for a, _ in takewhile(lambda pair: pair[0] == pair[1], zip(*texts, strict=False)))
        note = "the same text" if texts[0] == texts[1] else f"the same for {len(same)} characters, then another draw"
        return Sample(runtime, fp32, texts=tuple(t[len(same) :] for t in texts), same=same, note=note)

    return (
        f"{TOKENS} tokens, drawn with the seed {SEED} in both: one token drawn otherwise changes all that follow",
        written,
    )


SHOWS: dict[str, Callable[[Bundle, Given], tuple[str, Callable[..., Sample]]]] = {
    "upscale": _of_photo,
    "stylize": _of_photo,
    "generate": _of_seed,
    "diffuse": _of_seed,
    "autoencode": _of_inputs,
    "classify": _of_labels,
    "write": _of_text,
}


def _pictured(
    runtime: str,
    fp32: str,
    before: Pictures,
    after: Pictures,
    inputs: Pictures = [],  # noqa: B006  (never changed)
) -> Sample:
    """Two rows of pictures, and how they differ."""
    ours, theirs = _row(before), _row(after)
    wrong = np.abs(ours.astype(np.int16) - theirs)
    psnr = images.psnr_y(theirs, ours)
    alike = "equal" if psnr == float("inf") else f"{psnr:.1f} dB PSNR beside fp32"
    note = f"{alike}, {wrong.mean():.2f} of 255 levels apart on average, {wrong.max()} at most"
    enlarged = np.minimum(wrong * AMPLIFIED, 255).astype(np.uint8)
    shown = tuple(_uri(picture) for picture in (ours, theirs, enlarged))
    return Sample(
        runtime,
        fp32,
        shown,
        inputs=(_uri(_row(inputs)),) if inputs else (),
        note=note,
        pixelated=max(before[0].shape[:2]) <= 96,
        wide=ours.shape[1] > 2 * ours.shape[0],
    )


def _row(pictures: Pictures) -> UInt8:
    """Pictures beside each other: uint8 RGB."""
    return np.concatenate([_rgb(p) for p in pictures], axis=1)


def _rgb(picture: UInt8) -> UInt8:
    return np.ascontiguousarray(np.broadcast_to(picture[:, :, :3], (*picture.shape[:2], 3)))


def _scores(before: Sequence[Any], after: Sequence[Any]) -> tuple[Scored, ...]:
    """fp32's best labels, with both precisions' scores."""
    small = {label.name: float(label.probability) for label in after}
    return tuple(Scored(label.name, float(label.probability), small.get(label.name, 0.0)) for label in before)


def _inputs(bundle: Bundle, given: Given) -> Pictures:
    """Inputs of the first component as images: of the calibration's, evenly spread, else the golden ones."""
    spec = bundle.component(bundle.main).inputs[0]
    found = list(given.inputs.get(bundle.main, ()))
    arrays = [found[i * len(found) // SHOWN][0] for i in range(min(SHOWN, len(found)))]
    arrays = arrays or [bundle.golden(bundle.main)[spec.name]]
    return [_rgb(images.from_tensor(array, spec)) for array in arrays]


def _source(given: Given) -> str:
    return "inputs of the calibration" if given.inputs else "the golden input"


def _cut(photo: UInt8, side: int) -> UInt8:
    """The middle of a photo's upper half, where faces are, in its own pixels."""
    top, left = max(0, photo.shape[0] // 3 - side // 2), max(0, (photo.shape[1] - side) // 2)
    return photo[top : top + side, left : left + side]


def _shipped_photo() -> Path:
    from edgekit.benchmarks.measurement import sample_photo

    return sample_photo()


def _uri(picture: UInt8) -> str:
    """A picture as a data URI of a PNG."""
    cv2 = images.opencv()
    encoded = cv2.imencode(".png", cv2.cvtColor(_rgb(picture), cv2.COLOR_RGB2BGR))[1].tobytes()
    return f"data:image/png;base64,{base64.b64encode(encoded).decode('ascii')}"
