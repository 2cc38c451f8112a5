"""Sources: what is exported, as a PyTorch module with named inputs, outputs and real values to try."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, ParamSpec, TypeVar

import msgspec
import numpy as np
import torch
from torch import nn

from edgekit.bundle import Bundle
from edgekit.errors import BundleError, EdgekitError, InputError
from edgekit.exporters.flat import Flat, call, flattened, in_float32, is_flat, parameters_for
from edgekit.exporters.proof.places import first_line, raised_at, unwrapped
from edgekit.exporters.sizing import STEPS, fitted, sized
from edgekit.runtimes.torch_ import TorchSession, load_module
from edgekit.tensors import Array, TensorSpec, dtype_named

P = ParamSpec("P")
R = TypeVar("R")
LONGEST = 2**15  # of a free dimension that has no bounds
FACTORY = "package.module:factory or file.py:factory"


@dataclass(frozen=True)
class Source:
    """A module, what it takes and gives, and probes: inputs that parity and golden values are made from.

    `family` and `settings` let a bundle carry the weights of a zoo network for PyTorch as well; `bounds` are the
    smallest and the largest size of a free dimension, where they are known; `notes` tell what was changed; `empty` says
    what inputs that may not be repeated are filled up with, where a size is larger than the probes'.
    """

    module: nn.Module
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    probes: tuple[tuple[Array, ...], ...]
    family: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    bounds: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    empty: Mapping[str, int] = field(default_factory=dict)
    memo: dict[str, list[list[Array]]] = field(default_factory=dict, repr=False, compare=False)

    def run(self, arrays: Sequence[Array]) -> list[Array]:
        """What PyTorch computes in fp32 on the CPU."""
        session = TorchSession(self.module, self.inputs, self.outputs)
        return list(session.run({s.name: a for s, a in zip(self.inputs, arrays, strict=True)}).values())

    def answers(self, sizes: Mapping[str, int]) -> list[list[Array]]:
        """What PyTorch computes for each of the fitted probes; computed once for every size."""
        key = str(sorted(sizes.items()))
        if key not in self.memo:
            self.memo[key] = [self.run(probe) for probe in self.fitted_probes(sizes)]
        return self.memo[key]

    @property
    def first_sizes(self) -> dict[str, int]:
        """The sizes of the free dimensions in the first probe."""
        return {
            dimension: size
            for spec, array in zip(self.inputs, self.probes[0], strict=True)
            for dimension, size in zip(spec.shape, array.shape, strict=True)
            if isinstance(dimension, str)
        }

    def at_others(self, names: Collection[str]) -> tuple[dict[str, int], tuple[Array, ...], list[Array]] | None:
        """Other sizes of these free dimensions that PyTorch takes, the first probe at them and its answer."""
        for step in STEPS:
            sizes = {n: size + step * (n in names) for n, size in self.first_sizes.items()}
            try:
                return sizes, (probe := self.fitted_probes(sizes)[0]), self.run(probe)
            except Exception:  # a size that this network does not take
                continue
        return None

    def fitted_probes(self, sizes: Mapping[str, int]) -> list[tuple[Array, ...]]:
        """The probes cropped, repeated, or filled up to the shapes that `sizes` fixes."""
        specs = [(spec.bound(sizes).shape, self.empty.get(spec.name)) for spec in self.inputs]
        return [tuple(fitted(a, *spec) for a, spec in zip(probe, specs, strict=True)) for probe in self.probes]


def leaving_modes(function: Callable[P, R]) -> Callable[P, R]:
    """After the call the modules that it got as `source` train or evaluate as they did before."""

    @functools.wraps(function)
    def called_so(*args: P.args, **kwargs: P.kwargs) -> R:
        given = inspect.signature(function).bind(*args, **kwargs).arguments.get("source")
        whole = [
            s.module if isinstance(s, Source) else s
            for s in (given.values() if isinstance(given, Mapping) else [given])
        ]
        before = [(m, m.training) for module in whole if isinstance(module, nn.Module) for m in module.modules()]
        try:
            return function(*args, **kwargs)
        finally:
            for module, training in before:
                module.training = training

    return called_so


def from_module(
    module: nn.Module,
    example_inputs: Sequence[Array | torch.Tensor] | Mapping[str, Array | torch.Tensor],
    names: Sequence[str] = (),
    dynamic: Mapping[str, Mapping[int, Any]] | None = None,
) -> Source:
    """Describe a module by running it on its example inputs, and at other sizes where dimensions are free.

    Args:
        module: put into evaluation mode; one of float16, bfloat16 or float64 weights is copied to float32.
        example_inputs: arrays or tensors, in the order of `forward`, or by the names of its parameters; those left
            out keep their defaults. Floats become float32.
        names: of the inputs: parameters of `forward`, in any order, or names of your own for the first ones.
            "image" for a single 4-D one, else those of the parameters, where left out.
        dynamic: free dimensions by input and axis, for example {"image": {2: "height", 3: "width"}}; a
            torch.export.Dim in the place of a name has bounds, {"tokens": {1: Dim("length", max=128)}}.

    Returns:
        Outputs are named after keys and fields ("logits"), or "output", "output0", …; numbers and None among them
        are left out, scalars are tensors of one value. A size of an output that follows a free dimension is
        written as "height", "2*height", "height/4" or "height+2"; one that follows none of these rules has a name
        of its own.

    Raises:
        InputError: the module does not run on these inputs, or a name is not one of them.
    """
    if isinstance(example_inputs, (np.ndarray, torch.Tensor)):
        example_inputs = [example_inputs]  # of a single input
    if isinstance(example_inputs, Mapping):
        names, example_inputs = tuple(example_inputs), tuple(example_inputs.values())
    notes = []
    wide = in_float32(module)
    if wide is not module:
        notes.append(f"{type(unwrapped(module)).__name__} was converted to float32, in which every comparison is made")
    arrays = [_array(example, index) for index, example in enumerate(example_inputs)]
    if not arrays:
        raise InputError(
            "got no example inputs: expected one array for each argument of the module's forward (--input NAME=SHAPE "
            "on the command line)"
        )
    parameters = parameters_for(wide, len(arrays), names)
    single = len(arrays) == 1 and arrays[0].ndim == 4
    names = list(names) or (["image"] if single else parameters)
    free, bounds = _named_dimensions(dynamic or {})
    if len(names) != len(arrays) or not set(free) <= set(names):
        raise InputError(f"got names {list(names)} and free dimensions of {sorted(free)} for {len(arrays)} inputs")
    for name, array in zip(names, arrays, strict=True):
        if missing := sorted(set(free.get(name, {})) - set(range(array.ndim))):
            axes = ", ".join(map(str, missing))
            raise InputError(f"got free dimensions at axis {axes} of '{name}', whose shape is {array.shape}")
    described, results = _called(wide.eval(), parameters, arrays, names, notes)
    arrays = [a if a.ndim else a.reshape(1) for a in arrays]
    inputs = tuple(_spec(name, a, free.get(name, {})) for name, a in zip(names, arrays, strict=True))
    outputs = tuple(_output(name, result) for name, result in results.items())
    if any(isinstance(d, str) for spec in inputs for d in spec.shape):
        outputs = sized(described, inputs, outputs, arrays)
    random = np.random.default_rng(0)
    probes = [tuple(arrays), *(tuple(shuffled(a, random) for a in arrays) for _ in range(2))]
    outputs = _counted(described, outputs, probes[1])
    return Source(described, inputs, outputs, tuple(probes), bounds=bounds, notes=tuple(notes))


def _named_dimensions(
    dynamic: Mapping[str, Mapping[int, Any]],
) -> tuple[dict[str, dict[int, str]], dict[str, tuple[int, int]]]:
    """Free dimensions by input and axis as names, and the bounds of those that were given as torch.export.Dim.

    Raises:
        InputError: neither a name nor a Dim with one.
    """
    names: dict[str, dict[int, str]] = {}
    bounds: dict[str, tuple[int, int]] = {}
    for owner, axes in dynamic.items():
        for axis, given in axes.items():
            name = given if isinstance(given, str) else getattr(given, "__name__", "")
            if not isinstance(name, str) or not name.isidentifier():
                raise InputError(
                    f"got {given!r} for axis {axis} of '{owner}': expected the name of a free dimension, such as "
                    f"'height', or torch.export.Dim('height', min=…, max=…)"
                )
            names.setdefault(owner, {})[axis] = name
            if isinstance(given, torch.export.Dim) and (given.min > 2 or given.max < LONGEST):
                bounds[name] = (max(2, int(given.min)), int(min(LONGEST, given.max)))
    return names, bounds


def _array(example: object, index: int) -> Array:
    """An example as an array of a dtype that engines have.

    Raises:
        InputError: no array or tensor.
    """
    if isinstance(example, torch.Tensor):
        example = (example.float() if example.is_floating_point() else example).detach().cpu().numpy()
    if not isinstance(example, (np.ndarray, np.generic)):
        raise InputError(
            f"example input {index} is {type(example).__name__}: expected an array or a tensor; leave out arguments "
            "that keep their defaults, and set other values where the module is made"
        )
    array = np.array(example, np.float32 if example.dtype.kind == "f" else None, order="C")
    dtype_named(array.dtype.name)
    return array


def _called(
    module: nn.Module,
    parameters: Sequence[str],
    arrays: Sequence[Array],
    names: Sequence[str],
    notes: Sequence[str] = (),
) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """The module, made flat where it is not, and its outputs by name.

    Raises:
        InputError: it does not run on these inputs, or gives no tensor.
    """
    tensors = {p: torch.from_numpy(a.copy()) for p, a in zip(parameters, arrays, strict=True)}
    try:
        with torch.inference_mode():
            result = call(module, tensors)
    except Exception as error:  # whatever the module's own code raises
        shapes = ", ".join(
            f"{p} {a.dtype} {a.shape}" if len(arrays) > 1 else str(a.shape)
            for p, a in zip(parameters, arrays, strict=True)
        )
        kind = type(unwrapped(module)).__name__
        told = "".join(f"; {note}" for note in notes)
        raise InputError(f"{kind} does not run on inputs of {shapes}: {error}{told}") from error
    found = dict(flattened(result))
    if not found:
        kind = type(unwrapped(module)).__name__
        raise InputError(f"{kind} gives {type(result).__name__} without a tensor: expected tensors")
    scalars = [name for name, tensor in tensors.items() if not tensor.ndim]
    if scalars or not is_flat(module, parameters, result):
        module = Flat(module, parameters, tuple(found), scalars)
        found = {name: t.reshape(1) if t.ndim == 0 else t for name, t in found.items()}
    return module, {f"{name}_out" if name in names else name: tensor for name, tensor in found.items()}


def from_bundle(bundle: Bundle, name: str = "model") -> Source:
    """The PyTorch source of a component whose zoo network's weights the bundle carries.

    Raises:
        BundleError: it carries none.
    """
    component = bundle.component(name)
    weights = next((v for v in component.variants if v.format == "torch"), None)
    if weights is None or component.family is None:
        raise BundleError(
            f"{bundle.name} has no PyTorch weights of a zoo network: pass the module again (source=…, or --source "
            "package.module:factory)"
        )
    module = load_module(component.family, component.settings, bundle.model_path(weights))
    golden = bundle.golden(name)
    probes = (tuple(golden[s.name] for s in component.inputs),)
    return Source(module, component.inputs, component.outputs, probes, component.family, component.settings)


def from_factory(reference: str, weights: Path | None = None) -> nn.Module:
    """Call "package.module:factory" or "file.py:factory" for a module, and fill it from a weights file.

    Raises:
        InputError: no such module or attribute, or it gives no nn.Module. As `filled`.
    """
    module = called(reference)
    if not isinstance(module, nn.Module):
        raise InputError(f"'{reference}' gave {type(module).__name__}: expected a torch.nn.Module")
    return (module if weights is None else filled(module, weights)).eval()


def called(reference: str) -> Any:
    """What "package.module:factory" or "file.py:factory" gives; the factory is code that the caller names.

    A file may import what lies beside it.

    Raises:
        InputError: no such module or attribute, or its own code raised. EdgekitError: raised by the factory.
    """
    place, _, name = reference.partition(":")
    with _importing_from(place):
        found = _attribute(_told(reference, lambda: _import(place, reference)), name, reference)
        if not callable(found) or isinstance(found, nn.Module):
            return found
        return _told(reference, found, ": a factory is called without arguments")


def _told(reference: str, code: Callable[[], Any], remark: str = "") -> Any:
    """What the user's code gives; what it raises, as an InputError that names it."""
    try:
        return code()
    except EdgekitError:
        raise
    except Exception as error:  # whatever it is
        at = f" (line {line})" if (line := raised_at(error)) else ""
        raise InputError(f"'{reference}' raised {type(error).__name__}: {first_line(error)}{at}{remark}") from error


def _attribute(module: ModuleType, name: str, reference: str) -> Any:
    """The attribute of a module that a reference names.

    Raises:
        InputError: there is none; names what it might have been.
    """
    try:
        return getattr(module, name)
    except AttributeError as error:
        own = [
            n
            for n, value in vars(module).items()
            if isinstance(value, nn.Module) or (callable(value) and getattr(value, "__module__", "") == module.__name__)
        ]
        have = f"it has {', '.join(own[:8])}{' …' if own[8:] else ''}" if own else "it has no function, class or module"
        raise InputError(f"cannot find '{reference}': {have}; expected {FACTORY}") from error


def filled(module: nn.Module, weights: Path) -> nn.Module:
    """The module with the tensors of a file: safetensors, or a state dict that loads with `weights_only=True`.

    What training wraps around them is taken off, such as "state_dict" and DataParallel's "module."; nothing is
    unpickled.

    Raises:
        InputError: it is no such file, or its names and shapes are not the module's.
    """
    from edgekit.exporters.readers.layouts.weights import PREFIXES, bared, raw_weights  # which stands on sources

    wanted, named = module.state_dict(), list(bared(raw_weights(weights)))
    named += [{p + name: tensor for name, tensor in state.items()} for state in reversed(named) for p in PREFIXES]
    state = min(named, key=lambda s: sum(map(len, _misfits(s, wanted).values())))
    told = "; ".join(
        f"{what}: {', '.join(n[:3])}{f' and {len(n) - 3} more' if n[3:] else ''}"
        for what, n in _misfits(state, wanted).items()
        if n
    )
    if told:
        kind = type(unwrapped(module)).__name__
        raise InputError(f"'{weights}' does not fill {kind}: {told}; is the network built as it was?")
    module.load_state_dict(state, strict=False)
    return module


def _misfits(state: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> dict[str, list[str]]:
    """What keeps a state dict from a module's, by kind."""
    return {
        "missing": [name for name in wanted if name not in state and not name.endswith("num_batches_tracked")],
        "unexpected": [name for name in state if name not in wanted],
        "other shapes": [
            f"{name} is {tuple(t.shape)}, not {tuple(wanted[name].shape)}"
            for name, t in state.items()
            if name in wanted and t.shape != wanted[name].shape
        ],
    }


def _import(place: str, reference: str) -> ModuleType:
    """The module of a dotted name, or of a file, which is run anew.

    Raises:
        InputError: there is none. What its own code raises.
    """
    if place.endswith(".py"):
        if not Path(place).is_file():
            raise InputError(f"cannot find '{reference}': no file '{place}'; expected {FACTORY}")
        return _run(Path(place).absolute())
    try:
        return importlib.import_module(place)
    except ImportError as error:
        if error.name is None or not f"{place}.".startswith(f"{error.name}."):
            raise  # what the module imports itself is missing
        raise InputError(f"cannot find '{reference}': {error}; expected {FACTORY}") from error
    except ValueError as error:  # an empty name
        raise InputError(f"cannot find '{reference}': {error}; expected {FACTORY}") from error


def _run(file: Path) -> ModuleType:
    """A file as a module, known by its name as an imported one, unless another module has that name."""
    before = sys.modules.get(file.stem)
    taken = before is not None and getattr(before, "__file__", None) != str(file)
    spec = importlib.util.spec_from_file_location(f"edgekit_{file.stem}" if taken else file.stem, file)
    assert spec is not None and spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # dataclasses look themselves up there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[spec.name]
        raise
    return module


@contextlib.contextmanager
def _importing_from(place: str) -> Iterator[None]:
    """The folder of a file, or else the working folder, first in what is imported from."""
    folder = str(Path(place).absolute().parent) if place.endswith(".py") else ""
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        if folder in sys.path:
            sys.path.remove(folder)


def _spec(name: str, array: Array, free: Mapping[int, str]) -> TensorSpec:
    shape = tuple(free.get(axis, size) for axis, size in enumerate(array.shape))
    image = array.ndim == 4 and array.shape[1] in (1, 3, 4) and array.dtype.kind == "f"
    return TensorSpec(name, dtype_named(array.dtype.name), shape, "NCHW" if image else None)


def _counted(module: nn.Module, outputs: tuple[TensorSpec, ...], probe: Sequence[Array]) -> tuple[TensorSpec, ...]:
    """The outputs with a name for each size that is another where values lie at other places, as a count of boxes is."""
    try:
        with torch.inference_mode():
            found = [t.shape for _, t in flattened(module(*(torch.from_numpy(a.copy()) for a in probe)))]
    except Exception:  # values that this network does not take there
        return outputs
    if [len(shape) for shape in found] != [len(spec.shape) for spec in outputs]:
        return outputs
    return tuple(
        msgspec.structs.replace(
            spec,
            shape=tuple(
                f"{spec.name}_{axis}" if isinstance(size, int) and size != other else size
                for axis, (size, other) in enumerate(zip(spec.shape, shape, strict=True))
            ),
        )
        for spec, shape in zip(outputs, found, strict=True)
    )


def _output(name: str, result: torch.Tensor) -> TensorSpec:
    """Raises: InputError: of a dtype that no engine gives."""
    if result.is_complex():
        raise InputError(
            f"the output '{name}' is {result.dtype}, which no engine gives: give torch.view_as_real of it, or its abs"
        )
    return _spec(name, result.numpy(), {})


def shuffled(array: Array, random: np.random.Generator) -> Array:
    """The same values at other places: as typical as the example, and not the example."""
    return random.permutation(array.reshape(-1)).reshape(array.shape)
