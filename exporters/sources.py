"""Sources: what is exported, as a PyTorch module with named inputs, outputs and real values to try."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from edgekit.bundle import Bundle
from edgekit.errors import BundleError, InputError
from edgekit.runtimes.torch_ import TorchSession, load_module
from edgekit.tensors import Array, TensorSpec, dtype_named


@dataclass(frozen=True)
class Source:
    """A module, what it takes and gives, and probes: inputs that parity and golden values are made from.

    `family` and `settings` let a bundle carry the weights of a zoo network for PyTorch as well.
    """

    module: nn.Module
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    probes: tuple[tuple[Array, ...], ...]
    family: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    def run(self, arrays: Sequence[Array]) -> list[Array]:
        """What PyTorch computes in fp32 on the CPU."""
        session = TorchSession(self.module, self.inputs, self.outputs)
        return list(session.run({s.name: a for s, a in zip(self.inputs, arrays, strict=True)}).values())

    def fitted_probes(self, sizes: Mapping[str, int]) -> list[tuple[Array, ...]]:
        """The probes cropped, or repeated, to the shapes that `sizes` fixes."""
        specs = [spec.bound(sizes) for spec in self.inputs]
        return [tuple(_fit(a, s.shape) for a, s in zip(probe, specs, strict=True)) for probe in self.probes]


def from_module(
    module: nn.Module,
    example_inputs: Sequence[Array | torch.Tensor],
    names: Sequence[str] = (),
    dynamic: Mapping[str, Mapping[int, str]] | None = None,
) -> Source:
    """Describe a module by running it on its example inputs.

    Args:
        module: put into evaluation mode.
        example_inputs: arrays or tensors, in the order of `forward`.
        names: of the inputs; "image" for a single 4-D one, else "input0", … where left out.
        dynamic: free dimensions by input and axis, for example {"image": {2: "height", 3: "width"}}.

    Raises:
        InputError: the module does not run on these inputs, or a name is not one of them.
    """
    arrays = [np.ascontiguousarray(e.detach().numpy() if isinstance(e, torch.Tensor) else e) for e in example_inputs]
    if not arrays:
        raise InputError("got no example inputs: expected one array for each argument of the module's forward")
    single = len(arrays) == 1 and arrays[0].ndim == 4
    names = list(names) or (["image"] if single else [f"input{i}" for i in range(len(arrays))])
    free = dynamic or {}
    if len(names) != len(arrays) or not set(free) <= set(names):
        raise InputError(f"got names {list(names)} and free dimensions of {sorted(free)} for {len(arrays)} inputs")
    inputs = tuple(_spec(name, a, dict(free.get(name, {}).items())) for name, a in zip(names, arrays, strict=True))
    outputs = _outputs(module.eval(), arrays, inputs)
    random = np.random.default_rng(0)
    probes = [tuple(arrays), *(tuple(_shuffled(a, random) for a in arrays) for _ in range(2))]
    return Source(module, inputs, outputs, tuple(probes))


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

    The factory is code that the caller names; weights are safetensors, or a state dict that loads with
    `weights_only=True`: nothing is unpickled.

    Raises:
        InputError: no such module or attribute, or it gives no nn.Module.
    """
    place, _, name = reference.partition(":")
    try:
        factory = getattr(_import(place), name or "")
    except (ImportError, AttributeError, OSError) as error:
        raise InputError(
            f"cannot find '{reference}': {error}; expected package.module:factory or file.py:factory"
        ) from error
    module = factory if isinstance(factory, nn.Module) else factory()
    if not isinstance(module, nn.Module):
        raise InputError(f"'{reference}' gave {type(module).__name__}: expected a torch.nn.Module")
    if weights is not None:
        _fill(module, weights)
    return module.eval()


def _fill(module: nn.Module, weights: Path) -> None:
    try:
        if weights.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(weights)
        else:
            state = torch.load(weights, map_location="cpu", weights_only=True)
        module.load_state_dict(state.get("state_dict", state))
    except Exception as error:  # unpickling guards, missing files and wrong keys raise unrelated types
        raise InputError(f"'{weights}' does not fill {type(module).__name__}: {str(error).splitlines()[0]}") from error


def _import(place: str) -> Any:
    if not place.endswith(".py"):
        sys.path.insert(0, "")
        try:
            return importlib.import_module(place)
        finally:
            sys.path.remove("")
    spec = importlib.util.spec_from_file_location(Path(place).stem, place)
    if spec is None or spec.loader is None:
        raise ImportError(f"no file '{place}'")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _spec(name: str, array: Array, free: Mapping[int, str]) -> TensorSpec:
    shape = tuple(free.get(axis, size) for axis, size in enumerate(array.shape))
    image = array.ndim == 4 and array.shape[1] in (1, 3, 4)
    return TensorSpec(name, dtype_named(array.dtype.name), shape, "NCHW" if image else None)


def _outputs(module: nn.Module, arrays: list[Array], inputs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
    """Specs of the outputs; a size that is a multiple of a free input dimension is named after it."""
    try:
        with torch.inference_mode():
            results = module(*(torch.from_numpy(a.copy()) for a in arrays))
    except Exception as error:
        shapes = ", ".join(str(a.shape) for a in arrays)
        raise InputError(f"{type(module).__name__} does not run on inputs of {shapes}: {error}") from error
    results = results if isinstance(results, (tuple, list)) else (results,)
    free = {
        axis: (dim, size)
        for spec, a in zip(inputs, arrays, strict=True)
        for axis, (dim, size) in enumerate(zip(spec.shape, a.shape, strict=True))
        if isinstance(dim, str)
    }
    specs = []
    for index, result in enumerate(results):
        shape = tuple(_named(size, free.get(axis)) for axis, size in enumerate(result.shape))
        image = result.ndim == 4 and result.shape[1] in (1, 3, 4)
        name = "output" if len(results) == 1 else f"output{index}"
        specs.append(
            TensorSpec(name, dtype_named(str(result.dtype).removeprefix("torch.")), shape, "NCHW" if image else None)
        )
    return tuple(specs)


def _named(size: int, free: tuple[str, int] | None) -> int | str:
    if free is None or size % free[1]:
        return size
    return free[0] if size == free[1] else f"{size // free[1]}*{free[0]}"


def _shuffled(array: Array, random: np.random.Generator) -> Array:
    """The same values at other places: as typical as the example, and not the example."""
    return random.permutation(array.reshape(-1)).reshape(array.shape)


def _fit(array: Array, shape: Sequence[int | str]) -> Array:
    for axis, size in enumerate(shape):
        if isinstance(size, int):
            array = np.take(array, np.arange(size) % array.shape[axis], axis=axis)
    return np.ascontiguousarray(array)
