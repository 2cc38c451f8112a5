"""Look-up by name: literal tables of "module:attribute", then installed entry points."""

from __future__ import annotations

import difflib
import importlib
import inspect
import warnings
from functools import cache
from typing import Any

from edgekit.errors import InputError, NotInstalled, PluginError

TABLES: dict[str, dict[str, str]] = {
    "runtimes": {
        "openvino": "edgekit.runtimes.openvino_:OpenVinoRuntime",
        "onnxruntime": "edgekit.runtimes.onnxruntime_:OnnxRuntime",
        "litert": "edgekit.runtimes.litert:LiteRtRuntime",
        "torch": "edgekit.runtimes.torch_:TorchRuntime",
        "reference": "edgekit.runtimes.reference:ReferenceRuntime",
    },
    "tasks": {
        "upscale": "edgekit.tasks.upscale:Upscaler",
        "classify": "edgekit.tasks.classify:Classifier",
        "generate": "edgekit.tasks.generate:ImageGenerator",
        "autoencode": "edgekit.tasks.autoencode:Autoencoder",
        "stylize": "edgekit.tasks.stylize:Stylizer",
        "diffuse": "edgekit.tasks.diffuse:DiffusionSampler",
        "write": "edgekit.tasks.write:TextGenerator",
    },
    "exporters": {
        "onnx": "edgekit.exporters.formats.onnx_:OnnxExporter",
        "openvino": "edgekit.exporters.formats.openvino_:OpenVinoExporter",
        "tflite": "edgekit.exporters.formats.tflite:TfliteExporter",
    },
    "readers": {
        "program": "edgekit.exporters.readers.programs:ProgramReader",
        "diffusers": "edgekit.exporters.readers.diffusers_:DiffusersReader",
        "hugging_face": "edgekit.exporters.readers.hugging_face:CausalReader",
        "layout": "edgekit.exporters.readers.layouts.reader:LayoutReader",
        "module": "edgekit.exporters.readers.reading:ModuleReader",
    },
    "schemes": {
        "int8": "edgekit.quantization.schemes.static:Static",
        "int8-dynamic": "edgekit.quantization.schemes.dynamic:Dynamic",
        "int8-weights": "edgekit.quantization.schemes.weights:Int8Weights",
        "int4-weights": "edgekit.quantization.schemes.weights:Int4Weights",
        "fp16": "edgekit.quantization.schemes.half:Half",
    },
    "families": {
        "super_resolution": "edgekit.zoo.super_resolution:SuperResolution",
        "classification": "edgekit.zoo.classification:PlainNet",
        "gan": "edgekit.zoo.gan:Generator",
        "vae_encoder": "edgekit.zoo.vae:Encoder",
        "vae_decoder": "edgekit.zoo.vae:Decoder",
        "style_transfer": "edgekit.zoo.style_transfer:StyleNet",
        "diffusion": "edgekit.zoo.diffusion:UNet",
        "transformer": "edgekit.zoo.transformer:TransformerStep",
        "recurrent": "edgekit.zoo.recurrent:RecurrentStep",
        "causal_convolution": "edgekit.zoo.causal_convolution:ConvolutionStep",
        "srvgg": "edgekit.exporters.readers.layouts.srvgg:SrvggNet",
        "espcn": "edgekit.exporters.readers.layouts.espcn:EspcnNet",
        "fsrcnn": "edgekit.exporters.readers.layouts.fsrcnn:FsrcnnNet",
        "transformer_net": "edgekit.exporters.readers.layouts.transformer_net:TransformerNet",
        "dcgan": "edgekit.exporters.readers.layouts.dcgan:DcganGenerator",
    },
    "recipes": {
        "sr-x2": "edgekit.zoo.super_resolution:X2",
        "sr-x4": "edgekit.zoo.super_resolution:X4",
        "cifar-cnn": "edgekit.zoo.classification:CIFAR",
        "digits-cnn": "edgekit.zoo.classification:DIGITS",
        "digits-gan": "edgekit.zoo.gan:DIGITS",
        "digits-vae": "edgekit.zoo.vae:DIGITS",
        "style-wave": "edgekit.zoo.style_transfer:WAVE",
        "style-scream": "edgekit.zoo.style_transfer:SCREAM",
        "style-shipwreck": "edgekit.zoo.style_transfer:SHIPWRECK",
        "style-udnie": "edgekit.zoo.style_transfer:UDNIE",
        "digits-diffusion": "edgekit.zoo.diffusion:DIGITS",
        "cifar-diffusion": "edgekit.zoo.diffusion:CIFAR",
        "shakespeare-gpt": "edgekit.zoo.text:GPT",
        "shakespeare-gru": "edgekit.zoo.text:GRU",
        "shakespeare-cnn": "edgekit.zoo.text:CNN",
        "folk-gru": "edgekit.zoo.text:FOLK",
    },
}


# what another package's entry point must name, where a table takes such: a concrete subclass
BASES = {"runtimes": "edgekit.session:Runtime", "tasks": "edgekit.tasks.task:Task"}


def names(table: str) -> list[str]:
    """The names in a table, those of other packages' entry points (group "edgekit.TABLE") last.

    An entry point that cannot be used is warned of once, and left out.
    """
    return [*TABLES[table], *(name for name, problem in plugins(table).items() if not problem)]


def plugins(table: str) -> dict[str, str]:
    """Other packages' entries for a table: by name, what is wrong with each; empty where nothing is."""
    found: dict[str, str] = {}
    for entry in _entry_points(table):
        try:
            if entry.name in TABLES[table]:
                raise PluginError(f"{_titled(table, entry)} has the name of one that edgekit brings: rename it")
            if entry.name in found:
                raise PluginError(f"{_titled(table, entry)} has the name of another package's: uninstall one of them")
            _loaded(table, entry)
            found[entry.name] = ""
        except PluginError as error:
            warn_once(str(error))
            found.setdefault(entry.name, str(error))
    return found


def _entry_points(table: str) -> list[Any]:
    from importlib.metadata import entry_points  # a third of what `import edgekit` costs, and seldom needed

    return list(entry_points(group=f"edgekit.{table}"))


def _loaded(table: str, entry: Any) -> Any:
    """What an entry point names.

    Raises:
        PluginError: it cannot be imported, or is not what the table holds.
    """
    title = _titled(table, entry)
    try:
        found = entry.load()
    except Exception as error:  # whatever another package's module does
        said = f"{type(error).__name__}: {error}"
        raise PluginError(f"{title} cannot be imported ({said}): update or uninstall the package") from error
    module, _, base = BASES.get(table, "builtins:object").partition(":")
    kind = getattr(importlib.import_module(module), base)
    if not (isinstance(found, type) and issubclass(found, kind)):
        raise PluginError(f"{title} is '{entry.value}', which is no subclass of {module}.{base}: see docs/plugins.md")
    missing = sorted(getattr(found, "__abstractmethods__", ())) + _unstated(found, kind)
    if missing:
        raise PluginError(f"{title} lacks {', '.join(missing)}: see docs/plugins.md")
    if getattr(found, "name", entry.name) != entry.name:
        raise PluginError(f"{title} calls itself '{found.name}': its entry point and its `name` must be one")  # type: ignore[attr-defined]
    return found


def _unstated(found: type, kind: type) -> list[str]:
    """The class variables that the base only declares, and this class has not set."""
    return sorted(name for name in inspect.get_annotations(kind) if not hasattr(found, name))


def _titled(table: str, entry: Any) -> str:
    """ "the runtime 'x' of the package y 1.0"."""
    return f"the {table[:-1]} '{entry.name}'" + (
        f" of the package {entry.dist.name} {entry.dist.version}" if entry.dist else ""
    )


@cache  # so that each is said once
def warn_once(text: str) -> None:
    """Warn that something broken is passed over."""
    warnings.warn(f"{text}; it is passed over", RuntimeWarning, stacklevel=4)


def device_runtimes() -> list[str]:
    """The runtimes that a device has: all but PyTorch and the double for tests."""
    return [name for name in names("runtimes") if name not in ("torch", "reference")]


def plugin_runtimes() -> list[str]:
    """The runtimes that other packages bring, and that can be used."""
    return [name for name, problem in plugins("runtimes").items() if not problem]


def load(module: str, attribute: str, who: str) -> Any:
    """An attribute of one of our modules; `who` needs it, and is named where a package is missing.

    Raises:
        NotInstalled: the module imports a package that is not there.
    """
    try:
        return getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("edgekit"):
            raise
        raise NotInstalled.named(who, str(error.name), "export") from error


def find(table: str, name: str) -> Any:
    """Import and return what `name` stands for in a table.

    Raises:
        InputError: no such name; lists those there are.
        NotInstalled: what it needs is missing; says which extra brings it.
        PluginError: another package brings it, and it cannot be used.
    """
    if name in TABLES[table]:
        module, _, attribute = TABLES[table][name].partition(":")
        return load(module, attribute, f"{table[:-1]} '{name}'")
    for entry in _entry_points(table):
        if entry.name == name:
            return _loaded(table, entry)
    near = difflib.get_close_matches(name.lower(), names(table), 1, 0.75)
    meant = f" (did you mean '{near[0]}'?)" if near else ""
    raise InputError(f"no {table[:-1]} '{name}'{meant}: expected one of {', '.join(names(table))}")
