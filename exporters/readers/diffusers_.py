"""diffusers: pipelines, from a folder, a hub name or memory, as bundles that draw from a prompt or a class."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.errors import InputError, NotInstalled
from edgekit.exporters.proof.places import first_line
from edgekit.exporters.quiet import quiet
from edgekit.exporters.readers import hub
from edgekit.exporters.readers.parts import Parts, prepared
from edgekit.exporters.readers.reading import Asked, Prepared, Reader
from edgekit.exporters.readers.schedules import require_known

INDEX = "model_index.json"
WEIGHTS = ("*/*.safetensors",)


@dataclass(frozen=True)
class Kind:
    """What a pipeline class is made of: its network, its text encoders with their tokenizers, its autoencoder."""

    network: str
    encoders: tuple[tuple[str, str], ...] = ()
    vae: str | None = "vae"
    steps: int = 50
    guidance: float = 7.5

    @property
    def modules(self) -> tuple[str, ...]:
        """The names of the parts that have weights."""
        return (self.network, *(name for name, _ in self.encoders), *([self.vae] if self.vae else []))

    @property
    def parts(self) -> tuple[str, ...]:
        """The names of all parts that are read, the scheduler apart."""
        return (*self.modules, *(tokenizer for _, tokenizer in self.encoders))


CLIP = (("text_encoder", "tokenizer"),)
KINDS = {
    "DDIMPipeline": Kind("unet", vae=None, guidance=1.0),
    "DDPMPipeline": Kind("unet", vae=None, steps=1000, guidance=1.0),
    "DiTPipeline": Kind("transformer", guidance=4.0),
    "LatentConsistencyModelImg2ImgPipeline": Kind("unet", CLIP, steps=4, guidance=8.5),
    "LatentConsistencyModelPipeline": Kind("unet", CLIP, steps=4, guidance=8.5),
    "PixArtAlphaPipeline": Kind("transformer", CLIP, steps=20, guidance=4.5),
    "StableDiffusionImg2ImgPipeline": Kind("unet", CLIP),
    "StableDiffusionPipeline": Kind("unet", CLIP),
    "StableDiffusionXLImg2ImgPipeline": Kind("unet", (*CLIP, ("text_encoder_2", "tokenizer_2")), guidance=5.0),
    "StableDiffusionXLPipeline": Kind("unet", (*CLIP, ("text_encoder_2", "tokenizer_2")), guidance=5.0),
}
CLASSES = {  # of the parts that are loaded; nothing else is, and no code but that of the two packages
    "AutoencoderKL",
    "AutoencoderTiny",
    "CLIPTextModel",
    "CLIPTextModelWithProjection",
    "CLIPTokenizer",
    "CLIPTokenizerFast",
    "DiTTransformer2DModel",
    "PixArtTransformer2DModel",
    "T5EncoderModel",
    "T5Tokenizer",
    "T5TokenizerFast",
    "Transformer2DModel",
    "UNet2DConditionModel",
    "UNet2DModel",
}
LIBRARIES = ("diffusers", "transformers")
LEFT_OUT = ("safety_checker", "feature_extractor", "image_encoder")


class DiffusersReader(Reader):
    """A pipeline of diffusers: a folder with model_index.json, a hub name, or a DiffusionPipeline in memory."""

    expects = "a diffusers pipeline (a folder with model_index.json, a hub name, or in memory)"

    takes = frozenset({"dynamic"})

    def reads(self, reference: Any) -> bool:
        if any(base.__name__ == "DiffusionPipeline" for base in type(reference).__mro__):
            return True
        folder = hub.described(reference)
        return folder is not None and (folder / INDEX).is_file()

    def read(self, reference: Any, asked: Asked) -> Prepared:
        if asked.task not in (None, "diffuse"):
            raise InputError(f"got the task '{asked.task}' for a diffusers pipeline: it is one of 'diffuse'")
        index: dict[str, Any] = {}
        if isinstance(reference, str | Path):
            index = _index(hub.described(reference) or Path(reference))
            kind_of(index, str(reference))  # before gigabytes are fetched
            _check_scheduler(index, str(reference))
            reference = _loaded(hub.folder(reference, WEIGHTS), index)
        kind = kind_of({"_class_name": type(reference).__name__}, type(reference).__name__)
        have = reference.components
        left = [name for name in LEFT_OUT if have.get(name) is not None or any(index.get(name) or ())]
        return prepared(parts_of(reference, kind, left), asked)


def kind_of(index: Mapping[str, Any], what: str) -> Kind:
    """What a pipeline's index says that it is.

    Raises:
        InputError: a pipeline class, or a class of one of its parts, that is not among those that can be exported.
    """
    name = index.get("_class_name")
    if not isinstance(name, str) or name not in KINDS:
        raise InputError(f"'{what}' is a {name}: of diffusers, {', '.join(KINDS)} can be exported")
    for part in set(KINDS[name].parts) & set(index):
        library, given = index[part] if isinstance(index[part], list) and len(index[part]) == 2 else (None, None)
        if library not in LIBRARIES:
            raise InputError(f"'{what}' has a {part} of '{library}': code beside {' and '.join(LIBRARIES)} is not run")
        _check_class(what, part, given)
    return KINDS[name]


def parts_of(pipeline: Any, kind: Kind, left_out: Sequence[str]) -> Parts:
    """The parts of a pipeline in memory.

    Raises:
        InputError: one is missing, or of a class that cannot be exported.
    """
    have, what = pipeline.components, type(pipeline).__name__
    missing = [name for name in (*kind.parts, "scheduler") if have.get(name) is None]
    if missing:
        raise InputError(f"{what} has no {', '.join(missing)}: load the whole pipeline")
    for name in kind.parts:
        _check_class(what, name, type(have[name]).__name__)
    encoders = tuple((name, have[name], have[tokenizer]) for name, tokenizer in kind.encoders)
    vae = have[kind.vae] if kind.vae else None
    return Parts(pipeline, have[kind.network], encoders, vae, kind.steps, kind.guidance, tuple(left_out))


def _check_class(what: str, part: str, given: object) -> None:
    if given not in CLASSES:
        raise InputError(f"'{what}' has a {part} of class {given}: expected one of {', '.join(sorted(CLASSES))}")


def _check_scheduler(index: Mapping[str, Any], what: str) -> None:
    """Refuse a scheduler that is none of diffusers' own that can be followed, going by the index."""
    given = index.get("scheduler")
    library, kind = given if isinstance(given, list) and len(given) == 2 else (None, None)
    if library != "diffusers":
        raise InputError(f"'{what}' has a scheduler of '{library}': code beside diffusers is not run")
    require_known(kind)


def _index(folder: Path) -> dict[str, Any]:
    try:
        index = json.loads((folder / INDEX).read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"'{folder / INDEX}' cannot be read: {error}") from error
    if not isinstance(index, dict):
        raise InputError(f"'{folder / INDEX}' is no index of a pipeline: expected an object")
    return index


def _loaded(folder: Path, index: Mapping[str, Any]) -> Any:
    """The pipeline of a folder, from safetensors alone; no code of the folder runs, and no network is touched."""
    try:
        with quiet():  # packages that it looks for at import tell of themselves
            from diffusers import DiffusionPipeline
    except ImportError as error:
        raise NotInstalled.named("a diffusers pipeline", "diffusers", "diffusers") from error
    halves = [name for name in kind_of(index, str(folder)).modules if _halved(folder / name)]
    absent = dict.fromkeys(set(LEFT_OUT) & set(index))
    try:
        with quiet():
            return DiffusionPipeline.from_pretrained(
                folder,
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                variant="fp16" if halves else None,
                **absent,
            )
    except Exception as error:  # two libraries, each with its own errors
        raise InputError(f"'{folder}' cannot be loaded as a pipeline: {first_line(error, 1_000)}") from error


def _halved(folder: Path) -> bool:
    """Whether a part's weights lie there in fp16 alone.

    Raises:
        InputError: none lie there that can be read without unpickling.
    """
    names = [path.name for path in folder.glob("*.safetensors")]
    if not names:
        have = ", ".join(sorted(path.name for path in folder.glob("*.bin"))) or "no weights"
        raise InputError(
            f"'{folder}' has {have}: expected safetensors, as nothing is unpickled here; load the pipeline where you "
            "trust it, and save_pretrained(…, safe_serialization=True)"
        )
    return all(".fp16." in name or ".fp16-" in name for name in names)
