"""Every exception that edgekit raises; each also inherits the built-in that fits it.

EdgekitError
├── BundleError (ValueError)          what lies on disk is not a usable bundle
│   ├── BundleNotFound (FileNotFoundError)
│   ├── ManifestError                 bundle.json is malformed, or of another schema
│   ├── UnsafePath                    a path leaves the bundle's folder
│   └── HashMismatch                  a file's bytes are not those the manifest names
├── InputError (ValueError)           what the caller passed cannot be used
│   ├── TensorError                   wrong name, dtype or shape, or NaN
│   └── ImageError                    not an image, or not one this task takes
├── NotInstalled (ImportError)        a package is missing; says which extra brings it
├── DeviceUnavailable (RuntimeError)  the device, precision or shape asked for cannot be had
├── EngineError (RuntimeError)        an engine refused a file or failed in a run
│   ├── RuntimeCrashed                its worker process died or hung (isolate=True)
│   └── WrongAnswer                   it does not give what the bundle's golden values say
├── SessionClosed (RuntimeError)
├── PluginError (RuntimeError)        another package's runtime or task cannot be used
├── ExportError (RuntimeError)        a converter failed
│   └── ParityError                   the converted file computes something else
└── QuantizationError (RuntimeError)
"""

from __future__ import annotations

from typing import Any


class EdgekitError(Exception):
    """Base of every error that edgekit raises on purpose."""


class BundleError(EdgekitError, ValueError):
    """What lies on disk is not a usable bundle."""


class BundleNotFound(BundleError, FileNotFoundError):
    """No bundle or model file has this name or path."""

    def __str__(self) -> str:  # OSError prints its own two-argument form otherwise
        return str(self.args[0]) if self.args else ""


class ManifestError(BundleError):
    """bundle.json cannot be read, or is of a schema that this version does not know."""


class UnsafePath(BundleError):
    """A path in a bundle or archive is absolute, climbs out of the folder, or is a link."""


class HashMismatch(BundleError):
    """A file's bytes are not those that the manifest names."""


class InputError(EdgekitError, ValueError):
    """What the caller passed cannot be used."""


class TensorError(InputError, TypeError):
    """A tensor has the wrong name, dtype or shape, or holds NaN."""


class ImageError(InputError):
    """A file or array is not an image, or not one that this task takes."""


class NotInstalled(EdgekitError, ImportError):
    """A package that this call needs is not installed."""

    @classmethod
    def named(cls, who: str, package: str, extra: str) -> NotInstalled:
        return cls(f"{who} needs the package '{package}': pip install 'edgekit[{extra}]'")


class DeviceUnavailable(EdgekitError, RuntimeError):
    """The device, precision or shape that was asked for cannot be had here."""


class EngineError(EdgekitError, RuntimeError):
    """An inference engine refused a file, or failed in a run."""


class RuntimeCrashed(EngineError):
    """The worker process of an isolated session died, or was ended because it hung; the next call starts another.

    `exit_code`: what it ended with, −11 for the signal 11 (SIGSEGV); None where it is not known.
    """

    exit_code: int | None = None


class WrongAnswer(EngineError):
    """An engine answers a bundle's golden inputs with something else than the bundle says.

    `pair`: the runtime and the precision.
    """

    def __init__(self, message: str, pair: tuple[str, str] = ("", "")) -> None:
        super().__init__(message)
        self.pair = pair


class SessionClosed(EdgekitError, RuntimeError):
    """The session was closed before this call, or opened in another process."""


class PluginError(EdgekitError, RuntimeError):
    """Another package's entry point cannot be imported, or is not what it should be."""


class ExportError(EdgekitError, RuntimeError):
    """A converter failed; `bundle` is the one that was written all the same, with what did not fail."""

    bundle: Any = None


class ParityError(ExportError):
    """A converted file does not compute what the PyTorch model computes."""


class QuantizationError(EdgekitError, RuntimeError):
    """Quantization cannot be done as asked."""
