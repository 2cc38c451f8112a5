"""Small language models of transformers with random weights, as a user has them, exported and loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import edgekit
from edgekit.bundle import Bundle
from edgekit.exporters import ExportOptions, export
from edgekit.manifest import Task
from edgekit.tasks.write import TextGenerator

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

PROMPT = "the cat sat on the mat and looked at the moon"
TEXTS = [PROMPT, "a quick brown fox jumps over the lazy dog", "once upon a time there was a small model"]
CONTEXT = 64
GPT2 = {"vocab_size": 300, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
LLAMA = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2", GPT2),
    "llama": ("Llama", {**LLAMA, "tie_word_embeddings": True}),
    "qwen2": ("Qwen2", {**LLAMA, "num_hidden_layers": 1}),
    "qwen3": ("Qwen3", {**LLAMA, "head_dim": 16, "num_hidden_layers": 1}),
}
SLIDING = ("Mistral", {**LLAMA, "sliding_window": 6})
WIDTHS = {"gpt2": (1, 16)}  # of .tflite files; one of four tokens is enough for the others, and fills up single ones


def saved(folder: Path, kind: str, config: dict[str, Any]) -> Path:
    """A random-weight model and a small tokenizer as a user has them: written by save_pretrained."""
    torch.manual_seed(0)
    made = getattr(transformers, f"{kind}Config")(
        **config, bos_token_id=0, eos_token_id=0, initializer_range=0.3, pad_token_id=0
    )
    name = "GPT2LMHeadModel" if kind == "GPT2" else f"{kind}ForCausalLM"
    getattr(transformers, name)(made).eval().save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def tokenizer() -> Any:
    """Byte-level BPE of 300 tokens, trained on three sentences."""
    bytes_ = tokenizers.pre_tokenizers.ByteLevel
    engine = tokenizers.Tokenizer(tokenizers.models.BPE())
    engine.pre_tokenizer, engine.decoder = bytes_(add_prefix_space=False), tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<|end|>"], initial_alphabet=bytes_.alphabet(), show_progress=False
    )
    engine.train_from_iterator(TEXTS * 4, trainer)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=engine, bos_token="<|end|>", eos_token="<|end|>")


def exported(folder: Path, out: Path, formats: tuple[str, ...] = ("onnx",), **settings: Any) -> Bundle:
    buckets = [{"tokens": width} for width in WIDTHS.get(folder.name, (4,))]
    task = Task("write", {"context": CONTEXT, **settings})
    return export(str(folder), out, options=ExportOptions(formats=formats, buckets=buckets, task=task))


def loaded(bundle: Bundle, runtime: str = "onnxruntime") -> TextGenerator:
    task = edgekit.load(bundle, runtime, threads=2)
    assert isinstance(task, TextGenerator)
    return task
