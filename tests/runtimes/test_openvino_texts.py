"""Texts whose keys and values OpenVINO keeps in pages: the logits that other engines give with rings, whatever is read how."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exporters.language_models import LLAMA, MODELS, PROMPT, SLIDING, TEXTS, exported, loaded, saved
from msgspec.structs import replace
from sdk.doubles import edit_manifest

import edgekit
from edgekit.bundle import Bundle, golden_sample
from edgekit.errors import EngineError, InputError, SessionClosed, WrongAnswer
from edgekit.runtimes import openvino_, openvino_paged, openvino_texts
from edgekit.runtimes.openvino_ import OpenVinoOptions
from edgekit.runtimes.openvino_session import OpenVinoSession
from edgekit.runtimes.openvino_texts import PagedReading, PagedSession
from edgekit.session import Session
from edgekit.tasks.write import TextGenerator
from edgekit.tasks.write_reading import ChunkReading
from edgekit.text import Memory, State, TextReading

pytest.importorskip("openvino")
pytestmark = pytest.mark.skipif(not openvino_paged.possible(), reason="pages were tried on x86-64 alone")
CONTEXT = 40  # more than a page of 32 tokens
KINDS = {"gpt2": MODELS["gpt2"], "llama": MODELS["llama"], "qwen3": MODELS["qwen3"], "mistral": SLIDING}
SOFT = (
    "Gemma2",
    {**LLAMA, "head_dim": 8, "sliding_window": 6},
)  # scores go through a tanh, for which there is no operator


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Bundle]:
    """The bundle of a kind, exported when it is first asked for."""
    place, made = tmp_path_factory.mktemp("lm"), dict[str, Bundle]()

    def bundle(kind: str) -> Bundle:
        if kind not in made:
            folder = saved(place / kind, *(KINDS | {"gemma2": SOFT})[kind])
            formats = ("onnx", "openvino") if kind == "llama" else ("onnx",)
            made[kind] = exported(folder, place / f"my-{kind}", formats, context=CONTEXT)
        return made[kind]

    return bundle


@pytest.fixture
def llama(bundles: Callable[[str], Bundle]) -> Bundle:
    return bundles("llama")


def tokens_of(count: int) -> list[int]:
    return np.random.default_rng(0).integers(300, size=count).tolist()


def session_of(write: TextGenerator) -> PagedSession:
    session = write._opened(1)
    assert isinstance(session, PagedSession)
    return session


def alike(write: TextGenerator, other: TextGenerator, lengths: tuple[int, ...]) -> None:
    """Both give the same logits after each of so many tokens more."""
    paged, rings, at = write._reading(), other._reading(), 0
    assert isinstance(paged, PagedReading) and isinstance(rings, ChunkReading)
    for length in lengths:
        tokens = tokens_of(sum(lengths))[at : at + length]
        found = paged.read(tokens)
        for token in tokens:  # rings of one engine read single tokens as they read several, within rounding
            wanted = rings.read([token])
        np.testing.assert_allclose(found, wanted, atol=1e-4)
        at += length


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(KINDS))
def test_the_same_logits_as_with_rings(kind: str, bundles: Callable[[str], Bundle]) -> None:
    """Grouped queries, rotary positions, windows; far beyond the context, whose pages are used again."""
    with loaded(bundles(kind), "openvino") as write, loaded(bundles(kind)) as other:
        room = (1, 20, 1, 1, 18, 30, 1, 40) if kind != "gpt2" else (1, 20, 1, 1, 18, 30)  # of 128 positions
        alike(write, other, room)
        assert write.generate(PROMPT, 60, temperature=0, stop=()) == other.generate(PROMPT, 60, temperature=0, stop=())


@pytest.mark.slow
def test_the_file_of_the_format_is_paged_too(llama: Bundle, tmp_path: Path) -> None:
    assert {v.format for v in llama.component().variants} == {"onnx", "openvino"}
    with loaded(llama, "openvino") as write:
        assert write.variant.format == "openvino"
        assert write.info()["why"].endswith("; keys and values stay in the engine's pages")
        assert isinstance(write._reading(), PagedReading)


def test_long_prompts_go_in_chunks(llama: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino_texts, "AT_ONCE", 16)
    with loaded(llama, "openvino") as write, loaded(llama) as other:
        alike(write, other, (50, 16, 17, 1, 100))


def test_pages_are_added_as_they_are_needed(llama: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino_texts, "AT_FIRST", 1)
    with loaded(llama, "openvino") as write, loaded(llama) as other:
        alike(write, other, (3, 40, 1, 60))
        reading = session_of(write).reading(1)
        assert isinstance(reading, PagedReading) and reading.pages[0].shape[0] == 1
        for token in tokens_of(500):
            reading.read([token])
        assert reading.pages[0].shape[0] == 3  # 40 tokens back and the one that is read lie in three pages at most


def test_several_texts_at_once(llama: Bundle) -> None:
    prompts = [PROMPT * 3, "a", TEXTS[1], TEXTS[2], "a"]
    with loaded(llama, "openvino") as write, loaded(llama) as other:
        for options in ({"seed": 5}, {"temperature": 0, "stop": ()}):
            wanted = other.batch(prompts, 40, **options)  # type: ignore[arg-type]
            assert write.batch(prompts, 40, **options) == wanted  # type: ignore[arg-type]
            assert len(set(map(len, wanted))) > 1
        assert write.nats_per_char(TEXTS[1]) == pytest.approx(other.nats_per_char(TEXTS[1]), abs=1e-5)


def test_streams_that_take_turns(llama: Bundle) -> None:
    with loaded(llama, "openvino") as write:
        wanted = [write.generate(prompt, 50, seed=3, stop=()) for prompt in TEXTS]
        streams = [write.stream(prompt, 50, seed=3, stop=()) for prompt in TEXTS]
        found = [""] * len(TEXTS)
        for pieces in zip(*streams, strict=False):
            found = [text + piece for text, piece in zip(found, pieces, strict=True)]
        assert all(w.startswith(f) and len(f) > 20 for w, f in zip(wanted, found, strict=True))
        gone = write.stream(TEXTS[0], 50, seed=3, stop=())
        next(gone)
        del gone, streams  # and with them the arrays that the engine was handed
        assert write.generate(TEXTS[0], 50, seed=3, stop=()) == wanted[0]


def test_run_gives_what_the_file_gives(llama: Bundle) -> None:
    """By way of pages, so that a bundle's golden values say whether these are right."""
    golden = llama.golden()
    with loaded(llama, "openvino") as write:
        session = session_of(write)
        results = session.run({spec.name: golden[spec.name] for spec in session.inputs})
        for name, array in results.items():
            np.testing.assert_allclose(golden_sample(array), golden[name], atol=1e-5)


def test_golden_values_of_a_longer_context_fit_pages(tmp_path: Path) -> None:
    """Their ring is filled up with empty slots: positions would come more than once if it were repeated."""
    bundle = exported(saved(tmp_path / "mistral", *SLIDING), tmp_path / "my-lm", context=200)
    slots = bundle.golden()["slots"]
    assert slots.shape == (1, 200) and sorted(slots[slots != openvino_texts.NOWHERE]) == list(range(5))
    with edgekit.load(bundle, "openvino", check=True) as write:
        assert isinstance(write, TextGenerator) and isinstance(write._reading(), PagedReading)


def test_golden_values_refuse_wrong_pages(llama: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    real = PagedReading.begin
    monkeypatch.setattr(PagedReading, "begin", lambda self, at, columns: real(self, at, [c * 2 for c in columns]))
    with pytest.raises(WrongAnswer, match="does not compute what my-llama is"):
        edgekit.load(llama, "openvino")


def test_other_attention_keeps_its_rings(bundles: Callable[[str], Bundle]) -> None:
    with loaded(bundles("gemma2"), "openvino") as write, loaded(bundles("gemma2")) as other:
        assert isinstance(write._reading(), ChunkReading)
        assert write.generate(PROMPT, 40, temperature=0, stop=()) == other.generate(PROMPT, 40, temperature=0, stop=())


@pytest.mark.parametrize("broken", ["graph", "all"])
def test_what_cannot_be_paged_is_opened_all_the_same(
    broken: str, llama: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another version of the engine may want other inputs for its operator."""

    def fails(*_: Any) -> Any:
        raise RuntimeError("28 inputs expected")

    monkeypatch.setattr(openvino_paged, "_settings" if broken == "graph" else "put_in_pages", fails)
    with loaded(llama, "openvino") as write:
        assert type(write._opened(1)) is OpenVinoSession and isinstance(write._reading(), ChunkReading)
        assert write.generate("a", 5, temperature=0, stop=())


def read_network(bundle: Bundle) -> tuple[Any, tuple[State, ...]]:
    import openvino

    with loaded(bundle) as write:
        return openvino.Core().read_model(next(bundle.folder.glob("*fp32.xml"))), write.settings.states


def wired(network: Any) -> list[tuple[str, list[str]]]:
    return [
        (op.get_friendly_name(), [source.get_node().get_friendly_name() for source in op.input_values()])
        for op in network.get_ordered_ops()
    ]


def swap_distance(network: Any, states: tuple[State, ...]) -> tuple[State, ...]:
    for op in network.get_ordered_ops():
        if op.get_type_name() == "Subtract" and op.output(0).get_partial_shape().rank.get_length() == 3:
            first, second = op.input_value(0), op.input_value(1)
            op.input(0).replace_source_output(second)
            op.input(1).replace_source_output(first)
    return states


def double_keys(network: Any, states: tuple[State, ...]) -> tuple[State, ...]:
    from openvino import opset13

    given = network.output(states[0].output).get_node()
    given.input(0).replace_source_output(opset13.multiply(given.input_value(0), np.float32(2)).output(0))
    return states


def fix_tokens(network: Any, states: tuple[State, ...]) -> tuple[State, ...]:
    network.reshape({"tokens": [-1, 4], "positions": [-1, 4]})
    return states


def see_less_far(network: Any, states: tuple[State, ...]) -> tuple[State, ...]:
    """Not itself: a bound that no window has."""
    from openvino import opset13

    for op in network.get_ordered_ops():
        if op.get_type_name() == "GreaterEqual":
            op.input(1).replace_source_output(opset13.constant(np.array([[[1]]], np.int32)).output(0))
    return states


OTHERS: dict[str, Callable[[Any, tuple[State, ...]], tuple[State, ...]]] = {
    "looks forward": swap_distance,
    "gives other keys than it attends to": double_keys,
    "tokens of a fixed number": fix_tokens,
    "sees only what is behind": see_less_far,
    "fewer states": lambda _, states: states[1:],
    "no states": lambda _, states: (),
    "states of other columns": lambda _, states: (
        replace(states[0], output=states[1].output),
        replace(states[1], output=states[0].output),
        *states[2:],
    ),
    "states of another axis": lambda _, states: tuple(replace(state, axis=1) for state in states),
    "states that are replaced": lambda _, states: tuple(replace(state, kind="replace") for state in states),
}


@pytest.mark.parametrize("kind", list(OTHERS))
def test_another_network_is_left_as_it_was(kind: str, llama: Bundle) -> None:
    network, states = read_network(llama)
    states = OTHERS[kind](network, states)
    before = wired(network)
    assert not openvino_paged.put_in_pages(network, Memory(states, CONTEXT))
    assert wired(network) == before


def test_the_network_of_the_others_is_changed(llama: Bundle) -> None:
    network, states = read_network(llama)
    assert openvino_paged.put_in_pages(network, Memory(states, CONTEXT))
    assert "tokens" in {port.get_any_name() for port in network.inputs} and len(network.outputs) == 1


def test_a_bundle_may_see_less_far_than_its_graph(llama: Bundle, tmp_path: Path) -> None:
    folder = tmp_path / "my-short"
    shutil.copytree(llama.folder, folder)
    edit_manifest(folder, lambda manifest: manifest["task"]["settings"].update(context=9))
    short = Bundle.open(folder)
    with loaded(short, "openvino") as write, loaded(short) as other:
        alike(write, other, (5, 1, 30, 1, 1))


def test_run_wants_positions_that_follow_one_another(llama: Bundle) -> None:
    golden = llama.golden()
    with loaded(llama, "openvino") as write, edgekit.open_session(llama, "onnxruntime") as other:
        session = session_of(write)
        feeds = {spec.name: np.concatenate([golden[spec.name]] * 2) for spec in session.inputs}  # two texts
        with pytest.raises(EngineError, match="expected positions that follow one another"):
            session.run(feeds | {"positions": feeds["positions"] + 20})
        none = feeds["positions"].copy()
        none[0] = openvino_texts.NOWHERE
        found, wanted = (s.run(feeds | {"positions": none})["logits"][1] for s in (session, other))
        np.testing.assert_allclose(found, wanted, atol=1e-4)
        both = list(session.map([feeds, feeds]))  # by way of pages too
        np.testing.assert_array_equal(both[0]["logits"], both[1]["logits"])


def test_ctrl_c_between_two_texts_mixes_nothing_up(llama: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    with loaded(llama, "openvino") as write:
        session, one, same = session_of(write), write._reading(), write._reading()
        tokens = tokens_of(10)
        one.read(tokens)
        wanted = same.read([*tokens, 9])
        one.read([8])  # bound again; then interrupted while another is
        other, again = write._reading(), write._reading()
        real = session._tensor

        def interrupted(*_: Any, **__: Any) -> Any:
            raise KeyboardInterrupt

        monkeypatch.setattr(session, "_tensor", interrupted)
        with pytest.raises(KeyboardInterrupt):
            other.read(tokens)
        monkeypatch.setattr(session, "_tensor", real)
        again.read(tokens)
        np.testing.assert_allclose(again.read([9]), wanted, atol=1e-5)
        again, plain = one.read([9]), write._reading()
        np.testing.assert_allclose(again, plain.read([*tokens, 8, 9]), atol=1e-5)


def test_nothing_is_kept_compiled(llama: Bundle, own_cache: Path) -> None:
    """The engine could not import it again."""
    for _ in range(2):
        with loaded(llama, "openvino") as write:
            assert isinstance(write._reading(), PagedReading)
    assert not (own_cache / "compiled").exists()


def precisions_here() -> tuple[str, ...]:
    """What OpenVINO computes in on this processor."""
    return next(d.precisions for d in edgekit.devices() if (d.runtime, d.name) == ("openvino", "cpu"))


def test_bfloat16_is_kept_in_bfloat16(llama: Bundle) -> None:
    options = OpenVinoOptions(inference_precision="bf16")
    with edgekit.load(llama, "openvino", options=options) as task, loaded(llama) as other:
        assert isinstance(task, TextGenerator)
        session, has = session_of(task), "bf16" in precisions_here()
        assert session.dtypes[0].get_type_name() == ("bf16" if has else "f32")  # as the processor computes
        assert task.nats_per_char(TEXTS[1]) == pytest.approx(other.nats_per_char(TEXTS[1]), abs=0.05)


def test_bfloat16_on_one_thread_is_refused_where_openvino_would_die_of_it(
    llama: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {"threads": 1, "options": OpenVinoOptions(inference_precision="bf16")}
    if "bf16" not in precisions_here():
        with edgekit.load(llama, "openvino", **asked) as write:  # which computes in f32 then
            assert write.placement().precision == "fp32" and write.placement().threads == 1
    monkeypatch.setattr(openvino_, "_computed", lambda core, precision: precision)
    with pytest.raises(InputError, match="take threads=2 or more, or 'f32'"):
        edgekit.load(llama, "openvino", **asked)


def test_rings_are_the_hosts_in_a_process_of_its_own_and_when_a_session_is_asked_for(llama: Bundle) -> None:
    with edgekit.load(llama, "openvino", isolate=True) as write, loaded(llama) as other:
        assert isinstance(write, TextGenerator) and isinstance(write._reading(), ChunkReading)
        assert write.generate("a", 10, temperature=0) == other.generate("a", 10, temperature=0)
    with edgekit.open_session(llama, "openvino") as session:
        assert session.reading(1) is None and not isinstance(session, PagedSession)


def test_closed_and_broken_sessions_say_so(llama: Bundle) -> None:
    write = loaded(llama, "openvino")
    session, reading = session_of(write), write._reading()
    wanted = write.generate(PROMPT, 5, temperature=0, stop=())
    assert isinstance(reading, PagedReading)
    reading.feeds = {}
    reading._lay_out = lambda *_: reading.feeds.update(  # type: ignore[method-assign]
        {name: np.zeros((1, 1), np.float32) for name in ("tokens", "positions", "past_lens", "max_context_len")}
    )
    with pytest.raises(EngineError, match="openvino failed in"):
        reading.read([1])
    assert write.generate(PROMPT, 5, temperature=0, stop=()) == wanted  # the others go on
    write.close()
    for asked in (lambda: session.reading(1), lambda: write("a", 5)):
        with pytest.raises(SessionClosed):
            asked()
    with pytest.raises(SessionClosed):
        reading.read([1])


def test_pages_go_with_their_text(llama: Bundle) -> None:
    with loaded(llama, "openvino") as write:
        session = session_of(write)

        def held() -> int:
            places = [openvino_texts.pages_of(state.input) for state in session.memory.states]
            return max(session._request.get_tensor(name).shape[0] for name in places)

        for _ in range(2):
            wanted = write.generate(PROMPT, 5, temperature=0, stop=())
            assert held() == 1
        stream, other = (write.stream(PROMPT, 5, temperature=0, stop=()) for _ in range(2))
        found = next(stream)
        assert held() > 1
        next(other)
        stream.close()  # of which the engine holds nothing any more
        assert held() > 1
        other.close()
        assert held() == 1 and wanted.startswith(found)
        write.batch([PROMPT, "a"], 5)
        write.nats_per_char(TEXTS[1])
        assert held() == 1


def test_a_stream_whose_task_is_closed_says_so(llama: Bundle) -> None:
    for runtime in ("openvino", "onnxruntime"):
        with loaded(llama, runtime) as write:
            stream = write.stream(PROMPT, 50, stop=())
            next(stream)
        with pytest.raises(SessionClosed, match=r"was closed: load it again with edgekit\.load"):
            list(stream)


def test_calibration_sees_what_a_plain_session_is_given(llama: Bundle, tmp_path: Path) -> None:
    """Of a bundle that has OpenVINO files alone."""
    from edgekit.quantization.calibration import _Kept, _watched

    with loaded(llama, "openvino") as write:
        kept: dict[str, _Kept] = {}
        with _watched(write, kept):
            write.generate(PROMPT, 5, temperature=0)
        assert {len(arrays) for arrays in kept["model"].inputs} == {len(llama.component().inputs)}
        assert isinstance(write._reading(), TextReading) and isinstance(write._opened(1), Session)
        assert isinstance(write._reading(), PagedReading)


def test_the_networks_part_of_a_text_is_measured(llama: Bundle) -> None:
    """As `edgekit bench` does, whose sessions are listened to."""
    from edgekit.benchmarks.sampling import staged

    with loaded(llama, "openvino") as write:
        parts = staged(write, lambda: write.generate("a", 20, temperature=0, stop=()), 0.05)
        assert parts and all(model > 0 for _, model, _ in parts)
        assert "read_all" not in vars(write._reading())
