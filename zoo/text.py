"""Characters to text: the corpora, the training that transformer, recurrent and convolution networks share, recipes.

Weights of matrices inside a network are trained with Muon (Jordan et al. 2024: momentum, made orthogonal by
Newton-Schulz steps), all others with AdamW; the averaged weights ship.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from rich.progress import MofNCompleteColumn, Progress
from torch import Tensor, nn

from edgekit import music, registry
from edgekit.bundle import Bundle
from edgekit.errors import InputError
from edgekit.manifest import Task
from edgekit.tensors import Array, TensorSpec
from edgekit.text import State, Vocabulary
from edgekit.zoo import tunes
from edgekit.zoo.ngram import NGram
from edgekit.zoo.recipe import Place, Trained, ZooRecipe, publish
from edgekit.zoo.training import Checkpoint, update_average

if TYPE_CHECKING:
    from edgekit.exporters import Source
    from edgekit.quantization import Quantized

DATA = {
    "tinyshakespeare.txt": "tiny Shakespeare (public domain; compiled by A. Karpathy): the first 90 % to train",
    "nottingham.abc": "Nottingham Music Database (E. Foxley): tunes whose bars add up, of the first 90 %, in several keys",
}
SLICE = 5_000  # held-out characters that every engine and precision is measured on
PAST = 1_024  # characters before a scored one, where the whole held-out text is measured in PyTorch


class LanguageModel(Protocol):
    """What a network of this family offers: one step as `forward`, and `whole` sequences for training."""

    settings: dict[str, int]

    def whole(self, tokens: Tensor) -> Tensor:
        """batch × length int64 → batch × length × vocabulary logits of the character that follows."""

    def states(self) -> tuple[State, ...]:
        """What a step hands to the next."""

    def specs(self) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
        """Inputs and outputs of a step."""


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the trained weights."""

    name: str
    family: str
    network: dict[str, int] = field(default_factory=dict)
    corpus: str = "tinyshakespeare.txt"
    steps: int = 2_000
    horizon: int = 3_500  # steps of the cosine that the learning rate follows
    cool_down: int = 700  # last steps, in which it goes to zero
    batch: int = 16
    length: int = 256
    learning_rate: float = 1.5e-2  # Muon's
    rest_rate: float = 3e-3  # AdamW's, for embeddings, the last layer, norms and biases
    weight_decay: float = 0.1
    dropout: float = 0.1
    warm_up: int = 100
    clip: float = 1.0  # largest norm of the gradient
    ema: float = 0.998
    seed: int = 0


def read_split(data: Path, corpus: str) -> tuple[str, str]:
    """A corpus as (text to train on, text to test with), the last 10 % of it.

    Raises:
        InputError: no such file.
    """
    path = data / corpus
    if not path.is_file():
        raise InputError(f"no '{path}': --data names the folder that holds {corpus}")
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".abc":
        return _read_tunes(text)
    at = int(0.9 * len(text))
    return text[:at], text[at:]


def _read_tunes(abc: str) -> tuple[str, str]:
    """The same of a collection of tunes, in one form, parted by blank lines; those to train on in several keys."""
    collection = music.split(abc)
    at = int(0.9 * len(collection))
    seen, unseen = ([t for abc in part if (t := tunes.taken(abc))] for part in (collection[:at], collection[at:]))
    moved = [tunes.settled(tune, key) for tune in seen for key in tunes.keys_around(tune)]
    return "\n\n" + "\n".join(moved) + "\n", "\n\n" + "\n".join(map(tunes.settled, unseen)) + "\n"


def train(data: Path, runs: Path, recipe: Recipe) -> tuple[nn.Module, Vocabulary]:
    """Train on a corpus of `data`; returns the averaged network. Resumes from its checkpoint in `runs`."""
    torch.manual_seed(recipe.seed)
    text, test = read_split(data, recipe.corpus)
    vocabulary = Vocabulary(sorted(set(text + test)))
    tokens = torch.tensor(vocabulary.encode(text))
    net, average = (network(recipe, len(vocabulary), d) for d in (recipe.dropout, 0.0))
    average.load_state_dict(net.state_dict())
    muon, adam = optimizers(net, recipe)
    parts = {"net": net, "average": average, "muon": muon, "adam": adam}
    checkpoint = Checkpoint(runs / f"{recipe.name}.pt", asdict(recipe), parts)
    done = checkpoint.resume()
    with Progress(*Progress.get_default_columns(), MofNCompleteColumn()) as progress:
        bar = progress.add_task(recipe.name, total=recipe.steps, completed=done)
        for step, batch in windows(tokens, recipe, start=done):
            loss = _step(net, (muon, adam), batch, recipe, step)
            update_average(average, net, step, recipe.ema)
            progress.update(bar, completed=step + 1, description=f"{recipe.name} loss {loss:.3f}")
            if checkpoint.save(step + 1, last=step + 1 == recipe.steps) and not progress.console.is_terminal:
                progress.console.print(f"{recipe.name} step {step + 1} of {recipe.steps}, loss {loss:.3f}")
    return average.eval(), vocabulary


def network(recipe: Recipe, vocabulary: int, dropout: float = 0.0) -> nn.Module:
    """The network of a recipe, untrained."""
    net: nn.Module = registry.find("families", recipe.family)(vocabulary=vocabulary, dropout=dropout, **recipe.network)
    return net


def optimizers(net: nn.Module, recipe: Recipe) -> tuple[torch.optim.Muon, torch.optim.AdamW]:
    """Muon for the matrices between embedding and last layer, AdamW for the rest."""
    matrices: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, parameter in net.named_parameters():
        inner = parameter.ndim == 2 and not name.startswith(("embedding", "head"))
        (matrices if inner else rest).append(parameter)
    decay = recipe.weight_decay
    muon = torch.optim.Muon(matrices, recipe.learning_rate, decay, adjust_lr_fn="match_rms_adamw")
    return muon, torch.optim.AdamW(rest, recipe.rest_rate, betas=(0.9, 0.98), weight_decay=0.0)


def windows(tokens: Tensor, recipe: Recipe, start: int = 0) -> Iterator[tuple[int, Tensor]]:
    """Batches of windows of length + 1 tokens from anywhere in the text; step n is the same in every run."""
    for step in range(start, recipe.steps):
        random = np.random.default_rng((recipe.seed, step))
        first = random.integers(len(tokens) - recipe.length, size=(recipe.batch, 1))
        yield step, tokens[torch.from_numpy(first + np.arange(recipe.length + 1))]


def _step(
    net: nn.Module, optimizers: tuple[torch.optim.Optimizer, ...], batch: Tensor, recipe: Recipe, step: int
) -> float:
    torch.manual_seed(recipe.seed * 1_000_003 + step)  # dropout: the same in a resumed run
    for optimizer, rate in zip(optimizers, (recipe.learning_rate, recipe.rest_rate), strict=True):
        for group in optimizer.param_groups:
            group["lr"] = rate * _share(recipe, step)
    net.train()
    with torch.autocast("cpu", torch.bfloat16):
        logits = net.whole(batch[:, :-1])  # type: ignore[operator]  # a LanguageModel
    loss = F.cross_entropy(logits.float().flatten(0, 1), batch[:, 1:].flatten())
    net.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]  # torch has no hint for it
    nn.utils.clip_grad_norm_(net.parameters(), recipe.clip)
    for optimizer in optimizers:
        optimizer.step()
    return float(loss.detach())


def _share(recipe: Recipe, step: int) -> float:
    """Share of the learning rate: linear warm-up, a cosine, and linear to zero at the end."""
    if step < recipe.warm_up:
        return (step + 1) / recipe.warm_up
    at = (step - recipe.warm_up) / (recipe.horizon - recipe.warm_up)
    cosine = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, at)))
    return cosine * min(1.0, (recipe.steps - step) / recipe.cool_down)


def build(data: Path, recipe: Recipe, place: Place) -> Quantized:
    """The whole recipe: train, export, quantize, measure on the held-out text, write the bundle."""
    net, vocabulary = train(data, place.runs, recipe)
    return publish(recipe.name, trained(net, vocabulary, data, recipe), recipe, place)


def trained(net: nn.Module, vocabulary: Vocabulary, data: Path, recipe: Recipe) -> Trained:
    """A trained network as `publish` takes it."""
    from edgekit.quantization.metrics.text import NatsPerChar

    text, test = read_split(data, recipe.corpus)
    seen = step_inputs(net, vocabulary.encode(text[:2_000]), every=16)
    abc = recipe.corpus.endswith(".abc")
    settings = {
        "vocabulary": list(vocabulary.characters),
        "states": [{f: getattr(s, f) for f in s.__struct_fields__} for s in net.states()],  # type: ignore[operator]
        "context": getattr(net, "context", 0),
        **({"start": "\n\n", "stop": ["\n\n"], "temperature": 0.25, "view": "abc"} if abc else {}),
    }
    parameters = sum(p.numel() for p in net.parameters())
    kind = "Folk tunes in ABC notation" if abc else "Shakespeare's characters"
    return Trained(
        {"model": step_source(net, recipe, seen[31::32])},
        Task("write", settings),
        f"{kind} by a {recipe.family.replace('_', ' ')} network, {parameters:,} parameters",
        DATA[recipe.corpus],
        {"model": seen},
        NatsPerChar(test[:SLICE], f"{recipe.corpus}, {SLICE:,} characters of the last 10 %"),
        max_drop=0.02,
        sheet=sheet,
        figures=lambda bundle: figures(bundle, net, vocabulary, data),
    )


def step_source(net: nn.Module, recipe: Recipe, probes: list[tuple[Array, ...]]) -> Source:
    """The step graph as `export` takes it."""
    from edgekit.exporters import Source

    inputs, outputs = net.specs()  # type: ignore[operator]  # a LanguageModel
    return Source(net, inputs, outputs, tuple(probes), recipe.family, net.settings)  # type: ignore[arg-type]


@torch.no_grad()
def step_inputs(net: nn.Module, tokens: list[int], every: int) -> list[tuple[Array, ...]]:
    """What a step graph gets for every n-th of these tokens, read in order from empty states."""
    from edgekit.runtimes.torch_ import TorchSession
    from edgekit.tasks.write import Reading, WriteSettings

    inputs, outputs = net.specs()  # type: ignore[operator]  # a LanguageModel
    settings = WriteSettings((), net.states(), getattr(net, "context", 0))  # type: ignore[operator]
    reading = Reading(TorchSession(net, inputs, outputs), settings)
    seen = []
    for place, token in enumerate(tokens):
        if place % every == 0:
            seen.append(tuple(a.copy() for a in reading.feeds(token).values()))
        reading.step(token)
    return seen


@torch.no_grad()
def score(net: nn.Module, tokens: Tensor) -> float:
    """Nats per character of a text in PyTorch, each character after up to PAST others or more."""
    total, net = 0.0, net.eval()
    for first in range(0, len(tokens) - 1, PAST):
        start = max(0, first - PAST)
        part = tokens[start : first + PAST + 1]
        logits = net.whole(part[None, :-1])[0, first - start :]  # type: ignore[operator]  # a LanguageModel
        total += float(F.cross_entropy(logits, part[first - start + 1 :], reduction="sum"))
    return total / (len(tokens) - 1)


def figures(bundle: Bundle, net: nn.Module, vocabulary: Vocabulary, data: Path) -> Mapping[str, Any]:
    """Nats and bits a character on the whole held-out text beside n-grams, and for tunes how many add up."""
    from edgekit.quantization.metrics.text import bits

    corpus = (
        "nottingham.abc"
        if bundle.manifest.task and bundle.manifest.task.settings.get("view")
        else "tinyshakespeare.txt"
    )
    text, test = read_split(data, corpus)
    value = score(net, torch.tensor(vocabulary.encode("\n" + test)))
    grams = {order: NGram(text, order, len(vocabulary)).nats_per_char(test) for order in (4, 5, 6, 7)}
    best = min(grams, key=lambda order: grams[order])
    found: dict[str, Any] = {
        "test_nats_per_char": round(value, 4),
        "test_bits_per_char": round(bits(value), 4),
        "test_characters": len(test),
        "ngram_order": best,
        "ngram_nats_per_char": round(grams[best], 4),
        "ngram_bits_per_char": round(bits(grams[best]), 4),
    }
    if corpus.endswith(".abc"):
        real = music.split((data / corpus).read_text(encoding="utf-8"))
        found["real_tunes_that_add_up"] = round(sum(map(music.adds_up, real)) / len(real), 4)
        found["tunes_that_add_up"] = {p: share_of_tunes(bundle, p) for p in ("fp32", "int8")}
    return found


def share_of_tunes(bundle: Bundle, precision: str, count: int = 200) -> float:
    """The share of tunes, drawn with the seeds 0, 1, …, whose bars add up."""
    from edgekit.tasks import load
    from edgekit.tasks.write import TextGenerator

    with load(bundle, "onnxruntime", precision=precision, threads=1) as writer:
        assert isinstance(writer, TextGenerator)
        return sum(music.adds_up(writer.generate("", 3_000, seed=seed)) for seed in range(count)) / count


def sheet(bundle: Bundle) -> str:
    """Samples: the same seeds in fp32 and in int8."""
    from edgekit.tasks import load
    from edgekit.tasks.write import TextGenerator

    parts = []
    for precision in ("fp32", "int8"):
        with load(bundle, "onnxruntime", precision=precision, threads=1) as writer:
            assert isinstance(writer, TextGenerator)
            abc = writer.settings.view == "abc"
            for seed in range(3):
                prompt, count = ("", 3_000) if abc else ("ROMEO:\n", 500)
                parts.append(f"--- {precision}, seed {seed}\n{prompt}{writer.generate(prompt, count, seed=seed)}\n")
    return "\n".join(parts)


GPT = ZooRecipe(
    Recipe("shakespeare-gpt", "transformer", {"width": 192, "layers": 4, "heads": 6, "hidden": 576}, steps=1_800), build
)
GRU = ZooRecipe(Recipe("shakespeare-gru", "recurrent", {"embedding": 32, "hidden": 256}, steps=1_600, batch=32), build)
CNN = ZooRecipe(Recipe("shakespeare-cnn", "causal_convolution", {"width": 128, "blocks": 6}, steps=1_200), build)
FOLK = ZooRecipe(
    Recipe("folk-gru", "recurrent", {"embedding": 32, "hidden": 256}, "nottingham.abc", steps=1_600, batch=32), build
)
