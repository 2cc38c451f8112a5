"""Which providers of ONNX Runtime work here: each is asked to open a network of one operator, and believed only then."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib
import importlib.util
import io
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.errors import DeviceUnavailable, InputError
from edgekit.machine import processor
from edgekit.runtimes import providers, vulkan
from edgekit.runtimes.providers import PROVIDERS, Provider
from edgekit.session import Device, Kind

NO_FALLBACK = "session.disable_cpu_ep_fallback"
CPU = "CPUExecutionProvider"
SYSTEMS = {"Darwin": "macOS"}
NOT_INSTALLED = "not installed"
FALLS_BACK = "fallback to CPU EP"  # in what ONNX Runtime says where NO_FALLBACK forbids it
LEAVES_ALL = "it loads, and leaves all operators to the processor"
QUIET = 4  # fatal alone: what goes wrong comes as an exception as well
# y = Relu(x), float32 1 × 4: a ModelProto of IR version 8 and operators 13, as onnx.helper makes it
ONE_OPERATOR = (
    b'\x08\x08:;\n\x0c\n\x01x\x12\x01y"\x04Relu\x12\x01gZ\x13\n\x01x\x12\x0e\n\x0c\x08\x01\x12\x08\n\x02\x08\x01\n\x02'
    b"\x08\x04b\x13\n\x01y\x12\x0e\n\x0c\x08\x01\x12\x08\n\x02\x08\x01\n\x02\x08\x04B\x04\n\x00\x10\r"
)


@dataclass(frozen=True)
class Place:
    """A provider, and which of several devices; "" leaves it to the provider."""

    provider: Provider
    index: str = ""

    @property
    def kind(self) -> Kind:
        """Whether it is the device itself, as far as this machine tells."""
        if platform.machine() in self.provider.simulated_on:
            return "simulator"
        found = vulkan.adapters() if self.provider.vulkan else []
        return "software" if found and all(a.kind == "software" for a in found) else "hardware"

    @property
    def title(self) -> str:
        if self.provider.vulkan and (found := vulkan.adapters()):
            best = min(found, key=lambda a: a.kind == "software")
            return f"{self.provider.title} on {best.name}"
        return f"{self.provider.title} simulator" if self.kind == "simulator" else self.provider.title or processor()

    def device_of(self, unit: str, session: Any) -> str:
        """What a unit of the engine's is: "gpu:1" where it tells which."""
        name = f"{unit}ExecutionProvider"
        if name != self.provider.name:
            return next((p.device for p in PROVIDERS if p.name == name), unit.lower())
        setting = self.provider.index[0] if self.provider.index else ""
        index = session.get_provider_options().get(name, {}).get(setting, "0")
        return self.provider.device if index == "0" else f"{self.provider.device}:{index}"

    def settings(self, half: bool) -> dict[str, str]:
        """What the provider is told; float operators compute in 16 bits where `half`, else in 32."""
        row = self.provider
        told = {**row.settings, **(row.simulator if self.kind == "simulator" else {})}
        told |= (row.half if half else row.exact) or {}
        if self.index and row.index:
            told[row.index[0]] = row.index[1].format(self.index)
        return told


def rows(engine: Any) -> list[Device]:
    """Every provider × device, usable or not."""
    found = []
    for provider in PROVIDERS:
        place = Place(provider)
        why = obstacle(engine, place)
        present = platform.system() in provider.systems
        needs = f"needs {provider.needs}" if present and provider.needs else ""
        remedy = provider.install if why == NOT_INSTALLED else needs
        title = provider.title if why else place.title
        kind = "hardware" if why else place.kind
        about = (provider.precisions, not why, why, kind, provider.option, remedy if why else "")
        found.append(Device("onnxruntime", provider.device, title, *about))
    return found


def find(engine: Any, device: str, option: str = "") -> Place:
    """The provider that serves a device, the one of this name where one is named.

    Raises:
        DeviceUnavailable: none does here; says of each why not. InputError: no provider has this name.
    """
    kind, _, index = device.partition(":")
    if option and option not in providers.names():
        raise InputError(f"got provider='{option}': expected one of {', '.join(providers.names())}")
    places = [Place(provider, index) for provider in providers.serving(kind, option)]
    if not places:
        serves = list(dict.fromkeys(p.device for p in PROVIDERS if option in ("", p.option)))
        who = f"the provider '{option}'" if option else "onnxruntime"
        raise DeviceUnavailable(f"{who} has no '{device}': use device={' or '.join(map(repr, serves))}")
    present = [place for place in places if not _absence(engine, place)]
    if len(present) == 1 or (kind == "cpu" and present):  # of which opening itself will tell
        return present[0]
    for place in present:
        if not obstacle(engine, place):
            return place
    raise DeviceUnavailable(_refusal(engine, device, places))


def _refusal(engine: Any, device: str, places: list[Place]) -> str:
    why = {place: obstacle(engine, place) for place in places if platform.system() in place.provider.systems}
    told = [f"{place.provider.option}: {why}" for place, why in why.items() if why != NOT_INSTALLED]
    other = [place.provider for place, why in why.items() if why == NOT_INSTALLED]
    if len(other) == 1:
        told.append(f"{other[0].option}: {NOT_INSTALLED}: {other[0].install}")
    elif other:
        told.append(f"not installed: {', '.join(provider.option for provider in other)}")
    return f"onnxruntime has no {device} here ({'; '.join(told)}): use device='cpu', or see `edgekit devices`"


def obstacle(engine: Any, place: Place) -> str:
    """What is in the way of a provider; empty where it opened a network of one operator."""
    return _absence(engine, place) or _tried(engine, place)


def attach(engine: Any, place: Place, settings: Any, told: Mapping[str, str]) -> list[Any] | None:
    """Give a session's settings the provider; returns what InferenceSession takes as `providers`."""
    provider = place.provider
    if provider.preload:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does not find
            getattr(engine, provider.preload)()
    if _in_wheel(engine, provider.name):
        return [(provider.name, dict(told))]
    settings.add_provider_for_devices([_handles(engine, provider)[int(place.index or 0)]], dict(told))
    return None


def _absent(engine: Any, provider: Provider) -> bool:
    """Whether there is nothing to open: neither the wheel nor a plugin brings it."""
    return not _in_wheel(engine, provider.name) and not (provider.plugin and importlib.util.find_spec(provider.plugin))


@functools.cache
def _in_wheel(engine: Any, name: str) -> bool:
    """Whether the wheel itself has a provider: one that was registered as a library is listed beside those from then on."""
    plugged = {device.ep_name for device in engine.get_ep_devices() if "library_path" in device.ep_metadata}
    return name in engine.get_available_providers() and name not in plugged


def _absence(engine: Any, place: Place) -> str:
    """What is seen to be in the way without opening anything."""
    provider = place.provider
    if platform.system() not in provider.systems:
        return f"for {' and '.join(SYSTEMS.get(s, s) for s in provider.systems)} alone"
    if _absent(engine, provider):
        return NOT_INSTALLED
    if _in_wheel(engine, provider.name):
        indexed = provider.index is not None or place.index in ("", "0")
        return "" if indexed and (place.index or "0").isdecimal() else f"it has no {provider.device}:{place.index}"
    try:
        count = len(_handles(engine, provider))
    except Exception as error:  # the plugin's own, of many types
        return f"its library does not load: {first_line(error)}"
    if not count:
        return f"it finds no {provider.device}"
    index = place.index or "0"
    return "" if index.isdecimal() and int(index) < count else f"it has {count} of {provider.device}, from 0 on"


def _handles(engine: Any, provider: Provider) -> list[Any]:
    """The devices that a plugin shows; a simulator shows itself as the processor."""
    _register(engine, provider.name, provider.plugin)
    own = [device for device in engine.get_ep_devices() if device.ep_name == provider.name]
    kinds = [provider.device.upper(), *(["CPU"] if platform.machine() in provider.simulated_on else [])]
    alike = [[device for device in own if device.device.type.name == kind] for kind in kinds]
    return next((found for found in alike if found), [])


@functools.cache
def _register(engine: Any, name: str, plugin: str) -> None:
    """Load a plugin's library; ONNX Runtime takes each name once in a process."""
    known = {device.ep_name for device in engine.get_ep_devices()}
    if name not in known:
        engine.register_execution_provider_library(name, importlib.import_module(plugin).get_library_path())


@functools.cache
def _tried(engine: Any, place: Place) -> str:
    """Why a provider does not take a network of one operator; empty where it does."""
    settings = engine.SessionOptions()
    settings.log_severity_level = QUIET
    if place.provider.name != CPU:
        settings.add_session_config_entry(NO_FALLBACK, "1")
    try:
        attached = attach(engine, place, settings, place.settings(half=place.provider.exact is None))
        session = engine.InferenceSession(ONE_OPERATOR, settings, providers=attached, enable_fallback=0)
    except Exception as error:  # the engine raises a dozen unrelated types of its own
        silent = FALLS_BACK in str(error)
        return _missing_library(engine, place.provider) or (LEAVES_ALL if silent else first_line(error))
    return "" if session.get_providers()[0] == place.provider.name else LEAVES_ALL


def _missing_library(engine: Any, provider: Provider) -> str:
    """The vendor's library that a provider's own one does not find, as the system's loader tells."""
    form = {"Windows": "{}.dll"}.get(platform.system(), "lib{}.so")
    path = Path(engine.__file__).parent / "capi" / form.format(provider.library)
    if not path.is_file():
        return ""
    try:
        ctypes.CDLL(str(path))
    except OSError as error:
        said = str(error)
        return said if "undefined symbol" not in said else ""  # which ONNX Runtime itself would have brought
    return ""


def first_line(error: Exception) -> str:
    """The first line of an engine's error, without its code and the place in its source."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return re.sub(r"^(\[ONNXRuntimeError\] : \d+ : \w+ : |.* was false\. )", "", line)[:300]
