"""File sources: what a finished model file takes and gives, and inputs that it runs on."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from torch import nn

from edgekit.errors import EngineError, InputError, TensorError
from edgekit.exporters.readers.reading import Asked
from edgekit.exporters.sources import Source
from edgekit.exporters.writing import half
from edgekit.opening import runtime
from edgekit.session import Model, Session
from edgekit.tensors import Array, TensorSpec
from edgekit.verify import answers

ENGINES = {"onnx": ("onnxruntime", "openvino"), "openvino": ("openvino",), "tflite": ("litert",)}
SIDES = (64, 224, 256, 32, 128, 512, 640, 16, 8, 1)  # sizes that free dimensions are tried at
WHOLE = (8, 1)  # whole numbers are drawn below this: few tables are shorter
PROBES = 3


@dataclass(frozen=True)
class FileSource(Source):
    """A source whose truth is what its file answers in the first installed engine of its format."""

    model: Model | None = None
    engine: str = ""

    def run(self, arrays: Sequence[Array]) -> list[Array]:
        assert self.model is not None
        with opened(self.engine, self.model) as session:
            return answers(session, arrays, self.inputs, self.outputs)

    def answers(self, sizes: Any) -> list[list[Array]]:
        assert self.model is not None
        with opened(self.engine, self.model) as session:
            return [answers(session, probe, self.inputs, self.outputs) for probe in self.fitted_probes(sizes)]


def opened(engine: str, model: Model, options: Any = None) -> Session:
    """A file in an engine, on the CPU."""
    return runtime(engine).open(model, "cpu", None, options or runtime(engine).options())


def tensors(model: Model) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """What a file takes and gives, by the names that a bundle has for it where nothing is said."""
    with opened(engine_of(model), model) as session:
        return _described(session.inputs, Asked(), []), _described(session.outputs, Asked(), [], named=False)


def engine_of(model: Model) -> str:
    """The first installed engine of a file's format."""
    return next((e for e in ENGINES[model.format] if runtime(e).installed()), ENGINES[model.format][0])


def of_file(model: Model, asked: Asked) -> FileSource:
    """What the file takes and gives, by the first installed engine of its format, and inputs that it runs on."""
    engine = engine_of(model)
    try:
        with opened(engine, model) as session:
            inputs = _described(session.inputs, asked, list(asked.names), bool(asked.task))
            outputs = _described(session.outputs, asked, [], bool(asked.task), named=False)
            probes, results = _probes(session, inputs, outputs, asked)
    except TensorError as error:
        raise InputError(f"'{model.path.name}': {error}") from error
    outputs = tuple(
        msgspec.structs.replace(spec, shape=_related(result.shape, spec, inputs, probes[0]))
        for spec, result in zip(outputs, results, strict=True)
    )
    unknown = {*asked.layouts, *asked.ranges, *asked.dynamic} - {s.name for s in (*inputs, *outputs)}
    if unknown:
        known = ", ".join(s.name for s in (*inputs, *outputs))
        raise InputError(f"got the layout, range or free dimensions of {sorted(unknown)}: the tensors are {known}")
    exact = tuple(
        half(array).astype(array.dtype) for array in probes[0]
    )  # as golden values are stored, so that parity knows them
    return FileSource(nn.Identity(), inputs, outputs, (exact, *probes[1:]), model=model, engine=engine)


def _described(
    found: Sequence[TensorSpec], asked: Asked, names: Sequence[str], one: bool = False, named: bool = True
) -> tuple[TensorSpec, ...]:
    """The file's tensors with names that files can have, and the layouts, ranges and free dimensions stated.

    `one`: a free first axis of an image, and of a result, is 1, as the tasks pass one at a time. `named`: free dimensions that the
    file leaves unnamed get their usual names.
    """
    if names and len(names) != len(found):
        raise InputError(f"got the names {list(names)} for {len(found)} inputs: {', '.join(s.name for s in found)}")
    specs: list[TensorSpec] = []
    for index, spec in enumerate(found):
        name = names[index] if names else re.sub(r"[^\w.-]", "_", spec.name).strip("._-") or f"tensor{index}"
        if name in {s.name for s in specs}:
            name = f"{name}{index}"
        stated, layout = asked.dynamic.get(name, {}), asked.layouts.get(name, _layout(spec))
        usual = _usual if named else lambda size, *place: size
        shape = [stated.get(a, usual(d, a, spec, layout)) for a, d in enumerate(spec.shape)]
        if name in asked.layouts and len(shape) != 4:
            raise InputError(f"got the layout {layout} for {name}: it is {spec}, which is no image")
        if any(a < len(shape) and isinstance(shape[a], str) and isinstance(spec.shape[a], int) for a in stated):
            raise InputError(f"got free dimensions {stated} of {name}, which has them fixed: {spec}")
        if one and shape and isinstance(shape[0], str) and (layout or not named):
            shape[0] = 1
        specs.append(TensorSpec(name, spec.dtype, tuple(shape), layout, asked.ranges.get(name)))
    return tuple(specs)


def _usual(size: int | str, axis: int, spec: TensorSpec, layout: str | None) -> int | str:
    """A free dimension that the file leaves unnamed is "batch", "height" or "width" by its place in an image."""
    if size != f"{spec.name}_dim{axis}" or not layout:
        return size
    return {"N": "batch", "C": "channels", "H": "height", "W": "width"}[layout[axis]]


def _layout(spec: TensorSpec) -> Any:
    """Which axis of an image is which, told from where 1, 3 or 4 channels lie."""
    if len(spec.shape) != 4:
        return None
    return "NCHW" if spec.shape[1] in (1, 3, 4) else "NHWC" if spec.shape[3] in (1, 3, 4) else None


def _probes(
    session: Session, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], asked: Asked
) -> tuple[list[tuple[Array, ...]], list[Array]]:
    """Inputs that the file runs on with finite results, and the results of the first."""
    if len(asked.example_inputs):
        first = _given(asked.example_inputs, inputs)
        random = np.random.default_rng(0)
        others = [tuple(random.permutation(a.reshape(-1)).reshape(a.shape) for a in first) for _ in range(PROBES - 1)]
        return [first, *others], answers(session, first, inputs, outputs)
    reason = ""
    for side in SIDES if any(isinstance(d, str) for s in inputs for d in s.shape) else SIDES[:1]:
        for whole in WHOLE:
            probes = [_drawn(inputs, side, whole, seed) for seed in range(PROBES)]
            try:
                results = [answers(session, probe, inputs, outputs) for probe in probes]
            except EngineError as error:
                reason = str(error)
                continue
            if all(np.isfinite(r).all() for result in results for r in result if r.dtype.kind == "f"):
                return probes, results[0]
            reason = "it gives NaN or infinity"
    raise InputError(
        f"'{session.inputs[0].name}' …: the file runs on none of the inputs tried ({reason}): pass example inputs"
    )


def _given(arrays: Sequence[Any], inputs: Sequence[TensorSpec]) -> tuple[Array, ...]:
    if len(arrays) != len(inputs):
        raise InputError(f"got {len(arrays)} example inputs for {', '.join(f'{s.name}: {s}' for s in inputs)}")
    sizes: dict[str, int] = {}
    plain = [a.detach().numpy() if hasattr(a, "detach") else np.asarray(a) for a in arrays]
    return tuple(spec.check(array, sizes) for spec, array in zip(inputs, plain, strict=True))


def _drawn(inputs: Sequence[TensorSpec], side: int, whole: int, seed: int) -> tuple[Array, ...]:
    """Seeded values: images within their range, else normal ones; small whole numbers; all bytes; truth values."""
    random = np.random.default_rng(seed)
    arrays = []
    for spec in inputs:
        shape = [d if isinstance(d, int) else 1 if axis == 0 else side for axis, d in enumerate(spec.shape)]
        kind, (low, high) = np.dtype(spec.dtype).kind, spec.range or (0.0, 1.0)
        drawn: Array = random.standard_normal(shape)
        if kind != "f":
            drawn = random.integers(0, {"u": 256, "b": 2}.get(kind, whole), shape)
        elif spec.layout or spec.range:
            drawn = random.uniform(low, high, shape)
        arrays.append(drawn.astype(spec.dtype))
    return tuple(arrays)


def _related(
    shape: Sequence[int], spec: TensorSpec, inputs: Sequence[TensorSpec], probe: Sequence[Array]
) -> tuple[int | str, ...]:
    """An output's shape; a free size that is a multiple of a free input size on that axis is named after it."""
    pairs = [p for s, x in zip(inputs, probe, strict=True) for p in enumerate(zip(s.shape, x.shape, strict=True))]
    free = {axis: (d, n) for axis, (d, n) in pairs if isinstance(d, str)}
    known = dict(free.values())
    named: list[int | str] = []
    for axis, (size, own) in enumerate(zip(shape, spec.shape, strict=True)):
        if isinstance(own, int) or known.get(own) == size:
            named.append(own)
        elif axis in free and size % free[axis][1] == 0:
            factor, name = size // free[axis][1], free[axis][0]
            named.append(name if factor == 1 else f"{factor}*{name}")
        else:
            named.append(own if free else size)
    return tuple(named)


def tiled(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> tuple[list[TensorSpec], dict[str, int]]:
    """Image tensors of fixed sizes as those of a network that takes any, and the sizes that they were fixed to.

    A task that works in tiles sees by this that the file is one of the sizes that the network could have.
    """
    first = inputs[0]
    assert first.layout is not None
    sides = {"height": first.shape[first.layout.index("H")], "width": first.shape[first.layout.index("W")]}
    sizes = {name: size for name, size in sides.items() if isinstance(size, int)}
    freed = []
    for spec in (*inputs, *outputs):
        shape = list(spec.shape)
        for name, size in sizes.items() if spec.layout else ():
            axis = str(spec.layout).index(name[0].upper())
            own = shape[axis]
            if isinstance(own, int) and own % size == 0:
                shape[axis] = name if own == size else f"{own // size}*{name}"
        freed.append(msgspec.structs.replace(spec, shape=tuple(shape)))
    return freed, sizes
