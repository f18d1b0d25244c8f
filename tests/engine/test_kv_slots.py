"""No slot is handed out twice, and none is forgotten."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from engine.scheduling.kv_slots import KVSlots


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 20)), max_size=60))
def test_slots_are_disjoint_and_come_back(actions: list[tuple[bool, int]]) -> None:
    slots, held = KVSlots(64), []
    for take, size in actions:
        if take and slots.commit(size):
            held.append((size, slots.allocate(size)))
        elif held:
            size, ranges = held.pop(size % len(held))
            slots.release(ranges)
            slots.withdraw(size)
        taken = [slot for _, ranges in held for start, length in ranges for slot in range(start, start + length)]
        assert len(taken) == len(set(taken)) == slots.used == slots.committed
        assert all(0 <= slot < 64 for slot in taken)
    for size, ranges in held:
        slots.release(ranges)
        slots.withdraw(size)
    assert slots.allocate(64) == [(0, 64)]


def test_promises_are_limited_to_the_capacity() -> None:
    slots = KVSlots(10)
    assert slots.commit(6)
    assert not slots.commit(5)
    assert slots.commit(4)
