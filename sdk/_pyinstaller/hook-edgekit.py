"""PyInstaller's hook for edgekit: what the registry names by string, the bundles, and no converter.

A spec file may choose the bundles that go along; without it, all that ship do:

    Analysis(…, hooksconfig={"edgekit": {"bundles": ["sr-x2"]}})
"""

from __future__ import annotations

import contextlib
from importlib.metadata import PackageNotFoundError
from typing import Any

from PyInstaller.utils.hooks import collect_entry_point, copy_metadata, get_hook_config

from edgekit.bundle import shipped
from edgekit.errors import InputError
from edgekit.profile import ENGINES
from edgekit.registry import TABLES, device_runtimes

# the runtimes import their engines themselves, where they are installed and not excluded
hiddenimports = ["edgekit.zoo"]  # the package alone: the bundles lie in it
hiddenimports += ["edgekit.isolation.worker"]  # what rthooks/pyi_rth_edgekit.py runs in a process of its own
hiddenimports += [
    TABLES["runtimes"][name].partition(":")[0] for name in TABLES["runtimes"] if name in device_runtimes()
]
hiddenimports += [path.partition(":")[0] for path in TABLES["tasks"].values()]

# the host's side, which PyTorch and the converters would follow into the program
excludedimports = ["edgekit.exporters", "edgekit.quantization", "edgekit.runtimes.torch_", "torch", "onnx", "transformers", "diffusers"]  # fmt: skip

datas = []
for _group in ("edgekit.runtimes", "edgekit.tasks"):  # other packages' runtimes and tasks
    _datas, _modules = collect_entry_point(_group)
    datas += _datas
    hiddenimports += _modules
for _engine in ENGINES:  # their versions, which a measured profile names
    if _engine != "torch":
        with contextlib.suppress(PackageNotFoundError):
            datas += copy_metadata(_engine)


def hook(hook_api: Any) -> None:
    """Add the chosen bundles."""
    known = shipped()
    chosen = get_hook_config(hook_api, "edgekit", "bundles")
    unknown = sorted(set(chosen or ()) - set(known))
    if unknown:
        raise InputError(f"hooksconfig names the bundles {unknown}: expected some of {', '.join(known)}")
    for name in known if chosen is None else chosen:
        hook_api.add_datas([(str(known[name]), f"edgekit/zoo/bundles/{name}")])
