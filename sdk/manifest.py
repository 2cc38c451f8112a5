"""The typed form of bundle.json: decoding, encoding and the rules its values keep."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from edgekit.errors import ManifestError, UnsafePath
from edgekit.tensors import TensorSpec

SCHEMA = 1
MAX_MANIFEST_BYTES = 2**20
WRONG_DB = 10.0  # of the agreement of two engines
MAX_FILE_BYTES = 2**35
MAX_BUNDLE_BYTES = 2**36

Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,79}$")]
Format = Literal["onnx", "openvino", "tflite", "torch", "reference"]
Precision = Literal["fp32", "fp16", "int8", "int8-dynamic", "int8-weights", "int4-weights"]


METRICS = {  # how people write them
    "psnr_y_db": "dB PSNR",
    "psnr_db": "dB PSNR",
    "top1_percent": "% top-1",
    "recognised_percent": "% recognised",
    "ssim": "SSIM",
    "nats_per_char": "nats/char",
    "velocity_mse": "velocity MSE",
    "noise_percent": "% noise",
    "brightness_levels": "levels of 255",
}


LOWER_IS_BETTER = ("nats_per_char", "velocity_mse", "noise_percent", "brightness_levels", "frechet")


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Immutable; unknown keys are refused, defaults are not written."""


class FileEntry(_Strict, frozen=True):
    """One file: its path inside the bundle, size and SHA-256."""

    path: str
    bytes: Annotated[int, Meta(ge=0, le=MAX_FILE_BYTES)]
    sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]


class Quality(_Strict, frozen=True):
    """What the task's own metric says of a variant; `drop` is the loss from fp32, positive when worse."""

    metric: str
    value: float
    drop: float
    data: str

    @property
    def figure(self) -> str:
        """ "37.30", with as many digits as tell two variants apart."""
        return f"{self.value:.{2 if abs(self.value) >= 10 else 4}f}"

    def __str__(self) -> str:
        """ "37.30 dB PSNR"."""
        return f"{self.figure} {METRICS.get(self.metric, self.metric)}"


def higher_is_better(qualities: Iterable[Quality]) -> bool:
    """The direction of a metric, as the recorded drops tell it; by its name where none of them lost anything."""
    found = list(qualities)
    whole = [q.value for q in found if not q.drop]
    for quality in found:
        if whole and quality.drop and quality.value != whole[0]:
            return (whole[0] - quality.value) * quality.drop > 0
    return not any(q.metric in LOWER_IS_BETTER for q in found)


class Parity(_Strict, frozen=True):
    """The variant's outputs against `reference` in fp32: largest absolute error, SNR in dB (999 = equal),
    and the largest error as a part of the largest value of that output. `note` is what a comparison has to say
    beside numbers.
    """

    max_error: float
    snr_db: float
    inputs: int
    relative: float | None = None
    reference: str = "torch"
    note: str = ""


class Speed(_Strict, frozen=True):
    """A variant beside fp32 on one engine, measured interleaved on one machine; medians of `session.run` in ms.

    `threads` ran this variant. Runs below a millisecond are measured on all cores and on one, and the faster counts; fp32
    may then have run on another number. `noise` is what the ratio of the two differed by between rounds, as a part of it;
    `runs` how often one use of the task runs this component; `beside` whose fp32 it is, where not the same engine's own file;
    `int8_units` the int8 dot-product instructions of the processor, None where its system did not tell.
    """

    runtime: str
    ms: float
    fp32_ms: float
    threads: int
    processor: str
    architecture: str
    noise: Annotated[float, Meta(ge=0)] = 0.0
    runs: Annotated[int, Meta(ge=1)] = 1
    beside: str = ""
    int8_units: tuple[str, ...] | None = None

    @property
    def gain(self) -> float:
        """How many times as fast as fp32; below 1 it is slower."""
        return self.fp32_ms / self.ms if self.ms else 0.0

    @property
    def slower(self) -> bool:
        """Whether it is slower than fp32 by more than the noise of the measurement."""
        return self.ms > self.fp32_ms * (1 + self.noise)


class Agreement(_Strict, frozen=True):
    """How alike two engines answer in one precision: SNR in dB of the second's outputs beside the first's, the worst
    output of the worst input (999: equal); `note` says why, where it is below 40 dB.
    """

    precision: Precision
    engines: tuple[str, str]
    snr_db: float
    note: str = ""

    @property
    def wrong(self) -> bool:
        """Whether one of the two computes something else: no rounding comes to this."""
        return self.snr_db < WRONG_DB


class Variant(_Strict, frozen=True):
    """One form of a component: format × precision × sizes of the free dimensions, where they are fixed."""

    format: Format
    precision: Precision
    files: Annotated[tuple[FileEntry, ...], Meta(min_length=1)]
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    sizes: dict[str, Annotated[int, Meta(ge=1, le=2**15)]] = {}
    parity: Parity | None = None
    quality: Quality | None = None
    speed: tuple[Speed, ...] = ()

    @property
    def path(self) -> str:
        """The file an engine opens; the others lie beside it."""
        return self.files[0].path

    @property
    def bytes(self) -> int:
        return sum(f.bytes for f in self.files)

    def __str__(self) -> str:
        sizes = " " + "×".join(str(n) for n in self.sizes.values()) if self.sizes else ""
        return f"{self.format} {self.precision}{sizes}"


class Golden(_Strict, frozen=True):
    """An input tensor, whole, or an output tensor's values at evenly spread places, from PyTorch in fp32."""

    tensor: str
    file: FileEntry


class Component(_Strict, frozen=True):
    """One graph: what goes in and out, and the files that compute it.

    `settings` rebuild the PyTorch network of `family` where the bundle carries its weights.
    """

    inputs: Annotated[tuple[TensorSpec, ...], Meta(min_length=1)]
    outputs: Annotated[tuple[TensorSpec, ...], Meta(min_length=1)]
    variants: tuple[Variant, ...] = ()
    golden: tuple[Golden, ...] = ()
    agreement: tuple[Agreement, ...] = ()
    family: str | None = None
    settings: dict[str, int | float | str | bool] = {}


class Task(_Strict, frozen=True):
    """The task that runs the bundle, and its settings."""

    name: str
    settings: dict[str, Any] = {}


class Manifest(_Strict, frozen=True, kw_only=True, omit_defaults=False):
    """bundle.json."""

    schema: Literal[1] = 1
    name: Name
    version: str = "1"
    summary: str = ""
    licence: str = ""
    provenance: dict[str, Any] = {}
    task: Task | None = None
    files: tuple[FileEntry, ...] = ()  # what the task needs beside graphs, such as a tokenizer
    components: Annotated[dict[Name, Component], Meta(min_length=1)]

    def file_entries(self) -> list[FileEntry]:
        """Every file that the bundle consists of, bundle.json apart."""
        entries: list[FileEntry] = list(self.files)
        for component in self.components.values():
            entries += [g.file for g in component.golden]
            entries += [f for variant in component.variants for f in variant.files]
        return entries


def decode(data: bytes, source: str) -> Manifest:
    """Decode bundle.json; `source` names it in errors.

    Raises:
        ManifestError: not JSON, an unknown key, a missing or wrong value, another schema.
        UnsafePath: a file's path is absolute or leaves the bundle.
    """
    if len(data) > MAX_MANIFEST_BYTES:
        raise ManifestError(f"'{source}' is {len(data)} bytes: a manifest has at most {MAX_MANIFEST_BYTES}")
    try:
        schema = msgspec.json.decode(data, type=dict[str, Any]).get("schema", SCHEMA)
        if schema != SCHEMA:
            raise ManifestError(
                f"'{source}' is of schema {schema!r}: this edgekit reads schema {SCHEMA}; "
                "install the edgekit that wrote it, or export the bundle again"
            )
        manifest = msgspec.json.decode(data, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ManifestError(f"'{source}' is not a bundle manifest: {error}") from error
    for entry in manifest.file_entries():
        check_path(entry.path, source)
    _check_values(manifest, source)
    return manifest


def check_name(name: str) -> None:
    """Refuse what cannot name a bundle.

    Raises:
        ManifestError.
    """
    try:
        msgspec.convert(name, Name)
    except msgspec.ValidationError:
        raise ManifestError(
            f"'{name}' cannot name a bundle: expected up to 80 letters, digits, '.', '_' and '-', a letter or digit first"
        ) from None


def _check_values(manifest: Manifest, source: str) -> None:
    """What types alone do not say: sizes in all, ranges, dimensions, and that no variant lacks its weights file."""
    if sum(e.bytes for e in manifest.file_entries()) > MAX_BUNDLE_BYTES:
        raise ManifestError(f"'{source}' names more than {MAX_BUNDLE_BYTES} bytes of files")
    for component in manifest.components.values():
        variants = component.variants
        specs = [*component.inputs, *component.outputs, *(s for v in variants for s in (*v.inputs, *v.outputs))]
        for spec in specs:
            if spec.range is not None and not -math.inf < spec.range[0] < spec.range[1] < math.inf:
                raise ManifestError(f"'{source}': {spec.name} has the range {spec.range}: expected low < high")
            if any(isinstance(d, int) and d < 1 for d in spec.shape):
                raise ManifestError(f"'{source}': {spec.name} has the shape {spec.shape}: expected sizes of 1 and more")
        for variant in variants:
            paths = {entry.path for entry in variant.files}
            if variant.path.endswith(".xml") and f"{variant.path.removesuffix('.xml')}.bin" not in paths:
                raise ManifestError(f"'{source}': {variant} does not list the weights (.bin) of '{variant.path}'")


def encode(manifest: Manifest) -> bytes:
    """bundle.json, indented, keys in the order of the fields."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n"


def check_path(path: str, source: str) -> None:
    """Refuse a path that is not a plain relative one (`/` between parts, no `..`, no drive, no NUL)."""
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or any(c in path for c in "\\:\0"):
        raise UnsafePath(f"'{source}' names the path '{path}': expected a relative path inside the bundle")
