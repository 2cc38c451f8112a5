"""Opening an .onnx file on one provider of ONNX Runtime, strictly: wholly there, in the precision asked for, or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit import machine
from edgekit.compiled import Shelf, key_of
from edgekit.errors import DeviceUnavailable, EdgekitError, EngineError, InputError
from edgekit.runtimes import onnx_devices, onnx_graph
from edgekit.runtimes.external_data import require_inside
from edgekit.runtimes.onnx_devices import CPU, NO_FALLBACK, QUIET, Place, first_line
from edgekit.session import Model

if TYPE_CHECKING:
    from edgekit.runtimes.onnxruntime_ import OnnxRuntimeOptions

EXACT = "session.x64quantprecision"  # no overflow of int8 products on x86-64 without VNNI, at some cost in speed
SHOWN = 4  # kinds of operators that an error lists
LARGEST = 64 * 2**20  # bytes; the optimised graph of a larger file is not written out to be read


@dataclass(frozen=True)
class Opening:
    """What is opened, on which provider, and how; `open` may be called again to look at the result from another side."""

    engine: Any
    model: Model
    place: Place
    device: str
    threads: int | None
    options: OnnxRuntimeOptions

    def open(self) -> Any:
        """An InferenceSession.

        Raises:
            DeviceUnavailable: the provider does not work here, or cannot run the whole network as asked. EngineError.
        """
        self._refuse_options()
        strict = self.place.provider.name != CPU
        exact = not strict and self.model.precision == "int8" and machine.int8_overflows()
        # exact int8 products first; it refuses files in which two weights share a zero point, which then run all the same
        for entries in [{EXACT: "1"}, {}] if exact else [{NO_FALLBACK: "1"}] if strict else [{}]:
            try:
                session = self._session(entries)
                break
            except EdgekitError:
                raise
            except Exception as error:  # the engine raises a dozen unrelated types of its own
                refused = error
        else:
            raise self._explained(refused) from refused
        if strict:
            self._require_all_there(session)
        return session

    @property
    def half(self) -> bool:
        """Whether float operators compute in 16 bits, whatever the file holds."""
        return self.place.provider.exact is None or self.options.inference_precision == "f16"

    def fixed(self) -> Model:
        """The model with the sizes that the provider was given in place of free dimensions."""
        model = self.model
        if not self.place.provider.fixed_sizes:
            return model
        inputs, outputs = (tuple(s.bound(model.sizes) for s in specs) for specs in (model.inputs, model.outputs))
        return replace(model, inputs=inputs, outputs=outputs)

    def operators(self, session: Any) -> tuple[dict[str, int], dict[str, int]]:
        """Operators by unit and kind as the engine runs them, and those of them that it added.

        Read from the optimised graph where the engine can write one, else from what it gave to each provider.
        """
        given = assigned(session)
        units = {name.partition(" ")[0] for name in given}
        before = onnx_graph.operators(self.model.path)
        after = self._optimised() if len(units) == 1 else None
        if after is None:
            after = Counter()
            for name, count in given.items():
                after[name.partition(" ")[2]] += count
            return dict(given), onnx_graph.inserted(before, after)
        (unit,) = units
        return {f"{unit} {kind}": count for kind, count in after.items()}, onnx_graph.inserted(before, after)

    def _optimised(self) -> Counter[str] | None:
        """Kinds of the graph after all optimisers; None for a large file, and where a compiler took the graph over."""
        if self.place.provider.compiles or self.model.path.stat().st_size > LARGEST:
            return None
        with tempfile.TemporaryDirectory(prefix="edgekit-") as folder:
            path = Path(folder) / "optimised.onnx"
            try:
                self._session({}, write_to=path)
            except Exception:  # as of a provider that compiles without saying so
                return None
            return onnx_graph.operators(path) if path.is_file() else None

    def _session(self, entries: Mapping[str, str], write_to: Path | None = None) -> Any:
        settings = self._settings(entries)
        if write_to is not None:
            settings.optimized_model_filepath = str(write_to)
        told = self.place.settings(self.options.inference_precision == "f16") | dict(self.options.provider_options)
        attached = onnx_devices.attach(self.engine, self.place, settings, told)
        if self.options.cache is not False and write_to is None and self.place.provider.name == CPU:
            return self._kept(Shelf.at(self.options.cache), entries, [(CPU, told)])
        if self.options.context is None:
            return self.engine.InferenceSession(str(self.model.path), settings, providers=attached, enable_fallback=0)
        kept = Path(self.options.context) / f"{self.model.path.stem}-{self._key(told)}.onnx"
        if kept.is_file():
            try:
                return self.engine.InferenceSession(str(kept), settings, providers=attached, enable_fallback=0)
            except Exception:  # cut short, or of another driver: made anew
                kept.unlink()
        self._compile(kept, told, entries)
        return self.engine.InferenceSession(str(kept), settings, providers=attached, enable_fallback=0)

    def _kept(self, shelf: Shelf, entries: Mapping[str, str], attached: list[Any]) -> Any:
        """A session on the optimised graph that an earlier one kept; the first optimises it, and writes it."""
        files = self.model.files or (self.model.path, *require_inside(self.model.path))
        here = (self.engine.__version__, machine.processor(), machine.int8_units())
        key = key_of(files, (*here, sorted(entries.items()), repr(attached)), self.model.hashes)
        settings, data = self._settings(entries), shelf.read(key)
        if data is not None and b"location" not in data:  # the key of external data, which is never written there
            settings.graph_optimization_level = self.engine.GraphOptimizationLevel.ORT_DISABLE_ALL
            try:
                return self.engine.InferenceSession(data, settings, providers=attached, enable_fallback=0)
            except Exception:  # of another build that calls itself the same
                shelf.drop(key)
                settings = self._settings(entries)
        with tempfile.TemporaryDirectory(prefix="edgekit-") as folder:
            path = Path(folder) / "optimised.onnx"
            settings.optimized_model_filepath = str(path)
            session = self.engine.InferenceSession(
                str(self.model.path), settings, providers=attached, enable_fallback=0
            )
            shelf.write(key, path.read_bytes())
        return session

    def _compile(self, kept: Path, told: Mapping[str, str], entries: Mapping[str, str]) -> None:
        """Write the compiled network, whole or not at all.

        Raises:
            InputError: the folder cannot be written to. EngineError: there is nothing to keep.
        """
        try:
            kept.parent.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=kept.parent).close()
        except OSError as error:
            raise InputError(f"got context='{self.options.context}': it is no folder to write to ({error})") from error
        with tempfile.TemporaryDirectory(prefix="edgekit-", dir=kept.parent) as folder:
            path = Path(folder) / kept.name
            context = {"ep.context_enable": "1", "ep.context_embed_mode": "1", "ep.context_file_path": str(path)}
            settings = self._settings({**entries, **context})
            attached = onnx_devices.attach(self.engine, self.place, settings, told)
            self.engine.InferenceSession(str(self.model.path), settings, providers=attached, enable_fallback=0)
            if not path.is_file():
                raise EngineError(
                    f"{self.place.provider.option} compiled '{self.model.path.name}' and wrote no context"
                )
            path.replace(kept)

    def _key(self, told: Mapping[str, str]) -> str:
        """Of the file, the sizes, the provider with its settings, and the engine: another of them compiles anew."""
        about = (
            sorted(told.items()),
            sorted(self.model.sizes.items()),
            self.place.provider.name,
            self.engine.__version__,
        )
        digest = hashlib.sha256(repr(about).encode())
        for path in (self.model.path, *require_inside(self.model.path, self.model.files)):
            with open(path, "rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()[:16]

    def _settings(self, entries: Mapping[str, str]) -> Any:
        settings = self.engine.SessionOptions()
        settings.log_severity_level = 3 if self.place.provider.name == CPU else QUIET
        settings.intra_op_num_threads = self.threads or 0
        settings.add_session_config_entry("session.intra_op.allow_spinning", str(int(self.options.allow_spinning)))
        if self.options.processors:
            held = ";".join(str(number + 1) for number in self.options.processors)  # the engine counts from 1
            settings.add_session_config_entry("session.intra_op_thread_affinities", held)
        settings.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        for name, value in entries.items():
            settings.add_session_config_entry(name, value)
        if self.place.provider.fixed_sizes:
            for name, size in self.model.sizes.items():
                settings.add_free_dimension_override_by_name(name, size)
        return settings

    def _refuse_options(self) -> None:
        provider, options = self.place.provider, self.options
        if not all(isinstance(word, str) for pair in options.provider_options.items() for word in pair):
            raise InputError(f"got provider_options={dict(options.provider_options)}: names and values are strings")
        if options.context is not None and not provider.compiles:
            raise InputError(f"got context='{options.context}': {provider.option} compiles nothing to be kept")
        if options.inference_precision == "f16" and provider.half is None:
            raise DeviceUnavailable(
                f"{provider.option} computes in the precision that the file has: use a file in fp16, or leave out "
                "inference_precision"
            )
        if provider.exact is None and options.inference_precision == "f32" and self.model.precision == "fp32":
            raise DeviceUnavailable(self._only_half())

    def _only_half(self) -> str:
        return (
            f"{self.place.title} computes float operators in 16 bits: use precision='int8', "
            "or OnnxRuntimeOptions(inference_precision='f16') to have '{}' run so".format(self.model.path.name)
        )

    def _require_all_there(self, session: Any) -> None:
        """Believe the engine's account of each operator, not its list of providers.

        Raises:
            DeviceUnavailable: some run elsewhere, or float ones in 16 bits in a file that did not say it was float.
        """
        given = assigned(session)
        unit = self.place.provider.name.removesuffix("ExecutionProvider")
        elsewhere = {name: count for name, count in given.items() if name.partition(" ")[0] != unit}
        if elsewhere or session.get_providers()[0] != self.place.provider.name:
            raise DeviceUnavailable(self._partly(elsewhere))
        plain = self.place.provider.exact is None and self.options.inference_precision == "f32"
        if plain and self.options.context is None and not precision(given, self.model.precision):
            raise DeviceUnavailable(self._only_half())

    def _explained(self, refused: Exception) -> EdgekitError:
        """Why the engine refused: the device, its operators, or the file."""
        provider, file = self.place.provider, self.model.path.name
        if provider.name != CPU and (why := onnx_devices.obstacle(self.engine, self.place)):
            needs = f"; it needs {provider.needs}" if provider.needs else ""
            return DeviceUnavailable(f"onnxruntime has no {self.device} here: {provider.option}: {why}{needs}")
        if provider.name != CPU and onnx_devices.FALLS_BACK in str(refused):
            with contextlib.suppress(Exception):  # what was refused is told, not what a second look ran into
                loose = replace(self, options=replace(self.options, context=None))._session({})
                free = sorted({str(d) for tensor in loose.get_inputs() for d in tensor.shape if not isinstance(d, int)})
                if free and provider.fixed_sizes:
                    named = ", ".join(f"'{dim}': …" for dim in free)
                    return DeviceUnavailable(
                        f"{self.place.title} needs fixed sizes: open '{file}' with sizes={{{named}}}"
                    )
                return DeviceUnavailable(self._partly({n: c for n, c in assigned(loose).items() if n[:4] == "CPU "}))
        return EngineError(f"onnxruntime cannot open '{file}' on {self.device}: {first_line(refused)}")

    def _partly(self, left: Mapping[str, int]) -> str:
        most = Counter({name.partition(" ")[2]: count for name, count in left.items()}).most_common()
        listed = ", ".join(f"{count} × {kind}" for kind, count in most[:SHOWN])
        more = f" and {len(most) - SHOWN} kinds more" if len(most) > SHOWN else ""
        other = " or another precision" if self.model.precision != "file" else ""
        return (
            f"{self.place.title} cannot run all of '{self.model.path.name}': {listed or 'all of it'}{more} would run on the "
            f"processor: use device='cpu'{other}"
        )


def assigned(session: Any) -> Counter[str]:
    """Operators by unit and kind as the engine gave them to its providers, before it fused them."""
    found: Counter[str] = Counter()
    for group in session.get_provider_graph_assignment_info():
        unit = group.ep_name.removesuffix("ExecutionProvider")
        found.update(f"{unit} {node.op_type}" for node in group.get_nodes())
    return found


def precision(operators: Iterable[str], stated: str) -> str:
    """What products are computed in, by the operators; empty where all is float, as with weights unfolded on opening.

    A product with packed weights tells nothing of their bits, nor a compiled network of anything: what the manifest
    states is taken.
    """
    kinds = {name.partition(" ")[2] for name in operators}
    if "EPContext" in kinds:
        return stated if stated != "fp32" else ""
    if any("MatMulNBits" in kind for kind in kinds):
        return "int4-weights" if stated == "int4-weights" else "int8-dynamic"
    if any("DynamicQuantize" in kind or "MatMulInteger" in kind for kind in kinds):
        return "int8-dynamic"
    return "int8" if any("QuantizeLinear" in kind or "QLinear" in kind for kind in kinds) else ""
