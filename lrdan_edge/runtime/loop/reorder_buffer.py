"""The queue between inference and decision: bounded, and in order even if batches finish out of order."""

import threading
from typing import Generic, TypeVar

Item = TypeVar("Item")


class ReorderBuffer(Generic[Item]):
    """Numbered items, taken in the order of their numbers.

    A producer waits while its item is `size` or more ahead of the next one to be taken.
    """

    def __init__(self, size: int, producers: int) -> None:
        """Start empty, for this many producing threads."""
        self._items: dict[int, Item] = {}
        self._changed = threading.Condition()
        self._size, self._producers, self._next = size, producers, 0
        self._abandoned = False

    def put(self, number: int, item: Item, *, wait: bool = True) -> None:
        """Add an item, at once unless `wait`; after `abandon`, it is discarded."""
        with self._changed:
            while wait and number - self._next >= self._size and not self._abandoned:
                self._changed.wait()
            if not self._abandoned:
                self._items[number] = item
                self._changed.notify_all()

    def enter(self) -> None:
        """Note that one more producer adds items."""
        with self._changed:
            self._producers += 1

    def leave(self) -> None:
        """Note that one producer adds no more items."""
        with self._changed:
            self._producers -= 1
            self._changed.notify_all()

    def get(self) -> Item | None:
        """The next item in order; None when all producers have left, or the buffer is abandoned."""
        with self._changed:
            while self._next not in self._items:
                if self._producers == 0 or self._abandoned:
                    return None
                self._changed.wait()
            item = self._items.pop(self._next)
            self._next += 1
            self._changed.notify_all()
            return item

    def abandon(self) -> None:
        """Stop taking items: producers never wait again."""
        with self._changed:
            self._abandoned = True
            self._items.clear()
            self._changed.notify_all()
