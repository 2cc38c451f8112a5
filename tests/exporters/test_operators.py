"""The matrix of operators: each is converted, run in its engine and compared with PyTorch, in every format."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from exporters.operators import DOCUMENT, FORMATS, TABLE, Fails, Operator, document
from torch import Tensor, nn

from edgekit import registry
from edgekit.errors import EdgekitError
from edgekit.exporters.graphs import Exporter, Graph
from edgekit.exporters.proof.parity import ENGINES
from edgekit.exporters.quiet import quiet
from edgekit.exporters.sources import Source, from_module
from edgekit.opening import runtime
from edgekit.session import Model
from edgekit.tensors import Array
from edgekit.verify import answers, compare

ROWS = [(group, operator, format) for group, rows in TABLE.items() for operator in rows for format in FORMATS]


class Together(nn.Module):
    """Several operators side by side in one graph, each with inputs of its own: a conversion costs about the same."""

    def __init__(self, operators: Sequence[Operator]) -> None:
        super().__init__()
        self.counts = [len(operator.shapes) for operator in operators]
        self.nets = nn.ModuleList(built(operator) for operator in operators)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        results: list[Tensor] = []
        for net, count in zip(self.nets, self.counts, strict=True):
            results += flat(net(*tensors[:count]))
            tensors = tensors[count:]
        return tuple(results)


def built(operator: Operator) -> nn.Module:
    torch.manual_seed(0)
    return operator.build().eval()


def flat(results: Any) -> list[Tensor]:
    return list(results) if isinstance(results, (tuple, list)) else [results]


@cache
def graph_of(operators: tuple[Operator, ...]) -> Graph:
    with quiet():
        module = Together(operators)
        return Graph(module, from_module(module, [t for operator in operators for t in operator.inputs()]))


@cache
def outcomes(group: str, format: str) -> dict[str, str]:
    """What comes of each operator of a group: nothing to say, or how it fails. Those said to work are tried together."""
    working = tuple(operator for operator in TABLE[group] if format not in operator.fails and not operator.alone)
    alone = [(operator,) for operator in TABLE[group] if operator not in working]
    found: dict[str, str] = {}
    try:
        found |= tried(working, format)
    except EdgekitError:  # one of them spoils it for all: which?
        alone += [(operator,) for operator in working]
    for operators in alone:
        try:
            found |= tried(operators, format)
        except EdgekitError as error:
            found[operators[0].name] = str(error)
    return found


def tried(operators: tuple[Operator, ...], format: str) -> dict[str, str]:
    """Convert, run, compare."""
    if not operators:
        return {}
    graph = graph_of(operators)
    results = iter(zip(run(graph, format), graph.source.run(graph.source.probes[0]), strict=True))
    said = {}
    for operator in operators:
        with torch.inference_mode():
            count = len(flat(built(operator)(*operator.inputs())))
        pairs = [next(results) for _ in range(count)]
        error = max(compare([result], [truth])[0] for result, truth in pairs)
        said[operator.name] = "" if error <= operator.tolerance else f"departs by {error:.2g}"
    return said


def run(graph: Graph, format: str) -> list[Array]:
    exporter, source = registry.find("exporters", format)(), graph.source
    assert isinstance(exporter, Exporter) and isinstance(source, Source)
    engine = runtime(ENGINES[format])
    folder = Path(graph.memo.setdefault("folder", TemporaryDirectory()).name)  # OpenVINO reads the ONNX file in it
    with quiet():
        written = exporter.convert(graph, {}, folder, "model")
        model = Model(folder / written.files[0], format, "fp32", written.inputs, written.outputs)
        with engine.open(model, "cpu", 1, engine.options()) as session:
            return [np.array(a) for a in answers(session, source.probes[0], source.inputs, source.outputs)]


@pytest.mark.slow
@pytest.mark.parametrize(("group", "operator", "format"), ROWS, ids=[f"{f}-{o.name}" for _, o, f in ROWS])
def test_does_what_the_table_says(group: str, operator: Operator, format: str) -> None:
    said, fails = outcomes(group, format)[operator.name], operator.fails.get(format)
    if fails is None:
        assert not said, said
    else:
        assert said, f"{operator.name} works in {format} now: take it out of `fails`, and write {DOCUMENT.name} anew"
        assert fails.says in said, said


def test_the_table_is_large_and_names_are_single() -> None:
    names = [operator.name for rows in TABLE.values() for operator in rows]
    assert len(names) >= 60 and len(set(names)) == len(names)
    reasons = [f for rows in TABLE.values() for o in rows for f in o.fails.values()]
    assert all(isinstance(f, Fails) and f.says and f.why and f.instead for f in reasons)


def test_the_document_is_that_of_the_table() -> None:
    assert DOCUMENT.read_text(encoding="utf-8") == document(), "run `python tests/exporters/operators.py`"
