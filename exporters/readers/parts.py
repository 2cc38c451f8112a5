"""Parts: a diffusers pipeline taken apart, and put together again as sources and settings of a bundle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgekit.errors import InputError
from edgekit.exporters.readers.part_sources import Sides, network_source, preview, text_source, vae_sources
from edgekit.exporters.readers.reading import Asked, Prepared
from edgekit.exporters.readers.schedules import schedule_of
from edgekit.exporters.sources import Source
from edgekit.manifest import Task

TOLERANCE = 1e-3  # of networks whose hidden values reach tens; in a picture 1e-3 is an eighth of a level of 255
SETTINGS = ("height", "width", "steps", "guidance")


@dataclass(frozen=True)
class Parts:
    """A pipeline's parts; `encoders` are (name, module, tokenizer), `left_out` the names of what is not exported."""

    pipeline: Any
    network: Any
    encoders: tuple[tuple[str, Any, Any], ...]
    vae: Any
    steps: int
    guidance: float
    left_out: tuple[str, ...]


def prepared(parts: Parts, asked: Asked) -> Prepared:
    """Sources and settings of a pipeline's parts.

    Raises:
        InputError: a part that is not followed, or a setting that a pipeline does not take.
    """
    unknown = set(asked.settings) - set(SETTINGS)
    if unknown:
        raise InputError(f"got the settings {', '.join(sorted(unknown))}: a pipeline takes {', '.join(SETTINGS)}")
    sides = Sides.asked(parts.network, parts.vae, asked)
    if parts.vae is None and (sides.free or {"height", "width"} & set(asked.settings)):
        raise InputError("got sides for a network that draws pixels itself: it is exported with its own")
    settings: dict[str, Any] = {
        "schedule": schedule_of(parts.pipeline.scheduler),
        "steps": asked.settings.get("steps", parts.steps),
        "guidance": asked.settings.get("guidance", parts.guidance),
    }
    several = len(parts.encoders) > 1
    texts = {name: text_source(encoder, tokenizer, several) for name, encoder, tokenizer in parts.encoders}
    network = network_source(parts.network, sides, list(texts.values()))
    sources = {"model": network, **texts}
    if texts:
        settings["prompt"] = _prompt(parts, network, texts)
    if any(spec.name == "label" for spec in network.inputs):
        settings["labels"] = _labels(parts, network)
    if parts.vae is not None:
        halves = vae_sources(parts.vae, sides)
        colours = preview(halves["vae_encoder"].module, sides.factor)
        size = {"factor": sides.factor, "height": sides.height, "width": sides.width}
        settings["latent"] = {**size, "preview": colours}
        sources |= halves
    return Prepared(
        sources,
        Task("diffuse", settings),
        files={_file(name): tokenizer.backend_tokenizer.to_str().encode() for name, _, tokenizer in parts.encoders},
        buckets=[sides.bucket] if sides.free else (),
        tolerance=TOLERANCE,
        summary=_summary(parts),
        provenance={"source": type(parts.pipeline).__name__, "scheduler": type(parts.pipeline.scheduler).__name__},
    )


def _prompt(parts: Parts, network: Source, texts: Mapping[str, Source]) -> dict[str, Any]:
    """The settings of `edgekit.tasks.conditions.PromptSettings`."""
    taken = {spec.name for spec in network.inputs}
    encoders = [
        {
            "component": name,
            "tokenizer": _file(name),
            "length": texts[name].inputs[0].shape[1],
            "pad": int(tokenizer.pad_token_id),
        }
        for name, _, tokenizer in parts.encoders
    ]
    zeros = len(encoders) > 1 and bool(parts.pipeline.config.get("force_zeros_for_empty_prompt", False))
    return {"encoders": encoders, "lower": "mask" in taken, "masked": "mask" in taken, "zeros": zeros}


def _labels(parts: Parts, network: Source) -> list[str]:
    """A name of every class, or its number; a name that several classes have carries its number."""
    count = next(spec for spec in network.inputs if spec.name == "label").shape[1]
    assert isinstance(count, int)
    names = [str(index) for index in range(count)]
    known: Mapping[str, int] = getattr(parts.pipeline, "labels", None) or {}
    for label, index in known.items():
        if 0 <= int(index) < count and names[int(index)] == str(index):
            names[int(index)] = label
    repeated = {name for name in names if names.count(name) > 1}
    return [f"{name} {index}" if name in repeated else name for index, name in enumerate(names)]


def _file(encoder: str) -> str:
    return f"{encoder.replace('text_encoder', 'tokenizer')}.json"


def _summary(parts: Parts) -> str:
    modules = [parts.network, *(encoder for _, encoder, _ in parts.encoders), *([parts.vae] if parts.vae else [])]
    count = sum(p.numel() for module in modules for p in module.parameters())
    left = f"; not exported: {', '.join(parts.left_out)}" if parts.left_out else ""
    return f"{type(parts.pipeline).__name__} of diffusers, {count:,} parameters{left}"
