"""The exception tree that sdk/errors.py draws is the one it defines."""

from __future__ import annotations

import inspect
import re

import pytest

from edgekit import errors
from edgekit.errors import BundleNotFound, EdgekitError, NotInstalled

BUILT_INS = {
    "BundleError": ValueError,
    "BundleNotFound": FileNotFoundError,
    "InputError": ValueError,
    "NotInstalled": ImportError,
    "DeviceUnavailable": RuntimeError,
    "EngineError": RuntimeError,
    "SessionClosed": RuntimeError,
    "PluginError": RuntimeError,
    "ExportError": RuntimeError,
    "QuantizationError": RuntimeError,
}
PARENTS = {
    "BundleNotFound": "BundleError",
    "ManifestError": "BundleError",
    "UnsafePath": "BundleError",
    "HashMismatch": "BundleError",
    "TensorError": "InputError",
    "ImageError": "InputError",
    "ParityError": "ExportError",
    "RuntimeCrashed": "EngineError",
    "WrongAnswer": "EngineError",
}


def defined() -> dict[str, type[Exception]]:
    """Every exception class of the module, by name."""
    return {name: kind for name, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, EdgekitError)}


def test_the_drawn_tree_names_every_exception() -> None:
    drawn = re.findall(r"^[│├└─\s]*([A-Z]\w+)", (errors.__doc__ or "").partition("\n\n")[2], flags=re.MULTILINE)
    assert sorted(drawn) == sorted(defined())


@pytest.mark.parametrize(("name", "built_in"), BUILT_INS.items())
def test_inherits_its_built_in(name: str, built_in: type[Exception]) -> None:
    assert issubclass(defined()[name], built_in)
    assert f"{name} ({built_in.__name__})" in (errors.__doc__ or "")


@pytest.mark.parametrize(("name", "parent"), PARENTS.items())
def test_inherits_its_parent(name: str, parent: str) -> None:
    assert issubclass(defined()[name], defined()[parent])


@pytest.mark.parametrize("name", sorted(defined()))
def test_every_exception_prints_its_message_and_is_an_edgekit_error(name: str) -> None:
    kind = defined()[name]
    assert issubclass(kind, EdgekitError)
    assert str(kind("what happened")) == "what happened"


def test_not_installed_names_who_what_and_the_remedy() -> None:
    error = NotInstalled.named("onnxruntime", "onnxruntime", "onnx")
    assert str(error) == "onnxruntime needs the package 'onnxruntime': pip install 'edgekit[onnx]'"


def test_bundle_not_found_prints_as_text() -> None:
    assert str(BundleNotFound("no bundle 'x'")) == "no bundle 'x'"
    assert str(BundleNotFound()) == ""
