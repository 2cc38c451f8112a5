"""Networks: the PyTorch modules that a bundle was exported from, found again, and shown to be the same."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from edgekit.bundle import Bundle, golden_sample
from edgekit.errors import EdgekitError, InputError, QuantizationError
from edgekit.exporters.readers.model_files import is_model_file
from edgekit.exporters.readers.reading import Asked, Normalized, read
from edgekit.exporters.sources import Source, called, filled, from_module
from edgekit.verify import compare

SAME_DB = 40.0  # golden values lie in float16, and PyTorch computes the same on every machine to 100 dB


def again(bundle: Bundle, reference: str, weights: Path | None = None) -> dict[str, Source]:
    """The networks of a bundle's components, from what it was exported from, described as the bundle describes them.

    Args:
        reference: "package.module:factory" or "file.py:factory", for a module or several by component; a .pt2, or
            the folder of a Hugging Face model. A normalisation that the export put into the graph is put in again.

    Raises:
        InputError: nothing with a PyTorch network for each component.
    """
    if is_model_file(reference):
        raise InputError(
            f"got '{reference}', which is converted already: int8 is made from a PyTorch network, name that"
        )
    if ":" not in reference:
        return dict(read(reference, _asked(bundle, weights)).sources)
    return described(bundle, called(reference), weights, f"'{reference}' gives")


def described(bundle: Bundle, made: Any, weights: Path | None = None, giving: str = "got") -> dict[str, Source]:
    """A module, or several by component, described as the bundle describes them; a Source stays what it is.

    Raises:
        InputError: neither, or of other components. QuantizationError: it does not take the inputs, or gives other outputs.
    """
    modules = made if isinstance(made, Mapping) else {bundle.main: made}
    if set(modules) != set(bundle.manifest.components):
        have = ", ".join(bundle.manifest.components)
        raise InputError(f"{giving} {', '.join(map(str, modules))}: {bundle.name} has the components {have}")
    return {
        name: module if isinstance(module, Source) else _described(bundle, name, module, weights)
        for name, module in modules.items()
    }


def require_same(bundle: Bundle, sources: Mapping[str, Source]) -> None:
    """Refuse networks that answer the bundle's golden inputs otherwise than the ones it was exported from.

    Raises:
        QuantizationError.
    """
    for name, source in sources.items():
        golden, component = bundle.golden(name), bundle.component(name)
        if any(spec.name not in golden for spec in (*component.inputs, *component.outputs)):
            continue
        try:
            outputs = source.run([golden[spec.name] for spec in component.inputs])
        except EdgekitError as error:
            raise QuantizationError(
                f"the network given for '{name}' does not take the bundle's inputs: {error}"
            ) from error
        snr_db = compare([golden_sample(o) for o in outputs], [golden[spec.name] for spec in component.outputs])[1]
        if snr_db < SAME_DB:
            raise QuantizationError(
                f"the network given for '{name}' does not answer as {bundle.name} does (SNR {snr_db:.0f} dB): are its "
                "weights named (--weights), and is it what was exported?"
            )


def carries_network(bundle: Bundle, component: str) -> bool:
    """Whether a bundle carries a component's PyTorch network: a zoo family's weights."""
    described = bundle.component(component)
    return described.family is not None and any(v.format == "torch" for v in described.variants)


def _asked(bundle: Bundle, weights: Path | None) -> Asked:
    """What was said at the export and decides the graph."""
    task = bundle.manifest.task
    kept = {"context": task.settings["context"]} if task and "context" in task.settings else {}
    return Asked(weights=weights, settings=kept)


def _described(bundle: Bundle, name: str, module: Any, weights: Path | None) -> Source:
    if not isinstance(module, nn.Module):
        raise InputError(f"got {type(module).__name__} for '{name}': expected a torch.nn.Module")
    if weights is not None:
        module = filled(module, weights)
    normalised = bundle.manifest.provenance.get("normalised")
    if normalised:
        module = Normalized(module, normalised["mean"], normalised["std"])
    component, golden = bundle.component(name), bundle.golden(name)
    probe = tuple(golden[spec.name] for spec in component.inputs)
    try:
        found = from_module(module, probe, [spec.name for spec in component.inputs])
    except InputError as error:
        raise QuantizationError(f"the network given for '{name}' does not take the bundle's inputs: {error}") from error
    if len(found.outputs) != len(component.outputs):
        have = ", ".join(spec.name for spec in found.outputs)
        raise QuantizationError(
            f"the network given for '{name}' gives {have}: {bundle.name} has "
            f"{', '.join(spec.name for spec in component.outputs)}; is it what was exported?"
        )
    return Source(found.module, component.inputs, component.outputs, (probe,), notes=found.notes)
