"""Tuning: a trained network of the zoo, fine-tuned in simulated int8 with a checkpoint of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from edgekit.zoo.training import Checkpoint, fingerprint

if TYPE_CHECKING:  # recipes stand on this file
    from edgekit.exporters import Source
    from edgekit.zoo.recipe import Place, Trained


def stage_of(component: str) -> str:
    """What the name of a component's checkpoint ends in."""
    return f"qat-{component}"


def fine_tuned(name: str, trained: Trained, place: Place) -> dict[str, Source]:
    """Each component of a recipe with weights that lose less in int8; an interrupted run continues."""
    return {
        component: _component(f"{name}-{stage_of(component)}", component, trained, place)
        for component in trained.sources
    }


def _component(name: str, component: str, trained: Trained, place: Place) -> Source:
    from edgekit.quantization.correction import SCALING, corrected
    from edgekit.quantization.correction.qat import QatOptions
    from edgekit.quantization.correction.qat import fine_tuned as tuned

    place.progress(f"{component}, fine-tuned for int8")
    inputs, kept, options = trained.calibration[component], trained.kept(component), trained.tuning or QatOptions()
    source = corrected(SCALING, trained.sources[component], inputs, kept, place.progress)  # the same in fp32
    decisive = asdict(options) | {"start": fingerprint(source.module), "kept": list(kept)}

    def checkpoint(parts: Mapping[str, Any]) -> Checkpoint:
        return Checkpoint(place.runs / f"{name}.pt", decisive, parts)

    return tuned(
        source,
        inputs,
        kept,
        place.progress,
        options=options,
        practice=trained.practice.get(component),
        checkpoint=checkpoint,
    )
