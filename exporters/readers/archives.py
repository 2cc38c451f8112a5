"""PyTorch's own files: what one holds, and what opening it would run, told from names, opcodes and JSON alone."""

from __future__ import annotations

import ast
import io
import json
import pickletools
import re
import zipfile
from collections.abc import Iterator, Sequence
from enum import Enum
from pathlib import Path
from typing import IO, Any

import torch

from edgekit.errors import InputError
from edgekit.exporters.proof.places import first_line

ZIP = b"PK\x03\x04"
LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # what torch.save began with before PyTorch 1.6
MAX_JSON_BYTES = MAX_PICKLE_BYTES = 2**28
TENSORS_ONLY = re.compile(
    r"collections OrderedDict|_codecs encode|torch\._utils _rebuild_\w+|torch\._tensor _rebuild\w+|torch\.Size \w+"
    r"|torch \w+|torch\.storage \w+|torch\.nn\.parameter \w+|torch\.serialization _get_layout|__builtin__ set"
)
OPERATOR = re.compile(  # of PyTorch, without those that open files; arithmetic on sizes
    r"torch\.ops\.(aten|prims|higher_order|quantized_decomposed|torchao|torchvision)(\.(?!__|from_file)\w+){1,2}"
    r"|torch\.sym_\w+|math\.[a-z]\w+"
    r"|_operator\.(add|sub|mul|floordiv|truediv|mod|neg|pos|pow|ge|gt|le|lt|eq|ne|and_|or_|not_|getitem|[lr]shift)"
)
PLAIN = re.compile(r"[\w .,+<=/:\[\]-]*")
TREES = {None, "builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict"}
SIZES = {  # what sizes of tensors are written with
    *("Symbol", "Integer", "Float", "Rational", "Add", "Mul", "Pow", "Max", "Min", "Eq", "Ne", "And", "Or", "Not"),
    *("Equality", "Unequality", "StrictGreaterThan", "StrictLessThan", "GreaterThan", "LessThan", "true", "false"),
    *("FloorDiv", "ModularIndexing", "Where", "PythonMod", "Mod", "CleanDiv", "CeilToInt", "FloorToInt", "CeilDiv"),
    *("LShift", "RShift", "PowByNatural", "FloatPow", "FloatTrueDiv", "IntTrueDiv", "TruncToFloat", "TruncToInt"),
    *("RoundToInt", "RoundDecimal", "ToFloat", "Identity", "IsNonOverlappingAndDenseIndicator"),
}
EXPRESSION = (ast.Expression, ast.Call, ast.Name, ast.Load, ast.Constant, ast.keyword, ast.UnaryOp, ast.USub)


class Kind(Enum):
    """What a file of PyTorch holds."""

    PROGRAM = "an exported program"
    SCRIPT = "TorchScript"
    OBJECTS = "pickled objects"
    TENSORS = "tensors"
    OTHER = "something else"


def kind_of(path: Path) -> Kind:
    """What a file holds; nothing of it is loaded."""
    if not path.is_file():
        return Kind.OTHER
    with open(path, "rb") as file:
        head = file.read(len(LEGACY))
    if head == LEGACY:
        return Kind.OBJECTS if classes_in(path) else Kind.TENSORS
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.partition("/")[2] for name in archive.namelist()} | set(archive.namelist())
    except (zipfile.BadZipFile, OSError):
        return Kind.PROGRAM if path.suffix == ".pt2" else Kind.OTHER
    if names & {"archive_format", "serialized_exported_program.json"}:
        return Kind.PROGRAM
    if "constants.pkl" in names:
        return Kind.SCRIPT
    if "data.pkl" in names:
        return Kind.OBJECTS if classes_in(path) else Kind.TENSORS
    return Kind.PROGRAM if path.suffix == ".pt2" else Kind.OTHER


def classes_in(path: Path) -> list[str]:
    """The classes and functions beside tensors that unpickling a file of torch.save would import, by name."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                (name,) = [n for n in archive.namelist() if n.partition("/")[2] == "data.pkl"]
                with archive.open(name) as file:
                    found = set(_globals(file))
        else:
            with open(path, "rb") as file:
                found = {g for _ in range(4) for g in _globals(file)}  # magic number, version, system, the object
    except (ValueError, zipfile.BadZipFile, EOFError, RuntimeError):
        return ["an unreadable pickle"]
    return sorted(name.replace(" ", ".") for name in found if not TENSORS_ONLY.fullmatch(name))


def _globals(file: IO[bytes]) -> Iterator[str]:
    """ "module name" of every global of one pickle, read as opcodes."""
    strings: list[str] = []
    kept: list[str] = []
    for opcode, argument, position in pickletools.genops(file):
        if (position or 0) > MAX_PICKLE_BYTES:
            raise ValueError("too long")
        if opcode.name in ("GLOBAL", "INST"):
            yield str(argument)
        elif opcode.name == "STACK_GLOBAL":  # of protocol 4: its two strings come from the stack, or the memo
            yield " ".join(strings[-2:])
        elif opcode.name == "MEMOIZE":
            kept.append(strings[-1] if strings else "")
        elif opcode.name in ("BINGET", "LONG_BINGET") and int(str(argument)) < len(kept):
            strings.append(kept[int(str(argument))])
        elif isinstance(argument, str):
            strings.append(argument)


def require_plain(path: Path) -> None:
    """Refuse a .pt2 archive that runs anything when it is loaded.

    `torch.export.load` unpickles some records, opens compiled libraries, and puts names and expressions of the
    JSON into Python source. Tensors, operators of PyTorch and sizes made of symbols are all that may be there.

    Raises:
        InputError: names what would be run.
    """
    try:
        records = torch._C.PyTorchFileReader(str(path))  # the reader that torch.export.load itself uses
        names = records.get_all_records()
    except RuntimeError as error:
        raise InputError(f"'{path}' is no readable .pt2 file: {first_line(error)}; save it again") from error
    if "serialized_exported_program.json" in names or "archive_format" not in names:
        raise InputError(f"'{path}' was written by a PyTorch before 2.8: save it again with torch.export.save")
    if any(name.startswith(("data/aotinductor/", "data/executorch/")) for name in names):
        raise InputError(f"'{path}' holds compiled code, which runs on loading: expected one from torch.export.save")
    models = [name for name in names if name.startswith("models/")]
    if models != ["models/model.json"]:
        raise InputError(f"'{path}' holds the models {models}: expected the one of torch.export.save")
    _require_stored(names, path)
    for part, folder in (("weights", "data/weights"), ("constants", "data/constants")):
        _require_no_pickles(_json(records, f"{folder}/model_{part}_config.json", path), path)
    _require_tensors(_record(records, "data/sample_inputs/model.pt", path), path)
    _require_plain_graph(_json(records, "models/model.json", path), "", path)


def _require_stored(names: Sequence[str], path: Path) -> None:
    """Refuse records that are compressed, so that none is longer than the file, and two that one name could mean.

    PyTorch's reader takes no notice of case, and other readers go by another index of the file than it does.

    Raises:
        InputError.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise InputError(f"'{path}' is no readable .pt2 file: {first_line(error)}; save it again") from error
    found = sorted(entry.filename.partition("/")[2] for entry in entries)
    if found != sorted(names) or len({name.lower() for name in found}) != len(found):
        raise InputError(f"'{path}' has several records of one name, or folders: expected those of torch.export.save")
    if any(entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1 for entry in entries):
        raise InputError(f"'{path}' has compressed records, which torch.export.save does not write: save it again")


def _record(records: Any, name: str, path: Path) -> bytes:
    try:
        size = records.get_record_size(name)
        data: bytes = records.get_record(name) if size <= MAX_JSON_BYTES else b""
    except RuntimeError as error:
        raise InputError(f"'{path}' has no readable '{name}': save it again with torch.export.save") from error
    if size > MAX_JSON_BYTES:
        raise InputError(f"'{path}' has {size:,} bytes as '{name}': expected at most {MAX_JSON_BYTES:,}")
    return data


def _json(records: Any, name: str, path: Path) -> dict[str, Any]:
    data = _record(records, name, path)
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InputError(f"'{path}' has no readable '{name}': save it again with torch.export.save") from error
    if not isinstance(content, dict):
        raise InputError(f"'{path}' has {type(content).__name__} as '{name}': expected an object")
    return content


def _require_no_pickles(content: dict[str, Any], path: Path) -> None:
    config = content.get("config")
    if not isinstance(config, dict) or not all(isinstance(entry, dict) for entry in config.values()):
        raise InputError(f"'{path}' does not say how its tensors are kept: save it again with torch.export.save")
    for name, entry in config.items():
        if entry.get("use_pickle") is not False or not re.match(r"(weight|tensor)_\d+\Z", str(entry.get("path_name"))):
            raise InputError(
                f"'{path}': '{name}' is a pickled object, and nothing is unpickled here: keep to plain tensors "
                "(no quantized, sparse or subclassed ones, no script objects) in the module, and export it again"
            )


def _require_tensors(data: bytes, path: Path) -> None:
    try:
        if data:
            torch.load(io.BytesIO(data), weights_only=True)
    except Exception as error:  # torch.load raises unrelated types for what it does not allow
        raise InputError(
            f"'{path}': its example inputs are pickled objects, and nothing is unpickled here: export it again "
            "with tensors, and tuples, lists and dicts of them"
        ) from error


def _require_plain_graph(value: Any, key: str, path: Path) -> None:
    """Walk the JSON of a program: each text is of the kind that its key says, and no text can turn into code."""
    if isinstance(value, dict):
        for name, part in value.items():
            _require(PLAIN.fullmatch(name) is not None, "key", name, path)
            if name not in ("guards_code", "metadata"):  # never run here; notes for people
                _require_plain_graph(part, name, path)
    elif isinstance(value, list):
        for part in value:
            _require_plain_graph(part, key, path)
    elif isinstance(value, str):
        _require(_is_plain(key, value), key, value, path)


def _is_plain(key: str, value: str) -> bool:
    if key in ("name", "as_name", "forward_arg_names", "user_input_name"):
        return value.isidentifier() or not value
    if key in ("target", "as_operator"):
        return OPERATOR.fullmatch(value) is not None
    if key == "expr_str":
        return _is_size(value)
    if key in ("in_spec", "out_spec"):
        return _is_tree(value)
    return key in ("as_string", "as_strings") or PLAIN.fullmatch(value) is not None


def _is_size(text: str) -> bool:
    """Whether it is an expression of symbols, numbers and the functions of SIZES."""
    try:
        nodes = list(ast.walk(ast.parse(text[:100_000], mode="eval")))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    names = {n.id for n in nodes if isinstance(n, ast.Name)}
    words = [n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    called = all(isinstance(n.func, ast.Name) and n.func.id in SIZES for n in nodes if isinstance(n, ast.Call))
    symbols = all(re.fullmatch(r"\w+", name) and not name.startswith("_") for name in names)
    return (
        called
        and symbols
        and all(isinstance(n, EXPRESSION) for n in nodes)
        and all(re.fullmatch(r"[\w.+-]+", word) for word in words)
    )


def _is_tree(text: str) -> bool:
    """Whether it nests tuples, lists and dicts alone."""
    try:
        pending = [json.loads(text)[1]]
        while pending:
            node = pending.pop()
            keys = json.loads(node["context"] or "null") or []
            if node["type"] not in TREES or not all(isinstance(k, (str, int)) for k in keys):
                return False
            if any(isinstance(k, str) and not PLAIN.fullmatch(k) for k in keys):
                return False
            pending += node["children_spec"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return False
    return True


def _require(plain: bool, key: str, value: str, path: Path) -> None:
    if plain:
        return
    if key in ("in_spec", "out_spec"):
        raise InputError(
            f"'{path}' takes or gives an object of its own: expected tensors, and tuples, lists and dicts of them; "
            "wrap the module so, and export it again"
        )
    raise InputError(
        f"'{path}' has {value[:80]!r} as '{key}', which torch.export.save does not write and loading would run: "
        "not loaded"
    )
