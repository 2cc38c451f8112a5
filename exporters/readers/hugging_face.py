"""Hugging Face causal language models: a folder that `save_pretrained` wrote, or a name on the hub."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from edgekit.errors import InputError
from edgekit.exporters.readers import hub
from edgekit.exporters.readers.pretrained import Loaded, config_of, given, loaded
from edgekit.exporters.readers.reading import Asked, Prepared, Reader
from edgekit.exporters.sources import Source
from edgekit.manifest import Task
from edgekit.tensors import Array
from edgekit.text import NOWHERE, SLOTS, TEXTS, TOKENS

if TYPE_CHECKING:
    from edgekit.exporters.readers.causal import CausalStep

CONTEXT = 1024  # tokens that a model sees, where nobody asks for another number and it was made for as many
WIDTHS = (1, 16)  # tokens that files of fixed sizes read at once
PROBED = 48  # slots of the ring that a graph is tried with
SETTINGS = ("context", "temperature", "start", "stop", "ends")  # that a person may state
TOKENIZER = "tokenizer.json"
TEMPLATE = "chat_template.jinja"


class CausalReader(Reader):
    """GPT-2, Llama, Qwen and other causal language models of `transformers`, with their tokenizers."""

    expects = "a folder or hub name of a Hugging Face language model, or (model, tokenizer)"

    def reads(self, reference: Any) -> bool:
        if isinstance(reference, tuple) and len(reference) == 2:
            return any(kind.__name__ == "PreTrainedModel" for kind in type(reference[0]).__mro__)
        place = hub.described(reference)
        return place is not None and not (place / "model_index.json").exists() and "model_type" in config_of(place)

    def read(self, reference: Any, asked: Asked) -> Prepared:
        _check(asked)
        found = given(*reference) if isinstance(reference, tuple) else loaded(reference)
        return prepared(found, asked.settings)


def prepared(found: Loaded, settings: Mapping[str, Any]) -> Prepared:
    """A step graph with its probes and what the task needs to know.

    Raises:
        InputError: the model does not work as a step graph, or the settings do not suit it.
    """
    model, tokenizer = found.model.eval(), found.tokenizer
    limit = _limit(model)
    context = _context(model, settings, limit)
    step, probes, scale = _stepped(model, context)
    inputs, outputs = step.specs()
    parameters = sum(p.numel() for p in model.parameters())
    stated = {name: settings[name] for name in SETTINGS if name in settings}
    task = {**_task(model, tokenizer), **stated, "states": _plain(step.states()), "context": context}
    return Prepared(
        {"model": Source(step, inputs, outputs, probes, empty={SLOTS: NOWHERE})},
        Task("write", {"vocabulary": [], "tokenizer": TOKENIZER, **task, "positions": limit}),
        _files(tokenizer),
        buckets=[{TEXTS: 1, TOKENS: width, SLOTS: context} for width in WIDTHS if width <= context],
        tolerance=1e-4 * scale,
        summary=f"{type(model).__name__}, {parameters:,} parameters, {context:,} tokens of context",
        provenance={"source": found.name, "architecture": type(model).__name__, "parameters": parameters},
    )


def _stepped(model: Any, context: int) -> tuple[CausalStep, tuple[tuple[Array, ...], ...], float]:
    """The step graph, its probes, and the largest value it gives; read with a ring, it gives what the model gives.

    Raises:
        InputError: it does not.
    """
    from edgekit.exporters.readers.causal import CausalStep

    try:
        step = CausalStep(model, context)
        probes = _probes(step)
        apart, scale = _departure(step, probes)
    except InputError:
        raise
    except Exception as error:  # whatever a network does that the ring does not offer
        raise InputError(_unsuited(model, str(error))) from error
    if not apart <= 1e-3 * scale:
        raise InputError(_unsuited(model, f"its logits differ by {apart:.2g} when read with a ring"))
    return step, probes, scale


def _check(asked: Asked) -> None:
    """Refuse what only other models can use.

    Raises:
        InputError.
    """
    if asked.task not in (None, "write"):
        raise InputError(f"got the task '{asked.task}' for a causal language model: expected 'write', or none")
    if strange := sorted(set(asked.settings) - set(SETTINGS)):
        raise InputError(f"got the settings {', '.join(strange)}: a language model takes {', '.join(SETTINGS)}")


def _limit(model: Any) -> int:
    """How many positions the network knows: those of its table, 0 where positions are rotary and go on."""
    config = model.config.get_text_config(decoder=True)
    rotary = getattr(config, "rope_parameters", None) or getattr(config, "rope_theta", None)
    return 0 if rotary else int(getattr(config, "max_position_embeddings", 0) or 0)


def _context(model: Any, settings: Mapping[str, Any], limit: int) -> int:
    config = model.config.get_text_config(decoder=True)
    most = int(getattr(config, "max_position_embeddings", 0) or 65536)
    asked = settings.get("context", min(most, CONTEXT))
    if isinstance(asked, bool) or not isinstance(asked, int) or not 2 <= asked <= min(most, 65536):
        raise InputError(
            f"got context={asked!r}: expected 2 to {min(most, 65536)}, what {type(model).__name__} was made for"
        )
    return asked


@torch.inference_mode()
def _probes(step: CausalStep) -> tuple[tuple[Array, ...], ...]:
    """Three runs on two texts that follow one another: some tokens on an empty ring, some more, and one alone; the
    second first, as a graph is traced with it.
    """
    places = min(step.context, PROBED)
    tokens = torch.from_numpy(np.random.default_rng(0).integers(step.vocabulary, size=(2, places), dtype=np.int32))
    past = [torch.zeros(2, heads, places, size) for heads, size in step.shapes]
    slots = torch.full((2, places), NOWHERE, dtype=torch.int32)
    seen, at = [], 0
    for count in _counts(places):
        positions = torch.arange(at, at + count, dtype=torch.int32).repeat(2, 1)
        inputs = (tokens[:, at : at + count], positions, slots, *past)
        seen.append(tuple(t.numpy().copy() for t in inputs))
        for ring, column in zip(past, step(*inputs)[1:], strict=True):
            ring[:, :, at : at + count] = column
        slots[:, at : at + count] = positions
        at += count
    return seen[1], seen[0], seen[2]


def _counts(context: int) -> tuple[int, int, int]:
    """How many tokens each probe reads: 5, 16 and 1, or less where the ring has fewer slots."""
    first = max(1, min(5, context // 4))
    return first, max(1, min(16, context - first - 1)), 1


@torch.inference_mode()
def _departure(step: CausalStep, probes: Sequence[tuple[Array, ...]]) -> tuple[float, float]:
    """How far the last probe's logits are from the model's own, without cache; and the largest value of all."""
    order = sorted(probes, key=lambda probe: int(probe[1][0, 0]))
    tokens = torch.from_numpy(np.concatenate([probe[0] for probe in order], axis=1)).long()
    before = step.model.config._attn_implementation
    step.model.config._attn_implementation = "eager"
    try:
        wanted = step.model(input_ids=tokens, use_cache=False).logits[:, -1]
    finally:
        step.model.config._attn_implementation = before
    results = step(*map(torch.from_numpy, order[-1]))
    scale = max(1.0, *(float(result.abs().max()) for result in results))
    return float((results[0] - wanted).abs().max()), scale


def _task(model: Any, tokenizer: Any) -> dict[str, Any]:
    """What text begins and ends with, and how it is drawn, as the model says."""
    generation = model.generation_config
    ends = generation.eos_token_id if generation.eos_token_id is not None else tokenizer.eos_token_id
    ends = ends if isinstance(ends, (list, tuple)) else [] if ends is None else [ends]
    found: dict[str, Any] = {"start": tokenizer.bos_token or tokenizer.eos_token or "", "ends": [int(e) for e in ends]}
    if generation.temperature is not None and generation.do_sample:
        found["temperature"] = float(generation.temperature)
    return found


def _files(tokenizer: Any) -> dict[str, bytes]:
    """The tokenizer, and the chat template as it is: it is a program, which nothing here runs.

    Raises:
        InputError: the tokenizer has no fast form.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise InputError(
            f"{type(tokenizer).__name__} has no fast form (tokenizer.json), which a device reads: expected one that "
            "AutoTokenizer loads with use_fast=True"
        )
    files = {TOKENIZER: backend.to_str().encode()}
    if isinstance(tokenizer.chat_template, str):
        files[TEMPLATE] = tokenizer.chat_template.encode()
    return files


def _plain(states: Sequence[Any]) -> list[dict[str, Any]]:
    return [{name: getattr(state, name) for name in state.__struct_fields__} for state in states]


def _unsuited(model: Any, why: str) -> str:
    return (
        f"{type(model).__name__} does not work with a cache that goes in and out ({why[:300]}): expected a model whose "
        "layers attend through transformers' own cache and attention interface, such as GPT-2, Llama, Qwen2 or Qwen3"
    )
