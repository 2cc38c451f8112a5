"""Guard: an engine that answers a bundle's golden inputs with something else is refused before its answers are shown.

A driver that gives zeros or NaN, or a kernel that computes another function, is found when a session of a bundle is first
opened: its golden inputs are run once. What was right is remembered in the user's cache, by bundle, file, engine, version,
device, options, processor and system, so that one run is paid once for each on a machine. `edgekit verify` is the strict
judge, with the bounds that export recorded; this one refuses only what no rounding comes to.
"""

from __future__ import annotations

import hashlib
import math
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np

from edgekit import machine
from edgekit.bundle import Bundle, cache_folder, golden_sample
from edgekit.errors import EngineError, WrongAnswer
from edgekit.manifest import WRONG_DB, Component, Variant
from edgekit.tensors import Array

if TYPE_CHECKING:
    from edgekit.session import Session

T = TypeVar("T")
Check = bool | Literal["auto"]
Pair = tuple[str, str]  # runtime, precision


@dataclass(frozen=True)
class Engine:
    """A runtime, its version, the device and the options that a session was opened with."""

    runtime: str
    version: str
    device: str
    options: Any


_trusting: ContextVar[bool] = ContextVar("trusting", default=False)
_refused: dict[tuple[str, str], dict[Pair, str]] = {}  # by bundle and device: what this process has seen answer wrongly


def guarded(opened: Session, bundle: Bundle, described: tuple[str, Variant], engine: Engine, check: Check) -> Session:
    """The session, if it answers the golden inputs of `described` (component, variant) as the bundle says.

    Args:
        engine: what it was opened on.
        check: True runs them now; "auto" where it is not known yet to be right, and where there are some.

    Raises:
        WrongAnswer: it does not; the session is closed. EngineError: with True, it cannot run them, or there are none.
    """
    if check is False or (check == "auto" and _trusting.get()):
        return opened
    known = _place(opened, bundle, described, engine)
    if check == "auto" and known.exists():
        return opened
    try:
        wrong = _wrong(opened, bundle, *described)
    except EngineError as error:
        if check == "auto":
            return opened  # the caller's own run will say it
        opened.close()
        raise EngineError(f"{engine.runtime} cannot be checked: {error}") from error
    if wrong:
        pair = engine.runtime, described[1].precision
        opened.close()
        note(bundle, engine.device, pair)
        raise WrongAnswer(
            f"{' '.join(pair)} on {engine.device} does not compute what {bundle.name} is: {wrong}; take another runtime=, "
            f"device= or precision= (`edgekit verify {bundle.name}` tries all), or open it as it is by check=False",
            pair,
        )
    _remember(known, f"{bundle.name} {described[0]} {engine.runtime} {engine.version} {described[1].precision}")
    return opened


def note(bundle: Bundle, device: str, pair: Pair) -> None:
    """Remember for this process that an engine and precision answered wrongly."""
    _refused.setdefault((bundle.hash, device), {})[pair] = f"{' '.join(pair)} (it answers wrongly here)"


def refused(bundle: Bundle, device: str) -> dict[Pair, str]:
    """The engines and precisions that answered wrongly in this process, on a device or any ("auto"), with the words."""
    if not _refused:
        return {}
    known = [pairs for (hash, on), pairs in _refused.items() if hash == bundle.hash and device in (on, "auto")]
    return {pair: words for pairs in known for pair, words in pairs.items()}


def passing_on(make: Callable[[], T], *, strict: bool) -> T:
    """What `make` makes; made again, unless `strict`, for as long as it is another choice that answers wrongly."""
    seen: set[Pair] = set()
    while True:
        try:
            return make()
        except WrongAnswer as error:
            if strict or error.pair in seen:
                raise
            seen.add(error.pair)


@contextmanager
def trusting() -> Iterator[None]:
    """A block in which "auto" checks nothing: what is opened is being made, and is judged by who makes it."""
    token = _trusting.set(True)
    try:
        yield
    finally:
        _trusting.reset(token)


def _wrong(session: Session, bundle: Bundle, name: str, variant: Variant) -> str:
    """What is wrong with its answers to the golden inputs; empty where nothing is.

    Raises:
        EngineError: it cannot run them, or there are none.
    """
    from edgekit.verify import answers  # which builds on sessions

    component, golden = bundle.component(name), bundle.golden(name)
    if any(spec.name not in golden for spec in (*component.inputs, *component.outputs)):
        raise EngineError(f"{bundle.name} has no golden values of '{name}'")
    inputs, whole = _fitting(session, component, golden)
    outputs = [golden_sample(o) for o in answers(session, inputs, component.inputs, component.outputs)]
    truth = [golden[spec.name] for spec in component.outputs]
    pairs = list(zip(component.outputs, outputs, truth, strict=True))
    numbers = [p for p in pairs if p[2].dtype.kind == "f"]  # a label may fall otherwise where two are as good as equal
    found = ((spec.name, _otherwise(output, right, whole, variant)) for spec, output, right in numbers)
    return "; ".join(f"'{output}' {words}" for output, words in found if words)


def _fitting(session: Session, component: Component, golden: dict[str, Array]) -> tuple[list[Array], bool]:
    """The golden inputs in the component's layout; wrapped around where the session's sizes are others, which is told."""
    arrays, whole = [], True
    for spec, own in zip(component.inputs, session.inputs, strict=True):
        array = golden[spec.name]
        for axis, size in enumerate(own.in_layout(spec.layout).shape if spec.layout and own.layout else own.shape):
            if isinstance(size, int) and size != array.shape[axis]:
                array, whole = np.take(array, np.arange(size), axis, mode="wrap"), False
        arrays.append(array)
    return arrays, whole


def _otherwise(output: Array, truth: Array, whole: bool, variant: Variant) -> str:
    """In words, how an output is none that the golden one could be rounded to; empty where it is right.

    Of other sizes than the golden one it can only be seen to be of numbers, and not all alike.
    """
    from edgekit.verify import EQUAL_DB, INT8_SLACK_DB, differ

    sound = truth[np.isfinite(truth)]
    if not sound.size or (not whole and (sound.size < truth.size or sound.min() == sound.max())):
        return ""
    said = f"is {_described(output)}, the golden values are {_described(truth)}"
    if not whole:
        constant = np.isfinite(output).all() and output.min() == output.max()
        return said if constant or not np.isfinite(output).all() else ""
    found = differ(output, truth)
    recorded = variant.parity.snr_db - INT8_SLACK_DB if variant.parity else EQUAL_DB
    floor = min(WRONG_DB, recorded)
    if not math.isinf(found.error) and found.snr_db >= floor:
        return ""
    return said if math.isinf(found.error) else f"{said} ({found.snr_db:.0f} dB of {floor:.0f})"


def _described(array: Array) -> str:
    """ "all 0", "0.021 to 0.98", "NaN in 30 of 40 values"."""
    odd = int(array.size - np.count_nonzero(np.isfinite(array)))
    if odd:
        return f"NaN or infinite in {odd} of {array.size} values"
    low, high = float(array.min()), float(array.max())
    return f"all {low:.3g}" if low == high else f"{low:.3g} to {high:.3g}"


def _place(session: Session, bundle: Bundle, described: tuple[str, Variant], engine: Engine) -> Path:
    """The file that says that this was right on this machine."""
    name, variant = described
    shapes = [str(spec) for spec in session.inputs]
    files = [entry.sha256 for entry in variant.files]
    system = (machine.processor(), platform.release())
    key = repr((bundle.hash, name, files, type(session).__name__, shapes, engine, *system))
    return cache_folder() / "checked" / hashlib.sha256(key.encode()).hexdigest()[:32]


def _remember(place: Path, what: str) -> None:
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(f"{what}: right on {time.strftime('%Y-%m-%d')}\n")
    except OSError:  # a read-only system: it is paid at every opening
        return
