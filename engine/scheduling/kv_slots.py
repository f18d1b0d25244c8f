"""Who may keep how many keys and values, and where: arithmetic over the slots of the KV cache.

A slot holds one token. ``allocate`` may return several ranges, so the KV cache never fragments. Allocation cannot fail,
because work is started only after ``commit`` reserved what its longest path can need (the banker's algorithm): whatever
has started can always be finished, one path after the other.
"""

from __future__ import annotations

from bisect import insort

from engine.ranges import Range, append_range


class KVSlots:
    """Hands out ``capacity`` slots of the KV cache, a slot a token. All ranges are ``(start, length)``."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.clear()

    def clear(self) -> None:
        """Forget everything: the contents of the KV cache are lost."""
        self.committed = 0
        self.used = 0
        self._free: list[Range] = [(0, self.capacity)] if self.capacity else []

    def commit(self, num_slots: int) -> bool:
        """Promise ``num_slots``; False if promises would exceed the KV cache."""
        if self.committed + num_slots > self.capacity:
            return False
        self.committed += num_slots
        return True

    def withdraw(self, num_slots: int) -> None:
        """Take back a promise of ``commit``."""
        self.committed -= num_slots
        assert self.committed >= 0

    def allocate(self, num_slots: int) -> list[Range]:
        """Lowest free slots first, so that the memory touched stays small."""
        assert self.used + num_slots <= self.capacity, "allocated more slots than were committed"
        self.used += num_slots
        taken: list[Range] = []
        while num_slots:
            start, length = self._free[0]
            if length <= num_slots:
                taken.append(self._free.pop(0))
                num_slots -= length
            else:
                taken.append((start, num_slots))
                self._free[0] = (start + num_slots, length - num_slots)
                num_slots = 0
        return taken

    def release(self, ranges: list[Range]) -> None:
        """Give back what ``allocate`` handed out, whole or in parts."""
        for slot_range in ranges:
            self.used -= slot_range[1]
            insort(self._free, slot_range)
        merged: list[Range] = []
        for start, length in self._free:
            append_range(merged, start, length)
        self._free = merged
