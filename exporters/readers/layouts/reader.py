"""LayoutReader: a file of weights alone, recognised as a published network's."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from edgekit import registry
from edgekit.errors import InputError
from edgekit.exporters.readers.archives import Kind, kind_of
from edgekit.exporters.readers.layouts import LAYOUTS
from edgekit.exporters.readers.layouts.layout import Layout, Settings
from edgekit.exporters.readers.layouts.weights import read_weights
from edgekit.exporters.readers.reading import Asked, Prepared, Reader
from edgekit.exporters.sources import Source
from edgekit.manifest import Task


class LayoutReader(Reader):
    """A .pth, .pt, .ckpt or .safetensors file with the weights of a network in LAYOUTS."""

    expects = "a file of weights (.pth, .safetensors) of a published layout"

    def reads(self, reference: Any) -> bool:
        if not isinstance(reference, (str, Path)):
            return False
        path = Path(reference)
        return path.is_file() and (path.suffix == ".safetensors" or kind_of(path) is Kind.TENSORS)

    def read(self, reference: Any, asked: Asked) -> Prepared:
        path = Path(reference)
        state = read_weights(path)
        layout, settings = recognised(state, asked, path)
        net = filled(layout, settings, state, path)
        use = layout.use(net)
        stated = {
            key: value for key, value in asked.settings.items() if key not in settings or key in use.task.settings
        }
        task = Task(asked.task or use.task.name, {**use.task.settings, **stated})
        return Prepared(
            {"model": Source(net, use.inputs, use.outputs, use.probes, layout.family, settings)},
            task,
            buckets=use.buckets,
            summary=_summary(layout, net, task),
            provenance={
                "layout": layout.title,
                "paper": layout.paper,
                "repository": layout.repository,
                "weights": {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()},
                "licence": "the network is written by edgekit; the licence of the weights is their author's to state",
            },
        )


def recognised(state: dict[str, Tensor], asked: Asked, path: Path) -> tuple[Layout, Settings]:
    """The layout that a file's tensors are of, and the arguments of its network.

    Raises:
        InputError: none is; says which are known, and what to do.
    """
    for layout in LAYOUTS:
        shapes = {key: tuple(t.shape) for key, t in state.items() if not layout.ignored.fullmatch(key)}
        settings = layout.settings(shapes, asked.settings, path.name)
        if settings is not None:
            return layout, settings
    first = ", ".join(f"{key} {'×'.join(map(str, t.shape)) or 'number'}" for key, t in list(state.items())[:4])
    known = "; ".join(f"{layout.title} ({layout.keys})" for layout in LAYOUTS)
    raise InputError(
        f"'{path}' holds {len(state)} tensors of a network that is not known: {first}, …; known are {known}. For any "
        "other network name the code that builds it, with this file as its weights: "
        f"edgekit export my_network.py:build --weights {path} --input image=1x3xheightxwidth"
    )


def filled(layout: Layout, settings: Settings, state: dict[str, Tensor], path: Path) -> nn.Module:
    """The network with the file's numbers.

    Raises:
        InputError: tensors are missing, or are too many.
    """
    try:
        net = registry.find("families", layout.family)(**settings)
        assert isinstance(net, nn.Module)
        net.load_state_dict({key: t for key, t in state.items() if not layout.ignored.fullmatch(key)})
    except (RuntimeError, ValueError) as error:  # ValueError: sizes that no layer has
        lines = str(error).splitlines()
        reason = " ".join(line.strip() for line in (lines[1:3] or lines))
        raise InputError(
            f"'{path}' looks like {layout.title} with {settings}, and does not fit it: {reason[:400]}; is the file whole? "
            "A changed network needs its own code: edgekit export my_network.py:build --weights FILE"
        ) from error
    return net.eval()


def _summary(layout: Layout, net: nn.Module, task: Task) -> str:
    scale = f" ×{task.settings['scale']}" if "scale" in task.settings else ""
    return f"{layout.title}{scale}, {sum(p.numel() for p in net.parameters()):,} parameters"
