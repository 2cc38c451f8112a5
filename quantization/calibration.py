"""Calibration: real inputs that show the range of every activation, for every component of a bundle."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.bundle import Bundle
from edgekit.errors import InputError, QuantizationError, TensorError
from edgekit.images import SUFFIXES, photos, to_tensor
from edgekit.session import Session
from edgekit.tasks import load
from edgekit.tasks.latents import ENCODER
from edgekit.tasks.sampling import FEW_STEPS
from edgekit.tasks.task import Task
from edgekit.tasks.tiled import TiledTask
from edgekit.tensors import Array, TensorSpec
from edgekit.text import Memory

Calibration = list[tuple[Array, ...]]
COUNT = 64  # inputs of a component
SIDE = 192  # pixels of a photo that a network of neighbourhoods is shown
MOST_PROMPTS = 16  # of a text: an image is made of each
PROMPTS = ("a red boat", "an old man", "a street", "a lake")  # short: encoders differ in what they take
TEXT_SUFFIXES = (".txt", ".md", ".abc", ".json", ".csv")


def from_path(bundle: Bundle, path: str | Path, count: int = COUNT) -> dict[str, Calibration]:
    """Inputs of every component, from what lies at a path.

    Photos (a folder, a .zip, one file) and a text file (for a sampler, a prompt in each line) go through the bundle's own task in fp32, and what its
    components are given there is recorded: the task's own preparation is in it, and a decoder sees real codes.
    A bundle without a task takes photos, where it has one image input, or a .npz with an array for each input,
    count × its shape (a .npy where there is one input).

    Raises:
        QuantizationError: nothing usable there, or values of another shape, NaN, or all alike.
        ImageError: no photos.
    """
    path = Path(path)
    if not path.exists():
        raise QuantizationError(f"no calibration data at '{path}': expected photos, a text, or .npz")
    if path.suffix in (".npz", ".npy"):
        name = bundle.main
        found = {name: from_arrays(path, bundle.component(name).inputs)}
    elif bundle.manifest.task is None:
        found = {bundle.main: from_photos(path, bundle.component().inputs, count)}
    elif path.suffix in TEXT_SUFFIXES:
        found = recorded(bundle, [path.read_text(encoding="utf-8")], count)
    else:
        found = recorded(bundle, (photo for _, photo in photos(path, count)), count)
    return {name: checked(inputs, bundle.component(name).inputs) for name, inputs in found.items()}


def named(bundle: Bundle, name: str | Path) -> dict[str, Calibration]:
    """Inputs of every component by what the caller names: a path, "zoo" for what ships with edgekit, or "random".

    Raises:
        As `from_path`.
    """
    if str(name) == "random":
        return drawn(bundle)
    if str(name) == "zoo":
        from edgekit.quantization.zoo_inputs import shipped  # which stands on this module

        return shipped(bundle)
    return from_path(bundle, name)


def drawn(bundle: Bundle, count: int = COUNT) -> dict[str, Calibration]:
    """Inputs of every component where there are no data: what the task draws itself, else seeded noise.

    A generator, a sampler and a writer draw what they are given in use. For all else this is a stop-gap: noise
    does not show the ranges of real inputs.
    """
    task = bundle.manifest.task
    if task is not None and task.name in DRAWS:
        return recorded(bundle, range(max(4, count // 8)), count)
    random = np.random.default_rng(0)
    return {
        name: [tuple(_noise(spec, random) for spec in component.inputs) for _ in range(count)]
        for name, component in bundle.manifest.components.items()
    }


def draws_itself(bundle: Bundle) -> bool:
    """Whether `drawn` gives a bundle real inputs."""
    return bundle.manifest.task is not None and bundle.manifest.task.name in DRAWS


def recorded(bundle: Bundle, items: Any, count: int = COUNT) -> dict[str, Calibration]:
    """What each component is given while the bundle's task works on items, in fp32; `count` of them, evenly spread.

    Raises:
        QuantizationError: an item is nothing that the task takes, or a component was never run.
    """
    assert bundle.manifest.task is not None
    do = DRAWS.get(bundle.manifest.task.name, _once)
    kept: dict[str, _Kept] = {}
    with load(bundle, reference_engine(bundle), precision=float_precision(bundle)) as task, _watched(task, kept):
        tiled = isinstance(task, TiledTask)
        random = np.random.default_rng(0)
        for item in items:
            try:
                do(task, _part(item, random) if tiled and isinstance(item, np.ndarray) else item)
            except (InputError, TypeError) as error:
                raise QuantizationError(
                    f"{bundle.name} cannot calibrate on {type(item).__name__}: {error}; expected what its task "
                    f"'{bundle.manifest.task.name}' takes"
                ) from error
    missing = [name for name in bundle.manifest.components if name not in kept or not kept[name].inputs]
    if missing:
        raise QuantizationError(
            f"the calibration data never reached {', '.join(missing)}: pass arrays for each component"
        )
    return {name: _spread(kept[name].inputs, count) for name in bundle.manifest.components}


def from_photos(
    folder: str | Path, inputs: Sequence[TensorSpec], count: int = COUNT, side: int = 128
) -> list[tuple[Array, ...]]:
    """Crops of photos for a network with one image input, spread evenly over the folder or .zip.

    Raises:
        QuantizationError: the network takes something else than one image. ImageError: no photos.
    """
    if len(inputs) != 1 or inputs[0].layout is None:
        given = ", ".join(f"{s.name}: {s}" for s in inputs)
        raise QuantizationError(f"photos calibrate a network with one image input: this one takes {given}; pass arrays")
    spec = inputs[0]
    random = np.random.default_rng(0)
    return [(to_tensor(_crop(image, spec, side, random), spec),) for _, image in photos(folder, count)]


def from_arrays(path: Path, inputs: Sequence[TensorSpec]) -> Calibration:
    """The rows of a .npz with an array for each input, count × its shape; of a .npy where there is one input.

    Raises:
        QuantizationError: no such file, another name or number of rows.
    """
    try:
        loaded = np.load(path, allow_pickle=False)
        arrays = {name: loaded[name] for name in loaded.files} if path.suffix == ".npz" else {inputs[0].name: loaded}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise QuantizationError(f"'{path}' holds no arrays: {error}") from error
    names = [spec.name for spec in inputs]
    rows = {len(array) for array in arrays.values() if array.ndim}
    if set(arrays) != set(names) or len(rows) != 1:
        shapes = {name: array.shape for name, array in arrays.items()}
        raise QuantizationError(f"'{path}' holds {shapes}: expected {names}, each count × the shape of one input")
    return [tuple(np.ascontiguousarray(arrays[name][i]) for name in names) for i in range(rows.pop())]


def checked(calibration: Calibration, inputs: Sequence[TensorSpec]) -> Calibration:
    """The inputs, if they can show the range of anything.

    Raises:
        QuantizationError: none, another shape or dtype, NaN, or one value throughout.
    """
    if not calibration:
        raise QuantizationError("got no calibration inputs: static int8 needs some, 20 or more real ones")
    for index, arrays in enumerate(calibration):
        if len(arrays) != len(inputs):
            raise QuantizationError(f"calibration input {index} has {len(arrays)} arrays: expected {len(inputs)}")
        try:
            sizes: dict[str, int] = {}
            for spec, array in zip(inputs, arrays, strict=True):
                spec.check(array, sizes)
        except TensorError as error:
            raise QuantizationError(f"calibration input {index}: {error}") from error
    for place, spec in enumerate(inputs):
        values = {float(extreme) for arrays in calibration for extreme in (arrays[place].min(), arrays[place].max())}
        if len(values) == 1 and spec.dtype.startswith("float") and spec.layout is not None:
            raise QuantizationError(
                f"every calibration value of {spec.name} is {values.pop():g}: nothing can be learnt of ranges from it; "
                "pass real inputs"
            )
    return calibration


@contextmanager
def _watched(task: Task, kept: dict[str, _Kept]) -> Iterator[None]:
    """Keep a copy of what each component is given inside the block."""
    opened = task._session

    def session(
        sizes: Mapping[str, int] | None = None, component: str = "model", memory: Memory | None = None
    ) -> Session:  # which keeps no memory itself, or it would not come by
        return _Recorder(opened(sizes, component), kept.setdefault(component, _Kept()))  # type: ignore[return-value]

    task._session = session  # type: ignore[method-assign]
    try:
        yield
    finally:
        del task._session


class _Kept:
    """Some of the inputs that come by, evenly spread, and never more than twice COUNT: those of a text are large."""

    def __init__(self) -> None:
        self.inputs: Calibration = []
        self._seen, self._stride = 0, 1

    def offer(self, session: Session, inputs: Mapping[str, Array]) -> None:
        if self._seen % self._stride == 0:
            self.inputs.append(tuple(np.array(inputs[spec.name]) for spec in session.inputs))
        self._seen += 1
        if len(self.inputs) == 2 * COUNT:
            del self.inputs[1::2]
            self._stride *= 2


class _Recorder:
    """A session that keeps what it is given."""

    def __init__(self, session: Session, kept: _Kept) -> None:
        self._session, self._kept = session, kept

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def run(self, inputs: Mapping[str, Array], **options: Any) -> dict[str, Array]:
        self._kept.offer(self._session, inputs)
        return self._session.run(inputs, **options)

    def borrow(self, inputs: Mapping[str, Array], **options: Any) -> Any:
        self._kept.offer(self._session, inputs)
        return self._session.borrow(inputs, **options)


def float_precision(bundle: Bundle) -> str:
    """ "fp32", or "fp16" where the bundle was made from a file that holds nothing else."""
    found = {v.precision for v in bundle.component(bundle.main).variants}
    return "fp16" if "fp16" in found and "fp32" not in found else "fp32"


def reference_engine(bundle: Bundle) -> str:
    """An engine that runs the bundle's fp32 with the tensors that its components state."""
    exact = float_precision(bundle)
    formats = {v.format for v in bundle.component(bundle.main).variants if v.precision == exact}
    for format, engine in (("onnx", "onnxruntime"), ("openvino", "openvino"), ("torch", "torch"), ("tflite", "litert")):
        if format in formats:
            return engine
    raise QuantizationError(f"{bundle.name} has no fp32 file to calibrate with: it has {sorted(formats)}")


def _spread(inputs: Calibration, count: int) -> Calibration:
    picked = np.unique(np.linspace(0, len(inputs) - 1, min(count, len(inputs))).astype(int))
    return [inputs[i] for i in picked]


def _noise(spec: TensorSpec, random: np.random.Generator) -> Array:
    shape = tuple(size if isinstance(size, int) else 64 for size in spec.shape)
    if not spec.dtype.startswith("float"):
        return random.integers(0, 2, shape).astype(spec.dtype)
    low, high = spec.range or (0.0, 1.0)
    return (low + (high - low) * random.random(shape)).astype(spec.dtype)


def _once(task: Any, item: Any) -> object:
    return task.once(item)


def _denoised(task: Any, item: str | int) -> None:
    """One image of a sampler, one of its distilled network and one from that image, where it has such.

    A text has a prompt in each line; a number is a seed, and one of a few prompts where the sampler takes them.
    """
    if task.settings.prompt is None:
        if isinstance(item, str):
            raise InputError(f"{task.bundle.name} takes no prompts")
        asked: list[tuple[int, dict[str, str]]] = [(int(item), {})]
    elif isinstance(item, str):
        lines = [line.strip() for line in item.splitlines() if line.strip()]
        asked = [(seed, {"prompt": line}) for seed, line in enumerate(lines[:MOST_PROMPTS])]
    else:
        asked = [(int(item), {"prompt": PROMPTS[int(item) % len(PROMPTS)]})]
    for seed, options in asked:
        (made,) = task.sample(1, seed=seed, **options)
        if getattr(task.settings, "few_steps", 0):
            task.sample(1, seed=seed, scheduler=FEW_STEPS, **options)
        if ENCODER in task.bundle.manifest.components:
            task.sample(1, seed=seed, steps=2, image=made, **options)


def _part(photo: Array, random: np.random.Generator, side: int = SIDE) -> Array:
    """A crop of a large photo: a network that looks at neighbourhoods sees the same in it, in less time."""
    y, x = (int(random.integers(max(1, n - side + 1))) for n in photo.shape[:2])
    return np.ascontiguousarray(photo[y : y + side, x : x + side])


def _written(task: Any, text: str | int) -> None:
    """A text read by a writer; a number draws one."""
    if isinstance(text, str):
        task.nats_per_char(text[:1000])
    else:
        task.generate(max_tokens=100, seed=text, stop=())


DRAWS: dict[str, Callable[[Any, Any], object]] = {
    "generate": lambda task, seed: task.sample(len(task.labels) or 1, seed=int(seed)),
    "diffuse": _denoised,
    "write": _written,
}


def _crop(image: Array, spec: TensorSpec, side: int, random: np.random.Generator) -> Array:
    """A crop of the input's fixed sizes, or of `side` pixels where they are free."""
    assert spec.layout is not None
    wanted = [spec.shape[spec.layout.index(letter)] for letter in "HW"]
    height, width = (n if isinstance(n, int) else min(side, have) for n, have in zip(wanted, image.shape, strict=False))
    if image.shape[0] < height or image.shape[1] < width:
        image = np.pad(
            image, ((0, max(0, height - image.shape[0])), (0, max(0, width - image.shape[1])), (0, 0)), "reflect"
        )
    y, x = random.integers(image.shape[0] - height + 1), random.integers(image.shape[1] - width + 1)
    return np.ascontiguousarray(image[y : y + height, x : x + width])


__all__ = [
    "SUFFIXES",
    "checked",
    "drawn",
    "draws_itself",
    "float_precision",
    "from_arrays",
    "from_path",
    "from_photos",
    "named",
    "recorded",
    "reference_engine",
]
