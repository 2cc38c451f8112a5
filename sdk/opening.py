"""Opening a session by name: a component of a bundle, or a lone model file, on an engine; and what devices there are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit import asking, buckets, choice, floating, forking, guard, registry, stated
from edgekit.bundle import Bundle
from edgekit.errors import BundleNotFound, DeviceUnavailable, InputError, NotInstalled, WrongAnswer
from edgekit.manifest import Component, Variant
from edgekit.session import Device, Model, Runtime, Session

if TYPE_CHECKING:
    from edgekit.isolation import Isolation
    from edgekit.text import Memory

STRANDED = "in a process of its own, as the engine's threads do not come along with a fork"
ALONE = "; on one thread, which was faster when its short runs were measured"
SUFFIXES = {".onnx": "onnx", ".xml": "openvino", ".tflite": "tflite", ".safetensors": "torch"}


def runtime(name: str) -> Runtime:
    """The runtime of this name.

    Raises:
        InputError: unknown name. PluginError: another package brings it, and it cannot be used.
    """
    found: Runtime = registry.find("runtimes", name)()
    return found


def devices() -> list[Device]:
    """Every engine × device known here; engines that are not installed or broken are listed with the remedy."""
    return [row for name in registry.names("runtimes") for row in runtime(name).listed()]


def open_session(
    source: str | Path | Bundle,
    runtime: str = "auto",
    *,
    device: str = "cpu",
    precision: str = "auto",
    threads: int | None = None,
    component: str = "model",
    sizes: Mapping[str, int] | None = None,
    floats: bool = False,
    options: Any = None,
    isolate: bool | Isolation = False,
    check: guard.Check = "auto",
    memory: Memory | None = None,
) -> Session:
    """Open a component of a bundle, or a model file, on an engine.

    Args:
        source: a bundle (folder, .zip, shipped name), or a .onnx, .xml or .tflite file.
        runtime: an engine's name, or "auto": the measured profile of this machine, else the documented order.
        device: "cpu", "gpu", "npu", with an index where there are several ("gpu:1"): strict. "auto": the fastest that
            was measured here, "cpu" where none was.
        precision: a precision of the bundle ("fp32", "int8", …), strict, or "auto".
        threads: engine threads; None leaves it to the engine, but takes one for a file whose runs are so short that it
            was faster on one when it was measured, unless `options` are given.
        component: which graph of the bundle.
        sizes: the free dimensions, by name: picks the file of these sizes, or fixes them on a device that needs it.
            Left out, a session over files of fixed sizes takes the file that an input fits, opened when it comes.
        floats: quantized and half-precision inputs and outputs are float32 to the caller, converted here.
        options: the engine's own options dataclass, such as OpenVinoOptions.
        isolate: True runs the engine in a process of its own: a crash of it raises RuntimeCrashed, and the next call
            starts it again. `edgekit.isolation.Isolation(timeout_s=…)` ends one that hangs, too. A fork of a process that
            used OpenVINO or PyTorch, which hang there, is given such a session unasked.
        check: "auto" runs the bundle's golden inputs when an engine first opens a file on this machine, and refuses one
            that computes something else; where "auto" chose it, the next is taken. True checks at every opening,
            False never.
        memory: of a language model, which the session may then keep itself (`Session.reading`), where its engine can.

    Raises:
        BundleError, NotInstalled, DeviceUnavailable, EngineError (WrongAnswer), InputError.
    """
    asking.require_source(source)
    asking.require_engine(runtime, device, precision, threads)
    asking.require_sizes(sizes)
    asking.require_switches(floats=floats, isolate=isolate, check=check)
    asked: dict[str, Any] = {
        "runtime": runtime,
        "device": device,
        "precision": precision,
        "threads": threads,
        "component": component,
        "sizes": dict(sizes) if sizes else None,
        "floats": floats,
        "check": check,
    }
    if isolate:
        return _isolated(source, asked, options, isolate)
    try:
        return _here(source, options=options, memory=memory, **asked)
    except forking.Stranded as error:
        try:
            return _isolated(source, asked, options, True, STRANDED)
        except InputError:  # a program that cannot start a process of its own
            raise error from None


def _isolated(
    source: str | Path | Bundle, asked: Mapping[str, Any], options: Any, isolate: bool | Isolation, because: str = ""
) -> Session:
    from edgekit.isolation.request import Request, named
    from edgekit.isolation.session import IsolatedSession

    request = Request(str(getattr(source, "folder", source)), options=named(options), **asked)
    try:
        return IsolatedSession(request, isolate, because)
    except WrongAnswer as error:  # what the worker knew of it went with the worker
        bundle = source if isinstance(source, Bundle) else Bundle.open(source)
        guard.note(bundle, "cpu" if request.device == "auto" else request.device, error.pair)
        raise


def _here(
    source: str | Path | Bundle,
    runtime: str,
    device: str,
    precision: str,
    threads: int | None,
    component: str,
    sizes: Mapping[str, int] | None,
    floats: bool,
    check: guard.Check,
    options: Any,
    memory: Memory | None,
) -> Session:
    """As `open_session`, in this process.

    Raises:
        Stranded: the engine cannot be used in this fork. As `open_session`.
    """
    if not isinstance(source, Bundle) and Path(source).suffix in SUFFIXES:
        if check is True:
            raise InputError(f"got check=True for '{source}': a lone file has no golden values to check it by")
        lone = _open_file(Path(source), runtime, device, precision, threads, options)
        return floating.as_floats(lone) if floats else lone
    bundle = source if isinstance(source, Bundle) else Bundle.open(source)
    described = bundle.component(component)

    def made() -> Session:
        picked = choice.pick(bundle, component, runtime, device, precision, sizes or {}, threads, options=options)
        forking.require_own(picked.runtime)

        def alone(variant: Variant) -> bool:
            free = picked.threads is None and options is None and picked.device == "cpu"
            return free and stated.alone(variant, picked.runtime)

        def opening(variant: Variant) -> Session:
            model = _model(bundle, described, variant, sizes or {}, memory)
            count = 1 if alone(variant) else picked.threads
            opened = _opened(picked.runtime, model, picked.device, count, options)
            engine = _engine(picked.runtime, picked.device, options)
            return guard.guarded(opened, bundle, (component, variant), engine, check)

        alike = stated.alike(described, picked.variant)
        if len(alike) > 1 and not sizes:
            session: Session = buckets.BucketSession(described, alike, opening)
        else:
            session = opening(picked.variant)
            session.others = buckets.listed(alike)
        session.why = f"{picked.why}{ALONE if alone(picked.variant) else ''}"
        return session

    session = guard.passing_on(made, strict="auto" not in (runtime, precision))
    return floating.as_floats(session) if floats else session


def _engine(name: str, device: str, options: Any) -> guard.Engine:
    found = runtime(name)
    return guard.Engine(name, found.version(), device, options or found.options())


def _model(
    bundle: Bundle, described: Component, variant: Variant, sizes: Mapping[str, int], memory: Memory | None
) -> Model:
    """A variant as a runtime is asked to open it, its files verified."""
    return Model(
        bundle.model_path(variant),
        variant.format,
        variant.precision,
        tuple(s.bound(variant.sizes) for s in variant.inputs or described.inputs),
        tuple(s.bound(variant.sizes) for s in variant.outputs or described.outputs),
        described.family,
        described.settings,
        tuple(bundle.folder / entry.path for entry in variant.files),
        tuple(entry.sha256 for entry in variant.files),
        sizes,
        memory,
    )


def _open_file(path: Path, name: str, device: str, precision: str, threads: int | None, options: Any) -> Session:
    if not path.is_file():
        raise BundleNotFound(f"no model file at '{path}'")
    if precision != "auto":
        raise InputError(f"got precision '{precision}' for '{path.name}': a lone file has the precision it has")
    model = Model(path, SUFFIXES[path.suffix], "file")
    device = "cpu" if device == "auto" else device
    readers = [n for n in registry.names("runtimes") if model.format in runtime(n).formats]
    if name != "auto":
        if model.format not in runtime(name).formats:
            raise DeviceUnavailable(f"{name} cannot open '{path.name}': {' or '.join(readers)} can")
        return _opened(name, model, device, threads, options)
    if options is not None:
        readers = [n for n in readers if isinstance(options, runtime(n).options)]
        if not readers:
            raise InputError(f"got options {type(options).__name__}: no engine that opens '{path.name}' takes them")
    missing = []
    for reader in readers:
        if why := runtime(reader).problem():
            missing.append(why)
        else:
            return _opened(reader, model, device, threads, options)
    raise NotInstalled(" or ".join(missing))


def _opened(name: str, model: Model, device: str, threads: int | None, options: Any) -> Session:
    engine = runtime(name)
    if options is None:
        options = engine.options()
    if not isinstance(options, engine.options):
        raise InputError(f"got options {type(options).__name__}: {name} takes {engine.options.__name__}")
    return engine.open(model, device, threads, options)
