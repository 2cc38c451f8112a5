"""Hub: "org/name" on the Hugging Face hub to a local folder, with files that cannot run code alone."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgekit.errors import InputError, NotInstalled
from edgekit.exporters.proof.places import first_line

NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
MODEL_SUFFIXES = frozenset(
    {".bin", ".ckpt", ".gguf", ".json", ".onnx", ".pb", ".pt", ".pt2", ".pth", ".py", ".safetensors", ".tflite"}
    | {".torchscript", ".xml", ".zip"}
)
DESCRIPTIONS = ("config.json", "model_index.json")
PLAIN = ("*.json", "*.jinja", "*.model", "*.txt")  # settings and tokenizers; never .bin, .pt, .pkl or .py
WEIGHTS = ("*.safetensors",)
NEVER = ("onnx/*", "openvino/*", "original/*", "*.fp16.safetensors", "*.fp16-*", "*.non_ema.*", "consolidated*")


def is_name(reference: Any) -> bool:
    """Whether this is "org/name" and not a path: one slash, no ':', no suffix of a model file, nothing on disk."""
    return (
        isinstance(reference, str)
        and NAME.fullmatch(reference) is not None
        and Path(reference).suffix.lower() not in MODEL_SUFFIXES
        and not Path(reference).exists()
    )


def described(reference: Any) -> Path | None:
    """The folder whose config.json or model_index.json says what model this is; None where it is no model folder.

    A local folder is taken as it is. For a hub name these two files alone are fetched, once: the hub's own
    cache keeps them. Nothing else touches the network.

    Raises:
        NotInstalled, InputError: as `folder`, for a hub name.
    """
    if is_name(reference):
        place = _fetched(reference, DESCRIPTIONS)
    elif isinstance(reference, (str, Path)) and Path(reference).is_dir():
        place = Path(reference)
    else:
        return None
    return place if any((place / name).is_file() for name in DESCRIPTIONS) else None


def folder(reference: str | Path, weights: Sequence[str] = WEIGHTS) -> Path:
    """The local folder of a model: the reference itself where it is one, else a snapshot of the hub.

    Args:
        reference: a folder, or a hub name.
        weights: patterns of the weights to fetch; ("*/*.safetensors",) leaves out single-file checkpoints that
            lie beside the folders of a pipeline.

    Raises:
        NotInstalled: a hub name without the package huggingface_hub.
        InputError: the hub cannot be reached, has no such model, or wants its terms accepted first.
    """
    return _fetched(reference, (*PLAIN, *weights)) if is_name(reference) else Path(reference)


def _fetched(name: str | Path, patterns: Sequence[str]) -> Path:
    try:
        import huggingface_hub
        from huggingface_hub import errors
    except ImportError as error:
        raise NotInstalled.named(f"'{name}' of the Hugging Face hub", "huggingface_hub", "hf") from error
    try:
        return Path(
            huggingface_hub.snapshot_download(str(name), allow_patterns=list(patterns), ignore_patterns=list(NEVER))
        )
    except errors.GatedRepoError as error:
        raise InputError(
            f"'{name}' on the Hugging Face hub wants its terms accepted: do so on its page, log in with `hf auth "
            "login`, and export again"
        ) from error
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
        raise InputError(
            f"no folder '{name}' here, and the Hugging Face hub has no public model of this name: check its spelling, "
            "or log in with `hf auth login` if it is private"
        ) from error
    except OSError as error:  # no network, a broken download, a full disk
        raise InputError(
            f"no folder '{name}' here, and the Hugging Face hub cannot be asked for it ({_cause(error)}): connect to "
            f"the network, or fetch it elsewhere with `hf download {name}` and pass its folder"
        ) from error


def _cause(error: BaseException) -> str:
    """What the network said, in one line."""
    return first_line(error, 205).removeprefix("Got: ")[:200]
