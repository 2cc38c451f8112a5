"""Which measured row is taken: the fastest within limits, the smallest of equals; what lies on the front."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest

from edgekit.errors import InputError
from edgekit.manifest import Quality, higher_is_better
from edgekit.selection import MB, Limits, Row, figure, front, select

FP32, INT8 = Quality("psnr_y_db", 37.30, 0.0, "d"), Quality("psnr_y_db", 37.26, 0.04, "d")


def row(runtime: str, ms: float | None, precision: str = "int8", **more: Any) -> Row:
    stated = {
        "peak_mb": 100.0,
        "bytes": 50_000,
        "quality": FP32 if precision == "fp32" else INT8,
        "noise": 0.02,
        **more,
    }
    return Row(runtime, stated.pop("device", "cpu"), precision, stated.pop("threads", None), ms, **stated)


def taken(rows: list[Row], **limits: float) -> Row:
    selected = select(rows, Limits(**limits))
    assert selected is not None and selected.met
    return selected.row


ROWS = [
    row("openvino", 10.0, peak_mb=180.0),
    row("onnxruntime", 15.0),
    row("litert", 20.0, peak_mb=60.0, bytes=90_000),
    row("openvino", 30.0, "fp32", peak_mb=190.0, bytes=4 * MB),
]


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({}, 0),
        ({"max_latency_ms": 12.0}, 0),
        ({"max_memory_mb": 120.0}, 1),
        ({"max_memory_mb": 80.0}, 2),
        ({"min_quality": 37.28}, 3),
        ({"max_file_mb": 1.0, "max_memory_mb": 60.0}, 2),
    ],
)
def test_the_fastest_within_the_limits_is_taken(limits: dict[str, float], expected: int) -> None:
    assert taken(ROWS, **limits) is ROWS[expected]


def test_the_closest_is_told_where_none_is_within() -> None:
    selected = select(ROWS, Limits(max_latency_ms=5.0, max_memory_mb=150.0))
    assert selected is not None and not selected.met and selected.row is ROWS[0]
    assert selected.why == (
        "nothing measured keeps within the limits, openvino int8 comes closest: 10 ms, 5 asked for; 180 MB of memory, "
        "150 asked for"
    )


def test_lower_is_better_where_the_drops_say_so() -> None:
    nats = [Quality("of mine", 1.20, 0.0, "d"), Quality("of mine", 1.25, 0.05, "d")]
    rows = [row("litert", 1.0, quality=nats[1]), row("litert", 3.0, "fp32", quality=nats[0])]
    assert taken(rows, min_quality=1.22) is rows[1] and taken(rows, min_quality=1.3) is rows[0]
    assert not higher_is_better(nats) and higher_is_better([FP32, INT8])
    better = Quality("top1_percent", 99.72, -0.01, "d")
    assert higher_is_better([Quality("top1_percent", 99.71, 0.0, "d"), better])
    assert not higher_is_better([Quality("nats_per_char", 1.2, 0.0, "d")]) and higher_is_better([FP32])


def test_a_row_without_a_quality_keeps_no_limit_of_it() -> None:
    rows = [row("litert", 1.0, quality=None), row("openvino", 2.0)]
    assert taken(rows, min_quality=37.0) is rows[1]
    selected = select(rows[:1], Limits(min_quality=37.0))
    assert selected is not None and "no quality is recorded" in selected.why


def test_of_two_as_fast_the_one_of_less_memory_is_taken_and_it_says_so() -> None:
    rows = [row("openvino", 10.0, peak_mb=180.0), row("litert", 10.15, peak_mb=60.0)]
    selected = select(rows)
    assert selected is not None and selected.row is rows[1]
    assert selected.why == "as fast as openvino int8 (10.2 and 10 ms), with 60 MB of memory for 180"


def test_of_two_as_fast_and_large_the_smaller_file_then_the_fewer_threads() -> None:
    small = [row("openvino", 10.0), row("openvino", 10.1, "fp32", bytes=20_000)]
    assert taken(small) is small[1]
    few = [row("openvino", 10.0, threads=2), row("openvino", 10.1, threads=1), row("openvino", 10.0)]
    assert taken(few) is few[1]


def test_what_noise_alone_does_not_excuse_is_no_tie() -> None:
    rows = [row("openvino", 10.0, peak_mb=180.0), row("litert", 10.5, peak_mb=60.0, noise=0.5)]
    assert taken(rows) is rows[0]
    apart = [rows[0], row("litert", 10.25, peak_mb=60.0, noise=0.02)]
    assert taken(apart) is apart[0]


def test_rows_that_failed_are_never_taken() -> None:
    failed = row("openvino", 1.0, error="died")
    assert taken([failed, ROWS[1]]) is ROWS[1]
    assert select([failed, row("litert", None)]) is None and front([failed]) == []


def test_the_front_is_what_no_other_beats() -> None:
    slow_twin = row("openvino", 14.0, peak_mb=181.0, threads=1)
    within_noise = row("openvino", 10.1, peak_mb=179.0, threads=2)
    found = front([*ROWS, slow_twin, within_noise])
    assert [r for r in found if r.runtime == "openvino" and r.precision == "int8"] == [ROWS[0], within_noise]
    assert slow_twin not in found and ROWS[1] in found and ROWS[2] in found and ROWS[3] in found


@pytest.mark.parametrize("stated", [{"max_latency_ms": 0.0}, {"max_memory_mb": -1.0}, {"min_quality": math.nan}])
def test_limits_that_nothing_can_keep_are_refused(stated: dict[str, float]) -> None:
    with pytest.raises(InputError, match=f"got {next(iter(stated))}="):
        Limits(**stated).check()
    Limits(min_quality=-3.0).check()


def test_names_and_figures() -> None:
    assert str(row("openvino", 1.0, threads=2, device="gpu")) == "openvino int8 on gpu, 2 threads"
    assert [figure(ms) for ms in (0.1534, 1.534, 15.34, 153.4)] == ["0.153", "1.53", "15.3", "153"]
    assert msgspec.json.decode(msgspec.json.encode(ROWS[0]), type=Row) == ROWS[0]
