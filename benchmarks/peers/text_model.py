"""A language model of GPT-2 small's shape with random weights, and what each peer reads of it, made once."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

LETTERS = "etaoinshrdlucmfwypvbgkjqxz"
TOKENS = 50257
ARGUMENTS: dict[str, Callable[[Path, Path], list[str]]] = {  # of the interpreter, by what is made
    "edgekit": lambda model, out: [
        *("-m", "edgekit.cli", "export", str(model), "-o", str(out)),
        *("--format", "onnx", "--format", "openvino"),
    ],
    "openvino-fp32": lambda model, out: _optimum(model, out, "fp32"),
    "openvino-int8": lambda model, out: _optimum(model, out, "int8"),
    "openvino-int4": lambda model, out: _optimum(model, out, "int4"),
    "gguf-fp32": lambda model, out: _gguf(model, out, "F32"),
    "gguf-int8": lambda model, out: _gguf(model, out, "Q8_0"),
    "gguf-int4": lambda model, out: _gguf(model, out, "Q4_0"),
}
QUANTIZED = ("int8-dynamic", "int4-weights")  # of edgekit


def made(work: Path) -> Path:
    """The folder that `save_pretrained` writes; 124 million parameters, 12 layers of 768 in 12 heads."""
    folder = work / "gpt2-small"
    if not folder.exists():
        import torch
        import transformers

        torch.manual_seed(0)
        config = transformers.GPT2Config(bos_token_id=0, eos_token_id=0, pad_token_id=0)
        transformers.GPT2LMHeadModel(config).eval().save_pretrained(folder.with_suffix(".new"))
        tokenizer().save_pretrained(folder.with_suffix(".new"))
        folder.with_suffix(".new").rename(folder)
    return folder


def tokenizer() -> Any:
    """Byte-level BPE of as many tokens as GPT-2 has: all pairs of letters, and of those pairs as many as it takes."""
    import tokenizers
    import transformers

    bytes_ = tokenizers.pre_tokenizers.ByteLevel
    vocabulary = {token: index for index, token in enumerate(["<|end|>", *sorted(bytes_.alphabet())])}
    merges: list[tuple[str, str]] = []
    pairs = [(a, b) for a, b in product("Ġ" + LETTERS, LETTERS)]
    words = [a + b for a, b in pairs]
    for first, second in [*pairs, *product(words, [w for w in words if not w.startswith("Ġ")])]:
        if len(vocabulary) < TOKENS and first + second not in vocabulary:
            vocabulary[first + second] = len(vocabulary)
            merges.append((first, second))
    engine = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=merges))
    engine.pre_tokenizer, engine.decoder = bytes_(add_prefix_space=False), tokenizers.decoders.ByteLevel()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=engine, bos_token="<|end|>", eos_token="<|end|>")


def converted(kind: str, model: Path, work: Path, python: Path, say: Callable[[str], None]) -> Path:
    """What a peer reads: a bundle, or a folder with the files of another.

    Raises:
        subprocess.CalledProcessError: its own converter failed.
    """
    out = work / kind
    if not out.exists():
        say(f"making {kind}")
        staged = work / f"{kind}.new"
        subprocess.run([str(python), *ARGUMENTS[kind](model, staged)], check=True, stdout=sys.stderr)
        if kind == "edgekit":
            for scheme in QUANTIZED:
                small = [
                    "--scheme",
                    scheme,
                    "--source",
                    str(model),
                    "--correct",
                    "none",
                    "--no-timing",
                    "--keep-slower",
                ]
                command = [str(python), "-m", "edgekit.cli", "quantize", str(staged), *small]
                subprocess.run(command, check=True, stdout=sys.stderr)
        staged.rename(out)
    return out


def _optimum(model: Path, out: Path, weights: str) -> list[str]:
    task = ["--task", "text-generation-with-past", "--weight-format", weights]
    return ["-m", "optimum.commands.optimum_cli", "export", "openvino", "-m", str(model), *task, str(out)]


def _gguf(model: Path, out: Path, kind: str) -> list[str]:
    out.mkdir(exist_ok=True)
    script = Path(__file__).with_name("gguf_file.py")
    return [str(script), str(model), str(out / f"model-{kind}.gguf"), kind]
