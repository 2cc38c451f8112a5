"""Peers that write text greedily: edgekit, transformers, optimum-intel, openvino-genai and llama.cpp.

`served.py` runs this file in each one's own environment: imports are in the methods, and edgekit is one of several.
Every `run` reads a prompt and writes `count` tokens from nothing kept before: "read_s" until the first token is
there, "write_s" for the others.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any


def timed(stamps: list[float], began: float, **more: Any) -> dict[str, Any]:
    """The answer of a run from when it began and when tokens came."""
    return {"read_s": stamps[0] - began, "write_s": stamps[-1] - stamps[0], **more}


class Edgekit:
    """`TextGenerator.stream`, as an app calls it, from the text of the prompt; `batch` for several."""

    packages: tuple[str, ...] = ("edgekit", "openvino", "onnxruntime", "ai-edge-litert")

    def __init__(self, folder: str, precision: str, threads: int, runtime: str = "auto", bf16: bool = False) -> None:
        import edgekit
        from edgekit.runtimes.openvino_ import OpenVinoOptions

        options = OpenVinoOptions(inference_precision="bf16") if bf16 else None
        stored = "fp32" if precision == "bf16" else precision.partition(",")[0]
        self.write: Any = edgekit.load(folder, runtime, precision=stored, threads=threads, options=options)

    def run(self, text: str, tokens: list[int], count: int) -> dict[str, Any]:
        pieces, stamps, began = [], [], time.perf_counter()
        for piece in self.write.stream(text, count, temperature=0, stop=()):
            stamps.append(time.perf_counter())
            pieces.append(piece)
        return timed(stamps, began, text="".join(pieces), runtime=self.write.placement().runtime)


class Several(Edgekit):
    """`TextGenerator.batch`: the prompt and variations of it, at once; tokens of all count."""

    def run(self, text: str, tokens: list[int], count: int, texts: int = 8) -> dict[str, Any]:
        prompts, taken = [text[index:] for index in range(texts)], []
        for length in (1, count):
            began = time.perf_counter()
            self.write.batch(prompts, length, temperature=0, stop=())
            taken.append(time.perf_counter() - began)
        return {"read_s": taken[0], "write_s": taken[1] - taken[0], "texts": texts}


class Transformers:
    """`generate` of a model in eager PyTorch."""

    packages: tuple[str, ...] = ("transformers", "torch")

    def __init__(self, folder: str, precision: str, threads: int) -> None:
        import torch
        import transformers

        torch.set_num_threads(threads)
        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
        self.model: Any = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
        self.model.generation_config.eos_token_id = None  # it writes on

    def run(self, text: str, tokens: list[int], count: int) -> dict[str, Any]:
        import torch
        from transformers.generation.streamers import BaseStreamer

        class Clock(BaseStreamer):  # type: ignore[misc]  # transformers has no types
            stamps: list[float] = []  # noqa: RUF012  (one class a run)

            def put(self, value: Any) -> None:
                self.stamps.append(time.perf_counter())

            def end(self) -> None:
                pass

        given = torch.tensor([tokens])
        began = time.perf_counter()
        with torch.inference_mode():
            made = self.model.generate(
                given,
                attention_mask=torch.ones_like(given),
                max_new_tokens=count,
                do_sample=False,
                streamer=Clock(),
            )
        return timed(Clock.stamps[1:], began, tokens=made[0, len(tokens) :].tolist())  # the first is the prompt itself


class Optimum(Transformers):
    """`generate` of optimum-intel's OVModelForCausalLM, on the model that `optimum-cli export openvino` wrote."""

    packages = ("optimum-intel", "openvino", "transformers")

    def __init__(self, folder: str, precision: str, threads: int) -> None:
        from optimum.intel import OVModelForCausalLM

        self.model: Any = OVModelForCausalLM.from_pretrained(folder, ov_config=openvino_settings(precision, threads))
        self.model.generation_config.eos_token_id = None


class GenAi:
    """`LLMPipeline.generate` of openvino-genai, on the same files."""

    packages = ("openvino-genai", "openvino")

    def __init__(self, folder: str, precision: str, threads: int, **settings: Any) -> None:
        import openvino_genai

        self.engine = openvino_genai
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.enable_prefix_caching = False  # or a prompt that it has read is not read again
        more = {**openvino_settings(precision, threads), **settings, "scheduler_config": scheduler}
        self.pipe = openvino_genai.LLMPipeline(folder, "CPU", **more)

    def run(self, text: str, tokens: list[int], count: int) -> dict[str, Any]:
        import numpy as np
        import openvino

        base: Any = self.engine.StreamerBase
        running = self.engine.StreamingStatus.RUNNING
        stamps: list[float] = []

        class Clock(base):  # type: ignore[misc]  # openvino-genai has no types
            def write(self, token: Any) -> Any:
                stamps.extend([time.perf_counter()] * (len(token) if isinstance(token, list) else 1))
                return running

            def end(self) -> None:
                pass

        config = self.engine.GenerationConfig()
        config.max_new_tokens, config.ignore_eos, config.do_sample = count, True, False
        given = openvino.Tensor(np.array([tokens], np.int64))
        began = time.perf_counter()
        made = self.pipe.generate(given, config, Clock())
        return timed(stamps, began, tokens=list(made.tokens[0]))


def openvino_settings(precision: str, threads: int) -> dict[str, Any]:
    """f32 where fp32 is asked for: OpenVINO computes in bf16 of its own accord where a processor has it."""
    own = {"INFERENCE_PRECISION_HINT": "f32"} if precision == "fp32" else {}
    return {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", **own}


class LlamaCpp:
    """`Llama.generate` of llama-cpp-python, on a GGUF file that `gguf_file.py` wrote.

    `repacked` is its own way with small weights on a CPU; it died of an illegal instruction on the machine that the figures
    are of, so that the plain way is measured beside.
    """

    packages = ("llama_cpp_python",)

    def __init__(self, folder: str, precision: str, threads: int, repacked: bool = True) -> None:
        import llama_cpp
        from llama_cpp import Llama

        given = llama_cpp.llama_cpp.llama_model_default_params
        if not repacked:  # no argument of Llama says so

            def plain() -> Any:
                params = given()
                params.use_extra_bufts = False
                return params

            llama_cpp.llama_cpp.llama_model_default_params = plain
        (file,) = Path(folder).glob("*.gguf")
        self.model: Any = Llama(str(file), n_ctx=1024, n_threads=threads, n_threads_batch=threads, verbose=False)

    def run(self, text: str, tokens: list[int], count: int) -> dict[str, Any]:
        self.model.reset()  # or a prompt that it has read is not read again
        self.model._ctx.kv_cache_clear()
        made, stamps, began = [], [], time.perf_counter()
        for token in self.model.generate(tokens, temp=0.0, repeat_penalty=1.0):
            stamps.append(time.perf_counter())
            made.append(int(token))
            if len(made) == count:
                break
        return timed(stamps, began, tokens=made)
