"""Pretrained: a model of `transformers` and its tokenizer, loaded from safetensors alone, and what is refused."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from edgekit.errors import InputError, NotInstalled
from edgekit.exporters.proof.places import first_line
from edgekit.exporters.quiet import quiet
from edgekit.exporters.readers import hub

GROWING = ("dynamic", "longrope")  # rotary frequencies that change with the length of the text


@dataclass(frozen=True)
class Loaded:
    """A model in fp32, its tokenizer, and what it was asked for by."""

    model: Any
    tokenizer: Any
    name: str


def config_of(place: Path) -> dict[str, Any]:
    """config.json of a folder, {} where there is none.

    Raises:
        InputError: it is no JSON object.
    """
    path = place / "config.json"
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_bytes())
    except ValueError as error:
        raise InputError(f"'{path}' is no JSON: {error}") from error
    return found if isinstance(found, dict) else {}


def given(model: Any, tokenizer: Any) -> Loaded:
    """A model in memory.

    Raises:
        InputError: it is not in float32, or of another kind.
    """
    if model.dtype != torch.float32:
        raise InputError(f"got {type(model).__name__} in {model.dtype}: load it with dtype=torch.float32")
    _require_causal({**model.config.to_dict(), "architectures": [type(model).__name__]}, "the model")
    return Loaded(model, tokenizer, type(model).__name__)


def loaded(reference: str | Path) -> Loaded:
    """Load a model that the configuration says is of a kind that can be exported, from safetensors alone.

    Raises:
        NotInstalled: transformers. InputError: another kind, no safetensors, code of its own, missing weights.
    """
    transformers = _transformers(str(reference))
    described = hub.described(reference)
    assert described is not None
    _require_causal(config_of(described), f"'{reference}'")
    place = hub.folder(reference)
    _require_safetensors(place)
    local = {"local_files_only": True, "trust_remote_code": False}
    try:
        with quiet():
            model, found = transformers.AutoModelForCausalLM.from_pretrained(
                place, use_safetensors=True, dtype=torch.float32, output_loading_info=True, **local
            )
            tokenizer = transformers.AutoTokenizer.from_pretrained(place, use_fast=True, **local)
    except Exception as error:  # OSError, ValueError, KeyError, SafetensorError and more
        raise InputError(f"'{reference}' does not load: {first_line(error, 300)}") from error
    wrong = [*found["missing_keys"], *found["mismatched_keys"]]
    if wrong:
        raise InputError(
            f"the weights in '{place}' are not those of {type(model).__name__}: {len(wrong)} are missing or of another "
            f"size, such as {str(wrong[0])!r}; save the whole model with save_pretrained"
        )
    return Loaded(model, tokenizer, str(reference) if hub.is_name(reference) else Path(reference).resolve().name)


def _transformers(who: str) -> Any:
    """The package, without its warnings of what else could be installed.

    Raises:
        NotInstalled.
    """
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        import transformers

        transformers.AutoModelForCausalLM  # noqa: B018  # imports it now
    except ImportError as error:
        raise NotInstalled.named(f"'{who}'", "transformers", "hf") from error
    finally:
        logging.disable(before)
    return transformers


def _require_causal(config: Mapping[str, Any], name: str) -> None:
    """Refuse what the configuration tells apart.

    Raises:
        InputError.
    """
    kinds = [str(kind) for kind in config.get("architectures") or []]
    what = f"{name} is {', '.join(kinds) or 'of no stated architecture'}"
    if config.get("is_encoder_decoder") or not any(k.endswith(("ForCausalLM", "LMHeadModel")) for k in kinds):
        raise InputError(f"{what}: expected a causal language model, such as GPT2LMHeadModel or LlamaForCausalLM")
    if config.get("auto_map"):
        raise InputError(
            f"{what} with Python code of its own, which is not run: expected an architecture of transformers"
        )
    if config.get("quantization_config"):
        raise InputError(f"{what}, quantized: expected the model in float; quantize the bundle instead")
    experts = [config.get(key) for key in ("num_local_experts", "num_experts", "n_routed_experts")]
    if any(isinstance(count, int) and count > 1 for count in experts):
        raise InputError(f"{what}, a mixture of experts: which of them run depends on the text, which no graph can say")
    if growing := sorted(_rotary_kinds(config).intersection(GROWING)):
        raise InputError(f"{what} with rotary positions of the kind '{growing[0]}', which change with a text's length")


def _rotary_kinds(config: Mapping[str, Any]) -> set[str]:
    """How rotary frequencies are scaled: "default", "linear", "llama3", …; some models have one kind a layer type."""
    scaling = config.get("rope_parameters") or config.get("rope_scaling") or {}
    every = [part for part in (scaling, *scaling.values()) if isinstance(part, Mapping)]
    return {str(part.get("rope_type", part.get("type"))) for part in every}


def _require_safetensors(place: Path) -> None:
    if any(place.glob("*.safetensors")):
        return
    pickled = sorted(path.name for path in place.iterdir() if path.suffix in (".bin", ".pt", ".pth", ".ckpt"))
    if not pickled:
        raise InputError(f"'{place}' holds no weights (*.safetensors): save the whole model with save_pretrained")
    raise InputError(
        f"'{place}' has its weights in '{pickled[0]}', a pickle, which may run code when it is read: where you trust it, "
        "convert it once in Python: model.save_pretrained(folder, safe_serialization=True)"
    )
