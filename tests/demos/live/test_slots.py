"""Slots: the latest wins, what nobody took is counted, and a writer that loses nothing waits."""

from __future__ import annotations

import threading
import time

from edgekit.demos.live.slots import Slot, now


def test_the_latest_wins_and_the_rest_is_counted() -> None:
    slot: Slot[str] = Slot()
    for item in ("a", "b", "c"):
        slot.put(item)
    taken = slot.take()
    assert taken is not None and taken.item == "c" and slot.dropped == 2
    assert slot.take(taken.number, 0.01) is None
    slot.put("d")
    newer = slot.take(taken.number)
    assert newer is not None and newer.item == "d" and slot.dropped == 2


def test_two_readers_both_get_it() -> None:
    slot: Slot[str] = Slot()
    slot.put("a")
    assert [taken.item for taken in (slot.take(), slot.take()) if taken] == ["a", "a"]


def test_hand_waits_for_a_reader() -> None:
    slot: Slot[int] = Slot()
    assert slot.hand(1, 0.01) and not slot.hand(2, 0.01)
    threading.Timer(0.05, slot.take).start()
    assert slot.hand(2, 5.0) and slot.dropped == 0


def test_closing_wakes_who_waits_and_leaves_the_last() -> None:
    slot: Slot[int] = Slot()
    threading.Timer(0.05, slot.close).start()
    start = now()
    assert slot.take(0, 30.0) is None and now() - start < 5
    assert not slot.hand(1, 30.0) and slot.closed
    left: Slot[int] = Slot()
    left.put(7)
    left.close()
    taken = left.take(0, 0.0)
    assert taken is not None and taken.item == 7


def test_a_slow_reader_never_sees_what_is_old() -> None:
    """A FIFO would make the age grow with every frame; here it stays below two frames and the reader's own time."""
    slot: Slot[float] = Slot()
    stop = threading.Event()

    def write() -> None:
        while not stop.wait(0.005):
            slot.put(now())

    threading.Thread(target=write).start()
    seen, ages = 0, []
    for _ in range(12):
        taken = slot.take(seen, 1.0)
        assert taken is not None
        seen = taken.number
        ages.append(now() - taken.item)
        time.sleep(0.03)
    stop.set()
    assert sorted(ages)[len(ages) // 2] < 0.02 and slot.dropped > 10
