"""TensorSpec: binding, layouts, and the check of a caller's arrays."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

from edgekit.errors import TensorError
from edgekit.tensors import TensorSpec, axes

IMAGE = TensorSpec("image", "float32", (1, 3, "height", "width"), "NCHW", (0.0, 1.0))


def zeros(*shape: int, dtype: str = "float32") -> np.ndarray:
    return np.zeros(shape, dtype)


def test_check_returns_the_same_array_and_collects_sizes() -> None:
    sizes: dict[str, int] = {}
    array = zeros(1, 3, 4, 5)
    assert IMAGE.check(array, sizes) is array
    assert sizes == {"height": 4, "width": 5}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([[1.0]], ["image", "list", "NumPy array", "float32"]),
        (None, ["image", "NoneType"]),
        (np.float32(1), ["image", "float32", "NumPy array"]),
        (zeros(1, 3, 4, 5, dtype="float64"), ["image", "float64", "float32", ".astype"]),
        (zeros(1, 3, 4, 5, dtype=">f4"), ["image", ">f4", "float32"]),
        (zeros(1, 3, 4, 5).astype(object), ["image", "object", "float32"]),
        (zeros(3, 4, 5), ["image", "(3, 4, 5)", "1 × 3 × height × width", "NCHW"]),
        (zeros(1, 1, 3, 4, 5), ["image", "(1, 1, 3, 4, 5)"]),
        (zeros(1, 4, 4, 5), ["image", "(1, 4, 4, 5)"]),
        (zeros(2, 3, 4, 5), ["image", "(2, 3, 4, 5)"]),
        (zeros(1, 3, 0, 5), ["image", "(1, 3, 0, 5)"]),
        (zeros(), ["image", "()"]),
    ],
)
def test_check_refuses_and_says_what_was_given_and_expected(given: Any, words: list[str]) -> None:
    with pytest.raises(TensorError) as refused:
        IMAGE.check(given, {})
    assert all(word in str(refused.value) for word in words)


def test_named_dimensions_must_agree_within_a_tensor_and_across_tensors() -> None:
    square = TensorSpec("square", "float32", ("n", "n"))
    assert square.check(zeros(3, 3), {}).shape == (3, 3)
    with pytest.raises(TensorError, match=r"\(3, 4\)"):
        square.check(zeros(3, 4), {})
    with pytest.raises(TensorError, match=r"\(3, 3\).*n × n.*'n': 2"):
        square.check(zeros(3, 3), {"n": 2})


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_nan_is_refused_with_its_place(dtype: str) -> None:
    array = zeros(2, 3, 4, dtype=dtype)
    array[1, 2, 0] = array[1, 2, 3] = np.nan
    with pytest.raises(TensorError, match=r"2 of 24 values are NaN, the first at \(1, 2, 0\)"):
        TensorSpec("x", dtype, (2, 3, 4)).check(array, {})


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("values", ["one infinity", "both infinities", "a sum that overflows"])
def test_what_is_not_nan_is_taken_without_a_warning(dtype: str, values: str) -> None:
    array = zeros(4096, dtype=dtype)
    if values == "one infinity":
        array[3] = np.inf
    elif values == "both infinities":
        array[3], array[4] = np.inf, -np.inf
    else:
        array[:] = np.finfo(dtype).max
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert TensorSpec("x", dtype, (4096,)).check(array, {}) is array


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int32", "int64", "bool"])
def test_integers_are_taken_whole(dtype: str) -> None:
    array = zeros(2, 2, dtype=dtype)
    assert TensorSpec("x", dtype, (2, 2)).check(array, {}) is array


def test_non_contiguous_arrays_come_back_contiguous_and_equal() -> None:
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4).transpose(2, 0, 1)
    checked = TensorSpec("x", "float32", (4, 2, 3)).check(array, {})
    assert checked.flags.c_contiguous
    np.testing.assert_array_equal(checked, array)


def test_read_only_arrays_are_taken_untouched() -> None:
    array = np.arange(4, dtype=np.float32)
    array.flags.writeable = False
    checked = TensorSpec("x", "float32", (4,)).check(array, {})
    assert checked is array
    assert not checked.flags.writeable


@pytest.mark.parametrize(
    ("dimension", "size"),
    [
        ("2*height", 14),
        ("height/2", 3),
        ("height+2", 9),
        ("2*height-1", 13),
        ("3*height/2+1", 11),
        ("height2", "height2"),
    ],
)
def test_bound_computes_expressions(dimension: str, size: int | str) -> None:
    assert TensorSpec("x", "float32", (dimension,)).bound({"height": 7}).shape == (size,)


def test_bound_fixes_free_dimensions_and_expressions() -> None:
    spec = TensorSpec("x", "float32", (1, 3, "2*height", "width", "depth"))
    assert spec.bound({"height": 5, "width": 7}).shape == (1, 3, 10, 7, "depth")
    assert spec.bound({}) == spec


@pytest.mark.parametrize("dimension", ["x*height", "2*", "*", "height//2"])
def test_bound_leaves_what_it_does_not_understand(dimension: str) -> None:
    assert TensorSpec("x", "float32", (dimension,)).bound({"height": 5}).shape == (dimension,)


def test_in_layout_reorders_axes_and_leaves_specs_without_layout() -> None:
    moved = IMAGE.in_layout("NHWC")
    assert (moved.shape, moved.layout) == ((1, "height", "width", 3), "NHWC")
    assert moved.in_layout("NCHW") == IMAGE
    assert IMAGE.in_layout("NCHW") is IMAGE
    plain = TensorSpec("x", "float32", (1, 3, 4, 5))
    assert plain.in_layout("NHWC") is plain


def test_axes_are_those_of_transpose() -> None:
    array = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    assert array.transpose(axes("NCHW", "NHWC")).shape == (2, 4, 5, 3)
    np.testing.assert_array_equal(array.transpose(axes("NCHW", "NHWC")).transpose(axes("NHWC", "NCHW")), array)


def test_text_of_a_spec_names_dtype_shape_and_layout() -> None:
    assert str(IMAGE) == "float32 1 × 3 × height × width (NCHW)"
    assert str(TensorSpec("x", "int64", (4,))) == "int64 4"
