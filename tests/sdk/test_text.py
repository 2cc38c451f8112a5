"""Vocabulary, drawing from logits, stop strings."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edgekit.errors import InputError
from edgekit.text import Sampling, Stops, Vocabulary, nats

LOGITS = np.log(np.array([0.5, 0.25, 0.15, 0.1], np.float32))


def drawn(
    sampling: Sampling, logits: np.ndarray = LOGITS, recent: tuple[int, ...] = (), count: int = 4_000
) -> np.ndarray:
    """The share of each token among many draws."""
    random = np.random.default_rng(0)
    picks = [sampling.pick(logits, recent, random) for _ in range(count)]
    return np.bincount(picks, minlength=len(logits)) / count


def test_text_becomes_tokens_and_text_again() -> None:
    vocabulary = Vocabulary("ab\n")
    assert vocabulary.encode("b\na") == [1, 2, 0]
    assert vocabulary.decode([1, 2, 0]) == "b\na"
    assert vocabulary.encode("") == []
    assert len(vocabulary) == 3


def test_unknown_character_is_named_with_its_place() -> None:
    with pytest.raises(InputError, match=r"'é' \(U\+00E9\) at place 2 .* knows 'ab\\n'"):
        Vocabulary("ab\n").encode("abéa")
    with pytest.raises(InputError, match="got bytes"):
        Vocabulary("ab").encode(b"ab")  # type: ignore[arg-type]


def test_draws_follow_the_probabilities() -> None:
    np.testing.assert_allclose(drawn(Sampling(1.0)), [0.5, 0.25, 0.15, 0.1], atol=0.03)


def test_temperature() -> None:
    assert Sampling(0).pick(LOGITS, (), np.random.default_rng(0)) == 0
    squared = np.array([0.5, 0.25, 0.15, 0.1]) ** 2
    np.testing.assert_allclose(drawn(Sampling(0.5)), squared / squared.sum(), atol=0.03)
    assert drawn(Sampling(1e-9))[0] == 1.0
    np.testing.assert_allclose(drawn(Sampling(100.0)), 0.25, atol=0.03)


def test_greedy_draws_no_number() -> None:
    random = np.random.default_rng(3)
    Sampling(0).pick(LOGITS, (), random)
    assert random.random() == np.random.default_rng(3).random()


def test_top_k_and_top_p_cut_off_the_unlikely() -> None:
    np.testing.assert_allclose(drawn(Sampling(1.0, top_k=2)), [2 / 3, 1 / 3, 0, 0], atol=0.03)
    np.testing.assert_allclose(drawn(Sampling(1.0, top_p=0.7)), [2 / 3, 1 / 3, 0, 0], atol=0.03)
    assert drawn(Sampling(1.0, top_p=1e-6))[0] == 1.0
    np.testing.assert_allclose(drawn(Sampling(1.0, top_k=99, top_p=1.0)), drawn(Sampling(1.0)))
    tied = np.zeros(4, np.float32)
    np.testing.assert_allclose(drawn(Sampling(1.0, top_k=2), tied), [0.5, 0.5, 0, 0], atol=0.03)


def test_repetition_penalty_lowers_what_was_said() -> None:
    logits = np.array([2.0, 1.9, -1.0], np.float32)
    assert Sampling(0, repetition_penalty=1.5).pick(logits, [0], np.random.default_rng(0)) == 1
    lowered = Sampling(0, repetition_penalty=2.0).penalised(logits, [0, 2, 0])
    np.testing.assert_allclose(lowered, [1.0, 1.9, -2.0])
    np.testing.assert_allclose(logits, [2.0, 1.9, -1.0])
    assert Sampling(0, repetition_penalty=1.5).pick(logits, [0] + [2] * 64, np.random.default_rng(0)) == 0


def test_huge_logits_do_not_overflow() -> None:
    assert drawn(Sampling(0.01), np.array([1e30, 0, -1e30], np.float32), count=10)[0] == 1.0


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -0.1},
        {"temperature": math.nan},
        {"temperature": math.inf},
        {"temperature": "hot"},
        {"temperature": True},
        {"top_k": 0},
        {"top_k": 1.5},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"top_p": math.nan},
        {"repetition_penalty": 0.0},
        {"repetition_penalty": -1.0},
    ],
)
def test_values_out_of_range_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(InputError, match=f"got {next(iter(wrong))}=.*expected"):
        Sampling(**wrong)  # type: ignore[arg-type]


def passed(stop: str | tuple[str, ...], text: str) -> tuple[str, bool]:
    """What comes through character by character, and whether a stop string was met."""
    stops = Stops(stop)
    out = ""
    for character in text:
        out += stops.pass_on(character)
        if stops.met:
            return out, True
    return out + stops.rest(), False


def test_text_ends_before_the_stop_string() -> None:
    assert passed("END", "abENDcd") == ("ab", True)
    assert passed(("\n\n", "END"), "a\n\nb") == ("a", True)
    assert passed((), "abEND") == ("abEND", False)
    assert passed("aab", "aaab") == ("a", True)
    assert passed("ENDE", "abEND") == ("abEND", False)


def test_what_may_begin_a_stop_string_is_held_back() -> None:
    stops = Stops("END")
    assert stops.pass_on("E") == "" and stops.pass_on("N") == "" and stops.pass_on("x") == "ENx"
    assert not stops.met


@pytest.mark.parametrize("wrong", ["", ("a", ""), (1,)])
def test_empty_stop_strings_are_refused(wrong: object) -> None:
    with pytest.raises(InputError, match="stop"):
        Stops(wrong)  # type: ignore[arg-type]


def test_nats_are_minus_the_logarithm_of_the_probability() -> None:
    assert nats(LOGITS, 0) == pytest.approx(-math.log(0.5))
    assert nats(LOGITS + 1000, 3) == pytest.approx(-math.log(0.1), abs=1e-3)


@pytest.mark.parametrize("decimals", [0, 1, 7])
@pytest.mark.parametrize("spread", [0.01, 2])
@pytest.mark.parametrize(
    "sampling",
    [Sampling(1.0, top_k=3), Sampling(1.0, top_p=0.95), Sampling(0.7, 90, 0.5), Sampling(1.0, top_p=0.0101)],
)
def test_cutting_off_is_what_sorting_all_would_give(sampling: Sampling, spread: float, decimals: int) -> None:
    """Of many tokens, with equals among them, some or all; the first of equals stays."""
    logits = np.random.default_rng(0).normal(0, spread, 1_000).astype(np.float32).round(decimals)
    shares = np.exp((logits.astype(np.float64) - logits.max()) / sampling.temperature)
    for size, kept in ((sampling.top_k, None), (None, sampling.top_p)):
        order = np.argsort(-shares, kind="stable")
        before = np.cumsum(shares[order]) - shares[order]
        if size is not None:
            shares[order[size:]] = 0.0
        if kept is not None:
            shares[order[before >= kept * shares.sum()]] = 0.0
    np.testing.assert_array_equal(sampling.shares(logits), shares)
