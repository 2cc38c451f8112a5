"""The text family: steps equal whole sequences, training resumes, n-grams, tunes in one form, and the bars."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgekit import bundle as bundles
from edgekit import music
from edgekit.bundle import Bundle
from edgekit.errors import InputError
from edgekit.quantization.metrics.text import NatsPerChar, bits
from edgekit.text import Vocabulary
from edgekit.zoo import text, tunes
from edgekit.zoo.causal_convolution import ConvolutionStep
from edgekit.zoo.ngram import NGram
from edgekit.zoo.recurrent import RecurrentStep
from edgekit.zoo.text import Recipe, read_split, score, train, windows
from edgekit.zoo.transformer import TransformerStep

NETS: dict[str, Callable[[], nn.Module]] = {
    "transformer": lambda: TransformerStep(10, width=16, layers=2, heads=2, hidden=16, context=8),
    "recurrent": lambda: RecurrentStep(10, embedding=8, hidden=16, layers=2),
    "causal_convolution": lambda: ConvolutionStep(10, width=16, blocks=3),
}
TINY = Recipe("tiny", "recurrent", {"embedding": 8, "hidden": 16}, steps=6, batch=2, length=16, warm_up=2, cool_down=2)
VERSE = "To be, or not to be, that is the question:\n" * 40
NAMES = ("shakespeare-gpt", "shakespeare-gru", "shakespeare-cnn", "folk-gru")
JIG = 'X:7\nT:The Test (of 1999)\nR:Jig\nM:6/8\nK:G\nd|"G"B3 "D/f+"^c>d=f | g5 :|\nA | B,6 | z3 F2 A |]\n'


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Steps as small as these take many times as long when several threads share them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def verse(tmp_path: Path) -> Path:
    (tmp_path / "tinyshakespeare.txt").write_text(VERSE)
    return tmp_path


def filled(family: str) -> nn.Module:
    """A network with random weights where training begins with zeros."""
    torch.manual_seed(0)
    net = NETS[family]()
    for parameter in net.parameters():
        if parameter.ndim == 2:
            nn.init.normal_(parameter, std=0.4)
    return net.eval()


@torch.no_grad()
def stepped(net: nn.Module, tokens: list[int]) -> torch.Tensor:
    """Logits of each step, from the feeds that the task makes: length × vocabulary."""
    feeds = text.step_inputs(net, tokens, every=1)
    return torch.cat([net(*(torch.from_numpy(a) for a in arrays))[0] for arrays in feeds])


@pytest.mark.parametrize("family", list(NETS))
def test_steps_equal_the_whole_sequence(family: str) -> None:
    """60 characters: more than the ring of the cache and the buffers hold."""
    net = filled(family)
    tokens = torch.randint(0, 10, (1, 60))
    with torch.no_grad():
        whole = net.whole(tokens)[0]  # type: ignore[operator]
    assert whole.std() > 0.1
    torch.testing.assert_close(stepped(net, tokens[0].tolist()), whole, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", list(NETS))
def test_no_character_sees_the_next(family: str) -> None:
    net = filled(family)
    tokens = torch.randint(0, 10, (1, 30))
    changed = tokens.clone()
    changed[0, 20] = (changed[0, 20] + 1) % 10
    with torch.no_grad():
        one, other = net.whole(tokens), net.whole(changed)  # type: ignore[operator]
    assert torch.equal(one[:, :20], other[:, :20]) and not torch.equal(one[:, 20:], other[:, 20:])


def test_score_of_a_long_text_is_that_of_its_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "PAST", 24)  # two layers of eight characters each see 16 back
    net, tokens = filled("transformer"), torch.randint(0, 10, (100,))
    truth = nn.functional.cross_entropy(stepped(net, tokens[:-1].tolist()), tokens[1:])
    assert score(net, tokens) == pytest.approx(float(truth), abs=1e-5)


def test_corpus_is_split(verse: Path) -> None:
    seen, unseen = read_split(verse, "tinyshakespeare.txt")
    assert seen + unseen == VERSE and len(unseen) == len(VERSE) // 10
    with pytest.raises(InputError, match="--data"):
        read_split(verse, "nottingham.abc")


def test_windows_are_the_same_in_every_run() -> None:
    tokens = torch.arange(100)
    first = [batch for _, batch in windows(tokens, TINY)]
    again = [batch for _, batch in windows(tokens, TINY, start=4)]
    assert torch.equal(torch.stack(first[4:]), torch.stack(again))
    assert first[0].shape == (2, 17) and torch.equal(first[0][:, 1:], first[0][:, :-1] + 1)


class Stopped(Exception):
    """An interruption."""


def test_training_resumes_where_it_stopped(verse: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = replace(TINY, dropout=0.0)
    whole, vocabulary = train(verse, verse / "one", recipe)
    assert "".join(vocabulary.characters) == "".join(sorted(set(VERSE)))
    step = text._step
    monkeypatch.setattr(text.Checkpoint, "every_s", 0.0)

    def breaking(*given: object) -> float:
        if given[-1] == 4:
            raise Stopped
        return step(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(text, "_step", breaking)
    with pytest.raises(Stopped):
        train(verse, verse / "two", recipe)
    monkeypatch.setattr(text, "_step", step)
    resumed, _ = train(verse, verse / "two", recipe)
    for one, other in zip(whole.parameters(), resumed.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)
    with pytest.raises(InputError, match="another recipe"):
        train(verse, verse / "two", replace(recipe, seed=1))


@pytest.mark.parametrize("family", list(NETS))
def test_training_learns(verse: Path, family: str) -> None:
    """A verse that repeats is half known after 40 steps; an untrained network gives ln 19 = 2.9 nats."""
    small = {"transformer": {"width": 32, "layers": 1, "heads": 2, "hidden": 32}, "recurrent": {"hidden": 32}}
    network = small.get(family, {"width": 32, "blocks": 3})
    recipe = replace(TINY, family=family, network=network, steps=40, batch=8, length=48, cool_down=15)
    net, vocabulary = train(verse, verse / "runs", recipe)
    assert score(net, torch.tensor(vocabulary.encode(VERSE[:500]))) < 2.0


def test_ngrams_are_probabilities() -> None:
    model = NGram("abracadabra", 3, 5)
    for context in ("", "a", "ab", "zz", "abr"):
        assert sum(model.probability(context, c) for c in "abrcd") == pytest.approx(1.0)
    assert model.probability("ab", "r") > 0.5 > model.probability("ab", "a")


def test_ngrams_of_one_order_are_counts() -> None:
    assert NGram("aaab", 1, 2).probability("", "a") == pytest.approx((3 - 0.5 + 1.0 * 0.5) / 4, abs=0.13)


def test_ngrams_match_known_text() -> None:
    seen, unseen = VERSE[:-200], VERSE[-200:]
    assert NGram(seen, 5, 19).nats_per_char(unseen) < 0.2 < NGram(seen, 2, 19).nats_per_char(unseen)


def test_a_tune_in_one_form() -> None:
    expected = 'X:1\nT:The Test of\nM:6/8\nL:1/8\nK:G\nd|"G"B3"D"^c>d=f|g5:|\nA|B,6|z3F2A||\n\n'
    assert tunes.settled(music.parse(JIG)) == expected


def test_a_tune_moved_to_other_keys_is_the_same_tune() -> None:
    own = music.parse(JIG)
    for key in tunes.keys_around(own):
        moved = music.parse(tunes.settled(own, key))
        pairs = [
            (p, q)
            for one, other in zip(own.played(), moved.played(), strict=True)
            for n, m in zip(one.notes, other.notes, strict=True)
            for p, q in zip(n.pitches, m.pitches, strict=True)
        ]
        assert moved.key == key and len({p - q for p, q in pairs}) == 1
    assert list(tunes.keys_around(own)) == ["G", "F", "C", "D", "A"]


def test_lengths_become_eighths() -> None:
    tune = music.parse("X:1\nM:4/4\nL:1/4\nK:C\nC/D/E2F | z2 G3/2A/ |]\n")
    assert tunes.settled(tune).endswith("CDE4F2|z4G3A||\n\n")


def test_tunes_that_are_not_taken() -> None:
    for abc in ("nonsense", JIG.replace("g5", "g4"), JIG.replace("B,6 |", "B,6 |\nM:4/4\n")):
        assert tunes.taken(abc) is None
    assert tunes.taken(JIG) == music.parse(JIG)


def test_collection_is_split_by_tune(tmp_path: Path) -> None:
    names = "abcdefghij"
    (tmp_path / "nottingham.abc").write_text("\n\n".join(JIG.replace("The", name) for name in names))
    seen, unseen = read_split(tmp_path, "nottingham.abc")
    assert (seen.count("X:1\n"), unseen.count("X:1\n")) == (9 * 5, 1)
    assert "T:j" in unseen and "T:j" not in seen
    assert all(map(music.adds_up, music.split(seen)))


def test_bits() -> None:
    assert bits(math.log(2)) == pytest.approx(1.0)


def shipped(name: str) -> Bundle:
    if name not in bundles.shipped():
        pytest.skip(f"{name} is not shipped")
    return Bundle.open(name)


@pytest.mark.parametrize("name", NAMES)
def test_bars_are_met_by_every_file(name: str) -> None:
    """As measured when the bundle was made, on 5,000 held-out characters in every engine."""
    bundle = shipped(name)
    rows = [v.quality for v in bundle.component().variants if v.quality is not None]
    assert {v.format for v in bundle.component().variants if v.precision == "int8"} >= {"onnx", "tflite"}
    assert all(q.metric == "nats_per_char" and q.drop <= 0.02 for q in rows) and len(rows) >= 3
    figures = bundle.manifest.provenance["figures"]
    limits = {
        "shakespeare-gpt": (1.60, 1_600_000),
        "shakespeare-gru": (1.75, 260_000),
        "shakespeare-cnn": (1.75, 450_000),
    }
    nats, parameters = limits.get(name, (2.0, 260_000))
    assert figures["test_nats_per_char"] <= nats
    assert bundle.manifest.provenance["parameters"] <= parameters
    if name == "folk-gru":
        assert min(figures["tunes_that_add_up"].values()) >= 0.8


@functools.cache
def unseen(data: Path, corpus: str) -> str:
    """The held-out text; the tunes take seconds to be brought into one form."""
    return read_split(data, corpus)[1]


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("name", NAMES)
def test_quality_is_measured_again(name: str, precision: str, data: Path) -> None:
    """1,000 held-out characters, through the step graph."""
    bundle = shipped(name)
    corpus = bundle.manifest.provenance["settings"]["corpus"]
    metric = NatsPerChar(unseen(data, corpus)[:1_000], "a slice")
    value = metric.value(bundle, "onnxruntime", precision)
    assert value <= 1.60 if name == "shakespeare-gpt" else value <= 1.75
    assert metric.drop(value, value - 0.5) == pytest.approx(0.5)  # lower is better


@pytest.mark.parametrize("name", NAMES)
def test_weights_give_what_the_files_give(name: str) -> None:
    """The shipped PyTorch weights, step by step, against the ONNX file."""
    pytest.importorskip("onnxruntime")
    import edgekit

    bundle = shipped(name)
    with edgekit.load(bundle, "torch") as one, edgekit.load(bundle, "onnxruntime", precision="fp32") as other:
        sample = other.generate("", 60, temperature=0)
        assert one.generate("", 60, temperature=0) == sample
        assert one.nats_per_char(sample) == pytest.approx(other.nats_per_char(sample), abs=1e-4)


def test_vocabulary_is_what_the_corpus_holds(data: Path) -> None:
    seen, unseen = read_split(data, "tinyshakespeare.txt")
    assert len(Vocabulary(sorted(set(seen + unseen)))) == 65
    assert np.array_equal(np.unique(list(seen + unseen)), sorted(set(seen + unseen)))
