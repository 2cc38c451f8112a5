"""Programs: what torch.export.export gives, as an object or a .pt2 file; and a word on what cannot be read."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx
from torch.utils import _pytree as trees

from edgekit.errors import InputError
from edgekit.exporters.proof.places import first_line
from edgekit.exporters.readers import archives
from edgekit.exporters.readers.archives import Kind
from edgekit.exporters.readers.reading import Asked, Normalized, Prepared, Reader, stated_task
from edgekit.exporters.sources import Source, shuffled
from edgekit.tensors import Array, Dimension, TensorSpec, dtype_named

MAKE_PT2 = (
    "where the Python module is: module.eval(); program = torch.export.export(module, (example,)); "
    "torch.export.save(program, 'model.pt2'); then export model.pt2, or pass the module with example inputs"
)
INVENTED = re.compile(r"[su]\d+")  # symbols that torch.export numbers; those that a person names read otherwise
LARGEST = 2**15
TRAINING = {  # operators that work otherwise in training, and the argument that says so
    "aten.dropout.default": 2,
    "aten.native_dropout.default": 2,
    "aten.batch_norm.default": 5,
}


class ProgramReader(Reader):
    """An ExportedProgram or the .pt2 file of one; refuses with a remedy what else PyTorch writes of whole modules."""

    expects = "an ExportedProgram or .pt2 file"

    takes = frozenset({"example_inputs", "names", "dynamic", "mean", "std"})

    def reads(self, reference: Any) -> bool:
        if isinstance(reference, (torch.export.ExportedProgram, torch.jit.ScriptModule)):
            return True
        if not isinstance(reference, (str, Path)):
            return False
        found = archives.kind_of(Path(reference))
        return Path(reference).suffix == ".pt2" or found in (Kind.PROGRAM, Kind.SCRIPT, Kind.OBJECTS)

    def read(self, reference: Any, asked: Asked) -> Prepared:
        if isinstance(reference, torch.jit.ScriptModule):
            raise InputError(
                "got a TorchScript module, whose graph the exporters do not take: export the module it was "
                f"scripted or traced from; {MAKE_PT2}"
            )
        program = reference if isinstance(reference, torch.export.ExportedProgram) else load(Path(reference))
        source = from_program(program, asked)
        return Prepared({"model": _normalized(source, asked) if asked.mean else source}, stated_task(asked))


def _normalized(source: Source, asked: Asked) -> Source:
    """The source with its image, its only input, brought to the mean and the deviation first."""
    (image, *others) = source.inputs
    if others or len(image.shape) != 4 or image.dtype != "float32" or len(asked.mean) not in (1, image.shape[1]):
        raise InputError(
            f"got a mean of {len(asked.mean)} channels for a program that takes "
            f"{', '.join(f'{s.name}: {s}' for s in source.inputs)}: expected one image of as many channels, NCHW"
        )
    return replace(source, module=Normalized(source.module, asked.mean, asked.std).eval())


def load(path: Path) -> torch.export.ExportedProgram:
    """Load a .pt2 file that holds tensors and a graph of PyTorch's operators alone.

    Raises:
        InputError: not such a file; says what it is and what to do.
    """
    kind = archives.kind_of(path)
    if not path.is_file():
        raise InputError(f"no file at '{path}': expected a .pt2 file from torch.export.save")
    if kind is Kind.SCRIPT:
        raise InputError(f"'{path}' is TorchScript, whose graph the exporters do not take: {MAKE_PT2}")
    if kind is Kind.OBJECTS:
        named = ", ".join(archives.classes_in(path)[:3])
        raise InputError(
            f"'{path}' holds pickled objects ({named}), a whole module or more, and nothing is unpickled here: save "
            "torch.save(module.state_dict(), 'weights.pth') and name the module's factory with --weights "
            f"weights.pth; or, {MAKE_PT2}"
        )
    if kind is not Kind.PROGRAM:
        raise InputError(f"'{path}' holds {kind.value}, not an exported program: {MAKE_PT2}")
    archives.require_plain(path)
    try:
        return torch.export.load(path)
    except Exception as error:  # a program of another version of PyTorch, or of operators that are not there
        reason = first_line(error, 300)
        raise InputError(f"'{path}' does not load in PyTorch {torch.__version__}: {reason}") from error


def from_program(program: torch.export.ExportedProgram, asked: Asked) -> Source:
    """A program as a module that takes its tensors in order, with the names and free dimensions it states.

    Free dimensions are named after the program's symbols, or, where those are only numbered, "batch",
    "height", "width", "length" by their place, unless `asked.dynamic` names them; `asked.names` names inputs.

    Raises:
        InputError: no example inputs, inputs that are not tensors, state that it changes, training mode.
    """
    _refuse_state(program)
    nodes = _inputs(program)
    arrays = _examples(program, nodes, asked)
    names = list(asked.names) or [node.name for node in nodes]
    if len(names) != len(nodes):
        raise InputError(f"got the names {names} for {len(nodes)} inputs: {', '.join(n.name for n in nodes)}")
    symbols = _named_symbols(nodes, names, asked.dynamic)
    inputs = tuple(
        _spec(name, a.dtype.name, node.meta["val"].shape, symbols)
        for name, a, node in zip(names, arrays, nodes, strict=True)
    )
    _require_fit(inputs, arrays)
    random = np.random.default_rng(0)
    probes = (tuple(arrays), *(tuple(shuffled(a, random) for a in arrays) for _ in range(2)))
    return Source(_flat(program), inputs, _outputs(program, symbols), probes, bounds=_bounds(program, symbols))


def _flat(program: torch.export.ExportedProgram) -> torch.nn.Module:
    """The program's graph with its tensors as plain arguments and a plain tuple of results."""
    unlifted = program.module(check_guards=False)  # guards are Python source from the file; shapes are checked here
    unlifted.graph.set_codegen(fx.graph.CodeGen())
    wanted = {node.name for node in _inputs(program)}
    placeholders = unlifted.graph.find_nodes(op="placeholder")  # named otherwise where a name is Python's own
    for node, name in zip(placeholders, program.graph_signature.user_inputs, strict=True):
        if name not in wanted:  # a number or None, which the graph holds as such
            unlifted.graph.erase_node(node)
    return fx.GraphModule(unlifted, unlifted.graph).eval()


def _inputs(program: torch.export.ExportedProgram) -> list[fx.Node]:
    """The graph's nodes of the tensors that a caller passes."""
    wanted = {n for n in program.graph_signature.user_inputs if isinstance(n, str)}
    nodes = [n for n in program.graph.find_nodes(op="placeholder") if n.name in wanted]
    for node in nodes:
        value = node.meta.get("val")
        if isinstance(value, (torch.SymInt, torch.SymFloat, torch.SymBool)):
            raise InputError(f"the program takes the number '{node.name}': expected tensors; pass it as a tensor")
    return [n for n in nodes if isinstance(n.meta.get("val"), Tensor)]


def _examples(program: torch.export.ExportedProgram, nodes: Sequence[fx.Node], asked: Asked) -> list[Array]:
    if asked.example_inputs:
        given = list(asked.example_inputs)
    elif program.example_inputs:
        args, kwargs = program.example_inputs
        order = program.call_spec.in_spec
        leaves = trees.tree_leaves((args, _ordered(kwargs, order)))
        places = program.graph_signature.user_inputs
        wanted = {node.name for node in nodes}
        given = [leaf for leaf, name in zip(leaves, places, strict=True) if name in wanted]
    else:
        raise InputError("the program carries no example inputs: pass some, one array for each of its inputs")
    if len(given) != len(nodes):
        raise InputError(f"got {len(given)} example inputs for {', '.join(n.name for n in nodes)}")
    return [np.ascontiguousarray(_array(g, node)) for g, node in zip(given, nodes, strict=True)]


def _ordered(kwargs: Mapping[str, Any], spec: Any) -> dict[str, Any]:
    """Keyword arguments in the order of the program's graph."""
    names = spec.children()[1].context if spec is not None else list(kwargs)
    return {name: kwargs[name] for name in names}


def _array(value: Any, node: fx.Node) -> Array:
    expected = node.meta["val"].dtype
    tensor = value.detach() if isinstance(value, Tensor) else torch.from_numpy(np.array(value))
    if tensor.dtype != expected or expected == torch.bfloat16:
        remedy = "export the module in float32" if expected == torch.bfloat16 else f"expected {expected}"
        raise InputError(f"'{node.name}' is {tensor.dtype}: {remedy}")
    array: Array = tensor.cpu().numpy()
    return array


def _named_symbols(
    nodes: Sequence[fx.Node], names: Sequence[str], dynamic: Mapping[str, Mapping[int, str]]
) -> dict[str, str]:
    """A name for each symbol of the inputs' shapes."""
    found: dict[str, str] = {}
    for asked in (True, False):  # what the caller names comes first
        for node, name in zip(nodes, names, strict=True):
            for axis, size in enumerate(node.meta["val"].shape):
                stated = dynamic.get(name, {}).get(axis)
                if stated and isinstance(size, int):
                    raise InputError(f"{name}'s axis {axis} is fixed to {size} in the program: export it with it free")
                if isinstance(size, int) or str(size) in found or (asked and not stated):
                    continue
                if not re.fullmatch(r"\w+", str(size)):
                    raise InputError(f"{name}'s axis {axis} is {size} in the program: expected a size of its own")
                found[str(size)] = stated or _name(str(size), node, name, axis, set(found.values()))
    return found


def _name(symbol: str, node: fx.Node, name: str, axis: int, taken: set[str]) -> str:
    if not INVENTED.fullmatch(symbol):
        return symbol
    value = node.meta["val"]
    if value.ndim == 4 and value.is_floating_point():
        usual = ("batch", "channels", "height", "width")[axis]
    else:
        usual = "batch" if axis == 0 and value.ndim > 1 else "length"
    return next(n for n in (usual, f"{name}_{usual}", f"{name}_{axis}") if n not in taken)


def _spec(name: str, dtype: str, shape: Sequence[Any], symbols: Mapping[str, str]) -> TensorSpec:
    sizes = tuple(_dimension(size, symbols) for size in shape)
    image = len(sizes) == 4 and sizes[1] in (1, 3, 4) and dtype.startswith("float")
    return TensorSpec(name, dtype_named(dtype), sizes, "NCHW" if image else None)


def _dimension(size: Any, symbols: Mapping[str, str]) -> Dimension:
    """An integer, a free dimension's name, or an expression of them such as "2*height"."""
    if isinstance(size, int):
        return size
    text = str(size).replace(" ", "")
    return re.sub(r"[A-Za-z_]\w*", lambda word: symbols.get(word.group(), word.group()), text)


def _outputs(program: torch.export.ExportedProgram, symbols: Mapping[str, str]) -> tuple[TensorSpec, ...]:
    by_name = {node.name: node for node in program.graph.nodes}
    results = [by_name[str(name)].meta["val"] for name in program.graph_signature.user_outputs if name in by_name]
    if len(results) != len(program.graph_signature.user_outputs):
        raise InputError("the program gives values that are not tensors: expected tensors alone")
    names = _output_names(program.call_spec.out_spec, len(results))
    return tuple(
        _spec(name, str(r.dtype).removeprefix("torch."), r.shape, symbols)
        for name, r in zip(names, results, strict=True)
    )


def _output_names(spec: Any, count: int) -> list[str]:
    """The keys of a dict of results, else "output", or "output0" and so on."""
    keys = list(spec.context) if spec is not None and spec.type is dict else []
    if len(keys) == count and all(isinstance(k, str) and re.fullmatch(r"[\w.-]+", k) for k in keys):
        return keys
    return ["output"] if count == 1 else [f"output{i}" for i in range(count)]


def _bounds(program: torch.export.ExportedProgram, symbols: Mapping[str, str]) -> dict[str, tuple[int, int]]:
    """The smallest and largest size of each free dimension, as the program states them."""
    bounds = {}
    for symbol, limits in program.range_constraints.items():
        if str(symbol) in symbols:
            largest = int(limits.upper) if limits.upper.is_Integer else LARGEST
            least = int(limits.lower) if limits.lower.is_Integer else 1
            bounds[symbols[str(symbol)]] = (max(least, 1), min(largest, LARGEST))
    return bounds


def _require_fit(inputs: Sequence[TensorSpec], arrays: Sequence[Array]) -> None:
    sizes: dict[str, int] = {}
    for spec, array in zip(inputs, arrays, strict=True):
        spec.check(array, sizes)


def _refuse_state(program: torch.export.ExportedProgram) -> None:
    """Refuse what an exported file would do otherwise: drop at random, or change its own buffers."""
    for node in program.graph.nodes:
        place = TRAINING.get(str(node.target))
        if place is not None and place < len(node.args) and node.args[place]:
            raise InputError(f"the program was exported in training mode ({node.target}): module.eval() first")
    if any(getattr(getattr(n.target, "_schema", None), "is_mutable", False) for n in program.graph.nodes):
        program = program.run_decompositions({})  # turns what is written in place into results
    changed = program.graph_signature.buffers_to_mutate.values()
    if changed:
        raise InputError(
            f"the program changes its buffers {', '.join(changed)} at each call, and a file keeps no state: "
            "module.eval() first, or pass such state in and out as tensors"
        )
