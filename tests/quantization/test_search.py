"""The search: as few layers in float as meet the target, within attempts and budget, and why it ended."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from edgekit.quantization.search import Attempt, Limits, Plan, best, search

LAYERS = [f"layer{i}" for i in range(8)]


def needs(count: int) -> Callable[[Plan], float]:
    """Drops of a network that meets 0.5 once its worst `count` layers are in float."""

    def run(plan: Plan) -> float:
        missing = count - sum(layer in plan.kept for layer in LAYERS[:count])
        return 0.1 if missing <= 0 else float(missing)

    return run


def searched(run: Callable[[Plan], float], **limits: float) -> tuple[list[Attempt], str]:
    asked = Limits(**{"max_drop": 0.5, "attempts": 20, **limits})  # type: ignore[arg-type]
    return search(run, Plan(), asked, lambda: LAYERS)


def test_the_first_plan_that_meets_the_target_ends_it() -> None:
    attempts, why = searched(needs(0))
    assert [a.plan for a in attempts] == [Plan()] and not why and attempts[0].met


def test_without_a_target_one_plan_is_tried() -> None:
    attempts, why = search(needs(5), Plan(), Limits(), lambda: LAYERS)
    assert len(attempts) == 1 and attempts[0].met and not why


@pytest.mark.parametrize("count", [1, 2, 3, 5, 6, 7])
def test_finds_the_fewest_layers_that_meet_the_target(count: int) -> None:
    attempts, why = searched(needs(count))
    assert best(attempts).plan.kept == tuple(LAYERS[:count]) and not why
    assert len(attempts) <= 9  # of 8 layers: not one after the other


def test_one_layer_stays_small_even_if_the_target_is_missed() -> None:
    attempts, why = searched(needs(8))
    assert not any(a.met for a in attempts) and "one layer is left" in why
    assert len(best(attempts).plan.kept) == 7


def test_where_no_layer_is_known_to_err_it_says_what_would_tell() -> None:
    attempts, why = search(needs(1), Plan(), Limits(0.5), list)
    assert len(attempts) == 1 and not attempts[0].met and "--calibration" in why


def test_attempts_and_budget_end_it_and_it_says_so() -> None:
    attempts, why = searched(needs(7), attempts=3)
    assert len(attempts) == 3 and why == "3 attempts were made"
    attempts, why = searched(needs(7), budget_s=0.0)
    assert len(attempts) == 1 and "budget of 0 s ran out" in why


def test_a_plan_that_gives_nothing_usable_is_gone_on_from() -> None:
    def run(plan: Plan) -> float:
        return math.inf if not plan.kept else 0.2

    attempts, why = searched(run)
    assert best(attempts).plan.kept == ("layer0",) and not why
    assert not search(lambda plan: math.inf, Plan(), Limits(), list)[0][0].met


def test_the_best_that_missed_is_the_one_that_lost_least() -> None:
    attempts = [
        Attempt(Plan(), 3.0, 0, False),
        Attempt(Plan(("a",)), 1.0, 0, False),
        Attempt(Plan(("b",)), 2.0, 0, False),
    ]
    assert best(attempts).plan.kept == ("a",)
