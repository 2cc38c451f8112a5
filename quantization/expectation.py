"""What this processor makes of a small precision: said before the work, and what to do where it turned out slower."""

from __future__ import annotations

from edgekit import machine

COMPUTED = ("int8", "int8-dynamic")  # the precisions whose products are of int8


def expectation(precision: str) -> tuple[str, ...]:
    """What to expect here of files of a precision, in sentences; none where there is nothing to say beforehand.

    Without VNNI an x86-64 processor adds two products of int8 in 16 bits, which overflow: by that ONNX Runtime and
    OpenVINO lost up to 15 dB, LiteRT nothing. Computed exactly, int8 was faster than fp32 on an AMD EPYC (Zen 3) for
    steps of text in LiteRT (1.0 to 1.35 times) and two networks of sixteen in ONNX Runtime (1.1), and else 0.4 to 1.0
    times as fast.
    """
    if precision == "fp16":
        return ("processors compute fp16 files in fp32: they are smaller, not faster; a GPU or an NPU may be both",)
    if precision not in COMPUTED or machine.int8_units():
        return ()
    if machine.int8_overflows():
        return (
            f"{machine.processor()} has no VNNI: int8 files are for size here, seldom faster than fp32 (2 to 4 times with VNNI)",
            "without VNNI int8 products overflow in OpenVINO, which therefore runs int8 files in float here, and in "
            "ONNX Runtime, which has a slower mode that is exact; LiteRT is exact as it is",
        )
    return (f"{machine.processor()} has no int8 dot products: int8 gains little here, and may lose",)


def advice(precision: str) -> tuple[str, ...]:
    """What to do about files that are slower than fp32 here, most fitting first."""
    if precision == "int8-dynamic":
        return ("dynamic int8 rounds activations anew in every run: static int8 (--scheme int8) does it beforehand",)
    if precision in ("int8-weights", "int4-weights"):
        return ("weight-only files are unpacked in every run: they pay where memory is short, not time",)
    if precision == "fp16":
        return ("fp16 is for size here: no engine on this processor computes in it",)
    if not machine.int8_units():
        return ("this processor has no int8 units: the same file may gain on one that has (--keep-slower keeps it)",)
    return (
        "small networks and single steps cost the engine more to convert than int8 saves: leave that format out "
        "(--format names those to write), or keep the layers between small ones in float (--keep-float)",
    )
