"""Peers that draw: edgekit, diffusers, optimum-intel and openvino-genai, each as its own documentation has it.

`served.py` runs this file in each one's own environment. Every `run` draws one image: "image_s" the whole of it, from
the prompt to pixels, "step_s" one more step of the network, from images of two and of `steps` steps.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

SUBJECTS = "red boat", "grey cat", "old oak", "far hill", "wet road", "new moon", "tall mast", "dry leaf"


class Drawing:
    """Times what `draw` gives."""

    packages: tuple[str, ...] = ()

    def draw(self, prompt: str, steps: int, guidance: float) -> Any:
        """One image; no prompt where there is none."""
        raise NotImplementedError

    def run(self, number: int, steps: int, guidance: float) -> dict[str, Any]:
        prompt = f"{SUBJECTS[number % len(SUBJECTS)]} {number} {time.monotonic_ns() % 1000}"  # never one that is kept
        short = _timed(lambda: self.draw(prompt, 2, guidance))
        whole = _timed(lambda: self.draw(f"a {prompt}", steps, guidance))
        return {"image_s": whole, "step_s": (whole - short) / (steps - 2)}


class Edgekit(Drawing):
    packages = ("edgekit", "openvino", "onnxruntime")

    def __init__(self, folder: str, precision: str, threads: int, prompted: bool, runtime: str = "auto") -> None:
        import edgekit
        from edgekit.runtimes.openvino_ import OpenVinoOptions

        options = OpenVinoOptions(inference_precision="bf16") if precision == "bf16" else None
        stored = "fp32" if options else precision
        self.task: Any = edgekit.load(folder, runtime, precision=stored, threads=threads, options=options)
        self.prompted = prompted

    def draw(self, prompt: str, steps: int, guidance: float) -> Any:
        more = {"prompt": prompt, "guidance": guidance} if self.prompted else {}
        return self.task.sample(1, steps=steps, seed=0, **more)


class Diffusers(Drawing):
    """Eager, or with the UNet through torch.compile."""

    packages: tuple[str, ...] = ("diffusers", "torch")

    def __init__(self, folder: str, precision: str, threads: int, prompted: bool, compiled: bool = False) -> None:
        import torch
        from diffusers import DiffusionPipeline

        torch.set_num_threads(threads)
        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
        self.pipe: Any = DiffusionPipeline.from_pretrained(folder, torch_dtype=dtype)
        self.pipe.set_progress_bar_config(disable=True)
        if compiled:
            self.pipe.unet = torch.compile(self.pipe.unet)
        self.prompted = prompted

    def draw(self, prompt: str, steps: int, guidance: float) -> Any:
        import torch

        random = torch.Generator().manual_seed(0)
        given = {"prompt": prompt, "guidance_scale": guidance} if self.prompted else {}
        with torch.inference_mode():
            return self.pipe(num_inference_steps=steps, generator=random, output_type="np", **given).images


class Optimum(Diffusers):
    """OVStableDiffusionPipeline, its sizes fixed before it is compiled, as its documentation advises."""

    packages = ("optimum-intel", "openvino", "diffusers")

    def __init__(self, folder: str, precision: str, threads: int, prompted: bool, side: int = 256) -> None:
        from optimum.intel import OVStableDiffusionPipeline

        settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
        self.pipe: Any = OVStableDiffusionPipeline.from_pretrained(folder, compile=False, ov_config=settings)
        self.pipe.reshape(batch_size=1, height=side, width=side, num_images_per_prompt=1)
        self.pipe.compile()
        self.pipe.set_progress_bar_config(disable=True)
        self.prompted = prompted


class GenAi(Drawing):
    """Text2ImagePipeline of openvino-genai, its sizes fixed too."""

    packages = ("openvino-genai", "openvino")

    def __init__(self, folder: str, precision: str, threads: int, prompted: bool, side: int = 256) -> None:
        import openvino_genai

        self.side = side
        self.pipe: Any = openvino_genai.Text2ImagePipeline(folder)
        self.pipe.reshape(1, side, side, 5.0)
        own = {"INFERENCE_PRECISION_HINT": "f32"} if precision != "bf16" else {}
        self.pipe.compile("CPU", INFERENCE_NUM_THREADS=threads, **own)

    def draw(self, prompt: str, steps: int, guidance: float) -> Any:
        sizes = {"width": self.side, "height": self.side}
        made = self.pipe.generate(prompt, num_inference_steps=steps, guidance_scale=guidance, **sizes)
        return made.data


def _timed(act: Callable[[], Any]) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began
