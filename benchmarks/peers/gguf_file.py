"""Writes a GPT-2 of transformers as a GGUF file, for llama.cpp; `python gguf_file.py FOLDER OUT F32|Q8_0|Q4_0`.

Run by its path in the environment of llama-cpp-python, which brings no converter of its own. Names of tensors and of
metadata are those of the GGUF specification and of llama.cpp's `gpt2` architecture.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

NAMES = {  # of a block, in transformers → in GGUF; the weights of Conv1D lie in × out
    "ln_1": "attn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}
OUTER = {"wte": "token_embd", "wpe": "position_embd", "ln_f": "output_norm"}


def main(folder: Path, out: Path, kind: str) -> None:
    import gguf
    from safetensors.numpy import load_file

    config = json.loads((folder / "config.json").read_text())
    writer = gguf.GGUFWriter(str(out), "gpt2")
    writer.add_name(folder.name)
    writer.add_context_length(config["n_positions"])
    writer.add_embedding_length(config["n_embd"])
    writer.add_block_count(config["n_layer"])
    writer.add_feed_forward_length(4 * config["n_embd"])
    writer.add_head_count(config["n_head"])
    writer.add_layer_norm_eps(config["layer_norm_epsilon"])
    _add_tokenizer(writer, json.loads((folder / "tokenizer.json").read_text())["model"], config)
    wanted = gguf.GGMLQuantizationType[kind]
    for name, array in load_file(str(folder / "model.safetensors")).items():
        named, transposed = renamed(name)
        array = array.T.copy() if transposed else array
        small = array.ndim == 2 and "position" not in named and wanted != gguf.GGMLQuantizationType.F32
        written = gguf.quants.quantize(array, wanted) if small else array
        writer.add_tensor(named, written, raw_dtype=wanted if small else None)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def renamed(name: str) -> tuple[str, bool]:
    """A tensor's name in GGUF, and whether it is transposed."""
    name = name.removeprefix("transformer.")
    if match := re.fullmatch(r"h\.(\d+)\.(.+)\.(weight|bias)", name):
        layer, part, kind = match.groups()
        return f"blk.{layer}.{NAMES[part]}.{kind}", kind == "weight" and part in NAMES and "ln" not in part
    part, _, kind = name.rpartition(".")
    return f"{OUTER[part]}.{kind}", False


def _add_tokenizer(writer: Any, model: dict[str, Any], config: dict[str, Any]) -> None:
    """Byte-level BPE, as GPT-2 has it."""
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if index == config["eos_token_id"] else 1 for index in range(len(tokens))])
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]])
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
