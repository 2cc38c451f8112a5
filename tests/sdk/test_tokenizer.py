"""Tokenizer: what tokenizer.json files of the usual kinds say, and text that comes in whole characters."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgekit import tokenizer as module
from edgekit.errors import BundleError, InputError
from edgekit.tokenizer import Tokenizer

tokenizers = pytest.importorskip("tokenizers")
TEXTS = ["the cat sat on the mat", "grüße aus köln", "日本語の文字", "two  spaces, “quotes” and 🙂 faces"]


def byte_level(folder: Path) -> Path:
    """As GPT-2, Llama 3 and Qwen have it: bytes, so that a character may be several tokens; a start token."""
    bytes_ = tokenizers.pre_tokenizers.ByteLevel
    engine = tokenizers.Tokenizer(tokenizers.models.BPE())
    engine.pre_tokenizer, engine.decoder = bytes_(add_prefix_space=False), tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=280, special_tokens=["<s>"], initial_alphabet=bytes_.alphabet(), show_progress=False
    )
    engine.train_from_iterator(TEXTS[:1] * 4, trainer)
    engine.post_processor = tokenizers.processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    engine.enable_truncation(4)
    engine.enable_padding(length=32)
    engine.save(str(folder / "bytes.json"))
    return folder / "bytes.json"


def metaspace(folder: Path) -> Path:
    """As Llama 2 has it: ▁ for a space, and single bytes for characters that are no token."""
    pieces = ["<unk>", "<s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *"abcdehimnorstu", "▁the", "▁cat"]
    vocabulary = {piece: token for token, piece in enumerate(dict.fromkeys(pieces))}
    engine = tokenizers.Tokenizer(
        tokenizers.models.BPE(vocabulary, [], unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    engine.normalizer = tokenizers.normalizers.Sequence(
        [tokenizers.normalizers.Prepend("▁"), tokenizers.normalizers.Replace(" ", "▁")]
    )
    parts = tokenizers.decoders
    engine.decoder = parts.Sequence(
        [parts.Replace("▁", " "), parts.ByteFallback(), parts.Fuse(), parts.Strip(" ", 1, 0)]
    )
    engine.save(str(folder / "metaspace.json"))
    return folder / "metaspace.json"


def unigram(folder: Path) -> Path:
    """As T5 has it: scores, and ▁ for a space."""
    engine = tokenizers.Tokenizer(
        tokenizers.models.Unigram(
            [("<unk>", 0.0), ("▁", -2.0), ("▁the", -1.0), ("▁c", -2.5)] + [(c, -3.0) for c in "abcehinost"], 0
        )
    )
    engine.pre_tokenizer, engine.decoder = tokenizers.pre_tokenizers.Metaspace(), tokenizers.decoders.Metaspace()
    engine.save(str(folder / "unigram.json"))
    return folder / "unigram.json"


@pytest.fixture(scope="module", params=[byte_level, metaspace])
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer.load(request.param(tmp_path_factory.mktemp("t")))


def streamed(tokenizer: Tokenizer, tokens: list[int], before: list[int]) -> list[str]:
    stream = tokenizer.stream(before)
    return [*(stream.push(token) for token in tokens), stream.rest()]


@pytest.mark.parametrize("text", TEXTS)
def test_there_and_back(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("text", TEXTS)
def test_a_stream_gives_whole_characters(tokenizer: Tokenizer, text: str) -> None:
    tokens = tokenizer.encode(text, special=False)
    pieces = streamed(tokenizer, tokens, [])
    assert "".join(pieces) == text and not any("\ufffd" in piece for piece in pieces)
    for place in range(1, len(tokens)):
        written = tokenizer.decode(tokens[:place])
        if "\ufffd" not in written:  # a prompt ends with a whole character
            assert written + "".join(streamed(tokenizer, tokens[place:], tokens[:place])) == text


def test_half_a_character_at_the_end_is_left_out(tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode("ab語", special=False)
    assert "".join(streamed(tokenizer, tokens[:-1], [])) == "ab"


def test_bytes_that_are_no_text_do_not_hold_a_stream_up(tokenizer: Tokenizer) -> None:
    """Any tokens at all: every piece but marks of bytes that are no character is in the whole text, in order."""
    draw = random.Random(0)
    tokens = [draw.randrange(len(tokenizer)) for _ in range(300)]
    pieces = streamed(tokenizer, tokens, [])
    stream = tokenizer.stream()
    for token in tokens:
        stream.push(token)
        assert len(stream._held) < module.MAX_HELD and len(stream._before) <= module.MAX_BEFORE
    assert sum(bool(piece) for piece in pieces) > 20


def test_special_tokens(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(byte_level(tmp_path))
    assert tokenizer.encode("the cat") == [0, *tokenizer.encode("the cat", special=False)]
    assert tokenizer.encode("<s>", special=False) == [0] and tokenizer.decode([0]) == ""
    assert tokenizer.token("<s>") == 0 and tokenizer.token("<no>") is None


def test_truncation_and_padding_are_left_aside(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(byte_level(tmp_path))
    assert len(tokenizer.encode(TEXTS[0] * 6)) > 32 and len(tokenizer.encode("the")) < 5


def test_scores(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(unigram(tmp_path))
    assert tokenizer.decode(tokenizer.encode("the cat")) == "the cat" and len(tokenizer) == 14


def test_wrong_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "tokenizer.json"
    whole = json.loads(byte_level(tmp_path).read_text())
    for wrong in ("", "{}", "no json", json.dumps({**whole, "model": {"type": "Pickle"}}), "[" * 100_000):
        path.write_text(wrong)
        with pytest.raises(BundleError, match="is no tokenizer that 'tokenizers' reads"):
            Tokenizer.load(path)
    monkeypatch.setattr(module, "MAX_BYTES", 10)
    with pytest.raises(BundleError, match="a tokenizer has at most 10"):
        Tokenizer.load(byte_level(tmp_path))


@pytest.mark.parametrize("wrong", [3, None, b"ab", ["a"], "a\ud800"])
def test_what_is_no_text_is_refused(tokenizer: Tokenizer, wrong: Any) -> None:
    with pytest.raises(InputError, match="got .* text"):
        tokenizer.encode(wrong)


def test_without_the_package_the_remedy_is_named() -> None:
    code = (
        "import sys; sys.modules['tokenizers'] = None\n"
        "from edgekit.errors import NotInstalled\nfrom edgekit.tokenizer import Tokenizer\n"
        "try: Tokenizer.load('x')\nexcept NotInstalled as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "needs the package 'tokenizers': pip install 'edgekit[text]'" in done.stdout
