"""Places: the operator, the module and the line of the user's source that a converter's error speaks of."""

from __future__ import annotations

import os
import re
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec
import torch
from torch import fx, nn

LIBRARIES = (*{sysconfig.get_path(name) for name in ("purelib", "platlib", "stdlib")}, "<")
OURS = str(Path(__file__).parents[1]) + os.sep
WRAPPERS = "edgekit.exporters."  # where modules are from that we put around the user's
MARK = "edgekit-node"
MARKED = re.compile(MARK + r'\.py(?::|", line )(\d+)')
NOISE = (
    (r"<OpOverload\(op='([\w.:]+)', overload='\w+'\)>", r"\1"),
    (r"<eval_with_key>\.\d+:\d+:\d+: (error: )?", ""),
    (r": %\d+ = .*", ""),
    (r" \(unhinted: .*", ""),
    (r" Failure message: No decompositions registered for the real-valued input", ""),
)
FRAME = re.compile(r'File "([^"]+)", line (\d+)')
REFERENCE = re.compile(r"(?:^|[\s\"(])(/[^\s:\"]+\.py):(\d+)")
OPERATOR = re.compile(r"\b((?:aten|prims|torchvision|quantized_decomposed)[.:]+\w+)|'((?:mhlo|tfl|stablehlo)\.\w+)'")


class Place(msgspec.Struct, frozen=True, omit_defaults=True):
    """An operator, the dotted path and class of the module that it belongs to, and file:line; "" where unknown.

    The path of the whole network is "", and `kind` its class.
    """

    operator: str = ""
    module: str = ""
    kind: str = ""
    source: str = ""

    def __bool__(self) -> bool:
        return bool(self.operator or self.kind or self.source)

    def __str__(self) -> str:
        module = f"module '{self.module}' ({self.kind})" if self.module else self.kind
        parts = (self.operator and f"operator {self.operator}", module, self.source and f"line {self.source}")
        return ", ".join(part for part in parts if part)


def place_of(node: fx.Node) -> Place:
    """What torch.export noted of a node: its operator, its module and the line that called it."""
    stack = [v for v in (node.meta.get("nn_module_stack") or {}).values() if not _is_graph(v[1])]
    depth = next((i for i, (path, kind) in enumerate(stack) if not _is_wrapper(path, kind)), len(stack))
    path, kind = stack[-1] if stack[depth:] else ("", "")
    source = source_of(node.meta.get("stack_trace") or "")
    return Place(operator_of(node), inner_path(str(path), depth), _name(kind).rpartition(".")[2], source)


def unwrapped(module: nn.Module) -> nn.Module:
    """The user's module within those that we put around it, to name its tensors or to normalise its image."""
    return wrapping(module)[-1]


def wrapping(module: nn.Module) -> list[nn.Module]:
    """A module, what it holds where it is a wrapper of ours, and so on to the user's."""
    found = [module]
    while type(found[-1]).__module__.startswith(WRAPPERS) and isinstance(
        inner := getattr(found[-1], "module", None), nn.Module
    ):
        found.append(inner)
    return found


def inner_path(path: str, depth: int) -> str:
    """The path of a module within `depth` wrappers, each of which calls what it holds "module"."""
    for _ in range(depth):
        path = path.removeprefix("module").removeprefix(".")
    return path


def operator_of(node: fx.Node) -> str:
    """ "aten.conv2d", without the overload."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return ""
    return str(node.target).rpartition(".")[0]


def source_of(trace: str) -> str:
    """ "file:line" of the last frame that is neither a library's nor ours."""
    own = [f"{file}:{line}" for file, line in FRAME.findall(trace) if is_own(file)]
    return own[-1] if own else ""


def is_own(file: str) -> bool:
    """Whether a source file is the user's."""
    return not file.startswith((*LIBRARIES, OURS))


def line_of(module: nn.Module) -> str:
    """ "file:line" of a module's forward, where it is the user's."""
    code = getattr(type(module).forward, "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code is not None and is_own(code.co_filename) else ""


def of_error(error: BaseException, module: nn.Module | None = None, nodes: Iterable[fx.Node] = ()) -> Place:
    """The place that an error's tracebacks or message speak of; an empty one where they do not.

    Args:
        module: the network, by whose modules the frames of a tracer are known.
        nodes: of the graph that was converted, among which an operator or line of the message is looked for.
    """
    nodes = list(nodes)
    causes = list(_causes(error))
    frames = [frame for cause in causes for frame in _frames(cause)]
    return (
        _of_nodes(frames)
        or (_of_modules(frames, module) if module is not None else Place())
        or _of_message("\n".join(str(cause) for cause in causes), nodes)
    )


class Marks:
    """Numbers the nodes of a graph in their stack traces, which converters hand on and name in their errors."""

    def __init__(self, graph: fx.GraphModule) -> None:
        self.nodes = list(graph.graph.nodes)
        self.places = [place_of(node) for node in self.nodes]
        for index, node in enumerate(self.nodes):
            node.meta["stack_trace"] = f'  File "/{MARK}.py", line {index}, in forward\n    {node.name}\n'

    def of_error(self, error: BaseException) -> Place:
        """The place of the node that an error names, or that was at work; else what its message tells."""
        causes = list(_causes(error))
        told = [str(cause) for cause in causes]
        for frame in (frame for cause in causes for frame in _frames(cause)):
            node = frame.f_locals.get("node")
            if isinstance(node, fx.Node):
                told.append(node.meta.get("stack_trace") or "")
        found = [int(index) for text in told for index in MARKED.findall(text)]
        return self.places[found[-1]] if found else _of_message("\n".join(told), self.nodes)


def raised_at(error: BaseException) -> str:
    """ "file:line" of the user's own code that an error came from last; "" where it is not in its traceback."""
    own = [f"{f.f_code.co_filename}:{f.f_lineno}" for f in _frames(error) if is_own(f.f_code.co_filename)]
    return own[-1] if own else ""


def first_line(error: BaseException, most: int = 200) -> str:
    """The first line of an error's message that says something, `most` characters of it; its class where none does."""
    return (_lines(error) or [type(error).__name__])[0][:most]


def last_line(error: BaseException, most: int = 200) -> str:
    """The last such line: where engines say what it came to."""
    return (_lines(error) or [type(error).__name__])[-1][:most]


def _lines(error: BaseException) -> list[str]:
    return [line.strip() for line in str(error).splitlines() if line.strip()]


def message_of(error: BaseException) -> str:
    """The line of a converter's message that names the cause; of a broken constraint, what it says of each size."""
    cause = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    lines = _lines(cause)
    if not lines:
        return type(cause).__name__
    if not lines[0].startswith("Constraints violated"):
        causes = [line for line in lines if not line.startswith("Exception from ")]  # of OpenVINO, which begins so
        return _short((causes or lines)[0])
    reasons = [line.removeprefix("- ") for line in lines[1:] if line.startswith("- ")]
    return f"{lines[0].partition('!')[0]}: {' '.join(reasons)}"[:400]


def _short(line: str) -> str:
    """A converter's line without names of its own making and long dumps of its graph."""
    for pattern, instead in NOISE:
        line = re.sub(pattern, instead, line)
    return line[:300]


def _of_nodes(frames: list[FrameType]) -> Place:
    """The node that an interpreter of the graph held last."""
    for frame in reversed(frames):
        for name in ("node", "n"):
            node = frame.f_locals.get(name)
            if isinstance(node, fx.Node) and node.op == "call_function" and node.meta.get("stack_trace"):
                place = place_of(node)
                if place.kind or place.source:
                    return place
    return Place()


def _of_modules(frames: list[FrameType], module: nn.Module) -> Place:
    """The deepest of the network's modules that was at work, and its line."""
    inside = unwrapped(module)
    paths = {id(child): name for name, child in inside.named_modules(remove_duplicate=False)}
    found = Place()
    for frame in frames:
        this = frame.f_locals.get("self")
        file = frame.f_code.co_filename
        if id(this) in paths and isinstance(this, nn.Module) and not _is_graph(type(this)):
            source = f"{file}:{frame.f_lineno}" if is_own(file) else found.source
            found = Place("", paths[id(this)], type(this).__name__, source)
        elif found and is_own(file):
            found = msgspec.structs.replace(found, source=f"{file}:{frame.f_lineno}")
    return found


def _of_message(message: str, nodes: list[fx.Node]) -> Place:
    """The node on a line that the message names, or else the first one of an operator that it names."""
    for file, line in REFERENCE.findall(message):
        on_line = [n for n in nodes if source_of(n.meta.get("stack_trace") or "") == f"{file}:{line}"]
        if is_own(file):
            return place_of(on_line[-1]) if on_line else Place(source=f"{file}:{line}")
    named = [aten or other for aten, other in OPERATOR.findall(message)]
    for name in named:
        bare = re.split(r"[.:]+", name)[1]
        for node in nodes:
            operator = operator_of(node).rpartition(".")[2]
            if operator and (operator == bare or operator.startswith(bare) or bare.startswith(operator)):
                return place_of(node)
    return Place(operator=named[0].replace("::", ".")) if named else Place()


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it was raised from, the first cause last."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _frames(error: BaseException) -> Iterator[FrameType]:
    trace = error.__traceback__
    while trace is not None:
        yield trace.tb_frame
        trace = trace.tb_next


def _is_wrapper(path: str, kind: Any) -> bool:
    """Whether an entry of the stack is a module of ours around the user's; it stands at "", "module", "module.module"."""
    return set(str(path).split(".")) <= {"", "module"} and _name(kind).startswith(WRAPPERS)


def _name(kind: Any) -> str:
    return kind if isinstance(kind, str) else f"{kind.__module__}.{kind.__qualname__}"


def _is_graph(kind: Any) -> bool:
    return (
        kind is fx.GraphModule
        or (isinstance(kind, type) and issubclass(kind, fx.GraphModule))
        or (isinstance(kind, str) and "GraphModule" in kind)
    )
